"""Measure how loud a track is: the level to which it is brought before the priors and the encoder see it.

Shape suffixes: c channel, t sample.
"""

from __future__ import annotations

import numpy as np

__all__ = ["Loudness", "gated_rms", "to_listening_level"]

TARGET_RMS = 10 ** (-20 / 20)
PEAK = 0.98


def gated_rms(power: np.ndarray) -> float:
    """Root mean square over the blocks that are not quiet; 0.0 for silence.

    `power` holds the mean square of each block, shape (blocks,). Blocks more than 60 dB below the loudest
    are left out, then those more than 12 dB below the mean of the remaining ones.
    """
    power = np.asarray(power, dtype=np.float64)
    power = power[power > max(1e-30, 1e-6 * power.max(initial=0))]
    if not len(power):
        return 0.0
    return float(np.sqrt(power[power >= power.mean() / 16].mean()))


class Loudness:
    """The gated RMS and the length of a track, measured over pieces of any length.

    `samples` counts samples per channel. `block` is the length over which power is averaged, in samples.
    """

    def __init__(self, block: int = 4096) -> None:
        self.block = block
        self.powers: list[np.ndarray] = []
        self.rest = np.zeros(0)
        self.samples = 0

    def add(self, samples_ct: np.ndarray) -> None:
        """Add the next samples, shape (c, t)."""
        self.samples += samples_ct.shape[1]
        power = np.concatenate([self.rest, np.square(samples_ct, dtype=np.float64).mean(0)])
        whole = len(power) // self.block * self.block
        self.powers.append(power[:whole].reshape(-1, self.block).mean(1))
        self.rest = power[whole:]

    @property
    def rms(self) -> float:
        """Gated RMS of all samples so far, full scale is 1.0; 0.0 for silence."""
        last = [np.array([self.rest.mean()])] if len(self.rest) else []
        return gated_rms(np.concatenate([*self.powers, *last])) if self.samples else 0.0


def to_listening_level(samples_ct: np.ndarray) -> np.ndarray:
    """The samples by one gain that brings them to -20 dB RMS where they are not quiet, lower if they would clip."""
    loudness = Loudness()
    loudness.add(samples_ct)
    if loudness.rms == 0:
        return samples_ct.astype(np.float32)
    gain = min(TARGET_RMS / loudness.rms, PEAK / float(np.abs(samples_ct).max()))
    return (samples_ct * gain).astype(np.float32)
