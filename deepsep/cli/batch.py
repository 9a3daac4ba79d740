"""Many tracks on one model: progress on a terminal, a line or a table for each track, JSON for machines."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import DeepsepError
from ..progress import printable
from ..staging import Scratch
from .common import INTERRUPTED, is_out_of_memory, say

if TYPE_CHECKING:
    from ..inference.model import Model
    from ..inference.settings import Settings
    from ..output.library import Claims, RunLog
    from ..output.paths import Input, Job, Output
    from ..output.tracks import TrackResult

__all__ = ["Batch", "from_stdin"]

EVERY = 30  # seconds between lines on a long track, where no person watches


@contextmanager
def from_stdin(wanted: bool) -> Iterator[Path | None]:
    """What comes on stdin as a temporary file, since a track is read twice; None unless it is `wanted`."""
    if not wanted:
        yield None
        return
    if sys.stdin.isatty():
        raise DeepsepError("- reads a track from stdin, and nothing is piped into it")
    scratch = None
    try:
        try:
            scratch = Scratch(Path(tempfile.gettempdir()))
            path = scratch.path / "stdin" / "stdin"
            path.parent.mkdir()
            with path.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
        except OSError as error:
            why = error.strerror or error
            raise DeepsepError(f"-: stdin cannot be kept in a temporary file ({why}); set TMPDIR") from None
        yield path
    finally:
        if scratch:
            scratch.remove()


class Progress:
    """Two bars on a terminal, each with the time left: this track, and all of them; now and then a line elsewhere."""

    def __init__(self, seconds: Sequence[float | None], *, live: bool, lines: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self.seconds, self.lines, self.number, self.before = seconds, lines, 0, 0.0
        self.bars = Bars(
            TextColumn("{task.description}", markup=False), BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True), disable=not live, transient=True,
        )  # fmt: skip
        whole = sum(s for s in seconds if s) if all(seconds) else None
        self.all = self.bars.add_task("all tracks", total=whole) if len(seconds) > 1 else None

    @contextmanager
    def track(self, name: str) -> Iterator[Any]:
        """Within, the result hears how many seconds of this track are done."""
        length = self.seconds[self.number]
        task = self.bars.add_task(printable(name), total=length)
        began = told = time.monotonic()

        def tell(seconds: float) -> None:
            nonlocal told
            now = time.monotonic()
            if self.lines and now - told >= EVERY:
                told = now
                say(f"{name}: {so_far(seconds, length, now - began)}")
            self.bars.update(task, completed=seconds)
            if self.all is not None:
                self.bars.update(self.all, completed=self.before + seconds)

        try:
            yield tell
        finally:
            self.bars.remove_task(task)
            self.number += 1
            self.before += length or 0
            if self.all is not None:
                self.bars.update(self.all, completed=self.before)


@dataclass(slots=True)
class Batch:
    """What is to be said about a run, and to whom."""

    quiet: bool = False
    as_json: bool = False
    done: list[TrackResult] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    skipped: int = 0
    taken: int = 0  # by other runs
    log: RunLog | None = None

    @property
    def terminal(self) -> bool:
        """Whether a person watches progress."""
        return sys.stderr.isatty() and not self.quiet

    def fail(self, source: str, error: object) -> None:
        """Say what is wrong with one track, and remember it."""
        say(f"error: {error}")
        self.failed.append({"source": source, "error": str(error)})
        if self.log:
            self.log.add({"source": source, "outcome": "failed", "error": str(error)})

    def readable(self, files: Sequence[tuple[Path, str]], *, look: bool = True) -> list[Input]:
        """The files (with what to call each) that hold audio; what is wrong with the others is said.

        Without `look` none is opened, and all are taken for readable until their turn comes.
        """
        from ..audio import files as audio
        from ..output.paths import Input

        if not look:
            return [Input(path, label) for path, label in files]
        found = []
        for path, label in files:
            try:
                info = audio.probe(path)
                found.append(Input(path, label, info.frames / info.rate if info.frames else None))
            except (DeepsepError, OSError, UnicodeError) as error:
                self.fail(label, reason(error, path).replace(str(path), label))
        return found

    def run(
        self, jobs: Sequence[Job], model: Model, settings: Settings, out: Output, claims: Claims | None = None
    ) -> None:
        """Separate every track, the rest too when one fails, but those that other runs claim. typer.Exit on Ctrl-C."""
        progress = Progress(
            [job.seconds for job in jobs], live=self.terminal, lines=not (self.terminal or self.quiet)
        )
        table = self.terminal and len(jobs) > 1
        try:
            with progress.bars:
                for number, job in enumerate(jobs, 1):
                    name = Path(job.label).name
                    with progress.track(f"{number}/{len(jobs)} {name}" if len(jobs) > 1 else name) as tell:
                        result = attempt(
                            job, model, settings, out, claims, self.log, tell, on_done=self.done.append
                        )
                    self.hear(job.label, result, table=table)
                    if not isinstance(result, str) and result and result.batch_size:
                        settings = replace(settings, batch_size=result.batch_size)
        except KeyboardInterrupt:
            left = len(jobs) - len(self.done) - len(self.failed) - self.taken
            raise self.interrupted(len(jobs), model, f"{left} left nothing behind") from None
        if table:
            self.show_table()

    @contextmanager
    def bar(self, tracks: int) -> Iterator[Callable[[int], None]]:
        """A bar of all tracks on a terminal; within, the result hears how many are done."""
        progress = Progress([None] * tracks, live=self.terminal, lines=False)
        task = progress.bars.add_task("all tracks", total=tracks)
        with progress.bars:
            yield lambda done: progress.bars.update(task, completed=done)

    def hear(self, label: str, result: TrackResult | str | None, *, table: bool) -> None:
        """Take down what `attempt` gave, and say it unless a table will."""
        if result is None:
            self.taken += 1
        elif isinstance(result, str):
            say(f"error: {result}")
            self.failed.append({"source": label, "error": result})
        elif not self.quiet and not table:
            say(summary(result))

    def interrupted(self, tracks: int, model: Model | None, rest: str) -> typer.Exit:
        """Say how many tracks are done when a person stops the run, and what of the rest. Raise the result."""
        say(f"interrupted: {len(self.done)} of {tracks} tracks are done, {rest}")
        if self.as_json:
            self.tell_machine(model, interrupted=True)
        return typer.Exit(INTERRUPTED)

    def tell_machine(self, model: Model | None, *, interrupted: bool = False) -> None:
        """Print JSON on stdout."""
        about: dict[str, Any] = {}
        if model is not None:
            origins = {source: asdict(origin) for source, origin in model.info.origins.items()}
            about = {"priors": model.info.name, "origins": origins, "sources": model.sources}
        about["done"] = [
            {
                "source": r.source,
                "stems": {k: str(p) for k, p in r.paths.items()},
                **{k: str(p) for k, p in r.extras.items()},
                "seconds": r.seconds,
                "took": round(r.took, 3),
                "gain_db": r.gain_db,
                "silent": r.silent,
                "notes": r.notes,
                "settings": r.settings,
            }
            for r in self.done
        ]
        about |= {
            "failed": self.failed,
            "skipped": self.skipped,
            "taken": self.taken,
            "interrupted": interrupted,
        }
        typer.echo(json.dumps(about, indent=2))

    def finish(self, model: Model | None) -> None:
        """Say how many tracks are done. Raises typer.Exit if one failed."""
        if self.as_json:
            self.tell_machine(model)
        elif not self.quiet and len(self.done) + len(self.failed) + self.skipped + self.taken > 1:
            taken = f", {self.taken} taken by another run" if self.taken else ""
            say(f"{len(self.done)} done, {len(self.failed)} failed, {self.skipped} skipped{taken}")
        elif not self.quiet and self.skipped:
            say("nothing to do: its outputs exist")
        if self.failed:
            raise typer.Exit(1)

    def show_table(self) -> None:
        """What became of each track, on stderr."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table("track", "length", "took", "result", box=None, pad_edge=False)
        for r in self.done:
            result = "; ".join([target_of(r), *notes_of(r)])
            name = Text(printable(Path(r.source).name))
            table.add_row(name, f"{r.seconds:.1f} s", f"{r.took:.1f} s", Text(printable(result)))
        for row in self.failed:
            why = row["error"].removeprefix(f"{row['source']}: ")
            name = Text(printable(Path(row["source"]).name))
            table.add_row(name, "", "", Text(printable(f"failed: {why}"), "red"))
        Console(stderr=True).print(table)


def attempt(
    job: Job,
    model: Model,
    settings: Settings,
    out: Output,
    claims: Claims | None,
    log: RunLog | None,
    on_progress: Callable[[float], None] | None = None,
    on_done: Callable[[TrackResult], None] | None = None,
) -> TrackResult | str | None:
    """Separate a track: its result, or why it failed in a line, or None where another run has it or has done it.

    Done or failed, it gets a line in the log.
    """
    from ..output import tracks

    def done(result: TrackResult) -> None:
        if log:
            log.add(row_of(result, model))
        if on_done:
            on_done(result)

    with claims.claim(job.key) if claims else nullcontext(True) as free:
        if claims and (not free or job.is_done()):
            return None
        try:
            return tracks.run(job, model, settings, out, on_progress=on_progress, on_done=done)
        except (DeepsepError, OSError, UnicodeError, MemoryError, RuntimeError) as error:
            line = reason(error, job.source).replace(str(job.source), job.label)
            if log:
                log.add({"source": job.label, "outcome": "failed", "error": line})
            return line


def row_of(result: TrackResult, model: Model) -> dict[str, Any]:
    """The log's line of a track that is done."""
    from ..output.tracks import priors_of

    return {
        "source": result.source,
        "outcome": "done",
        "seconds": result.seconds,
        "took": round(result.took, 3),
        "priors": priors_of(model),
        "weights": model.info.weights,
        "settings": result.settings,
        "notes": notes_of(result),
    }


def so_far(seconds: float, length: float | None, took: float) -> str:
    """How far a track is after `took` seconds of work."""
    if not length or not seconds:
        return f"{seconds:.0f} s done"
    return f"{100 * seconds / length:.0f} % of {length:.0f} s, {remaining(seconds, length, took)}"


def remaining(done: float, whole: float, took: float) -> str:
    """How long the rest will take, after `took` seconds for what is done."""
    if not done:
        return "none done yet"
    minutes, rest = divmod(round(took * max(0.0, whole / done - 1)), 60)
    return f"{minutes}:{rest:02d} left"


def reason(error: BaseException, source: Path) -> str:
    """What went wrong with a track, in a line; raises again what no user can mend."""
    if is_out_of_memory(error):
        return f"{source}: not enough memory; try a smaller --batch-size"
    if isinstance(error, UnicodeError):
        return f"{source}: its name is no valid text, which a decoder needs; rename it"
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        return f"{error.filename or source}: {error.strerror or error}"
    if isinstance(error, DeepsepError):
        return str(error)
    raise error


def notes_of(result: TrackResult) -> list[str]:
    """What a person should know of a result."""
    notes = ["silent throughout"] if result.silent else []
    if result.gain_db:
        notes.append(f"all stems turned down by {-result.gain_db:.2f} dB so that none clips")
    return notes + result.notes


def target_of(result: TrackResult) -> str:
    """Where the outputs are: the file, or the folder of several."""
    paths = [*result.paths.values(), *result.extras.values()]
    if len(paths) == 1:
        return str(paths[0])
    return os.path.commonpath([path.parent for path in paths]) + os.sep


def summary(result: TrackResult) -> str:
    """What happened to one track, in a line."""
    note = f" ({'; '.join(notes)})" if (notes := notes_of(result)) else ""
    name = Path(result.source).name
    how = f"{result.took:.1f} s ({result.settings['method']})"
    return f"{name}: {result.seconds:.1f} s in {how} -> {target_of(result)}{note}"
