"""Separations scored against the true stems, beside baselines and ideal ratio masks.

Shape suffixes: k stem, c audio channel, t sample.

Every method gets the same mixture and answers with stems at the song's own rate, in float. The baselines and the oracle
are masks on the STFT of the model's domain; the model itself takes the route of separation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..config import SgldConfig
from ..errors import DeepsepError, is_out_of_memory
from ..inference.domain import Separation
from ..inference.model import Model
from ..inference.settings import Settings, choose_pitches, pick_batch_size
from ..separation import measure, separate_blocks
from ..spectral.infer import stationary_gains
from . import metrics
from .baselines import Analysis, NmfDictionaries, nmf_function, oracle_gains
from .results import Results, Score
from .songs import Clip, Samples, Song, read

__all__ = ["METHODS", "Evaluation", "default_methods", "evaluate"]

OnProgress = Callable[[int, int, str], None]  # steps done, steps in all, what comes next

METHODS = {
    "mixture": "the mixture itself as every estimate",
    "stationary": "Wiener filter from each prior's mean spectrum, the same at all times",
    "nmf": "mask from non-negative dictionaries, learnt on solo recordings of each source",
    "sgld": "Langevin sampling under the priors alone",
    "encoder": "amortized inference",
    "encoder+sgld": "Langevin sampling from the encoder's estimate",
    "oracle": "ideal ratio mask (of the true sources) on the model's bands",
    "oracle-full": "ratio mask of the true sources in every bin and channel",
}
SILENCE_DB = -60.0  # a reference this far below the mixture is silent: there is nothing to find


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """How to evaluate.

    methods are names out of `METHODS`; by default `default_methods`, and nmf where nmf_data has a folder of solo
    recordings for each source. sgld and warm are the sampler's settings from the mixture and from the encoder's
    estimate, by default the domain's own. pitches are those at which the encoder hears a song, by default as in
    `separate`. seconds is the length of an excerpt, by default whole songs.
    """

    methods: Sequence[str] = ()
    sgld: SgldConfig | None = None
    warm: SgldConfig | None = None
    pitches: int | None = None
    seed: int = 0
    device: str = "cpu"
    seconds: float | None = None
    nmf_data: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.seconds is not None and not self.seconds > 0:
            raise DeepsepError(f"an excerpt must be longer than 0 s, got {self.seconds:g}")


def default_methods(model: Model) -> list[str]:
    """Every method that this model allows and that needs no other data."""
    skipped = {"nmf"} if model.encoder is not None else {"nmf", "encoder", "encoder+sgld"}
    return [name for name in METHODS if name not in skipped]


def evaluate(
    songs: Sequence[Song],
    model: Model,
    how: Evaluation | None = None,
    *,
    on_progress: OnProgress | None = None,
) -> Results:
    """Score each method on each song: SDR, SI-SDR and the median SDR.

    Sources without a reference are separated but not scored, nor are silent references; the results' notes say so.
    A song that cannot be read is left out; the results' `failed` says why. Raises DeepsepError for methods that
    cannot run, before any song is read.
    """
    how = how or Evaluation()
    chosen = list(dict.fromkeys(how.methods or default_methods(model)))
    if not how.methods and how.nmf_data:
        chosen.insert(chosen.index("stationary") + 1, "nmf")
    check(chosen, model, how.nmf_data)
    results = Results(model.sources, chosen)
    steps = len(songs) * len(chosen)
    tell = on_progress or (lambda done, total, what: None)
    dictionaries = None
    if "nmf" in chosen:
        nmf_function()
        tell(0, steps, "dictionaries for nmf")
        folders = {s: how.nmf_data[s] for s in model.sources}
        dictionaries = NmfDictionaries.learn(folders, model.domain.spectrum)
    for i, (name, song) in enumerate(zip(number_repeats([s.name for s in songs]), songs, strict=True)):

        def told(j: int, what: str, i: int = i, name: str = name) -> None:
            tell(i * len(chosen) + j, steps, f"{name}: {what}")

        try:
            evaluate_song(name, song, model, how, dictionaries, results, told)
        except (DeepsepError, OSError, UnicodeError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            results.failed[name] = str(error) or type(error).__name__
    tell(steps, steps, "done")
    return results


def evaluate_song(
    name: str,
    song: Song,
    model: Model,
    how: Evaluation,
    dictionaries: NmfDictionaries | None,
    results: Results,
    tell: Callable[[int, str], None],
) -> None:
    """Add a song's scores by each method of `results`; of one that raises, none are added."""
    tell(0, "reading")
    clip = read(song, model.sources, how.seconds)
    scored = find_audible(clip)
    notes = list(clip.notes)
    if silent := [s for s in clip.references if s not in scored]:
        notes.append(f"{', '.join(silent)} silent, not scored")
    if missing := [s for s in model.sources if s not in clip.references]:
        notes.append(f"no reference for {', '.join(missing)}, not scored")
    scores: list[Score] = []
    took: dict[str, float] = {}
    if scored:
        analysis = Analysis(clip, model)
        for j, method in enumerate(results.methods):
            tell(j, method)
            start = time.perf_counter()
            stems_kct = estimate(method, analysis, model, how, dictionaries)
            took[method] = time.perf_counter() - start
            found = {s: stems_kct[model.sources.index(s)] for s in scored}
            scores.extend(score(name, method, clip, found))
        results.lengths[name] = clip.seconds
    results.notes.extend(f"{name}: {note}" for note in notes)
    results.scores.extend(scores)
    for method, seconds in took.items():
        results.took[method] = results.took.get(method, 0.0) + seconds


def check(methods: Sequence[str], model: Model, nmf_data: Mapping[str, Path]) -> None:
    """Raise DeepsepError for a method that is unknown or cannot run."""
    for method in methods:
        if method not in METHODS:
            raise DeepsepError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
        if method.startswith("encoder") and model.encoder is None:
            raise DeepsepError(f"{method}: these priors have no encoder for just these sources; leave it out")
    if "nmf" in methods and (lacking := [s for s in model.sources if s not in nmf_data]):
        raise DeepsepError(
            f"nmf: needs a folder of solo recordings of {', '.join(lacking)}; give it or leave nmf out"
        )


def estimate(
    method: str, analysis: Analysis, model: Model, how: Evaluation, dictionaries: NmfDictionaries | None
) -> Samples:
    """All stems of a clip by one method, (k, c, t)."""
    clip, spectrum = analysis.clip, analysis.spectrum
    if method == "mixture":
        return np.broadcast_to(clip.mixture_ct, (len(model.sources), *clip.mixture_ct.shape))
    if method == "stationary":
        return analysis.apply_gains(stationary_gains(list(model.priors.values()), spectrum).cpu())
    if method == "nmf" and dictionaries is not None:
        return analysis.apply_gains(dictionaries.gains(analysis.power_dn, spectrum))
    if method in ("oracle", "oracle-full"):
        return analysis.apply_gains(oracle_gains(analysis, method == "oracle-full"))
    sgld = how.sgld or model.domain.sgld()
    settings = Settings(
        method="sgld", init="mixture", sgld=sgld, seed=how.seed, device=how.device,
        batch_size=pick_batch_size("auto", how.device),
    )  # fmt: skip
    if method == "encoder":
        settings = replace(settings, method="encoder")
    if method == "encoder+sgld":
        warm = how.warm or how.sgld or model.domain.sgld(from_encoder=True)
        settings = replace(settings, init="encoder", sgld=warm)
    if method.startswith("encoder"):
        several = model.domain.several_pitches
        pitches = choose_pitches(how.pitches, settings.method, settings.init, several=several)
        settings = replace(settings, pitches=pitches)
    blocks = [clip.mixture_ct]
    groups = [[k] for k in range(len(model.sources))]
    separation = Separation(measure(blocks, clip.rate), model, settings, groups)
    return np.concatenate([stems_skct[0] for stems_skct in separate_blocks(blocks, separation)], -1)


def score(song: str, method: str, clip: Clip, found: Mapping[str, Samples]) -> list[Score]:
    """The figures of each source that was found, against its reference."""
    true = [clip.references[s] for s in found]
    medians = metrics.median_sdr(true, list(found.values()), clip.rate)
    return [
        Score(song, source, method, metrics.sdr(s, e), metrics.si_sdr(s, e), median)
        for (source, e), s, median in zip(found.items(), true, medians, strict=True)
    ]


def find_audible(clip: Clip) -> list[str]:
    """The references that are not silent: less than 60 dB below the mixture."""
    least = np.square(clip.mixture_ct, dtype=np.float64).sum() * 10 ** (SILENCE_DB / 10)
    powers = {s: np.square(p, dtype=np.float64).sum() for s, p in clip.references.items()}
    return [s for s, power in powers.items() if power > max(least, 0.0)]


def number_repeats(names: Sequence[str]) -> list[str]:
    """The names, a number added to those that come again."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return out
