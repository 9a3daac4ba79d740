"""deepsep train-encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import (
    DEVICE,
    ENCODER_FRAMES,
    DomainName,
    EncoderTraining,
    Objective,
    Optimizer,
    SpectralEncoderConfig,
    WaveformEncoderConfig,
    bounds,
    from_dict,
    ranges,
)
from ..errors import DeepsepError
from .common import as_usage, set_threads, usage
from .fetch import fetch, pinned_name
from .options import (
    NETWORK,
    TRAINING,
    Bf16Option,
    DeviceOption,
    LrOption,
    MinutesOption,
    MixturesOption,
    OverwriteTrainingOption,
    QuietOption,
    RecordingFolders,
    ResumeOption,
    StepsOption,
    ThreadsOption,
    TrainingSeedOption,
    WorkersOption,
)
from .training import (
    finish,
    given,
    numbers,
    refuse_other_domains,
    source_folders,
    start_of,
    training_display,
    training_of,
)

if TYPE_CHECKING:
    from ..inference.encoder import AmortizedPosterior

__all__ = ["train_encoder"]

ENCODER, NET, WAVE_NET = EncoderTraining(), SpectralEncoderConfig(), WaveformEncoderConfig()
WAVEFORM = "Waveform encoders"

OPTIONS: dict[DomainName, Sequence[str]] = {
    "spectral": ("frames", "widths", "bottleneck", "deep", "workers"),
    "waveform": ("hidden", "layers"),
}


def train_encoder(
    context: typer.Context,
    data: RecordingFolders,
    priors: Annotated[Path, typer.Option(help="Priors folder; the encoder is written into it.")],
    objective: Annotated[
        Objective,
        typer.Option(
            help="simulated (mixtures of solo recordings), elbo (the priors judge), both, or remix (simulated, and "
            "songs taken apart and mixed anew).",
            rich_help_panel=TRAINING,
        ),
    ] = ENCODER.objective,
    mixtures: Annotated[
        Path | None, typer.Option(help="Unlabelled songs for elbo, both or remix.", rich_help_panel=TRAINING)
    ] = None,
    elbo_weight: Annotated[
        float,
        typer.Option(**bounds(ranges.Weight), help="Weight of the ELBO in both.", rich_help_panel=TRAINING),
    ] = ENCODER.elbo_weight,
    remix_weight: Annotated[
        float,
        typer.Option(
            **bounds(ranges.Weight), help="Weight of mixed songs in remix.", rich_help_panel=TRAINING
        ),
    ] = ENCODER.remix_weight,
    set_share: Annotated[
        float,
        typer.Option(
            **bounds(ranges.Share),
            help="Share of mixtures that have a recording of several sources (NAME+NAME=DIR), if there are any.",
            rich_help_panel=TRAINING,
        ),
    ] = ENCODER.set_share,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="PRIORS",
            help="Start from the weights of these priors' encoder (bundled, a folder, or org/name), and its shape.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    minutes: MinutesOption = None,
    steps: StepsOption = ENCODER.steps,
    batch: MixturesOption = ENCODER.batch,
    frames: Annotated[
        int | None,
        typer.Option(
            **bounds(ranges.Frames),
            help=f"Frames of a training example, a multiple of {NET.multiple} with {len(NET.widths)} levels; "
            f"by default {ENCODER_FRAMES}.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    lr: LrOption = ENCODER.lr,
    optimizer: Annotated[
        Optimizer,
        typer.Option(
            help="muon (orthogonalised momentum for hidden layers, AdamW for the rest), or adamw for all layers.",
            rich_help_panel=TRAINING,
        ),
    ] = ENCODER.optimizer,
    seed: TrainingSeedOption = ENCODER.seed,
    resume: ResumeOption = False,
    overwrite: OverwriteTrainingOption = False,
    widths: Annotated[
        str | None,
        typer.Option(
            help="Channels of the network's levels; each level halves bands and frames. By default those of --init, "
            f"or {','.join(map(str, NET.widths))}.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    bottleneck: Annotated[
        int | None,
        typer.Option(
            **bounds(ranges.Width),
            help="Hidden units of its dense layers along the bands; by default those of --init, "
            f"or {NET.bottleneck}.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    deep: Annotated[
        int | None,
        typer.Option(
            **bounds(ranges.Deep),
            help="Further residual blocks at its deepest level, for a longer view; by default those of --init, "
            f"or {NET.deep}.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    hidden: Annotated[
        int | None,
        typer.Option(
            **bounds(ranges.Width),
            help=f"Width of the network on samples; by default that of --init, or {WAVE_NET.hidden}.",
            rich_help_panel=WAVEFORM,
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(
            **bounds(ranges.Depth),
            help=f"Dilated layers of the network on samples; by default those of --init, or {WAVE_NET.layers}.",
            rich_help_panel=WAVEFORM,
        ),
    ] = None,
    workers: WorkersOption = ENCODER.workers,
    device: DeviceOption = DEVICE,
    bf16: Bf16Option = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train the amortized posterior of a priors folder. Ctrl-C saves; --resume goes on.

    Example: deepsep train-encoder --priors mypriors/ data/
    """
    if mixtures is not None and objective == "simulated":
        raise usage("--mixtures is for the ELBO and remix; --objective simulated has no use for it")
    if mixtures is None and objective == "remix":
        raise usage("--objective remix needs unlabelled songs; give --mixtures FOLDER")
    sizes = numbers(widths, "--widths", "8,16") if widths is not None else None
    chosen: dict[DomainName, dict[str, Any]] = {
        "spectral": given(widths=sizes, bottleneck=bottleneck, deep=deep),
        "waveform": given(hidden=hidden, layers=layers),
    }
    with as_usage(f"--widths {widths}: " if widths else ""):
        unet = from_dict(SpectralEncoderConfig, chosen["spectral"])
    with as_usage():
        from_dict(WaveformEncoderConfig, chosen["waveform"])
    if frames is not None and (widths or not init) and frames % unet.multiple:
        raise usage(f"--frames must be a multiple of {unet.multiple}")
    training = training_of(
        EncoderTraining, minutes=minutes, steps=steps, batch=batch, frames=frames, lr=lr, seed=seed, bf16=bf16,
        device=device, objective=objective, optimizer=optimizer, elbo_weight=elbo_weight,
        remix_weight=remix_weight, mixtures=mixtures, workers=workers, set_share=set_share,
    )  # fmt: skip
    with training_display("encoder", quiet) as display:
        from ..models import folder
        from ..training.encoder import network_of
        from ..training.encoder import train_encoder as run

        set_threads(threads)
        known = folder.read_config(priors)
        refuse_other_domains(context, OPTIONS, known["domain"])
        before = encoder_of(init, quiet)
        result = run(
            priors, source_folders(data, known["sources"], display.listener.note, sets=True),
            network=network_of(folder.domain_of(known), before, **chosen[known["domain"]]),
            training=training, init=before,
            start=start_of(resume, overwrite), listener=display.listener,
        )  # fmt: skip
    finish(result, f"{priors}/encoder.safetensors", quiet)


def encoder_of(priors: str | None, quiet: bool) -> AmortizedPosterior | None:
    """The encoder of priors that a user named. DeepsepError for priors that have none."""
    if priors is None:
        return None
    from ..models.folder import load_model

    encoder = load_model(pinned_name(fetch(priors, quiet=quiet))).encoder
    if encoder is None:
        raise DeepsepError(f"{priors}: has no encoder to start from")
    return encoder
