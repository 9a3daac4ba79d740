"""Playing sounds in time and in key with one another: at which speed, and from where, onsets and notes meet.

Shape suffixes: s speed, c audio channel, t sample, n frame of onsets, m frame of chroma, p pitch class.
"""

from __future__ import annotations

import numpy as np

from .harmony import CLASSES, chroma

__all__ = ["Beat"]

FRAME = 0.0232  # seconds
SLACK = 2.0  # seconds by which a start may lie later
LONG = 8  # frames of onsets in a frame of chroma
STEP = 0.004  # between speeds, as a share: after 12 s two neighbours are two frames apart
QUIET = 1e-3  # of the mean energy: what is quieter counts as silence, from which any sound is an onset


class Beat:
    """When the sounds of a mixture drawn so far set in, and which notes they play.

    The mixture is of `length` samples at `rate`.
    """

    def __init__(self, length: int, rate: int) -> None:
        self.length, self.rate, self.frame = length, rate, round(FRAME * rate)
        self.slack = round(SLACK * rate / self.frame)
        self.onsets_n = np.zeros(length // self.frame)
        self.chroma_mp = np.zeros((length // (self.frame * LONG), CLASSES))

    def needed(self, semitones: float) -> int:
        """Samples of a recording that have a stretch in time in them, at any speed within so many semitones."""
        return int((self.length + self.slack * self.frame) * 2 ** (semitones / 12)) + 64

    def in_time(self, samples_ct: np.ndarray, semitones: float) -> tuple[float, int]:
        """The speed, and the first sample at that speed, where these samples are most in time and key with the others.

        Both count alike: each in standard deviations over all speeds and starts.
        """
        many = max(1, round(2 * semitones / 12 * np.log(2) / STEP))
        speed_s = 2 ** (np.linspace(-semitones, semitones, many) / 12)
        time_sn = self.alike_in_time(samples_ct, speed_s)
        key_sm = self.alike_in_key(samples_ct, speed_s)
        coarse = np.minimum((np.arange(self.slack + 1) + LONG // 2) // LONG, key_sm.shape[1] - 1)
        score = time_sn / (time_sn.std() + 1e-9) + key_sm[:, coarse] / (key_sm.std() + 1e-9)
        speed, start = np.unravel_index(int(score.argmax()), score.shape)
        return float(speed_s[speed]), int(start) * self.frame

    def alike_in_time(self, samples_ct: np.ndarray, speed_s: np.ndarray) -> np.ndarray:
        """How alike the onsets of these samples are to those of the others, at each speed and start: (s, n)."""
        heard_n = onsets(samples_ct, self.frame)
        at_sn = speed_s[:, None] * np.arange(len(self.onsets_n) + self.slack)
        played_sn = np.interp(at_sn, np.arange(len(heard_n)), heard_n)
        return correlate(played_sn[..., None], self.onsets_n[:, None])

    def alike_in_key(self, samples_ct: np.ndarray, speed_s: np.ndarray) -> np.ndarray:
        """How alike the notes of these samples are to those of the others, at each speed and start: (s, m)."""
        heard_mk = np.fft.rfft(chroma(samples_ct, self.rate, self.frame * LONG))
        higher_sk = np.exp(-2j * np.pi * np.arange(heard_mk.shape[1]) * np.log2(speed_s)[:, None])
        at_sm = (speed_s[:, None] * np.arange(len(self.chroma_mp) + self.slack // LONG)).round().astype(int)
        played_smk = heard_mk[np.minimum(at_sm, len(heard_mk) - 1)] * higher_sk[:, None]
        return correlate(np.fft.irfft(played_smk, CLASSES), self.chroma_mp)

    def add(self, samples_ct: np.ndarray) -> None:
        """Another sound sounds with the others from here."""
        onsets_n = onsets(samples_ct, self.frame)[: len(self.onsets_n)]
        self.onsets_n[: len(onsets_n)] += onsets_n / (np.sqrt(np.square(onsets_n).sum()) + 1e-9)
        chroma_mp = chroma(samples_ct, self.rate, self.frame * LONG)[: len(self.chroma_mp)]
        self.chroma_mp[: len(chroma_mp)] += chroma_mp


def correlate(played_snp: np.ndarray, others_np: np.ndarray) -> np.ndarray:
    """The cosine of the angle between what is played from each start and the others, times their size: (s, start)."""
    length, n = played_snp.shape[1], len(others_np)
    size = 1 << length.bit_length()
    product = np.fft.rfft(played_snp, size, 1) * np.fft.rfft(others_np, size, 0).conj()
    alike = np.fft.irfft(product.sum(-1))[:, : length - n + 1]
    energy_sn = np.pad(np.square(played_snp).sum(-1).cumsum(1), ((0, 0), (1, 0)))
    energy = energy_sn[:, n:] - energy_sn[:, : length - n + 1]
    cosine: np.ndarray = alike / np.sqrt(np.maximum(energy, 0) + 1e-9)
    return cosine


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
