"""log p(x_1..x_K | m) = sum_k log p_k(x_k) + beta log p(m | x_1..x_K) + const: all that a sampler needs to know.

Shape suffixes: b batch, k stem, d band, n frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .mixture import Likelihood, Precision

__all__ = ["Drift", "Posterior", "Prior"]


class Prior(Protocol):
    """A noise-conditional density."""

    def log_prob(self, x_bdn: Tensor, sigma: Tensor | float) -> Tensor:
        """log p_sigma(x) in nats, (b,)."""


class Drift(NamedTuple):
    """What a Langevin step needs at one point x (b, k, d, n).

    score: grad log p(x | m). precision: how steep that can be. denoised: E[x_clean | x] under the
    priors, where the posterior has them.
    """

    score: Tensor
    precision: Precision
    denoised: Tensor


@dataclass(frozen=True, slots=True)
class Posterior:
    """The posterior of a mixture's sources at a noise level (thesis Eq. 4, 7), in any domain.

    At noise level sigma the chain's x is a noisy one, and the mixture speaks of clean sources. With `denoise` (the
    default) the likelihood is taken at Tweedie's estimate x + sigma^2 grad log p_sigma(x), the prior's mean of the
    clean sources given x; without it at x itself, which is BASIS' posterior and exact as sigma goes to 0.
    """

    priors: Sequence[Prior]
    likelihood: Likelihood
    beta: float = 1.0
    denoise: bool = True

    def drift(self, x_bkdn: Tensor, sigma: float) -> Drift:
        """Score and precision at x; one prior's graph at a time, to bound memory."""
        score = torch.empty_like(x_bkdn)
        for k, prior in enumerate(self.priors):
            score[:, k] = gradient(lambda x, p=prior: p.log_prob(x, sigma), x_bkdn[:, k])  # type: ignore[misc]
        denoised = x_bkdn + sigma**2 * score
        at = denoised if self.denoise else x_bkdn
        score += self.beta * gradient(lambda x: self.likelihood.log_prob(x, sigma), at)
        return Drift(score, self.likelihood.precision(at, sigma, self.beta), denoised)


def gradient(log_prob: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """grad of a log density (b, ...) -> (b,), at x."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(log_prob(x).sum(), x)
    return grad
