"""What the server answers: the page, the queue and its events, the player's sound, downloads."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial, wraps
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from .. import __version__
from ..audio.files import probe
from ..config import parse_json
from ..errors import DeepsepError
from ..output.report.player import asset, fill
from . import downloads, places, uploads, wishes
from .guard import Guard
from .jobs import Jobs
from .places import PLAYER, piece_name
from .store import Song, Store

__all__ = ["build"]

HEARTBEAT = 15.0  # seconds between signs of life, so that both ends notice a broken line

Answer = Callable[[Request], Awaitable[Response]]


def build(
    folder: Path,
    *,
    host: str,
    port: int,
    on_ready: Callable[[str], None] | None = None,
    on_end: Callable[[BaseException], None] | None = None,
) -> Starlette:
    """The application over a folder, whose parent may be missing.

    `on_ready` gets the token when all is up, `on_end` why the queue has ended by itself: the server should end then.
    Raises DeepsepError for a folder, or a list of songs in it, that cannot be used.
    """
    places.prepare(folder)
    path = places.state(folder) / "queue.sqlite"
    store = Store(path)
    try:
        token = store.token()
        jobs = Jobs(store, folder)
        places.remove_strays(folder, {song.id for song in jobs.songs()})
    except (sqlite3.Error, OSError) as error:
        store.close()
        raise DeepsepError(
            f"{path}: cannot be used ({error}); make room on the disk, move the file away, or use --folder"
        ) from None

    def look(running: asyncio.Task[None]) -> None:
        if not running.cancelled() and (error := running.exception()) and on_end:
            on_end(error)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(jobs.run())
        running.add_done_callback(look)
        if on_ready:
            on_ready(token)
        yield
        running.cancel()
        await asyncio.wait([running])
        store.close()

    app = Starlette(
        routes=ROUTES, lifespan=lifespan, middleware=[Middleware(Guard, host=host, port=port, token=token)]
    )
    app.state.folder, app.state.token, app.state.jobs = folder, token, jobs
    return app


def plainly(answer: Answer) -> Answer:
    """Answer with the line of a DeepsepError where one is raised, and where the list of songs cannot be kept."""

    @wraps(answer)
    async def answer_or_tell(request: Request) -> Response:
        try:
            return await answer(request)
        except DeepsepError as error:
            return JSONResponse({"error": str(error)}, 422)
        except sqlite3.Error as error:
            told = f"the list of songs cannot be kept ({error}); make room on the disk, and try again"
            return JSONResponse({"error": told}, 507)

    return answer_or_tell


def song_of(request: Request) -> Song:
    """The song that the address names. Raises DeepsepError for none."""
    jobs: Jobs = request.app.state.jobs
    song = jobs.song(request.path_params["id"])
    if song is None:
        raise DeepsepError("this song is not in the list any more; reload the page")
    return song


# --- the page ------------------------------------------------------------------------------------------------


async def page(request: Request) -> Response:
    """The page, with the token that its requests carry."""
    values = {
        "TOKEN": escape(request.app.state.token),
        "FOLDER": escape(str(request.app.state.folder)),
        "VERSION": escape(__version__),
    }
    return Response(fill(own_asset("index.html"), values), media_type="text/html")


def own_asset(name: str) -> str:
    """The text of a file of the page."""
    return files(__package__).joinpath("page", name).read_text(encoding="utf-8")


async def part(name: str, request: Request) -> Response:
    """A script or a style."""
    kind = "text/css" if name.endswith(".css") else "text/javascript"
    return Response(asset(name) if name.startswith("player.") else own_asset(name), media_type=kind)


@plainly
async def choices(request: Request) -> Response:
    """What may be chosen for a song."""
    found = await run_in_threadpool(wishes.choices)
    return JSONResponse({**found, "most_bytes": uploads.MOST_BYTES})


async def events(request: Request) -> Response:
    """The queue as it is, then word of every change, as server-sent events."""
    jobs: Jobs = request.app.state.jobs

    async def stream() -> AsyncIterator[str]:
        with jobs.listen() as inbox:
            message: dict[str, Any] | None = {"songs": jobs.views()}
            while message is not None:
                yield f"data: {json.dumps(message)}\n\n"
                while True:
                    try:
                        message = await asyncio.wait_for(inbox.get(), HEARTBEAT)
                        break
                    except asyncio.TimeoutError:
                        if inbox not in jobs.pages:
                            return  # it could not keep up; the browser asks again
                        yield ": still here\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream")


# --- the queue -----------------------------------------------------------------------------------------------


@plainly
async def add(request: Request) -> Response:
    """Take a song: its bytes are the body, its name and the wishes are in the query."""
    folder, jobs = request.app.state.folder, request.app.state.jobs
    uploads.check_size(folder, request.headers.get("content-length"))
    try:
        raw = parse_json(request.query_params.get("wishes", "{}"))
    except ValueError:
        raise DeepsepError("the options are no JSON; reload the page") from None
    found = (await run_in_threadpool(wishes.choices))["priors"]
    wanted = wishes.check(raw, found)
    label = uploads.label_of(request.query_params.get("name", ""))
    id = places.new_id()
    song = Song(id, label, id, uploads.suffix_of(label), 0.0, wanted)
    incoming = places.home(folder, song) / f"incoming{song.suffix}"
    try:
        incoming.parent.mkdir(parents=True)
        await uploads.receive(request.stream(), incoming, request.headers.get("content-length"))
        song.seconds = await run_in_threadpool(length_of, incoming, label)
        song.track = uploads.track_of(label, partial(is_taken, folder, jobs.store))
        target = places.upload(folder, song)
        target.parent.mkdir()
        incoming.rename(target)
        jobs.add(song)  # nothing was awaited since the name was chosen: no other song has it
    except ClientDisconnect:
        shutil.rmtree(places.home(folder, song), ignore_errors=True)
        return Response(status_code=400)
    except BaseException:
        shutil.rmtree(places.home(folder, song), ignore_errors=True)
        raise
    return JSONResponse(jobs.view(song), 201)


def is_taken(folder: Path, store: Store, track: str) -> bool:
    """Whether results of this name would meet those of another song."""
    return store.has_track(track) or any((folder / name).exists() for name in (track, f"{track}.stem.mp4"))


def length_of(path: Path, label: str) -> float:
    """A song's length in seconds, 0 where its header does not say. Raises DeepsepError for what is no song."""
    try:
        info = probe(path)
    except DeepsepError as error:
        raise DeepsepError(str(error).replace(str(path), label)) from None
    return (info.frames or 0) / info.rate


@plainly
async def cancel(request: Request) -> Response:
    """Take a song out of the queue, or stop it."""
    await request.app.state.jobs.cancel(song_of(request))
    return JSONResponse({})


@plainly
async def retry(request: Request) -> Response:
    """Put a song in the queue again."""
    request.app.state.jobs.retry(song_of(request))
    return JSONResponse({})


@plainly
async def remove(request: Request) -> Response:
    """Take a song out of the list."""
    request.app.state.jobs.remove(song_of(request))
    return JSONResponse({})


# --- the player ----------------------------------------------------------------------------------------------


@plainly
async def player(request: Request) -> Response:
    """The player's data and markup of a song, as far as it is separated."""
    path = places.sounds(request.app.state.folder, song_of(request)) / PLAYER
    try:
        drawn = await run_in_threadpool(path.read_bytes)  # at once: it is replaced as the song goes on
    except FileNotFoundError:
        raise DeepsepError("nothing of this song can be played yet") from None
    return Response(drawn, media_type="application/json")


@plainly
async def piece(request: Request) -> Response:
    """A piece of sound."""
    name = piece_name(request.path_params["track"], request.path_params["index"])
    path = places.sounds(request.app.state.folder, song_of(request)) / name
    if not path.is_file():
        return JSONResponse({"error": "this part is not separated yet"}, 404)
    return FileResponse(path, media_type="audio/flac")


# --- downloads -----------------------------------------------------------------------------------------------


@plainly
async def download(request: Request) -> Response:
    """One result."""
    song = song_of(request)
    path = downloads.file_of(request.app.state.folder, song, request.query_params.get("name", ""))
    name = path.name if path.name.startswith(song.track) else f"{song.track} - {path.name}"
    return FileResponse(path, filename=name, media_type="application/octet-stream")


@plainly
async def zip_all(request: Request) -> Response:
    """All results of a song."""
    song, folder = song_of(request), request.app.state.folder
    found = [downloads.file_of(folder, song, name) for name in downloads.files_of(folder, song)]
    if not found:
        raise DeepsepError("there is nothing to download yet")
    pieces = await run_in_threadpool(downloads.zipped, downloads.named(found, folder))
    answer = StreamingResponse(pieces, media_type="application/zip")
    answer.headers["content-disposition"] = f"attachment; filename*=utf-8''{quote(song.track)}.zip"
    return answer


@plainly
async def make_stem(request: Request) -> Response:
    """Make the stem file of a song."""
    await run_in_threadpool(downloads.make_stem_file, request.app.state.folder, song_of(request))
    return JSONResponse({})


@plainly
async def stem(request: Request) -> Response:
    """The stem file of a song, once it is made."""
    song = song_of(request)
    path = downloads.stem_file(request.app.state.folder, song)
    if not path.is_file():
        raise DeepsepError("the stem file is not made yet")
    return FileResponse(path, filename=path.name, media_type="application/octet-stream")


ROUTES = [
    Route("/", page),
    *(Route(f"/{name}", partial(part, name)) for name in ("app.css", "app.js", "player.css", "player.js")),
    Route("/api/choices", choices),
    Route("/api/events", events),
    Route("/api/songs", add, methods=["POST"]),
    Route("/api/songs/{id}/cancel", cancel, methods=["POST"]),
    Route("/api/songs/{id}/retry", retry, methods=["POST"]),
    Route("/api/songs/{id}/remove", remove, methods=["POST"]),
    Route("/api/songs/{id}/player", player),
    Route("/api/songs/{id}/sound/{track:int}/{index:int}", piece),
    Route("/api/songs/{id}/file", download),
    Route("/api/songs/{id}/zip", zip_all),
    Route("/api/songs/{id}/stem", make_stem, methods=["POST"]),
    Route("/api/songs/{id}/stem", stem),
]
