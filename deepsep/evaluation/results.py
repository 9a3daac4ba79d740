"""The figures of an evaluation: means, tables, JSON, a plot."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Metric
from ..errors import DeepsepError, MissingExtra
from ..progress import printable
from ..staging import StagedFiles

__all__ = ["METRICS", "Results", "Score", "check_plot"]

METRICS: dict[Metric, str] = {
    "sdr": "SDR",
    "si_sdr": "SI-SDR",
    "sdr_median": "median SDR over seconds (BSS Eval v4)",
}
COLORS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


@dataclass(frozen=True, slots=True)
class Score:
    """The figures of one method on one source of a song, in dB."""

    song: str
    source: str
    method: str
    sdr: float
    si_sdr: float
    sdr_median: float


@dataclass(frozen=True, slots=True)
class Results:
    """All scores, what they cost, what a reader should know about each song, and which songs failed."""

    sources: list[str]
    methods: list[str]
    scores: list[Score] = field(default_factory=list)
    lengths: dict[str, float] = field(default_factory=dict)  # song -> seconds of sound that were separated
    took: dict[str, float] = field(default_factory=dict)  # method -> seconds of computing for all songs
    notes: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # song -> why it could not be scored

    @property
    def songs(self) -> list[str]:
        """The songs that were scored, in order."""
        return list(dict.fromkeys(score.song for score in self.scores))

    def mean(
        self, method: str, *, song: str | None = None, source: str | None = None, metric: Metric = "sdr"
    ) -> float:
        """The figure of a song's source, or a mean: of a song, over its sources; in total, over the songs."""
        if song is None:
            return average(self.mean(method, song=s, source=source, metric=metric) for s in self.songs)
        return average(
            getattr(s, metric)
            for s in self.scores
            if (s.song, s.method) == (song, method) and source in (None, s.source)
        )

    def table(self, metric: Metric = "sdr") -> list[list[str]]:
        """Rows of text, the heading first: song, method, each source's figure, their mean; totals last."""
        rows = [["song", "method", *self.sources, "mean"]]
        songs: list[str | None] = [*self.songs]
        for song in [*songs, None]:
            if song is None and len(songs) < 2:
                continue
            for i, method in enumerate(self.methods):
                title = song or f"mean of {len(songs)} songs"
                values = [
                    self.mean(method, song=song, source=s, metric=metric) for s in (*self.sources, None)
                ]
                rows.append([title if i == 0 else "", method, *map(format_db, values)])
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values; a figure that does not exist is null."""

        def figures(song: str | None, method: str) -> dict[str, Any]:
            return {
                metric: {
                    **{
                        s: to_json_number(self.mean(method, song=song, source=s, metric=metric))
                        for s in self.sources
                    },
                    "mean": to_json_number(self.mean(method, song=song, metric=metric)),
                }
                for metric in METRICS
            }

        sound = sum(self.lengths.values())
        return {
            "unit": "dB",
            "sources": self.sources,
            "methods": self.methods,
            "songs": {
                song: {
                    "seconds": round(self.lengths[song], 3),
                    "methods": {m: figures(song, m) for m in self.methods},
                }
                for song in self.songs
            },
            "mean": {m: figures(None, m) for m in self.methods},
            "computing_per_second_of_sound": {
                m: round(self.took.get(m, 0.0) / sound, 4) if sound else None for m in self.methods
            },
            "notes": self.notes,
            "failed": self.failed,
        }

    def to_json(self) -> str:
        """`to_dict` as text, all ASCII: names may hold what no terminal or encoding takes."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def plot(self, path: Path | str, metric: Metric = "sdr", *, overwrite: bool = True) -> None:
        """Draw each source's mean by method and a dot for every song, as .png, .svg or .pdf.

        Raises DeepsepError where the file cannot be written, or exists without `overwrite`; it stays then as it is.
        """
        path = Path(path)
        check_plot(path, overwrite=overwrite)
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        groups: list[str | None] = [*self.sources, None]
        width = 0.8 / max(1, len(self.methods))
        inches = min(11.0, 2 + 0.3 * len(groups) * len(self.methods))
        figure = Figure(figsize=(max(6.0, inches), 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for i, method in enumerate(self.methods):
            at = np.arange(len(groups)) + (i - (len(self.methods) - 1) / 2) * width
            means = [self.mean(method, source=s, metric=metric) for s in groups]
            color = COLORS[i % len(COLORS)]
            axes.bar(at, nan_unless_finite(means), width * 0.92, color=color, alpha=0.8, label=method)
            for song in self.songs if len(self.songs) > 1 else []:
                values = [self.mean(method, song=song, source=s, metric=metric) for s in groups]
                axes.plot(
                    at, nan_unless_finite(values), "o", color="white", markersize=3, markeredgecolor="0.25"
                )
        axes.axhline(0, color="0.3", linewidth=0.8)
        axes.set_xticks(range(len(groups)), [s or "mean" for s in groups])
        axes.set_ylabel(f"{METRICS[metric]} [dB]")
        title = self.songs[0] if len(self.songs) == 1 else f"{len(self.songs)} songs"
        axes.set_title(printable(title), fontsize="medium", parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=min(4, len(self.methods)), frameon=False)
        with StagedFiles({"plot": path}, replace=overwrite) as staged:
            try:
                figure.savefig(staged.temporary["plot"], dpi=150)
            except (ValueError, OSError) as error:
                why = getattr(error, "strerror", None) or error
                raise DeepsepError(f"{path}: the plot cannot be written ({why})") from error
            staged.commit()


def check_plot(path: Path, *, overwrite: bool) -> None:
    """Raise DeepsepError unless a plot of this name can be drawn, and replaces no file without `overwrite`."""
    if find_spec("matplotlib") is None:
        raise MissingExtra('a plot needs matplotlib: pip install "deepsep[eval]"')
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if path.suffix[1:].lower() not in FigureCanvasAgg.get_supported_filetypes():
        raise DeepsepError(f"{path}: no plot has a name that ends so; name a .png, .svg or .pdf")
    if os.path.lexists(path) and not overwrite:
        raise DeepsepError(f"{path} exists; use --overwrite to replace it")


def average(values: Iterable[float]) -> float:
    """The mean of the figures that exist; nan when there are none."""
    known = [v for v in values if not math.isnan(v)]
    return float(np.mean(known)) if known else math.nan


def nan_unless_finite(values: Iterable[float]) -> list[float]:
    """Infinite figures as nan, which plots leave out."""
    return [v if math.isfinite(v) else math.nan for v in values]


def to_json_number(value: float) -> float | None:
    """A figure to a thousandth of a dB, None where there is none."""
    return round(value, 3) if math.isfinite(value) else None


def format_db(value: float) -> str:
    """A figure as text."""
    return "-" if math.isnan(value) else f"{value:.2f}"
