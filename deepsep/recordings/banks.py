"""Banks: an instrument's recordings, ready to draw training examples from.

Shape suffixes: b batch, c audio channel, d band, n frame, t sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..audio import files as audio
from ..audio.loudness import Loudness
from ..audio.resampling import resample
from ..errors import DeepsepError
from ..progress import Listener
from .files import Table, cached, gather

__all__ = ["BLOCK", "HELD_OUT", "Bank", "SampleBank", "shares", "split_pieces"]

HELD_OUT = 0.08  # share of the recordings that no training step hears
BLOCK = 45  # seconds of a part of a recording that is held out, or not, as a whole

B = TypeVar("B", bound="Bank")


class Bank(Protocol):
    """One instrument's recordings, in some representation."""

    @property
    def hours(self) -> float:
        """Length of the recordings."""

    def split(self: B, held_out: float) -> tuple[B, B]:
        """The parts to train on and those to hold out, as two banks. DeepsepError where there is too little."""

    def batches(
        self, batch: int, length: int, rng: torch.Generator, *, vary: bool = True
    ) -> Iterator[Tensor]:
        """Endless batches (batch, d, length) of stretches drawn at random, with `vary` as if recorded otherwise."""


def cut_recordings(lengths: Sequence[float], share: float) -> list[list[tuple[float, float, bool]]]:
    """Cut each recording of a folder into parts (start, end, held out), start and end in shares of its length.

    One part in every 1 / share is held out; of a folder too short for that, the end of its longest recording.
    `lengths` are in blocks.
    """
    every = max(2, round(1 / share))
    cut = []
    for i, length in enumerate(lengths):
        n = max(1, round(length))
        cut.append([(j / n, (j + 1) / n, (i * 7 + j) % every == every - 1) for j in range(n)])
    if not any(test for pieces in cut for _, _, test in pieces):
        longest = int(np.argmax(lengths))
        start = 1 - min(0.5, share * sum(lengths) / lengths[longest])
        cut[longest] = [(0.0, start, False), (start, 1.0, True)]
    return cut


def split_pieces(
    length: np.ndarray, group: np.ndarray, block: float, held_out: float, copies: int = 1
) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    """Parts (piece, start, end) to train on and to hold out: one block in every 1 / held_out of each folder.

    `copies` pieces in a row are the same recording, as at several speeds: the same stretch of each is held out.
    DeepsepError where there is too little.
    """
    train: list[tuple[int, int, int]] = []
    test: list[tuple[int, int, int]] = []
    for g in np.unique(group):
        pieces = np.flatnonzero(group == g)
        cuts = cut_recordings((length[pieces[::copies]] / block).tolist(), held_out)
        for r, cut in enumerate(cuts):
            for i in pieces[r * copies : (r + 1) * copies]:
                for a, b, is_test in cut:
                    start, end = int(a * length[i]), int(b * length[i])
                    if end > start:
                        (test if is_test else train).append((int(i), start, end))
    if not train or not test:
        raise DeepsepError("the recordings are too short to train on; a second of sound is the least")
    return train, test


def shares(length: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The probability of drawing each piece, (pieces,).

    Within a folder it is proportional to length; a folder is drawn by the cube root of its length, so that an hour
    is heard four times as often as a minute, not sixty times.
    """
    weight = length.astype(np.float64)
    for g in np.unique(group):
        weight[group == g] /= weight[group == g].sum() ** (2 / 3)
    result: np.ndarray = weight / weight.sum()
    return result


@dataclass(frozen=True, slots=True)
class SampleBank:
    """One instrument's recordings, decoded to int16 at `rate`, each at gated RMS `LEVEL`; a memory map.

    Built `as_is`, a recording keeps its level: full scale is at `LEVEL` then.

    pieces: (offset, samples, channels, group, stride) of each recording or part of one; its channels lie `stride`
    apart.
    """

    LEVEL = 0.05  # headroom of 26 dB
    samples: np.ndarray
    pieces: np.ndarray
    rate: int

    @classmethod
    def build(
        cls,
        folders: Sequence[Path],
        rate: int,
        cache: Path,
        listener: Listener,
        *,
        as_is: bool = False,
    ) -> SampleBank:
        """Decode the folders, or map the cache if it was made from these very files.

        One source has one `cache` folder: what it holds of other files is removed.
        """

        def make(out: IO[bytes], path: Path, g: int) -> Table:
            samples, own_rate = audio.read(path)
            samples = resample(samples[:2], own_rate, rate)
            loudness = Loudness()
            loudness.add(samples)
            if loudness.rms == 0:
                raise DeepsepError(f"{path}: is silent")
            unit = 1.0 if as_is else loudness.rms
            scaled = np.clip(samples * (32767 * cls.LEVEL / unit), -32767, 32767).astype(np.int16)
            offset = out.tell() // scaled.itemsize
            out.write(np.ascontiguousarray(scaled).data)
            return {"pieces": [(offset, scaled.shape[1], scaled.shape[0], g, scaled.shape[1])]}

        settings = (rate, "as is") if as_is else (rate,)
        kept, store = cached(cache, "samples", gather(folders), settings, make, bytes_of, listener)
        return open_bank(store, np.array(kept["pieces"], dtype=np.int64), rate)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the file's name, so that a worker process maps it instead of being sent its contents."""
        if isinstance(self.samples, np.memmap):
            return open_bank, (self.samples.filename, self.pieces, self.rate)
        return SampleBank, (self.samples, self.pieces, self.rate)

    @property
    def hours(self) -> float:
        """Length of the recordings."""
        return float(self.pieces[:, 1].sum()) / self.rate / 3600

    def split(self, held_out: float) -> tuple[SampleBank, SampleBank]:
        """See `Bank`."""
        parts = split_pieces(self.pieces[:, 1], self.pieces[:, 3], BLOCK * self.rate, held_out)
        train, test = (
            np.array([self.part(i, start, end) for i, start, end in rows], dtype=np.int64) for rows in parts
        )
        return SampleBank(self.samples, train, self.rate), SampleBank(self.samples, test, self.rate)

    def part(self, piece: int, start: int, end: int) -> tuple[int, ...]:
        """A row of `pieces` for part of a piece."""
        offset, _, channels, group, stride = map(int, self.pieces[piece])
        return offset + start, end - start, channels, group, stride

    def batches(
        self, batch: int, length: int, rng: torch.Generator, *, vary: bool = True
    ) -> Iterator[Tensor]:
        """See `Bank`: (batch, 1, length)."""
        while True:
            yield self.stretches(batch, length, rng, vary=vary)[:, None]

    def draw(self, length: int, random: np.random.Generator) -> np.ndarray:
        """Draw a stretch of one channel, or the mean of two, at RMS about 1 or as is: float32 (length,)."""
        parts = self.draw_channels(length, random)
        mono = parts[int(random.integers(len(parts)))] if random.random() < 0.5 else sum(parts) / len(parts)
        return np.resize(mono / (32767 * self.LEVEL), length)

    def draw_stereo(self, length: int, random: np.random.Generator) -> np.ndarray:
        """Draw a stretch of both channels, the same twice where there is one: float32 (2, length)."""
        parts = self.draw_channels(length, random)
        return np.stack([np.resize(x / (32767 * self.LEVEL), length) for x in (parts[0], parts[-1])])

    def draw_channels(self, length: int, random: np.random.Generator) -> list[np.ndarray]:
        """Draw a stretch of up to `length` samples, in each of its channels, as stored."""
        weight = shares(self.pieces[:, 1], self.pieces[:, 3])
        offset, samples, channels, _, stride = self.pieces[random.choice(len(weight), p=weight)]
        at = int(random.integers(0, max(1, samples - length + 1)))
        have = min(length, int(samples))
        return [
            self.samples[offset + c * stride + at :][:have].astype(np.float32) for c in range(int(channels))
        ]

    def stretches(self, count: int, length: int, rng: torch.Generator, *, vary: bool) -> Tensor:
        """Draw stretches, (count, length); with `vary` at random levels and polarities.

        A source lies about 6 dB below a mixture of RMS 1, give or take.
        """
        random = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng)))
        found = np.stack([self.draw(length, random) for _ in range(count)])
        if vary:
            gain = 10 ** (random.normal(-6.0, 5.0, (count, 1)).clip(-24, 4) / 20)
            found *= gain * random.choice([-1.0, 1.0], (count, 1))
        return torch.from_numpy(found.astype(np.float32, copy=False))


def bytes_of(table: Table) -> int:
    """The size of the file that a table of pieces describes. ValueError for one that no recordings have."""
    end = 0
    for piece in table["pieces"]:
        offset, samples, channels, group, stride = piece
        if not all(isinstance(n, int) for n in piece) or group < 0:
            raise ValueError("no whole numbers")
        if (offset, stride) != (end, samples) or samples < 1 or channels not in (1, 2):
            raise ValueError("pieces that overlap or leave gaps")
        end += samples * channels
    return 2 * end


def open_bank(store: Path, pieces: np.ndarray, rate: int) -> SampleBank:
    """Open a bank on its file."""
    return SampleBank(np.memmap(store, np.int16, "r"), pieces, rate)
