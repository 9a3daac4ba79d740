"""The amortized posterior q(s_1..s_K | m) on samples: Gaussian around samples that sum to the mixture.

Shape suffixes: b batch, k stem, t sample.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import WaveformEncoderConfig
from ..flows.bijectors import Squeeze
from ..flows.networks import WaveNet
from ..inference.encoder import AmortizedPosterior
from ..inference.mixture import project

__all__ = ["WaveformEncoder", "WaveformPosterior"]


class WaveformPosterior(NamedTuple):
    """q's parameters on samples: mean, which sums to the mixture, and log standard deviation; both (b, k, 1, t)."""

    mean: Tensor
    log_std: Tensor


class WaveformEncoder(AmortizedPosterior):
    """q(s_1..s_K | m) on samples (thesis Algorithm 3): squeezed frames through cycles of a non-causal WaveNet."""

    def __init__(self, config: WaveformEncoderConfig, stems: int) -> None:
        super().__init__(config, stems)
        self.squeeze = Squeeze(config.squeeze)
        cycles = -(-config.layers // config.cycle)
        depths = [min(config.cycle, config.layers - i * config.cycle) for i in range(cycles)]
        widths = [config.squeeze, *[config.hidden] * (cycles - 1)]
        nets = [
            WaveNet(width, config.hidden, config.hidden, depth, config.kernel, 1)
            for width, depth in zip(widths, depths, strict=True)
        ]
        self.body = nn.ModuleList(nets)
        self.last = nn.Conv1d(config.hidden, 2 * stems * config.squeeze, 1)
        for net in nets:
            nn.init.kaiming_uniform_(net.last.weight, a=5**0.5)  # WaveNets start at zero: right for couplings
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, mix_b1t: Tensor) -> WaveformPosterior:
        """A mixture (b, 1, t), t a multiple of the squeeze."""
        level = mix_b1t.flatten(1).square().mean(1, keepdim=True).clamp_min(1e-8).sqrt()
        h, _ = self.squeeze(mix_b1t / level[..., None], level)
        for i, net in enumerate(self.body):
            h = net(h, level.log()) if i == 0 else h + net(h, level.log())
        out = self.last(torch.nn.functional.silu(h))
        planes, _ = self.squeeze.inverse(out, level)  # (b, 2 k, t)
        mean, log_std = self.ordered(planes.reshape(len(planes), 2, self.stems, -1))
        mean = project((mean * level[..., None])[:, :, None], mix_b1t)
        return WaveformPosterior(mean, (log_std - 1).clamp(-7, 1)[:, :, None])
