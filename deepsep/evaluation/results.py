"""Songs with known sources -> how well each method finds them, between the baselines and the ceiling.

Shape suffixes: k stem, c audio channel, t sample.

Every method gets the same mixture and answers with stems at the song's own rate, in float. The baselines and
the oracle are masks on the very STFT that the model uses; the model itself takes the route of separation.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..audio.loudness import Loudness
from ..config import SgldConfig, default_sgld
from ..errors import DeepsepError, MissingExtra
from ..models.folder import Model, stationary_gains
from ..separation import separate_blocks
from ..spectral.infer import Settings
from . import metrics
from .baselines import Analysis, NmfDictionaries, nmf_function, oracle_gains
from .songs import Clip, Samples, Song, read

__all__ = ["METHODS", "METRICS", "Results", "Score", "default_methods", "evaluate"]

Metric = Literal["sdr", "si_sdr", "sdr_median"]
OnProgress = Callable[[int, int, str], None]  # steps done, steps in all, what comes next

METHODS = {
    "mixture": "the mixture itself as every estimate",
    "stationary": "Wiener filter from each prior's mean spectrum, the same at all times",
    "nmf": "mask from non-negative dictionaries, learnt on solo recordings of each source",
    "sgld": "Langevin sampling under the priors alone",
    "encoder": "amortized inference",
    "encoder+sgld": "Langevin sampling from the encoder's estimate",
    "oracle": "ratio mask of the true sources on the model's bands: the ceiling of any mask there",
    "oracle-full": "ratio mask of the true sources in every bin and channel",
}
METRICS: dict[Metric, str] = {
    "sdr": "SDR",
    "si_sdr": "SI-SDR",
    "sdr_median": "median SDR over seconds (BSS Eval v4)",
}
SILENCE_DB = -60.0  # a reference this far below the mixture is silent: nothing to find
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
    """All scores, what they cost, and what a reader should know about each song."""

    sources: list[str]
    methods: list[str]
    scores: list[Score] = field(default_factory=list)
    lengths: dict[str, float] = field(default_factory=dict)  # song -> seconds of sound that were separated
    took: dict[str, float] = field(default_factory=dict)  # method -> seconds of computing for all songs
    notes: list[str] = field(default_factory=list)

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
                rows.append([title if i == 0 else "", method, *map(shown, values)])
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values; a figure that does not exist is null."""

        def figures(song: str | None, method: str) -> dict[str, Any]:
            return {
                metric: {
                    **{s: plain(self.mean(method, song=song, source=s, metric=metric)) for s in self.sources},
                    "mean": plain(self.mean(method, song=song, metric=metric)),
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
        }

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def plot(self, path: Path | str, metric: Metric = "sdr") -> None:
        """Draws each source's mean by method and a dot for every song, as .png, .svg or .pdf."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise MissingExtra('a plot needs matplotlib: pip install "deepsep[eval]"') from None
        groups: list[str | None] = [*self.sources, None]
        width = 0.8 / max(1, len(self.methods))
        inches = min(11.0, 2 + 0.3 * len(groups) * len(self.methods))
        figure = Figure(figsize=(max(6.0, inches), 4.2), layout="constrained")
        axes = figure.add_subplot()
        for i, method in enumerate(self.methods):
            at = np.arange(len(groups)) + (i - (len(self.methods) - 1) / 2) * width
            means = [self.mean(method, source=s, metric=metric) for s in groups]
            color = COLORS[i % len(COLORS)]
            axes.bar(at, finite(means), width * 0.92, color=color, alpha=0.8, label=method)
            for song in self.songs if len(self.songs) > 1 else []:
                values = [self.mean(method, song=song, source=s, metric=metric) for s in groups]
                axes.plot(at, finite(values), "o", color="white", markersize=3, markeredgecolor="0.25")
        axes.axhline(0, color="0.3", linewidth=0.8)
        axes.set_xticks(range(len(groups)), [s or "mean" for s in groups])
        axes.set_ylabel(f"{METRICS[metric]} [dB]")
        axes.set_title(
            self.songs[0] if len(self.songs) == 1 else f"{len(self.songs)} songs", fontsize="medium"
        )
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=min(4, len(self.methods)), frameon=False)
        try:
            figure.savefig(path, dpi=150)
        except (ValueError, OSError) as error:
            raise DeepsepError(
                f"{path}: the plot cannot be written ({error}); name a .png, .svg or .pdf"
            ) from error


def default_methods(model: Model) -> list[str]:
    """Every method that this model allows and that needs no other data."""
    skipped = {"nmf"} if model.encoder is not None else {"nmf", "encoder", "encoder+sgld"}
    return [name for name in METHODS if name not in skipped]


def evaluate(
    songs: Sequence[Song],
    model: Model,
    methods: Sequence[str] | None = None,
    *,
    settings: Settings | None = None,
    from_encoder: SgldConfig | None = None,
    seconds: float | None = None,
    nmf_data: Mapping[str, Path] | None = None,
    on_progress: OnProgress | None = None,
) -> Results:
    """Scores each method on each song: SDR, SI-SDR and the median SDR.

    methods: names out of `METHODS`; by default `default_methods`, and nmf when nmf_data (source -> folder of
    solo recordings) is given. settings: how to sample; its method and init are set by each method. from_encoder:
    how Langevin goes on from the encoder's estimate, where not as from the mixture. seconds: the length of an
    excerpt, by default whole songs.
    Sources without a reference are separated but not scored, nor are silent references; `notes` says so.
    Raises DeepsepError for methods that cannot run, before any song is read, and as `read` does.
    """
    chosen = list(dict.fromkeys(methods or default_methods(model)))
    if not methods and nmf_data:
        chosen.insert(chosen.index("stationary") + 1, "nmf")
    check(chosen, model, nmf_data)
    if seconds is not None and not seconds > 0:
        raise DeepsepError(f"an excerpt must be longer than 0 s, got {seconds:g}")
    waveform = model.waveform is not None
    using = settings or Settings(sgld=default_sgld(waveform=waveform))
    usual = settings.sgld if settings else default_sgld(waveform=waveform, from_encoder=True)
    warm = replace(using, sgld=from_encoder or usual)
    results = Results(model.sources, chosen)
    steps = len(songs) * len(chosen)
    tell = on_progress or (lambda done, total, what: None)
    dictionaries = None
    if "nmf" in chosen and nmf_data is not None:
        nmf_function()
        tell(0, steps, "dictionaries for nmf")
        dictionaries = NmfDictionaries.learn({s: nmf_data[s] for s in model.sources}, model.spectrum)
    for i, (name, song) in enumerate(zip(unique([s.name for s in songs]), songs, strict=True)):
        tell(i * len(chosen), steps, f"{name}: reading")
        clip = read(song, model.sources, seconds)
        results.notes.extend(f"{name}: {note}" for note in clip.notes)
        scored = audible(clip)
        if silent := [s for s in clip.references if s not in scored]:
            results.notes.append(f"{name}: {', '.join(silent)} silent, not scored")
        if missing := [s for s in model.sources if s not in clip.references]:
            results.notes.append(f"{name}: no reference for {', '.join(missing)}, not scored")
        if not scored:
            continue
        results.lengths[name] = clip.seconds
        analysis = Analysis(clip, model)
        for j, method in enumerate(chosen):
            tell(i * len(chosen) + j, steps, f"{name}: {method}")
            start = time.perf_counter()
            stems_kct = estimate(
                method, analysis, model, warm if method == "encoder+sgld" else using, dictionaries
            )
            results.took[method] = results.took.get(method, 0.0) + time.perf_counter() - start
            found = {s: stems_kct[model.sources.index(s)] for s in scored}
            results.scores.extend(score(name, method, clip, found))
    tell(steps, steps, "done")
    return results


def check(methods: Sequence[str], model: Model, nmf_data: Mapping[str, Path] | None) -> None:
    """Raises DeepsepError for a method that is unknown or cannot run."""
    for method in methods:
        if method not in METHODS:
            raise DeepsepError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
        if method.startswith("encoder") and model.encoder is None:
            raise DeepsepError(f"{method}: these priors have no encoder for just these sources; leave it out")
    given = set(nmf_data or {})
    if "nmf" in methods and (lacking := [s for s in model.sources if s not in given]):
        raise DeepsepError(
            f"nmf: needs a folder of solo recordings of {', '.join(lacking)}; give it or leave nmf out"
        )


def estimate(
    method: str, analysis: Analysis, model: Model, settings: Settings, dictionaries: NmfDictionaries | None
) -> Samples:
    """All stems of a clip by one method, (k, c, t)."""
    clip, spectrum = analysis.clip, analysis.spectrum
    if method == "mixture":
        return np.broadcast_to(clip.mixture_ct, (len(model.sources), *clip.mixture_ct.shape))
    if method == "stationary":
        return analysis.masked(stationary_gains(model, spectrum).cpu())
    if method == "nmf":
        assert dictionaries is not None
        return analysis.masked(dictionaries.gains(analysis.power_dn, spectrum))
    if method in ("oracle", "oracle-full"):
        return analysis.masked(oracle_gains(analysis, method == "oracle-full"))
    init: Literal["mixture", "encoder"] = "encoder" if method == "encoder+sgld" else "mixture"
    settings = replace(settings, method="encoder" if method == "encoder" else "sgld", init=init)
    loudness = Loudness()
    loudness.hear(clip.mixture_ct)
    length = clip.mixture_ct.shape[1]
    return np.concatenate(
        list(separate_blocks([clip.mixture_ct], clip.rate, loudness.rms, length, model, settings)), -1
    )


def score(song: str, method: str, clip: Clip, found: Mapping[str, Samples]) -> list[Score]:
    """The figures of each source that was found, against its reference."""
    true = [clip.references[s] for s in found]
    medians = metrics.median_sdr(true, list(found.values()), clip.rate)
    return [
        Score(song, source, method, metrics.sdr(s, e), metrics.si_sdr(s, e), median)
        for (source, e), s, median in zip(found.items(), true, medians, strict=True)
    ]


def audible(clip: Clip) -> list[str]:
    """The references that are not silent: less than 60 dB below the mixture."""
    least = np.square(clip.mixture_ct, dtype=np.float64).sum() * 10 ** (SILENCE_DB / 10)
    powers = {s: np.square(p, dtype=np.float64).sum() for s, p in clip.references.items()}
    return [s for s, power in powers.items() if power > max(least, 0.0)]


def unique(names: Sequence[str]) -> list[str]:
    """The names, a number added to those that come again."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return out


def average(values: Iterable[float]) -> float:
    """The mean of the figures that exist; nan when there are none."""
    known = [v for v in values if not math.isnan(v)]
    return float(np.mean(known)) if known else math.nan


def finite(values: Iterable[float]) -> list[float]:
    """Infinite figures as nan, which plots leave out."""
    return [v if math.isfinite(v) else math.nan for v in values]


def plain(value: float) -> float | None:
    """A figure to a thousandth of a dB, None where there is none."""
    return round(value, 3) if math.isfinite(value) else None


def shown(value: float) -> str:
    """A figure as text."""
    return "-" if math.isnan(value) else f"{value:.2f}"
