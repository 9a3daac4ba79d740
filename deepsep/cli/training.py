"""What the training commands share: their settings and folders as typed, and how a run looks."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import typer

from ..config import DomainName, Start, TrainConfig
from ..errors import DeepsepError, refusal
from ..progress import Listener, Status, TrainResult, printable
from .common import (
    INTERRUPTED,
    as_usage,
    exit_on_signals,
    listed,
    refuse_idle,
    say,
    silence_c_libraries,
    typed_options,
    usage,
)

__all__ = [
    "TrainingDisplay",
    "finish",
    "given",
    "numbers",
    "refuse_other_domains",
    "source_folders",
    "start_of",
    "training_display",
    "training_of",
]

T = TypeVar("T", bound=TrainConfig)


def leads() -> bool:
    """Whether this process talks: of several that torchrun started, the first."""
    return int(os.environ.get("RANK", 0)) == 0


def refuse_other_domains(
    context: typer.Context, options: Mapping[DomainName, Sequence[str]], domain: DomainName
) -> None:
    """Raise a usage mistake for a typed option that only priors of another domain have."""
    for other, names in options.items():
        if other != domain:
            refuse_idle(typed_options(context), names, f"is of {other} priors, and these are {domain}")


def numbers(text: str, option: str, example: str) -> tuple[int, ...]:
    """Read a list of whole numbers; a usage mistake if it is none."""
    try:
        return tuple(map(int, listed(text) or ()))
    except ValueError:
        raise usage(f"{option} {text} is not a list of numbers such as {example}") from None


def training_of(kind: type[T], *, minutes: float | None, steps: int, **settings: Any) -> T:
    """The settings of a run; a time limit alone is not cut short by the default number of steps."""
    if minutes is None:
        minutes = float("inf")
    elif steps == kind().steps:
        steps = 10**9
    if not minutes > 0 or not 0 < settings["lr"] < float("inf"):
        raise usage("--minutes and --lr must be more than 0")
    with as_usage():
        return kind(steps=steps, minutes=minutes, **settings)


def given(**options: Any) -> dict[str, Any]:
    """The options that have a value."""
    return {name: value for name, value in options.items() if value is not None}


def start_of(resume: bool, overwrite: bool) -> Start:
    """What to do with a training that is there."""
    return "resume" if resume else "overwrite" if overwrite else "new"


def source_folders(
    items: list[str], sources: list[str], note: Callable[[str], None] | None, *, sets: bool = False
) -> dict[str, list[Path]]:
    """Read NAME=DIR items, and folders with a subfolder for each source, into source -> folders.

    With `sets` a name may join several sources, as in drums+bass+other. Names may differ from the sources' in case.
    Subfolders of other names are noted, as they may be misspelt.
    """
    from ..recordings.files import set_members

    known = ", ".join(sources)
    spelt = {source.casefold(): source for source in reversed(sources)}

    def canonical(name: str) -> str | None:
        """The name with its sources in order, None where one is unknown."""
        parts = [p if p in sources else spelt.get(p.casefold()) for p in set_members(name)]
        found = [part for part in parts if part is not None]
        return "+".join(sorted(found, key=sources.index)) if len(found) == len(parts) else None

    def trains(source: str | None) -> bool:
        """Whether recordings of such a name are of use here."""
        return source is not None and (sets or "+" not in source)

    folders: dict[str, list[Path]] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if equals and not Path(item).exists():
            source = canonical(name)
            if source is None or not trains(source):
                raise DeepsepError(f"{item}: unknown source {name!r}; the priors are of {known}")
            folders.setdefault(source, []).append(Path(value))
            continue
        if not Path(item).is_dir():
            raise DeepsepError(f"{item}: no such folder")
        inside = [(canonical(path.name), path) for path in sorted(Path(item).iterdir()) if path.is_dir()]
        found = [(source, path) for source, path in inside if source and trains(source)]
        if not found:
            raise DeepsepError(f"{item}: no subfolder named after a source ({known})")
        idle = [path.name for source, path in inside if not source and not path.name.startswith(".")]
        if idle and note:
            note(f"{item}: not used, as they are not named after sources ({known}): {', '.join(idle)}")
        for source, path in found:
            folders.setdefault(source, []).append(path)
    return folders


@contextmanager
def training_display(title: str, quiet: bool) -> Iterator[TrainingDisplay]:
    """Show a run. Being stopped or a failing disk ends it with one line, and nothing half-written stays."""
    display = None
    tell = say if leads() else (lambda line: None)
    try:
        with exit_on_signals(), silence_c_libraries(), TrainingDisplay(title, quiet) as display:
            yield display
    except KeyboardInterrupt:
        step = display.last_step if display else 0
        tell(
            f"interrupted at step {step}; the last checkpoint stays, go on with --resume"
            if step
            else "interrupted before the first step; what was there is as it was"
        )
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        raise refusal(error.filename or title, error, "used") from error


class TrainingDisplay:
    """Shows a training run: a live line on a terminal, a plain line every half minute elsewhere."""

    def __init__(self, title: str, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.title, self.quiet = title, quiet or not leads()
        self.live = sys.stderr.isatty() and not self.quiet
        self.bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=8),
            TextColumn("{task.fields[line]}", markup=False),
            console=Console(stderr=True), disable=not self.live,
        )  # fmt: skip
        self.task = self.bar.add_task(printable(title), total=1.0, line="")
        self.told = float("-inf")
        self.last_step = 0

    @property
    def listener(self) -> Listener:
        """What a training run calls."""
        return Listener(self.files, self.note, self.step)

    def __enter__(self) -> TrainingDisplay:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, fraction: float, line: str) -> None:
        """Update the display."""
        self.bar.update(self.task, completed=fraction, line=printable(line))
        if not self.live and not self.quiet and time.monotonic() - self.told > 30:
            self.told = time.monotonic()
            say(f"{self.title}: {line}")

    def files(self, done: int, total: int) -> None:
        """Show how many recordings have been read."""
        self.show(0.0, f"reading recordings {done}/{total}")

    def note(self, line: str) -> None:
        """Say what a user should know, once."""
        if not self.quiet:
            say(line)

    def step(self, status: Status) -> None:
        """Show a training step."""
        if not self.last_step:
            self.told = float("-inf")  # the first step is told at once
        self.last_step = status.step
        minutes, seconds = divmod(round(min(status.eta, 359999)), 60)
        pace = f"step {status.step}  {status.rate:.3g}/s  eta {minutes}:{seconds:02d}"
        if self.live:  # what matters most fits into 80 columns
            held_out = "/".join(f"{v:.2f}" for v in status.held_out.values())
            shown = "  ".join(f"{k} {v:.2f}" for k, v in status.figures.items())
            self.show(status.fraction, f"{pace}  held-out {held_out}  {shown}")
            return
        figures = {**status.figures, **{f"held-out {k}": v for k, v in status.held_out.items()}}
        self.show(status.fraction, "  ".join([pace, *(f"{k} {v:.3f}" for k, v in figures.items())]))


def finish(result: TrainResult, target: str, quiet: bool) -> None:
    """Say how a training run ended. Raises typer.Exit after Ctrl-C."""
    status = result.status
    if not result.finished:
        if leads():
            kept = f"; what it replaced stays in {result.former} until it is done" if result.former else ""
            say(f"interrupted at step {status.step}; saved to {target}, go on with --resume{kept}")
        raise typer.Exit(INTERRUPTED)
    if not quiet and leads():
        held_out = ", ".join(f"{k} {v:.3f}" for k, v in status.held_out.items())
        say(f"{target}: {status.step} steps; held out: {held_out}")
