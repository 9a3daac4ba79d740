"""Many tracks on one model: progress on a terminal, a line or a table for each track, JSON for machines."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import DeepsepError, is_out_of_memory
from ..progress import printable
from ..staging import Scratch
from .common import INTERRUPTED, say

if TYPE_CHECKING:
    from ..audio.info import Part
    from ..inference.model import Model
    from ..inference.settings import Settings
    from ..output.paths import Input, Job, Output
    from ..output.tracks import TrackResult

__all__ = ["Batch", "from_stdin"]

EVERY = 30  # seconds between lines on a long track, where no person watches
REFRESH = 0.1  # seconds between changes of a bar
LEAST_SHARE, LEAST_SECONDS = 0.01, 1.0  # of work that must be done before it tells how long the rest takes


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
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        self.seconds, self.lines, self.number, self.before = seconds, lines, 0, 0.0
        self.bars = Bars(
            TextColumn("{task.description}", markup=False), BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.fields[left]}"),
            console=Console(stderr=True), disable=not live, transient=True,
        )  # fmt: skip
        self.began = time.monotonic()
        self.whole = whole = sum(s for s in seconds if s) if all(seconds) else None
        self.all = self.bars.add_task("all tracks", total=whole, left="") if len(seconds) > 1 else None

    @contextmanager
    def track(self, name: str) -> Iterator[Callable[[str, float], None]]:
        """Within, the result hears what is done with this track, and how much of it: a share, of "" seconds."""
        length = self.seconds[self.number]
        task = self.bars.add_task(printable(name), total=length, left="")
        began = told = shown = time.monotonic()
        stage = ""

        def tell(what: str, done: float) -> None:
            nonlocal began, told, shown, stage
            now = time.monotonic()
            whole = 1.0 if what else length
            if what != stage:
                stage, began, shown = what, now, -math.inf
                title = f"{name}: {what}" if what else name
                self.bars.reset(task, description=printable(title), total=whole, left="")
            if self.lines and now - told >= EVERY:
                told = now
                say(f"{name}: {so_far(done, whole, now - began, what)}")
            if now - shown < REFRESH and done < (whole or math.inf):
                return
            shown = now
            self.bars.update(task, completed=done, left=time_left(done, whole, now - began))
            if self.all is not None and not what:
                done += self.before
                self.bars.update(self.all, completed=done, left=time_left(done, self.whole, now - self.began))

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

    @property
    def terminal(self) -> bool:
        """Whether a person watches progress."""
        return sys.stderr.isatty() and not self.quiet

    def fail(self, source: str, error: object) -> None:
        """Say what is wrong with one track, and remember it."""
        say(f"error: {error}")
        self.failed.append({"source": source, "error": str(error)})

    def readable(self, files: Sequence[tuple[Path, str]], part: Part) -> list[Input]:
        """The files (with what to call each) that hold audio, in this part; what is wrong with the others is said."""
        from ..audio import files as audio
        from ..output.paths import Input

        found = []
        for path, label in files:
            try:
                info = audio.probe(path, part)
                found.append(Input(path, label, info.frames / info.rate if info.frames else None, info, part))
            except (DeepsepError, OSError, UnicodeError) as error:
                self.fail(label, reason(error, path).replace(str(path), label))
        return found

    def fitting(self, jobs: Sequence[Job], out: Output) -> list[Job]:
        """The jobs whose tracks the format can hold; what is wrong with the others is said."""
        from ..output.paths import check_format

        fit = []
        for job in jobs:
            try:
                if job.info:
                    check_format(out, job.info)
                fit.append(job)
            except DeepsepError as error:
                self.fail(job.label, str(error).replace(str(job.source), job.label))
        return fit

    def run(self, jobs: Sequence[Job], model: Model, settings: Settings, out: Output) -> None:
        """Separate every track, the rest too when one fails. Raises typer.Exit on Ctrl-C."""
        from ..output import tracks

        progress = Progress(
            [job.seconds for job in jobs], live=self.terminal, lines=not (self.terminal or self.quiet)
        )
        table = self.terminal and len(jobs) > 1
        try:
            with progress.bars:
                for number, job in enumerate(jobs, 1):
                    name = Path(job.label).name
                    with progress.track(f"{number}/{len(jobs)} {name}" if len(jobs) > 1 else name) as tell:
                        try:
                            result = tracks.run(
                                job, model, settings, out, on_progress=partial(tell, ""), on_stage=tell,
                                on_done=self.done.append,
                            )  # fmt: skip
                        except (DeepsepError, OSError, UnicodeError, MemoryError, RuntimeError) as error:
                            self.fail(
                                job.label, reason(error, job.source).replace(str(job.source), job.label)
                            )
                            continue
                    if not self.quiet and not table:
                        say(summary(result))
        except KeyboardInterrupt:
            say(interruption(len(self.done), len(jobs)))
            if self.as_json:
                self.tell_machine(model, interrupted=True)
            raise typer.Exit(INTERRUPTED) from None
        if table:
            self.show_table()

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
        about |= {"failed": self.failed, "skipped": self.skipped, "interrupted": interrupted}
        typer.echo(json.dumps(about, indent=2))

    def finish(self, model: Model | None) -> None:
        """Say how many tracks are done. Raises typer.Exit if one failed."""
        if self.as_json:
            self.tell_machine(model)
        elif not self.quiet and len(self.done) + len(self.failed) + self.skipped > 1:
            say(f"{len(self.done)} done, {len(self.failed)} failed, {self.skipped} skipped")
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


def interruption(done: int, jobs: int) -> str:
    """What is left of a run that was interrupted."""
    if jobs == 1:
        return "interrupted: the track is done" if done else "interrupted: nothing was written"
    return f"interrupted: {done} of {jobs} tracks are done; of the others nothing was written"


def so_far(done: float, whole: float | None, took: float, stage: str = "") -> str:
    """How far a track is after `took` seconds of work: seconds of its length, or the share of another stage."""
    if not whole:
        return f"{done:.0f} s done"
    if stage:
        return f"{stage}, {100 * done / whole:.0f} %"
    left = time_left(done, whole, took)
    return f"{100 * done / whole:.0f} % of {whole:.0f} s" + (f", {left} left" if left else "")


def time_left(done: float, whole: float | None, took: float) -> str:
    """The time left at the pace of what is done; "" while that is too little to tell, and at the end."""
    if not whole or done < LEAST_SHARE * whole or took < LEAST_SECONDS or done >= whole:
        return ""
    minutes, seconds = divmod(round(took * (whole / done - 1)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


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
