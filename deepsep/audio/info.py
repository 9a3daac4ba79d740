"""What is known of an audio file before it is decoded, shared by every decoder.

Shape suffixes: c channel, t sample. Samples are float32, full scale is 1.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DeepsepError

__all__ = [
    "BLOCK_FRAMES",
    "FORMATS",
    "PROTOCOLS",
    "WHOLE",
    "AudioInfo",
    "Part",
    "Samples",
    "cut_short",
    "file_type",
    "file_url",
]

Samples = NDArray[np.float32]

BLOCK_FRAMES = 1 << 18  # 6 s at 44.1 kHz, 2 MiB in stereo

# What ffmpeg's libraries may take a file for, by their names: sound and films that hold all of it themselves. Left to
# guess they also follow lists of other files and of addresses (concat, hls, dash), and read text and pictures as music.
FORMATS = ",".join(
    "aac ac3 aiff amr amrnb amrwb ape asf au avi caf dsf dts dtshd eac3 flac flv iff ircam loas matroska,webm mlp mov "
    "mp3 mpc mpc8 mpeg mpegts mxf nistsphere nut ogg oma rm rso shn sox tak truehd tta voc w64 wav wv xwma".split()
)
PROTOCOLS = "file"


class Part(NamedTuple):
    """What is wanted of a file, in seconds; an end of None is that of the file."""

    start: float = 0.0
    end: float | None = None


WHOLE = Part()


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioInfo:
    """What a file holds, known before it is decoded.

    `rate` is in Hz. `frames` counts samples per channel; when it is not None, `files.read_blocks` yields
    exactly that many. `decoder` is "soundfile", "pyav" or "ffmpeg". Of a part of the file, `first` is its first sample
    and `stop` the sample after its last, None to the end; `frames` counts the part alone.
    """

    path: Path
    rate: int
    channels: int
    frames: int | None
    format: str
    decoder: str
    first: int = 0
    stop: int | None = None


def cut_short(info: AudioInfo, decoded: int) -> DeepsepError:
    """The error for a file of which only `decoded` samples per channel can be decoded."""
    stated = "" if info.frames is None else f" of {info.frames / info.rate:.2f} s"
    return DeepsepError(
        f"{info.path}: is cut short or damaged, only {decoded / info.rate:.2f} s{stated} can be decoded; "
        "get the file again"
    )


def file_type(path: Path) -> str:
    """The suffix without its dot, in lower case, as messages name it: "mp3"; "unnamed" without a suffix."""
    return path.suffix.lower().lstrip(".") or "unnamed"


def file_url(path: Path) -> str:
    """The path as ffmpeg's libraries take it.

    Without the protocol's name they read "a:b.m4a" as protocol "a", and "-x.m4a" as an option.
    """
    return f"file:{path}"
