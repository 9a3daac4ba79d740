"""One instrument's prior: a noise-conditional normalizing flow p_sigma(x), the density of data + sigma * noise.

Shape suffixes: b batch, d channel (band), n frame.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from .bijectors import ActNorm, BandCoupling, FrameCoupling, InvertibleConv, Whitening
from .config import FlowConfig
from .networks import NoiseEmbedding

__all__ = ["EMBEDDING", "FlowPrior"]

Bijector = ActNorm | InvertibleConv | FrameCoupling | BandCoupling

EMBEDDING = 32  # size of the noise level's embedding


class FlowPrior(nn.Module):
    """Glow (Kingma & Dhariwal 2018) on x (b, d, n), conditional on the noise level (SoftFlow, Kim et al. 2020).

    Whitening, then steps of [ActNorm, invertible 1x1 convolution, affine coupling]; the couplings go between
    frames of either parity and between channels in turn.
    """

    def __init__(self, config: FlowConfig, rng: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.embedding = NoiseEmbedding(EMBEDDING)
        self.whitening = Whitening(config.channels)
        steps: list[Bijector] = []
        shared = (config.hidden, config.layers, config.kernel, EMBEDDING, config.log_scale_bound)
        for i in range(config.steps):
            steps += [ActNorm(config.channels), InvertibleConv(config.channels, rng)]
            if i % 2 == 0:
                steps.append(FrameCoupling(config.channels, *shared, parity=i // 2 % 2))
            else:
                steps.append(BandCoupling(config.channels, *shared))
        self.steps = nn.ModuleList(steps)

    def sigma_of(self, x_bdn: Tensor, sigma: Tensor | float) -> Tensor:
        """sigma as (b,), clamped to the range the prior was trained on."""
        sigma_b = torch.as_tensor(sigma, dtype=x_bdn.dtype, device=x_bdn.device).expand(len(x_bdn))
        return sigma_b.clamp(self.config.sigma_min, self.config.sigma_max)

    def forward(self, x_bdn: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """x -> z, and log |det dz/dx| (b,) in nats."""
        sigma_b = self.sigma_of(x_bdn, sigma)
        embedding = self.embedding(sigma_b)
        z, ladj = self.whitening(x_bdn, sigma_b)
        for step in self.steps:
            z, more = step(z, embedding)
            ladj = ladj + more
        return z, ladj

    def inverse(self, z_bdn: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """z -> x, and log |det dx/dz| (b,) in nats."""
        sigma_b = self.sigma_of(z_bdn, sigma)
        embedding = self.embedding(sigma_b)
        x, ladj = z_bdn, z_bdn.new_zeros(len(z_bdn))
        for step in reversed(self.steps):
            x, more = cast(Bijector, step).inverse(x, embedding)
            ladj = ladj + more
        x, more = self.whitening.inverse(x, sigma_b)
        return x, ladj + more

    def log_prob(self, x_bdn: Tensor, sigma: Tensor | float) -> Tensor:
        """log p_sigma(x) in nats: (b, d, n) -> (b,)."""
        z, ladj = self.forward(x_bdn, sigma)
        return ladj - 0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)

    @torch.no_grad()
    def sample(self, batch: int, frames: int, sigma: float, rng: torch.Generator) -> Tensor:
        """Draws x ~ p_sigma: (batch, d, frames)."""
        z = torch.randn(batch, self.config.channels, frames, generator=rng)
        return self.inverse(z.to(self.whitening.mean), sigma)[0]

    @torch.no_grad()
    def init_from(self, x_bdn: Tensor, sigma: Tensor | float) -> None:
        """Data-dependent initialisation of every ActNorm; the trainer calls it once, before the first step."""
        sigma_b = self.sigma_of(x_bdn, sigma)
        embedding = self.embedding(sigma_b)
        z, _ = self.whitening(x_bdn, sigma_b)
        for step in self.steps:
            if isinstance(step, ActNorm):
                step.init_from(z)
            z, _ = step(z, embedding)
