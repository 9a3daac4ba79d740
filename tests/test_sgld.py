"""Langevin dynamics reaches what it should: on Gaussians, the closed-form posterior."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch

from deepsep.config import SgldConfig, SpectralSgldConfig, WaveformSgldConfig
from deepsep.inference import sgld
from deepsep.inference.mixture import mix
from deepsep.inference.posterior import Posterior
from deepsep.waveform.likelihood import SumLikelihood

CPU = torch.device("cpu")


@dataclass
class GaussianPrior:
    """N(mean, variance) on every coordinate, smoothed by the noise level."""

    mean: float
    variance: float

    def log_prob(self, x_bdn, sigma):
        return -0.5 * ((x_bdn - self.mean).square() / (self.variance + sigma**2)).flatten(1).sum(1)


@dataclass
class Constraint:
    """m = sum_k x_k + gamma * noise, at any noise level of the chain."""

    mixture: float
    gamma: float

    def at(self, sigma):
        return SumLikelihood(torch.full((1, 1, 1), self.mixture).double(), self.gamma / sigma)


PRIORS = [GaussianPrior(1.0, 0.5), GaussianPrior(-0.5, 0.1)]


def closed_form(priors, likelihood, sigma, beta=1.0):
    """Mean (k,) and covariance (k, k) of the sources given their mixture."""
    variance = torch.tensor([p.variance + sigma**2 for p in priors]).double()
    mean = torch.tensor([p.mean for p in priors]).double()
    ones = torch.ones(len(priors)).double()
    weight = beta / likelihood.gamma**2
    covariance = torch.linalg.inv(torch.diag(1 / variance) + weight * torch.outer(ones, ones))
    return covariance @ (mean / variance + weight * likelihood.mixture * ones), covariance


def chains(shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return lambda number: torch.randn(shape, generator=rng).double()


def run(posterior, sigma, steps, step_size, temperature, count=1, k=2):
    start = torch.zeros(count, k, 1, 1).double()
    config = SgldConfig(
        levels=1, steps=steps, sigma_max=sigma, sigma_min=sigma, step_size=step_size, temperature=temperature
    )
    *_, (state, _) = sgld.anneal(start, posterior, config, chains(start.shape))
    return state.position[..., 0, 0]


@pytest.mark.parametrize(("sigma", "gamma", "beta"), [(0.6, 0.5, 1.0), (0.4, 0.8, 2.0), (1.0, 0.3, 0.5)])
def test_langevin_reaches_the_posterior_of_gaussians(sigma, gamma, beta):
    likelihood = Constraint(2.0, gamma)
    posterior = Posterior(PRIORS, likelihood.at(sigma), beta, denoise=False)
    x = run(posterior, sigma, steps=500, step_size=0.1, temperature=1.0, count=8000)
    mean, covariance = closed_form(PRIORS, likelihood, sigma, beta)
    deviation = covariance.diagonal().sqrt()
    assert ((x.mean(0) - mean).abs() / deviation).max() < 0.06
    torch.testing.assert_close(
        torch.cov(x.T) / torch.outer(deviation, deviation),
        covariance / torch.outer(deviation, deviation),
        atol=0.12,  # 0.1 of a step's own bias, the rest chance
        rtol=0,
    )


def test_temperature_scales_the_spread_and_not_the_mean():
    posterior = Posterior(PRIORS, Constraint(2.0, 0.5).at(0.6), denoise=False)
    warm = run(posterior, 0.6, 300, 0.1, 1.0, 4000)
    cool = run(posterior, 0.6, 300, 0.1, 0.25, 4000)
    torch.testing.assert_close(cool.var(0) / warm.var(0), torch.full((2,), 0.25).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(cool.mean(0), warm.mean(0), atol=0.05, rtol=0)


def test_temperature_zero_climbs_to_the_mode_and_draws_no_noise():
    likelihood = Constraint(2.0, 0.5)
    start = torch.zeros(1, 2, 1, 1).double()
    config = SgldConfig(levels=1, steps=400, sigma_max=0.6, sigma_min=0.6, step_size=0.3, temperature=0.0)

    def none(number):
        raise AssertionError("noise was drawn at temperature 0")

    *_, (state, info) = sgld.anneal(start, Posterior(PRIORS, likelihood.at(0.6), denoise=False), config, none)
    mean, _ = closed_form(PRIORS, likelihood, 0.6)
    torch.testing.assert_close(state.position[0, :, 0, 0], mean)
    assert info.moved < 1e-12
    assert not start.any()  # the start is not written to


def test_without_a_gradient_nothing_moves():
    mean, _ = closed_form(PRIORS, Constraint(2.0, 0.5), 0.6)
    at_mode = mean.reshape(1, 2, 1, 1)
    state, _ = sgld.step(
        sgld.init(at_mode), Posterior(PRIORS, Constraint(2.0, 0.5).at(0.6), denoise=False), 0.6,
        step_size=0.3, temperature=0.0, noise=chains(at_mode.shape),
    )  # fmt: skip
    torch.testing.assert_close(state.position, at_mode)
    assert state.step == 1


@pytest.mark.parametrize("beta", [1.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("sources", [2, 4, 9])
def test_a_stiff_likelihood_stays_stable_for_any_number_of_sources(beta, sources):
    priors = [GaussianPrior(m, 0.2) for m in torch.linspace(-1, 1, sources).tolist()]
    likelihood = Constraint(3.0, 0.5)
    posterior = Posterior(priors, likelihood.at(0.5), beta, denoise=False)
    x = run(posterior, 0.5, 600, SgldConfig().step_size, 0.0, k=sources)
    mean, _ = closed_form(priors, likelihood, 0.5, beta)
    assert x.isfinite().all()
    assert float(mix(x)) == pytest.approx(float(mean.sum()), abs=1e-3)


@pytest.mark.parametrize("sigma", [0.2, 1.0])
def test_with_denoising_a_chain_rests_where_the_clean_sources_posterior_has_its_mean(sigma):
    """s + beta grad log p(m | x + sigma^2 s) = 0 says just that, at any noise level, for Gaussian priors."""
    likelihood = Constraint(2.0, 0.5)
    start = torch.zeros(1, 2, 1, 1).double()
    config = SgldConfig(
        levels=1, steps=3000, sigma_max=sigma, sigma_min=sigma, step_size=0.5, temperature=0.0
    )
    *_, (_, info) = sgld.anneal(start, Posterior(PRIORS, likelihood.at(sigma)), config, chains(start.shape))
    mean, _ = closed_form(PRIORS, likelihood, 0.0)
    torch.testing.assert_close(info.denoised[0, :, 0, 0], mean, atol=1e-6, rtol=0)


def test_at_gamma_zero_the_sum_is_kept_at_every_step():
    """S <- S + (I - 11^T / K)(update), in the limit that gamma 0 stands for."""
    likelihood = SumLikelihood(torch.full((1, 1, 1), 2.0).double(), 0.0)
    start = torch.tensor([1.5, 0.5]).double().reshape(1, 2, 1, 1)
    config = SgldConfig(levels=4, steps=50, sigma_max=1.0, sigma_min=0.3, step_size=0.5)
    posterior = Posterior(PRIORS, likelihood, denoise=False)
    moved = 0.0
    for state, _ in sgld.anneal(start, posterior, config, chains(start.shape)):
        assert float(mix(state.position)) == pytest.approx(2.0, abs=0.04)  # hundredths of sigma
        moved = max(moved, float((state.position - start).abs().max()))
    assert moved > 0.5


def test_no_coordinate_leaps():
    far = Posterior([GaussianPrior(1e6, 0.1)] * 2, Constraint(0.0, 1e3).at(1.0))
    start = torch.zeros(1, 2, 1, 1).double()
    cases = [
        (SpectralSgldConfig, {}, 1.0),
        (SpectralSgldConfig, {"largest": 0.1}, 0.1),
        (WaveformSgldConfig, {"largest_in_sigma": 2.0}, 0.4),
    ]
    for kind, allowed, largest in cases:
        config = kind(
            levels=1, steps=1, sigma_max=0.2, sigma_min=0.2, step_size=0.5, temperature=0.0, **allowed
        )
        [(state, _)] = sgld.anneal(start, far, config, chains(start.shape))
        assert float(state.position.abs().max()) == pytest.approx(largest)


def test_noise_levels_fall_geometrically():
    levels = sgld.noise_levels(SgldConfig(levels=6, sigma_max=1.5, sigma_min=0.2))
    assert levels[0] == pytest.approx(1.5) and levels[-1] == pytest.approx(0.2)
    ratios = [b / a for a, b in pairwise(levels)]
    assert max(ratios) == pytest.approx(min(ratios)) and max(ratios) < 1
    assert sgld.noise_levels(SgldConfig(levels=1, sigma_max=0.7)) == [0.7]


def test_a_chain_visits_every_level_in_order():
    config = SgldConfig(levels=3, steps=2, sigma_max=1.0, sigma_min=0.25)
    start = torch.zeros(1, 2, 1, 1).double()
    visits = list(
        sgld.anneal(start, Posterior(PRIORS, Constraint(1.0, 1.0).at(1.0)), config, chains(start.shape))
    )
    assert [info.sigma for _, info in visits] == pytest.approx([1, 1, 0.5, 0.5, 0.25, 0.25])
    assert [state.step for state, _ in visits] == [1, 2, 3, 4, 5, 6]


def test_windows_that_share_frames_share_their_noise():
    whole = sgld.frame_noise(7, 0, -40, (2, 3, 200), CPU)
    for first, n in [(-40, 64), (-8, 41), (0, 1), (31, 2), (32, 32), (95, 65)]:
        part = sgld.frame_noise(7, 0, first, (2, 3, n), CPU)
        for number in (0, 5):
            assert torch.equal(part(number), whole(number)[..., first + 40 : first + 40 + n])


def test_noise_is_standard_and_differs_by_seed_chain_and_step():
    shape = (2, 20, 320)
    draws = [
        sgld.frame_noise(seed, chain, 0, shape, CPU)(number)
        for seed in (0, 1) for chain in (0, 1) for number in (0, 1)
    ]  # fmt: skip
    each = torch.stack(draws).flatten(1)
    spread = 4 / math.sqrt(each.shape[1])
    torch.testing.assert_close(each @ each.T / each.shape[1], torch.eye(8), atol=2 * spread, rtol=0)
    frames = draws[0].flatten(0, 1).T  # no frame repeats another
    assert torch.cdist(frames, frames).add(100 * torch.eye(320)).min() > 1


def test_two_mirrored_chains_have_a_mean_that_no_noise_moves():
    """Exactly so where the posterior is Gaussian, since a step is linear there; each chain alone is like any other."""
    start = torch.zeros(4, 2, 3, 40).double()
    config = SgldConfig(levels=2, steps=4, sigma_max=0.6, sigma_min=0.6, temperature=1.0)
    posterior = Posterior(PRIORS, Constraint(2.0, 0.5).at(0.6), denoise=False)

    def end(noise, temperature=1.0):
        *_, (state, _) = sgld.anneal(start, posterior, replace(config, temperature=temperature), noise)
        return state.position

    mirrored = end(sgld.mirrored_noise(3, range(4), [0] * 4, start))
    still = end(None, temperature=0.0)
    for pair in mirrored.split(2):
        torch.testing.assert_close(pair.mean(0), still[0])
    independent = end(sgld.window_noise(3, range(4), [0] * 4, start))
    torch.testing.assert_close(mirrored[0], independent[0])
    spread = (mirrored - still).square().mean((1, 2, 3)) / (independent - still).square().mean()
    torch.testing.assert_close(spread, torch.ones(4).double(), atol=0.3, rtol=0)
    assert (mirrored[0] - mirrored[2]).square().mean() > 0.01
