"""The losses equal what they stand for, in cases where that can be worked out."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import shake

from deepsep.config import SpectralEncoderConfig, SpectralFlowConfig, SpectrumConfig
from deepsep.inference.draws import Draws
from deepsep.inference.losses import bits_per_dim, gaussian_elbo, prior_loss, random_sigma
from deepsep.spectral.encoder import BandPosterior, UNet
from deepsep.spectral.flow import build_flow
from deepsep.spectral.losses import ELBO_SIGMA, contrast_loss, elbo, sleep_loss, tweedie
from deepsep.spectral.mixtures import gram_sums, mixtures
from deepsep.spectral.remix import remix
from deepsep.spectral.spectrum import Spectrum, stereo_power

SPECTRUM = Spectrum(SpectrumConfig(rate=8000, n_fft=64, single_bins=4))
LOG_2PI = math.log(2 * math.pi)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gaussian(mean_d, variance_d, trainable=False, **settings):
    """A flow that is the Gaussian of these moments: fresh couplings are identities."""
    prior = build_flow(SpectralFlowConfig(channels=len(mean_d), steps=2, hidden=4, layers=1, **settings))
    prior.whitening.mean.copy_(mean_d)
    prior.whitening.variance.copy_(variance_d)
    return prior.eval().requires_grad_(trainable)


def constant_encoder(bands, logits, log_std):
    """An encoder that gives every coefficient the same q."""
    torch.manual_seed(0)
    encoder = shake(
        UNet(SpectralEncoderConfig(bands=bands, widths=(4,), bottleneck=2, deep=0, context=10), len(logits))
    )
    encoder.last.weight.zero_()
    encoder.last.bias.copy_(torch.tensor([*logits, *(v + 1 for v in log_std)]))
    return encoder


def test_elbo_of_one_gaussian_source_is_its_closed_form():
    """q = N(m, s^2), p = N(mu, v): every expectation is known, that of exp(-scale x) too."""
    bands, frames, log_std = SPECTRUM.bands, 16, -2.3
    mu, v = noise(bands, seed=1), 0.3 + noise(bands, seed=2).square()
    planes = (0.05 + noise(1, 1, bands, frames, seed=3).square()).expand(400, 4, -1, -1)
    encoder = constant_encoder(bands, [0.0], [log_std])
    value, parts = elbo(encoder, [gaussian(mu, v)], planes, SPECTRUM, Draws(torch.Generator().manual_seed(4)))

    power, s2 = planes[0, 0].double(), math.exp(2 * log_std)
    mean = SPECTRUM.to_x(power)
    mu, v = mu.double()[:, None], v.double()[:, None] + ELBO_SIGMA**2
    log_prior = -0.5 * (LOG_2PI + v.log() + ((mean - mu).square() + s2 + ELBO_SIGMA**2) / v)
    entropy = 0.5 * (1 + LOG_2PI) + log_std
    scale, shift = SPECTRUM.config.scale, SPECTRUM.config.shift
    log_v = scale * mean + shift
    inverse_v = (-log_v + scale**2 * s2 / 2).exp()
    fit = -SPECTRUM.count_d[:, None] * (log_v + (power + SPECTRUM.floor) * inverse_v)
    assert float(value) == pytest.approx(float((log_prior + entropy + fit).mean()), abs=5e-3)
    assert parts["log p"] == pytest.approx(float(log_prior.mean()), abs=5e-3)
    assert parts["log p(m|x)"] == pytest.approx(float(fit.mean()), abs=5e-3)


class Uninformed:
    """The likelihood of a mixture that was not observed."""

    def log_prob(self, x_bkdn, sigma):
        return x_bkdn.new_zeros(len(x_bkdn))


def test_elbo_without_likelihood_is_minus_the_divergence_from_the_priors():
    """Three sources: -KL(q, p) where nothing is observed, at sigma that blurs neither."""
    bands, frames = SPECTRUM.bands, 8
    log_std = torch.tensor([-1.0, -0.5, -1.5])
    mus = [noise(bands, seed=s) for s in range(3)]
    vs = [0.5 + noise(bands, seed=s + 9).square() for s in range(3)]
    priors = [gaussian(mu, v, sigma_min=1e-4) for mu, v in zip(mus, vs, strict=True)]
    mean = noise(1, 3, bands, frames, seed=3)
    value, _ = gaussian_elbo(
        mean.expand(800, -1, -1, -1), log_std[:, None, None].expand(800, 3, bands, frames), priors, Uninformed(),
        Draws(torch.Generator().manual_seed(5)), 1e-3,
    )  # fmt: skip
    divergence = []
    for k in range(3):
        q = torch.distributions.Normal(mean[0, k], math.exp(log_std[k]))
        p = torch.distributions.Normal(mus[k][:, None], vs[k].sqrt()[:, None])
        divergence.append(torch.distributions.kl_divergence(q, p).mean())
    assert float(value) == pytest.approx(-float(torch.stack(divergence).mean()), abs=5e-3)


def test_elbo_reaches_the_encoder_and_not_the_priors():
    bands = SPECTRUM.bands
    encoder = constant_encoder(bands, [0.1, 0.2], [-1.0, -1.0]).requires_grad_()
    prior = gaussian(torch.zeros(bands), torch.ones(bands))
    planes = torch.ones(2, 4, bands, 8)
    value, _ = elbo(encoder, [prior, prior], planes, SPECTRUM, Draws(torch.Generator()))
    value.backward()
    assert encoder.last.bias.grad.abs().min() > 0
    assert all(p.grad is None for p in prior.parameters())


# -- sleep phase -------------------------------------------------------------------------------------------


def stereo_scene(b=2, signals=4, stems=3):
    """Mono signals, their gains into left and right, whose each is, and the stems as real stereo signals."""
    x = noise(signals, (20 + 3) * SPECTRUM.hop, seed=1)
    gains = noise(b, 2, signals, seed=2)
    source = torch.tensor([0, 1, 2, 1])
    stems_bkct = torch.stack([(gains[..., None] * x)[:, :, source == k].sum(2) for k in range(stems)], 1)
    gram = gram_sums(SPECTRUM.stft(x), SPECTRUM)
    return mixtures(gram, gains, source, stems, SPECTRUM.count_d), SPECTRUM.stft(stems_bkct)


def test_gram_sums_give_the_powers_of_really_mixed_signals():
    m, stems_bkcfn = stereo_scene()
    mix_bcfn = stems_bkcfn.sum(1)
    total = SPECTRUM.band_power(mix_bcfn.abs().square()) * SPECTRUM.count_d[:, None]
    torch.testing.assert_close(m.total_bdn, total.sum(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(m.mix_bcdn, stereo_power(mix_bcfn, SPECTRUM), rtol=1e-3, atol=1e-4)
    own = SPECTRUM.band_power(stems_bkcfn.abs().square()) * SPECTRUM.count_d[:, None]
    torch.testing.assert_close(m.power_bpdn, own.sum(2), rtol=1e-4, atol=1e-4)


def test_the_masked_error_by_gram_sums_is_the_error_at_full_resolution():
    m, stems_bkcfn = stereo_scene()
    k, (b, d, n) = stems_bkcfn.shape[1], m.total_bdn.shape
    log_gain = noise(b, k, d, n, seed=5).log_softmax(1)
    posterior = BandPosterior(log_gain, 0.3 * noise(b, k, d, n, seed=6))
    loss, figures = sleep_loss(posterior, m, SPECTRUM, density_weight=0.5)

    mix_bcfn = stems_bkcfn.sum(1)
    estimate = SPECTRUM.expand(log_gain.exp())[:, :, None] * mix_bcfn[:, None]
    error = (estimate - stems_bkcfn).abs().square().flatten(2).sum(2)
    power = stems_bkcfn.abs().square().flatten(2).sum(2)
    small = 10**-2.5 * mix_bcfn.abs().square().flatten(1).sum(1)[:, None]
    sdr = 10 * torch.log10((power + small) / (error + small))
    for i in range(k):
        assert figures[f"SDR {i}"] == pytest.approx(float(sdr.mean(0)[i]), abs=1e-3)

    x_true = SPECTRUM.to_x(SPECTRUM.band_power(stems_bkcfn.abs().square().mean(2)))
    mean = posterior.mean(SPECTRUM.band_power(mix_bcfn.abs().square().mean(1)), SPECTRUM)
    q = torch.distributions.Normal(mean, posterior.log_std.exp())
    density = -q.log_prob(x_true).mean() - 0.5 * LOG_2PI
    assert figures["-log q"] == pytest.approx(float(density), rel=1e-3)
    assert float(loss) == pytest.approx(float(-sdr.mean() + 0.5 * density), rel=1e-3)


def test_of_a_set_the_sum_of_its_estimates_counts():
    """Stems 1 and 2 known together: the error is that of their sum, and no density of either is asked for."""
    m, stems_bkcfn = stereo_scene()
    k, (b, d, n) = stems_bkcfn.shape[1], m.total_bdn.shape
    both = stems_bkcfn[:, 1:].sum(1)
    count = SPECTRUM.count_d[:, None]
    power = SPECTRUM.band_power(both.abs().square()).sum(1) * count
    cross = SPECTRUM.band_power((both * stems_bkcfn.sum(1).conj()).real).sum(1) * count
    member = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0]]).expand(b, -1, -1)
    nothing = torch.zeros_like(power)
    known = replace(
        m,
        power_bpdn=torch.stack([m.power_bpdn[:, 0], power, nothing], 1),
        cross_bpdn=torch.stack([m.cross_bpdn[:, 0], cross, nothing], 1),
        member_bpk=member,
    )
    log_gain = noise(b, k, d, n, seed=5).log_softmax(1)
    log_std = 0.3 * noise(b, k, d, n, seed=6)
    loss, figures = sleep_loss(BandPosterior(log_gain, log_std), known, SPECTRUM, density_weight=0.5)
    mix_bcfn = stems_bkcfn.sum(1)
    small = 10**-2.5 * mix_bcfn.abs().square().flatten(1).sum(1)
    sdr = []
    for true, gain in ((stems_bkcfn[:, 0], log_gain[:, 0].exp()), (both, log_gain[:, 1:].exp().sum(1))):
        error = (SPECTRUM.expand(gain)[:, None] * mix_bcfn - true).abs().square().flatten(1).sum(1)
        sdr.append(10 * torch.log10((true.abs().square().flatten(1).sum(1) + small) / (error + small)))
    assert figures["SDR 0"] == pytest.approx(float(sdr[0].mean()), abs=1e-3)
    assert math.isnan(figures["SDR 1"]) and math.isnan(figures["SDR 2"])
    moved = BandPosterior(log_gain, log_std + torch.tensor([0.0, 1, 1])[:, None, None])
    assert sleep_loss(moved, known, SPECTRUM, density_weight=0.5)[0] == loss
    expected = -torch.stack(sdr).mean() + 0.5 * figures["-log q"]
    assert float(loss) == pytest.approx(float(expected), rel=1e-3)


def test_the_best_mask_for_a_source_alone_is_one():
    m, _ = stereo_scene(signals=4)
    only = torch.ones(len(m.total_bdn), 1, 1)
    alone = type(m)(m.mix_bcdn, m.total_bdn, m.total_bdn[:, None], m.total_bdn[:, None], only)
    q = BandPosterior(torch.zeros(alone.cross_bpdn.shape), torch.zeros(alone.cross_bpdn.shape))
    _, figures = sleep_loss(q, alone, SPECTRUM)
    assert figures["SDR"] == pytest.approx(25, abs=0.1)  # the ceiling that the relative floor sets


# -- priors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.2, 1.0])
def test_the_losses_of_the_exact_gaussian(sigma):
    """bits/dim is the entropy; sigma score + eps has mean 0 given x, variance v / (v + sigma^2)."""
    mean, v = torch.tensor([1.0, -2.0, 0.3, 0.0]), torch.tensor([0.3, 1.0, 2.0, 0.6])
    prior = gaussian(mean, v, sigma_min=sigma, sigma_max=sigma * 1.0001)
    x = mean[:, None] + v.sqrt()[:, None] * noise(3000, 4, 6, seed=1)
    loss, figures = prior_loss(prior, x, Draws(torch.Generator().manual_seed(2)), score_weight=0.5)
    entropy = 0.5 * (1 + LOG_2PI + (v + sigma**2).log()).mean() / math.log(2)
    assert figures["bits/dim"] == pytest.approx(float(entropy), abs=0.01)
    assert figures["score error"] == pytest.approx(float((v / (v + sigma**2)).mean()), abs=0.01)
    assert float(loss.detach()) == pytest.approx(
        float(figures["bits/dim"] + 0.5 * figures["score error"]), rel=1e-5
    )

    wrong = gaussian(mean + 0.5, v, sigma_min=sigma, sigma_max=sigma * 1.0001)
    _, worse = prior_loss(wrong, x, Draws(torch.Generator().manual_seed(2)), score_weight=0.5)
    assert worse["score error"] > figures["score error"] and worse["bits/dim"] > figures["bits/dim"]


def test_score_matching_has_no_pull_on_the_exact_score():
    """Its gradient with respect to the flow's weights vanishes on average, and does not off the optimum."""
    v = torch.tensor([0.5, 1.5])
    x = v.sqrt()[:, None] * noise(20000, 2, 2, seed=3)

    def pull(shift):
        prior = gaussian(torch.full((2,), shift), v, True, sigma_min=0.5, sigma_max=0.5001)
        loss, _ = prior_loss(prior, x, Draws(torch.Generator().manual_seed(4)), score_weight=1e4)
        prior.zero_grad()
        loss.backward()
        return torch.cat([p.grad.flatten() for n, p in prior.named_parameters() if n.endswith(".loc")]) / 1e4

    assert pull(0.0).abs().max() < 0.02
    assert pull(0.7).abs().max() > 0.2


def test_noise_levels_are_log_uniform_over_the_priors_range():
    prior = gaussian(torch.zeros(2), torch.ones(2), sigma_min=0.1, sigma_max=2.0)
    sigma = random_sigma(prior, 20000, Draws(torch.Generator().manual_seed(0)), torch.device("cpu"))
    assert sigma.min() >= 0.1 and sigma.max() <= 2.0
    place = (sigma.log() - math.log(0.1)) / math.log(20)
    assert float(place.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(place.var()) == pytest.approx(1 / 12, abs=0.003)


def test_bits_per_dim_are_nats_over_log_two_a_number():
    assert float(bits_per_dim(torch.tensor([-6.0, -10.0]), torch.Size([2, 4, 2]))) == pytest.approx(
        1 / math.log(2)
    )


# -- contrast ----------------------------------------------------------------------------------------------


def test_denoising_by_the_score_is_exact_where_the_density_is_known():
    mean, variance = torch.arange(5.0), torch.arange(1.0, 6.0)
    prior, sigma, x = gaussian(mean, variance), torch.tensor([0.5, 1.5]), noise(2, 5, 7, seed=3)
    kept = variance / (variance + sigma[:, None] ** 2)
    expected = mean[:, None] + kept[..., None] * (x - mean[:, None])
    torch.testing.assert_close(tweedie(prior, x, sigma), expected, atol=1e-5, rtol=1e-5)


def test_contrast_teaches_priors_to_share_out_a_mixture():
    m, _ = stereo_scene()
    torch.manual_seed(0)
    small = SpectralFlowConfig(channels=SPECTRUM.bands, steps=2, hidden=8, layers=1)
    priors = torch.nn.ModuleList(build_flow(small, torch.Generator().manual_seed(k)) for k in range(3))
    start = torch.full((3, SPECTRUM.bands, 1), 1 / 3)

    def loss_at(seed, weight=0.5):
        rng = torch.Generator().manual_seed(seed)
        return contrast_loss(list(priors), m, start[..., 0], SPECTRUM, Draws(rng), weight)

    def sdr():
        return sum(loss_at(seed)[1]["SDR"] for seed in range(100, 108)) / 8

    optimizer = torch.optim.Adam(priors.parameters(), 3e-3)
    before = sdr()
    told = []
    for seed in range(24):
        loss, figures = loss_at(seed)
        told.append("bits/dim" in figures)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sdr() > before + 0.3
    assert 1 < sum(told) < 14  # likelihood at some steps, a quarter on average
    _, figures = loss_at(told.index(True), weight=0)
    assert "bits/dim" not in figures
    assert figures["SDR"] == pytest.approx(float(sum(figures[f"SDR {k}"] for k in range(3))) / 3, abs=1e-4)


def songs_and_posterior(songs, stems=3, frames=12):
    spectra = SPECTRUM.stft(noise(songs, 2, (frames + 3) * SPECTRUM.hop, seed=5))
    logits = noise(songs, stems, SPECTRUM.bands, frames, seed=6)
    return spectra, BandPosterior(logits.log_softmax(1), 0.3 * noise(*logits.shape, seed=7))


def test_one_song_mixed_anew_is_itself():
    spectra, q = songs_and_posterior(1)
    m = remix(q, spectra, SPECTRUM, Draws(torch.Generator().manual_seed(0)))
    torch.testing.assert_close(m.mix_bcdn, stereo_power(spectra, SPECTRUM))
    torch.testing.assert_close(m.cross_bpdn.sum(1), m.total_bdn)
    # a mask's share of the mixture: C = g P, Q = g^2 P
    torch.testing.assert_close(m.cross_bpdn, q.log_gain.exp() * m.total_bdn[:, None])
    torch.testing.assert_close(m.power_bpdn, q.log_gain.exp().square() * m.total_bdn[:, None])


def test_every_estimate_is_heard_in_some_mixture_and_the_surest_are_asked_for():
    spectra, q = songs_and_posterior(6)
    m = remix(q, spectra, SPECTRUM, Draws(torch.Generator().manual_seed(1)))
    other = remix(q, spectra, SPECTRUM, Draws(torch.Generator().manual_seed(2)))
    torch.testing.assert_close(m.power_bpdn.sum(0), other.power_bpdn.sum(0))
    torch.testing.assert_close(m.cross_bpdn.sum(1), m.total_bdn, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(m.power_bpdn, other.power_bpdn)
    asked = m.member_bpk.diagonal(dim1=1, dim2=2)
    assert (asked.sum(0) == 3).all() and asked.sum() == m.member_bpk.sum()


def test_an_estimate_that_is_unsure_is_not_asked_for():
    spectra, q = songs_and_posterior(4)
    log_std = torch.zeros_like(q.log_std)
    log_std[2:] = 1.0  # of the last two songs nothing is known
    m = remix(q._replace(log_std=log_std), spectra, SPECTRUM, Draws(torch.Generator().manual_seed(3)))
    known = SPECTRUM.band_power(spectra.abs().square()).sum(1) * SPECTRUM.count_d[:, None]
    own = q.log_gain.exp().square() * known[:, None]
    for b, k in (m.member_bpk.diagonal(dim1=1, dim2=2) > 0).nonzero().tolist():
        assert any(torch.allclose(m.power_bpdn[b, k], own[song, k], rtol=1e-4) for song in (0, 1))
