"""Playing sounds in time with one another: the speed and the start at which one's onsets fall on those of others.

Shape suffixes: s speed, c audio channel, t sample, n frame of onsets.
"""

from __future__ import annotations

import numpy as np

__all__ = ["Beat"]

FRAME = 0.0232  # seconds
SLACK = 1.0  # seconds by which a start may lie later
STEP = 0.004  # between speeds, as a share: after 12 s two neighbours are two frames apart
QUIET = 1e-3  # of the mean energy: what is quieter counts as silence, from which any sound is an onset


class Beat:
    """When the sounds of a mixture drawn so far set in; the mixture is of `length` samples at `rate`."""

    def __init__(self, length: int, rate: int) -> None:
        self.length, self.frame = length, round(FRAME * rate)
        self.slack = round(SLACK * rate / self.frame)
        self.onsets_n = np.zeros(length // self.frame)

    def needed(self, semitones: float) -> int:
        """Samples of a recording that have a stretch in time in them, at any speed within so many semitones."""
        return int((self.length + self.slack * self.frame) * 2 ** (semitones / 12)) + 64

    def in_time(self, samples_ct: np.ndarray, semitones: float) -> tuple[float, int]:
        """The speed and the first sample, at that speed, where these samples are most in time with the others."""
        n = len(self.onsets_n)
        many = max(1, round(2 * semitones / 12 * np.log(2) / STEP))
        speed_s = 2 ** (np.linspace(-semitones, semitones, many) / 12)
        heard_n = onsets(samples_ct, self.frame)
        at_sn = speed_s[:, None] * np.arange(n + self.slack)
        played_sn = np.interp(at_sn, np.arange(len(heard_n)), heard_n)
        size = 1 << (n + self.slack).bit_length()
        alike = np.fft.irfft(np.fft.rfft(played_sn, size) * np.fft.rfft(self.onsets_n, size).conj())
        energy_sn = np.pad(np.square(played_sn).cumsum(1), ((0, 0), (1, 0)))
        energy = energy_sn[:, n : n + self.slack + 1] - energy_sn[:, : self.slack + 1]
        score = alike[:, : self.slack + 1] / np.sqrt(energy + 1e-9)
        speed, start = np.unravel_index(int(score.argmax()), score.shape)
        return float(speed_s[speed]), int(start) * self.frame

    def add(self, samples_ct: np.ndarray) -> None:
        """Another sound sounds with the others from here."""
        onsets_n = onsets(samples_ct, self.frame)[: len(self.onsets_n)]
        self.onsets_n[: len(onsets_n)] += onsets_n / (np.sqrt(np.square(onsets_n).sum()) + 1e-9)


def onsets(samples_ct: np.ndarray, frame: int) -> np.ndarray:
    """How much louder than the one before each frame is, in nats of energy, less the mean of that: (n,).

    Less than two frames have no onsets.
    """
    whole = samples_ct[:, : samples_ct.shape[1] // frame * frame]
    if whole.shape[1] < 2 * frame:
        return np.zeros(whole.shape[1] // frame)
    energy = np.square(whole, dtype=np.float64).reshape(len(whole), -1, frame).sum((0, 2))
    level = np.log(energy + QUIET * energy.mean() + 1e-12)
    rise = np.maximum(np.diff(level, prepend=level[:1]), 0)
    smooth = np.convolve(np.pad(rise, 1, "edge"), [0.25, 0.5, 0.25], "valid")
    found: np.ndarray = smooth - smooth.mean()
    return found
