"""What training minimises in every domain: a model and a batch -> (loss, figures to show).

Shape suffixes: b batch, k stem, d band or channel, n frame or sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..flows.flow import Flow
from .draws import Draws
from .mixture import Likelihood
from .posterior import Prior

__all__ = [
    "Figures",
    "bits_per_dim",
    "capped_sdr",
    "gaussian_elbo",
    "prior_loss",
    "random_sigma",
    "sdr_figures",
]

Figures = dict[str, Tensor]  # what a loss shows, by name: a number each


def random_sigma(flow: Flow, batch: int, draws: Draws, device: torch.device) -> Tensor:
    """Noise levels, log-uniform over the flow's range: (batch,)."""
    low, high = math.log(flow.config.sigma_min), math.log(flow.config.sigma_max)
    return (low + (high - low) * draws.uniform((batch,), device)).exp()


def bits_per_dim(log_prob_b: Tensor, shape: torch.Size) -> Tensor:
    """-log2 p(x) for each of the numbers in x, averaged over the batch; shape is x's (b, d, n)."""
    return -log_prob_b.mean() / (shape[1] * shape[2] * math.log(2))


def prior_loss(
    flow: Flow,
    x_bdn: Tensor,
    draws: Draws,
    score_weight: float = 0.0,
    scale: Callable[[Flow, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Figures]:
    """Maximum likelihood at random noise levels (thesis Algorithm 1 on x + sigma eps), in bits per dimension.

    With score_weight > 0, plus denoising score matching (Vincent 2011) of the flow's own score,
    E ||sigma grad log p_sigma(x + sigma eps) + eps||^2 a dimension: Langevin follows the score, not the density.
    `scale` weights that error by noise level: (flow, sigma_b) -> (b,).
    """
    sigma = random_sigma(flow, len(x_bdn), draws, x_bdn.device)
    eps = draws.normal(x_bdn.shape, x_bdn.device)
    noisy = x_bdn + sigma[:, None, None] * eps
    if score_weight > 0:
        noisy.requires_grad_()
    log_prob = flow.log_prob(noisy, sigma)
    bits = bits_per_dim(log_prob, x_bdn.shape)
    figures = {"bits/dim": bits.detach()}
    if score_weight == 0:
        return bits, figures
    (score,) = torch.autograd.grad(log_prob.sum(), noisy, create_graph=True)
    error_b = (sigma[:, None, None] * score + eps).square().mean((1, 2))
    error = (error_b if scale is None else error_b * scale(flow, sigma)).mean()
    figures["score error"] = error.detach()
    return bits + score_weight * error, figures


def capped_sdr(power_bk: Tensor, error_bk: Tensor, total_b: Tensor) -> Tensor:
    """SDR in dB of sources of this energy and error in mixtures of energy total: (b, k).

    A source 25 dB below the mixture counts as absent: its error is then taken relative to that level.
    """
    small = 10**-2.5 * total_b[:, None].clamp_min(1e-3)
    return 10 * torch.log10((power_bk + small) / (error_bk + small))


def sdr_figures(sdr_bk: Tensor, known_bk: Tensor | None = None, **more: Tensor) -> Figures:
    """What a loss on simulated mixtures shows: the mean SDR, more, and the SDR of each stem by its number.

    Where not every stem is `known` these are means over those that are; nan if there are none.
    """
    sdr = sdr_bk.detach()
    if known_bk is not None:
        sdr = sdr.masked_fill(~known_bk, math.nan)
    figures = {"SDR": sdr.nanmean()} | {k: v.detach() for k, v in more.items()}
    return figures | {f"SDR {k}": v for k, v in enumerate(sdr.nanmean(0).unbind())}


def gaussian_elbo(
    mean_bkdn: Tensor,
    log_std_bkdn: Tensor,
    priors: Sequence[Prior],
    likelihood: Likelihood,
    draws: Draws,
    sigma: float,
) -> tuple[Tensor, Figures]:
    """The thesis' ELBO (Eq. 13, with its missing log) of a Gaussian q, in nats a coefficient; to be maximised.

    sum_k E_q[log p_k(x_k) - log q(x_k | m)] + E_q[log p(m | x)], one reparametrised sample a mixture. The priors
    are taken at noise level sigma: x_k + sigma eps under p_sigma. Also returns its parts.
    """
    x = mean_bkdn + log_std_bkdn.exp() * draws.normal(mean_bkdn.shape, mean_bkdn.device)
    noisy = x + sigma * draws.normal(x.shape, x.device)
    log_prior = sum((p.log_prob(noisy[:, k], sigma) for k, p in enumerate(priors)), start=x.new_zeros(len(x)))
    size = x[0].numel()
    entropy = log_std_bkdn.flatten(1).sum(1) + 0.5 * size * (1 + math.log(2 * math.pi))
    log_fit = likelihood.log_prob(x, sigma)
    value = (log_prior + entropy + log_fit).mean() / size
    figures = {
        "ELBO": value.detach(),
        "log p": log_prior.detach().mean() / size,
        "log p(m|x)": log_fit.detach().mean() / size,
    }
    return value, figures
