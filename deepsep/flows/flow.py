"""One instrument's prior: a noise-conditional normalizing flow p_sigma(x), the density of data + sigma * noise.

Shape suffixes: b batch, d channel (band), n frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from ..config import FlowConfig, WaveformFlowConfig
from .bijectors import ActNorm, BandCoupling, Flip, FrameCoupling, InvertibleConv, Squeeze, Whitening
from .networks import NoiseEmbedding

__all__ = ["EMBEDDING", "DefensivePrior", "FlowPrior", "WaveformPrior"]

Bijector = ActNorm | InvertibleConv | FrameCoupling | BandCoupling | Flip

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

    @property
    def mean_spectrum(self) -> Tensor:
        """The mean of x, (d,): what a stationary Wiener filter needs."""
        return self.whitening.mean

    def forward(self, x_bdn: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """x -> z, and log |det dz/dx| (b,) in nats."""
        sigma_b = sigma_of(x_bdn, sigma, self.config)
        embedding = self.embedding(sigma_b)
        z, ladj = self.whitening(x_bdn, sigma_b)
        for step in self.steps:
            z, more = step(z, embedding)
            ladj = ladj + more
        return z, ladj

    def inverse(self, z_bdn: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """z -> x, and log |det dx/dz| (b,) in nats."""
        sigma_b = sigma_of(z_bdn, sigma, self.config)
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
        return ladj + standard_normal(z)

    @torch.no_grad()
    def sample(self, batch: int, frames: int, sigma: float, rng: torch.Generator) -> Tensor:
        """Draws x ~ p_sigma: (batch, d, frames)."""
        z = torch.randn(batch, self.config.channels, frames, generator=rng)
        return self.inverse(z.to(self.whitening.mean), sigma)[0]

    @torch.no_grad()
    def init_from(self, x_bdn: Tensor, sigma: Tensor | float) -> None:
        """Data-dependent initialisation of every ActNorm; the trainer calls it once, before the first step."""
        sigma_b = sigma_of(x_bdn, sigma, self.config)
        embedding = self.embedding(sigma_b)
        z, _ = self.whitening(x_bdn, sigma_b)
        for step in self.steps:
            if isinstance(step, ActNorm):
                step.init_from(z)
            z, _ = step(z, embedding)


class WaveformPrior(nn.Module):
    """FloWaveNet (Kim et al. 2019) on samples x (b, 1, t), conditional on the noise level.

    Blocks of [squeeze, flows], each flow [ActNorm, shuffle, affine coupling]. Between the first squeeze and the
    first flow stands the whitening of one frame. With `split`, a block's last coupling gives half the channels their
    mean and variance given the other half, and these leave (RealNVP, Dinh et al. 2017, section 3.6).
    `mean_spectrum` is no part of the density: the data's mean power as spectral x (d,), set by the trainer.
    """

    mean_spectrum: Tensor

    def __init__(self, config: WaveformFlowConfig, rng: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.embedding = NoiseEmbedding(EMBEDDING)
        self.whitening = Whitening(config.squeeze[0])
        self.register_buffer("mean_spectrum", torch.zeros(config.bands))
        shared = (config.hidden, config.layers, config.kernel, EMBEDDING, config.log_scale_bound)
        blocks = []
        for number, channels in enumerate(config.channels()):
            steps: list[Bijector] = []
            for i in range(config.flows):
                steps.append(ActNorm(channels))
                if config.shuffle == "conv":
                    steps.append(InvertibleConv(channels, rng))
                elif i:
                    steps.append(Flip())
                if config.mask == "channel" or (config.mask == "alternate" and i % 2 == 0):
                    steps.append(BandCoupling(channels, *shared))
                else:
                    parity = i // 2 % 2 if config.mask == "alternate" else i % 2
                    steps.append(FrameCoupling(channels, *shared, parity=parity))
            if config.split and number < len(config.squeeze) - 1:
                steps.append(BandCoupling(channels, *shared))
            blocks.append(nn.ModuleList(steps))
        self.squeezes = nn.ModuleList(Squeeze(factor) for factor in config.squeeze)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x_b1t: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """x (b, 1, t) -> z (b, t), and log |det dz/dx| (b,) in nats; t a multiple of `config.multiple`."""
        z, ladj, _ = self.run(x_b1t, sigma, lambda step, h, embedding: step(h, embedding))
        return z, ladj

    def run(
        self,
        x_b1t: Tensor,
        sigma: Tensor | float,
        take: Callable[[Bijector, Tensor, Tensor], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`forward`, each step taken by `take`; also the noise levels."""
        sigma_b = sigma_of(x_b1t, sigma, self.config)
        embedding = self.embedding(sigma_b)
        h, ladj = x_b1t, x_b1t.new_zeros(len(x_b1t))
        left: list[Tensor] = []
        for number, (squeeze, block) in enumerate(zip(self.squeezes, self.blocks, strict=True)):
            h, _ = squeeze(h)
            if number == 0:
                h, more = self.whitening(h, sigma_b)
                ladj = ladj + more
            for step in cast(nn.ModuleList, block):
                h, more = take(cast(Bijector, step), h, embedding)
                ladj = ladj + more
            if self.config.split and number < len(self.blocks) - 1:
                left.append(h[:, 1::2].flatten(1))
                h = h[:, 0::2]
        return torch.cat([*left, h.flatten(1)], 1), ladj, sigma_b

    def inverse(self, z_bt: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """z (b, t) -> x (b, 1, t), and log |det dx/dz| (b,) in nats."""
        sigma_b = sigma_of(z_bt, sigma, self.config)
        embedding = self.embedding(sigma_b)
        ladj = z_bt.new_zeros(len(z_bt))
        frames, widths, total = z_bt.shape[1], self.config.channels(), 1
        sizes = []
        for factor in self.config.squeeze:
            total *= factor
            sizes.append(frames // total)
        halves = len(self.blocks) - 1 if self.config.split else 0
        lengths = [widths[i] // 2 * sizes[i] for i in range(halves)]
        *left, rest = torch.split(z_bt, [*lengths, frames - sum(lengths)], 1)
        h = rest.reshape(len(rest), -1, sizes[-1])
        for number in reversed(range(len(self.blocks))):
            if number < halves:
                out = left[number].reshape(len(rest), -1, sizes[number])
                h = torch.stack([h, out], 2).flatten(1, 2)  # even channels stayed, odd ones left
            for step in reversed(cast(nn.ModuleList, self.blocks[number])):
                h, more = cast(Bijector, step).inverse(h, embedding)
                ladj = ladj + more
            if number == 0:
                h, more = self.whitening.inverse(h, sigma_b)
                ladj = ladj + more
            h, _ = cast(Squeeze, self.squeezes[number]).inverse(h)
        return h, ladj

    def log_prob(self, x_b1t: Tensor, sigma: Tensor | float) -> Tensor:
        """log p_sigma(x) in nats: (b, 1, t) -> (b,)."""
        z, ladj = self.forward(x_b1t, sigma)
        return ladj + standard_normal(z)

    @torch.no_grad()
    def sample(self, batch: int, samples: int, sigma: float, rng: torch.Generator) -> Tensor:
        """Draws x ~ p_sigma: (batch, 1, samples)."""
        z = torch.randn(batch, samples, generator=rng)
        return self.inverse(z.to(self.whitening.mean), sigma)[0]

    @torch.no_grad()
    def init_from(self, x_b1t: Tensor, sigma: Tensor | float) -> None:
        """Data-dependent initialisation of every ActNorm; the trainer calls it once, before the first step."""

        def take(step: Bijector, h: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
            if isinstance(step, ActNorm):
                step.init_from(h)
            out: tuple[Tensor, Tensor] = step(h, embedding)
            return out

        self.run(x_b1t, sigma, take)


class DefensivePrior:
    """(1 - e) p_flow + e p_Gaussian, e = 0.001: the flow where it knows, else the Gaussian it started from.

    A flow's density falls beyond all bounds off what it was trained on, and so does its score's direction; one chain
    that strays there never comes back. The Gaussian, of the flow's own whitening, leads it back (the defensive
    mixture of importance sampling, Hesterberg 1995). Where the flow fits at all it is ahead by hundreds of nats.
    """

    WEIGHT = 1e-3

    def __init__(self, flow: WaveformPrior) -> None:
        self.flow = flow

    def log_prob(self, x_b1t: Tensor, sigma: Tensor | float) -> Tensor:
        """log p_sigma(x) in nats: (b, 1, t) -> (b,)."""
        z, ladj = self.flow.whitening(
            self.flow.squeezes[0](x_b1t)[0], sigma_of(x_b1t, sigma, self.flow.config)
        )
        gaussian = math.log(self.WEIGHT) + ladj + standard_normal(z)
        own = x_b1t.clone()
        if own.requires_grad:
            own.register_hook(torch.nan_to_num)  # type: ignore[no-untyped-call]
        flow = math.log1p(-self.WEIGHT) + self.flow.log_prob(own, sigma)
        return torch.logaddexp(flow.nan_to_num(nan=-math.inf).clamp_min(-1e30), gaussian)


def sigma_of(x: Tensor, sigma: Tensor | float, config: FlowConfig | WaveformFlowConfig) -> Tensor:
    """sigma as (b,), clamped to the range the prior was trained on."""
    sigma_b = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
    return sigma_b.clamp(config.sigma_min, config.sigma_max)


def standard_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I) in nats: (b, ...) -> (b,)."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)
