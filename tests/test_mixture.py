"""Sources add up; their Wiener estimates do as well; the likelihood is that of a sum of Gaussians."""

import pytest
import torch

from deepsep.config import SpectrumConfig
from deepsep.inference.mixture import mix, project
from deepsep.inference.posterior import Posterior
from deepsep.spectral.likelihood import BandLikelihood, wiener_gains
from deepsep.spectral.spectrum import Spectrum
from deepsep.waveform.likelihood import SumLikelihood

SPECTRUM = Spectrum(SpectrumConfig(rate=8000, n_fft=64, single_bins=4))


def sources(b=2, k=3, n=5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(b, k, SPECTRUM.bands, n, generator=rng).double()


def likelihood(x, seed=1):
    rng = torch.Generator().manual_seed(seed)
    power = torch.rand(len(x), *x.shape[2:], generator=rng).double() + 0.01
    return BandLikelihood(power, SPECTRUM.count_d.double(), SPECTRUM)


def test_a_mixture_is_the_sum_of_its_sources():
    stems = torch.tensor([[[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]]])
    assert torch.equal(mix(stems), torch.tensor([[111.0, 222.0]]))


def test_wiener_gains_are_shares_of_power_and_sum_to_one():
    x = sources() * 5
    gains = wiener_gains(x, SPECTRUM)
    torch.testing.assert_close(gains.sum(1), torch.ones_like(gains[:, 0]))
    power = SPECTRUM.to_power(x)
    torch.testing.assert_close(gains, power / mix(power)[:, None])


def test_ratios_of_magnitudes_are_softer_and_sum_to_one_too():
    x = sources() * 5
    gains = wiener_gains(x, SPECTRUM, alpha=1.0)
    magnitude = SPECTRUM.to_power(x).sqrt()
    torch.testing.assert_close(gains, magnitude / mix(magnitude)[:, None])
    assert (gains.amax(1) <= wiener_gains(x, SPECTRUM).amax(1)).all()


def test_wiener_estimates_sum_to_the_mixture():
    x = sources(b=1)
    bins = SPECTRUM.n_fft // 2 + 1
    mixture = torch.randn(2, bins, 5, dtype=torch.complex128)
    estimates = SPECTRUM.expand(wiener_gains(x, SPECTRUM))[:, :, None] * mixture
    torch.testing.assert_close(mix(estimates)[0], mixture)


def test_the_wiener_estimate_is_the_conditional_mean():
    """E[S_0 | M] = g_0 M is the regression of S_0 on M, for draws of the model itself."""
    x = torch.tensor([0.4, 0.1, -0.3]).double()
    v = SPECTRUM.to_power(x)
    rng = torch.Generator().manual_seed(0)
    s = v.sqrt()[:, None] * torch.randn(3, 200000, generator=rng, dtype=torch.complex128)
    m = s.sum(0)
    regression = (s * m.conj()).real.mean(1) / m.abs().square().mean()
    gains = wiener_gains(x[None, :, None, None], SPECTRUM).flatten()
    torch.testing.assert_close(regression, gains, atol=0.01, rtol=0)


def test_log_prob_is_that_of_complex_gaussians():
    """The log density of single coefficients, summed over a band, up to the constant pi."""
    x = sources(b=1, n=2)
    bins = SPECTRUM.n_fft // 2 + 1
    m = torch.randn(1, bins, 2, dtype=torch.complex128)
    band = BandLikelihood(SPECTRUM_double().band_power(m.abs().square()), SPECTRUM.count_d.double(), SPECTRUM)
    V = SPECTRUM.expand(mix(SPECTRUM.to_power(x)))
    expected = -(V.log() + m.abs().square() / V).sum()
    torch.testing.assert_close(band.log_prob(x)[0], expected)


def SPECTRUM_double():
    spectrum = Spectrum(SPECTRUM.config)
    spectrum.count_d = spectrum.count_d.double()
    return spectrum


def test_the_score_is_the_gradient_of_log_prob():
    x = sources(n=2)
    fit = likelihood(x)
    score = Posterior([Flat()] * 3, fit, beta=0.7).drift(x, 1.0).score
    step = 1e-5
    for index in [(0, 0, 3, 1), (1, 2, 0, 0), (1, 1, 7, 1)]:
        up, down = x.clone(), x.clone()
        up[index] += step
        down[index] -= step
        slope = 0.7 * (fit.log_prob(up) - fit.log_prob(down)).sum() / (2 * step)
        torch.testing.assert_close(score[index], slope, rtol=1e-4, atol=1e-6)
    assert not x.requires_grad


def information(fit, x):
    """What the mixture alone says, by coordinate."""
    return fit.precision(x, 1.0, 1.0).values - 1.0


class Flat:
    def log_prob(self, x_bdn, sigma):
        return 0 * x_bdn.flatten(1).sum(1)


def test_the_score_vanishes_on_average_and_the_precision_bounds_its_covariance():
    """Fisher's two identities, over mixtures drawn from the model at x."""
    x = sources(b=1, n=1).expand(20000, -1, -1, -1).clone()
    V = mix(SPECTRUM.to_power(x))
    weight = SPECTRUM.count_d.double()
    # the mean of w unit exponentials: what w complex Gaussian coefficients' mean power is
    gamma = torch.distributions.Gamma(weight, weight)
    torch.manual_seed(0)
    power = V * gamma.sample((len(x),))[..., None]
    fit = BandLikelihood(power, weight, SPECTRUM)
    score = Posterior([Flat()] * 3, fit).drift(x, 1.0).score[..., 0]  # (b, k, d)
    bound = information(fit, x)[0, ..., 0].T  # (d, k)
    assert (score.mean(0).T.abs() / bound.sqrt()).max() < 0.05
    covariance = torch.einsum("bkd,bld->dkl", score, score) / len(score)
    assert (torch.linalg.eigvalsh(torch.diag_embed(bound) - covariance) > -0.1 * bound.amax(1)[:, None]).all()
    # the bound is tight: the information's row sums
    torch.testing.assert_close(covariance.sum(2), bound, rtol=0.2, atol=0.05 * float(bound.max()))


def test_bands_that_the_sample_rate_lacks_have_no_say():
    x = sources(b=1)
    weight = SPECTRUM.count_d.double() * (torch.arange(SPECTRUM.bands) < 5)
    fit = BandLikelihood(torch.rand(1, SPECTRUM.bands, 5).double(), weight, SPECTRUM)
    other = x.clone()
    other[:, :, 5:] += 3
    torch.testing.assert_close(fit.log_prob(x), fit.log_prob(other))
    assert not information(fit, x)[:, :, 5:].any() and information(fit, x)[:, :, :5].all()


@pytest.mark.parametrize("beta", [0.0, 0.5, 3.0])
def test_the_posterior_weighs_its_likelihood_by_beta(beta):
    x = sources()
    fit = likelihood(x)
    drift = Posterior([Flat()] * 3, fit, beta).drift(x, 0.5)
    torch.testing.assert_close(drift.score, beta * Posterior([Flat()] * 3, fit).drift(x, 0.5).score)
    torch.testing.assert_close(drift.precision.values, beta * information(fit, x) + 4)
    torch.testing.assert_close(drift.denoised, x)


def test_projection_is_the_nearest_point_that_sums_to_the_mixture():
    stems, mixture = torch.randn(2, 3, 1, 5).double(), torch.randn(2, 1, 5).double()
    nearest = project(stems, mixture)
    torch.testing.assert_close(mix(nearest), mixture)
    along = torch.randn(2, 3, 1, 5).double()
    along -= along.mean(1, keepdim=True)  # any way within the constraint
    assert ((nearest - stems) * along).sum().abs() < 1e-9
    torch.testing.assert_close(project(nearest, mixture), nearest)


@pytest.mark.parametrize(("gamma", "sigma", "beta"), [(0.5, 0.3, 1.0), (2.0, 1.5, 0.7)])
def test_the_precision_of_a_sum_is_exact(gamma, sigma, beta):
    """The Hessian of log p(m | x) - |x|^2 / (2 sigma^2), and its inverse and root."""
    fit = SumLikelihood(torch.randn(1, 1, 1).double(), gamma)

    def energy(x_k):
        x = x_k.reshape(1, 3, 1, 1)
        return x.square().sum() / (2 * sigma**2) - beta * fit.log_prob(x, sigma).sum()

    hessian = torch.autograd.functional.hessian(energy, torch.randn(3).double())
    precision = fit.precision(torch.zeros(1, 3, 1, 1), sigma, beta)
    v = torch.randn(1, 3, 1, 1).double()
    torch.testing.assert_close(hessian @ precision.solve(v).flatten(), v.flatten())
    torch.testing.assert_close(precision.solve_root(precision.solve_root(v)), precision.solve(v))


def test_stems_that_sum_to_the_mixture_are_the_likeliest():
    stems = torch.randn(4, 3, 1, 5).double()
    fit = SumLikelihood(mix(stems), 0.5)
    assert not fit.log_prob(stems, 0.1).any()
    off = stems + 0.1
    torch.testing.assert_close(
        fit.log_prob(off, 0.1), torch.full((4,), -0.5 * 5 * (0.3 / 0.05) ** 2).double()
    )
