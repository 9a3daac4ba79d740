"""A prior is a density: it integrates to one, its samples follow it, and running it changes nothing."""

import math

import pytest
import torch
from conftest import shake

from deepsep.config import SpectralFlowConfig
from deepsep.inference.losses import bits_per_dim
from deepsep.spectral.flow import build_flow


def gaussian_prior(mean, covariance, frames=4000, **settings):
    """A flow that knows its data's mean and covariance and no more, and the data."""
    rng = torch.Generator().manual_seed(0)
    factor = torch.linalg.cholesky(covariance)
    data = mean + torch.randn(frames, len(mean), generator=rng).double() @ factor.T
    prior = build_flow(
        SpectralFlowConfig(channels=len(mean), steps=2, hidden=4, layers=1, **settings), rng
    ).double()
    prior.whitening.fit(data)
    return prior.eval().requires_grad_(False), data


MEAN = torch.tensor([1.0, -2.0, 0.5]).double()
COVARIANCE = torch.tensor([[2.0, 0.9, 0.0], [0.9, 1.0, -0.3], [0.0, -0.3, 0.4]]).double()


@pytest.mark.parametrize(("seed", "sigma"), [(0, 0.3), (1, 1.0)])
def test_the_density_integrates_to_one(sigma, seed):
    torch.manual_seed(seed)
    prior = shake(
        build_flow(SpectralFlowConfig(channels=2, steps=4, hidden=4, layers=1)).double(), 0.25, seed
    )
    prior.whitening.fit(torch.randn(50, 2) + 1)
    # where the mass is, by samples; then a grid well beyond it
    rng = torch.Generator().manual_seed(2)
    seen = prior.sample(1000, 1, sigma, rng)[..., 0]
    low, high = seen.amin(0) - 2, seen.amax(0) + 2
    axes = [torch.linspace(float(a), float(b), 90).double() for a, b in zip(low, high, strict=True)]
    grid = torch.cartesian_prod(*axes)[..., None]
    cell = float((axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0]))
    mass = cell * prior.log_prob(grid, sigma).exp().sum()
    assert float(mass) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("sigma", [0.1, 1.0])
def test_samples_follow_the_density(sigma):
    prior, data = gaussian_prior(MEAN, COVARIANCE)
    x = prior.sample(20000, 2, sigma, torch.Generator().manual_seed(1)).transpose(1, 2).flatten(0, 1)
    expected = torch.cov(data.T, correction=0) + sigma**2 * torch.eye(3)
    torch.testing.assert_close(x.mean(0), data.mean(0), atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(x.T), expected, atol=0.06, rtol=0)


def test_bits_per_dim_of_a_gaussian_is_its_entropy():
    prior, data = gaussian_prior(MEAN, COVARIANCE, frames=60000)
    sigma = 0.3
    noisy = data + sigma * torch.randn(data.shape, generator=torch.Generator().manual_seed(3)).double()
    x = noisy.reshape(-1, 6, 3).transpose(1, 2)
    bits = bits_per_dim(prior.log_prob(x, sigma), x.shape)
    total = COVARIANCE + sigma**2 * torch.eye(3)
    entropy = 0.5 * (3 * math.log(2 * math.pi * math.e) + float(torch.logdet(total))) / math.log(2)
    assert float(bits) == pytest.approx(entropy / 3, abs=0.01)


def test_a_batch_of_noise_levels_equals_each_alone_and_the_range_ends_where_training_did():
    torch.manual_seed(0)
    prior = shake(build_flow(SpectralFlowConfig(channels=4, steps=4, hidden=8, layers=1)).double(), 0.3)
    x = torch.randn(3, 4, 5).double()
    sigma = torch.tensor([0.1, 0.6, 2.0]).double()
    together = prior.log_prob(x, sigma)
    alone = torch.cat([prior.log_prob(x[i : i + 1], float(s)) for i, s in enumerate(sigma)])
    torch.testing.assert_close(together, alone)
    assert len({round(float(v), 3) for v in prior.log_prob(x[:1].expand(3, -1, -1), sigma)}) == 3
    torch.testing.assert_close(prior.log_prob(x, 0.01), prior.log_prob(x, 0.1))
    torch.testing.assert_close(prior.log_prob(x, 9.0), prior.log_prob(x, 2.0))


def test_initialisation_normalises_what_each_step_sees():
    torch.manual_seed(0)
    prior = build_flow(SpectralFlowConfig(channels=4, steps=3, hidden=8, layers=1))
    x = 5 * torch.randn(64, 4, 8) + 9
    rng = torch.Generator().manual_seed(1)
    prior.initialise(x, 0.1, rng)
    seen = x[:32] + 0.1 * torch.randn(32, 4, 8, generator=rng.manual_seed(1))
    z, _ = prior(seen, 0.1)
    torch.testing.assert_close(z.mean((0, 2)), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.var((0, 2)).mean(), torch.tensor(1.0), atol=1e-2, rtol=0)


def test_running_or_loading_a_prior_changes_none_of_its_weights():
    torch.manual_seed(0)
    config = SpectralFlowConfig(channels=3, steps=2, hidden=4, layers=1)
    trained = shake(build_flow(config), 0.3)
    fresh = build_flow(config).train()
    fresh.load_state_dict(trained.state_dict())
    for _ in range(2):
        fresh.log_prob(50 + torch.randn(4, 3, 6), 0.5)
        fresh.sample(2, 3, 0.5, torch.Generator())
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name]), name
