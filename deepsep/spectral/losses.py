"""What training minimises: a model and a batch -> (loss, figures to show). Each says where it comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..flows.flow import FlowPrior, WaveformPrior
from ..inference.mixture import BandLikelihood, Likelihood, SumLikelihood, wiener_gains
from ..inference.posterior import Prior
from ..recordings.banks import Mixtures
from .encoder import BandPosterior, Encoder, WaveformPosterior, mixture_features
from .spectrum import Spectrum

__all__ = [
    "bits_per_dim",
    "contrast_loss",
    "elbo",
    "prior_loss",
    "random_sigma",
    "sleep_loss",
    "waveform_elbo",
    "waveform_sleep_loss",
]

CONTRAST_SIGMA = (0.4, 1.3)  # noise levels at which Langevin walks
LIKELIHOOD_EVERY = 4  # steps of contrast to one with likelihood, on average


def random_sigma(prior: FlowPrior | WaveformPrior, batch: int, rng: torch.Generator) -> Tensor:
    """Noise levels, log-uniform over the prior's range: (batch,)."""
    low, high = math.log(prior.config.sigma_min), math.log(prior.config.sigma_max)
    return (low + (high - low) * torch.rand(batch, generator=rng)).exp()


def bits_per_dim(log_prob_b: Tensor, shape: torch.Size) -> Tensor:
    """-log2 p(x) for each of the numbers in x, averaged over the batch; shape is x's (b, d, n)."""
    return -log_prob_b.mean() / (shape[1] * shape[2] * math.log(2))


def prior_loss(
    prior: FlowPrior | WaveformPrior, x_bdn: Tensor, rng: torch.Generator, score_weight: float = 0.0
) -> tuple[Tensor, dict[str, float]]:
    """Maximum likelihood at random noise levels (thesis Algorithm 1 on x + sigma eps), in bits per dimension.

    With score_weight > 0, plus denoising score matching (Vincent 2011) of the flow's own score,
    E ||sigma grad log p_sigma(x + sigma eps) + eps||^2 a dimension: Langevin follows the score, not the density.
    On samples it is weighted by 1 + sigma^2 / var(x), which makes it the denoised samples' error relative to the
    lesser of x and the noise (Karras et al. 2022): the chain starts where the noise is far above the signal.
    """
    sigma = random_sigma(prior, len(x_bdn), rng)
    eps = torch.randn(x_bdn.shape, generator=rng)
    noisy = x_bdn + sigma[:, None, None] * eps
    if score_weight > 0:
        noisy.requires_grad_()
    log_prob = prior.log_prob(noisy, sigma)
    bits = bits_per_dim(log_prob, x_bdn.shape)
    figures = {"bits/dim": float(bits.detach())}
    if score_weight == 0:
        return bits, figures
    (score,) = torch.autograd.grad(log_prob.sum(), noisy, create_graph=True)
    error_b = (sigma[:, None, None] * score + eps).square().mean((1, 2))
    if isinstance(prior, WaveformPrior):
        error_b = error_b * (1 + sigma**2 / prior.whitening.variance.mean())
    error = error_b.mean()
    figures["score error"] = float(error.detach())
    return bits + score_weight * error, figures


def capped_sdr(power_bk: Tensor, error_bk: Tensor, total_b: Tensor) -> Tensor:
    """SDR in dB of sources of this energy and error in mixtures of energy total: (b, k).

    A source 25 dB below the mixture counts as absent: its error is then taken relative to that level.
    """
    small = 10**-2.5 * total_b[:, None].clamp_min(1e-3)
    return 10 * torch.log10((power_bk + small) / (error_bk + small))


def mixture_sdr(gain_bkdn: Tensor, m: Mixtures) -> Tensor:
    """`capped_sdr` of what gains make of simulated mixtures: (b, k)."""
    error = gain_bkdn.square() * m.total_bdn[:, None] - 2 * gain_bkdn * m.cross_bkdn + m.power_bkdn
    energy = m.power_bkdn.flatten(2).sum(2)
    return capped_sdr(energy, error.flatten(2).sum(2), m.total_bdn.flatten(1).sum(1))


def sdr_figures(sdr_bk: Tensor, **more: Tensor) -> dict[str, float]:
    """What a loss on simulated mixtures shows: the mean SDR, more, and the SDR of each stem."""
    figures = {"SDR": float(sdr_bk.detach().mean())} | {k: float(v.detach()) for k, v in more.items()}
    return figures | {f"SDR {k}": float(v) for k, v in enumerate(sdr_bk.detach().mean(0))}


def sleep_loss(
    posterior: BandPosterior, m: Mixtures, spectrum: Spectrum, density_weight: float = 0.02
) -> tuple[Tensor, dict[str, float]]:
    """Simulated mixtures with known sources ("sleep phase" of Hinton et al. 1995, source-only supervision).

    The Wiener estimates' SDR, negative and in dB (`capped_sdr`), plus -log q(x_true | m).
    """
    sdr_bk = mixture_sdr(posterior.log_gain.exp(), m)
    x_true = spectrum.to_x(m.power_bkdn / (2 * spectrum.count_d[:, None]))
    mean = posterior.mean(m.total_bdn / (2 * spectrum.count_d[:, None]), spectrum)
    density = (0.5 * ((x_true - mean) * (-posterior.log_std).exp()).square() + posterior.log_std).mean()
    return -sdr_bk.mean() + 10 * density_weight * density, sdr_figures(sdr_bk, **{"-log q": density})


def contrast_loss(
    priors: Sequence[FlowPrior],
    m: Mixtures,
    start_kd: Tensor,
    spectrum: Spectrum,
    rng: torch.Generator,
    likelihood_weight: float = 0.5,
) -> tuple[Tensor, dict[str, float]]:
    """Priors against one another, where a Langevin chain will need them, on simulated mixtures.

    A chain's position is imitated: gains between the stationary filter `start_kd` and the truth, and noise of a
    random level sigma. Each prior then denoises its own source by its own score, x + sigma^2 grad log p_sigma(x)
    (Tweedie), seeing neither mixture nor other sources, and what is minimised is the negative SDR, in dB, of the
    Wiener estimates that the denoised sources make together. The score is the flow's own, so the densities stay
    normalised. One call in four adds, as much the heavier, their bits per dimension on the true sources.
    """
    count = 2 * spectrum.count_d[:, None]
    low, high = map(math.log, CONTRAST_SIGMA)
    sigma = (low + (high - low) * torch.rand(len(m.total_bdn), generator=rng)).exp()
    share, scale = torch.rand(2, len(sigma), 1, 1, 1, generator=rng)
    share = share**0.7
    truth = (m.power_bkdn + 1e-3 * m.total_bdn[:, None] + 1e-6).log().log_softmax(1)
    gain = ((1 - share) * truth + share * start_kd[..., None].log()).softmax(1)
    position = spectrum.to_x((m.total_bdn / count)[:, None] * gain)
    noise = torch.randn(position.shape, generator=rng)
    position = position + (0.5 + 0.5 * scale) * sigma[:, None, None, None] * noise
    denoised = torch.stack([tweedie(p, position[:, k], sigma) for k, p in enumerate(priors)], 1)
    sdr_bk = mixture_sdr(wiener_gains(denoised, spectrum), m)
    value = -sdr_bk.mean()
    figures = sdr_figures(sdr_bk)
    if likelihood_weight > 0 and float(torch.rand((), generator=rng)) * LIKELIHOOD_EVERY < 1:
        x = spectrum.to_x(m.power_bkdn / count)
        bits = torch.stack([prior_loss(p, x[:, k], rng)[0] for k, p in enumerate(priors)]).mean()
        value = value + LIKELIHOOD_EVERY * likelihood_weight * bits
        figures["bits/dim"] = float(bits.detach())
    return value, figures


def tweedie(prior: FlowPrior, x_bdn: Tensor, sigma_b: Tensor) -> Tensor:
    """E[x_clean | x] under a prior at noise level sigma, x + sigma^2 grad log p_sigma(x); differentiable."""
    with torch.enable_grad():
        x = x_bdn.detach().requires_grad_()
        (score,) = torch.autograd.grad(prior.log_prob(x, sigma_b).sum(), x, create_graph=True)
    return x + sigma_b[:, None, None] ** 2 * score


def elbo(
    encoder: Encoder,
    priors: list[FlowPrior],
    mix_bcdn: Tensor,
    spectrum: Spectrum,
    rng: torch.Generator,
    *,
    sigma: float = 0.3,
    likelihood: float = 1.0,
) -> tuple[Tensor, dict[str, float]]:
    """The thesis' ELBO (Eq. 13, with its missing log) under fixed priors, in nats a coefficient; to be maximised.

    sum_k E_q[log p_k(x_k) - log q(x_k | m)] + E_q[log p(m | x)], one reparametrised sample a mixture. The priors
    are taken at noise level sigma: x_k + sigma eps under p_sigma.
    """
    power = (mix_bcdn[:, 0] + mix_bcdn[:, 1]) / 2
    posterior = encoder(mixture_features(mix_bcdn, spectrum))
    fit = BandLikelihood(power + spectrum.floor, spectrum.count_d, spectrum)
    return bound(posterior.mean(power, spectrum), posterior.log_std, priors, fit, rng, sigma, likelihood)


def bound(
    mean_bkdn: Tensor,
    log_std_bkdn: Tensor,
    priors: Sequence[Prior],
    fit: Likelihood,
    rng: torch.Generator,
    sigma: float,
    likelihood: float = 1.0,
) -> tuple[Tensor, dict[str, float]]:
    """The ELBO of a Gaussian q in any domain, in nats a coefficient, and its parts."""
    x = mean_bkdn + log_std_bkdn.exp() * torch.randn(mean_bkdn.shape, generator=rng)
    noisy = x + sigma * torch.randn(x.shape, generator=rng)
    log_prior = sum((p.log_prob(noisy[:, k], sigma) for k, p in enumerate(priors)), start=torch.zeros(len(x)))
    size = x[0].numel()
    entropy = log_std_bkdn.flatten(1).sum(1) + 0.5 * size * (1 + math.log(2 * math.pi))
    log_fit = fit.log_prob(x, sigma)
    value = (log_prior + entropy + likelihood * log_fit).mean() / size
    figures = {
        "ELBO": float(value.detach()),
        "log p": float(log_prior.detach().mean()) / size,
        "log p(m|x)": float(log_fit.detach().mean()) / size,
    }
    return value, figures


def waveform_sleep_loss(
    posterior: WaveformPosterior, stems_bkdt: Tensor, density_weight: float = 0.2
) -> tuple[Tensor, dict[str, float]]:
    """`sleep_loss` on samples: the negative SDR of q's mean in dB, plus -log q(s_true | m) in nats a sample."""
    error = stems_bkdt - posterior.mean
    power_bk, missed_bk = (v.square().flatten(2).sum(2) for v in (stems_bkdt, error))
    sdr_bk = capped_sdr(power_bk, missed_bk, stems_bkdt.sum(1).square().flatten(1).sum(1))
    # each part of the network has its own task: the mean follows the SDR, the spread what is left of it
    scaled = error.detach() * (-posterior.log_std).exp()
    density = (0.5 * scaled.square() + posterior.log_std).mean() + 0.5 * math.log(2 * math.pi)
    return -sdr_bk.mean() + density_weight * density, sdr_figures(sdr_bk, **{"-log q": density})


def waveform_elbo(
    posterior: WaveformPosterior,
    priors: list[WaveformPrior],
    mix_b1t: Tensor,
    rng: torch.Generator,
    *,
    sigma: float = 0.1,
) -> tuple[Tensor, dict[str, float]]:
    """`elbo` on samples (thesis Algorithm 3, Eq. 13), in nats a sample; to be maximised.

    The priors are taken at noise level sigma, and the constraint's width is sigma as well (thesis section 3.2).
    """
    return bound(posterior.mean, posterior.log_std, priors, SumLikelihood(mix_b1t), rng, sigma)
