"""deepsep toy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..config import bounds, ranges
from .common import exit_on_signals, say
from .options import QuietOption

__all__ = ["toy"]


def toy(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    takes: Annotated[
        int, typer.Option(min=1, max=10_000, help="Training notes of each pitch and wave.")
    ] = 10,
    mixtures: Annotated[
        int, typer.Option(min=0, max=100_000, help="Mixtures of four notes, with their stems.")
    ] = 40,
    seconds: Annotated[float, typer.Option(min=0.05, max=60, help="Length of each.")] = 0.5,
    seed: Annotated[int, typer.Option(**bounds(ranges.Seed), help="Same seed: same notes.")] = 0,
    quiet: QuietOption = False,
) -> None:
    """Write toy instruments to train and to test on: sine, square, saw and triangle at the pitches of a piano.

    OUT/train/<wave>/ holds solo notes, OUT/songs/<number>/ four notes and their sum. 14.7 kHz, random phase,
    amplitude 0.8 to 1: the toy experiment of docs/thesis.md.

    Example: deepsep toy toy/
    """
    from ..recordings import toy as instruments

    with exit_on_signals():
        instruments.write(out, takes=takes, mixtures=mixtures, seconds=seconds, seed=seed)
    if not quiet:
        total = takes * len(instruments.PITCHES) * len(instruments.WAVES)
        say(f"{out}: {total} notes in train/, {mixtures} mixtures in songs/")
