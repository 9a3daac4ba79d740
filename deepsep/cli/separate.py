"""deepsep separate."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    WINDOWS,
    BitDepth,
    Codec,
    Format,
    Init,
    Method,
    fits_some_domain,
)
from .batch import Batch, from_stdin
from .checks import (
    check_filename,
    check_idle,
    check_method,
    check_pictures,
    check_ray,
    parse_batch_size,
    parse_part,
    parse_shard,
)
from .common import (
    as_usage,
    exit_on_signals,
    listed,
    loading,
    pairs,
    say,
    set_threads,
    silence_c_libraries,
    typed_options,
    usage,
)
from .fetch import pin
from .options import (
    LANGEVIN,
    LIBRARY,
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
    PitchesOption,
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
    pitches: PitchesOption = None,
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
        str,
        typer.Option(
            metavar="N|auto",
            help="Windows at a time; changes memory, not the result. auto: as many as a GPU's free memory holds, "
            f"{WINDOWS} elsewhere.",
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
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Do part I of N parts of the songs, from 1/N to N/N.", rich_help_panel=LIBRARY
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            help="Append a JSON line for each song to this file; several runs may share it.",
            rich_help_panel=LIBRARY,
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Separate on a Ray cluster, by default the one at hand, else on this machine, a worker for each "
            "GPU or CPU. Songs whose files exist are left out.",
            rich_help_panel=LIBRARY,
        ),
    ] = None,
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
    windows = parse_batch_size(batch_size)
    part, dealt = parse_part(start, end), parse_shard(shard)
    if "" in inputs:
        raise usage("a song's name is empty; is a variable of your shell unset?")
    if overwrite and skip_existing:
        raise usage("--overwrite and --skip-existing exclude each other")
    if stems and two_stems:
        raise usage("--stems and --two-stems exclude each other")
    if report and format == "stem":
        raise usage("--report needs the stems in files of their own; use another --format")
    if quiet and verbose:
        raise usage("--quiet and --verbose exclude each other")
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
    if ray is not None:
        check_ray(inputs, device)
    if uncertainty:
        check_pictures()

    from ..inference.settings import check_device, choose_method
    from ..models import hub, offer
    from ..output import library, paths

    check_device(device)
    batch = Batch(quiet, as_json, log=library.RunLog(log) if log else None)
    skip_existing = skip_existing or (ray is not None and not overwrite)
    with exit_on_signals(), silence_c_libraries(), from_stdin("-" in inputs) as piped:
        look = shard is None and ray is None and not skip_existing  # a library is not opened before its turn
        found = gather(inputs, piped, batch, part, recursive=recursive, out=out, look=look)
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
        name = slug(priors)
        if dealt:
            whole = len(found)
            found = [item for item in found if dealt.has(paths.track_key(item.path, output, name))]
            if not quiet:
                say(f"shard {shard}: {len(found)} of {whole} tracks")
        failed = len(batch.failed)
        jobs = paths.plan(
            found, output, priors=name, skip_existing=skip_existing,
            on_partial=lambda item, error: batch.fail(item.label, error),
        )  # fmt: skip
        batch.skipped = len(found) - len(jobs) - (len(batch.failed) - failed)
        jobs = batch.fitting(jobs, output)
        if not jobs:
            batch.finish(None)
            return
        with loading():
            from .. import api  # and with it torch: what can be refused has been

        # the machine that directs a cluster need not have its GPUs
        here = device if ray is None else "cpu"
        if ray is None:
            set_threads(threads)
        model = api.load_priors(base, others, sources=listed(sources), device=here, offline=offline)
        if len(model.sources) == 1 and not quiet:
            (only,) = model.sources
            say(
                f"note: {only} alone is inferred, so all of the song is {only}; to write {only} only: --stems {only}"
            )
        how: dict[str, Any] = {
            "method": method, "init": init, "sgld": options, "draws": draws if draws > 1 else None,
            "uncertainty": uncertainty, "pitches": pitches, "seed": seed, "batch_size": windows,
        }  # fmt: skip
        with as_usage():
            settings = api.settings_for(model, device=here, **how)
        if verbose and not quiet:
            say(
                f"{settings.method} on {settings.device}, {len(model.sources)} sources: "
                f"{', '.join(model.sources)} from {model.info.name}"
            )
        claims = library.Claims(out) if skip_existing else None
        try:
            if ray is None:
                batch.run(jobs, model, settings, output, claims)
            else:
                from .cluster import Order, absolute, run_on_ray

                order = Order(
                    priors=str(Path(base).absolute()) if Path(base).is_dir() else base,
                    replaced={n: str(Path(p).absolute()) if Path(p).is_dir() else p for n, p in others.items()},
                    sources=listed(sources), offline=offline, settings=how, output=output,
                    claims=out.absolute() if claims else None, log=log.absolute() if log else None,
                    device=device, threads=threads or 1,
                )  # fmt: skip
                run_on_ray(batch, [absolute(job) for job in jobs], model, order, "" if ray == "auto" else ray)
        finally:
            if claims:
                claims.close()
        if claims and claims.without_locks and not quiet:
            say(f"note: {out} has no locks, so several runs on it need --shard to share the work")
        batch.finish(model)


def gather(
    inputs: list[str], piped: Path | None, batch: Batch, part: Part, *, recursive: bool, out: Path, look: bool
) -> list[Input]:
    """List the readable files among what was typed and piped, each once; `batch` is told of the others."""
    from ..output.inputs import expand_inputs

    typed = [item for item in inputs if item != "-"]
    files, problems = expand_inputs(typed, recursive=recursive, avoid=out)
    for problem in problems:
        batch.fail(str(problem).partition(": ")[0], problem)
    return [
        *batch.readable([(piped, "stdin")] if piped else [], part),
        *batch.readable([(path, str(path)) for path in files], part, look=look),
    ]


def slug(priors: str) -> str:
    """What {priors} stands for: one part of a path, whatever was typed."""
    name = Path(priors).resolve().name if Path(priors).is_dir() else priors
    return re.sub(r"[^\w.@-]+", "-", name).strip(".-") or "priors"
