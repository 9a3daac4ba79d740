"""The exact densities of the toy instruments, which no recording of music allows: the measure of the flows.

Shape suffixes: b batch, t sample, g grid point (a pitch and a phase).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deepsep.config import WaveformFlowConfig
from deepsep.recordings.toy import AMPLITUDES, PITCHES, RATE, wave

__all__ = ["ExactPrior"]


class ExactPrior:
    """The density itself: p_sigma(x) = mean over pitches and phases of int N(x; a w, sigma^2 I) da / 0.2.

    The integral over amplitudes is closed; the phases stand on a grid, so it is exact where sigma is well above what
    one grid step changes (`phases` of 64: about 0.05 for a sine).
    """

    def __init__(self, name: str, samples: int, phases: int = 64) -> None:
        hertz = torch.tensor(PITCHES, dtype=torch.float64)[:, None, None]
        time = torch.arange(samples, dtype=torch.float64)
        turns = torch.arange(phases, dtype=torch.float64)[:, None] / phases + hertz * time / RATE
        self.waves_gt = wave(name, turns).float().flatten(0, 1)
        self.energy_g = self.waves_gt.square().sum(1)
        self.config = WaveformFlowConfig(squeeze=(2,), sigma_min=1e-9, sigma_max=1e9)

    def gaussian_log_prob(self, x_b1t: Tensor, sigma: Tensor | float) -> Tensor:
        """Nothing to fall back on, (b,): an exact density needs none."""
        return x_b1t.new_full((len(x_b1t),), -1e30)

    def log_prob(self, x_b1t: Tensor, sigma: Tensor | float) -> Tensor:
        """log p_sigma(x) in nats: (b, 1, t) -> (b,); sigma is one number."""
        x = x_b1t.flatten(1)
        level = float(sigma)
        fit = x @ self.waves_gt.T
        mean, std = fit / self.energy_g, level / self.energy_g.sqrt()
        low, high = ((edge - mean) / std for edge in AMPLITUDES)
        inside = torch.where(low > 0, log_difference(-low, -high), log_difference(high, low))
        log_g = 0.5 * fit * mean / level**2 + inside + (std * math.sqrt(2 * math.pi)).log()
        spread = math.log(AMPLITUDES[1] - AMPLITUDES[0]) + math.log(len(self.energy_g))
        base = -0.5 * x.square().sum(1) / level**2 - x.shape[1] * math.log(level * math.sqrt(2 * math.pi))
        total: Tensor = torch.logsumexp(log_g, 1) - spread + base
        return total


def log_difference(high: Tensor, low: Tensor) -> Tensor:
    """ln(Phi(high) - Phi(low)), high > low."""
    top, bottom = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    difference: Tensor = top + torch.log1p(-(bottom - top).exp().clamp_max(1 - 1e-6))
    return difference
