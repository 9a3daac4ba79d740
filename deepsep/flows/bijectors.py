"""Invertible maps x -> (y, ladj) and back, ladj = log |det dy/dx| in nats, one value a batch item.

Shape suffixes: b batch, d channel (band), n frame, e the embedding of the noise level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from .networks import WaveNet

__all__ = [
    "ActNorm",
    "BandCoupling",
    "Bijector",
    "Compose",
    "Flip",
    "FrameCoupling",
    "InvertibleConv",
    "Split",
    "Squeeze",
    "Whitening",
]


class Bijector(nn.Module):
    """An invertible map of x (b, d, n), conditional on the noise level's embedding (b, e)."""

    def forward(self, x_bdn: Tensor, embedding_be: Tensor) -> tuple[Tensor, Tensor]:
        """x -> y, and log |det dy/dx| (b,)."""
        raise NotImplementedError

    def inverse(self, y_bdn: Tensor, embedding_be: Tensor) -> tuple[Tensor, Tensor]:
        """y -> x, and log |det dx/dy| (b,)."""
        raise NotImplementedError

    def init_from(self, x_bdn: Tensor, embedding_be: Tensor) -> None:
        """Set what is initialised from a batch of data. The trainer calls it once, before the first step."""


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
        self.register_buffer(
            "axes", torch.zeros(channels, channels).fill_diagonal_(1)
        )  # columns are eigenvectors
        self.register_buffer("variance", torch.ones(channels))

    @torch.no_grad()
    def fit(self, x_md: Tensor) -> None:
        """Set mean and covariance from m frames of data, (m, d)."""
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


class ActNorm(Bijector):
    """y = (x - loc) exp(log_scale), per channel (Glow, Kingma & Dhariwal 2018, section 3.1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(channels, 1))
        self.log_scale = nn.Parameter(torch.zeros(channels, 1))

    @torch.no_grad()
    def init_from(self, x_bdn: Tensor, embedding_be: Tensor) -> None:
        """Give the outputs of this batch mean 0 and variance 1, per channel."""
        self.loc.copy_(x_bdn.mean((0, 2))[:, None])
        self.log_scale.copy_(-x_bdn.std((0, 2)).clamp_min(1e-4).log()[:, None])

    def forward(self, x_bdn: Tensor, embedding_be: Tensor) -> tuple[Tensor, Tensor]:
        ladj = x_bdn.shape[-1] * self.log_scale.sum()
        return (x_bdn - self.loc) * self.log_scale.exp(), ladj.expand(len(x_bdn))

    def inverse(self, y_bdn: Tensor, embedding_be: Tensor) -> tuple[Tensor, Tensor]:
        ladj = -y_bdn.shape[-1] * self.log_scale.sum()
        return y_bdn * (-self.log_scale).exp() + self.loc, ladj.expand(len(y_bdn))


class Squeeze(Bijector):
    """Time into channels (RealNVP, Dinh et al. 2017, section 3.6): (b, d, n) -> (b, d factor, n / factor).

    The `factor` samples of a channel that make one frame become neighbouring channels, so even channels hold even
    samples and odd channels odd ones.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x_bdn: Tensor, embedding_be: Tensor) -> tuple[Tensor, Tensor]:
        b, d, n = x_bdn.shape
        frames = x_bdn.reshape(b, d, n // self.factor, self.factor)
        return frames.transpose(2, 3).flatten(1, 2), x_bdn.new_zeros(len(x_bdn))

    def inverse(self, y_bdn: Tensor, embedding_be: Tensor) -> tuple[Tensor, Tensor]:
        b, d, n = y_bdn.shape
        frames = y_bdn.reshape(b, d // self.factor, self.factor, n)
        return frames.transpose(2, 3).flatten(2, 3), y_bdn.new_zeros(len(y_bdn))


class Flip(Bijector):
    """Channels in reverse order, so that a coupling's even and odd channels swap roles (FloWaveNet)."""

    def forward(self, x_bdn: Tensor, embedding_be: Tensor) -> tuple[Tensor, Tensor]:
        return x_bdn.flip(1), x_bdn.new_zeros(len(x_bdn))

    def inverse(self, y_bdn: Tensor, embedding_be: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(y_bdn, embedding_be)


class InvertibleConv(Bijector):
    """Invertible 1x1 convolution y = P L (U + diag(s)) x (Glow section 3.2); starts as a random rotation."""

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int, rng: torch.Generator | None = None) -> None:
        super().__init__()
        self.kept: tuple[Any, Tensor] | None = None  # of fixed weights: which, and their matrix
        # y = L U' x, then y[permutation]
        self.register_buffer("permutation", torch.empty(channels, dtype=torch.int64))
        self.register_buffer("sign", torch.empty(channels))
        self.triangles = nn.Parameter(torch.empty(channels, channels))  # L below, U above
        self.log_diagonal = nn.Parameter(torch.empty(channels))
        if not self.sign.is_meta:  # one without memory is to be filled from a file
            self.rotate(rng)

    @torch.no_grad()
    def rotate(self, rng: torch.Generator | None) -> None:
        """Become a random rotation."""
        d = len(self.sign)
        rotation = torch.linalg.qr(torch.randn(d, d, generator=rng, dtype=torch.float64))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.permutation.copy_(permutation.argmax(1))
        self.sign.copy_(diagonal.sign())
        self.triangles.copy_(lower.tril(-1) + upper.triu(1))
        self.log_diagonal.copy_(diagonal.abs().log())

    def factors(self) -> tuple[Tensor, Tensor]:
        """The unit lower and the upper triangular factor, both (d, d)."""
        lower = self.triangles.tril(-1) + torch.eye(len(self.triangles)).to(self.triangles)
        return lower, self.triangles.triu(1) + torch.diag(self.sign * self.log_diagonal.exp())

    def matrix(self) -> Tensor:
        """P L U', (d, d): made once for weights that are fixed, since a chain asks for it at every step."""
        weights = (self.triangles, self.log_diagonal)
        fixed = not any(weight.requires_grad for weight in weights)
        which = [(id(weight), weight.device, weight.dtype, weight._version) for weight in weights]
        if fixed and self.kept is not None and self.kept[0] == which:
            return self.kept[1]
        lower, upper = self.factors()
        matrix = (lower @ upper)[self.permutation]
        self.kept = (which, matrix) if fixed else None
        return matrix

    def forward(self, x_bdn: Tensor, embedding_be: Tensor) -> tuple[Tensor, Tensor]:
        ladj = x_bdn.shape[-1] * self.log_diagonal.sum()
        return self.matrix() @ x_bdn, ladj.expand(len(x_bdn))

    def inverse(self, y_bdn: Tensor, embedding_be: Tensor) -> tuple[Tensor, Tensor]:
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


class BandCoupling(Bijector):
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


class FrameCoupling(Bijector):
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


class Compose(nn.ModuleList):
    """Bijectors one after the other, itself one of them."""

    def __init__(self, steps: Sequence[Bijector]) -> None:
        super().__init__(steps)

    def forward(self, x_bdn: Tensor, embedding_be: Tensor) -> tuple[Tensor, Tensor]:
        ladj = x_bdn.new_zeros(len(x_bdn))
        for step in self:
            x_bdn, more = step(x_bdn, embedding_be)
            ladj = ladj + more
        return x_bdn, ladj

    def inverse(self, y_bdn: Tensor, embedding_be: Tensor) -> tuple[Tensor, Tensor]:
        ladj = y_bdn.new_zeros(len(y_bdn))
        for step in reversed(self):
            y_bdn, more = cast(Bijector, step).inverse(y_bdn, embedding_be)
            ladj = ladj + more
        return y_bdn, ladj

    @torch.no_grad()
    def init_from(self, x_bdn: Tensor, embedding_be: Tensor) -> None:
        """See `Bijector`: each step is set from what the steps before it make of the data."""
        for step in self:
            cast(Bijector, step).init_from(x_bdn, embedding_be)
            x_bdn, _ = step(x_bdn, embedding_be)


class Split(Bijector):
    """Half the channels go on through `rest`, the others are done (RealNVP, Dinh et al. 2017, section 3.6).

    (b, d, n) -> (b, 1, d n): first the odd channels as they are, then what `rest`, whose output has
    `channels_out` channels, makes of the even ones.
    """

    def __init__(self, channels: int, rest: Compose, channels_out: int) -> None:
        super().__init__()
        self.channels, self.rest, self.channels_out = channels, rest, channels_out

    def forward(self, x_bdn: Tensor, embedding_be: Tensor) -> tuple[Tensor, Tensor]:
        z, ladj = self.rest(x_bdn[:, 0::2], embedding_be)
        return torch.cat([x_bdn[:, 1::2].flatten(1), z.flatten(1)], 1)[:, None], ladj

    def inverse(self, y_bdn: Tensor, embedding_be: Tensor) -> tuple[Tensor, Tensor]:
        b, half = len(y_bdn), self.channels // 2
        n = y_bdn.shape[-1] // self.channels
        done, z = torch.split(y_bdn[:, 0], [half * n, y_bdn.shape[-1] - half * n], 1)
        kept, ladj = self.rest.inverse(z.reshape(b, self.channels_out, -1), embedding_be)
        x = y_bdn.new_empty(b, self.channels, n)
        x[:, 0::2], x[:, 1::2] = kept, done.reshape(b, half, n)
        return x, ladj

    def init_from(self, x_bdn: Tensor, embedding_be: Tensor) -> None:
        """See `Bijector`."""
        self.rest.init_from(x_bdn[:, 0::2], embedding_be)
