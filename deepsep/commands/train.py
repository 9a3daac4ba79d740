"""deepsep train-prior and train-encoder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import EncoderConfig, FlowConfig, SpectrumConfig, TrainConfig
from ..errors import DeepsepError
from .common import (
    INTERRUPTED,
    ThreadsOption,
    say,
    set_threads,
    usage,
)

__all__ = ["train_encoder", "train_prior"]

TRAIN, FLOW = TrainConfig(), FlowConfig()


def train_prior(
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...", help="Folders of solo recordings; each is drawn from equally often."
        ),
    ],
    source: Annotated[str, typer.Option(help="The instrument's name, such as vocals.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Priors folder to write to.")] = Path("priors"),
    minutes: Annotated[float | None, typer.Option(help="Stop after this long.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Stop after as many steps.")] = TRAIN.steps,
    batch: Annotated[int, typer.Option(min=1, help="Examples a step.")] = TRAIN.batch,
    frames: Annotated[
        int, typer.Option(min=8, help="Frames of a training example; 43 a second.")
    ] = TRAIN.frames,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = TRAIN.lr,
    flow_steps: Annotated[int, typer.Option(help="Steps of the flow.")] = FLOW.steps,
    hidden: Annotated[int, typer.Option(help="Width of the couplings' networks.")] = FLOW.hidden,
    score_weight: Annotated[
        float, typer.Option(help="Weight of denoising score matching beside likelihood.")
    ] = 0.0,
    licence: Annotated[
        str, typer.Option(help="Licence of the trained weights, for the model card.")
    ] = "unspecified",
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = TRAIN.seed,
    bf16: Annotated[bool, typer.Option("--bf16", help="Faster networks on CPUs with bfloat16.")] = False,
    threads: ThreadsOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the folder's last checkpoint.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Train one instrument's flow prior on solo recordings of it. Ctrl-C saves; --resume goes on.

    Example: deepsep train-prior --source vocals data/vocals -o mypriors/
    """
    from .. import recipes

    set_threads(threads)
    config = training_config(minutes, steps, batch, frames, lr, seed, bf16)
    spectrum = SpectrumConfig()
    from ..spectrum import band_edges

    flow = FlowConfig(channels=len(band_edges(spectrum)) - 1, steps=flow_steps, hidden=hidden)
    with TrainingDisplay(f"prior of {source}", quiet) as display:
        status, finished = recipes.train_prior(
            source, data, out, config=config, flow=flow, spectrum_config=spectrum, score_weight=score_weight,
            resume=resume, licence=licence, on_files=display.files, on_progress=display.step,
        )  # fmt: skip
    finish(status, finished, f"{out}/{source}.safetensors", quiet)


def train_encoder(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]DIR...",
            help="Folders of solo recordings, source=DIR; or one folder that has a subfolder for each source.",
        ),
    ],
    priors: Annotated[Path, typer.Option(help="Priors folder; the encoder is written into it.")],
    objective: Annotated[
        str, typer.Option(help="simulated (mixtures of solo recordings), elbo (the priors judge), or both.")
    ] = "both",
    mixtures: Annotated[Path | None, typer.Option(help="Unlabelled songs for the ELBO.")] = None,
    elbo_weight: Annotated[float, typer.Option(help="Weight of the ELBO in both.")] = 0.1,
    minutes: Annotated[float | None, typer.Option(help="Stop after this long.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Stop after as many steps.")] = TRAIN.steps,
    batch: Annotated[int, typer.Option(min=2, help="Mixtures a step.")] = 8,
    frames: Annotated[int, typer.Option(min=8, help="Frames of a training example, a multiple of 8.")] = 96,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1.5e-3,
    workers: Annotated[int, typer.Option(min=0, help="Processes that simulate mixtures.")] = 1,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = TRAIN.seed,
    bf16: Annotated[bool, typer.Option("--bf16", help="Faster networks on CPUs with bfloat16.")] = False,
    threads: ThreadsOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the folder's last checkpoint.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Train the amortized posterior of a priors folder. Ctrl-C saves; --resume goes on.

    Example: deepsep train-encoder --priors mypriors/ data/
    """
    from .. import model as models
    from .. import recipes

    set_threads(threads)
    network = EncoderConfig()
    if frames % 2 ** len(network.widths):
        raise usage(f"--frames must be a multiple of {2 ** len(network.widths)}")
    folders = source_folders(data, models.read_config(priors)["sources"])
    config = training_config(minutes, steps, batch, frames, lr, seed, bf16)
    with TrainingDisplay("encoder", quiet) as display:
        status, finished = recipes.train_encoder(
            priors, folders, config=config, network=network, objective=objective, elbo_weight=elbo_weight,
            unlabelled=mixtures, workers=workers, resume=resume, on_files=display.files, on_progress=display.step,
        )  # fmt: skip
    finish(status, finished, f"{priors}/encoder.safetensors", quiet)


def training_config(
    minutes: float | None, steps: int, batch: int, frames: int, lr: float, seed: int, bf16: bool
) -> TrainConfig:
    """One run's settings; a time limit alone is not cut short by the default number of steps."""
    if minutes is not None and steps == TRAIN.steps:
        steps = 10**9
    return TrainConfig(
        steps=steps, minutes=minutes or float("inf"), batch=batch, frames=frames, lr=lr, seed=seed, bf16=bf16
    )


def source_folders(items: list[str], sources: list[str]) -> dict[str, list[Path]]:
    """NAME=DIR items, and folders with a subfolder for each source, as source -> folders."""
    folders: dict[str, list[Path]] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if equals:
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


class TrainingDisplay:
    """Progress of a training run: a live line on a terminal, a plain one every half minute elsewhere."""

    def __init__(self, title: str, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.title, self.quiet = title, quiet
        self.live = sys.stderr.isatty() and not quiet
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[line]}"),
            console=Console(stderr=True), disable=not self.live,
        )  # fmt: skip
        self.task = self.bar.add_task(title, total=1.0, line="")
        self.told = 0.0

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

    def step(self, status: Any) -> None:
        """After a training step."""
        figures = {**status.figures, **{f"held-out {k}": v for k, v in status.held_out.items()}}
        shown = "  ".join(f"{k} {v:.3f}" for k, v in figures.items())
        minutes, seconds = divmod(round(min(status.eta, 359999)), 60)
        self.show(
            status.fraction, f"step {status.step}  {status.rate:.2f}/s  eta {minutes}:{seconds:02d}  {shown}"
        )


def finish(status: Any, finished: bool, target: str, quiet: bool) -> None:
    """The last line of a training run."""
    if not finished:
        say(f"interrupted at step {status.step}; saved to {target}, go on with --resume")
        raise typer.Exit(INTERRUPTED)
    if not quiet:
        held_out = ", ".join(f"{k} {v:.3f}" for k, v in status.held_out.items())
        say(f"{target}: {status.step} steps; held out: {held_out}")
