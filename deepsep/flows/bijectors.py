"""Invertible maps x -> (y, ladj) and back, ladj = log |det dy/dx| in nats, one value a batch item.

Shape suffixes: b batch, d channel (band), n frame. Every map takes x (b, d, n) and the noise level's embedding
(b, e) or sigma (b,), and offers forward(x, c) -> (y, ladj_b) and inverse(y, c) -> (x, ladj_b).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .networks import WaveNet

__all__ = ["ActNorm", "BandCoupling", "Flip", "FrameCoupling", "InvertibleConv", "Squeeze", "Whitening"]


class Whitening(nn.Module):
    """z = U^T (x - mean) / sqrt(lambda + sigma^2): the data's own principal axes, right at every noise level.

    Noise of level sigma adds sigma^2 to each eigenvalue, so with nothing else trained the flow already is the
    Gaussian with the data's mean and covariance between channels. Set by `fit`, never by gradients.
    """

    mean: Tensor
    axes: Tensor
    variance: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("axes", torch.eye(channels))  # columns are eigenvectors
        self.register_buffer("variance", torch.ones(channels))

    @torch.no_grad()
    def fit(self, x_md: Tensor) -> None:
        """Takes mean and covariance from m frames of data, (m, d)."""
        x = x_md.double()
        mean = x.mean(0)
        variance, axes = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
        self.mean.copy_(mean)
        self.axes.copy_(axes)
        self.variance.copy_(variance.clamp_min(0))

    def forward(self, x_bdn: Tensor, sigma_b: Tensor) -> tuple[Tensor, Tensor]:
        std = (self.variance + sigma_b[:, None] ** 2).sqrt()
        z = self.axes.T @ (x_bdn - self.mean[:, None]) / std[..., None]
        return z, -x_bdn.shape[-1] * std.log().sum(1)

    def inverse(self, z_bdn: Tensor, sigma_b: Tensor) -> tuple[Tensor, Tensor]:
        std = (self.variance + sigma_b[:, None] ** 2).sqrt()
        x = self.axes @ (z_bdn * std[..., None]) + self.mean[:, None]
        return x, z_bdn.shape[-1] * std.log().sum(1)


class ActNorm(nn.Module):
    """y = (x - loc) exp(log_scale), per channel (Glow, Kingma & Dhariwal 2018, section 3.1).

    `init_from` sets it from data, once, and is called by the trainer alone: loading or running a model never
    initialises anything.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(channels, 1))
        self.log_scale = nn.Parameter(torch.zeros(channels, 1))

    @torch.no_grad()
    def init_from(self, x_bdn: Tensor) -> None:
        """Makes the outputs of this batch of mean 0 and variance 1, per channel."""
        self.loc.copy_(x_bdn.mean((0, 2))[:, None])
        self.log_scale.copy_(-x_bdn.std((0, 2)).clamp_min(1e-4).log()[:, None])

    def forward(self, x_bdn: Tensor, _: Tensor | None = None) -> tuple[Tensor, Tensor]:
        ladj = x_bdn.shape[-1] * self.log_scale.sum()
        return (x_bdn - self.loc) * self.log_scale.exp(), ladj.expand(len(x_bdn))

    def inverse(self, y_bdn: Tensor, _: Tensor | None = None) -> tuple[Tensor, Tensor]:
        ladj = -y_bdn.shape[-1] * self.log_scale.sum()
        return y_bdn * (-self.log_scale).exp() + self.loc, ladj.expand(len(y_bdn))


class Squeeze(nn.Module):
    """Time into channels (RealNVP, Dinh et al. 2017, section 3.6): (b, d, n) -> (b, d factor, n / factor).

    A channel's `factor` samples of a frame become neighbouring channels, so that even and odd channels are even and
    odd samples.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x_bdn: Tensor, _: Tensor | None = None) -> tuple[Tensor, Tensor]:
        b, d, n = x_bdn.shape
        frames = x_bdn.reshape(b, d, n // self.factor, self.factor)
        return frames.transpose(2, 3).flatten(1, 2), x_bdn.new_zeros(len(x_bdn))

    def inverse(self, y_bdn: Tensor, _: Tensor | None = None) -> tuple[Tensor, Tensor]:
        b, d, n = y_bdn.shape
        frames = y_bdn.reshape(b, d // self.factor, self.factor, n)
        return frames.transpose(2, 3).flatten(2, 3), y_bdn.new_zeros(len(y_bdn))


class Flip(nn.Module):
    """Channels in reverse order: a coupling's even and odd channels change places (FloWaveNet's change of order)."""

    def forward(self, x_bdn: Tensor, _: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x_bdn.flip(1), x_bdn.new_zeros(len(x_bdn))

    def inverse(self, y_bdn: Tensor, _: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.forward(y_bdn)


class InvertibleConv(nn.Module):
    """Invertible 1x1 convolution y = P L (U + diag(s)) x (Glow section 3.2); starts as a random rotation."""

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int, rng: torch.Generator | None = None) -> None:
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels, generator=rng, dtype=torch.float64))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation.argmax(1))  # y = L U' x, then y[permutation]
        self.register_buffer("sign", diagonal.sign().float())
        self.triangles = nn.Parameter((lower.tril(-1) + upper.triu(1)).float())  # L below, U above
        self.log_diagonal = nn.Parameter(diagonal.abs().log().float())

    def factors(self) -> tuple[Tensor, Tensor]:
        """The unit lower and the upper triangular factor, both (d, d)."""
        lower = self.triangles.tril(-1) + torch.eye(len(self.triangles)).to(self.triangles)
        return lower, self.triangles.triu(1) + torch.diag(self.sign * self.log_diagonal.exp())

    def forward(self, x_bdn: Tensor, _: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lower, upper = self.factors()
        ladj = x_bdn.shape[-1] * self.log_diagonal.sum()
        return (lower @ upper)[self.permutation] @ x_bdn, ladj.expand(len(x_bdn))

    def inverse(self, y_bdn: Tensor, _: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lower, upper = self.factors()
        unpermuted = torch.empty_like(y_bdn)
        unpermuted[:, self.permutation] = y_bdn
        x = torch.linalg.solve_triangular(lower, unpermuted, upper=False, unitriangular=True)
        x = torch.linalg.solve_triangular(upper, x, upper=True)
        return x, -(y_bdn.shape[-1] * self.log_diagonal.sum()).expand(len(y_bdn))


def affine(raw: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """A network's output (b, 2 d, n) as log scale, smoothly kept within +-bound, and shift."""
    log_s, t = raw.chunk(2, 1)
    return bound * torch.tanh(log_s / bound), t


class BandCoupling(nn.Module):
    """Affine coupling between channels (RealNVP, Dinh et al. 2017): the even ones set s and t of the odd ones."""

    def __init__(
        self, channels: int, hidden: int, layers: int, kernel: int, embedding: int, bound: float
    ) -> None:
        super().__init__()
        self.bound = bound
        odd = channels // 2
        self.network = WaveNet(channels - odd, 2 * odd, hidden, layers, kernel, embedding)

    def forward(self, x_bdn: Tensor, embedding_be: Tensor) -> tuple[Tensor, Tensor]:
        log_s, t = affine(self.network(x_bdn[:, 0::2], embedding_be), self.bound)
        y = x_bdn.clone()
        y[:, 1::2] = x_bdn[:, 1::2] * log_s.exp() + t
        return y, log_s.flatten(1).sum(1)

    def inverse(self, y_bdn: Tensor, embedding_be: Tensor) -> tuple[Tensor, Tensor]:
        log_s, t = affine(self.network(y_bdn[:, 0::2], embedding_be), self.bound)
        x = y_bdn.clone()
        x[:, 1::2] = (y_bdn[:, 1::2] - t) * (-log_s).exp()
        return x, -log_s.flatten(1).sum(1)


class FrameCoupling(nn.Module):
    """Affine coupling between frames (FloWaveNet, Kim et al. 2019): those of one parity set s and t of the others.

    A band coupling cannot tell a channel from its own past; neighbouring frames of an overlapping STFT are
    nearly alike, and this is the map that sees it. Works for any number of frames.
    """

    def __init__(
        self, channels: int, hidden: int, layers: int, kernel: int, embedding: int, bound: float, parity: int
    ) -> None:
        super().__init__()
        self.bound, self.parity = bound, parity
        self.network = WaveNet(channels, 2 * channels, hidden, layers, kernel, embedding)

    def parameters_of(self, x_bdn: Tensor, embedding_be: Tensor) -> tuple[Tensor, Tensor]:
        """log s and t of the frames that are transformed."""
        given, changed = x_bdn[..., self.parity :: 2], x_bdn[..., 1 - self.parity :: 2]
        # a changed frame's parameters come from the given frame beside it; pad when one more is changed
        given = torch.nn.functional.pad(given, (0, max(0, changed.shape[-1] - given.shape[-1])))
        raw = self.network(given, embedding_be)[..., : changed.shape[-1]]
        return affine(raw, self.bound)

    def forward(self, x_bdn: Tensor, embedding_be: Tensor) -> tuple[Tensor, Tensor]:
        log_s, t = self.parameters_of(x_bdn, embedding_be)
        y = x_bdn.clone()
        y[..., 1 - self.parity :: 2] = x_bdn[..., 1 - self.parity :: 2] * log_s.exp() + t
        return y, log_s.flatten(1).sum(1)

    def inverse(self, y_bdn: Tensor, embedding_be: Tensor) -> tuple[Tensor, Tensor]:
        log_s, t = self.parameters_of(y_bdn, embedding_be)
        x = y_bdn.clone()
        x[..., 1 - self.parity :: 2] = (y_bdn[..., 1 - self.parity :: 2] - t) * (-log_s).exp()
        return x, -log_s.flatten(1).sum(1)
