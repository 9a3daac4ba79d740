"""How often the true gains lie in the intervals that a posterior gives, and the one number a source that mends it.

Shape suffixes: b batch, k stem, d band, n frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["LEVELS", "best_gains", "coverage", "loud", "spread_scale"]

LEVELS = (0.5, 0.8, 0.95)  # shares of the truths that an interval is to hold
FITTED = 0.8  # the share that the scale is made for
QUIET_DB = -50.0  # below the loudest band and frame of a mixture nothing counts
LEAST_STD = 1e-3  # of a gain; the estimate is no surer than that


def best_gains(cross_bkdn: Tensor, total_bdn: Tensor) -> Tensor:
    """The gains in [0, 1] whose stems come nearest to the true ones: sum Re(S_k M*) / sum |M|^2, (b, k, d, n)."""
    return (cross_bkdn / total_bdn[:, None].clamp_min(1e-12)).clamp(0, 1)


def loud(total_bdn: Tensor) -> Tensor:
    """Where a mixture is loud enough to count, (b, d, n)."""
    return total_bdn > total_bdn.amax((1, 2), keepdim=True) * 10 ** (QUIET_DB / 10)


def errors(gain_bkdn: Tensor, std_bkdn: Tensor, truth_bkdn: Tensor, counts_bdn: Tensor) -> list[Tensor]:
    """|g - g*| / std of each source, where it counts."""
    ratio = (gain_bkdn - truth_bkdn).abs() / std_bkdn.clamp_min(LEAST_STD)
    return [ratio[:, k][counts_bdn] for k in range(ratio.shape[1])]


def half_width(level: float) -> float:
    """Standard deviations to either side that hold a share `level` of a normal distribution."""
    return math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64)))


def coverage(
    gain_bkdn: Tensor,
    std_bkdn: Tensor,
    truth_bkdn: Tensor,
    counts_bdn: Tensor,
    levels: Sequence[float] = LEVELS,
) -> Tensor:
    """The share of the true gains that lie in the interval of each level, (k, levels)."""
    found = errors(gain_bkdn, std_bkdn, truth_bkdn, counts_bdn)
    return torch.stack(
        [torch.stack([(own <= half_width(level)).float().mean() for level in levels]) for own in found]
    )


def spread_scale(gain_bkdn: Tensor, std_bkdn: Tensor, truth_bkdn: Tensor, counts_bdn: Tensor) -> list[float]:
    """The factor of each source's standard deviations with which 80 % of the true gains lie in the 80 % interval."""
    found = errors(gain_bkdn, std_bkdn, truth_bkdn, counts_bdn)
    ratios = [float(own.kthvalue(max(1, round(FITTED * len(own))))[0]) for own in found]
    return [min(20.0, max(0.05, ratio / half_width(FITTED))) for ratio in ratios]
