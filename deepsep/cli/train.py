"""deepsep train-prior, train-encoder and contrast-priors."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import (
    DOMAINS,
    OBJECTIVES,
    EncoderConfig,
    FlowConfig,
    SpectrumConfig,
    TrainConfig,
    WaveformConfig,
    WaveformEncoderConfig,
    WaveformFlowConfig,
)
from ..errors import DeepsepError
from .common import (
    INTERRUPTED,
    ThreadsOption,
    listed,
    only_our_lines,
    refuse,
    say,
    set_threads,
    stoppable,
    typed_options,
    usage,
)

__all__ = ["contrast_priors", "train_encoder", "train_prior"]

TRAIN, FLOW, NETWORK = TrainConfig(), FlowConfig(), EncoderConfig()
WAVE, WAVE_FLOW, WAVE_NETWORK = WaveformConfig(), WaveformFlowConfig(), WaveformEncoderConfig()
OF_SAMPLES = ("rate", "window", "level", "squeeze", "mask", "shuffle", "split", "sigma_min", "sigma_max")
OF_BANDS_ENCODER = ("frames", "widths", "bottleneck", "deep", "workers")
OF_SAMPLES_ENCODER = ("hidden", "layers")

SoloFolders = Annotated[
    list[str],
    typer.Argument(
        metavar="[NAME=]DIR...",
        help="Folders of solo recordings, source=DIR; or one folder that has a subfolder for each source.",
    ),
]
MinutesOption = Annotated[float | None, typer.Option(help="Stop after this long, resumed runs together.")]
StepsOption = Annotated[int, typer.Option(min=1, help="Stop after as many steps, resumed runs together.")]
WorkersOption = Annotated[int, typer.Option(min=0, help="Processes that simulate mixtures.")]
SeedOption = Annotated[int, typer.Option(help="Of weights, order and augmentation.")]
Bf16Option = Annotated[bool, typer.Option("--bf16", help="Faster networks on CPUs with bfloat16.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on from the folder's last checkpoint.")]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Start afresh where a finished or begun training lies.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]


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
    minutes: MinutesOption = None,
    steps: StepsOption = TRAIN.steps,
    batch: Annotated[int, typer.Option(min=1, help="Examples a step.")] = TRAIN.batch,
    frames: Annotated[
        int, typer.Option(min=8, help="Frames of a training example; 43 a second.")
    ] = TRAIN.frames,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = TRAIN.lr,
    flow_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Steps of the flow, by default {FLOW.steps}; on samples of each block, {WAVE_FLOW.flows}.",
        ),
    ] = None,
    hidden: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Width of the couplings' networks, by default {FLOW.hidden}; on samples {WAVE_FLOW.hidden}.",
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Their dilated layers, by default {FLOW.layers}; on samples {WAVE_FLOW.layers}."
        ),
    ] = None,
    domain: Annotated[str, typer.Option(help="spectral (log band powers) or waveform (samples).")] = DOMAINS[
        0
    ],
    rate: Annotated[int, typer.Option(min=1000, help="Waveform: sample rate of the prior.")] = WAVE.rate,
    window: Annotated[
        int, typer.Option(min=64, help="Waveform: samples of a training example, and of a window later.")
    ] = WAVE.window,
    level: Annotated[
        str, typer.Option(help="Waveform: relative to a mixture of RMS 1, or absolute: samples as they are.")
    ] = WAVE.level,
    squeeze: Annotated[
        str, typer.Option(help="Waveform: factors of the blocks' squeezes, such as 8,2,2.")
    ] = ",".join(map(str, WAVE_FLOW.squeeze)),
    mask: Annotated[
        str, typer.Option(help="Waveform: what a coupling is given: channel, checkerboard, or alternate.")
    ] = WAVE_FLOW.mask,
    shuffle: Annotated[
        str, typer.Option(help="Waveform: before a coupling, conv (invertible, 1x1) or flip.")
    ] = WAVE_FLOW.shuffle,
    split: Annotated[
        bool, typer.Option("--split", help="Waveform: after each block half the channels leave.")
    ] = WAVE_FLOW.split,
    sigma_min: Annotated[float, typer.Option(help="Waveform: lowest noise level.")] = WAVE_FLOW.sigma_min,
    sigma_max: Annotated[float, typer.Option(help="Waveform: highest noise level.")] = WAVE_FLOW.sigma_max,
    score_weight: Annotated[
        float, typer.Option(min=0, help="Weight of denoising score matching beside likelihood.")
    ] = 0.0,
    licence: Annotated[
        str, typer.Option(help="Licence of the trained weights, for the model card.")
    ] = "unspecified",
    seed: SeedOption = TRAIN.seed,
    bf16: Bf16Option = False,
    threads: ThreadsOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train one instrument's flow prior on solo recordings of it. Ctrl-C saves; --resume goes on.

    Example: deepsep train-prior --source vocals data/vocals -o mypriors/
    """
    if domain not in DOMAINS:
        raise usage(f"--domain {domain} is not one of {', '.join(DOMAINS)}")
    typed = typed_options(context)
    if domain == "waveform":
        refuse(typed, ["frames"], "is of spectral priors; --window is that of samples")
    else:
        refuse(typed, OF_SAMPLES, "is of priors of samples; add --domain waveform, or leave it out")
    waveform = None
    flow: FlowConfig | WaveformFlowConfig
    try:
        if domain == "waveform":
            waveform = WaveformConfig(rate=rate, window=window, level=level)
            flow = WaveformFlowConfig(
                squeeze=numbers(squeeze, "--squeeze", "8,2"), flows=flow_steps or WAVE_FLOW.flows, mask=mask,
                shuffle=shuffle, split=split, hidden=hidden or WAVE_FLOW.hidden,
                layers=layers or WAVE_FLOW.layers, sigma_min=sigma_min, sigma_max=sigma_max,
            )  # fmt: skip
        else:
            flow = FlowConfig(
                steps=flow_steps or FLOW.steps, hidden=hidden or FLOW.hidden, layers=layers or FLOW.layers
            )
    except DeepsepError as error:
        raise usage(str(error)) from None
    config = training_config(minutes, steps, batch, window if waveform else frames, lr, seed, bf16)
    with display_of(f"prior of {source}", quiet) as display:
        from ..training import runs as recipes

        set_threads(threads)
        status, finished = recipes.train_prior(
            source, data, out, config=config, flow=flow, spectrum_config=SpectrumConfig(), waveform=waveform,
            score_weight=score_weight,
            resume=resume, overwrite=overwrite, licence=licence,
            on_files=display.files, on_note=display.note, on_progress=display.step,
        )  # fmt: skip
    finish(status, finished, f"{out}/{source}.safetensors", quiet)


def train_encoder(
    context: typer.Context,
    data: SoloFolders,
    priors: Annotated[Path, typer.Option(help="Priors folder; the encoder is written into it.")],
    objective: Annotated[
        str, typer.Option(help="simulated (mixtures of solo recordings), elbo (the priors judge), or both.")
    ] = "both",
    mixtures: Annotated[Path | None, typer.Option(help="Unlabelled songs for the ELBO.")] = None,
    elbo_weight: Annotated[float, typer.Option(min=0, help="Weight of the ELBO in both.")] = 0.1,
    minutes: MinutesOption = None,
    steps: StepsOption = TRAIN.steps,
    batch: Annotated[int, typer.Option(min=2, help="Mixtures a step.")] = 8,
    frames: Annotated[
        int, typer.Option(min=8, help="Frames of a training example, a multiple of 8 with 3 levels.")
    ] = 96,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1.5e-3,
    widths: Annotated[
        str, typer.Option(help="Channels of the network's levels; each level halves bands and frames.")
    ] = ",".join(map(str, NETWORK.widths)),
    bottleneck: Annotated[
        int, typer.Option(min=1, help="Hidden units of the network's dense layers along the bands.")
    ] = NETWORK.bottleneck,
    deep: Annotated[
        int, typer.Option(min=0, help="Further residual blocks at its deepest level, for a longer view.")
    ] = 3,
    hidden: Annotated[
        int, typer.Option(min=1, help="Width of the network on samples.")
    ] = WAVE_NETWORK.hidden,
    layers: Annotated[
        int, typer.Option(min=1, help="Dilated layers of the network on samples.")
    ] = WAVE_NETWORK.layers,
    workers: WorkersOption = 1,
    seed: SeedOption = TRAIN.seed,
    bf16: Bf16Option = False,
    threads: ThreadsOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train the amortized posterior of a priors folder. Ctrl-C saves; --resume goes on.

    Example: deepsep train-encoder --priors mypriors/ data/
    """
    if objective not in OBJECTIVES:
        raise usage(f"--objective {objective} is not one of {', '.join(OBJECTIVES)}")
    if mixtures is not None and objective == "simulated":
        raise usage("--mixtures is for the ELBO; --objective simulated has none")
    network = network_of(widths, bottleneck, deep)
    if frames % 2 ** len(network.widths):
        raise usage(f"--frames must be a multiple of {2 ** len(network.widths)}")
    config = training_config(minutes, steps, batch, frames, lr, seed, bf16)
    with display_of("encoder", quiet) as display:
        from ..models import folder as models
        from ..training import runs as recipes

        set_threads(threads)
        known = models.read_config(priors)
        folders = source_folders(data, known["sources"])
        typed = typed_options(context)
        if waveform := models.waveform_of(known):
            refuse(typed, OF_BANDS_ENCODER, "is of the spectral encoder, and these priors are of samples")
            status, finished = recipes.train_waveform_encoder(
                priors, folders, config=replace(config, frames=waveform.window),
                network=WaveformEncoderConfig(hidden=hidden, layers=layers), objective=objective,
                elbo_weight=elbo_weight, unlabelled=mixtures, resume=resume, overwrite=overwrite,
                on_files=display.files, on_note=display.note, on_progress=display.step,
            )  # fmt: skip
        else:
            refuse(typed, OF_SAMPLES_ENCODER, "is of encoders on samples, and these priors are spectral")
            status, finished = recipes.train_encoder(
                priors, folders, config=config, network=network, objective=objective,
                elbo_weight=elbo_weight, unlabelled=mixtures, workers=workers, resume=resume,
                overwrite=overwrite, on_files=display.files, on_note=display.note, on_progress=display.step,
            )  # fmt: skip
    finish(status, finished, f"{priors}/encoder.safetensors", quiet)


def contrast_priors(
    data: SoloFolders,
    priors: Annotated[Path, typer.Option(help="Priors folder to start from; it stays as it is.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Priors folder to write to.")],
    likelihood_weight: Annotated[
        float, typer.Option(min=0, help="Weight of the bits per dimension beside the SDR in dB.")
    ] = 0.5,
    minutes: MinutesOption = None,
    steps: StepsOption = TRAIN.steps,
    batch: Annotated[int, typer.Option(min=2, help="Mixtures a step.")] = 4,
    frames: Annotated[int, typer.Option(min=8, help="Frames of a training example; 43 a second.")] = 64,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 4e-5,
    workers: WorkersOption = 1,
    seed: SeedOption = TRAIN.seed,
    bf16: Bf16Option = False,
    threads: ThreadsOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train priors on against one another, for Langevin to tell them apart. Ctrl-C saves; --resume goes on.

    Example: deepsep contrast-priors --priors mypriors/ data/ -o sharper/
    """
    config = training_config(minutes, steps, batch, frames, lr, seed, bf16)
    config = replace(config, ema=0.998, warmup=50)
    with display_of("contrast", quiet) as display:
        from ..models import folder as models
        from ..training.contrast import contrast_priors as run

        set_threads(threads)
        folders = source_folders(data, models.read_config(priors)["sources"])
        status, finished = run(
            priors, folders, out, config=config, likelihood_weight=likelihood_weight, workers=workers,
            resume=resume, overwrite=overwrite,
            on_files=display.files, on_note=display.note, on_progress=display.step,
        )  # fmt: skip
    finish(status, finished, str(out), quiet)


def numbers(text: str, option: str, example: str) -> tuple[int, ...]:
    """A list of whole numbers as typed; usage if it is none."""
    try:
        return tuple(map(int, listed(text) or ()))
    except ValueError:
        raise usage(f"{option} {text} is not a list of numbers such as {example}") from None


def network_of(widths: str, bottleneck: int, deep: int) -> EncoderConfig:
    """The encoder's shape as typed, with as much context as it can use; usage if that is none."""
    sizes = numbers(widths, "--widths", "8,16")
    try:
        needed = EncoderConfig(widths=sizes, deep=deep, context=2**20).reach
        unit = 2 ** len(sizes)
        return EncoderConfig(
            widths=sizes, bottleneck=bottleneck, deep=deep, context=-(-needed // unit) * unit
        )
    except DeepsepError as error:
        raise usage(f"--widths {widths}: {error}") from None


def training_config(
    minutes: float | None, steps: int, batch: int, frames: int, lr: float, seed: int, bf16: bool
) -> TrainConfig:
    """One run's settings; a time limit alone is not cut short by the default number of steps."""
    if minutes is None:
        minutes = float("inf")
    elif steps == TRAIN.steps:
        steps = 10**9
    if not minutes > 0 or not 0 < lr < float("inf"):
        raise usage("--minutes and --lr must be more than 0")
    return TrainConfig(steps=steps, minutes=minutes, batch=batch, frames=frames, lr=lr, seed=seed, bf16=bf16)


def source_folders(items: list[str], sources: list[str]) -> dict[str, list[Path]]:
    """NAME=DIR items, and folders with a subfolder for each source, as source -> folders."""
    folders: dict[str, list[Path]] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if equals and not Path(item).exists():
            if name not in sources:
                raise DeepsepError(f"{item}: unknown source {name!r}; the priors are of {', '.join(sources)}")
            folders.setdefault(name, []).append(Path(value))
            continue
        if not Path(item).is_dir():
            raise DeepsepError(f"{item}: no such folder")
        inside = {s: Path(item) / s for s in sources if (Path(item) / s).is_dir()}
        if not inside:
            raise DeepsepError(f"{item}: no subfolder named after a source ({', '.join(sources)})")
        for s, path in inside.items():
            folders.setdefault(s, []).append(path)
    return folders


@contextmanager
def display_of(title: str, quiet: bool) -> Iterator[TrainingDisplay]:
    """A run's display. Within, being stopped or a disk that fails is one line, and nothing half-written stays."""
    display = None
    try:
        with stoppable(), only_our_lines(), TrainingDisplay(title, quiet) as display:
            yield display
    except KeyboardInterrupt:
        step = display.last_step if display else 0
        say(
            f"interrupted at step {step}; the last checkpoint stays, go on with --resume"
            if step
            else "interrupted before the first step; recordings are read again next time"
        )
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        raise DeepsepError(f"{error.filename or title}: {error.strerror or error}") from error


class TrainingDisplay:
    """Progress of a training run: a live line on a terminal, a plain one every half minute elsewhere."""

    def __init__(self, title: str, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.title, self.quiet = title, quiet
        self.live = sys.stderr.isatty() and not quiet
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=8), TextColumn("{task.fields[line]}"),
            console=Console(stderr=True), disable=not self.live,
        )  # fmt: skip
        self.task = self.bar.add_task(title, total=1.0, line="")
        self.told = float("-inf")
        self.last_step = 0

    def __enter__(self) -> TrainingDisplay:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, fraction: float, line: str) -> None:
        """Updates the display."""
        import time

        self.bar.update(self.task, completed=fraction, line=line)
        if not self.live and not self.quiet and time.monotonic() - self.told > 30:
            self.told = time.monotonic()
            say(f"{self.title}: {line}")

    def files(self, done: int, total: int) -> None:
        """While recordings are analysed."""
        self.show(0.0, f"reading recordings {done}/{total}")

    def note(self, line: str) -> None:
        """Something that a user should know, once."""
        if not self.quiet:
            say(line)

    def step(self, status: Any) -> None:
        """After a training step."""
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


def finish(status: Any, finished: bool, target: str, quiet: bool) -> None:
    """The last line of a training run."""
    if not finished:
        say(f"interrupted at step {status.step}; saved to {target}, go on with --resume")
        raise typer.Exit(INTERRUPTED)
    if not quiet:
        held_out = ", ".join(f"{k} {v:.3f}" for k, v in status.held_out.items())
        say(f"{target}: {status.step} steps; held out: {held_out}")
