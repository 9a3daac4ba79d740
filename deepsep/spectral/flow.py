"""The prior of bands: Glow on x (b, d, n), log band powers over frames."""

from __future__ import annotations

import torch

from ..config import SpectralFlowConfig
from ..flows.bijectors import ActNorm, BandCoupling, Bijector, Compose, FrameCoupling, InvertibleConv
from ..flows.flow import Flow
from ..flows.networks import EMBEDDING, NoiseEmbedding

__all__ = ["build_flow"]


def build_flow(config: SpectralFlowConfig, rng: torch.Generator | None = None) -> Flow:
    """Build a flow with fresh weights (Glow, Kingma & Dhariwal 2018).

    Whitening, then steps of [ActNorm, invertible 1x1 convolution, affine coupling]; couplings between frames, of
    either parity, and couplings between channels take turns.
    """
    embedding = NoiseEmbedding()
    steps: list[Bijector] = []
    shared = (config.hidden, config.layers, config.kernel, EMBEDDING, config.log_scale_bound)
    for i in range(config.steps):
        steps += [ActNorm(config.channels), InvertibleConv(config.channels, rng)]
        if i % 2 == 0:
            steps.append(FrameCoupling(config.channels, *shared, parity=i // 2 % 2))
        else:
            steps.append(BandCoupling(config.channels, *shared))
    return Flow(config, embedding, Compose(steps), channels=config.channels, channels_out=config.channels)
