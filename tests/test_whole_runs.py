"""Whole trainings and separations on PyTorch's meta device, as on a GPU: what is left on the CPU is an error there.

What a program reads from that device, which has shapes and no values, is ones here.
"""

import importlib
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from test_runs import NET, SMALL, SOURCES, data, prior, priors  # noqa: F401 (fixtures)
from tiny import DOMAIN, SPECTRUM

import deepsep
from deepsep.evaluation.run import Evaluation
from deepsep.inference.model import Model
from deepsep.models import folder as folders
from deepsep.training import devices, loop

pytestmark = pytest.mark.slow
READS = ("cpu", "item", "tolist", "numpy", "__float__", "__int__", "__bool__", "__index__")


@pytest.fixture
def device(monkeypatch, meta_generators, priors):  # noqa: F811
    """Where all of this runs: everything but the recordings, and what is written, lies on the meta device."""
    for name in READS:
        real = getattr(torch.Tensor, name)

        def read(tensor, *words, real=real):
            return real(torch.ones(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor, *words)

        monkeypatch.setattr(torch.Tensor, name, read)
    config = importlib.import_module("torch.fx.experimental._config")
    monkeypatch.setattr(torch, "autocast", lambda *words, **more: nullcontext())  # it knows no such device
    for module in (devices, importlib.import_module("deepsep.api")):
        monkeypatch.setattr(module, "pick_device", lambda name: "meta")
    monkeypatch.setattr(loop, "save_checkpoint", lambda *words: None)
    monkeypatch.setattr(folders, "pack", lambda module, half: b"weights")
    with config.patch(meta_nonzero_assume_all_nonzero=True):
        yield "meta"


def test_a_prior_is_trained(device, data, tmp_path):  # noqa: F811
    assert prior("hum", data["hum"], tmp_path / "other").finished


@pytest.mark.parametrize("objective", ["simulated", "elbo", "both", "remix"])
def test_an_encoder_is_trained(device, data, priors, objective):  # noqa: F811
    songs = data["hum"] if objective != "simulated" else None
    training = deepsep.EncoderTraining(
        steps=2, batch=4, frames=16, workers=0, objective=objective, mixtures=songs
    )
    result = deepsep.train_encoder(priors, data, network=NET, training=training)
    assert result.finished and result.status.held_out


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_either_optimizer_moves_the_weights(device, data, priors, optimizer):  # noqa: F811
    training = deepsep.EncoderTraining(steps=2, batch=2, frames=16, workers=0, optimizer=optimizer)
    assert deepsep.train_encoder(priors, data, network=NET, training=training).finished


def test_priors_are_contrasted(device, data, priors, tmp_path):  # noqa: F811
    training = deepsep.ContrastTraining(steps=2, batch=2, frames=16, workers=0)
    result = deepsep.contrast_priors(priors, data, tmp_path / "out", training=training)
    assert result.finished and result.status.held_out


@pytest.fixture
def model(device):
    """Two priors and their encoder."""
    flows = {name: DOMAIN.build_flow(SMALL) for name in SOURCES}
    return Model(DOMAIN, flows, DOMAIN.build_encoder(NET, len(SOURCES)))


@pytest.mark.parametrize("method", ["encoder", "sgld"])
@pytest.mark.parametrize("draws", [None, 3])
def test_a_song_is_separated(model, method, draws):
    song = np.random.default_rng(0).standard_normal((2, 20000)).astype(np.float32)
    maps = []
    stems = deepsep.separate(
        song, SPECTRUM.rate, priors=model, method=method, draws=draws, on_uncertainty=maps.append
    )
    assert {x.shape for x in stems.values()} == {(draws, *song.shape) if draws else song.shape}
    assert len(maps) == 1


def test_songs_are_scored(model, data, tmp_path):  # noqa: F811
    song = tmp_path / "song"
    song.mkdir()
    for name in SOURCES:
        (song / f"{name}.wav").write_bytes((data[name] / "a.wav").read_bytes())
    how = Evaluation(methods=["mixture", "stationary", "sgld", "encoder", "encoder+sgld", "oracle"])
    results = deepsep.evaluate(song, priors=model, how=how)
    assert not results.failed and np.isfinite(results.mean("encoder"))


def test_a_prior_is_made_audible(model):
    draw = deepsep.sample_prior("hum", priors=model, seconds=0.5, iterations=2)
    assert draw.samples.shape[1] >= SPECTRUM.rate // 2
