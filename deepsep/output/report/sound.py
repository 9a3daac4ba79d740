"""The sound of the page: each track as mp3 in pieces of a few seconds, which overlap by a margin.

Shape suffixes: c channel, t sample.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO

import numpy as np
import soundfile as sf

from ...audio.files import read_part
from ...audio.info import AudioInfo, Samples
from ...audio.resampling import resample_blocks
from ...errors import DeepsepError
from .overview import Overview, Picture

__all__ = [
    "FADE_SECONDS",
    "MARGIN_SECONDS",
    "PIECE_SECONDS",
    "choose_bitrate",
    "embed",
    "encode_click",
    "page_rate",
]

PIECE_SECONDS = 15
MARGIN_SECONDS = 0.1  # more than the codec looks back or ahead
FADE_SECONDS = 0.02
CEILING = 16.0  # the encoder ends the process on samples far beyond full scale, from 1e5 or so

# kbit/s in stereo, and the size of the page's audio, in bytes, up to which it is chosen
BITRATES = ((128, 23.5e6), (112, 23.5e6), (96, 100e6), (64, math.inf))
WRITE_FRAMES = 1 << 14


def page_rate(rate: int) -> int:
    """44100 or 48000 Hz: at these rates every browser keeps the length of an mp3."""
    return 44100 if rate % 11025 == 0 else 48000


def choose_bitrate(infos: Iterable[AudioInfo]) -> int:
    """The bit rate in kbit/s, of stereo, that keeps the page within the sizes of `BITRATES`."""
    seconds = [(info.frames or 0) / info.rate * min(info.channels, 2) / 2 for info in infos]
    bytes_per_kbps = sum(seconds) * (1 + 2 * MARGIN_SECONDS / PIECE_SECONDS) * 125 * 4 / 3
    return next(kbps for kbps, limit in BITRATES if kbps * bytes_per_kbps <= limit)


def embed(
    info: AudioInfo, page_rate: int, kbps: int, track: int, page: IO[bytes], on_part: Callable[[float], None]
) -> tuple[Picture, bool]:
    """Append the pieces of a file to `page`, in one pass over the file; return its picture, and whether it is clipped.

    `track` is its number on the page; `on_part` hears the share of the file that is done. Samples beyond `CEILING` are
    clipped. Raises DeepsepError as `read_blocks` does.
    """
    overview, clipped = Overview(page_rate), False

    def fold() -> Iterator[Samples]:
        nonlocal clipped
        for block in read_part(info):
            clipped = clipped or bool(np.abs(block).max() > CEILING)
            yield fold_to_stereo(clip(block))

    blocks = overview.measure(resample_blocks(fold(), info.rate, page_rate))
    pieces = split_pieces(blocks, PIECE_SECONDS * page_rate, round(MARGIN_SECONDS * page_rate))
    for index, mp3 in enumerate(map_in_parallel(lambda piece: encode_mp3(piece, page_rate, kbps), pieces)):
        page.write(b'<script type="text/plain" id="sound-%d-%d">' % (track, index))
        page.write(base64.b64encode(mp3))
        page.write(b"</script>\n")
        if info.frames:
            on_part(min(1.0, (index + 1) * PIECE_SECONDS * info.rate / info.frames))
    return overview.picture(), clipped


def map_in_parallel(encode: Callable[[Samples], bytes], pieces: Iterable[Samples]) -> Iterator[bytes]:
    """`map` over threads: results in order, about as many pieces in memory as there are threads."""
    workers = min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[bytes]] = deque()
        for piece in pieces:
            waiting.append(pool.submit(encode, piece))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()


def clip(samples_ct: Samples) -> Samples:
    """Samples between `CEILING` and its negative."""
    return np.clip(samples_ct, -CEILING, CEILING)


def fold_to_stereo(samples_ct: Samples) -> Samples:
    """At most two channels: those past the second are added to both sides, at a gain that cannot clip."""
    if samples_ct.shape[0] <= 2:
        return samples_ct
    share = math.sqrt(0.5)
    both = samples_ct[:2] + share * samples_ct[2:].sum(0)
    return np.asarray(both / (1 + share * (samples_ct.shape[0] - 2)), np.float32)


def split_pieces(blocks: Iterable[Samples], frames: int, margin: int) -> Iterator[Samples]:
    """Yield overlapping pieces: number i holds samples i * frames - margin to (i + 1) * frames + margin.

    Outside the signal there is silence; the last piece ends `margin` samples after the signal.
    """
    held: Samples | None = None
    for block in blocks:
        before = np.zeros((block.shape[0], margin), np.float32) if held is None else held
        held = np.concatenate([before, block], axis=1)
        while held.shape[1] >= frames + 2 * margin:
            yield held[:, : frames + 2 * margin]
            held = held[:, frames:]
    while held is not None and held.shape[1] > margin:
        end = np.zeros((held.shape[0], margin), np.float32)
        yield np.concatenate([held, end], axis=1)[:, : frames + 2 * margin]
        held = held[:, frames:]


def encode_mp3(samples_ct: Samples, rate: int, kbps: int) -> bytes:
    """An mp3 of (c, t) at `kbps` kbit/s in stereo, half of that in mono. Raises DeepsepError when that fails."""
    channels = samples_ct.shape[0]
    level = (320 - kbps * channels / 2) / (320 - 32)  # libsndfile's scale: 0 is 320 kbit/s, 1 is 32
    file = io.BytesIO()
    try:
        with sf.SoundFile(
            file,
            "w",
            rate,
            channels,
            format="MP3",
            subtype="MPEG_LAYER_III",
            bitrate_mode="CONSTANT",
            compression_level=min(level, 0.9999),
        ) as sound:
            for start in range(0, samples_ct.shape[1], WRITE_FRAMES):
                sound.write(clip(samples_ct[:, start : start + WRITE_FRAMES]).T)
    except sf.LibsndfileError as error:
        raise DeepsepError(f"mp3 for the report could not be encoded ({error.error_string})") from None
    return file.getvalue()


def encode_click(rate: int) -> tuple[bytes, int]:
    """An mp3 of one click, and the sample at which it is.

    The page decodes it and looks where the click comes out: that is the delay of the browser's decoder.
    """
    samples = np.zeros((1, rate // 4), np.float32)
    at = rate // 8
    samples[0, at] = 0.9
    return encode_mp3(samples, rate, 128), at
