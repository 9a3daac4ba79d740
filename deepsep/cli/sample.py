"""deepsep sample."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from .. import __version__
from ..config import (
    BUNDLED,
    DEVICE,
    SAMPLE_ITERATIONS,
    SAMPLE_SECONDS,
    SAMPLE_TEMPERATURE,
    SEED,
    bounds,
    ranges,
)
from ..errors import DeepsepError
from ..staging import StagedFiles
from .bars import Progress
from .common import loading, say, set_threads, usage
from .fetch import fetch, pinned_name
from .options import (
    OUTPUT,
    DeviceOption,
    OfflineOption,
    OverwriteOption,
    PriorsOption,
    QuietOption,
    SeedOption,
    ThreadsOption,
)

__all__ = ["sample"]

MOST_SECONDS = 120.0  # a draw is held whole, in 5 MB a second
FORMATS = ("wav", "flac", "mp3", "ogg")


def sample(
    source: Annotated[str, typer.Option(help="The instrument, such as drums.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="File to write: .wav, .flac, .mp3 or .ogg.", rich_help_panel=OUTPUT),
    ] = Path("sample.wav"),
    seconds: Annotated[float, typer.Option(min=0.1, max=MOST_SECONDS, help="Length.")] = SAMPLE_SECONDS,
    temperature: Annotated[
        float,
        typer.Option(
            **bounds(ranges.Temperature), help="1 draws from the prior; less is tamer, 0 a steady average."
        ),
    ] = SAMPLE_TEMPERATURE,
    sigma: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=bounds(ranges.NoiseLevel)["max"],
            help="Noise level of the prior; by default its lowest.",
        ),
    ] = None,
    iterations: Annotated[
        int, typer.Option(min=0, max=1000, help="Griffin-Lim steps for the phase; 0 leaves it noise.")
    ] = SAMPLE_ITERATIONS,
    overwrite: OverwriteOption = False,
    priors: PriorsOption = BUNDLED,
    offline: OfflineOption = False,
    seed: SeedOption = SEED,
    device: DeviceOption = DEVICE,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Hear what a prior has learned: draw from it and make the draw audible.

    A prior knows how much energy each frequency band has from moment to moment, and nothing of phase, which
    is made up here. Expect the colour and the movement of an instrument as rushing noise: no tune, no words,
    no lasting beat. A waveform prior (train-prior --domain waveform) draws the sound itself, noise of its level
    included. Mono, at the priors' sample rate.

    Example: deepsep sample --source drums -o drums.wav
    """
    kind = out.suffix[1:].lower()
    if kind not in FORMATS:
        raise usage(f"--out {out}: the name must end in .{', .'.join(FORMATS)}")
    if os.path.lexists(out) and not overwrite:
        raise DeepsepError(f"{out} exists; use --overwrite to replace it")
    found = fetch(priors, offline=offline, quiet=quiet, only=[source])
    place = pinned_name(found) if found.commit else Path(found.name).name
    with loading():
        from .. import api
    from ..output.stems import Encoding, StemWriter

    set_threads(threads)
    watched = sys.stderr.isatty() and not quiet
    progress = Progress([None], live=watched, lines=not (watched or quiet))
    with progress.bars, progress.track(str(out)) as tell:
        draw = api.sample_prior(
            source, priors=found.folder, seconds=seconds, temperature=temperature, sigma=sigma,
            iterations=iterations, seed=seed, device=device, on_progress=partial(tell, "making up a phase"),
        )  # fmt: skip
    made = f"deepsep {__version__}, a draw from the prior of {source}, seed {seed}; priors {place}"
    encoding = Encoding(format=kind, comment=made)
    with StagedFiles({source: out}, replace=overwrite) as staged:
        frames = draw.samples.shape[1]
        with StemWriter({source: out}, draw.rate, 1, encoding, frames=frames, staged=staged) as writer:
            writer.write(draw.samples[None])
        staged.commit()
    if not quiet:
        silent = "; silent throughout" if not draw.samples.any() else ""
        say(f"{out}: {seconds:g} s of {source} from {found.name}, seed {seed}{silent}")
