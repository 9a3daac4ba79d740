"""Decode with PyAV (the libraries of ffmpeg as a Python package): m4a, wma, webm and others."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DeepsepError
from ..info import FORMATS, PROTOCOLS, AudioInfo, Samples, cut_short, file_type, file_url

__all__ = ["count_streams", "decode", "is_installed", "probe"]


def is_installed() -> bool:
    """Whether PyAV can be imported."""
    try:
        import av  # noqa: F401
    except ImportError:
        return False
    return True


def opened(path: Path) -> Any:
    """Open a file as one of `FORMATS`, and none that it names. Raises FFmpegError or OSError.

    Its tags, which nobody asks for here, need not be UTF-8.
    """
    import av

    bounds = {"format_whitelist": FORMATS, "protocol_whitelist": PROTOCOLS}
    return av.open(file_url(path), container_options=bounds, metadata_errors="replace")


def count_streams(path: Path) -> int:
    """How many audio streams a file has; 0 where PyAV cannot open it."""
    import av

    try:
        with opened(path) as container:
            return len(container.streams.audio)
    except (av.error.FFmpegError, OSError):
        return 0


def probe(path: Path, stream: int = 0) -> AudioInfo | None:
    """Rate, channels and, in the mp4 family, length of an audio stream, by its number.

    None when PyAV is not installed or finds no audio.
    """
    if not is_installed():
        return None
    import av

    try:
        with opened(path) as container:
            if len(container.streams.audio) <= stream:
                return None
            found: Any = container.streams.audio[stream]
            if found.codec_context is None:  # a codec nobody knows; PyAV 17.1 crashes on decoding it
                return None
            # The codec's own rate is wrong for HE-AAC until a frame has been decoded.
            frame = next(decode_frames(container, found), None)
            if frame is None:
                return None
            exact = container.format.name.startswith("mov") and found.duration is not None
            return AudioInfo(
                path=path,
                rate=frame.sample_rate,
                channels=frame.layout.nb_channels,
                frames=round(found.duration * found.time_base * frame.sample_rate) if exact else None,
                format=file_type(path) if exact else container.format.name,
                decoder="pyav",
            )
    except (av.error.FFmpegError, OSError):
        return None


def decode_frames(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the decoded frames. Packets that fail before the first good frame or after the last are skipped."""
    import av

    failure: Exception | None = None
    started = False
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            failure = error if started else None
            continue
        for frame in frames:
            if failure is not None:
                raise failure
            started = True
            yield frame


def decode(info: AudioInfo, stream: int = 0) -> Iterator[Samples]:
    """Yield blocks of shape (c, t) of an audio stream, by its number.

    Raises DeepsepError where the file is damaged or its rate changes.
    """
    import av

    done = 0
    try:
        with opened(info.path) as container:
            to_float = av.AudioResampler(format="fltp")
            for frame in chain(decode_frames(container, container.streams.audio[stream]), [None]):
                if frame is not None and (
                    frame.sample_rate != info.rate or frame.layout.nb_channels != info.channels
                ):
                    raise DeepsepError(
                        f"{info.path}: its rate or channel count changes at {done / info.rate:.2f} s; "
                        "convert it to wav or flac first"
                    )
                for out in to_float.resample(frame):
                    block: Samples = np.asarray(out.to_ndarray(), np.float32)
                    done += block.shape[1]
                    yield block
    except (av.error.FFmpegError, OSError):
        raise cut_short(info, done) from None
