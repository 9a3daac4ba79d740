"""deepsep contrast-priors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..config import CONTRAST_FRAMES, DEVICE, ContrastTraining, bounds, ranges
from .common import set_threads
from .options import (
    TRAINING,
    Bf16Option,
    DeviceOption,
    LrOption,
    MinutesOption,
    MixturesOption,
    OverwriteTrainingOption,
    QuietOption,
    ResumeOption,
    SoloFolders,
    StepsOption,
    ThreadsOption,
    TrainingSeedOption,
    WorkersOption,
)
from .training import finish, source_folders, start_of, training_display, training_of

__all__ = ["contrast_priors"]

CONTRAST = ContrastTraining()


def contrast_priors(
    data: SoloFolders,
    priors: Annotated[Path, typer.Option(help="Priors folder to start from; it stays as it is.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Priors folder to write to.")],
    likelihood_weight: Annotated[
        float,
        typer.Option(
            **bounds(ranges.Weight),
            help="Weight of the bits per dimension beside the SDR in dB.",
            rich_help_panel=TRAINING,
        ),
    ] = CONTRAST.likelihood_weight,
    minutes: MinutesOption = None,
    steps: StepsOption = CONTRAST.steps,
    batch: MixturesOption = CONTRAST.batch,
    frames: Annotated[
        int | None,
        typer.Option(
            **bounds(ranges.Frames),
            help=f"Frames of a training example, 43 a second; by default {CONTRAST_FRAMES}.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    lr: LrOption = CONTRAST.lr,
    seed: TrainingSeedOption = CONTRAST.seed,
    resume: ResumeOption = False,
    overwrite: OverwriteTrainingOption = False,
    workers: WorkersOption = CONTRAST.workers,
    device: DeviceOption = DEVICE,
    bf16: Bf16Option = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train priors on against one another, for Langevin to tell them apart. Ctrl-C saves; --resume goes on.

    Example: deepsep contrast-priors --priors mypriors/ data/ -o sharper/
    """
    training = training_of(
        ContrastTraining, minutes=minutes, steps=steps, batch=batch, frames=frames, lr=lr, seed=seed, bf16=bf16,
        device=device, likelihood_weight=likelihood_weight, workers=workers,
    )  # fmt: skip
    with training_display("contrast", quiet) as display:
        from ..models import folder
        from ..training.contrast import contrast_priors as run

        set_threads(threads)
        result = run(
            priors, source_folders(data, folder.read_config(priors)["sources"], display.listener.note), out,
            training=training,
            start=start_of(resume, overwrite), listener=display.listener,
        )  # fmt: skip
    finish(result, str(out), quiet)
