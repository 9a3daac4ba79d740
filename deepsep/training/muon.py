"""Muon (Jordan et al. 2024): the weights of hidden layers move by orthogonal matrices, all others by AdamW."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Muon", "hidden_weights", "orthogonalise"]

QUINTIC = (
    3.4445,
    -4.7750,
    2.0315,
)  # of the Newton-Schulz iteration: singular values go to between 0.7 and 1.2
ITERATIONS = 5
MATCHING = 0.2  # RMS of a step at learning rate 1, about that of AdamW (Liu et al. 2025)
SMALLEST = 5  # rows and columns; of thinner matrices there is little to make orthogonal


def hidden_weights(network: nn.Module) -> list[nn.Parameter]:
    """The weight matrices of a network but those of layers called `first` and `last`; kernels count as columns."""
    return [
        p
        for name, p in network.named_parameters()
        if p.ndim >= 2
        and min(p.flatten(1).shape) >= SMALLEST
        and not {"first", "last"} & set(name.split("."))
    ]


def orthogonalise(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix (r, c) near 1, by Newton-Schulz on the smaller of its Gram matrices."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalise(matrix.T).T
    a, b, c = QUINTIC
    x = matrix / matrix.norm().clamp_min(1e-12)
    gram = x @ x.T
    eye = torch.eye(len(gram)).to(gram)
    whole = eye
    for i in range(ITERATIONS):
        step = torch.addmm(a * eye + b * gram, gram, gram, alpha=c)
        whole = step @ whole
        if i < ITERATIONS - 1:
            gram = step @ gram @ step
            gram = (gram + gram.T) / 2  # rounding would grow otherwise
    found: Tensor = whole @ x
    return found


class Muon(torch.optim.AdamW):
    """AdamW, but the `hidden` weights of a network move against their orthogonalised momentum.

    One learning rate serves both: steps of hidden weights are scaled to the RMS of AdamW's. `decay` is the decoupled
    weight decay of the hidden weights.
    """

    def __init__(
        self,
        network: nn.Module,
        lr: float,
        *,
        momentum: float = 0.95,
        decay: float = 0.05,
        **adam: Any,
    ) -> None:
        super().__init__(network.parameters(), lr, **adam)
        self.hidden, self.momentum, self.decay = hidden_weights(network), momentum, decay

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure works out gradients here
        """Take a step by the gradients that there are."""
        gradients = [(p, p.grad) for p in self.hidden if p.grad is not None]
        for p, _ in gradients:
            p.grad = None  # out of AdamW's sight
        super().step()
        lr = self.param_groups[0]["lr"]
        for p, gradient in gradients:
            p.grad = gradient
            state = self.state[p]
            if not state:
                # AdamW wants a step in whatever state it loads
                state |= {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(p)}
            state["step"] += 1
            state["exp_avg"].lerp_(gradient, 1 - self.momentum)
            ahead = gradient.lerp(state["exp_avg"], self.momentum)  # as Nesterov's
            step = orthogonalise(ahead.flatten(1))
            p.mul_(1 - lr * self.decay)
            p.sub_(step.reshape(p.shape), alpha=lr * MATCHING * math.sqrt(max(step.shape)))
