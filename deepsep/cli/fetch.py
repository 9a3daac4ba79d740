"""Hub priors on their way in: progress, and the licence before the first use.

`separate` calls `pin` before `load_model`; `sample` and `priors download` call `fetch`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import DeepsepError
from ..models import card, files, hub
from ..models.download import is_offline
from ..progress import printable
from .common import say

if TYPE_CHECKING:
    from rich.progress import TaskID

__all__ = ["Downloads", "fetch", "pin", "pinned_name", "size_of"]


def size_of(count: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def pinned_name(found: hub.Resolved) -> str:
    """The spec that names these very files: org/name@commit for what came from the Hub."""
    return f"{found.name.partition('@')[0]}@{found.commit}" if found.commit else found.name


def fetch(
    spec: str, *, only: list[str] | None = None, offline: bool = False, quiet: bool = False
) -> hub.Resolved:
    """`hub.resolve` for people: config.json, then the licence where weights are still to come, then these.

    It asks the server no more than `hub.resolve` alone, but for one HEAD at a first download. `quiet` shows
    no progress; the licence is told even then, since it comes once.
    """
    first = hub.resolve(spec, offline=offline, only=[])
    if first.kind != "hub":
        return first
    name = pinned_name(first)
    try:
        hub.resolve(name, offline=True, only=only)
        return first
    except DeepsepError:
        facts = card.describe(files.read_json(first.folder))
        unknown = any(f"{source}.safetensors" not in facts["files"] for source in only or ())
        if unknown or is_offline(offline):
            raise
    if not quiet:
        say(f"{first.name} at commit {first.commit}: {', '.join(facts['sources'])}")
    say(f"licence of the weights{f' of {name}' if quiet else ''}: {card.licence_line(facts)}")
    with Downloads(quiet) as progress:
        hub.resolve(name, only=only, on_progress=progress)
    return first


def pin(
    priors: str, replaced: Mapping[str, str], *, offline: bool = False, quiet: bool = False
) -> tuple[str, dict[str, str]]:
    """What --priors and --prior name, fetched where needed; `load_model` of the result asks nobody.

    Hub names come back as org/name@commit, others as they are.
    """
    base = pinned_name(fetch(priors, offline=offline, quiet=quiet))
    others = {
        source: pinned_name(fetch(spec, only=[source], offline=offline, quiet=quiet))
        for source, spec in replaced.items()
    }
    return base, others


class Downloads:
    """Progress of downloads: a bar for each file on a terminal, a plain line for each elsewhere."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.live = sys.stderr.isatty() and not quiet
        self.tasks: dict[str, TaskID] = {}
        self.bar: Any = None

    def __enter__(self) -> Downloads:
        if self.live:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )

            self.bar = Progress(
                TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(),
                TransferSpeedColumn(), TimeRemainingColumn(), console=Console(stderr=True),
            )  # fmt: skip
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, name: str, done: int, total: int) -> None:
        """Hear how far a file is."""
        known = name in self.tasks
        if self.bar is not None:
            if not known:
                self.tasks[name] = self.bar.add_task(printable(name), total=total)
            self.bar.update(self.tasks[name], completed=done, total=total)
        elif not known and not self.quiet:
            self.tasks[name] = len(self.tasks)  # type: ignore[assignment]
            say(f"fetching {name} ({size_of(total)})")
