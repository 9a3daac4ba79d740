"""Read an audio file: probe it, and stream its samples in blocks.

A file is read from its start in blocks, so memory does not grow with its length and two passes over it give the
same samples. A part of it is sought only where that is exact, in formats of plain samples and flac; in others what
comes before it is decoded too. Nothing after it is.
Shape suffixes: c channel, t sample. Samples are float32, full scale is 1.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..config import bounds, ranges
from ..errors import DeepsepError, MissingExtra
from .decoders import ffmpeg, libsndfile, pyav
from .info import BLOCK_FRAMES, WHOLE, AudioInfo, Part, Samples, cut_short, file_type
from .whole import check_whole, is_chained

__all__ = [
    "AUDIO_SUFFIXES",
    "MAX_CHANNELS",
    "is_stem_file",
    "probe",
    "read",
    "read_blocks",
    "read_part",
    "track_name",
]

MAX_CHANNELS = 8
LOUDEST = 1e32  # times full scale: sums and squares of more are past what 32 bits hold
LOWEST_RATE, HIGHEST_RATE = bounds(ranges.Rate).values()  # Hz

VIDEO_SUFFIXES = frozenset(".mp4 .m4v .mkv .mov .webm .avi".split())
AUDIO_SUFFIXES = (
    libsndfile.SUFFIXES
    | VIDEO_SUFFIXES
    | frozenset(".m4a .m4b .aac .alac .wma .mka .ac3 .wv .tta .ape".split())
)
DOUBLE_SUFFIXES = (".stem.mp4", ".stem.m4a")

# A lossy stream may end up to two codec frames before the length its container states; less is a cut file.
LOSSY_SLACK = 4608

DECODERS: dict[str, Callable[[AudioInfo], Iterator[Samples]]] = {
    "soundfile": libsndfile.decode,
    "pyav": pyav.decode,
    "ffmpeg": ffmpeg.decode,
}


def track_name(path: Path) -> str:
    """The file name without its audio suffix: "a.b.mp3" -> "a.b", "song.stem.mp4" -> "song"."""
    name = path.name
    for suffix in (*DOUBLE_SUFFIXES, path.suffix.lower()):
        known = suffix in DOUBLE_SUFFIXES or suffix in AUDIO_SUFFIXES
        if known and name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def is_stem_file(path: Path) -> bool:
    """Whether a file's name is that of a stem file, which is made of a song."""
    return path.name.lower().endswith(DOUBLE_SUFFIXES)


def probe(path: Path | str, part: Part = WHOLE) -> AudioInfo:
    """Rate, channels and length of the first audio stream of a file, or of a part of it.

    Raises DeepsepError when the file is missing, is a folder, is empty, is not audio, holds no sample, is cut short,
    has more than 8 channels or a rate that no recording has, or ends before the part starts; MissingExtra when it may
    need a decoder that is not installed.
    """
    path = Path(path)
    check_file(path)
    header = libsndfile.probe(path)
    chained = header is not None and is_chained(path)
    if header is not None and libsndfile.states_length(header) and not chained:
        info: AudioInfo | None = header
    else:
        info = pyav.probe(path) or ffmpeg.probe(path)
        if info is None and header is not None and not has_fallback() and not chained:
            info = libsndfile.measure_length(header)
    if info is None:
        raise unreadable(path, no_length=header is not None)
    if info.channels > MAX_CHANNELS:
        raise DeepsepError(
            f"{path}: has {info.channels} channels; deepsep reads 1 to {MAX_CHANNELS}; mix it down first"
        )
    if not LOWEST_RATE <= info.rate <= HIGHEST_RATE:
        raise DeepsepError(
            f"{path}: states a rate of {info.rate} Hz; deepsep reads {LOWEST_RATE} to {HIGHEST_RATE} Hz; "
            "get the file again, or convert it"
        )
    check_whole(info)
    if info.frames == 0:
        raise no_samples(path)
    return info if part == WHOLE else cut(info, part)


def cut(info: AudioInfo, part: Part) -> AudioInfo:
    """A part of a file, of which it has at least a sample. One that ends after the file ends with it."""
    first = round(part.start * info.rate)
    stop = None if part.end is None else max(first + 1, round(part.end * info.rate))
    if info.frames is None:
        return replace(info, first=first, stop=stop)
    if first >= info.frames:
        raise too_short(info.path, first / info.rate, info.frames / info.rate)
    stop = info.frames if stop is None else min(stop, info.frames)
    return replace(info, first=first, stop=stop, frames=stop - first)


def read_blocks(path: Path | str, block_frames: int = BLOCK_FRAMES, part: Part = WHOLE) -> Iterator[Samples]:
    """Yield the file, or a part of it, in blocks (c, block_frames); only the last may be shorter, none is empty.

    Each call starts again at the first sample and yields the same blocks. Raises DeepsepError as `probe`
    does; and, on reaching the damaged place, for a file that is cut short or broken or has a sample that
    is NaN or infinite.
    """
    if block_frames < 1:
        raise ValueError(f"block_frames must be at least 1, got {block_frames}")
    return read_part(probe(path, part), block_frames)


def read_part(info: AudioInfo, block_frames: int = BLOCK_FRAMES) -> Iterator[Samples]:
    """`read_blocks` of a file, or a part of one, that has been probed."""
    done = 0
    for block in regroup(decode_part(info), block_frames):
        sane = (np.abs(block) < LOUDEST).all(axis=0)  # NaN is not
        if not sane.all():
            seconds = (info.first + done + int(np.argmin(sane))) / info.rate
            raise DeepsepError(
                f"{info.path}: has a sample that is NaN, infinite or beyond {LOUDEST:.0e} of full scale at "
                f"{seconds:.3f} s; export it again"
            )
        done += block.shape[1]
        yield block
    if done == 0:
        raise too_short(info.path, info.first / info.rate) if info.first else no_samples(info.path)


def decode_part(info: AudioInfo) -> Iterator[Samples]:
    """Yield the samples of a file or a part of it, in pieces of any length, and decode nothing after them."""
    exact = bool(info.first) and info.decoder == "soundfile" and libsndfile.seeks_exactly(info)
    at = info.first if exact else 0
    pieces = libsndfile.decode(info, at) if at else DECODERS[info.decoder](info)
    target = info if info.frames is None else replace(info, frames=info.first + info.frames)
    for piece in fit_length(pieces, target, at):
        begin, at = at, at + piece.shape[1]
        piece = piece[:, max(0, info.first - begin) : None if info.stop is None else info.stop - begin]
        if piece.shape[1]:
            yield piece
        if info.stop is not None and at >= info.stop:
            return


def read(path: Path | str) -> tuple[Samples, int]:
    """The whole file, shape (c, t), and its rate in Hz. Raises what `read_blocks` raises."""
    return np.concatenate(list(read_blocks(path)), axis=1), probe(path).rate


def regroup(pieces: Iterable[Samples], block_frames: int) -> Iterator[Samples]:
    """Yield pieces of any length as blocks of `block_frames` samples; the last may be shorter."""
    held: list[Samples] = []
    held_frames = 0
    for piece in pieces:
        while piece.shape[1]:
            part = piece[:, : block_frames - held_frames]
            piece = piece[:, part.shape[1] :]
            held.append(part)
            held_frames += part.shape[1]
            if held_frames == block_frames:
                yield np.concatenate(held, axis=1, dtype=np.float32)
                held, held_frames = [], 0
    if held:
        yield np.concatenate(held, axis=1, dtype=np.float32)


def fit_length(pieces: Iterable[Samples], info: AudioInfo, done: int = 0) -> Iterator[Samples]:
    """Yield samples from number `done` up to exactly `info.frames`.

    What an encoder pads is cut off, what a codec leaves out is filled up. Raises DeepsepError when more is missing
    than a codec leaves out.
    """
    for piece in pieces:
        if info.frames is not None:
            piece = piece[:, : info.frames - done]
        done += piece.shape[1]
        yield piece
        if done == info.frames:
            return
    if info.frames is None or done == info.frames:
        return
    lossy = info.decoder != "soundfile" or info.format in ("mp3", "ogg")
    missing = info.frames - done
    if done == 0 or missing > (LOSSY_SLACK if lossy else 0):
        raise cut_short(info, done)
    yield np.zeros((info.channels, missing), np.float32)


def check_file(path: Path) -> None:
    """Raise DeepsepError unless `path` is a file that can be opened and is not empty."""
    if path.is_dir():
        raise DeepsepError(f"{path}: is a folder, an audio file is needed; name the files in it")
    if not path.exists():
        raise DeepsepError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise DeepsepError(f"{path}: is no regular file; save the sound in a file first")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise DeepsepError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if empty:
        raise DeepsepError(f"{path}: is empty (0 bytes); get the file again")


def has_fallback() -> bool:
    """Whether there is a decoder for what libsndfile cannot read."""
    return pyav.is_installed() or ffmpeg.is_installed()


def no_samples(path: Path) -> DeepsepError:
    """The error for a file of length zero."""
    return DeepsepError(f"{path}: holds no audio samples; export it again")


def too_short(path: Path, start: float, seconds: float | None = None) -> DeepsepError:
    """The error for a part that starts after the file's end."""
    length = "" if seconds is None else f" of {seconds:.2f} s"
    return DeepsepError(f"{path}: its sound{length} ends before {start:.2f} s, where the part would start")


def unreadable(path: Path, *, no_length: bool) -> DeepsepError:
    """The error for a file that no decoder reads. `no_length`: libsndfile could, but not to its end."""
    if not has_fallback() and (no_length or path.suffix.lower() not in libsndfile.SUFFIXES):
        why = " (its header does not tell its length)" if no_length else ""
        return MissingExtra(
            f"{path}: this {file_type(path)} file{why} needs PyAV or ffmpeg to be read; "
            'run `pipx inject deepsep av` or `pip install "deepsep[av]"`, or install ffmpeg'
        )
    return DeepsepError(
        f"{path}: no audio found in this {file_type(path)} file; "
        + ("it has pictures only, or " if path.suffix.lower() in VIDEO_SUFFIXES else "it ")
        + "is damaged or not what its name says; get the file again"
    )
