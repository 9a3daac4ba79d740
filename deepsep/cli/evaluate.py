"""deepsep evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast, get_args

import typer

from ..config import WAVEFORM_SGLD, default_sgld
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
    pairs,
    say,
    set_threads,
    sgld_config,
    usage,
)

__all__ = ["evaluate"]

Metric = Literal["sdr", "si_sdr", "sdr_median"]


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
    priors: PriorsOption = "bundled",
    prior: Annotated[
        list[str], typer.Option(help="Replace or add one instrument: vocals=DIR or vocals=org/name.")
    ] = [],  # noqa: B006
    seconds: Annotated[float | None, typer.Option(help="Score one excerpt of each song, this long.")] = None,
    nmf_data: Annotated[
        list[str],
        typer.Option(help="SOURCE=DIR of solo recordings for the NMF baseline, one for each source."),
    ] = [],  # noqa: B006
    metric: Annotated[str, typer.Option(help="What the table shows: sdr, si_sdr or sdr_median.")] = "sdr",
    steps: StepsOption = None,
    levels: LevelsOption = None,
    sigma_max: SigmaMaxOption = None,
    sigma_min: SigmaMinOption = None,
    gamma: GammaOption = None,
    chains: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"SGLD: chains to average, by default {SGLD.chains}; with priors of samples, "
            f"{WAVEFORM_SGLD.chains}, of which the likeliest is kept.",
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            help=f"SGLD: 1 samples, 0 seeks a mode; by default {SGLD.temperature:g}, "
            f"with priors of samples {WAVEFORM_SGLD.temperature:g}."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same machine: same figures.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw the figures into this file.")] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    offline: OfflineOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print every figure as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the figures and errors only.")] = False,
) -> None:
    """Score separations of songs whose stems are known, beside baselines and the ceiling of any mask.

    Example: deepsep evaluate songs/ --methods stationary,encoder,oracle --seconds 30
    """
    if metric not in get_args(Metric):
        raise usage(f"unknown metric {metric!r}; choose one of {', '.join(get_args(Metric))}")
    given = {
        "levels": levels, "steps": steps, "sigma_max": sigma_max, "sigma_min": sigma_min, "gamma": gamma,
        "temperature": temperature, "chains": chains,
    }  # fmt: skip
    check_sgld(given)
    from ..evaluation import results as evaluation
    from ..evaluation.songs import find_songs
    from ..models import folder as models
    from ..spectral import infer as inference

    set_threads(threads)
    picked = inference.pick_device(device)
    model = models.assemble(priors, pairs(prior, "--prior"), device=picked, offline=offline)
    waveform = model.waveform is not None
    config = sgld_config(default_sgld(waveform=waveform), given)
    warm = sgld_config(default_sgld(waveform=waveform, from_encoder=True), given)
    found = [song for path in songs for song in find_songs(path)]
    results = evaluation.evaluate(
        found,
        model,
        listed(methods),
        settings=inference.Settings(sgld=config, seed=seed, device=picked),
        from_encoder=warm,
        seconds=seconds,
        nmf_data={s: Path(d) for s, d in pairs(nmf_data, "--nmf-data").items()} or None,
        on_progress=None if quiet else lambda done, total, what: say(f"[{done + 1}/{total}] {what}"),
    )
    if plot:
        results.plot(plot)
    for note in results.notes:
        say(f"note: {note}")
    if as_json:
        typer.echo(results.to_json())
    else:
        shown = cast(Metric, metric)
        show(results.table(shown), evaluation.METRICS[shown])


def show(rows: list[list[str]], title: str) -> None:
    """The figures as a table on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for i, heading in enumerate(rows[0]):
        table.add_column(heading, justify="left" if i < 2 else "right")
    for row in rows[1:]:
        table.add_row(*row)
    Console(width=max(100, Console().width)).print(table)
