"""The amortized posterior q(x_1..x_K | m): one network pass from a mixture's bands to those of all its sources.

Shape suffixes: b batch, k stem, c feature plane, d band, n frame.

q is Gaussian around ln P + log softmax_k(net(m)): the means' Wiener gains are the softmax itself, so the mean of q
always explains the whole mixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ..config import SpectralEncoderConfig
from ..inference.encoder import AmortizedPosterior
from .likelihood import wiener_gains
from .spectrum import Spectrum

__all__ = ["BandPosterior", "UNet", "gain_spread", "inner", "mixture_features"]


class BandPosterior(NamedTuple):
    """q's parameters: log Wiener gains and log standard deviation of x, both (b, k, d, n)."""

    log_gain: Tensor
    log_std: Tensor

    def mean(self, power_bdn: Tensor, spectrum: Spectrum) -> Tensor:
        """The mean of x (b, k, d, n) for a mixture of band power (b, d, n)."""
        return spectrum.to_x(power_bdn[:, None] * self.log_gain.exp())

    def draw(self, mean_bkdn: Tensor, noise_bkdn: Tensor, spectrum: Spectrum) -> Tensor:
        """The Wiener gains (b, k, d, n) of a draw of x from standard normal noise."""
        return wiener_gains(mean_bkdn + self.log_std.exp() * noise_bkdn, spectrum)


def gain_spread(
    q: BandPosterior, power_bdn: Tensor, spectrum: Spectrum, noise_bkdn: Sequence[Tensor]
) -> Tensor:
    """The standard deviation of the Wiener gains of draws from q, one for each noise: (b, k, d, n)."""
    mean = q.mean(power_bdn, spectrum)
    return torch.stack([q.draw(mean, noise, spectrum) for noise in noise_bkdn]).std(0, correction=0)


def mixture_features(mix_bcdn: Tensor, spectrum: Spectrum) -> Tensor:
    """Band powers of left, right, mid, side (b, 4, d, n) -> planes (b, 4, d, n): x, mid/side, left/right, height.

    A mixture that is not stereo has left = right and no side.
    """
    left, right, mid, side = mix_bcdn.unbind(1)
    quiet = 1e-6
    height = torch.linspace(-1, 1, mix_bcdn.shape[2], device=mix_bcdn.device)[:, None].expand_as(left)
    return torch.stack(
        [
            spectrum.to_x((left + right) / 2),
            (mid - side) / (mid + side + quiet),
            (left - right) / (left + right + quiet),
            height,
        ],
        1,
    )


class Dense(nn.Module):
    """Two dense layers along the bands, the same for every channel and frame (TFC-TDF, Choi et al. 2020)."""

    def __init__(self, bands: int, bottleneck: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(bands, bottleneck), nn.Linear(bottleneck, bands)

    def forward(self, h_bcdn: Tensor) -> Tensor:
        h = h_bcdn.permute(0, 2, 3, 1).flatten(2)  # (b, d, n c): channels lie innermost in memory, no copy
        z = torch.nn.functional.silu(along_bands(self.down, h))
        out: Tensor = h + along_bands(self.up, z)
        return out.reshape(*out.shape[:2], -1, h_bcdn.shape[1]).permute(0, 3, 1, 2)


def along_bands(layer: nn.Linear, h_bdn: Tensor) -> Tensor:
    """`layer` along the bands of (b, d, n), as one product of matrices that copies nothing."""
    return torch.baddbmm(layer.bias[:, None], layer.weight.expand(len(h_bdn), -1, -1), h_bdn)


class Block(nn.Module):
    """Two 3 x 3 convolutions over bands and frames, then the dense layers."""

    def __init__(self, c_in: int, c_out: int, bands: int, bottleneck: int, dilation: int = 1) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.SiLU(),
            nn.Conv2d(c_out, c_out, 3, padding=(1, dilation), dilation=(1, dilation), bias=False),
            nn.BatchNorm2d(c_out),
            nn.SiLU(),
        )
        self.dense = Dense(bands, bottleneck)
        self.dilation = dilation

    def forward(self, h_bcdn: Tensor) -> Tensor:
        h: Tensor = self.dense(self.convolutions(h_bcdn) if self.training else self.folded(h_bcdn))
        return h

    def folded(self, h_bcdn: Tensor) -> Tensor:
        """Run the convolutions with the norms' fixed gains and offsets as part of their weights."""
        for at in (0, 3):
            convolution, norm = (
                cast(nn.Conv2d, self.convolutions[at]),
                cast(nn.BatchNorm2d, self.convolutions[at + 1]),
            )
            gain = norm.weight * (cast(Tensor, norm.running_var) + norm.eps).rsqrt()
            h_bcdn = torch.nn.functional.conv2d(
                h_bcdn,
                convolution.weight * gain[:, None, None, None],
                norm.bias - gain * cast(Tensor, norm.running_mean),
                padding=convolution.padding,
                dilation=convolution.dilation,
            )
            h_bcdn = torch.nn.functional.silu(h_bcdn, inplace=not torch.is_grad_enabled())
        return h_bcdn

    @torch.no_grad()
    def zero_output(self) -> Block:
        """Make the output zero, so that a residual block starts as the identity; return the block."""
        last = self.convolutions[-2]
        assert isinstance(last, nn.BatchNorm2d)
        for parameter in (last.weight, *self.dense.up.parameters()):
            parameter.zero_()
        return self


class UNet(AmortizedPosterior):
    """U-Net (Jansson et al. 2017) with dense layers along the bands; it sees `config.context` frames to either side."""

    def __init__(self, config: SpectralEncoderConfig, stems: int) -> None:
        super().__init__(config, stems)
        widths, levels = config.widths, len(config.widths)
        self.padded = -(-config.bands // 2**levels) * 2**levels
        bands = [self.padded // 2 ** (i + 1) for i in range(levels)]
        self.first = nn.Conv2d(4, widths[0], 4, stride=2, padding=1)
        self.down = nn.ModuleList(
            Block(widths[max(0, i - 1)], widths[i], bands[i], config.bottleneck, 2 if i == levels - 1 else 1)
            for i in range(levels)
        )
        self.deep = nn.ModuleList(
            Block(widths[-1], widths[-1], bands[-1], config.bottleneck, 1 + i % 2).zero_output()
            for i in range(config.deep)
        )
        self.pool = nn.ModuleList(nn.Conv2d(w, w, 2, stride=2, groups=w) for w in widths[:-1])
        self.unpool = nn.ModuleList(
            nn.ConvTranspose2d(widths[i + 1], widths[i], 2, stride=2) for i in range(levels - 1)
        )
        self.up = nn.ModuleList(
            Block(2 * widths[i], widths[i], bands[i], config.bottleneck) for i in range(levels - 1)
        )
        self.last = nn.ConvTranspose2d(widths[0], 2 * stems, 4, stride=2, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, features_bcdn: Tensor, unwanted: int = 0) -> BandPosterior:
        """Features as of `mixture_features`; the frames must be a multiple of 2 ** levels.

        The first and last `unwanted` frames are context only: no q is worked out there, and what stands there means
        nothing.
        """
        d = features_bcdn.shape[2]
        h = torch.nn.functional.pad(features_bcdn, (0, 0, 0, self.padded - d))
        h = self.first(h.contiguous(memory_format=torch.channels_last))
        skips = []
        for i, block in enumerate(self.down):
            h = block(h)
            if i < len(self.pool):
                skips.append(h)
                h = self.pool[i](h)
        deep_cuts, cuts = self.cuts(unwanted)
        cut = 0
        for block, following in zip(self.deep, deep_cuts, strict=True):
            h, cut = inner(h, following - cut), following
            h = h + block(h)
        h, cut = inner(h, cuts[-1] // 2 - cut), cuts[-1] // 2
        for i in reversed(range(len(self.up))):
            h = inner(self.unpool[i](h), cuts[i] - 2 * cut)
            h = self.up[i](torch.cat([h, inner(skips.pop(), cuts[i])], 1))
            cut = cuts[i]
        out = torch.nn.functional.pad(self.last(h)[:, :, :d], (2 * cut, 2 * cut)).to(features_bcdn.dtype)
        logits, log_std = self.ordered(out.reshape(len(out), 2, self.stems, *out.shape[2:]))
        return BandPosterior(torch.log_softmax(logits, 1), (log_std - 1).clamp(-4, 1))

    def cuts(self, unwanted: int) -> tuple[list[int], list[int]]:
        """How many frames at either end the deep blocks, and the levels on the way up, finest first, can do without.

        The last layer sees a frame beyond those that it is asked for, a block 1 and its dilation.
        """
        levels, needless = [], unwanted // 2 - 3
        for _ in range(max(1, len(self.up))):
            levels.append(max(0, needless))
            needless = needless // 2 - 2
        deep, needless = [], levels[-1] // 2
        for block in reversed(self.deep):
            needless -= 1 + cast(Block, block).dilation
            deep.append(max(0, needless))
        return deep[::-1], levels


def inner(h_bcdn: Tensor, cut: int) -> Tensor:
    """Without the first and the last `cut` frames."""
    return h_bcdn[..., cut : h_bcdn.shape[-1] - cut]
