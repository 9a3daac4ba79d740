"""How far a run is: bars with the time left on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ..progress import printable
from .common import say

__all__ = ["EVERY", "Progress", "time_left"]

EVERY = 30  # seconds between lines on a long track, where no person watches
REFRESH = 0.1  # seconds between changes of a bar
LEAST_SHARE, LEAST_SECONDS = 0.01, 1.0  # of work that must be done before it tells how long the rest takes


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
        self.whole = sum(s for s in seconds if s) if all(seconds) else None
        self.all = self.bars.add_task("all tracks", total=self.whole, left="") if len(seconds) > 1 else None

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
            if not what:
                self.advance(self.before + done)

        try:
            yield tell
        finally:
            self.bars.remove_task(task)
            self.number += 1
            self.before += length or 0
            self.advance(self.before)

    def advance(self, done: float) -> None:
        """Show how much of all tracks is done, in the unit of their lengths; nothing where there is but one."""
        if self.all is not None:
            left = time_left(done, self.whole, time.monotonic() - self.began)
            self.bars.update(self.all, completed=done, left=left)


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
