"""Normalizing flows p_sigma(x): the density of data + sigma * noise, for any noise level in a range.

Shape suffixes: b batch, d channel (band), n frame or sample.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..config import SpectralFlowConfig, WaveformFlowConfig
from .bijectors import Compose, Squeeze, Whitening
from .networks import NoiseEmbedding

__all__ = ["Flow"]

FlowConfig = SpectralFlowConfig | WaveformFlowConfig


class Flow(nn.Module):
    """A flow conditional on the noise level (SoftFlow, Kim et al. 2020).

    x (b, d, n) is squeezed into frames of d * squeeze channels, whitened, and sent through `steps`. `d` and `squeeze`
    are those of the domain: a flow on samples has d = 1, one on bands squeezes nothing. `channels_out` counts the
    channels of z. A flow on samples also keeps `spectrum`, the mean power of its data on `bands` as spectral x; it
    is no part of the density.
    """

    spectrum: Tensor | None

    def __init__(
        self,
        config: FlowConfig,
        embedding: NoiseEmbedding,
        steps: Compose,
        *,
        channels: int = 1,
        squeeze: int = 1,
        channels_out: int,
        bands: int | None = None,
    ) -> None:
        super().__init__()
        self.config, self.channels, self.channels_out = config, channels, channels_out
        self.embedding = embedding
        self.squeeze = Squeeze(squeeze)
        self.whitening = Whitening(channels * squeeze)
        self.register_buffer("spectrum", None if bands is None else torch.zeros(bands))
        self.steps = steps

    @property
    def mean_spectrum(self) -> Tensor:
        """The mean of spectral x, (bands,): what a stationary Wiener filter needs."""
        return self.whitening.mean if self.spectrum is None else self.spectrum

    def forward(self, x_bdn: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """x -> z, and log |det dz/dx| (b,) in nats; n a multiple of `config.multiple`."""
        sigma_b = self.levels(x_bdn, sigma)
        embedding = self.embedding(sigma_b)
        frames, _ = self.squeeze(x_bdn, embedding)
        h, ladj = self.whitening(frames, sigma_b)
        z, more = self.steps(h, embedding)
        return z, ladj + more

    def inverse(self, z_bdn: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        """z -> x, and log |det dx/dz| (b,) in nats."""
        sigma_b = self.levels(z_bdn, sigma)
        embedding = self.embedding(sigma_b)
        h, ladj = self.steps.inverse(z_bdn, embedding)
        frames, more = self.whitening.inverse(h, sigma_b)
        x, _ = self.squeeze.inverse(frames, embedding)
        return x, ladj + more

    def log_prob(self, x_bdn: Tensor, sigma: Tensor | float) -> Tensor:
        """log p_sigma(x) in nats: (b, d, n) -> (b,)."""
        z, ladj = self.forward(x_bdn, sigma)
        return ladj + standard_normal(z)

    def gaussian_log_prob(self, x_bdn: Tensor, sigma: Tensor | float) -> Tensor:
        """The same of the Gaussian that the flow was before its steps were trained."""
        sigma_b = self.levels(x_bdn, sigma)
        z, ladj = self.whitening(self.squeeze(x_bdn, sigma_b)[0], sigma_b)
        total: Tensor = ladj + standard_normal(z)
        return total

    @torch.no_grad()
    def sample(
        self, batch: int, length: int, sigma: float, rng: torch.Generator, temperature: float = 1.0
    ) -> Tensor:
        """Draw x = f^-1(temperature * z), z ~ N(0, I): (batch, d, length), a draw from p_sigma at temperature 1.

        `length` is a multiple of `config.multiple`.
        """
        z = temperature * torch.randn(batch, self.channels * length, generator=rng, device=rng.device)
        x: Tensor = self.inverse(z.to(self.whitening.mean).reshape(batch, self.channels_out, -1), sigma)[0]
        return x

    @torch.no_grad()
    def initialise(self, x_bdn: Tensor, sigma: float, rng: torch.Generator) -> None:
        """Fit the whitening to data, and set every ActNorm from some of it at a noise level.

        The trainer calls it once, before the first step: loading or running a flow never initialises anything.
        """
        unused = x_bdn.new_zeros(0)
        self.whitening.fit(self.squeeze(x_bdn, unused)[0].transpose(1, 2).flatten(0, 1))
        some = x_bdn[:32] + sigma * torch.randn(x_bdn[:32].shape, generator=rng)
        sigma_b = self.levels(some, sigma)
        embedding = self.embedding(sigma_b)
        h, _ = self.whitening(self.squeeze(some, embedding)[0], sigma_b)
        self.steps.init_from(h, embedding)

    def levels(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """sigma as (b,), clamped to the range that the flow was trained on."""
        sigma_b = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        return sigma_b.clamp(self.config.sigma_min, self.config.sigma_max)


def standard_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I) in nats: (b, ...) -> (b,)."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1)
