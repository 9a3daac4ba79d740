"""The toy instruments are what they say, their densities are densities, and the folder is whole or not there."""

import math
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from tiny import Commands

from deepsep.errors import DeepsepError
from deepsep.recordings import toy

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from exact import ExactPrior


def test_waves_have_amplitude_one_and_period_one():
    turns = torch.linspace(0, 3, 3001).double()[:-1]
    for name in toy.WAVES:
        shape = toy.wave(name, turns)
        assert float(shape.abs().max()) == pytest.approx(1, abs=2e-3)
        torch.testing.assert_close(toy.wave(name, turns + 5), shape, atol=1e-9, rtol=0)
        assert abs(float(shape.mean())) < 2e-3
    with pytest.raises(KeyError):
        toy.wave("noise", turns)


def test_notes_are_at_the_pitches_of_a_piano():
    assert len(toy.PITCHES) == 88 and toy.PITCHES[48] == pytest.approx(440)
    rng = torch.Generator().manual_seed(0)
    notes = toy.notes("sine", 20, toy.RATE, rng)
    amplitude = notes.abs().amax(1)
    assert 0.79 < float(amplitude.min()) and float(amplitude.max()) <= 1.0
    spectrum = torch.fft.rfft(notes * torch.hann_window(toy.RATE)).abs()  # bins of 1 Hz
    for peak in spectrum.argmax(1).tolist():
        assert min(abs(peak - f) for f in toy.PITCHES) < 1


@pytest.mark.parametrize(("name", "sigma"), [("sine", 0.3), ("saw", 1.0)])
def test_the_exact_density_is_the_average_over_notes(name, sigma):
    """Against a plain sum over a fine grid of amplitudes, phases and pitches."""
    samples, phases = 6, 4
    prior = ExactPrior(name, samples, phases)
    x = torch.randn(3, 1, samples)
    low, high = toy.AMPLITUDES
    a = (low + (high - low) * (torch.arange(200) + 0.5) / 200).double()
    notes = (a[:, None, None] * prior.waves_gt.double()).flatten(0, 1)
    error = (x.double() - notes).square().sum(2)
    each = -0.5 * error / sigma**2 - samples * math.log(sigma * math.sqrt(2 * math.pi))
    expected = each.logsumexp(1) - math.log(len(notes))
    torch.testing.assert_close(prior.log_prob(x, sigma).double(), expected, atol=1e-3, rtol=1e-4)


def test_the_exact_score_leads_back_to_the_note():
    rng = torch.Generator().manual_seed(1)
    prior = ExactPrior("triangle", 256, 64)
    x = toy.notes("triangle", 4, 256, rng)[:, None]
    noisy = (x + 0.3 * torch.randn(x.shape, generator=rng)).requires_grad_()
    (score,) = torch.autograd.grad(prior.log_prob(noisy, 0.3).sum(), noisy)
    error = (noisy + 0.09 * score - x).square().mean()
    assert float(error.detach()) < 0.1 * 0.09


@pytest.fixture
def command(monkeypatch, capsys):
    return Commands(monkeypatch, capsys)


def test_the_command_writes_notes_and_songs_that_add_up(command, tmp_path):
    out = tmp_path / "toy"
    code, _, told = command("toy", out, "--takes", 1, "--mixtures", 2, "--seconds", 0.1)
    assert code == 0 and "352 notes" in told
    for name in toy.WAVES:
        assert len(list((out / "train" / name).glob("*.wav"))) == 88
    song = out / "songs" / "001"
    parts = [sf.read(song / f"{name}.wav")[0] for name in toy.WAVES]
    mixture, rate = sf.read(song / "mixture.wav")
    assert rate == toy.RATE and len(mixture) == 1470
    np.testing.assert_allclose(np.sum(parts, 0), mixture, atol=1e-6)
    assert "exists; choose another folder" in command.bad("toy", out)
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]  # nothing half-written beside it


def test_a_seed_gives_the_same_notes(command, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        command.good("toy", tmp_path / name, "--takes", 1, "--mixtures", 1, "--seconds", 0.05, "--seed", seed)
    a, b, c = (sf.read(tmp_path / name / "songs" / "001" / "saw.wav")[0] for name in "abc")
    assert (a == b).all() and (a != c).any()


def test_a_full_disk_is_a_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*args, **options):
        raise sf.LibsndfileError(0)

    monkeypatch.setattr(toy.soundfile, "write", full)
    with pytest.raises(DeepsepError, match="is the disk full"):
        toy.write(tmp_path / "toy", takes=1, mixtures=1, seconds=0.1, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_a_sound_file_goes_is_not_lost(tmp_path, monkeypatch):
    """Python tells of what is raised in `__del__`, and goes on."""
    monkeypatch.setattr(sf.SoundFile, "__del__", lambda file: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        toy.write(tmp_path / "toy", takes=1, mixtures=1, seconds=0.1, seed=0)
    assert list(tmp_path.iterdir()) == []
