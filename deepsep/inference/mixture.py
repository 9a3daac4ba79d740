"""How sources make a mixture: they ADD UP. No other module repeats this rule.

Shape suffixes: b batch, k stem, d band, n frame.

In the time domain the rule is about samples, m = sum_k s_k. In the spectral domain it is about coefficients,
S_k(f, n) ~ N_C(0, v_k(f, n)) independently, so that M = sum_k S_k ~ N_C(0, sum_k v_k). Each domain has the
likelihood that follows from it in its `likelihood` module.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

__all__ = ["Likelihood", "Precision", "mix", "project"]


def mix(stems_bk: Tensor) -> Tensor:
    """The mixture of stems (b, k, ...): their sum over k, never their mean."""
    return stems_bk.sum(1)


def project(stems_bk: Tensor, mixture_b: Tensor) -> Tensor:
    """The nearest stems (b, k, ...) that sum to the mixture (b, ...): each takes the same share of what is missing."""
    return stems_bk + ((mixture_b - mix(stems_bk)) / stems_bk.shape[1])[:, None]


class Precision(Protocol):
    """A symmetric positive matrix about x (b, k, d, n): how steep a log density can be."""

    def solve(self, v_bkdn: Tensor) -> Tensor:
        """P^-1 v."""

    def solve_root(self, v_bkdn: Tensor) -> Tensor:
        """P^-1/2 v: standard normal noise of covariance P^-1."""


class Likelihood(Protocol):
    """log p(m | x) of some domain, for chains at a noise level sigma."""

    def log_prob(self, x_bkdn: Tensor, sigma: float) -> Tensor:
        """In nats, up to a constant: (b, k, d, n) -> (b,)."""

    def precision(self, x_bkdn: Tensor, sigma: float, beta: float) -> Precision:
        """I / sigma^2 + beta times (a bound of) its Fisher information about x."""
