"""Training from Python: what is checked before hours are spent, and that a run depends on its seed alone."""

import json
import os
import shutil

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from tiny import DOMAIN, SPECTRUM

import deepsep
from deepsep.spectral import training as training_of_bands
from deepsep.training import loop

SMALL = deepsep.SpectralFlowConfig(channels=SPECTRUM.bands, steps=1, hidden=4, layers=1)
NET = deepsep.SpectralEncoderConfig(bands=SPECTRUM.bands, widths=(4,), bottleneck=2, deep=0)
SOURCES = ("hum", "hiss")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two instruments of some seconds."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    t = np.arange(6 * SPECTRUM.rate) / SPECTRUM.rate
    for name, x in (("hum", np.sin(2 * np.pi * 200 * t)), ("hiss", random.standard_normal(len(t)))):
        (folder / name).mkdir()
        soundfile.write(folder / name / "a.wav", 0.1 * x, SPECTRUM.rate)
    return {name: folder / name for name in SOURCES}


def prior(source, data, out, steps=2, **more):
    training = deepsep.PriorTraining(steps=steps, batch=2, frames=16)
    return deepsep.train_prior(source, data, out, domain=DOMAIN, flow=SMALL, training=training, **more)


def encoder(priors, data, steps, **more):
    training = deepsep.EncoderTraining(steps=steps, batch=2, frames=16, workers=0, objective="simulated")
    return deepsep.train_encoder(priors, data, network=NET, training=training, **more)


@pytest.fixture
def priors(data, tmp_path):
    for source, folder in data.items():
        prior(source, folder, tmp_path / "priors")
    return tmp_path / "priors"


def same(a, b):
    one, other = load_file(a), load_file(b)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_training_leaves_the_callers_generator_alone(data, tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    prior("hum", data["hum"], tmp_path / "priors")
    assert torch.equal(torch.rand(3), expected)


def test_a_seed_decides_whatever_was_drawn_before(data, tmp_path):
    for name in ("one", "two"):
        torch.rand(5)
        prior("hum", [data["hum"]], str(tmp_path / name))
    assert same(tmp_path / "one" / "hum.safetensors", tmp_path / "two" / "hum.safetensors")


def test_no_clock_decides_what_a_resumed_run_draws(data, priors, tmp_path):
    assert encoder(priors, data, 2).status.step == 2
    checkpoint = priors / "training" / "encoder.safetensors"
    kept = checkpoint.read_bytes()
    results = []
    for seconds in (1e9, 1.5e9):
        checkpoint.write_bytes(kept)
        os.utime(checkpoint, (seconds, seconds))
        assert encoder(priors, data, 4, start="resume").status.step == 4
        results.append(load_file(priors / "encoder.safetensors"))
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])


def test_a_listener_is_told_of_files_steps_and_notes(data, tmp_path):
    files, notes, steps = [], [], []
    listener = deepsep.Listener(files=lambda *n: files.append(n), note=notes.append, step=steps.append)
    result = prior("hum", data["hum"], tmp_path / "priors", steps=3, listener=listener)
    assert result.finished and result.status.step == 3
    assert files == [(0, 1)] and not notes
    assert [s.step for s in steps] == [1, 2, 3] and steps[-1].fraction == 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"start": "again"}, "unknown start 'again'"),
        ({"flow": deepsep.SpectralFlowConfig()}, "293 bands"),
        ({"source": "a/b"}, "cannot name a source"),
        ({"data": "nowhere"}, "no such folder"),
        ({"start": "resume"}, "no checkpoint to resume from"),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_leaves_nothing(settings, told, data, tmp_path):
    words = {
        "source": "hum",
        "data": data["hum"],
        "out": tmp_path / "priors",
        "domain": DOMAIN,
        "flow": SMALL,
    }
    with pytest.raises(deepsep.DeepsepError, match=told) as caught:
        deepsep.train_prior(**{**words, **settings})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_settings_of_the_other_domain_are_errors_and_not_ignored(data, priors):
    with pytest.raises(deepsep.DeepsepError, match="leave the frames out"):
        deepsep.train_prior(
            "hum", data["hum"], priors.parent / "waves", domain=deepsep.WaveformDomain(),
            training=deepsep.PriorTraining(frames=64),
        )  # fmt: skip
    with pytest.raises(deepsep.DeepsepError, match="multiple of 2"):
        deepsep.train_encoder(priors, data, network=NET, training=deepsep.EncoderTraining(frames=17))
    with pytest.raises(deepsep.DeepsepError, match="mixtures are for the ELBO"):
        deepsep.EncoderTraining(objective="simulated", mixtures=priors)
    with pytest.raises(deepsep.DeepsepError, match="remix needs unlabelled songs"):
        deepsep.EncoderTraining(objective="remix")
    with pytest.raises(deepsep.DeepsepError, match="no recordings of hiss"):
        deepsep.train_encoder(priors, {"hum": data["hum"]}, network=NET)


def test_songs_are_mixed_anew_by_the_average_and_learnt_from(data, priors, monkeypatch):
    seen, together, remix = [], [], training_of_bands.remix

    def remixing(q, songs, *words):
        together.append(len(songs))
        return remix(q, songs, *words)

    monkeypatch.setattr(training_of_bands, "remix", remixing)
    training = deepsep.EncoderTraining(
        steps=3, batch=4, frames=16, workers=0, objective="remix", mixtures=data["hum"]
    )
    listener = deepsep.Listener(step=lambda status: seen.append(status.figures))
    result = deepsep.train_encoder(priors, data, network=NET, training=training, listener=listener)
    assert result.finished and all("SDR of remixes" in figures for figures in seen)
    assert together == [4] * 3  # of two, the surer one may be as bad as any
    about = json.loads((priors / "config.json").read_text())["encoder"]["training"]
    assert about["objective"] == "remix"


def test_a_batch_of_songs_shrinks_with_that_of_mixtures(data, priors, monkeypatch):
    """On a device that holds two songs at a time."""
    real, held, said = training_of_bands.elbo, [], []

    def elbo(encoder, flows, mix_bcdn, *words):
        held.append(len(mix_bcdn))
        if len(mix_bcdn) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(encoder, flows, mix_bcdn, *words)

    monkeypatch.setattr(training_of_bands, "elbo", elbo)
    training = deepsep.EncoderTraining(
        steps=2, batch=16, frames=16, workers=0, objective="elbo", mixtures=data["hum"]
    )
    listener = deepsep.Listener(note=said.append)
    assert deepsep.train_encoder(priors, data, network=NET, training=training, listener=listener).finished
    assert held == [4, 2, 2, 2, 2] and "taken in 2 parts" in said[-1]


def test_what_is_trained_is_replaced_only_where_that_is_said(data, priors):
    with pytest.raises(deepsep.DeepsepError, match="has been trained there"):
        prior("hum", data["hum"], priors)
    assert prior("hum", data["hum"], priors, steps=3, start="resume").status.step == 3
    assert prior("hum", data["hum"], priors, steps=1, start="overwrite").status.step == 1


# --- nothing trained is lost -----------------------------------------------------------------------------


def snapshot(folder):
    """Every file of a priors folder but the recordings' caches."""
    files = {
        str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file() and "cache" not in p.parts
    }
    return {name: path.read_bytes() for name, path in files.items()}


def stop_at(monkeypatch, step):
    """Ctrl-C comes as this step begins, counted from 0."""
    real = loop.learning_rate

    def rate(now, *args):
        if now == step:
            raise KeyboardInterrupt
        return real(now, *args)

    monkeypatch.setattr(loop, "learning_rate", rate)


RUNS = {
    "prior": lambda priors, data, **more: prior("hum", data["hum"], priors, steps=4, **more),
    "encoder": lambda priors, data, **more: encoder(priors, data, 4, **more),
}


@pytest.mark.parametrize("kind", RUNS)
def test_ctrl_c_before_the_first_step_leaves_what_was_trained(kind, data, priors, monkeypatch):
    RUNS["encoder"](priors, data)
    before = snapshot(priors)
    stop_at(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        RUNS[kind](priors, data, start="overwrite")
    assert snapshot(priors) == before


@pytest.mark.parametrize("kind", RUNS)
def test_what_an_unfinished_run_replaced_stays_beside_it_until_one_has_finished(
    kind, data, priors, monkeypatch
):
    RUNS["encoder"](priors, data)
    before = snapshot(priors)
    for stop in (1, 2):
        with monkeypatch.context() as patch:
            stop_at(patch, stop)
            result = RUNS[kind](priors, data, start="overwrite")
        assert not result.finished and result.status.step == stop
        kept = snapshot(result.former)  # after two interrupted runs still that of the finished one
        assert len(kept) == 3 and kept.items() <= before.items()
        deepsep.load_priors(priors)
    again = priors.parent / "again"
    shutil.copytree(priors, again)
    shutil.copytree(again / result.former.relative_to(priors), again, dirs_exist_ok=True)
    assert snapshot(again).items() >= before.items()
    deepsep.load_priors(again)
    result = RUNS[kind](priors, data, start="resume")
    assert result.finished and result.status.step == 4 and result.former is None
    assert snapshot(priors).keys() == before.keys()


def test_a_run_that_learns_nothing_replaces_nothing(data, priors, monkeypatch):
    before = snapshot(priors)
    norm = torch.tensor(float("nan"))
    monkeypatch.setattr(loop.nn.utils, "clip_grad_norm_", lambda *args: norm)
    with pytest.raises(deepsep.DeepsepError, match="nothing is saved; try a lower learning rate"):
        prior("hum", data["hum"], priors, start="overwrite")
    assert snapshot(priors) == before


def test_a_time_limit_ends_no_run_before_its_first_step(data, tmp_path):
    training = deepsep.PriorTraining(steps=9, batch=2, frames=16, minutes=1e-9)
    result = deepsep.train_prior(
        "hum", data["hum"], tmp_path / "p", domain=DOMAIN, flow=SMALL, training=training
    )
    assert result.finished and result.status.step == 1
