"""log p(x_1..x_K | m) = sum_k log p_k(x_k) + beta log p(m | x_1..x_K) + const: all that a sampler needs to know.

Shape suffixes: b batch, k stem, d band, n frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .mixture import Likelihood

__all__ = ["Posterior", "Prior"]


class Prior(Protocol):
    """A noise-conditional density."""

    def log_prob(self, x_bdn: Tensor, sigma: Tensor | float) -> Tensor:
        """log p_sigma(x) in nats, (b,)."""


@dataclass(frozen=True, slots=True)
class Posterior:
    """The posterior of a mixture's sources at a noise level (thesis Eq. 4, 7), in any domain."""

    priors: Sequence[Prior]
    likelihood: Likelihood
    beta: float = 1.0

    def log_prob(self, x_bkdn: Tensor, sigma: float) -> Tensor:
        """In nats, up to a constant: (b, k, d, n) -> (b,)."""
        log_p = self.beta * self.likelihood.log_prob(x_bkdn)
        for k, prior in enumerate(self.priors):
            log_p = log_p + prior.log_prob(x_bkdn[:, k], sigma)
        return log_p

    def score(self, x_bkdn: Tensor, sigma: float) -> Tensor:
        """grad log p with respect to x, same shape; one prior's graph at a time, to bound memory."""
        grad = self.beta * gradient(self.likelihood.log_prob, x_bkdn)
        for k, prior in enumerate(self.priors):
            grad[:, k] += gradient(lambda x, p=prior: p.log_prob(x, sigma), x_bkdn[:, k])  # type: ignore[misc]
        return grad

    def precision(self, x_bkdn: Tensor, sigma: float) -> Tensor:
        """How steep the posterior can be, per coordinate: 1 / sigma^2 for the priors plus the likelihood's part."""
        return self.beta * self.likelihood.precision(x_bkdn) + sigma**-2


def gradient(log_prob: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """grad of a log density (b, ...) -> (b,), at x."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(log_prob(x).sum(), x)
    return grad
