"""Songs with known sources -> how well each method finds them, between the baselines and the ceiling.

Shape suffixes: k stem, c audio channel, t sample, f bin, d band, n frame.

Every method gets the same mixture and answers with stems at the song's own rate, in float. The baselines and
the oracle are masks on the very STFT that the model uses; the model itself takes the route of separation.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import audio, data, metrics, ni_stem
from .config import SpectrumConfig, default_sgld
from .errors import DeepsepError, MissingExtra
from .loudness import Loudness
from .model import Model
from .separation import Settings, separate_blocks, stationary_gains
from .spectrum import Spectrum

__all__ = [
    "METHODS",
    "METRICS",
    "Clip",
    "NmfDictionaries",
    "Results",
    "Score",
    "Song",
    "default_methods",
    "evaluate",
    "find_songs",
    "read",
]

Samples = NDArray[np.float32]
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
NI_NAMES = {"vox": "vocals", "vocal": "vocals", "voice": "vocals", "drum": "drums", "others": "other"}
MIXTURE_NAMES = ("mixture", "mix")
STEM_SUFFIXES = (".stem.mp4", ".stem.m4a")
SILENCE_DB = -60.0  # a reference this far below the mixture is silent: nothing to find
MASTERED_DB = 20.0  # a mix that is no closer to the sum of its stems has been through a limiter
CHUNK = 256  # frames synthesised at a time
COLORS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


# --- songs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Song:
    """Where a mixture and its sources are: a file each, or all of them in a stem file."""

    name: str
    stems: dict[str, Path] = field(default_factory=dict)
    mixture: Path | None = None
    container: Path | None = None

    @property
    def files(self) -> list[Path]:
        """All of its files."""
        own = [path for path in (self.mixture, self.container) if path is not None]
        return [*own, *self.stems.values()]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A song's samples: the mixture (c, t), references of the same shape, and what a reader should know."""

    rate: int
    mixture_ct: Samples
    references: dict[str, Samples]
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Length."""
        samples: int = self.mixture_ct.shape[1]
        return samples / self.rate


def find_songs(path: Path | str) -> list[Song]:
    """The songs below `path`: folders with a file for each source, and stem files.

    A folder of audio files is one song, each file named after its source; mixture.* is optional. Folders of
    such folders and of .stem.mp4 files, as MUSDB18 and MUSDB18-HQ are laid out, are searched at any depth.
    Raises DeepsepError where there is no song, or two files for one source.
    """
    path = Path(path)
    if path.is_file():
        if not is_stem_file(path):
            raise DeepsepError(
                f"{path}: not a stem file; give a .stem.mp4 or a folder that holds vocals.wav, drums.wav..."
            )
        return [Song(name=audio.track_name(path), container=path)]
    if not path.is_dir():
        raise DeepsepError(f"{path}: no such file or folder; give a folder of songs with known sources")
    songs = list(search(path, path))
    if not songs:
        raise DeepsepError(
            f"{path}: holds no song with known sources; a song is a folder with a file for each source "
            "(vocals.wav, drums.flac...) or a .stem.mp4 file"
        )
    return songs


def search(folder: Path, top: Path) -> Iterator[Song]:
    """`find_songs` below one folder, in the order of names."""
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    files = [p for p in entries if p.is_file()]
    stems: dict[str, Path] = {}
    for path in files:
        if is_stem_file(path) or path.suffix.lower() not in audio.AUDIO_SUFFIXES:
            continue
        source = audio.track_name(path).lower()
        if source in stems:
            raise DeepsepError(
                f"{path}: is a second {source} beside {stems[source].name}; keep one of the two"
            )
        stems[source] = path
    mixtures = [stems.pop(name) for name in MIXTURE_NAMES if name in stems]
    if stems:
        name = folder.resolve().name if folder == top else folder.relative_to(top).as_posix()
        yield Song(name=name, stems=stems, mixture=mixtures[0] if mixtures else None)
    for path in filter(is_stem_file, files):
        name = (path.parent / audio.track_name(path)).relative_to(top).as_posix()
        yield Song(name=name, container=path)
    for path in entries:
        if path.is_dir():
            yield from search(path, top)


def is_stem_file(path: Path) -> bool:
    """Whether a file is named like a Native Instruments stem file."""
    return path.name.lower().endswith(STEM_SUFFIXES)


def read(song: Song, sources: Sequence[str], seconds: float | None = None) -> Clip:
    """A song's mixture and its references for these sources, or an excerpt of `seconds`.

    A missing mixture is the sum of all its stems; other stems than `sources` are part of the mixture only.
    The excerpt is the one that holds most of the sources, each measured by the share of its own energy.
    Raises DeepsepError when the song has a reference for none of them.
    """
    notes: list[str] = []
    if song.container is not None:
        parts, rate = stem_streams(song.container)
        given: Samples | None = parts.pop("mixture")
    else:
        read_files = {name: audio.read(path) for name, path in song.stems.items()}
        if song.mixture is not None:
            read_files["mixture"] = audio.read(song.mixture)
        rates = {name: own for name, (_, own) in read_files.items()}
        rate = rates.get("mixture", max(rates.values()))
        parts = {name: audio.resample(samples, own, rate) for name, (samples, own) in read_files.items()}
        given = parts.pop("mixture") if song.mixture is not None else None
    references = {name: parts[name] for name in sources if name in parts}
    if not references:
        raise DeepsepError(
            f"{song.name}: has a reference for none of {', '.join(sources)}, only {', '.join(sorted(parts))}"
        )
    if others := sorted(parts.keys() - references.keys()):
        notes.append(f"{', '.join(others)}: no source of these priors, heard in the mixture only")
    everything = [*parts.values(), *([] if given is None else [given])]
    channels = max(len(p) for p in everything)
    length = given.shape[1] if given is not None else max(p.shape[1] for p in everything)
    references = {name: fitted(p, channels, length) for name, p in references.items()}
    total: Samples = np.zeros((channels, length), np.float32)
    for part in parts.values():
        total += fitted(part, channels, length)
    if given is None:
        mixture = total
    else:
        mixture = fitted(given, channels, length)
        if song.container is not None and metrics.sdr(mixture, total) < MASTERED_DB:
            notes.append("its mix is mastered, not the sum of its stems; that sum is separated instead")
            mixture = total
    if seconds is not None and 0 < seconds * rate < length:
        at = fullest(list(references.values()), round(seconds * rate), rate)
        mixture = mixture[:, at : at + round(seconds * rate)]
        references = {name: p[:, at : at + round(seconds * rate)] for name, p in references.items()}
        notes.append(f"excerpt of {seconds:g} s from {at / rate:.1f} s")
    return Clip(rate=rate, mixture_ct=mixture, references=references, notes=tuple(notes))


def fitted(samples_ct: Samples, channels: int, length: int) -> Samples:
    """Mono on every channel; cut, or filled with silence, to `length`."""
    if len(samples_ct) not in (1, channels):
        raise DeepsepError(
            f"stems of {len(samples_ct)} and of {channels} channels are no one song; convert them"
        )
    cut = samples_ct[:, :length]
    padded = np.pad(cut, ((0, 0), (0, length - cut.shape[1])))
    return np.broadcast_to(padded, (channels, length)) if len(padded) != channels else padded


def fullest(stems: Sequence[Samples], length: int, rate: int) -> int:
    """The first sample of the stretch with most of each stem, to a tenth of a second."""
    block = max(1, rate // 10)
    whole = stems[0].shape[1] // block
    shares = np.zeros(whole)
    for samples_ct in stems:
        power = (
            np.square(samples_ct[:, : whole * block]).mean(0).reshape(whole, block).sum(1, dtype=np.float64)
        )
        shares += power / max(power.sum(), 1e-30)
    sums = np.concatenate([[0.0], np.cumsum(shares)])
    span = min(whole, -(-length // block))
    at = int(np.argmax(sums[span:] - sums[: whole - span + 1])) * block
    return min(at, int(stems[0].shape[1]) - length)


def stem_streams(path: Path) -> tuple[dict[str, Samples], int]:
    """The streams of a stem file by name, the first as "mixture", and their rate."""
    if shutil.which("ffmpeg") is not None:
        streams, rate = streams_by_stempeg(path)
    else:
        streams, rate = streams_by_pyav(path)
    if len(streams) < 2:
        raise DeepsepError(f"{path}: has {len(streams)} audio stream; a stem file has the mix and its stems")
    return dict(zip(["mixture", *stem_names(path, len(streams) - 1)], streams, strict=True)), rate


def stem_names(path: Path, count: int) -> list[str]:
    """What the file calls its stems, or the usual order where it does not tell them apart."""
    try:
        told = [str(stem.get("name", "")).strip().lower() for stem in ni_stem.read_manifest(path)["stems"]]
    except DeepsepError:
        told = []
    names = [NI_NAMES.get(name, name) for name in told]
    if len(names) == count and len({*names, "mixture", ""}) == count + 2:
        return names
    if count != len(ni_stem.ORDER):
        raise DeepsepError(f"{path}: has {count} stems and no names for them; give a folder of files instead")
    return list(ni_stem.ORDER)


def streams_by_stempeg(path: Path) -> tuple[list[Samples], int]:
    """All streams of a stem file with the ffmpeg program."""
    import stempeg

    try:
        streams, rate = stempeg.read_stems(str(path), dtype=np.float32)
    except Exception as error:  # stempeg lets through whatever ffmpeg, ffprobe and their output cause
        raise DeepsepError(f"{path}: cannot be read as a stem file; get it again") from error
    if streams.ndim != 3:
        return [streams.T], int(rate)
    return [np.ascontiguousarray(stream.T, np.float32) for stream in streams], int(rate)


def streams_by_pyav(path: Path) -> tuple[list[Samples], int]:
    """All streams of a stem file with PyAV."""
    try:
        import av
    except ImportError:
        raise MissingExtra(f'{path}: stem files need ffmpeg or PyAV: pip install "deepsep[av]"') from None
    streams: list[Samples] = []
    rate = 0
    try:
        with av.open(str(path)) as container:
            count = len(container.streams.audio)
        for i in range(count):
            with av.open(str(path)) as container:
                planar = av.AudioResampler(format="fltp")
                frames = container.decode(container.streams.audio[i])
                blocks = [out.to_ndarray() for frame in (*frames, None) for out in planar.resample(frame)]
                rate = int(container.streams.audio[i].rate)
            streams.append(np.concatenate(blocks, 1))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise DeepsepError(f"{path}: cannot be read as a stem file; get it again") from error
    return streams, rate


# --- masks ---------------------------------------------------------------------------------------------


class Analysis:
    """A clip on the model's STFT, computed once for all masks."""

    def __init__(self, clip: Clip, model: Model) -> None:
        self.clip = clip
        self.sources = model.sources
        self.spectrum = Spectrum(model.spectrum, clip.rate)

    @cached_property
    def spectra_cfn(self) -> Tensor:
        """The mixture's STFT."""
        return self.spectrum.analyse(torch.tensor(self.clip.mixture_ct))

    @cached_property
    def power_dn(self) -> Tensor:
        """The mixture's mean power in each band, channels averaged."""
        return self.spectrum.band_power(self.spectra_cfn.abs().square().mean(0))

    def true_power(self, full: bool) -> tuple[Tensor, Tensor]:
        """Power of each source, 0 without a reference, and of all that is in the mixture: (k, ...), (...).

        With `full` for each channel and bin, else on the bands. What the references leave over of the mixture
        counts as one more source.
        """
        references = self.clip.references
        rest = self.clip.mixture_ct - np.sum(list(references.values()), 0)

        def power(samples_ct: Samples) -> Tensor:
            squared = self.spectrum.analyse(torch.tensor(samples_ct)).abs().square()
            return squared if full else self.spectrum.band_power(squared.mean(0))

        total = power(rest)
        zero = torch.zeros_like(total)
        own = torch.stack([power(references[s]) if s in references else zero for s in self.sources])
        return own, total + own.sum(0)

    def masked(self, gains: Tensor) -> Samples:
        """Stems (k, c, t) by gains (k, d, n) on bands, n = 1 for all times, or (k, c, f, n) in every bin."""
        frames, length = self.spectra_cfn.shape[-1], self.clip.mixture_ct.shape[1]

        def pieces(gain: Tensor) -> Iterator[Tensor]:
            for at in range(0, frames, CHUNK):
                part = gain if gain.shape[-1] == 1 else gain[..., at : at + CHUNK]
                bins = self.spectrum.expand(part) if part.ndim == 2 else part
                yield bins * self.spectra_cfn[..., at : at + CHUNK]

        stems = [torch.cat(list(self.spectrum.synthesise_stream(pieces(gain))), -1) for gain in gains]
        return torch.stack(stems)[..., :length].numpy()


def oracle_gains(analysis: Analysis, full: bool) -> Tensor:
    """|S_k|^2 / sum_j |S_j|^2, on bands or in every bin and channel."""
    own, total = analysis.true_power(full)
    gains: Tensor = own / total.clamp_min(1e-30)
    return gains


@dataclass(frozen=True, slots=True)
class NmfDictionaries:
    """Non-negative spectra of each source, learnt on its solo recordings: magnitudes on the model's bands.

    Activations under the Kullback-Leibler divergence explain a mixture by all dictionaries together. That
    divergence has magnitudes add up, so a source's gain is its part of their sum.
    Reference: Smaragdis et al., Supervised and semi-supervised separation of sounds, 2007.
    """

    atoms: dict[str, NDArray[np.float64]]  # (r, d)
    iterations: int = 20  # more fit the mixture better, and the sources worse

    @classmethod
    def learn(
        cls,
        folders: Mapping[str, Path],
        config: SpectrumConfig,
        *,
        components: int = 32,
        files: int = 30,
        frames: int = 4000,
        iterations: int = 60,
        seed: int = 0,
    ) -> NmfDictionaries:
        """Learns `components` spectra of each source from frames of up to `files` of its recordings."""
        factorize = nmf_function()
        spectrum = Spectrum(config)
        random = np.random.default_rng(seed)
        atoms = {}
        for source, folder in folders.items():
            found = data.find_audio(Path(folder))
            chosen = [found[i] for i in np.sort(random.permutation(len(found))[:files])]
            pieces = []
            for path in chosen:
                if (rms := data.file_rms(path)) == 0:
                    continue
                heard = list(islice(data.log_powers(path, spectrum, rms, 1.0), 3))
                if heard:
                    own = np.concatenate(heard).astype(np.float64)
                    pick = random.permutation(len(own))[: -(-frames // len(chosen))]
                    magnitude = np.exp(own[np.sort(pick)] / 2)
                    pieces.append(magnitude / np.maximum(magnitude.sum(1, keepdims=True), 1e-3))
            if not pieces:
                raise DeepsepError(f"{folder}: has no recording that is neither silent nor too short")
            _, learnt, _ = factorize(
                np.concatenate(pieces),
                n_components=components,
                init="random",
                solver="mu",
                beta_loss="kullback-leibler",
                max_iter=iterations,
                tol=0,
                random_state=seed,
            )
            atoms[source] = learnt / np.maximum(learnt.sum(1, keepdims=True), 1e-12)
        return cls(atoms)

    def gains(self, power_dn: Tensor, spectrum: Spectrum) -> Tensor:
        """Gains (k, d, n) of a mixture by its band powers; they sum to 1."""
        present = spectrum.present_d.numpy()
        magnitude = power_dn.numpy().astype(np.float64).T ** 0.5
        level = max(float(magnitude.mean()), 1e-12)
        stacked = np.concatenate(list(self.atoms.values()))
        activity, _, _ = nmf_function()(
            np.ascontiguousarray(magnitude[:, present]) / level + 1e-9,
            H=np.ascontiguousarray(stacked[:, present]),
            n_components=len(stacked),
            init="custom",
            update_H=False,
            solver="mu",
            beta_loss="kullback-leibler",
            max_iter=self.iterations,
            tol=0,
        )
        parts, at = [], 0
        for own in self.atoms.values():
            parts.append(activity[:, at : at + len(own)] @ own)
            at += len(own)
        share = np.stack(parts).transpose(0, 2, 1) + 1e-20
        return torch.from_numpy(share / share.sum(0)).float()


def nmf_function() -> Callable[..., tuple[Any, Any, Any]]:
    """scikit-learn's factorization."""
    try:
        from sklearn.decomposition import non_negative_factorization
    except ImportError:
        raise MissingExtra('the nmf baseline needs scikit-learn: pip install "deepsep[eval]"') from None
    factorize: Callable[..., tuple[Any, Any, Any]] = non_negative_factorization
    return factorize


# --- the evaluation ------------------------------------------------------------------------------------


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
    seconds: float | None = None,
    nmf_data: Mapping[str, Path] | None = None,
    on_progress: OnProgress | None = None,
) -> Results:
    """Scores each method on each song: SDR, SI-SDR and the median SDR.

    methods: names out of `METHODS`; by default `default_methods`, and nmf when nmf_data (source -> folder of
    solo recordings) is given. settings: how to sample; its method and init are set by each method. seconds:
    the length of an excerpt, by default whole songs.
    Sources without a reference are separated but not scored, nor are silent references; `notes` says so.
    Raises DeepsepError for methods that cannot run, before any song is read, and as `read` does.
    """
    chosen = list(dict.fromkeys(methods or default_methods(model)))
    if not methods and nmf_data:
        chosen.insert(chosen.index("stationary") + 1, "nmf")
    check(chosen, model, nmf_data)
    if seconds is not None and not seconds > 0:
        raise DeepsepError(f"an excerpt must be longer than 0 s, got {seconds:g}")
    using = settings or Settings(sgld=default_sgld(waveform=model.waveform is not None))
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
            stems_kct = estimate(method, analysis, model, using, dictionaries)
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
