"""The map of uncertainty shows where the draws differ."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepsep.config import SpectralSgldConfig, SpectrumConfig
from deepsep.inference import chunks
from deepsep.inference.domain import Separation, Track
from deepsep.inference.settings import Settings
from deepsep.spectral import calibration, infer, uncertainty
from deepsep.spectral.spectrum import Spectrum

SMALL = SpectrumConfig(rate=16000, n_fft=256, single_bins=8)


@pytest.mark.parametrize("method", ["encoder", "sgld"])
def test_the_spread_is_that_of_the_draws(method, model):
    spectrum = Spectrum(model.domain.spectrum)
    song = torch.randn(2, 40 * spectrum.hop, generator=torch.Generator().manual_seed(0))
    windows = list(chunks.windows([spectrum.analyse(song)], 64, 32))
    settings = Settings(
        method=method, draws=infer.ENCODER_DRAWS,
        sgld=SpectralSgldConfig(levels=1, steps=2, average=1, temperature=1.0),
    )  # fmt: skip
    track = Track(model.domain.rate, song.shape[1], 1.0)
    separation = Separation(track, model, settings, [[2], [0, 1]], spread=True)
    for draws, spread, _ in model.domain.infer(windows, separation):
        assert draws.shape[:2] == (settings.draws, 2)
        torch.testing.assert_close(draws.sum(1), torch.ones_like(draws[:, 0]))
        torch.testing.assert_close(spread, draws.std(0, correction=0), atol=1e-3, rtol=0)
        assert spread.max() > 0.01


@given(st.integers(1, 30000), st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(1, 60))
def test_a_column_holds_the_mean_variance_of_its_frames(samples, pieces, columns):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uncertainty, "COLUMNS", columns)
        found = uncertainty.SpreadMap(SMALL, SMALL.rate, samples, ["a", "b"])
    frames = Spectrum(SMALL).frames(samples)
    std = torch.rand(2, Spectrum(SMALL).bands, frames, generator=torch.Generator().manual_seed(samples))
    at, turn = 0, 0
    while at < frames + 5:  # a stream may end with frames of silence beyond the track
        n = pieces[turn % len(pieces)]
        padded = torch.nn.functional.pad(std, (0, 100))[..., at : at + n]
        found.add(padded, padded[0] ** 2)
        at, turn = at + n, turn + 1
    result = found.result()
    assert result.std_kdn.shape == (2, len(result.band_hz), min(columns, frames)) == (
        *result.std_kdn.shape[:2], len(result.time_s),
    )  # fmt: skip
    column = np.arange(frames) * min(columns, frames) // frames
    for c in {0, len(result.time_s) // 2, len(result.time_s) - 1}:
        expected = std[..., column == c].square().mean(-1).sqrt()
        np.testing.assert_allclose(result.std_kdn[..., c], expected, atol=1e-5)
        np.testing.assert_allclose(result.power_dn[..., c], expected[0] ** 2, atol=1e-5)


def test_the_axes_of_the_map_say_where_a_tone_is(tmp_path):
    spectrum = Spectrum(SMALL, 12000)
    samples, at_s, tone_hz = 12000, 0.6, 2000
    wave = np.zeros(samples, np.float32)
    start = round(at_s * 12000)
    length = spectrum.n_fft
    wave[start : start + length] = np.sin(2 * np.pi * tone_hz * np.arange(length) / 12000)
    power = spectrum.band_power(spectrum.analyse(torch.from_numpy(wave)[None]).abs().square())
    found = uncertainty.SpreadMap(SMALL, 12000, samples, ["tone"])
    found.add(power, power[0])
    result = found.result()
    band, column = np.unravel_index(result.std_kdn[0].argmax(), result.std_kdn[0].shape)
    assert result.time_s[column] == pytest.approx(at_s + length / 2 / 12000, abs=spectrum.hop / 12000)
    assert result.band_hz[band] == pytest.approx(tone_hz, rel=0.08)
    assert result.band_hz[-1] <= 6000
    uncertainty.save(tmp_path / "u.npz", result)
    saved = np.load(tmp_path / "u.npz")
    assert list(saved["stems"]) == ["tone"]
    np.testing.assert_array_equal(saved["std"], result.std_kdn)
    np.testing.assert_array_equal(saved["power"], result.power_dn)


def test_what_is_seen_is_what_is_heard():
    power = np.array([[1.0, 1e-3], [1e-6, 0.0]], np.float32)
    std = np.full((1, 2, 2), 0.4, np.float32)
    found = uncertainty.Uncertainty(["a"], std, power, np.ones(2, np.float32), np.ones(2, np.float32))
    np.testing.assert_allclose(found.heard()["a"], [[0.4, 0.2], [0, 0]], atol=1e-6)


def test_a_picture_of_awkward_names(tmp_path):
    found = uncertainty.SpreadMap(SMALL, 16000, 1, ["a_b", "c"]).result()
    uncertainty.draw(tmp_path / "u.png", found, "100 $ for \udcff $x_")
    assert (tmp_path / "u.png").read_bytes().startswith(b"\x89PNG")


def test_an_interval_of_the_right_width_holds_its_share():
    """Errors of a known size: the scale that is found is that size, and then every interval holds its share."""
    rng = torch.Generator().manual_seed(0)
    shape = (4, 2, 50, 100)
    size = torch.tensor([0.5, 2.0])[:, None, None]
    std = 0.01 + 0.02 * torch.rand(shape, generator=rng)
    gain = torch.full(shape, 0.5)
    truth = gain + size * std * torch.randn(shape, generator=rng)
    counts = torch.ones(4, 50, 100, dtype=torch.bool)
    scale = calibration.spread_scale(gain, std, truth, counts)
    assert scale == pytest.approx([0.5, 2.0], rel=0.05)
    before = calibration.coverage(gain, std, truth, counts)
    assert (before[0] > torch.tensor([0.75, 0.98, 0.99])).all() and before[1, 1] < 0.55
    after = calibration.coverage(gain, std * torch.tensor(scale)[:, None, None], truth, counts)
    torch.testing.assert_close(after, torch.tensor([calibration.LEVELS] * 2), atol=0.02, rtol=0)


def test_what_is_silent_does_not_count():
    total = torch.tensor([[[1.0, 1e-6], [1e-4, 0.0]]])
    assert calibration.loud(total).tolist() == [[[True, False], [True, False]]]
    truth = calibration.best_gains(torch.tensor([[[[0.5, -1.0], [2e-4, 0.0]]]]), total)
    assert truth.tolist() == [[[[0.5, 0.0], [1.0, 0.0]]]]


def test_the_spread_of_a_stem_is_scaled_by_what_was_learnt(model):
    spectrum = Spectrum(model.domain.spectrum)
    song = torch.randn(2, 40 * spectrum.hop, generator=torch.Generator().manual_seed(0))
    windows = list(chunks.windows([spectrum.analyse(song)], 64, 32))
    track = Track(model.domain.rate, song.shape[1], 1.0)
    spreads = []
    for scale in (None, [1.0, 2.0, 4.0]):
        encoder = copy.deepcopy(model.encoder)
        encoder.spread = scale
        settings = Settings(method="encoder")
        separation = Separation(track, replace(model, encoder=encoder), settings, [[2], [0, 1]], spread=True)
        ((_, spread, _), *_) = model.domain.infer(windows, separation)
        spreads.append(spread)
    torch.testing.assert_close(spreads[1], spreads[0] * torch.tensor([4.0, 1.5])[:, None, None])
