"""Read an audio file: probe it, and stream its samples in blocks.

A file is always read from its start to its end in blocks, so memory does not grow with its length and
two passes over it give the same samples (seeking in some compressed formats does not).
Shape suffixes: c channel, t sample. Samples are float32, full scale is 1.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from ..config import bounds, ranges
from ..errors import DeepsepError, MissingExtra
from .decoders import ffmpeg, libsndfile, pyav
from .info import BLOCK_FRAMES, AudioInfo, Samples, cut_short, file_type
from .whole import check_whole, is_chained

__all__ = ["AUDIO_SUFFIXES", "MAX_CHANNELS", "probe", "read", "read_blocks", "track_name"]

MAX_CHANNELS = 8
LOWEST_RATE, HIGHEST_RATE = bounds(ranges.Rate).values()  # Hz

AUDIO_SUFFIXES = libsndfile.SUFFIXES | frozenset(
    ".m4a .mp4 .m4b .aac .alac .wma .webm .mka .mkv .mov .ac3 .wv .tta .ape".split()
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


def probe(path: Path | str) -> AudioInfo:
    """Rate, channels and length of the first audio stream of a file.

    Raises DeepsepError when the file is missing, is a folder, is empty, is not audio, holds no sample, is cut short,
    or has more than 8 channels or a rate that no recording has; MissingExtra when it may need a decoder that is
    not installed.
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
    return info


def read_blocks(path: Path | str, block_frames: int = BLOCK_FRAMES) -> Iterator[Samples]:
    """Yield the file in blocks of shape (c, block_frames); only the last may be shorter, none is empty.

    Each call starts again at the first sample and yields the same blocks. Raises DeepsepError as `probe`
    does; and, on reaching the damaged place, for a file that is cut short or broken or has a sample that
    is NaN or infinite.
    """
    if block_frames < 1:
        raise ValueError(f"block_frames must be at least 1, got {block_frames}")
    info = probe(path)
    done = 0
    for block in regroup(fit_length(DECODERS[info.decoder](info), info), block_frames):
        finite = np.isfinite(block).all(axis=0)
        if not finite.all():
            seconds = (done + int(np.argmin(finite))) / info.rate
            raise DeepsepError(
                f"{info.path}: has a sample that is NaN or infinite at {seconds:.3f} s; export it again"
            )
        done += block.shape[1]
        yield block
    if done == 0:
        raise no_samples(info.path)


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


def fit_length(pieces: Iterable[Samples], info: AudioInfo) -> Iterator[Samples]:
    """Yield exactly `info.frames` samples: cut off the encoder's padding, fill up what a codec leaves out.

    Raises DeepsepError when more is missing than a codec leaves out.
    """
    done = 0
    for piece in pieces:
        if info.frames is not None:
            piece = piece[:, : info.frames - done]
        done += piece.shape[1]
        yield piece
        if done == info.frames:
            return
    if info.frames is None or done == info.frames:
        return
    lossy = info.decoder != "soundfile" or info.format == "mp3"
    missing = info.frames - done
    if done == 0 or missing > (LOSSY_SLACK if lossy else 0):
        raise cut_short(info, done)
    yield np.zeros((info.channels, missing), np.float32)


def check_file(path: Path) -> None:
    """Raise DeepsepError unless `path` is a file that can be opened and is not empty."""
    if path.is_dir():
        raise DeepsepError(f"{path}: is a folder, an audio file is needed; name the files in it")
    if not path.is_file():
        raise DeepsepError(f"{path}: no such file; check the path")
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


def unreadable(path: Path, *, no_length: bool) -> DeepsepError:
    """The error for a file that no decoder reads. `no_length`: libsndfile could, but not to its end."""
    if not has_fallback() and (no_length or path.suffix.lower() not in libsndfile.SUFFIXES):
        why = " (its header does not tell its length)" if no_length else ""
        return MissingExtra(
            f"{path}: this {file_type(path)} file{why} needs PyAV or ffmpeg to be read; "
            'run `pipx inject deepsep av` or `pip install "deepsep[av]"`, or install ffmpeg'
        )
    return DeepsepError(
        f"{path}: no audio found in this {file_type(path)} file; it is damaged or not what its name says; "
        "get the file again"
    )
