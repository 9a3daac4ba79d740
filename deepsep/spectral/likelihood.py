"""log p(M | x) of a mixture's STFT given its sources' log-variances, and the estimates that follow from these.

Shape suffixes: b batch, k stem, d band, n frame.

S_k(f, n) ~ N_C(0, v_k(f, n)) independently, so M = sum_k S_k ~ N_C(0, V) with V = sum_k v_k, and the Wiener estimate is
E[S_k | M, v] = (v_k / V) M.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .spectrum import Spectrum

__all__ = ["BandLikelihood", "DiagonalPrecision", "wiener_gains"]


def wiener_gains(x_bkdn: Tensor, spectrum: Spectrum, alpha: float = 2.0) -> Tensor:
    """v_k / V for log-variances x (b, k, d, n); they sum to 1 over k, so the estimates sum to the mixture.

    With alpha = 1, ratios of magnitudes v_k^(1/2), as if those added up: sources of heavy tails (Liutkus & Badeau,
    Generalized Wiener filtering with fractional power spectrograms, 2015), and softer where v is not sure.
    """
    return torch.softmax(alpha / 2 * spectrum.config.scale * x_bkdn, 1)


@dataclass(frozen=True, slots=True)
class DiagonalPrecision:
    """One value for each coordinate, x's shape."""

    values: Tensor

    def solve(self, v_bkdn: Tensor) -> Tensor:
        """See `Precision`."""
        return v_bkdn / self.values

    def solve_root(self, v_bkdn: Tensor) -> Tensor:
        """See `Precision`."""
        return v_bkdn / self.values.sqrt()


@dataclass(frozen=True, slots=True)
class BandLikelihood:
    """log p(M | x) = -sum_dn w_d (ln V + P / V), V = sum_k exp(scale x_k + shift).

    power_bdn: mean of |M|^2 over a band's bins (and channels), the floor added. weight_d: how many independent
    coefficients that mean stands for; 0 where the sample rate has no such band.
    """

    power_bdn: Tensor
    weight_d: Tensor
    spectrum: Spectrum

    def log_prob(self, x_bkdn: Tensor, sigma: float = 0.0) -> Tensor:
        """See `Likelihood`; the same at every noise level."""
        log_V = torch.logsumexp(self.spectrum.config.scale * x_bkdn + self.spectrum.config.shift, 1)
        fit = log_V + self.power_bdn * (-log_V).exp()
        return -(self.weight_d[:, None] * fit).flatten(1).sum(1)

    def precision(self, x_bkdn: Tensor, sigma: float, beta: float) -> DiagonalPrecision:
        """A diagonal bound, by w_d scale^2 v_k / V.

        The information is w_d scale^2 g g^T with g the Wiener gains, which sum to 1: these are its row sums.
        """
        gains = wiener_gains(x_bkdn, self.spectrum)
        information = self.weight_d[:, None] * self.spectrum.config.scale**2 * gains
        return DiagonalPrecision(beta * information + sigma**-2)
