import itertools

import numpy as np
import pytest
import soundfile
import torch
from cli_fixtures import ROUNDING
from hub_server import HubServer, Repo
from tiny import SPECTRUM, Commands, files_of, folder_of, point_client, tiny_prior

from deepsep import api
from deepsep.audio.loudness import PEAK, Loudness, to_listening_level
from deepsep.errors import DeepsepError
from deepsep.spectral import sonify
from deepsep.spectral.spectrum import Spectrum


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("band"), "vocals", "drums")


@pytest.fixture
def sample(monkeypatch, capsys, folder, tmp_path):
    monkeypatch.chdir(tmp_path)
    deepsep = Commands(monkeypatch, capsys)

    def call(*words, source="drums", priors=folder):
        return deepsep("sample", "--source", source, "--seconds", "0.5", "--priors", priors, *words)

    return call


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ["a.wav", "new/folder/a.flac", "a.MP3", "a.ogg"])
def test_a_sound_of_the_length_asked_for(sample, tmp_path, name):
    code, out, err = sample("-o", name)
    assert (code, out) == (0, ""), err
    assert f"{name}: 0.5 s of drums from" in err
    sound, rate = soundfile.read(tmp_path / name)
    assert (rate, sound.ndim) == (SPECTRUM.rate, 1)
    assert len(sound) == rate // 2
    assert 0.03 < np.sqrt(np.mean(sound**2)) < 0.3
    assert np.abs(sound).max() < 1


def test_a_seed_a_source_and_a_temperature_decide(sample, tmp_path):
    sounds = []
    for i, words in enumerate([[], [], ["--seed", "1"], ["--temperature", "0.5"], ["--iterations", "0"]]):
        assert sample("-o", f"{i}.wav", *words)[0] == 0
        sounds.append(soundfile.read(tmp_path / f"{i}.wav")[0])
    assert sample("-o", "vocals.wav", source="vocals")[0] == 0
    sounds.append(soundfile.read(tmp_path / "vocals.wav")[0])
    first, again, *others = sounds
    np.testing.assert_allclose(again, first, rtol=0, atol=ROUNDING)
    for one, other in itertools.combinations([first, *others], 2):
        assert np.abs(one - other).max() > 100 * ROUNDING


def test_a_file_that_exists_is_kept(sample, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"mine")
    code, _, err = sample("-o", "a.wav")
    assert (code, err) == (1, "error: a.wav exists; use --overwrite to replace it\n")
    assert (tmp_path / "a.wav").read_bytes() == b"mine"
    assert sample("-o", "a.wav", "--overwrite", "-q")[2] == ""
    assert soundfile.info(tmp_path / "a.wav").frames == SPECTRUM.rate // 2


def test_a_file_that_another_process_writes_meanwhile_is_kept(sample, tmp_path, monkeypatch):
    draw = api.sample_prior

    def draw_while_another_writes(*args, **options):
        (tmp_path / "a.wav").write_bytes(b"theirs")
        return draw(*args, **options)

    monkeypatch.setattr(api, "sample_prior", draw_while_another_writes)
    code, out, err = sample("-o", "a.wav", "-q")
    assert (code, out) == (1, "")
    assert err == "error: a.wav: another process has written it; use --overwrite\n"
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.wav", b"theirs")]
    assert sample("-o", "a.wav", "-q", "--overwrite") == (0, "", "")
    assert soundfile.info(tmp_path / "a.wav").frames == SPECTRUM.rate // 2


def test_slips_are_one_line(sample, folder, tmp_path):
    assert sample("-o", "a.txt")[0] == 2
    assert "unknown source 'flute'; these priors have" in sample(source="flute")[2]
    assert sample("--temperature", "1e300")[0] == 2
    with pytest.raises(DeepsepError, match="use one nearer to 1"):
        api.sample_prior("drums", priors=folder, seconds=0.5, temperature=1e300)
    assert list(tmp_path.iterdir()) == []


def test_hub_priors_show_their_licence_and_give_one_source(sample, folder, tmp_path, monkeypatch):
    with HubServer() as server:
        server.repos["ana/band"] = Repo()
        server.repos["ana/band"].commit(files_of(folder))
        point_client(monkeypatch, server.url, tmp_path / "cache")
        assert sample("--offline", priors="ana/band")[0] == 1
        assert server.log == []
        code, _, err = sample(priors="ana/band")
        assert (code, "licence of the weights: CC-BY-4.0" in err) == (0, True)
        assert not any("vocals" in request.path for request in server.log)
        code, _, err = sample("--overwrite", priors="ana/band")
        assert (code, "licence" in err) == (0, False)


# --- what is heard is what was drawn


def test_a_draw_has_the_prior_s_mean_and_spread():
    """A fresh flow is its whitening: x ~ N(mean, covariance + sigma^2 I)."""
    prior = tiny_prior()
    x_dn = prior.sample(1, 4001, 0.1, rng())[0]
    assert x_dn.shape == (prior.config.channels, 4001)
    covariance = prior.whitening.axes @ torch.diag(prior.whitening.variance) @ prior.whitening.axes.T
    torch.testing.assert_close(x_dn.mean(1), prior.whitening.mean, atol=0.1, rtol=0)
    torch.testing.assert_close(x_dn.var(1), covariance.diagonal() + 0.01, atol=0, rtol=0.15)
    half = prior.sample(1, 4001, 0.1, rng(), temperature=0.5)[0]
    torch.testing.assert_close(half.std(1), x_dn.std(1) / 2, atol=0, rtol=1e-3)


def test_at_temperature_0_every_seed_is_the_same():
    one, other = (tiny_prior().sample(1, 9, 0.3, rng(s), temperature=0) for s in (1, 2))
    assert torch.equal(one, other)


def test_a_draw_that_overflows_is_an_error(folder):
    with pytest.raises(DeepsepError, match="temperature inf"):
        api.sample_prior("drums", priors=folder, seconds=0.1, temperature=float("inf"))


def spectrum_and_x(samples):
    """Bands that step 20 dB up and down over frequency and time."""
    spectrum = Spectrum(SPECTRUM)
    n = torch.arange(spectrum.frames(samples))
    level = 10.0 ** ((torch.arange(spectrum.bands)[:, None] // 8 + n // 64) % 2 * 2 - 1)
    return spectrum, spectrum.to_x(level)


def test_noise_sounds_with_the_power_that_x_says():
    samples = 64_000
    spectrum, x_dn = spectrum_and_x(samples)
    signal = sonify.sonify(x_dn, spectrum, samples, iterations=0, rng=rng())
    heard = spectrum.band_power(spectrum.analyse(signal[None])[0].abs().square())
    inside = torch.ones(spectrum.bands, dtype=torch.bool)
    for edge in range(0, spectrum.bands, 8):  # next to a step the window leaks
        inside[max(0, edge - 3) : edge + 3] = False
    steady = [n for n in range(heard.shape[1]) if 8 < n % 64 < 56]
    for parity in (0, 1):
        frames = [n for n in steady if n // 64 % 2 == parity]
        wanted = spectrum.to_power(x_dn)[:, frames].mean(1)
        ratio_db = 10 * torch.log10(heard[:, frames].mean(1) / wanted)[inside]
        assert ratio_db.abs().max() < 1.5
        assert ratio_db.numel() > 3


def test_griffin_lim_comes_nearer_to_the_magnitudes():
    samples = 16_000
    spectrum, x_dn = spectrum_and_x(samples)
    wanted = spectrum.expand((spectrum.to_power(x_dn) - spectrum.floor).clamp_min(0).sqrt())
    errors = []
    for iterations in (1, 4, 32):
        signal = sonify.sonify(x_dn, spectrum, samples, iterations=iterations, rng=rng())
        heard = spectrum.analyse(signal[None])[0].abs()
        errors.append(float((heard - wanted).norm() / wanted.norm()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.75 * errors[0]


def test_one_gain_brings_a_sound_to_level():
    loud = 40 * np.sin(np.arange(20_000) / 7).astype(np.float32)
    sound = to_listening_level(loud[None])
    heard = Loudness()
    heard.add(sound)
    assert heard.rms == pytest.approx(0.1, rel=1e-3)
    click = np.zeros(100_000, np.float32)
    click[::5000] = 1.0
    assert np.abs(to_listening_level(click[None])).max() == pytest.approx(PEAK)
    assert not to_listening_level(np.zeros((1, 9), np.float32)).any()
