"""Muon: hidden weights move by orthogonal matrices, all else as by AdamW."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deepsep.config import SpectralEncoderConfig
from deepsep.spectral.encoder import UNet
from deepsep.training.muon import Muon, hidden_weights, orthogonalise

ADAM = {"betas": (0.9, 0.99), "weight_decay": 1e-4}


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(5, 60), columns=st.integers(5, 60), seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6)
)
def test_singular_values_of_any_matrix_come_near_one(rows, columns, seed, scale):
    """All but those that are lost in the largest's rounding, and with the singular vectors that they had."""
    rng = torch.Generator().manual_seed(seed)
    matrix = scale * torch.randn(rows, columns, generator=rng)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    found = u.T @ orthogonalise(matrix) @ v.T
    inside = s > 0.02 * s[0]
    assert ((found.diagonal() > 0.5) & (found.diagonal() < 1.3))[inside].all()
    assert (found - torch.diag(found.diagonal())).abs().max() < 0.02


def test_a_matrix_of_zeros_stays_one():
    assert not orthogonalise(torch.zeros(6, 8)).any()


def test_hidden_weights_are_the_matrices_between_the_first_and_the_last_layer():
    net = UNet(SpectralEncoderConfig(bands=32, widths=(8, 8), bottleneck=6, deep=1), 2)
    hidden = hidden_weights(net)
    names = {name for name, p in net.named_parameters() if any(p is q for q in hidden)}
    assert "down.0.convolutions.0.weight" in names and "up.0.dense.up.weight" in names
    assert "first.weight" not in names and "last.weight" not in names
    assert all(p.ndim > 1 for p in hidden)
    assert not any(
        name.startswith("pool.") for name in names
    )  # a channel's own 2 x 2: nothing to make orthogonal


def net_with_gradients():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
    net.register_module("last", nn.Linear(8, 4))
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    return net


def test_all_other_parameters_move_as_by_adamw():
    net = net_with_gradients()
    twin = copy.deepcopy(net)
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        q.grad = p.grad.clone()
    muon, adamw = Muon(net, 0.01, **ADAM), torch.optim.AdamW(twin.parameters(), 0.01, **ADAM)
    for optimizer in (muon, adamw):
        optimizer.step()
        optimizer.step()
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        same = torch.equal(p, q)
        assert same != any(p is h for h in muon.hidden)
    assert len(muon.hidden) == 2


def test_a_first_step_is_as_large_as_adamws_and_goes_along_the_gradient():
    net = net_with_gradients()
    before = net[0].weight.detach().clone()
    Muon(net, 0.01, decay=0.0, **ADAM).step()
    moved = before - net[0].weight.detach()
    assert 0.05 < moved.square().mean().sqrt() / 0.01 < 0.35
    assert (moved * net[0].weight.grad).sum() > 0


@pytest.mark.parametrize("steps", [1, 3])
def test_a_restored_state_goes_on_alike(steps):
    net = net_with_gradients()
    muon = Muon(net, 0.01, **ADAM)
    gradients = [[torch.randn_like(p) for p in net.parameters()] for _ in range(2 * steps)]

    def walk(net, optimizer, part):
        for step in part:
            for p, g in zip(net.parameters(), step, strict=True):
                p.grad = g.clone()
            optimizer.step()

    walk(net, muon, gradients[:steps])
    twin = copy.deepcopy(net)
    other = Muon(twin, 0.01, **ADAM)
    other.load_state_dict(copy.deepcopy(muon.state_dict()))
    walk(net, muon, gradients[steps:])
    walk(twin, other, gradients[steps:])
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), twin.parameters(), strict=True))
