"""What training on simulated mixtures minimises: a model and a batch -> (loss, figures to show).

Shape suffixes: b batch, k stem, p part of a mixture, c plane, d band, n frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..flows.flow import Flow
from ..inference.draws import Draws
from ..inference.losses import Figures, capped_sdr, gaussian_elbo, prior_loss, sdr_figures
from .encoder import BandPosterior, UNet, mixture_features
from .likelihood import BandLikelihood, wiener_gains
from .mixtures import Mixtures
from .spectrum import Spectrum

__all__ = ["contrast_loss", "elbo", "mixture_sdr", "sleep_loss"]

CONTRAST_SIGMA = (0.4, 1.3)  # noise levels at which Langevin walks
LIKELIHOOD_EVERY = 4  # steps of contrast to one with likelihood, on average
ELBO_SIGMA = 0.3  # noise level at which the priors judge an encoder's estimates


def mixture_sdr(gain_bkdn: Tensor, m: Mixtures) -> Tensor:
    """The `capped_sdr` of the parts that stems' gains make of simulated mixtures: (b, p)."""
    gain = torch.einsum("bkdn,bpk->bpdn", gain_bkdn, m.member_bpk)
    error = gain.square() * m.total_bdn[:, None] - 2 * gain * m.cross_bpdn + m.power_bpdn
    energy = m.power_bpdn.flatten(2).sum(2)
    return capped_sdr(energy, error.flatten(2).sum(2), m.total_bdn.flatten(1).sum(1))


def sleep_loss(
    posterior: BandPosterior, m: Mixtures, spectrum: Spectrum, density_weight: float = 0.2
) -> tuple[Tensor, Figures]:
    """Simulated mixtures with known sources ("sleep phase" of Hinton et al. 1995, source-only supervision).

    The Wiener estimates' SDR, negative and in dB (`capped_sdr`), plus -log q(x_true | m) of the stems that are known
    one by one; of a set the sum of its estimates counts.
    """
    members_bp = m.member_bpk.sum(2)
    known, single = members_bp > 0, (members_bp == 1).to(m.total_bdn)
    sdr_bp = mixture_sdr(posterior.log_gain.exp(), m)
    x_true = spectrum.to_x(m.power_bpdn / (2 * spectrum.count_d[:, None]))
    mean = posterior.mean(m.total_bdn / (2 * spectrum.count_d[:, None]), spectrum)
    surprise = 0.5 * ((x_true - mean) * (-posterior.log_std).exp()).square() + posterior.log_std
    density = (surprise.mean((2, 3)) * single).sum() / single.sum().clamp_min(1)
    figures = sdr_figures(sdr_bp, members_bp == 1, **{"-log q": density})
    sdr = torch.where(known, sdr_bp, 0).sum() / known.sum()
    return -sdr + density_weight * density, figures


def elbo(
    encoder: UNet, priors: Sequence[Flow], mix_bcdn: Tensor, spectrum: Spectrum, draws: Draws
) -> tuple[Tensor, Figures]:
    """`gaussian_elbo` of the encoder's posterior on mixtures, by the band powers of left, right, mid and side."""
    power = (mix_bcdn[:, 0] + mix_bcdn[:, 1]) / 2
    q = encoder(mixture_features(mix_bcdn, spectrum))
    fit = BandLikelihood(power + spectrum.floor, spectrum.count_d, spectrum)
    return gaussian_elbo(q.mean(power, spectrum), q.log_std, priors, fit, draws, ELBO_SIGMA)


def contrast_loss(
    priors: Sequence[Flow],
    m: Mixtures,
    start_kd: Tensor,
    spectrum: Spectrum,
    draws: Draws,
    likelihood_weight: float = 0.5,
) -> tuple[Tensor, Figures]:
    """Priors against one another, where a Langevin chain will need them, on simulated mixtures.

    A chain's position is imitated: gains between the stationary filter `start_kd` and the truth, and noise of a
    random level sigma. Each prior then denoises its own source by its own score, x + sigma^2 grad log p_sigma(x)
    (Tweedie), seeing neither mixture nor other sources, and what is minimised is the negative SDR, in dB, of the
    Wiener estimates that the denoised sources make together. The score is the flow's own, so the densities stay
    normalised. One call in four adds, as much the heavier, their bits per dimension on the true sources.
    """
    count = 2 * spectrum.count_d[:, None]
    low, high = map(math.log, CONTRAST_SIGMA)
    sigma = (low + (high - low) * draws.uniform((len(m.total_bdn),), m.total_bdn.device)).exp()
    share, scale = draws.uniform((2, len(sigma), 1, 1, 1), sigma.device, batch=1)
    share = share**0.7
    truth = (m.power_bpdn + 1e-3 * m.total_bdn[:, None] + 1e-6).log().log_softmax(1)
    gain = ((1 - share) * truth + share * start_kd[..., None].log()).softmax(1)
    position = spectrum.to_x((m.total_bdn / count)[:, None] * gain)
    noise = draws.normal(position.shape, position.device)
    position = position + (0.5 + 0.5 * scale) * sigma[:, None, None, None] * noise
    denoised = torch.stack([tweedie(p, position[:, k], sigma) for k, p in enumerate(priors)], 1)
    sdr_bk = mixture_sdr(wiener_gains(denoised, spectrum), m)
    value = -sdr_bk.mean()
    figures = sdr_figures(sdr_bk)
    if likelihood_weight > 0 and draws.chance(1 / LIKELIHOOD_EVERY):
        x = spectrum.to_x(m.power_bpdn / count)
        bits = torch.stack([prior_loss(p, x[:, k], draws)[0] for k, p in enumerate(priors)]).mean()
        value = value + LIKELIHOOD_EVERY * likelihood_weight * bits
        figures["bits/dim"] = bits.detach()
    return value, figures


def tweedie(prior: Flow, x_bdn: Tensor, sigma_b: Tensor) -> Tensor:
    """E[x_clean | x] under a prior at noise level sigma, x + sigma^2 grad log p_sigma(x); differentiable."""
    with torch.enable_grad():
        x = x_bdn.detach().requires_grad_()
        (score,) = torch.autograd.grad(prior.log_prob(x, sigma_b).sum(), x, create_graph=True)
    return x + sigma_b[:, None, None] ** 2 * score
