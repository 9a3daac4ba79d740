"""deepsep evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import BUNDLED, DEVICE, SEED, Metric, fits_some_domain
from ..errors import DeepsepError
from ..progress import printable
from .common import as_usage, listed, loading, pairs, say, set_threads, usage
from .fetch import pin
from .options import (
    OUTPUT,
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

__all__ = ["evaluate"]


def evaluate(
    songs: Annotated[
        list[Path],
        typer.Argument(
            metavar="SONGS...",
            help="Folders song/{vocals,drums,...}.wav, folders of such folders, MUSDB18, or .stem.mp4 files.",
        ),
    ],
    methods: Annotated[
        str | None,
        typer.Option(
            help="Which to run, of mixture, stationary, nmf, sgld, encoder, encoder+sgld, oracle and "
            "oracle-full; by default all but nmf."
        ),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, max=86400, help="Score one excerpt of each song, this long.")
    ] = None,
    nmf_data: Annotated[
        list[str],
        typer.Option(
            metavar="SOURCE=DIR", help="Solo recordings for the NMF baseline, one folder for each source."
        ),
    ] = [],  # noqa: B006
    metric: Annotated[Metric, typer.Option(help="What the table shows.")] = "sdr",
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the figures into this .png, .svg or .pdf.", rich_help_panel=OUTPUT),
    ] = None,
    overwrite: OverwriteOption = False,
    priors: PriorsOption = BUNDLED,
    prior: PriorOption = [],  # noqa: B006
    offline: OfflineOption = False,
    pitches: PitchesOption = None,
    steps: SgldStepsOption = None,
    levels: LevelsOption = None,
    sigma_max: SigmaMaxOption = None,
    sigma_min: SigmaMinOption = None,
    gamma: GammaOption = None,
    chains: ChainsOption = None,
    temperature: TemperatureOption = None,
    seed: SeedOption = SEED,
    device: DeviceOption = DEVICE,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score separations of songs whose stems are known, beside baselines and ideal ratio masks.

    Example: deepsep evaluate songs/ --methods stationary,encoder,oracle --seconds 30
    """
    options: dict[str, Any] = {
        "levels": levels, "steps": steps, "sigma_max": sigma_max, "sigma_min": sigma_min, "gamma": gamma,
        "temperature": temperature, "chains": chains,
    }  # fmt: skip
    with as_usage():
        fits_some_domain(options)
    from ..evaluation.results import METRICS, check_plot

    if plot:
        check_plot(plot, overwrite=overwrite)
    elif overwrite:
        raise usage("--overwrite is of --plot and does nothing here; leave it out")
    with loading():
        from .. import api
    from ..evaluation.run import Evaluation

    set_threads(threads)
    base, others = pin(priors, pairs(prior, "--prior"), offline=offline, quiet=quiet)
    model = api.load_priors(base, others, device=device, offline=offline)
    with as_usage():
        cold = api.settings_for(model, method="sgld", init="mixture", sgld=options, device=device)
        warm = api.settings_for(model, method="sgld", sgld=options, pitches=pitches, device=device)
    how = Evaluation(
        methods=listed(methods) or (), sgld=cold.sgld, warm=warm.sgld, pitches=pitches, seed=seed, device=cold.device,
        seconds=seconds, nmf_data={s: Path(d) for s, d in pairs(nmf_data, "--nmf-data").items()},
    )  # fmt: skip

    def tell(done: int, total: int, what: str) -> None:
        if not quiet:
            say(f"[{done + 1}/{total}] {what}" if done < total else what)

    results = api.evaluate(songs, priors=model, how=how, on_progress=tell)
    for note in results.notes:
        say(f"note: {note}")
    if as_json:
        typer.echo(results.to_json())
    elif results.scores or not results.failed:
        show(results.table(metric), METRICS[metric])
    for song, why in results.failed.items():
        say(f"error: {why if song in why else f'{song}: {why}'}")
    complete = not results.failed
    if plot and results.scores:
        try:
            results.plot(plot, overwrite=overwrite)
        except DeepsepError as error:
            say(f"error: {error}")
            complete = False
    if not complete:
        raise typer.Exit(1)


def show(rows: list[list[str]], title: str) -> None:
    """Print the figures as a table on stdout."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title)
    for i, heading in enumerate(rows[0]):
        table.add_column(Text(printable(heading)), justify="left" if i < 2 else "right")
    for row in rows[1:]:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(width=max(100, Console().width)).print(table)
