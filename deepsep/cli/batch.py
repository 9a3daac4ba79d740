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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import DeepsepError, is_out_of_memory, refusal
from ..progress import printable
from ..staging import Scratch, remove_abandoned
from .bars import Progress
from .common import INTERRUPTED, say

if TYPE_CHECKING:
    from ..audio.info import Part
    from ..inference.model import Model
    from ..inference.settings import Settings
    from ..output.library import Claims, RunLog
    from ..output.paths import Input, Job, Output
    from ..output.tracks import OnProgress, OnStage, TrackResult

__all__ = ["Batch", "from_stdin"]


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

    def readable(self, files: Sequence[tuple[Path, str]], part: Part, *, look: bool = True) -> list[Input]:
        """The files (with what to call each) that hold audio, in this part; what is wrong with the others is said.

        Without `look` none is opened, and all are taken for readable until their turn comes.
        """
        from ..audio import files as audio
        from ..output.paths import Input

        if not look:
            return [Input(path, label, part=part) for path, label in files]
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
                            job, model, settings, out, claims, self.log, on_progress=partial(tell, ""),
                            on_stage=tell, on_done=self.done.append,
                        )  # fmt: skip
                    self.hear(job.label, result, table=table)
                    settings = settings_after(settings, result)
        except KeyboardInterrupt:
            raise self.interrupted(interruption(len(self.done), len(jobs) - self.taken), model) from None
        if table:
            self.show_table()

    @contextmanager
    def bar(self, tracks: int) -> Iterator[Callable[[int], None]]:
        """A bar of all tracks on a terminal; within, the result hears how many are done."""
        progress = Progress([1.0] * tracks, live=self.terminal, lines=False)
        with progress.bars:
            yield progress.advance

    def hear(self, label: str, result: TrackResult | str | None, *, table: bool) -> None:
        """Take down what `attempt` gave, and say it unless a table will."""
        if result is None:
            self.taken += 1
        elif isinstance(result, str):
            say(f"error: {result}")
            self.failed.append({"source": label, "error": result})
        elif not self.quiet and not table:
            say(summary(result))

    def interrupted(self, line: str, model: Model | None) -> typer.Exit:
        """Say what became of the tracks when a person stops the run. Raise the result."""
        say(line)
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
    *,
    on_progress: OnProgress | None = None,
    on_stage: OnStage | None = None,
    on_done: Callable[[TrackResult], None] | None = None,
) -> TrackResult | str | None:
    """Separate a track: its result, or why it failed in a line, or None where another run has it or has done it.

    Done or failed, it gets a line in the log. The callbacks are those of `tracks.run`.
    """
    from ..output import tracks

    def done(result: TrackResult) -> None:
        if log:
            log.add(row_of(result, model))
        if on_done:
            on_done(result)

    began = time.monotonic()
    with claims.claim(job.key) if claims else nullcontext(True) as free:
        if claims and not free:
            return None
        if claims and job.is_done():
            for folder in job.folders:  # of a run that was killed when all was in place
                remove_abandoned(folder)
            return None
        try:
            return tracks.run(
                job, model, settings, out, on_progress=on_progress, on_stage=on_stage, on_done=done
            )
        except (DeepsepError, OSError, UnicodeError, MemoryError, RuntimeError) as error:
            line = reason(error, job.source).replace(str(job.source), job.label)
            if log:
                took = round(time.monotonic() - began, 3)
                log.add(
                    {"source": job.label, "outcome": "failed", "seconds": job.seconds, "took": took}
                    | priors_row(model)
                    | {"error": line}
                )
            return line


def settings_after(settings: Settings, result: TrackResult | str | None) -> Settings:
    """The settings of the next track, after `attempt` gave `result`: as many windows at a time as fitted."""
    if result is None or isinstance(result, str) or not result.batch_size:
        return settings
    return replace(settings, batch_size=result.batch_size)


def row_of(result: TrackResult, model: Model) -> dict[str, Any]:
    """The log's line of a track that is done."""
    return {
        "source": result.source,
        "outcome": "done",
        "seconds": result.seconds,
        "took": round(result.took, 3),
        **priors_row(model),
        "settings": result.settings,
        "notes": notes_of(result),
    }


def priors_row(model: Model) -> dict[str, Any]:
    """What the log says of the priors."""
    from ..output.tracks import priors_of

    return {"priors": priors_of(model), "weights": model.info.weights}


def interruption(done: int, jobs: int) -> str:
    """What is left of a run that was interrupted."""
    if jobs <= 1:
        return "interrupted: the track is done" if done else "interrupted: nothing was written"
    return f"interrupted: {done} of {jobs} tracks are done; of the others nothing was written"


def reason(error: BaseException, source: Path) -> str:
    """What went wrong with a track, in a line; raises again what no user can mend."""
    if is_out_of_memory(error):
        return f"{source}: not enough memory; try a smaller --batch-size"
    if isinstance(error, UnicodeError):
        return f"{source}: its name is no valid text, which a decoder needs; rename it"
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        return str(refusal(error.filename or source, error, "used"))
    if isinstance(error, DeepsepError):
        return str(error)
    raise error


def notes_of(result: TrackResult) -> list[str]:
    """What a person should know of a result."""
    silent = ["silent throughout"] if result.silent else []
    return silent + result.clipping + result.notes


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
