"""Ordered stems -> files: planned before the work, streamed during it, renamed into place after it.

All stems of a track share one gain, so that they keep their levels and still sum to the (equally scaled)
mixture; a silent stem is written like any other.
Shapes: k stem, c channel, t sample. Samples are float32, full scale is 1.0.
"""

from __future__ import annotations

import math
import os
import string
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from ..audio.files import MAX_CHANNELS, track_name
from ..audio.tags import Tags, write_tags
from ..errors import DeepsepError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "BIT_DEPTHS",
    "FORMATS",
    "LOSSY_PEAK",
    "PATTERN_KEYS",
    "StagedFiles",
    "StagedWriter",
    "StemSpool",
    "StemWriter",
    "check_format",
    "check_pattern",
    "plan_paths",
    "shared_gain",
]

Samples = NDArray[np.float32]

FORMATS = ("wav", "flac", "mp3", "ogg")
BIT_DEPTHS = ("float", "24", "16")
PATTERN_KEYS = ("track", "stem", "ext", "parent", "priors", "sample")

# A lossy decoder overshoots the peak that was encoded, by little.
LOSSY_PEAK = 0.98

_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_MAX_RATE = {"wav": 0xFFFFFFFF, "flac": 655350, "ogg": 200000}
# 4 GiB is what the sizes in a WAV header can say, less room for the header and its chunks.
_WAV_BYTES = (1 << 32) - (1 << 16)
# libsndfile's Vorbis writer puts a whole call on the stack and crashes on long ones.
_WRITE_FRAMES = 4096


def check_format(format: str, rate: int, channels: int) -> None:
    """Raises DeepsepError unless `format` can hold `channels` channels at `rate` Hz."""
    if format not in FORMATS:
        raise DeepsepError(f"format {format} is not one of {', '.join(FORMATS)}; choose one of these")
    most = 2 if format == "mp3" else MAX_CHANNELS
    if not 1 <= channels <= most:
        raise DeepsepError(f"{format} holds 1 to {most} channels, not {channels}; use --format wav or flac")
    if format == "mp3" and rate not in _MP3_RATES:
        known = ", ".join(str(known) for known in _MP3_RATES)
        raise DeepsepError(f"mp3 has no sample rate {rate} Hz, only {known}; use --format wav or flac")
    if format != "mp3" and not 1 <= rate <= _MAX_RATE[format]:
        raise DeepsepError(
            f"{format} holds sample rates up to {_MAX_RATE[format]} Hz, not {rate}; use --format wav"
        )


def plan_paths(
    track: Path,
    out: Path,
    pattern: str,
    stems: Sequence[str],
    ext: str,
    *,
    priors: str = "",
    sample: int = 1,
) -> dict[str, Path]:
    """Where each stem of `track` goes: `out` / `pattern`, in the order of `stems`. Creates nothing.

    `pattern` may use {track} (file name without its audio suffix), {stem}, {ext}, {parent} (name of the
    folder that holds the track), {priors} and {sample}.
    Raises DeepsepError for an unknown key, for two stems in one place, for a path that is the input
    itself or a folder, and for a folder that cannot be written.
    """
    check_pattern(pattern)
    known = {"track": track_name(track), "ext": ext, "parent": track.absolute().parent.name}
    known |= {"priors": priors, "sample": str(sample)}
    paths = {stem: out / pattern.format(stem=stem, **known) for stem in stems}
    taken: dict[str, str] = {}
    for stem, path in paths.items():
        place = os.path.normcase(os.path.abspath(path))
        if place in taken:
            raise DeepsepError(
                f"stems {taken[place]} and {stem} would both be written to {path}; "
                "put {stem} in the pattern"
            )
        taken[place] = stem
        if path.exists() and track.exists() and path.samefile(track):
            raise DeepsepError(f"{path}: is the input itself; choose another --out or pattern")
        if path.is_dir():
            raise DeepsepError(f"{path}: is a folder, stem {stem} needs this name; choose another --out")
        _check_folder(path.parent)
    return paths


def check_pattern(pattern: str) -> None:
    """Raises DeepsepError for a pattern that cannot be read, uses an unknown key or names no file."""
    allowed = ", ".join(f"{{{key}}}" for key in PATTERN_KEYS)
    try:
        fields = [(key, spec, conv) for _, key, spec, conv in string.Formatter().parse(pattern)]
    except ValueError as error:
        raise DeepsepError(f"pattern {pattern!r} cannot be read ({error}); it may use {allowed}") from None
    for key, spec, conversion in fields:
        if key is not None and (key not in PATTERN_KEYS or spec or conversion):
            raise DeepsepError(f"pattern {pattern!r} uses {{{key}}}; it may use {allowed}")
    if not pattern or pattern.endswith(("/", os.sep)):
        raise DeepsepError(f"pattern {pattern!r} names no file; it may use {allowed}")


def _check_folder(folder: Path) -> None:
    nearest = folder.absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise DeepsepError(f"{folder}: cannot be created, {nearest} is a file; choose another --out")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise DeepsepError(f"{folder}: {nearest} cannot be written; choose another --out")


def shared_gain(peak: float, ceiling: float) -> float:
    """The one factor for all stems of a track: 1.0, or what brings `peak` down to `ceiling`."""
    return 1.0 if peak <= ceiling else ceiling / peak


class StagedFiles:
    """Files that appear all at once: written under temporary names beside their targets, then renamed.

    Creates the folders that are missing. `abort` takes back what was created.
    Raises DeepsepError when a folder cannot be created.
    """

    def __init__(self, targets: Mapping[str, Path]) -> None:
        self.targets = dict(targets)
        self._created: list[Path] = []
        self._scratch: list[Path] = []
        try:
            for target in self.targets.values():
                self._make_folder(target.absolute().parent)
        except OSError as error:
            self.abort()
            raise DeepsepError(f"{target.parent}: cannot be created ({error.strerror})") from None
        self.temporary = {name: self.scratch(target.absolute().parent) for name, target in targets.items()}

    def scratch(self, folder: Path) -> Path:
        """A new temporary name in `folder`, removed at the end whatever happens."""
        # Short, whatever the target is called: the target's own name may fill the length limit.
        path = folder / f".{uuid.uuid4().hex[:12]}.part"
        self._scratch.append(path)
        return path

    def commit(self) -> None:
        """Renames every finished file to its target. Raises DeepsepError when the system refuses."""
        try:
            for name, target in self.targets.items():
                os.replace(self.temporary[name], target)
        except OSError as error:
            self.abort()
            raise DeepsepError(f"{target}: cannot be written ({error.strerror})") from None
        self._remove_scratch()

    def forget(self) -> None:
        """Removes the temporary files only: the targets were made by another way."""
        self._remove_scratch()

    def abort(self) -> None:
        """Removes the temporary files and the folders created here that are empty."""
        self._remove_scratch()
        for folder in reversed(self._created):
            try:
                folder.rmdir()
            except OSError:
                continue  # someone else has put a file there
        self._created = []

    def _make_folder(self, folder: Path) -> None:
        missing = [part for part in (folder, *folder.parents) if not part.exists()]
        for part in reversed(missing):
            part.mkdir(exist_ok=True)
            self._created.append(part)
        if not folder.is_dir():
            raise NotADirectoryError(20, "a file is in the way")

    def _remove_scratch(self) -> None:
        for path in self._scratch:
            path.unlink(missing_ok=True)
        self._scratch = []


class StemSpool:
    """One open float or integer sound file per stem; checks what is written and keeps the peak.

    `formats` are soundfile's keyword arguments (format, subtype, ...). `limit_frames` bounds the length;
    `comment` is a line that the files carry.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        rate: int,
        channels: int,
        *,
        limit_frames: float = math.inf,
        comment: str = "",
        **formats: Any,
    ) -> None:
        self.peak = 0.0
        self.frames = 0
        self._channels = channels
        self._limit_frames = limit_frames
        self._paths = dict(paths)
        self._files: list[sf.SoundFile] = []
        for path in paths.values():
            try:
                self._files.append(sf.SoundFile(path, "w", rate, channels, **formats))
                if comment:
                    self._files[-1].comment = comment
            except sf.LibsndfileError as error:
                self.close()
                raise DeepsepError(f"{path.parent}: cannot be written ({error.error_string})") from None

    def write(self, stems: Samples) -> None:
        """Appends (k, c, t). Raises DeepsepError for NaN or infinite samples and for a full disk."""
        expected = (len(self._files), self._channels)
        if stems.ndim != 3 or stems.shape[:2] != expected:
            raise ValueError(f"expected stems of shape {(*expected, 't')}, got {stems.shape}")
        if not stems.size:
            return
        peak = float(np.abs(stems).max())
        if not math.isfinite(peak):
            broken = list(self._paths)[int(np.argmin(np.isfinite(stems).all(axis=(1, 2))))]
            raise DeepsepError(f"stem {broken} came out NaN or infinite; try other steps or another model")
        self.peak = max(self.peak, peak)
        self.frames += stems.shape[2]
        if self.frames > self._limit_frames:
            raise DeepsepError(
                "a wav file cannot grow past 4 GiB; use --format flac, or cut the track in two"
            )
        for file, stem in zip(self._files, stems, strict=True):
            for start in range(0, stem.shape[1], _WRITE_FRAMES):
                try:
                    file.write(stem[:, start : start + _WRITE_FRAMES].T)
                except sf.LibsndfileError as error:
                    raise DeepsepError(
                        f"writing the stems failed ({error.error_string}); is the disk full?"
                    ) from None

    def close(self) -> None:
        """Closes the files; a second call does nothing."""
        for file in self._files:
            file.close()
        self._files = []


class StagedWriter:
    """What the writers of one track's stems share: a context manager that leaves all of its files, or nothing.

    `gain_db` is the common gain that was needed, known after `close`. What inherits sets `_spool` and `_staged`,
    and says in `_finish` how the spooled stems become the files in place.
    """

    gain_db = 0.0
    _open = True
    _spool: StemSpool
    _staged: StagedFiles

    def write(self, stems: Samples) -> None:
        """Appends a block of shape (k, c, t), stems in their order."""
        self._spool.write(stems)

    def close(self) -> None:
        """Finishes every file and renames them into place; a second call does nothing."""
        if not self._open:
            return
        try:
            self._spool.close()
            self._finish()
            self._open = False
        finally:
            self.abort()

    def abort(self) -> None:
        """Drops everything written so far; does nothing after `close`."""
        if not self._open:
            return
        self._open = False
        self._spool.close()
        self._staged.abort()

    def _finish(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


class StemWriter(StagedWriter):
    """Streams the stems of one track to one file each; a context manager.

    Args:
        paths: stem -> file, in the order in which `write` gets the stems.
        rate: Hz.
        channels: per stem.
        format: "wav", "flac", "mp3" or "ogg".
        bit_depth: "float" (as deep as the format goes: float wav, 24-bit flac), "24" or "16".
            mp3 and ogg have none and ignore it.
        bitrate: kbit/s of mp3, rounded to what the format has (32-320; up to 160 below 32 kHz).
        frames: total length per stem where it is known; lets a wav past 4 GiB be written as RF64.
        tags: written into every file before it takes its name, where mutagen is installed.
        comment: a line that every file carries as its comment.

    On success every stem is finished before the first is renamed into place. When the `with` block
    raises, nothing is left behind, neither files nor the folders made for them.
    Integer and lossy formats cannot go past full scale: when the largest peak of all stems does, all are
    turned down by one common gain, `gain_db` (0.0 when none was needed; known after `close`).
    Raises DeepsepError as `check_format` does, and when a file cannot be written.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        rate: int,
        channels: int,
        *,
        format: str = "wav",
        bit_depth: str = "float",
        bitrate: int = 320,
        frames: int | None = None,
        tags: Tags | None = None,
        comment: str = "",
    ) -> None:
        check_format(format, rate, channels)
        if bit_depth not in BIT_DEPTHS:
            raise DeepsepError(f"bit depth {bit_depth} is not one of {', '.join(BIT_DEPTHS)}")
        self._rate, self._channels = rate, channels
        self._final = _sndfile_arguments(format, rate, channels, bit_depth, bitrate, frames)
        self._final["comment"] = comment
        self._limit = math.inf
        if self._final["format"] == "WAV":
            self._limit = _WAV_BYTES // (channels * _wav_width(bit_depth))
        self._ceiling = LOSSY_PEAK if format in ("mp3", "ogg") else 1.0
        self._staged = StagedFiles(paths)
        self._tags = tags
        # Float needs no gain, so it goes straight to its file. The others wait for the peak of the whole
        # track in W64, which has no size limit.
        direct = self._final["subtype"] == "FLOAT"
        self._waiting: dict[str, Path] | None = None
        try:
            if direct:
                self._spool = StemSpool(
                    self._staged.temporary, rate, channels, limit_frames=self._limit, **self._final
                )
            else:
                self._waiting = {
                    name: self._staged.scratch(path.parent) for name, path in self._staged.temporary.items()
                }
                self._spool = StemSpool(self._waiting, rate, channels, format="W64", subtype="FLOAT")
        except DeepsepError:
            self._staged.abort()
            raise

    def _finish(self) -> None:
        if self._waiting is not None:
            self._convert(self._waiting)
        if self._tags:
            for path in self._staged.temporary.values():
                write_tags(path, self._tags)
        self._staged.commit()

    def _convert(self, waiting: dict[str, Path]) -> None:
        gain = shared_gain(self._spool.peak, self._ceiling)
        self.gain_db = 20 * math.log10(gain)
        for name, source in waiting.items():
            target = {name: self._staged.temporary[name]}
            final = StemSpool(target, self._rate, self._channels, limit_frames=self._limit, **self._final)
            try:
                for block in _float_blocks(source):
                    final.write((block * np.float32(gain))[None])
            finally:
                final.close()
            source.unlink()  # now, not at the end: half the disk space at the worst moment


def _float_blocks(path: Path) -> Iterator[Samples]:
    with sf.SoundFile(path) as file:
        while len(block := file.read(1 << 16, dtype="float32", always_2d=True)):
            yield block.T


def _sndfile_arguments(
    format: str, rate: int, channels: int, bit_depth: str, bitrate: int, frames: int | None
) -> dict[str, Any]:
    if format == "mp3":
        low, high = (32, 320) if rate >= 32000 else (8, 160) if rate >= 16000 else (8, 64)
        # 1.0 itself is refused by libsndfile
        level = min(max((high - bitrate) / (high - low), 0.0), 0.9999)
        return {
            "format": "MP3",
            "subtype": "MPEG_LAYER_III",
            "bitrate_mode": "CONSTANT",
            "compression_level": level,
        }
    if format == "ogg":
        return {"format": "OGG", "subtype": "VORBIS"}
    if format == "flac":
        return {"format": "FLAC", "subtype": "PCM_16" if bit_depth == "16" else "PCM_24"}
    subtype = {"float": "FLOAT", "24": "PCM_24", "16": "PCM_16"}[bit_depth]
    large = frames is not None and frames * channels * _wav_width(bit_depth) > _WAV_BYTES
    return {"format": "RF64" if large else "WAV", "subtype": subtype}


def _wav_width(bit_depth: str) -> int:
    return {"float": 4, "24": 3, "16": 2}[bit_depth]
