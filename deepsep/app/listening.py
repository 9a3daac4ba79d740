"""The sound for the page's player, put aside while a song is separated: the first seconds play long before the end.

The mix and each stem come as FLAC in pieces of some seconds, which overlap by a margin as those of the report do;
FLAC, because encoding it takes a fourteenth of the time that mp3 does.
Shape suffixes: s draw, k stem, c channel, t sample.
"""

from __future__ import annotations

import io
import json
import os
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock

import numpy as np
import soundfile as sf

from ..audio.files import read_blocks
from ..audio.info import BLOCK_FRAMES, AudioInfo, Samples
from ..audio.resampling import resample_blocks
from ..inference.chunks import Reader
from ..output.report import sound
from ..output.report.overview import Overview, Values
from ..output.report.player import Track, labels_of, player_data, player_html
from .places import PLAYER, piece_name

__all__ = ["Listening"]

PIECE_SECONDS = 5
HEADROOM = 2.0  # a stem may go past full scale, where the others take that back


class Listening:
    """The player's files of one song, in `folder`: fed with stems as they come, then finished or stopped.

    Each track has a thread of its own, so that encoding goes on beside the separation. `on_ready` is called from
    these threads with how many pieces all tracks have; `on_drawn` when the markup was written anew.
    """

    def __init__(
        self,
        folder: Path,
        info: AudioInfo,
        frames: int,
        stems: Sequence[str],
        *,
        on_ready: Callable[[int], None],
        on_drawn: Callable[[], None],
    ) -> None:
        self.folder, self.info, self.on_ready, self.on_drawn = folder, info, on_ready, on_drawn
        folder.mkdir(parents=True)
        self.rate = sound.page_rate(info.rate)
        self.frames = round(frames * self.rate / info.rate)
        self.labels = labels_of(stems)
        self.mix = Reader(read_blocks(info.path))
        self.overviews = [Overview(self.rate) for _ in self.labels]
        self.inboxes: list[queue.Queue[Samples | None]] = [queue.Queue(1) for _ in self.labels]
        self.counts = [0] * len(self.labels)
        self.ready, self.next_drawing = 0, 1
        self.lock = Lock()
        self.pool = ThreadPoolExecutor(len(self.labels))
        self.threads = [self.pool.submit(self.follow, track) for track in range(len(self.labels))]

    def feed(self, stems_skct: Samples) -> None:
        """Take the next samples of every stem."""
        mix_ct = self.mix.take(stems_skct.shape[-1])
        for inbox, block in zip(self.inboxes, [mix_ct, *stems_skct.reshape(-1, *mix_ct.shape)], strict=True):
            inbox.put(block)
        if self.ready >= self.next_drawing:
            self.next_drawing = 2 * self.ready
            with suppress(OSError):  # `finish` tries again, and says so
                self.draw({})

    def finish(self, uncertainty: Mapping[str, Values]) -> None:
        """Wait for the last pieces, and draw the whole song. Raises what a thread raised."""
        self.stop()
        for thread in self.threads:
            thread.result()
        self.draw(uncertainty)

    def stop(self) -> None:
        """End the threads, with what they have."""
        for inbox in self.inboxes:
            inbox.put(None)
        self.pool.shutdown()

    def follow(self, track: int) -> None:
        """Encode one track as it comes."""
        blocks = until_none(self.inboxes[track])
        try:
            folded = (np.clip(sound.fold_to_stereo(block), -HEADROOM, HEADROOM) for block in blocks)
            heard = self.overviews[track].measure(resample_blocks(folded, self.info.rate, self.rate))
            margin = round(sound.MARGIN_SECONDS * self.rate)
            for index, piece in enumerate(sound.split_pieces(heard, PIECE_SECONDS * self.rate, margin)):
                write_whole(self.folder / piece_name(track, index), encode_flac(piece, self.rate))
                self.count(track)
        finally:
            for _ in blocks:  # nobody waits for a thread that has failed
                pass

    def count(self, track: int) -> None:
        """Note a track's next piece."""
        with self.lock:
            self.counts[track] += 1
            if min(self.counts) > self.ready:
                self.ready = min(self.counts)
                self.on_ready(self.ready)

    def draw(self, uncertainty: Mapping[str, Values]) -> None:
        """Write the player's data and its markup, with pictures of what there is so far."""
        pictures = [overview.picture() for overview in self.overviews]
        tracks = [Track(label, picture) for label, picture in zip(self.labels, pictures, strict=True)]
        names = [(label.stem, self.frames) for label in self.labels]
        drawn = {
            "data": player_data(names, self.rate, PIECE_SECONDS, click(self.rate), gain=HEADROOM),
            "html": player_html(tracks, uncertainty, self.frames / self.rate),
        }
        write_whole(self.folder / PLAYER, json.dumps(drawn).encode())
        self.on_drawn()


def until_none(inbox: queue.Queue[Samples | None]) -> Iterator[Samples]:
    """What comes, in blocks that take little memory to measure, until None does."""
    while (block := inbox.get()) is not None:
        for start in range(0, block.shape[1], BLOCK_FRAMES):
            yield block[:, start : start + BLOCK_FRAMES]


def click(rate: int) -> tuple[bytes, int]:
    """A piece with one click; see `sound.encode_click`."""
    samples = np.zeros((1, rate // 4), np.float32)
    at = rate // 8
    samples[0, at] = 0.9
    return encode_flac(samples, rate), at


def encode_flac(samples_ct: Samples, rate: int) -> bytes:
    """A FLAC of (c, t), 16 bit, `HEADROOM` times quieter."""
    file = io.BytesIO()
    with sf.SoundFile(file, "w", rate, samples_ct.shape[0], "PCM_16", format="FLAC") as piece:
        piece.write(samples_ct.T / np.float32(HEADROOM))
    return file.getvalue()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that whoever reads it finds whole."""
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    os.replace(part, path)
