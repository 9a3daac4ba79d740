"""How sources make a mixture: they ADD UP. No other module repeats this rule.

Shape suffixes: b batch, k stem, d band, n frame.

Spectral domain: S_k(f, n) ~ N_C(0, v_k(f, n)) independently, so that M = sum_k S_k ~ N_C(0, sum_k v_k), and
E[S_k | M, v] = (v_k / V) M, the Wiener estimate.

Time domain: samples themselves, exactly linear, m = sum_k s_k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..spectral.spectrum import Spectrum

__all__ = [
    "BandLikelihood",
    "DiagonalPrecision",
    "Likelihood",
    "Precision",
    "SumLikelihood",
    "SumPrecision",
    "mix",
    "project",
    "wiener_gains",
]


def mix(stems_bk: Tensor) -> Tensor:
    """The mixture of stems (b, k, ...): their sum over k, never their mean."""
    return stems_bk.sum(1)


def project(stems_bk: Tensor, mixture_b: Tensor) -> Tensor:
    """The nearest stems (b, k, ...) that sum to the mixture (b, ...): each takes the same share of what is missing."""
    return stems_bk + ((mixture_b - mix(stems_bk)) / stems_bk.shape[1])[:, None]


def wiener_gains(x_bkdn: Tensor, spectrum: Spectrum, alpha: float = 2.0) -> Tensor:
    """v_k / V for log-variances x (b, k, d, n); they sum to 1 over k, so the estimates sum to the mixture.

    With alpha = 1, ratios of magnitudes v_k^(1/2), as if those added up: sources of heavy tails (Liutkus & Badeau,
    Generalized Wiener filtering with fractional power spectrograms, 2015), and softer where v is not sure.
    """
    return torch.softmax(alpha / 2 * spectrum.config.scale * x_bkdn, 1)


class Precision(Protocol):
    """A symmetric positive matrix about x (b, k, d, n): how steep a log density can be."""

    def solve(self, v_bkdn: Tensor) -> Tensor:
        """P^-1 v."""

    def solve_root(self, v_bkdn: Tensor) -> Tensor:
        """P^-1/2 v: standard normal noise of covariance P^-1."""


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
class SumPrecision:
    """a (I - 11^T / K) + s 11^T / K over the stems: `apart` for their differences, `together` for their sum."""

    apart: float
    together: float

    def solve(self, v_bkdn: Tensor) -> Tensor:
        """See `Precision`."""
        return self.scaled(v_bkdn, 1 / self.apart, 1 / self.together)

    def solve_root(self, v_bkdn: Tensor) -> Tensor:
        """See `Precision`."""
        return self.scaled(v_bkdn, self.apart**-0.5, self.together**-0.5)

    def scaled(self, v_bkdn: Tensor, apart: float, together: float) -> Tensor:
        """The two parts of v, each by its factor."""
        return apart * v_bkdn + (together - apart) * v_bkdn.mean(1, keepdim=True)


class Likelihood(Protocol):
    """log p(m | x) of some domain, for chains at a noise level sigma."""

    def log_prob(self, x_bkdn: Tensor, sigma: float) -> Tensor:
        """In nats, up to a constant: (b, k, d, n) -> (b,)."""

    def precision(self, x_bkdn: Tensor, sigma: float, beta: float) -> Precision:
        """I / sigma^2 + beta times (a bound of) its Fisher information about x."""


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


@dataclass(frozen=True, slots=True)
class SumLikelihood:
    """m = sum_k x_k + N(0, (gamma sigma)^2): the thesis' Gaussian constraint, annealed with the noise level.

    mixture_bdn: m, in the domain where sources add. gamma = 0 is exact projection, the same formulas in their limit
    (to a hundredth of sigma): taken at x itself, every whole step moves the sum of x onto m, and otherwise only along
    (I - 11^T / K); taken at the denoised sources, the sum of x moves by all that those lack.
    """

    mixture_bdn: Tensor
    gamma: float = 1.0

    def weight(self, sigma: float) -> float:
        """1 / (gamma sigma)^2, finite where gamma is 0."""
        return float((max(self.gamma, 1e-2) * sigma) ** -2)  # float32 holds the rest of the score beside it

    def log_prob(self, x_bkdn: Tensor, sigma: float) -> Tensor:
        """See `Likelihood`."""
        missing = self.mixture_bdn - mix(x_bkdn)
        return -0.5 * self.weight(sigma) * missing.square().flatten(1).sum(1)

    def precision(self, x_bkdn: Tensor, sigma: float, beta: float) -> SumPrecision:
        """Exact: the information is 11^T / (gamma sigma)^2."""
        return SumPrecision(sigma**-2, sigma**-2 + beta * x_bkdn.shape[1] * self.weight(sigma))
