"""deepsep separate."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from ..config import SgldConfig
from ..errors import DeepsepError
from .common import (
    INTERRUPTED,
    DeviceOption,
    OfflineOption,
    PriorsOption,
    ThreadsOption,
    listed,
    pairs,
    say,
    set_threads,
    usage,
)

__all__ = ["separate"]

SGLD = SgldConfig()


def separate(
    inputs: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Songs, folders, glob patterns, or - for stdin.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the stems.")] = Path("stems"),
    filename: Annotated[
        str, typer.Option(help="Pattern below it; also {parent} and {priors}.")
    ] = "{track}/{stem}.{ext}",
    format: Annotated[
        str, typer.Option("--format", "-f", help="wav, flac, mp3, ogg, or stem (one NI .stem.mp4).")
    ] = "wav",
    bit_depth: Annotated[str, typer.Option(help="float, 24 or 16 (wav, flac).")] = "float",
    bitrate: Annotated[int, typer.Option(help="kbit/s of mp3.")] = 320,
    codec: Annotated[str, typer.Option(help="aac or alac, in a stem file.")] = "aac",
    stems: Annotated[Optional[str], typer.Option(help="Write only these, such as vocals,drums.")] = None,
    two_stems: Annotated[
        Optional[str], typer.Option(help="Write this source and the rest, such as vocals.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="sgld (Langevin under the priors), encoder (one pass), or auto.")
    ] = "auto",
    priors: PriorsOption = "bundled",
    prior: Annotated[
        list[str], typer.Option(help="Replace or add one instrument: vocals=DIR or vocals=org/name.")
    ] = [],  # noqa: B006
    sources: Annotated[
        Optional[str], typer.Option(help="Sources to infer, in order; by default all.")
    ] = None,
    init: Annotated[
        str, typer.Option(help="Where SGLD starts: mixture (priors alone), encoder, or auto.")
    ] = "auto",
    steps: Annotated[int, typer.Option(help="SGLD: Langevin steps a noise level.")] = SGLD.steps,
    levels: Annotated[int, typer.Option(help="SGLD: noise levels.")] = SGLD.levels,
    sigma_max: Annotated[float, typer.Option(help="SGLD: first noise level.")] = SGLD.sigma_max,
    sigma_min: Annotated[float, typer.Option(help="SGLD: last noise level.")] = SGLD.sigma_min,
    temperature: Annotated[
        float, typer.Option(help="SGLD: 1 samples the posterior, 0 seeks a mode.")
    ] = SGLD.temperature,
    chains: Annotated[int, typer.Option(help="SGLD: chains to average.")] = SGLD.chains,
    seed: Annotated[int, typer.Option(help="Same seed, same machine: same output.")] = 0,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Windows at a time; changes memory, not the result.")
    ] = 4,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Look in subfolders too.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out tracks that are done.")
    ] = False,
    offline: OfflineOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say which priors and settings are used.")
    ] = False,
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
        levels=levels,
        steps=steps,
        sigma_max=sigma_max,
        sigma_min=sigma_min,
        temperature=temperature,
        chains=chains,
    )
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from .. import model as models
    from .. import separation, tracks

    set_threads(threads)
    with tempfile.TemporaryDirectory(prefix="deepsep-") as spool:
        files = tracks.expand_inputs(
            [from_stdin(spool) if i == "-" else i for i in inputs], recursive=recursive
        )
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
            say(
                f"{chosen} on {picked}, {len(model.sources)} sources: {', '.join(model.sources)} from {model.info['name']}"
            )
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

    from .. import audio, tracks

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
