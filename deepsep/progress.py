"""How the library tells what it is doing: it never prints, it calls back."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Listener", "Status", "TrainResult", "part_of", "printable"]

# controls, among them those that start escape sequences; what reverses text; ends of lines; halves of pairs
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Text such as a file's name, safe to show: what could steer a terminal, or be no text at all, becomes "?"."""
    return UNPRINTABLE.sub("?", text)


def part_of(number: int, count: int, tell: Callable[[float], None] | None) -> Callable[[float], None]:
    """What hears the share done of one part among several alike, and tells that of all, if anybody listens."""

    def hear(share: float) -> None:
        if tell:
            tell((number + share) / count)

    return hear


@dataclass(frozen=True, slots=True)
class Status:
    """Where a training run is.

    fraction runs from 0 to 1; rate is in steps a second, eta in seconds. figures are smoothed over steps; held_out
    are those of recordings that are never trained on.
    """

    step: int
    fraction: float
    rate: float
    eta: float
    figures: dict[str, float] = field(default_factory=dict)
    held_out: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a training run ended: its last status, and whether it came to its end (False after Ctrl-C).

    `former` is the folder that keeps what the run replaced, where it did not come to its end.
    """

    status: Status
    finished: bool
    former: Path | None = None


@dataclass(frozen=True, slots=True)
class Listener:
    """What a training run calls: `files` (read, in all), `note` (a line a user should see), `step` after each step."""

    files: Callable[[int, int], None] | None = None
    note: Callable[[str], None] | None = None
    step: Callable[[Status], None] | None = None
