"""Every map is what it says: invertible, with the log-determinant of its own Jacobian."""

import copy
import math
from typing import Any

import pytest
import torch
from conftest import shake

from deepsep.config import SpectralFlowConfig
from deepsep.flows.bijectors import ActNorm, BandCoupling, FrameCoupling, InvertibleConv, Whitening
from deepsep.flows.networks import NoiseEmbedding
from deepsep.spectral.flow import build_flow

EMBEDDING = 5
NETWORK: Any = dict(hidden=6, layers=2, kernel=3, embedding=EMBEDDING, bound=2.0)
EMPTY = torch.zeros(0)
SIGMA = torch.tensor([0.2, 1.1], dtype=torch.float64)


def whitening(channels):
    layer = Whitening(channels).double()  # axes rounded to float32 would be orthogonal to 1e-7 only
    layer.fit(torch.randn(50, channels) @ torch.randn(channels, channels) + 3)
    return layer


def flow(channels):
    prior = build_flow(SpectralFlowConfig(channels=channels, steps=4, hidden=6, layers=2))
    prior.whitening = whitening(channels)
    return prior


BIJECTORS = {
    "whitening": whitening,
    "act norm": ActNorm,
    "invertible conv": InvertibleConv,
    "band coupling": lambda d: BandCoupling(d, **NETWORK),
    "frame coupling, even frames given": lambda d: FrameCoupling(d, **NETWORK, parity=0),
    "frame coupling, odd frames given": lambda d: FrameCoupling(d, **NETWORK, parity=1),
    "whole flow": flow,
}
sizes = pytest.mark.parametrize(("channels", "frames"), [(4, 6), (5, 3), (2, 1), (3, 2)])
every = pytest.mark.parametrize("name", BIJECTORS)


def build(name, channels, steps=0, size=0.3):
    """The map with random weights in float64, and the condition it takes for a batch of two."""
    torch.manual_seed(1)
    layer = BIJECTORS[name](channels).double()
    shake(layer, size)
    condition = SIGMA if name in ("whitening", "whole flow") else torch.randn(2, EMBEDDING).double()
    if steps and list(layer.parameters()):
        learn(layer, condition, channels, steps)
    return layer, condition


def learn(layer, condition, channels, steps):
    """A few steps of maximum likelihood: weights as training leaves them."""
    layer.requires_grad_()
    optimizer = torch.optim.Adam(layer.parameters(), 0.02)
    for _ in range(steps):
        z, ladj = layer(torch.randn(2, channels, 7).double() * 2 + 1, condition)
        optimizer.zero_grad()
        (0.5 * z.square().flatten(1).sum(1) - ladj).mean().backward()
        optimizer.step()
    layer.requires_grad_(False)


@every
@sizes
@pytest.mark.parametrize("steps", [0, 5])
def test_ladj_is_the_jacobian_and_the_inverse_undoes_it(name, channels, frames, steps):
    layer, condition = build(name, channels, steps)
    x = torch.randn(2, channels, frames).double()
    y, ladj = layer(x, condition)
    assert y.shape == x.shape and ladj.shape == (2,)
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x, condition)[0], x)
    for b in range(2):
        own = jacobian[b, :, :, b].reshape(channels * frames, -1)
        torch.testing.assert_close(torch.linalg.slogdet(own)[1], ladj[b])
        assert not jacobian[b, :, :, 1 - b].any()  # batch items do not see each other
    back, ladj_back = layer.inverse(y, condition)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(ladj_back, -ladj)


@every
def test_float32_agrees_with_float64(name):
    layer, condition = build(name, 6, size=0.1)
    x = torch.randn(2, 6, 9).double()
    exact, exact_ladj = layer(x, condition)
    y, ladj = layer.float()(x.float(), condition.float())
    torch.testing.assert_close(y.double(), exact, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ladj.double(), exact_ladj, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(layer.inverse(y, condition.float())[0], x.float(), atol=1e-4, rtol=1e-4)


def test_a_coupling_starts_as_the_identity_and_a_convolution_as_a_rotation():
    x, condition = torch.randn(2, 6, 5), torch.randn(2, EMBEDDING)
    for name in BIJECTORS:
        if "coupling" in name:
            y, ladj = BIJECTORS[name](6)(x, condition)
            assert torch.equal(y, x) and not ladj.any()
    y, ladj = InvertibleConv(6)(x, condition)
    assert not torch.allclose(y, x, atol=0.1)
    torch.testing.assert_close(y.square().sum(1), x.square().sum(1))
    torch.testing.assert_close(ladj, torch.zeros(2), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_convolution_follows_its_weights_when_they_were_fixed_and_then_change():
    layer = InvertibleConv(6).requires_grad_(False)
    x = torch.randn(1, 6, 4)
    before = layer(x, EMPTY)[0]
    assert torch.equal(layer(x, EMPTY)[0], before)
    layer.log_diagonal += 1
    assert not torch.allclose(layer(x, EMPTY)[0], before)
    torch.testing.assert_close(layer.inverse(layer(x, EMPTY)[0], EMPTY)[0], x)
    layer.load_state_dict(InvertibleConv(6).state_dict())
    torch.testing.assert_close(layer.inverse(layer(x, EMPTY)[0], EMPTY)[0], x)
    assert copy.deepcopy(layer).double()(x.double(), EMPTY)[0].dtype == torch.float64


def test_a_coupling_scales_within_its_bound():
    layer = shake(BandCoupling(4, **NETWORK), 5.0)
    _, ladj = layer(100 * torch.randn(2, 4, 3), torch.randn(2, EMBEDDING))
    assert ladj.abs().max() <= 2.0 * 2 * 3  # bound x changed channels x frames


def test_act_norm_is_set_by_its_initialisation_alone():
    x = 3 * torch.randn(8, 4, 10) + 7
    layer = ActNorm(4).train()
    assert torch.equal(layer(x, EMPTY)[0], x)
    assert not layer.loc.any() and not layer.log_scale.any()  # a pass leaves it as it was
    layer.init_from(x, EMPTY)
    y, _ = layer(x, EMPTY)
    torch.testing.assert_close(y.mean((0, 2)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std((0, 2)), torch.ones(4), atol=1e-4, rtol=0)


def test_act_norm_survives_a_channel_that_never_changes():
    layer = ActNorm(2)
    layer.init_from(torch.ones(4, 2, 5), EMPTY)
    assert all(p.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_whitening_is_the_gaussian_of_noisy_data(sigma):
    torch.manual_seed(0)
    data = torch.randn(400, 5).double() @ torch.randn(5, 5).double() + torch.arange(5)
    layer = Whitening(5).double()
    layer.fit(data)
    x = torch.randn(3, 5, 4).double()
    z, ladj = layer(x, torch.full((3,), sigma).double())
    covariance = torch.cov(data.T, correction=0) + sigma**2 * torch.eye(5)
    gaussian = torch.distributions.MultivariateNormal(data.mean(0), covariance)
    expected = gaussian.log_prob(x.transpose(1, 2)).sum(1)
    torch.testing.assert_close(
        ladj - 0.5 * (z.square() + math.log(2 * math.pi)).flatten(1).sum(1), expected, rtol=1e-6, atol=1e-6
    )


def test_the_noise_embedding_tells_levels_apart():
    torch.manual_seed(0)
    embed = NoiseEmbedding(32)
    levels = torch.logspace(-1, 0.3, 30)
    features = embed(levels)
    apart = torch.cdist(features, features) + 100 * torch.eye(30)
    assert apart.min() > 1e-3
    near = embed(levels * 1.001)
    assert (near - features).norm(dim=1).max() < 0.05  # and smooth
    torch.testing.assert_close(torch.cat([embed(s[None]) for s in levels]), features)
