"""Conditioners: networks that compute the parameters of densities; no densities here.

Shape suffixes: b batch, d channel (band), h hidden unit, n frame.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

__all__ = ["EMBEDDING", "NoiseEmbedding", "WaveNet"]

EMBEDDING = 32  # size of the noise level's embedding


class NoiseEmbedding(nn.Module):
    """log sigma -> features: sines of several rates, then one dense layer. (b,) -> (b, size)."""

    RATES = range(-2, 4)  # powers of 2

    def __init__(self, size: int = EMBEDDING) -> None:
        super().__init__()
        self.dense = nn.Linear(2 * len(self.RATES), size)

    def forward(self, sigma_b: Tensor) -> Tensor:
        rates = 2.0 ** torch.arange(self.RATES.start, self.RATES.stop, device=sigma_b.device)
        angles = sigma_b.log()[:, None] * rates
        return torch.nn.functional.silu(self.dense(torch.cat([angles.sin(), angles.cos()], 1)))


class WaveNet(nn.Module):
    """A non-causal gated dilated convolution stack (van den Oord et al. 2016; FloWaveNet, Kim et al. 2019).

    (b, d_in, n), conditioning (b, e) -> (b, d_out, n). The last layer starts at zero, so that a coupling
    starts as the identity. `dtype` runs the convolutions in a reduced precision, for faster training: a coupling
    with rounded parameters is still an exact bijection with an exact log-determinant.
    """

    dtype: torch.dtype | None = None

    def __init__(self, d_in: int, d_out: int, hidden: int, layers: int, kernel: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(d_in, hidden, 1)
        self.dilated = nn.ModuleList(
            nn.Conv1d(hidden, 2 * hidden, kernel, dilation=2**i, padding="same") for i in range(layers)
        )
        self.condition = nn.Linear(embedding, 2 * hidden * layers)
        self.residual = nn.ModuleList(nn.Conv1d(hidden, hidden, 1) for _ in range(layers))
        self.last = nn.Conv1d(hidden, d_out, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x_bdn: Tensor, embedding_be: Tensor) -> Tensor:
        if self.dtype is None:
            return self.stack(x_bdn, embedding_be)
        with torch.autocast(x_bdn.device.type, self.dtype):
            return self.stack(x_bdn, embedding_be).to(x_bdn.dtype)

    def stack(self, x_bdn: Tensor, embedding_be: Tensor) -> Tensor:
        """Run the layers."""
        h = pointwise(self.first, x_bdn)
        biases = self.condition(embedding_be).unsqueeze(-1).chunk(len(self.dilated), 1)
        for dilated, residual, bias in zip(self.dilated, self.residual, biases, strict=True):
            filtered, gate = (dilated(h) + bias).chunk(2, 1)
            h = h + pointwise(cast(nn.Conv1d, residual), filtered.tanh() * gate.sigmoid())
        return pointwise(self.last, torch.nn.functional.silu(h))


def pointwise(layer: nn.Conv1d, h_bdn: Tensor) -> Tensor:
    """A convolution of kernel 1, as the product of matrices that it is: on a CPU its gradient is faster."""
    return layer.weight[..., 0] @ h_bdn + cast(Tensor, layer.bias)[:, None]
