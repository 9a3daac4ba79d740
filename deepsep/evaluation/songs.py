"""Songs whose sources are known: folders with a file for each, and stem files.

Shape suffixes: c audio channel, t sample.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..audio import files as audio
from ..audio.decoders import pyav
from ..audio.files import fit_length
from ..audio.resampling import resample
from ..errors import DeepsepError, MissingExtra
from ..output import mp4, ni_stem
from . import metrics

__all__ = ["Clip", "Song", "find_songs", "read"]

Samples = NDArray[np.float32]

NI_NAMES = {"vox": "vocals", "vocal": "vocals", "voice": "vocals", "drum": "drums", "others": "other"}
MIXTURE_NAMES = ("mixture", "mix")
STEM_SUFFIXES = (".stem.mp4", ".stem.m4a")
MASTERED_DB = 20.0  # a mix that is no closer to the sum of its stems has been through a limiter


@dataclass(frozen=True, kw_only=True, slots=True)
class Song:
    """Where a mixture and its sources are: a file each, or all of them in a stem file."""

    name: str
    stems: dict[str, Path] = field(default_factory=dict)
    mixture: Path | None = None
    container: Path | None = None


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
        parts = {name: resample(samples, own, rate) for name, (samples, own) in read_files.items()}
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
    references = {name: fit_shape(p, channels, length) for name, p in references.items()}
    total: Samples = np.zeros((channels, length), np.float32)
    for part in parts.values():
        total += fit_shape(part, channels, length)
    if given is None:
        mixture = total
    else:
        mixture = fit_shape(given, channels, length)
        if song.container is not None and metrics.sdr(mixture, total) < MASTERED_DB:
            notes.append("its mix is mastered, not the sum of its stems; that sum is separated instead")
            mixture = total
    if seconds is not None and 0 < seconds * rate < length:
        at = find_fullest(list(references.values()), round(seconds * rate), rate)
        mixture = mixture[:, at : at + round(seconds * rate)]
        references = {name: p[:, at : at + round(seconds * rate)] for name, p in references.items()}
        notes.append(f"excerpt of {seconds:g} s from {at / rate:.1f} s")
    return Clip(rate=rate, mixture_ct=mixture, references=references, notes=tuple(notes))


def fit_shape(samples_ct: Samples, channels: int, length: int) -> Samples:
    """Mono on every channel; cut, or filled with silence, to `length`."""
    if len(samples_ct) not in (1, channels):
        raise DeepsepError(
            f"stems of {len(samples_ct)} and of {channels} channels are no one song; convert them"
        )
    cut = samples_ct[:, :length]
    padded = np.pad(cut, ((0, 0), (0, length - cut.shape[1])))
    return np.broadcast_to(padded, (channels, length)) if len(padded) != channels else padded


def find_fullest(stems: Sequence[Samples], length: int, rate: int) -> int:
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
        told = [str(stem.get("name", "")).strip().lower() for stem in mp4.read_manifest(path)["stems"]]
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

    audio.probe(path)  # ffmpeg, as stempeg calls it, would also follow a list of other files
    try:
        streams, rate = stempeg.read_stems(str(path), dtype=np.float32)
    except Exception as error:  # stempeg lets through whatever ffmpeg, ffprobe and their output cause
        raise DeepsepError(f"{path}: cannot be read as a stem file; get it again") from error
    if streams.ndim != 3:
        return [streams.T], int(rate)
    return [np.ascontiguousarray(stream.T, np.float32) for stream in streams], int(rate)


def streams_by_pyav(path: Path) -> tuple[list[Samples], int]:
    """All streams of a stem file with PyAV."""
    if not pyav.is_installed():
        raise MissingExtra(f'{path}: stem files need ffmpeg or PyAV: pip install "deepsep[av]"')
    streams, rates = [], set()
    for i in range(pyav.count_streams(path)):
        info = pyav.probe(path, i)
        if info is None:
            raise DeepsepError(f"{path}: cannot be read as a stem file; get it again")
        streams.append(np.concatenate(list(fit_length(pyav.decode(info, i), info)), 1))
        rates.add(info.rate)
    if len(rates) != 1:
        raise DeepsepError(f"{path}: cannot be read as a stem file; get it again")
    return streams, rates.pop()
