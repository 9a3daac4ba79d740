"""Log band powers of recordings: what a prior of bands trains on.

Shape suffixes: b batch, c audio channel, d band, n frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from ..audio import files as audio
from ..audio.loudness import Loudness
from ..audio.resampling import resample
from ..errors import DeepsepError
from ..progress import Listener
from ..recordings.banks import shares, split_pieces
from ..recordings.files import Folders, Table, cached, gather
from .spectrum import Spectrum

__all__ = ["SEGMENT", "SPEEDS", "PowerBank", "log_powers"]

SPEEDS = (1.0, 0.86, 1.16)  # playback speeds: as recorded, about 2.6 semitones lower and as much higher
SEGMENT = 20  # seconds decoded and analysed at a time
BLOCK_FRAMES = 2000  # of a part of a recording that is held out, or not, as a whole


@dataclass(frozen=True, slots=True)
class PowerBank:
    """ln band powers of one instrument's recordings at a few speeds, each recording at gated RMS 1.

    log_power: float16 (frames, d), a memory map. pieces: (start, frames, group) of each recording at each speed, or
    of parts of those; the speeds of a recording follow one another.
    """

    log_power: np.ndarray
    pieces: np.ndarray
    spectrum: Spectrum

    @classmethod
    def build(cls, folders: Folders, spectrum: Spectrum, cache: Path, listener: Listener) -> PowerBank:
        """Analyse the folders, or map the cache if it was made from these very files.

        One source has one `cache` folder: what it holds of other files is removed.
        """

        def make(out: IO[bytes], path: Path, g: int) -> Table:
            found = log_powers_at(path, spectrum, SPEEDS)
            for piece in found:
                out.write(np.ascontiguousarray(piece).data)
            return {"frames": [len(piece) for piece in found], "group": [g] * len(found)}

        def bytes_of(table: Table) -> int:
            frames, group = table["frames"], table["group"]
            if not all(isinstance(n, int) for n in (*frames, *group)) or min(frames) < 1 or min(group) < 0:
                raise ValueError("no whole numbers")
            if len(frames) != len(group) or len(frames) % len(SPEEDS):
                raise ValueError("columns that do not fit")
            return 2 * spectrum.bands * sum(frames)

        settings = (spectrum.config, SPEEDS)
        kept, store = cached(cache, "power", gather(folders), settings, make, bytes_of, listener)
        length = np.array(kept["frames"], dtype=np.int64)
        start = np.cumsum(length) - length
        shape = (int(length.sum()), spectrum.bands)
        pieces = np.stack([start, length, np.array(kept["group"], dtype=np.int64)], 1)
        return cls(np.memmap(store, np.float16, "r", shape=shape), pieces, spectrum)

    @property
    def hours(self) -> float:
        """See `Bank`: each recording counts once, not at every speed."""
        frames = float(self.pieces[:, 1].sum()) / sum(1 / speed for speed in SPEEDS)
        return frames * self.spectrum.hop / self.spectrum.rate / 3600

    def split(self, held_out: float) -> tuple[PowerBank, PowerBank]:
        """See `Bank`. The same stretch of a recording is held out at each of its speeds."""
        start, length, group = self.pieces.T
        rows = split_pieces(length, group, BLOCK_FRAMES, held_out, len(SPEEDS))
        train, test = (
            np.array([(start[i] + a, b - a, group[i]) for i, a, b in part], dtype=np.int64) for part in rows
        )
        return PowerBank(self.log_power, train, self.spectrum), PowerBank(self.log_power, test, self.spectrum)

    def batches(
        self, batch: int, length: int, rng: torch.Generator, *, vary: bool = True
    ) -> Iterator[Tensor]:
        """See `Bank`: x (batch, d, length), at levels as in a mixture of RMS 1."""
        random = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng)))
        weight = shares(self.pieces[:, 1], self.pieces[:, 2])
        while True:
            out = np.empty((batch, self.log_power.shape[1], length), np.float32)
            for i, number in enumerate(random.choice(len(weight), batch, p=weight)):
                start, frames, _ = self.pieces[number]
                at = int(random.integers(start, max(start, start + frames - length) + 1))
                piece = self.log_power[at : min(start + frames, at + length)].T
                out[i] = np.pad(piece, ((0, 0), (0, length - piece.shape[1])), mode="wrap")
            power = torch.from_numpy(out)
            power = vary_powers(power, random) if vary else power - 2 * 0.69
            yield self.spectrum.to_x(power.exp())


def log_powers(path: Path, spectrum: Spectrum, rms: float, speed: float) -> Iterator[np.ndarray]:
    """ln of the band powers, channels averaged, of a recording scaled by 1 / rms: float16 (n, d) pieces."""
    rate = audio.probe(path).rate
    for block in audio.read_blocks(path, SEGMENT * rate):
        samples = resample(block, round(rate * speed), spectrum.rate)
        if samples.shape[-1] >= spectrum.n_fft:
            yield normalise(log_power(samples, spectrum), rms)


def log_powers_at(path: Path, spectrum: Spectrum, speeds: Sequence[float]) -> list[np.ndarray]:
    """The same at several speeds, each whole and at the recording's own gated RMS; the file is decoded once.

    Raises DeepsepError as audio.read_blocks does, and for silence.
    """
    rate = audio.probe(path).rate
    loudness = Loudness()
    found: list[list[np.ndarray]] = [[] for _ in speeds]
    for block in audio.read_blocks(path, SEGMENT * rate):
        loudness.add(block)
        for pieces, speed in zip(found, speeds, strict=True):
            samples = resample(block, round(rate * speed), spectrum.rate)
            if (missing := spectrum.n_fft - samples.shape[-1]) > 0:
                if pieces:  # the last bit of a longer recording
                    continue
                samples = np.pad(samples, ((0, 0), (0, missing)))
            pieces.append(log_power(samples, spectrum))
    if loudness.rms == 0:
        raise DeepsepError(f"{path}: is silent")
    return [normalise(np.concatenate(pieces), loudness.rms) for pieces in found]


def log_power(samples_ct: np.ndarray, spectrum: Spectrum) -> np.ndarray:
    """ln of the band powers of a stretch of n_fft or more samples, channels averaged: float16 (n, d)."""
    padded = samples_ct[:, : samples_ct.shape[-1] // spectrum.hop * spectrum.hop]
    power = spectrum.stft(torch.from_numpy(padded)).abs().square().mean(0)
    return np.ascontiguousarray((spectrum.band_power(power) + 1e-30).log().T.numpy().astype(np.float16))


def normalise(log_power_nd: np.ndarray, rms: float) -> np.ndarray:
    """Divide powers, given as ln, by rms^2, and raise them to a floor 90 dB below: ln again, float16."""
    level, floor = np.float32(2 * np.log(rms)), np.float32(np.log(1e-9))
    out: np.ndarray = np.logaddexp(log_power_nd.astype(np.float32) - level, floor).astype(np.float16)
    return out


def vary_powers(log_power_bdn: Tensor, random: np.random.Generator) -> Tensor:
    """Change levels, equalisation, bandwidth and silences at random, on ln band powers."""
    b, d, n = log_power_bdn.shape
    # a source lies about 6 dB below the mixture, give or take; 0.23 nats of power are one dB
    gain = random.normal(-6.0, 5.0, (b, 1, 1)).clip(-24, 4)
    position = np.linspace(0, 1, d)
    curve = sum(
        random.normal(0, 2.5 / (i + 1), (b, 1, 1))
        * np.cos(np.pi * (i + 1) * position + random.uniform(0, 6.3))[None, :, None]
        for i in range(4)
    )
    power = log_power_bdn + torch.from_numpy(0.2303 * (gain + curve)).float()
    for i in range(b):
        if random.random() < 0.15:  # low-passed, as by a lossy codec
            power[i, int(random.uniform(0.75, 0.97) * d) :] -= 12
        if random.random() < 0.15:  # the part enters or leaves
            at, length = int(random.integers(0, n)), int(random.integers(n // 8, n))
            power[i, :, at : at + length] -= float(random.choice([3.0, 40.0], p=[0.2, 0.8]))
    if random.random() < 0.3:
        power[int(random.integers(b))] -= 40
    return power
