"""Mono windows of a mixture's samples -> samples of its sources, for waveform priors.

Shape suffixes: b window, s draw, k stem, t sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from ..config import WaveformSgldConfig
from ..inference import sgld
from ..inference.domain import OnPart
from ..inference.mixture import project
from ..inference.model import Model
from ..inference.posterior import Posterior
from ..inference.settings import Settings
from .encoder import WaveformEncoder
from .flow import DefensivePrior
from .likelihood import SumLikelihood

__all__ = ["likeliest", "separate_samples"]


@torch.no_grad()
def separate_samples(
    mix_bt: Tensor,
    model: Model,
    settings: Settings,
    *,
    first: Sequence[int] | None = None,
    on_part: OnPart | None = None,
) -> Tensor:
    """Stems (b, s, k, t) of mono mixtures (b, t) at the priors' rate and level; every draw sums to its mixture.

    With SGLD the best of its chains, by log p(s_1) + ... + log p(s_K) at the last noise level; several draws are a
    chain each. `first` has the number of each mixture's first sample in its track; `on_part` hears the share that is
    done.
    """
    b, t = mix_bt.shape
    padded = torch.nn.functional.pad(mix_bt, (0, -t % multiple_of(model)))[:, None]
    starts = first or [0] * b
    if settings.method == "encoder":
        return encoder_stems(padded, starts, model, settings)[..., :t]
    return sgld_stems(padded, starts, model, settings, on_part)[..., :t]


def multiple_of(model: Model) -> int:
    """What a number of samples must be a multiple of for every network."""
    multiples = [flow.config.multiple for flow in model.priors.values()]
    return math.lcm(*multiples, model.encoder.config.squeeze if model.encoder is not None else 1)


def within_range(config: WaveformSgldConfig, model: Model) -> WaveformSgldConfig:
    """The same settings with noise levels that every prior has been trained on."""
    flows = [flow.config for flow in model.priors.values()]
    high = min([config.sigma_max, *(flow.sigma_max for flow in flows)])
    low = max([config.sigma_min, *(flow.sigma_min for flow in flows)])
    return replace(config, sigma_max=high, sigma_min=min(low, high))


def encoder_stems(mix_b1t: Tensor, first: Sequence[int], model: Model, settings: Settings) -> Tensor:
    """q's mean, or draws from q moved onto the mixture: (b, s, k, t)."""
    q = cast(WaveformEncoder, model.encoder)(mix_b1t)
    if settings.draws == 1:
        return cast(Tensor, q.mean.transpose(1, 2))
    draws = []
    for number in range(settings.draws):
        noise = sgld.window_noise(settings.seed, [number] * len(mix_b1t), first, q.mean)(0)
        draws.append(project(q.mean + q.log_std.exp() * noise, mix_b1t))
    return torch.cat(draws, 2).transpose(1, 2)


def sgld_stems(
    mix_b1t: Tensor, first: Sequence[int], model: Model, settings: Settings, on_part: OnPart | None
) -> Tensor:
    """Annealed Langevin on samples, all chains at once, at noise levels that the priors know: (b, s, k, t)."""
    config = within_range(cast(WaveformSgldConfig, settings.sgld), model)
    b, k, t = len(mix_b1t), len(model.sources), mix_b1t.shape[-1]
    chains = settings.draws if settings.draws > 1 else config.chains
    mixes = mix_b1t.repeat_interleave(chains, 0)  # (b chains, 1, t)
    if settings.init == "encoder":
        start = cast(WaveformEncoder, model.encoder)(mixes).mean
    else:
        start = project(mixes.new_zeros(len(mixes), k, 1, t), mixes)
    priors = [DefensivePrior(flow) for flow in model.priors.values()]
    posterior = Posterior(priors, SumLikelihood(mixes, config.gamma), config.likelihood, config.denoise)
    rows = [(chain, at) for at in first for chain in range(chains)]
    noise = sgld.window_noise(settings.seed, [chain for chain, _ in rows], [at for _, at in rows], start)
    late = [info.denoised for info in sgld.late_iterates(start, posterior, config, noise, on_part)]
    stems = project(sum(late, start=torch.zeros_like(start)) / len(late), mixes)
    by_chain = stems.reshape(b, chains, k, t)
    if settings.draws > 1 or chains == 1:
        return by_chain
    return likeliest(by_chain, model, config.sigma_min)[:, None]


def likeliest(stems_bskt: Tensor, model: Model, sigma: float) -> Tensor:
    """The draw s of each mixture with the highest log p(s_1) + ... + log p(s_K) at a noise level: (b, k, t)."""
    flat = stems_bskt.flatten(0, 1)
    fits = [flow.log_prob(flat[:, i, None], sigma) for i, flow in enumerate(model.priors.values())]
    fit_bs = torch.stack(fits).sum(0).reshape(stems_bskt.shape[:2])
    best: Tensor = stems_bskt[torch.arange(len(fit_bs)), fit_bs.argmax(1).cpu()]
    return best
