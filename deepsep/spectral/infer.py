"""A window of a mixture -> Wiener gains of its sources: by the sampler, by the encoder, or by both.

Shape suffixes: b batch, s draw, k stem, c plane, d band, n frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ..config import SpectralSgldConfig
from ..flows.flow import Flow
from ..inference import sgld
from ..inference.chunks import Planes, Window
from ..inference.domain import OnPart, Separation
from ..inference.model import Model
from ..inference.posterior import Posterior
from ..inference.settings import Settings
from ..progress import part_of
from .encoder import BandPosterior, UNet, inner, mixture_features
from .likelihood import BandLikelihood, wiener_gains
from .pitch import as_higher, as_it_was
from .spectrum import Spectrum, stereo_power

__all__ = ["SGLD_CONTEXT", "Inference", "stationary_gains"]

SGLD_CONTEXT = 64  # frames that a chain sees to either side
ENCODER_DRAWS = 16  # from q, for its spread
CHAINS_AT_ONCE = {"cpu": 1, "cuda": 8}  # the CPU would gain nothing; 4 on other devices
LEAST_GAIN = 1e-6  # of a pooled estimate, 60 dB below the mixture
INDEPENDENT = 0.375  # coefficients per bin and frame: frames overlap by three quarters


def stationary_gains(priors: Sequence[Flow], spectrum: Spectrum) -> Tensor:
    """Wiener gains of the priors' mean spectra, (k, d, 1)."""
    mean_kd = torch.stack([flow.mean_spectrum for flow in priors])
    return wiener_gains(mean_kd[None, :, :, None], spectrum)[0]


@dataclass(frozen=True, slots=True)
class Inference:
    """The posterior of a batch of windows, by the band powers of their left, right, mid and side (b, 4, d, n)."""

    planes_bcdn: Tensor
    first: Sequence[int]  # the number of each window's first frame in its track
    model: Model
    spectrum: Spectrum
    settings: Settings
    context: int  # frames at either end that are not the windows' own
    on_part: OnPart | None = None

    @classmethod
    def of(
        cls, windows: Sequence[Window], separation: Separation, spectrum: Spectrum, context: int
    ) -> Inference:
        """Analyse some windows of one length."""
        planes = torch.stack([stereo_power(w.frames_cfn, spectrum) for w in windows])
        first = [w.first for w in windows]
        return cls(
            planes, first, separation.model, spectrum, separation.settings, context, separation.on_part
        )

    @property
    def power_bdn(self) -> Tensor:
        """The mixtures' mean power in each band."""
        return (self.planes_bcdn[:, 0] + self.planes_bcdn[:, 1]) / 2

    def estimates(self, groups: Sequence[Sequence[int]], *, spread: bool) -> Iterator[Planes]:
        """Each window's gains (s, k, d, n), stem k the sum of the sources groups[k].

        Then, if `spread`, their standard deviation (k, d, n) and the mixture's power (d, n).
        """

        def grouped(gains_bkdn: Tensor) -> Tensor:
            return torch.stack([gains_bkdn[:, list(group)].sum(1) for group in groups], 1)

        if self.settings.draws == 1 and not spread:
            yield from ((gains[None],) for gains in grouped(self.gains()))
            return
        last: dict[int, Tensor] = {}
        count, mean, square = 0, torch.zeros(()), torch.zeros(())
        for chain, draw in self.posterior_draws(ENCODER_DRAWS if spread else self.settings.draws):
            gains = grouped(draw)
            last[chain] = gains
            count, mean, square = count + 1, mean.to(gains) + gains, square.to(gains) + gains.square()
        mean, square = mean / count, square / count
        if self.settings.draws > 1:
            drawn = torch.stack([last[number] for number in range(self.settings.draws)], 1)
        else:
            drawn = (grouped(self.gains()) if self.settings.method == "encoder" else mean)[:, None]
        if not spread:
            yield from ((gains,) for gains in drawn)
            return
        std = (square - mean.square()).clamp_min(0).sqrt() * self.spread_scale(groups, mean)
        yield from zip(drawn, std, self.power_bdn, strict=True)

    def spread_scale(self, groups: Sequence[Sequence[int]], like: Tensor) -> Tensor:
        """The factor (k, 1, 1) of each stem's standard deviation: learnt for the encoder's draws, else 1."""
        known = cast(UNet, self.model.encoder).spread if self.settings.method == "encoder" else None
        if known is None:
            return like.new_ones(len(groups), 1, 1)
        means = [sum(known[k] for k in group) / len(group) for group in groups]
        return like.new_tensor(means)[:, None, None]

    def posterior_draws(self, least: int) -> Iterator[tuple[int, Tensor]]:
        """Numbered draws of the gains (b, k, d, n): `least` or more from q, or SGLD's late iterates by chain."""
        settings = self.settings
        if settings.method == "sgld":
            chains = settings.draws if settings.draws > 1 else settings.sgld.chains
            yield from (
                (chain, self.whole(gains)) for chain, gains in self.chain_draws(chains, sgld.window_noise)
            )
            return
        q = self.encode()
        mean = q.mean(self.power_bdn, self.spectrum)
        for number in range(count := max(settings.draws, least)):
            noise = sgld.window_noise(settings.seed, [number] * len(mean), self.first, mean)(0)
            yield number, q.draw(mean, noise, self.spectrum)
            self.tell((number + 1) / count)

    def gains(self) -> Tensor:
        """The best estimate of the Wiener gains, (b, k, d, n): q's, or the average of all chains' late iterates."""
        if self.settings.method == "encoder":
            return self.encoder_gains(self.tell)
        total = torch.zeros(())
        for _, gains in self.chain_draws(self.settings.sgld.chains, sgld.mirrored_noise):
            total = total.to(gains) + gains
        return self.whole(total / total.sum(1, keepdim=True))

    @property
    def unwanted(self) -> int:
        """How many frames at either end only the encoder looks at; an even number for Langevin's frame couplings."""
        settings, encoder = self.settings, self.model.encoder
        if encoder is None or "encoder" not in (settings.method, settings.init):
            return 0
        return self.context if settings.method == "encoder" else max(0, self.context - SGLD_CONTEXT) // 2 * 2

    def whole(self, gains_bkdn: Tensor) -> Tensor:
        """A chain's gains with the frames that it left out; what stands there means nothing."""
        return torch.nn.functional.pad(gains_bkdn, (self.unwanted, self.unwanted))

    def tell(self, share: float) -> None:
        """Report the share of these windows that is done."""
        if self.on_part:
            self.on_part(share)

    def encode(self, on_part: OnPart | None = None) -> BandPosterior:
        """Run the encoder: the mean of the q that it finds at each pitch."""
        pitches, config = self.settings.pitches, self.spectrum.config
        if pitches == 1:
            return self.encode_planes(self.planes_bcdn, on_part)
        gains, log_std = [], []
        for number in range(pitches):
            planes = as_higher(self.planes_bcdn, config, number)
            q = self.encode_planes(planes, part_of(number, pitches, on_part))
            gains.append(as_it_was(q.log_gain.exp(), config, number))
            log_std.append(as_it_was(q.log_std, config, number))
        return BandPosterior(torch.stack(gains).mean(0).log(), torch.stack(log_std).mean(0))

    def encode_planes(self, planes_bcdn: Tensor, on_part: OnPart | None) -> BandPosterior:
        """Run the encoder on bands: on a CPU a window at a time, which is as fast and holds less."""
        features = mixture_features(planes_bcdn, self.spectrum)
        rows = 1 if features.device.type == "cpu" else len(features)
        unet = cast(UNet, self.model.encoder)
        found = []
        for part in torch.split(features, rows):
            found.append(unet(part, self.unwanted))
            if on_part:
                on_part(len(found) * rows / len(features))
        return BandPosterior(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def encoder_gains(self, on_part: OnPart | None = None) -> Tensor:
        """Wiener gains (b, k, d, n) at the mode of q."""
        return self.encode(on_part).log_gain.exp()

    def initial_gains(self) -> Tensor:
        """Wiener gains (b, k, d, n) that a chain starts from: the encoder's, or those of the priors' mean spectra."""
        if self.settings.init == "encoder":
            return self.encoder_gains()
        stationary = stationary_gains(list(self.model.priors.values()), self.spectrum)
        return stationary.expand(len(self.planes_bcdn), *stationary.shape[:-1], self.planes_bcdn.shape[-1])

    def chain_draws(self, chains: int, noise_of: Callable[..., sgld.Noise]) -> Iterator[tuple[int, Tensor]]:
        """Wiener gains (b, k, d, n - 2 unwanted) of every late iterate, with the number of its chain.

        `noise_of` is `window_noise`, for chains independent of one another, or `mirrored_noise`.

        A chain that the encoder started is pooled with the encoder's estimate, q^(1 - w) p^w on the gains: each knows
        something that the other does not (docs/experiments.md has what their geometric mean gains).
        """
        config = cast(SpectralSgldConfig, self.settings.sgld)
        spectrum, cut = self.spectrum, self.unwanted
        power, initial = inner(self.power_bdn, cut), inner(self.initial_gains(), cut)
        first = [at + cut for at in self.first]
        start = spectrum.to_x(power[:, None] * initial)
        weight_d = spectrum.count_d * spectrum.present_d * INDEPENDENT
        at_once = CHAINS_AT_ONCE.get(start.device.type, 4)
        groups = [range(at, min(at + at_once, chains)) for at in range(0, chains, at_once)]
        for number, group in enumerate(groups):
            many = len(group)
            posterior = Posterior(
                list(self.model.priors.values()),
                BandLikelihood((power + spectrum.floor).repeat(many, 1, 1), weight_d, spectrum),
                config.likelihood,
            )
            starts = start.repeat(many, 1, 1, 1)
            whose = [chain for chain in group for _ in first]
            noise = noise_of(self.settings.seed, whose, first * many, starts)
            tell = part_of(number, len(groups), self.on_part)
            for info in sgld.late_iterates(starts, posterior, config, noise, tell):
                found = wiener_gains(info.denoised, spectrum, config.alpha)
                for chain, gains in zip(group, found.chunk(many), strict=True):
                    if self.settings.init == "encoder":
                        gains = pooled(gains, initial, config.pool)
                    yield chain, gains


def pooled(gains: Tensor, others: Tensor, weight: float) -> Tensor:
    """The geometric mean of two estimates' Wiener gains (b, k, d, n), a logarithmic opinion pool, normalised."""
    logs = weight * gains.clamp_min(LEAST_GAIN).log() + (1 - weight) * others.clamp_min(LEAST_GAIN).log()
    return logs.softmax(1)
