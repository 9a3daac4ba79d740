"""log p(m | s) of a mixture's samples given its sources': the thesis' Gaussian constraint on their sum.

Shape suffixes: b batch, k stem, d channel, n sample.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..inference.mixture import mix

__all__ = ["SumLikelihood", "SumPrecision"]


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
