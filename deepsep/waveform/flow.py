"""The waveform prior: FloWaveNet on x (b, 1, t), and the same with a Gaussian to fall back on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..config import WaveformFlowConfig
from ..flows.bijectors import (
    ActNorm,
    BandCoupling,
    Bijector,
    Compose,
    Flip,
    FrameCoupling,
    InvertibleConv,
    Split,
    Squeeze,
)
from ..flows.flow import Flow
from ..flows.networks import EMBEDDING, NoiseEmbedding

__all__ = ["DefensivePrior", "build_flow"]


def build_flow(config: WaveformFlowConfig, rng: torch.Generator | None = None) -> Flow:
    """Build a flow with fresh weights (FloWaveNet, Kim et al. 2019).

    Blocks of [squeeze, flows], each flow [ActNorm, shuffle, affine coupling]; the whitening stands between the first
    squeeze and the first flow. With `split`, a block's last coupling gives half of the channels their mean and
    variance given the other half, and these are done (RealNVP, Dinh et al. 2017, section 3.6).
    """
    embedding = NoiseEmbedding()
    steps, channels_out = blocks_from(0, config, rng)
    return Flow(
        config, embedding, steps, squeeze=config.squeeze[0], channels_out=channels_out, bands=config.bands
    )


def blocks_from(number: int, config: WaveformFlowConfig, rng: torch.Generator | None) -> tuple[Compose, int]:
    """The blocks from one number on, and how many channels they end with."""
    channels = config.channels()[number]
    shared = (config.hidden, config.layers, config.kernel, EMBEDDING, config.log_scale_bound)
    steps: list[Bijector] = [Squeeze(config.squeeze[number])] if number else []
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
    if number == len(config.squeeze) - 1:
        return Compose(steps), channels
    if config.split:
        steps.append(BandCoupling(channels, *shared))
    rest, channels_out = blocks_from(number + 1, config, rng)
    if config.split:
        return Compose([*steps, Split(channels, rest, channels_out)]), 1
    return Compose([*steps, *rest]), channels_out


class DefensivePrior:
    """(1 - e) p_flow + e p_Gaussian, e = 0.001: the flow where it knows, else the Gaussian it started from.

    Far from what it was trained on a flow's density falls without bound and its score points anywhere: a chain that
    strays there never comes back. The Gaussian of the flow's own whitening leads it back (the defensive mixture of
    importance sampling, Hesterberg 1995). Where the flow fits at all it is ahead by hundreds of nats.
    """

    WEIGHT = 1e-3

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    def log_prob(self, x_b1t: Tensor, sigma: Tensor | float) -> Tensor:
        """log p_sigma(x) in nats: (b, 1, t) -> (b,)."""
        gaussian = math.log(self.WEIGHT) + self.flow.gaussian_log_prob(x_b1t, sigma)
        own = x_b1t.clone()
        if own.requires_grad:
            own.register_hook(torch.nan_to_num)  # type: ignore[no-untyped-call]
        flow = math.log1p(-self.WEIGHT) + self.flow.log_prob(own, sigma)
        return torch.logaddexp(flow.nan_to_num(nan=-math.inf).clamp_min(-1e30), gaussian)
