"""deepsep train-prior."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import (
    DEVICE,
    PRIOR_FRAMES,
    DomainName,
    Level,
    Mask,
    PriorTraining,
    Shuffle,
    SpectralFlowConfig,
    WaveformConfig,
    WaveformFlowConfig,
    bounds,
    from_dict,
    ranges,
)
from .common import as_usage, set_threads
from .options import (
    NETWORK,
    TRAINING,
    Bf16Option,
    DeviceOption,
    LrOption,
    MinutesOption,
    OverwriteTrainingOption,
    QuietOption,
    ResumeOption,
    StepsOption,
    ThreadsOption,
    TrainingSeedOption,
)
from .training import finish, given, numbers, refuse_other_domains, start_of, training_display, training_of

if TYPE_CHECKING:
    from ..inference.domain import Domain

__all__ = ["train_prior"]

PRIOR, FLOW = PriorTraining(), SpectralFlowConfig()
WAVE, WAVE_FLOW = WaveformConfig(), WaveformFlowConfig()
WAVEFORM = "Waveform priors (--domain waveform)"

# which options shape what, by domain; an option of the other domain would do nothing
OPTIONS: dict[DomainName, Sequence[str]] = {
    "spectral": ("frames",),
    "waveform": (
        "rate", "window", "level", "squeeze", "mask", "shuffle", "split", "sigma_min", "sigma_max",
    ),
}  # fmt: skip


def train_prior(
    context: typer.Context,
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...", help="Folders of solo recordings; a small one is not drowned by a large one."
        ),
    ],
    source: Annotated[str, typer.Option(help="The instrument's name, such as vocals.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Priors folder to write to.")] = Path("priors"),
    licence: Annotated[
        str | None,
        typer.Option(
            help="Licence of the trained weights, for the model card; by default what is stated already, or "
            "unspecified."
        ),
    ] = None,
    domain: Annotated[
        DomainName, typer.Option(help="What the prior is a density of: log band powers, or samples.")
    ] = "spectral",
    minutes: MinutesOption = None,
    steps: StepsOption = PRIOR.steps,
    batch: Annotated[
        int, typer.Option(**bounds(ranges.BatchSize), help="Examples a step.", rich_help_panel=TRAINING)
    ] = PRIOR.batch,
    frames: Annotated[
        int | None,
        typer.Option(
            **bounds(ranges.Frames),
            help=f"Frames of a training example, 43 a second; by default {PRIOR_FRAMES}.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    lr: LrOption = PRIOR.lr,
    score_weight: Annotated[
        float,
        typer.Option(
            **bounds(ranges.Weight),
            help="Weight of denoising score matching beside likelihood.",
            rich_help_panel=TRAINING,
        ),
    ] = PRIOR.score_weight,
    seed: TrainingSeedOption = PRIOR.seed,
    resume: ResumeOption = False,
    overwrite: OverwriteTrainingOption = False,
    flow_steps: Annotated[
        int | None,
        typer.Option(
            **bounds(ranges.Depth),
            help=f"Steps of the flow, by default {FLOW.steps}; on samples of each block, {WAVE_FLOW.flows}.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    hidden: Annotated[
        int | None,
        typer.Option(
            **bounds(ranges.Width),
            help=f"Width of the couplings' networks, by default {FLOW.hidden}; on samples {WAVE_FLOW.hidden}.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(
            **bounds(ranges.Depth),
            help=f"Dilated layers of the couplings' networks, by default {FLOW.layers}; on samples {WAVE_FLOW.layers}.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    rate: Annotated[
        int,
        typer.Option(**bounds(ranges.Rate), help="Sample rate of the prior in Hz.", rich_help_panel=WAVEFORM),
    ] = WAVE.rate,
    window: Annotated[
        int,
        typer.Option(
            **bounds(ranges.Window),
            help="Samples of a training example, and of a window later.",
            rich_help_panel=WAVEFORM,
        ),
    ] = WAVE.window,
    level: Annotated[
        Level,
        typer.Option(
            help="relative to a mixture of RMS 1, or absolute: samples as they are.", rich_help_panel=WAVEFORM
        ),
    ] = WAVE.level,
    squeeze: Annotated[
        str,
        typer.Option(
            help="By how much each block squeezes time into channels, such as 8,2,2.",
            rich_help_panel=WAVEFORM,
        ),
    ] = ",".join(map(str, WAVE_FLOW.squeeze)),
    mask: Annotated[
        Mask,
        typer.Option(
            help="What a coupling is given: channels, frames (checkerboard), or each in turn.",
            rich_help_panel=WAVEFORM,
        ),
    ] = WAVE_FLOW.mask,
    shuffle: Annotated[
        Shuffle,
        typer.Option(
            help="Before a coupling: an invertible 1x1 convolution, or channels reversed.",
            rich_help_panel=WAVEFORM,
        ),
    ] = WAVE_FLOW.shuffle,
    split: Annotated[
        bool,
        typer.Option(
            "--split",
            help="Let half of the channels leave the flow after each block, as in Glow.",
            rich_help_panel=WAVEFORM,
        ),
    ] = WAVE_FLOW.split,
    sigma_min: Annotated[
        float, typer.Option(**bounds(ranges.NoiseLevel), help="Lowest noise level.", rich_help_panel=WAVEFORM)
    ] = WAVE_FLOW.sigma_min,
    sigma_max: Annotated[
        float,
        typer.Option(**bounds(ranges.NoiseLevel), help="Highest noise level.", rich_help_panel=WAVEFORM),
    ] = WAVE_FLOW.sigma_max,
    device: DeviceOption = DEVICE,
    bf16: Bf16Option = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train one instrument's flow prior on solo recordings of it. Ctrl-C saves; --resume goes on.

    Example: deepsep train-prior --source vocals data/vocals -o mypriors/
    """
    refuse_other_domains(context, OPTIONS, domain)
    with as_usage():
        flow = FLOWS[domain](context.params)
    training = training_of(
        PriorTraining, minutes=minutes, steps=steps, batch=batch, frames=frames, lr=lr, seed=seed, bf16=bf16,
        device=device, score_weight=score_weight,
    )  # fmt: skip
    with training_display(f"prior of {source}", quiet) as display:
        from ..training.prior import train_prior as run

        set_threads(threads)
        result = run(
            source, data, out, domain=DOMAINS[domain](context.params), flow=flow, training=training,
            licence=licence, start=start_of(resume, overwrite), listener=display.listener,
        )  # fmt: skip
    finish(result, f"{out}/{source}.safetensors", quiet)


def spectral_flow(options: Mapping[str, Any]) -> SpectralFlowConfig:
    """The shape of a flow on bands, as typed."""
    shape = given(steps=options["flow_steps"], hidden=options["hidden"], layers=options["layers"])
    return from_dict(SpectralFlowConfig, shape)


def waveform_flow(options: Mapping[str, Any]) -> WaveformFlowConfig:
    """The shape of a flow on samples, as typed."""
    waveform_config(options)  # what is wrong there is a usage mistake too
    shape = {"flows": options["flow_steps"], "squeeze": numbers(options["squeeze"], "--squeeze", "8,2")}
    names = ("hidden", "layers", "mask", "shuffle", "split", "sigma_min", "sigma_max")
    shape |= {name: options[name] for name in names}
    return from_dict(WaveformFlowConfig, given(**shape))


def waveform_config(options: Mapping[str, Any]) -> WaveformConfig:
    """How waveform priors hear them, as typed."""
    return WaveformConfig(rate=options["rate"], window=options["window"], level=options["level"])


def spectral_domain(options: Mapping[str, Any]) -> Domain:
    """The domain of bands."""
    from ..spectral.domain import SpectralDomain

    return SpectralDomain()


def waveform_domain(options: Mapping[str, Any]) -> Domain:
    """The domain of samples, as typed."""
    from ..waveform.domain import WaveformDomain

    return WaveformDomain(waveform=waveform_config(options))


FLOWS: dict[DomainName, Callable[[Mapping[str, Any]], SpectralFlowConfig | WaveformFlowConfig]] = {
    "spectral": spectral_flow,
    "waveform": waveform_flow,
}
DOMAINS: dict[DomainName, Callable[[Mapping[str, Any]], Domain]] = {
    "spectral": spectral_domain,
    "waveform": waveform_domain,
}
