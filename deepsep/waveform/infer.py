"""A window of a mixture's samples -> samples of its sources, for priors of samples.

Shape suffixes: b batch, k stem, s sample of the posterior, c audio channel, t sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..config import SgldConfig
from ..flows.flow import DefensivePrior, WaveformPrior
from ..inference import chunks, sgld
from ..inference.mixture import SumLikelihood, project
from ..inference.posterior import Posterior
from ..models.folder import Model
from ..spectral.encoder import WaveformEncoder
from ..spectral.infer import Settings

__all__ = ["likeliest", "separate_samples", "window_stems"]


def window_stems(batch: Sequence[chunks.Window], model: Model, settings: Settings) -> list[Tensor]:
    """Stems (s k, c, t) of each window (c, t), every channel on its own; none where it reaches past the signal.

    A mirror image runs backwards in time, which priors of samples would hear.
    """
    spans = [(max(0, -window.first), window.end) for window in batch]
    stems = [w.spectra.new_zeros(settings.samples * len(model.sources), *w.spectra.shape) for w in batch]
    for start, end in set(spans):
        own = [i for i, span in enumerate(spans) if span == (start, end)]
        rows = torch.cat([batch[i].spectra[:, start:end] for i in own])
        first = [batch[i].first + start for i in own for _ in batch[i].spectra]
        found = separate_samples(rows, model, settings, first=first)
        for i, part in zip(own, found.chunk(len(own)), strict=True):
            stems[i][..., start:end] = part.permute(1, 2, 0, 3).flatten(0, 1)
    return stems


@torch.no_grad()
def separate_samples(
    mix_ct: Tensor, model: Model, settings: Settings, *, first: Sequence[int] | None = None
) -> Tensor:
    """Stems of mono mixtures (c, t) at the priors' rate and level: (c, s, k, t); each of the s sums to its mixture.

    With SGLD the best of its chains, by log p(s_1) + ... + log p(s_K) at the last noise level; with
    `settings.samples` each sample is a chain of its own. `first` numbers each mixture's first sample in its track.
    """
    c, t = mix_ct.shape
    multiple = multiple_of(model)
    padded = torch.nn.functional.pad(mix_ct, (0, -t % multiple))[:, None]
    first = first or [0] * c
    if settings.method == "encoder":
        stems = encoder_stems(padded, first, model, settings)
    else:
        stems = sgld_stems(padded, first, model, settings)
    return stems[..., :t]


def within_range(config: SgldConfig, model: Model) -> SgldConfig:
    """The same with noise levels that every prior has been trained on."""
    own = [prior.config for prior in model.priors.values() if isinstance(prior, WaveformPrior)]
    high = min([config.sigma_max, *(flow.sigma_max for flow in own)])
    low = max([config.sigma_min, *(flow.sigma_min for flow in own)])
    return replace(config, sigma_max=high, sigma_min=min(low, high))


def multiple_of(model: Model) -> int:
    """What a number of samples must be a multiple of for every network."""
    own = [prior.config.multiple for prior in model.priors.values() if isinstance(prior, WaveformPrior)]
    if isinstance(model.encoder, WaveformEncoder):
        own.append(model.encoder.config.squeeze)
    return math.lcm(*own)


def encoder_stems(mix_c1t: Tensor, first: Sequence[int], model: Model, settings: Settings) -> Tensor:
    """q's mean, or draws from q moved onto the mixture: (c, s, k, t)."""
    assert isinstance(model.encoder, WaveformEncoder)
    q = model.encoder(mix_c1t)
    if settings.samples == 1:
        mean: Tensor = q.mean
        return mean.transpose(1, 2)
    shape = (q.mean.shape[1], 1, q.mean.shape[3])
    draws = []
    for number in range(settings.samples):
        noise = [sgld.frame_noise(settings.seed, number, at, shape)(0) for at in first]
        draws.append(project(q.mean + q.log_std.exp() * torch.stack(noise).to(q.mean), mix_c1t))
    return torch.cat(draws, 2).transpose(1, 2)


def sgld_stems(mix_c1t: Tensor, first: Sequence[int], model: Model, settings: Settings) -> Tensor:
    """Annealed Langevin on samples, all chains at once, at noise levels that the priors know: (c, s, k, t)."""
    config = within_range(settings.sgld, model)
    c, k, t = len(mix_c1t), len(model.sources), mix_c1t.shape[-1]
    chains = settings.samples if settings.samples > 1 else config.chains
    mixes = mix_c1t.repeat_interleave(chains, 0)  # (c chains, 1, t)
    if settings.init == "encoder":
        assert isinstance(model.encoder, WaveformEncoder)
        start = model.encoder(mixes).mean
    else:
        start = project(mixes.new_zeros(len(mixes), k, 1, t), mixes)
    priors = [DefensivePrior(p) if isinstance(p, WaveformPrior) else p for p in model.priors.values()]
    posterior = Posterior(priors, SumLikelihood(mixes, config.gamma), config.likelihood, config.denoise)
    noises = [
        sgld.frame_noise(settings.seed, chain, at, (k, 1, t)) for at in first for chain in range(chains)
    ]

    def noise(number: int) -> Tensor:
        return torch.stack([draw(number) for draw in noises]).to(start)

    total, count = torch.zeros_like(start), 0
    for state, info in sgld.anneal(start, posterior, config, noise):
        if state.step > config.burn_in:
            total, count = total + info.denoised, count + 1
    stems = project(total / count, mixes)
    by_chain = stems.reshape(c, chains, k, t)
    if settings.samples > 1 or chains == 1:
        return by_chain
    return likeliest(by_chain, model, config.sigma_min)[:, None]


def likeliest(stems_cskt: Tensor, model: Model, sigma: float) -> Tensor:
    """The sample s of each mixture with the highest log p(s_1) + ... + log p(s_K) at a noise level: (c, k, t)."""
    flat = stems_cskt.flatten(0, 1)
    fits = [p.log_prob(flat[:, i, None], sigma) for i, p in enumerate(model.priors.values())]
    fit_cs = torch.stack(fits).sum(0).reshape(stems_cskt.shape[:2])
    best: Tensor = stems_cskt[torch.arange(len(fit_cs)), fit_cs.argmax(1).cpu()]
    return best
