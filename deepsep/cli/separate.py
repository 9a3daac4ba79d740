"""deepsep separate."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import (
    BATCH_SIZE,
    BIT_DEPTH,
    BUNDLED,
    CODEC,
    DEVICE,
    FORMAT,
    INIT,
    METHOD,
    MP3_KBPS,
    SEED,
    BitDepth,
    Codec,
    Format,
    Init,
    Method,
    bounds,
    fits_some_domain,
    ranges,
)
from ..errors import MissingExtra
from .batch import Batch, from_stdin
from .common import (
    as_usage,
    clock_seconds,
    exit_on_signals,
    listed,
    pairs,
    refuse_idle,
    say,
    set_threads,
    silence_c_libraries,
    typed_options,
    usage,
)
from .fetch import pin
from .options import (
    LANGEVIN,
    OUTPUT,
    PRIORS,
    RUNNING,
    ChainsOption,
    DeviceOption,
    GammaOption,
    JsonOption,
    LevelsOption,
    OfflineOption,
    OverwriteOption,
    PriorOption,
    PriorsOption,
    QuietOption,
    SeedOption,
    SgldStepsOption,
    SigmaMaxOption,
    SigmaMinOption,
    TemperatureOption,
    ThreadsOption,
)

if TYPE_CHECKING:
    from ..audio.info import Part
    from ..output.paths import Input

__all__ = ["separate"]

OF_SGLD = ("init", "steps", "levels", "sigma_max", "sigma_min", "gamma", "temperature", "chains")
MOST_DRAWS = 32  # each holds a file open for every stem
RESULT = "Stems"


def separate(
    context: typer.Context,
    inputs: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Songs, folders, glob patterns, or - for stdin.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the stems.", rich_help_panel=OUTPUT)
    ] = Path("stems"),
    filename: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="How files are named in that folder, by default {track}/{stem}.{ext}; "
            "{parent}, {priors} and {sample} may be used too.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    format: Annotated[
        Format,
        typer.Option(
            "--format",
            "-f",
            case_sensitive=False,
            help="File format; stem is one Native Instruments .stem.mp4.",
            rich_help_panel=OUTPUT,
        ),
    ] = FORMAT,
    bit_depth: Annotated[
        BitDepth, typer.Option(help="Bit depth of wav and flac files.", rich_help_panel=OUTPUT)
    ] = BIT_DEPTH,
    bitrate: Annotated[
        int, typer.Option(min=8, max=320, help="Bit rate of mp3 files in kbit/s.", rich_help_panel=OUTPUT)
    ] = MP3_KBPS,
    codec: Annotated[
        Codec,
        typer.Option(
            help="Codec of a stem file: aac plays everywhere, alac is lossless.", rich_help_panel=OUTPUT
        ),
    ] = CODEC,
    overwrite: OverwriteOption = False,
    skip_existing: Annotated[
        bool,
        typer.Option("--skip-existing", help="Leave out songs whose files exist.", rich_help_panel=OUTPUT),
    ] = False,
    stems: Annotated[
        str | None, typer.Option(help="Write only these stems, such as vocals,drums.", rich_help_panel=RESULT)
    ] = None,
    two_stems: Annotated[
        str | None,
        typer.Option(
            help="Write this stem and all the rest as another, such as vocals.", rich_help_panel=RESULT
        ),
    ] = None,
    draws: Annotated[
        int,
        typer.Option(
            "--samples",
            "--draws",
            min=1,
            max=MOST_DRAWS,
            help="Write this many plausible separations, drawn from the posterior.",
            rich_help_panel=RESULT,
        ),
    ] = 1,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty",
            help="Write how sure each stem is, as numbers (npz) and as a picture.",
            rich_help_panel=RESULT,
        ),
    ] = False,
    report: Annotated[
        bool,
        typer.Option(
            "--report",
            help="Write a page to listen on in a browser, beside the stems.",
            rich_help_panel=RESULT,
        ),
    ] = False,
    method: Annotated[
        Method,
        typer.Option(
            help="sgld (Langevin under the priors), encoder (one pass), or auto: the encoder where there is one.",
        ),
    ] = METHOD,
    priors: PriorsOption = BUNDLED,
    prior: PriorOption = [],  # noqa: B006
    sources: Annotated[
        str | None,
        typer.Option(
            help="Instruments that the song has, if not all that there are priors for: vocals,drums.",
            rich_help_panel=PRIORS,
        ),
    ] = None,
    offline: OfflineOption = False,
    init: Annotated[
        Init,
        typer.Option(
            help="Where a chain starts: mixture (priors alone), or the encoder's estimate.",
            rich_help_panel=LANGEVIN,
        ),
    ] = INIT,
    steps: SgldStepsOption = None,
    levels: LevelsOption = None,
    sigma_max: SigmaMaxOption = None,
    sigma_min: SigmaMinOption = None,
    gamma: GammaOption = None,
    temperature: TemperatureOption = None,
    chains: ChainsOption = None,
    seed: SeedOption = SEED,
    batch_size: Annotated[
        int,
        typer.Option(
            **bounds(ranges.BatchSize),
            help="Windows at a time; changes memory, not the result.",
            rich_help_panel=RUNNING,
        ),
    ] = BATCH_SIZE,
    device: DeviceOption = DEVICE,
    threads: ThreadsOption = None,
    start: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Where to start in the song: seconds, m:ss or h:mm:ss."),
    ] = None,
    end: Annotated[
        str | None, typer.Option(metavar="TIME", help="Where to end; the stems are of that part alone.")
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Look in subfolders too.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Say which priors and settings are used.", rich_help_panel=RUNNING
        ),
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
    if quiet and verbose:
        raise usage("--quiet and --verbose exclude each other")
    part = part_of(start, end)
    replaced = pairs(prior, "--prior")
    typed = typed_options(context)
    check_idle(typed, format, bit_depth, draws)
    if method == "encoder":
        check_method(typed, method)
    options = {
        "levels": levels, "steps": steps, "sigma_max": sigma_max, "sigma_min": sigma_min, "gamma": gamma,
        "temperature": temperature, "chains": chains,
    }  # fmt: skip
    with as_usage():
        fits_some_domain(options)
    if (draws > 1 or uncertainty) and temperature == 0:
        raise usage("--samples and --uncertainty need a --temperature above 0")
    if filename is not None:
        check_filename(filename, draws)

    if uncertainty:
        check_pictures()
    from ..inference.settings import check_device, choose_method
    from ..models import hub, offer
    from ..output import paths

    check_device(device)
    batch = Batch(quiet, as_json)
    with exit_on_signals(), silence_c_libraries(), from_stdin("-" in inputs) as piped:
        found = gather(inputs, piped, batch, part, recursive=recursive, out=out)
        if not found:
            batch.finish(None)
            return
        base, others = pin(priors, replaced, offline=offline, quiet=quiet)
        chosen = offer.choose(hub.resolve(base, offline=True), others, listed(sources))
        if choose_method(method, init, has_encoder=chosen.encoder)[0] == "encoder":
            check_method(typed, method)
        output = paths.Output(
            folder=out, stems=paths.output_stems(chosen.sources, listed(stems), two_stems), pattern=filename,
            format=format, bit_depth=bit_depth, bitrate=bitrate, codec=codec, overwrite=overwrite,
            draws=draws, uncertainty=uncertainty, report=report,
        )  # fmt: skip
        jobs = paths.plan(found, output, priors=slug(priors), skip_existing=skip_existing)
        batch.skipped = len(found) - len(jobs)
        jobs = batch.fitting(jobs, output)
        if not jobs:
            batch.finish(None)
            return
        from .. import api  # torch is loaded here: what can be refused has been

        set_threads(threads)
        model = api.load_priors(base, others, sources=listed(sources), device=device, offline=offline)
        if len(model.sources) == 1 and not quiet:
            (only,) = model.sources
            say(
                f"note: {only} alone is inferred, so all of the song is {only}; to write {only} only: --stems {only}"
            )
        with as_usage():
            settings = api.settings_for(
                model, method=method, init=init, sgld=options, draws=draws if draws > 1 else None,
                uncertainty=uncertainty, seed=seed, batch_size=batch_size, device=device,
            )  # fmt: skip
        if verbose and not quiet:
            say(
                f"{settings.method} on {settings.device}, {len(model.sources)} sources: "
                f"{', '.join(model.sources)} from {model.info.name}"
            )
        batch.run(jobs, model, settings, output)
        batch.finish(model)


def gather(
    inputs: list[str], piped: Path | None, batch: Batch, part: Part, *, recursive: bool, out: Path
) -> list[Input]:
    """List the readable files among what was typed and piped, each once; `batch` is told of the others."""
    from ..output.inputs import expand_inputs

    typed = [item for item in inputs if item != "-"]
    files, problems = expand_inputs(typed, recursive=recursive, avoid=out)
    for problem in problems:
        batch.fail(str(problem).partition(": ")[0], problem)
    return [
        *batch.readable([(piped, "stdin")] if piped else [], part),
        *batch.readable([(path, str(path)) for path in files], part),
    ]


def part_of(start: str | None, end: str | None) -> Part:
    """Read --start and --end; a usage mistake where nothing lies between them."""
    from ..audio.info import Part

    part = Part(clock_seconds(start, "--start") or 0.0, clock_seconds(end, "--end"))
    if part.end is not None and part.end <= part.start:
        raise usage(f"--end {end} is not after {f'--start {start}' if start else 'the start'}")
    return part


def check_pictures() -> None:
    """Raise MissingExtra unless pictures can be drawn."""
    if find_spec("matplotlib") is None:
        raise MissingExtra(
            "the picture of --uncertainty needs matplotlib; run `pipx inject deepsep matplotlib` or "
            '`pip install "deepsep[plot]"`'
        )


def check_filename(pattern: str, draws: int) -> None:
    """Raise a usage mistake for a pattern that no track could use."""
    from ..output.paths import check_pattern

    with as_usage("--filename: "):
        check_pattern(pattern)
    if draws > 1 and "{sample}" not in pattern:
        raise usage(f"--samples {draws} needs {{sample}} in the pattern {pattern!r}")


def check_idle(typed: set[str], format: Format, bit_depth: BitDepth, draws: int) -> None:
    """Raise a usage mistake where an option that was typed would do nothing."""
    idle = {
        "bit_depth": (format not in ("wav", "flac"), f"{format} has no bit depth; leave --bit-depth out"),
        "bitrate": (format != "mp3", f"--bitrate is of mp3; use --format mp3, or leave it out of {format}"),
        "codec": (
            format != "stem",
            f"--codec is of stem files; use --format stem, or leave it out of {format}",
        ),
        "chains": (draws > 1, "--samples takes a chain for each sample; leave --chains out"),
    }
    for name, (useless, message) in idle.items():
        if name in typed and useless:
            raise usage(message)
    if format == "flac" and bit_depth == "float" and "bit_depth" in typed:
        raise usage("flac holds no floats; use --bit-depth 24 or 16, or --format wav")


def check_method(typed: set[str], method: Method) -> None:
    """Raise a usage mistake for an option of Langevin where the encoder separates."""
    way = "use --method sgld" if method == "encoder" else "these priors have an encoder; add --method sgld"
    refuse_idle(typed, OF_SGLD, f"is of Langevin and does nothing here; {way}")


def slug(priors: str) -> str:
    """What {priors} stands for: one part of a path, whatever was typed."""
    name = Path(priors).resolve().name if Path(priors).is_dir() else priors
    return re.sub(r"[^\w.@-]+", "-", name).strip(".-") or "priors"
