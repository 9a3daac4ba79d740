"""The command line: a thin skin over the library. Only this module prints, exits, or catches DeepsepError.

torch is imported inside the commands, never for --help.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from . import __version__
from .config import EncoderConfig, FlowConfig, SgldConfig, SpectrumConfig, TrainConfig
from .errors import DeepsepError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Separate music into stems with generative flow priors.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
SGLD, TRAIN, FLOW = SgldConfig(), TrainConfig(), FlowConfig()
INTERRUPTED = 130

PriorsOption = Annotated[
    str, typer.Option(help="Where the priors come from: bundled, a folder, or org/name[@revision] on the Hub.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Use the local cache only.")]


def show_version(wanted: bool) -> None:
    """Prints the version and stops."""
    if wanted:
        typer.echo(f"deepsep {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Separate music into stems with generative flow priors."""


def usage(message: str) -> typer.BadParameter:
    """A mistake in the command itself: exit code 2."""
    return typer.BadParameter(message)


def say(line: str) -> None:
    """A line for people, on stderr, so that stdout stays for machines."""
    typer.echo(line, err=True)


def pairs(items: list[str], option: str) -> dict[str, str]:
    """NAME=VALUE options as a dictionary."""
    table = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (name and equals and value):
            raise usage(f"{option} takes NAME=VALUE, got {item!r}")
        table[name] = value
    return table


def listed(names: Optional[str]) -> list[str] | None:
    """A comma-separated list."""
    return [n.strip() for n in names.split(",") if n.strip()] if names else None


def set_threads(threads: int | None) -> None:
    """Threads of the numerical libraries."""
    if threads:
        import torch

        torch.set_num_threads(threads)


@app.command()
def separate(
    inputs: Annotated[list[str], typer.Argument(metavar="FILE...", help="Songs, folders, glob patterns, or - for stdin.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the stems.")] = Path("stems"),
    filename: Annotated[
        str, typer.Option(help="Pattern below it; also {parent} and {priors}.")
    ] = "{track}/{stem}.{ext}",
    format: Annotated[str, typer.Option("--format", "-f", help="wav, flac, mp3, ogg, or stem (one NI .stem.mp4).")] = "wav",
    bit_depth: Annotated[str, typer.Option(help="float, 24 or 16 (wav, flac).")] = "float",
    bitrate: Annotated[int, typer.Option(help="kbit/s of mp3.")] = 320,
    codec: Annotated[str, typer.Option(help="aac or alac, in a stem file.")] = "aac",
    stems: Annotated[Optional[str], typer.Option(help="Write only these, such as vocals,drums.")] = None,
    two_stems: Annotated[Optional[str], typer.Option(help="Write this source and the rest, such as vocals.")] = None,
    method: Annotated[str, typer.Option(help="sgld (Langevin under the priors), encoder (one pass), or auto.")] = "auto",
    priors: PriorsOption = "bundled",
    prior: Annotated[
        list[str], typer.Option(help="Replace or add one instrument: vocals=DIR or vocals=org/name.")
    ] = [],  # noqa: B006
    sources: Annotated[Optional[str], typer.Option(help="Sources to infer, in order; by default all.")] = None,
    init: Annotated[str, typer.Option(help="Where SGLD starts: mixture (priors alone), encoder, or auto.")] = "auto",
    steps: Annotated[int, typer.Option(help="SGLD: Langevin steps a noise level.")] = SGLD.steps,
    levels: Annotated[int, typer.Option(help="SGLD: noise levels.")] = SGLD.levels,
    sigma_max: Annotated[float, typer.Option(help="SGLD: first noise level.")] = SGLD.sigma_max,
    sigma_min: Annotated[float, typer.Option(help="SGLD: last noise level.")] = SGLD.sigma_min,
    temperature: Annotated[float, typer.Option(help="SGLD: 1 samples the posterior, 0 seeks a mode.")] = SGLD.temperature,
    chains: Annotated[int, typer.Option(help="SGLD: chains to average.")] = SGLD.chains,
    seed: Annotated[int, typer.Option(help="Same seed, same machine: same output.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows at a time; changes memory, not the result.")] = 4,
    device: DeviceOption = "auto",
    threads: Annotated[Optional[int], typer.Option(min=1, help="CPU threads.")] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Look in subfolders too.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave out tracks that are done.")] = False,
    offline: OfflineOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say which priors and settings are used.")] = False,
) -> None:
    """Separate songs into stems that add up to them.

    Example: deepsep separate song.mp3 -o stems/
    """
    if overwrite and skip_existing:
        raise usage("--overwrite and --skip-existing exclude each other")
    if stems and two_stems:
        raise usage("--stems and --two-stems exclude each other")
    replaced = pairs(prior, "--prior")
    config = SgldConfig(
        levels=levels, steps=steps, sigma_max=sigma_max, sigma_min=sigma_min, temperature=temperature, chains=chains
    )
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from . import model as models
    from . import separation, tracks

    set_threads(threads)
    with tempfile.TemporaryDirectory(prefix="deepsep-") as spool:
        files = tracks.expand_inputs([from_stdin(spool) if i == "-" else i for i in inputs], recursive=recursive)
        picked = separation.pick_device(device)
        model = models.assemble(priors, replaced, sources=listed(sources), device=picked, offline=offline)
        output = tracks.Output(
            folder=out, stems=tracks.output_stems(model.sources, listed(stems), two_stems), pattern=filename,
            format=format, bit_depth=bit_depth, bitrate=bitrate, codec=codec, overwrite=overwrite,
        )  # fmt: skip
        jobs = tracks.plan(files, output, priors=model.info["name"], skip_existing=skip_existing)
        chosen, start = separation.choose_method(method, init, model)
        settings = separation.Settings(
            method=chosen, init=start, sgld=config, seed=seed, batch_size=batch_size, device=picked
        )
        if verbose and not quiet:
            say(f"{chosen} on {picked}, {len(model.sources)} sources: {', '.join(model.sources)} from {model.info['name']}")
        failed = run_jobs(jobs, len(files), model, settings, output, quiet=quiet, as_json=as_json)
    if failed:
        raise typer.Exit(1)


def from_stdin(folder: str) -> str:
    """stdin as a file, since a track is read twice."""
    path = Path(folder) / "stdin"
    with path.open("wb") as file:
        while block := sys.stdin.buffer.read(1 << 20):
            file.write(block)
    return str(path)


def run_jobs(
    jobs: list[Any], asked: int, model: Any, settings: Any, output: Any, *, quiet: bool, as_json: bool
) -> int:
    """Runs every track, the rest too when one fails; prints a line for each; returns how many failed."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from . import audio, tracks

    done, failed = [], []
    live = sys.stderr.isatty() and not quiet
    from rich.console import Console

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn(),
        console=Console(stderr=True), disable=not live, transient=True,
    )  # fmt: skip
    try:
        with bar:
            for number, job in enumerate(jobs, 1):
                name = job.source.name if len(jobs) == 1 else f"[{number}/{len(jobs)}] {job.source.name}"
                try:
                    info = audio.probe(job.source)
                    total = info.frames / info.rate if info.frames else None
                    task = bar.add_task(name, total=total)
                    result = tracks.run(
                        job, model, settings, output,
                        on_progress=lambda seconds, task=task: bar.update(task, completed=seconds),  # type: ignore[misc]
                    )  # fmt: skip
                    bar.remove_task(task)
                except DeepsepError as error:
                    say(f"error: {error}")
                    failed.append({"source": str(job.source), "error": str(error)})
                    continue
                done.append(result)
                if not quiet:
                    say(summary(result))
    except KeyboardInterrupt:
        say(f"interrupted; {len(done)} of {len(jobs)} tracks are done, the others left nothing behind")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        typer.echo(json.dumps({
            "priors": model.info["name"], "origins": model.info["origins"], "sources": model.sources,
            "done": [
                {
                    "source": str(r.source), "stems": {k: str(p) for k, p in r.paths.items()}, "seconds": r.seconds,
                    "took": round(r.took, 3), "gain_db": r.gain_db, "silent": r.silent, **r.settings,
                }
                for r in done
            ],
            "failed": failed, "skipped": asked - len(jobs),
        }, indent=2))  # fmt: skip
    elif not quiet and asked > 1:
        say(f"{len(done)} done, {len(failed)} failed, {asked - len(jobs)} skipped")
    return len(failed)


def summary(result: Any) -> str:
    """What happened to one track, in a line."""
    where = next(iter(result.paths.values()))
    target = str(where) if len(result.paths) == 1 else f"{where.parent}{os.sep}"
    notes = []
    if result.silent:
        notes.append("silent throughout")
    if result.gain_db:
        notes.append(f"all stems turned down by {-result.gain_db:.2f} dB so that none clips")
    note = f" ({'; '.join(notes)})" if notes else ""
    return f"{result.source.name}: {result.seconds:.1f} s in {result.took:.1f} s -> {target}{note}"


@app.command("train-prior")
def train_prior(
    data: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of solo recordings; each is drawn from equally often.")],
    source: Annotated[str, typer.Option(help="The instrument's name, such as vocals.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Priors folder to write to.")] = Path("priors"),
    minutes: Annotated[Optional[float], typer.Option(help="Stop after this long.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Stop after as many steps.")] = TRAIN.steps,
    batch: Annotated[int, typer.Option(min=1)] = TRAIN.batch,
    frames: Annotated[int, typer.Option(min=8, help="Frames of a training example; 43 a second.")] = TRAIN.frames,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = TRAIN.lr,
    flow_steps: Annotated[int, typer.Option(help="Steps of the flow.")] = FLOW.steps,
    hidden: Annotated[int, typer.Option(help="Width of the couplings' networks.")] = FLOW.hidden,
    score_weight: Annotated[float, typer.Option(help="Weight of denoising score matching beside likelihood.")] = 0.0,
    licence: Annotated[str, typer.Option(help="Licence of the trained weights, for the model card.")] = "unspecified",
    seed: Annotated[int, typer.Option()] = TRAIN.seed,
    bf16: Annotated[bool, typer.Option("--bf16", help="Faster networks on CPUs with bfloat16.")] = False,
    threads: Annotated[Optional[int], typer.Option(min=1, help="CPU threads.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's last checkpoint.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Train one instrument's flow prior on solo recordings of it. Ctrl-C saves; --resume goes on.

    Example: deepsep train-prior --source vocals data/vocals -o mypriors/
    """
    from . import recipes

    set_threads(threads)
    config = training_config(minutes, steps, batch, frames, lr, seed, bf16)
    spectrum = SpectrumConfig()
    from .spectrum import band_edges

    flow = FlowConfig(channels=len(band_edges(spectrum)) - 1, steps=flow_steps, hidden=hidden)
    with TrainingDisplay(f"prior of {source}", quiet) as display:
        status, finished = recipes.train_prior(
            source, data, out, config=config, flow=flow, spectrum_config=spectrum, score_weight=score_weight,
            resume=resume, licence=licence, on_files=display.files, on_progress=display.step,
        )  # fmt: skip
    finish(status, finished, f"{out}/{source}.safetensors", quiet)


@app.command("train-encoder")
def train_encoder(
    data: Annotated[
        list[str], typer.Argument(metavar="[NAME=]DIR...", help="Folders of solo recordings, source=DIR; or one folder that has a subfolder for each source.")
    ],
    priors: Annotated[Path, typer.Option(help="Priors folder; the encoder is written into it.")],
    objective: Annotated[
        str, typer.Option(help="simulated (mixtures of solo recordings), elbo (the priors judge), or both.")
    ] = "both",
    mixtures: Annotated[Optional[Path], typer.Option(help="Unlabelled songs for the ELBO.")] = None,
    elbo_weight: Annotated[float, typer.Option(help="Weight of the ELBO in both.")] = 0.1,
    minutes: Annotated[Optional[float], typer.Option(help="Stop after this long.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Stop after as many steps.")] = TRAIN.steps,
    batch: Annotated[int, typer.Option(min=2)] = 8,
    frames: Annotated[int, typer.Option(min=8, help="Frames of a training example, a multiple of 8.")] = 96,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1.5e-3,
    workers: Annotated[int, typer.Option(min=0, help="Processes that simulate mixtures.")] = 1,
    seed: Annotated[int, typer.Option()] = TRAIN.seed,
    bf16: Annotated[bool, typer.Option("--bf16", help="Faster networks on CPUs with bfloat16.")] = False,
    threads: Annotated[Optional[int], typer.Option(min=1, help="CPU threads.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's last checkpoint.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Train the amortized posterior of a priors folder. Ctrl-C saves; --resume goes on.

    Example: deepsep train-encoder --priors mypriors/ data/
    """
    from . import model as models
    from . import recipes

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
        self.show(status.fraction, f"step {status.step}  {status.rate:.2f}/s  eta {minutes}:{seconds:02d}  {shown}")


def finish(status: Any, finished: bool, target: str, quiet: bool) -> None:
    """The last line of a training run."""
    if not finished:
        say(f"interrupted at step {status.step}; saved to {target}, go on with --resume")
        raise typer.Exit(INTERRUPTED)
    if not quiet:
        held_out = ", ".join(f"{k} {v:.3f}" for k, v in status.held_out.items())
        say(f"{target}: {status.step} steps; held out: {held_out}")


def main() -> None:
    """Runs the program; every mistake a user can mend is one line and exit code 1."""
    try:
        app()
    except DeepsepError as error:
        say(f"error: {error}")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
