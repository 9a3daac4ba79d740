"""deepsep separate."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import SURE_CHAINS, WAVEFORM_SGLD, default_sgld
from ..errors import DeepsepError
from .batch import Batch, from_stdin
from .common import (
    SGLD,
    DeviceOption,
    GammaOption,
    LevelsOption,
    OfflineOption,
    PriorsOption,
    SigmaMaxOption,
    SigmaMinOption,
    StepsOption,
    ThreadsOption,
    check_sgld,
    listed,
    only_our_lines,
    pairs,
    refuse,
    say,
    set_threads,
    sgld_config,
    stoppable,
    typed_options,
    usage,
)
from .fetch import pin

if TYPE_CHECKING:
    from ..output.paths import Input

__all__ = ["separate"]

FORMATS = ("wav", "flac", "mp3", "ogg", "stem")
LANGEVIN = ("init", "steps", "levels", "sigma_max", "sigma_min", "gamma", "temperature", "chains")
MOST_SAMPLES = 32  # each holds a file open for every stem


def separate(
    context: typer.Context,
    inputs: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Songs, folders, glob patterns, or - for stdin.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the stems.")] = Path("stems"),
    filename: Annotated[
        str | None,
        typer.Option(
            help="Pattern below it, by default {track}/{stem}.{ext}; also {parent}, {priors} and {sample}."
        ),
    ] = None,
    format: Annotated[
        str, typer.Option("--format", "-f", help="wav, flac, mp3, ogg, or stem (one NI .stem.mp4).")
    ] = "wav",
    bit_depth: Annotated[str, typer.Option(help="float, 24 or 16 (wav, flac).")] = "float",
    bitrate: Annotated[int, typer.Option(min=8, max=320, help="kbit/s of mp3.")] = 320,
    codec: Annotated[str, typer.Option(help="aac or alac, in a stem file.")] = "aac",
    stems: Annotated[str | None, typer.Option(help="Write only these, such as vocals,drums.")] = None,
    two_stems: Annotated[
        str | None, typer.Option(help="Write this source and the rest, such as vocals.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="sgld (Langevin under the priors), encoder (one pass), or auto.")
    ] = "auto",
    priors: PriorsOption = "bundled",
    prior: Annotated[
        list[str], typer.Option(help="Replace or add one instrument: vocals=DIR or vocals=org/name.")
    ] = [],  # noqa: B006
    sources: Annotated[str | None, typer.Option(help="Sources to infer, in order; by default all.")] = None,
    init: Annotated[
        str, typer.Option(help="Where SGLD starts: mixture (priors alone), encoder, or auto.")
    ] = "auto",
    steps: StepsOption = None,
    levels: LevelsOption = None,
    sigma_max: SigmaMaxOption = None,
    sigma_min: SigmaMinOption = None,
    gamma: GammaOption = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="SGLD: 1 samples the posterior, 0 seeks a mode. "
            f"By default {SGLD.temperature:g}; 1 with --samples or --uncertainty of spectral priors."
        ),
    ] = None,
    chains: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"SGLD: chains to average. By default {SGLD.chains}; {SURE_CHAINS} with --uncertainty. "
            f"With priors of samples, {WAVEFORM_SGLD.chains}, of which the likeliest is kept.",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=1, max=MOST_SAMPLES, help="Write this many plausible separations.")
    ] = 1,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Write how sure each stem is: npz and picture.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write a page to listen on, beside the stems.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Same seed, same machine: same output.")] = 0,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Windows at a time; changes memory, not the result.")
    ] = 2,
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
    if report and format == "stem":
        raise usage("--report needs the stems in files of their own; use another --format")
    check_choices(format=format, bit_depth=bit_depth, codec=codec, method=method, init=init)
    if quiet and verbose:
        raise usage("--quiet and --verbose exclude each other")
    replaced = pairs(prior, "--prior")
    typed = typed_options(context)
    check_idle(typed, format, bit_depth, samples)
    if method == "encoder":
        check_method(typed, method)
    drawn = samples > 1 or uncertainty
    given = {
        "levels": levels, "steps": steps, "sigma_max": sigma_max, "sigma_min": sigma_min, "gamma": gamma,
        "temperature": temperature, "chains": chains,
    }  # fmt: skip
    check_sgld(given)
    if drawn and temperature == 0:
        raise usage("--samples and --uncertainty need a --temperature above 0")
    if filename is not None:
        check_filename(filename, samples)
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"

    from ..models import folder as models
    from ..output import paths
    from ..spectral import infer as inference
    from ..spectral.uncertainty import check_pictures

    if uncertainty:
        check_pictures()
    set_threads(threads)
    batch = Batch(quiet, as_json)
    with stoppable(), only_our_lines(), tempfile.TemporaryDirectory(prefix="deepsep-") as spool:
        picked = inference.pick_device(device)
        found = gather(inputs, Path(spool), batch, recursive=recursive, out=out)
        if not found:
            batch.finish(None)
            return
        base, others = pin(priors, replaced, offline=offline, quiet=quiet)
        model = models.assemble(base, others, sources=listed(sources), device=picked, offline=offline)
        chosen, start = inference.choose_method(method, init, model)
        if chosen == "encoder":
            check_method(typed, method)
        waveform = model.waveform is not None
        if uncertainty and waveform:
            raise usage("--uncertainty is for spectral priors; those of samples have no gains, use --samples")
        usual = default_sgld(
            draws=samples > 1, uncertainty=uncertainty, waveform=waveform, from_encoder=start == "encoder"
        )
        sgld = sgld_config(usual, given)
        settings = inference.Settings(
            method=chosen, init=start, sgld=sgld, seed=seed, batch_size=batch_size, device=picked,
            samples=samples,
        )  # fmt: skip
        output = paths.Output(
            folder=out, stems=paths.output_stems(model.sources, listed(stems), two_stems), pattern=filename,
            format=format, bit_depth=bit_depth, bitrate=bitrate, codec=codec, overwrite=overwrite,
            draws=samples, uncertainty=uncertainty, report=report,
        )  # fmt: skip
        jobs = paths.plan(found, output, priors=slug(priors), skip_existing=skip_existing)
        batch.skipped = len(found) - len(jobs)
        if verbose and not quiet:
            say(
                f"{chosen} on {picked}, {len(model.sources)} sources: {', '.join(model.sources)} "
                f"from {model.info['name']}"
            )
        batch.run(jobs, model, settings, output)
        batch.finish(model)


def gather(inputs: list[str], spool: Path, batch: Batch, *, recursive: bool, out: Path) -> list[Input]:
    """The readable files among what was typed, each once; `batch` hears of the others."""
    from ..output.inputs import expand_inputs

    piped = [from_stdin(spool)] if "-" in inputs else []
    typed = [item for item in inputs if item != "-"]
    files, problems = expand_inputs(typed, recursive=recursive, avoid=out)
    for problem in problems:
        batch.fail(str(problem).partition(": ")[0], problem)
    return [
        *batch.readable([(path, "stdin") for path in piped]),
        *batch.readable([(path, str(path)) for path in files]),
    ]


def check_choices(**chosen: str) -> None:
    """Ends with a line and exit code 2 unless each option has one of its values."""
    known = {
        "format": FORMATS,
        "bit_depth": ("float", "24", "16"),
        "codec": ("aac", "alac"),
        "method": ("auto", "sgld", "encoder"),
        "init": ("auto", "mixture", "encoder"),
    }
    for option, value in chosen.items():
        if value not in known[option]:
            name = option.replace("_", "-")
            raise usage(f"--{name} {value} is not one of {', '.join(known[option])}")


def check_filename(pattern: str, samples: int) -> None:
    """Ends with a line and exit code 2 for a pattern that no track could use."""
    from ..output.paths import check_pattern

    try:
        check_pattern(pattern)
    except DeepsepError as error:
        raise usage(f"--filename: {error}") from None
    if samples > 1 and "{sample}" not in pattern:
        raise usage(f"--samples {samples} needs {{sample}} in the pattern {pattern!r}")


def check_idle(typed: set[str], format: str, bit_depth: str, samples: int) -> None:
    """Ends with a line and exit code 2 where an option that was typed would do nothing."""
    idle = {
        "bit_depth": (format not in ("wav", "flac"), f"{format} has no bit depth; leave --bit-depth out"),
        "bitrate": (format != "mp3", f"--bitrate is of mp3; use --format mp3, or leave it out of {format}"),
        "codec": (
            format != "stem",
            f"--codec is of stem files; use --format stem, or leave it out of {format}",
        ),
        "chains": (samples > 1, "--samples takes a chain for each sample; leave --chains out"),
    }
    for name, (useless, message) in idle.items():
        if name in typed and useless:
            raise usage(message)
    if format == "flac" and bit_depth == "float" and "bit_depth" in typed:
        raise usage("flac holds no floats; use --bit-depth 24 or 16, or --format wav")


def check_method(typed: set[str], method: str) -> None:
    """The same for the options of Langevin where the encoder separates."""
    way = "use --method sgld" if method == "encoder" else "these priors have an encoder; add --method sgld"
    refuse(typed, LANGEVIN, f"is of Langevin and does nothing here; {way}")


def slug(priors: str) -> str:
    """What {priors} stands for: one part of a path, whatever was typed."""
    name = Path(priors).resolve().name if Path(priors).is_dir() else priors
    return re.sub(r"[^\w.@-]+", "-", name).strip(".-") or "priors"
