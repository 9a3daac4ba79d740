"""The queue at work: one song after the other to the worker, and word of it to every page that listens."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import to_dict
from ..progress import printable
from ..staging import remove_abandoned
from . import downloads, places
from .store import Song, Store

__all__ = ["Jobs"]

WORKER = [sys.executable, "-m", "deepsep.app.worker"]
PATIENCE = 3.0  # seconds that a cancelled song has to stop by itself, and the worker at the end
LATER = 10.0  # seconds until the store is tried again
LINE = 1 << 20  # bytes of a line from the worker

Message = dict[str, Any]


class Jobs:
    """The songs of one folder and the process that separates them.

    `view` is what pages know of a song. Whoever `listens` gets {"songs": [all]} after a song was added, moved or
    removed, {"song": one} after it changed, and None at the end.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.folder = store, folder
        self.pages: set[asyncio.Queue[Message | None]] = set()
        self.work = asyncio.Event()
        self.worker: asyncio.subprocess.Process | None = None
        self.live: dict[str, Any] = {}  # of the running song: what is in no store
        self.paces: dict[tuple[Any, ...], float] = {}  # seconds of work for a second of a song, by wishes
        self.unkept: dict[str, Song] = {}  # as they are, where the store could not take it yet
        for song in store.songs():
            if song.state == "running":
                song.state = "waiting"
                self.clear(song)
                self.settle(song)
            elif song.state == "done":
                self.note_pace(song)

    # --- what pages do -------------------------------------------------------------------------------------

    def view(self, song: Song) -> Message:
        """A song as pages know it."""
        live = self.live if self.live.get("id") == song.id else {}
        pace = self.paces.get(pace_key(song))
        return {
            "id": song.id, "label": song.label, "state": song.state, "seconds": song.seconds, "error": song.error,
            "wishes": to_dict(song.wishes), "done": live.get("done", 0.0), "phase": live.get("phase", ""),
            "left": live.get("left"), "expected": pace and pace * song.seconds,
            "ready": live.get("ready", 0), "drawn": live.get("drawn", 0),
            "files": [*song.result.get("files", {})],
            "took": song.result.get("took"), "notes": song.result.get("notes", []),
            "stem_file": downloads.may_be_stem_file(song),
        }  # fmt: skip

    def songs(self) -> list[Song]:
        """All songs as they are, the first to be separated first."""
        return [replace(self.unkept.get(song.id, song)) for song in self.store.songs()]

    def song(self, id: str) -> Song | None:
        """One song as it is."""
        song = self.store.song(id)
        return song and replace(self.unkept.get(id, song))

    def views(self) -> list[Message]:
        """All songs as pages know them."""
        return [self.view(song) for song in self.songs()]

    @contextmanager
    def listen(self) -> Iterator[asyncio.Queue[Message | None]]:
        """Within, the result gets every message."""
        inbox: asyncio.Queue[Message | None] = asyncio.Queue(10000)
        self.pages.add(inbox)
        try:
            yield inbox
        finally:
            self.pages.discard(inbox)

    def tell(self, message: Message | None) -> None:
        """Send every page a message; a page that takes none is given up, and asks again."""
        for inbox in [*self.pages]:
            try:
                inbox.put_nowait(message)
            except asyncio.QueueFull:
                self.pages.discard(inbox)

    def keep(self, song: Song) -> None:
        """Put in the store what became of a song. Raises sqlite3.Error, such as for a full disk."""
        self.store.change(song)
        self.unkept.pop(song.id, None)

    def changed(self, song: Song) -> None:
        """Keep what became of a song, and tell the pages. Raises sqlite3.Error as `keep` does."""
        self.keep(song)
        self.tell({"song": self.view(song)})

    def settle(self, song: Song) -> None:
        """The same, but where the store cannot take it, remember it, to try again later."""
        try:
            self.keep(song)
        except sqlite3.Error as error:
            self.unkept[song.id] = replace(song)
            complain(f"{song.label}: that it is {song.state} cannot be kept ({error}); tried again later")
        self.tell({"song": self.view(song)})

    def keep_late(self) -> None:
        """Try again to keep what the store could not take."""
        with suppress(sqlite3.Error):
            for song in [*self.unkept.values()]:
                self.keep(song)

    def add(self, song: Song) -> None:
        """Put a song in the queue."""
        self.store.add(song)
        self.tell({"songs": self.views()})
        self.work.set()

    async def cancel(self, song: Song) -> None:
        """Take a song out of the queue, or stop it unless its files are being written; it stays in the list."""
        if song.state == "running" and self.live.get("phase") not in ("writing", "stopping"):
            self.live["phase"] = "stopping"
            self.tell({"song": self.view(song)})
            await self.send({"cancel": song.id})
            self.live["stopper"] = asyncio.get_running_loop().call_later(PATIENCE, self.kill, song.id)
        elif song.state == "waiting":
            song.state = "cancelled"
            self.changed(song)

    def retry(self, song: Song) -> None:
        """Put a song at the end of the queue again."""
        if song.state in ("failed", "cancelled"):
            self.clear(song)
            song.state, song.error, song.result = "waiting", "", {}
            self.keep(song)
            self.store.to_end(song.id)
            self.tell({"songs": self.views()})
            self.work.set()

    def remove(self, song: Song) -> None:
        """Forget a song that is not running, and what was kept of it; its results stay."""
        if song.state != "running":
            self.store.remove(song.id)
            self.unkept.pop(song.id, None)
            shutil.rmtree(places.home(self.folder, song), ignore_errors=True)
            self.tell({"songs": self.views()})

    # --- the worker ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Separate what waits, until cancelled. What goes wrong with a song is told, and ends that song alone."""
        try:
            with suppress(OSError):  # the first song says it
                await self.start()
            while True:
                self.work.clear()
                self.keep_late()
                song = next((song for song in self.songs() if song.state == "waiting"), None)
                if song is not None:
                    await self.separate(song)
                else:
                    with suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(self.work.wait(), LATER if self.unkept else None)
        finally:
            await self.stop()
            self.keep_late()

    async def start(self) -> asyncio.subprocess.Process:
        """The worker, started unless it runs; loading torch takes it some seconds."""
        if self.worker is None or self.worker.returncode is not None:
            self.worker = await asyncio.create_subprocess_exec(
                *WORKER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LINE,
                env=environment(), cwd=places.state(self.folder),
            )  # fmt: skip
        return self.worker

    async def send(self, order: Message) -> None:
        """Send the worker an order; one that has ended is noticed where its events are read."""
        if self.worker and self.worker.stdin:
            with suppress(OSError):
                self.worker.stdin.write(json.dumps(order).encode() + b"\n")
                await self.worker.stdin.drain()

    async def separate(self, song: Song) -> None:
        """Have one song separated; where anything goes wrong on this side of the worker, it has failed."""
        try:
            self.begin(song)
            await self.follow(song)
        except Exception as error:
            song.state, song.error = "failed", f"deepsep app went wrong ({error!r}); try it again"
            if isinstance(error, (OSError, sqlite3.Error)):
                song.error = f"{error}; make room on the disk, and try it again"
            complain(f"{song.label} has failed: {song.error}")
        if stopper := self.live.get("stopper"):
            stopper.cancel()
        self.live = {}
        if song.state != "done":
            self.clear(song)
        self.settle(song)

    async def follow(self, song: Song) -> None:
        """Give the worker a song, and hear of it until it is done, has failed or is cancelled."""
        worker = await self.start()
        order = {
            "id": song.id, "label": song.label, "wishes": to_dict(song.wishes), "folder": str(self.folder),
            "source": str(places.upload(self.folder, song)), "sounds": str(places.sounds(self.folder, song)),
        }  # fmt: skip
        await self.send({"separate": order})
        try:
            while song.state == "running":
                line = await worker.stdout.readline() if worker.stdout else b""
                if not line:
                    await worker.wait()
                    self.ended(song)
                    break
                event = json.loads(line)
                if event["id"] == song.id:
                    self.hear(song, event)
        except Exception:
            self.kill(song.id)  # it is not waited for any more
            await worker.wait()
            raise

    def begin(self, song: Song) -> None:
        """Note that a song's turn has come."""
        song.state = "running"
        self.clear(song)
        self.live = {"id": song.id, "phase": "loading"}
        self.changed(song)

    def hear(self, song: Song, event: Message) -> None:
        """Take an event of the running song."""
        kind, live = event["event"], self.live
        if kind == "began":
            song.seconds = event["seconds"]
            live["phase"] = "reading"
            if pace := self.paces.get(pace_key(song)):
                live["left"] = pace * song.seconds
        elif kind == "progress":
            now, done = time.monotonic(), event["done"]
            ends = done >= song.seconds * (1 - 1e-9)
            live["done"] = done
            if live["phase"] != "stopping":
                live["phase"] = "writing" if ends else "separating"
            since, first = live.setdefault(
                "first", (now, done)
            )  # the first part took longer: the song was read
            if done > first:
                live["left"] = (now - since) * (song.seconds - done) / (done - first)
        elif kind == "ready":
            live["ready"] = event["ready"]
        elif kind == "drawn":
            live["drawn"] = live.get("drawn", 0) + 1
        elif kind == "done":
            song.state, song.result = "done", event["result"]
            self.note_pace(song)
        elif kind == "failed":
            song.state, song.error = "failed", event["error"]
        elif kind == "cancelled":
            song.state = "cancelled"
        if song.state == "running":
            self.tell({"song": self.view(song)})

    def ended(self, song: Song) -> None:
        """The worker has ended in the middle of a song."""
        if self.live.get("phase") == "stopping":
            song.state = "cancelled"
        else:
            song.state = "failed"
            song.error = (
                "the process that separates ended by itself; the memory may be too small for this song"
            )

    def kill(self, id: str) -> None:
        """End a worker that does not stop a cancelled song; the next one loads the model again."""
        if self.live.get("id") == id and self.worker and self.worker.returncode is None:
            self.worker.kill()

    async def stop(self) -> None:
        """End the worker and the pages' streams."""
        self.tell(None)
        if self.worker and self.worker.returncode is None:
            if self.worker.stdin:
                self.worker.stdin.close()
            try:
                await asyncio.wait_for(self.worker.wait(), PATIENCE + 1)
            except asyncio.TimeoutError:
                self.worker.kill()
                await self.worker.wait()

    # --- on the disk -----------------------------------------------------------------------------------------

    def clear(self, song: Song) -> None:
        """Remove what an attempt left: the player's sound, and a killed worker's hidden files."""
        shutil.rmtree(places.sounds(self.folder, song), ignore_errors=True)
        remove_abandoned(self.folder)
        results = self.folder / song.track
        with suppress(OSError):
            for folder in (*results.glob("sample-*"), results):
                remove_abandoned(folder)
                with suppress(OSError):
                    folder.rmdir()  # only if it is empty

    def note_pace(self, song: Song) -> None:
        """Remember how fast a song went, to say how long others like it will take."""
        if song.seconds and song.result.get("took"):
            self.paces[pace_key(song)] = song.result["took"] / song.seconds


def complain(line: str) -> None:
    """Say on stderr what nobody may be looking at a page for."""
    with suppress(OSError):
        print(printable(f"deepsep app: {line}"), file=sys.stderr, flush=True)


def pace_key(song: Song) -> tuple[Any, ...]:
    """What a song's speed depends on."""
    return song.wishes.priors, song.wishes.method, song.wishes.samples, song.wishes.uncertainty


def environment() -> dict[str, str]:
    """The worker's environment: it finds this very package from any folder."""
    above = str(Path(__file__).parents[2])
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([above, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
