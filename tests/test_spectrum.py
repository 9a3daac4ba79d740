"""Analysis and synthesis are exact, whole or streamed, at any rate; bands and x keep their meaning."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepsep.config import SpectrumConfig
from deepsep.spectral.spectrum import Spectrum, fft_size

DEFAULT = SpectrumConfig()
SMALL = SpectrumConfig(rate=8000, n_fft=64, single_bins=4)
RATES = [8000, 11025, 16000, 22050, 32000, 44100, 48000, 88200, 96000, 176400, 192000]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(samples=st.integers(1, 700), channels=st.integers(1, 3))
def test_every_length_comes_back(samples, channels):
    spectrum = Spectrum(SMALL)
    x = noise(channels, samples)
    spectra = spectrum.analyse(x)
    assert spectra.shape == (channels, 33, spectrum.frames(samples))
    torch.testing.assert_close(spectrum.synthesise(spectra, samples), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rate", RATES)
def test_every_rate_comes_back(rate):
    spectrum = Spectrum(DEFAULT, rate)
    x = noise(2, rate // 7)
    back = spectrum.synthesise(spectrum.analyse(x), x.shape[1])
    torch.testing.assert_close(back, x, atol=1e-5, rtol=0)


@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=6).filter(any),
    frames=st.integers(1, 20),
    cuts=st.integers(1, 9),
)
def test_a_stream_equals_the_whole(sizes, frames, cuts):
    spectrum = Spectrum(SMALL)
    x = noise(2, sum(sizes))
    whole = spectrum.analyse(x)
    pieces = list(spectrum.analyse_stream(torch.split(x, sizes, -1), frames))
    assert max(p.shape[-1] for p in pieces) <= frames
    torch.testing.assert_close(torch.cat(pieces, -1), whole, atol=1e-6, rtol=0)
    back = torch.cat(list(spectrum.synthesise_stream(torch.split(whole, cuts, -1))), -1)
    torch.testing.assert_close(back[..., : x.shape[1]], x, atol=1e-5, rtol=0)


def test_an_empty_stream_has_no_frames():
    assert list(Spectrum(SMALL).analyse_stream([])) == []


def test_the_default_has_293_bands_of_growing_width():
    edges = DEFAULT.band_edges
    width = np.diff(edges)
    assert len(width) == 293 and edges[0] == 0 and edges[-1] == 2049
    assert (width[:64] == 1).all() and (np.diff(width[:-1]) >= 0).all()
    centre = np.array(edges[:-1])
    assert (np.abs(width[64:-1] - centre[64:-1] / 64) <= 0.5).all()


@pytest.mark.parametrize("rate", RATES)
def test_white_noise_of_power_one_has_power_one_in_every_band(rate):
    spectrum = Spectrum(DEFAULT, rate)
    x = noise(1, 6 * rate)
    inner = spectrum.analyse(x).abs().square()[..., 4:-4]
    assert float(inner[:, 1:-1].mean()) == pytest.approx(1, abs=0.02)
    bands = spectrum.band_power(inner)[0].mean(-1)
    present = spectrum.present_d.clone()
    present[[0, -1]] = False  # DC and Nyquist are real
    assert float(bands[present].mean()) == pytest.approx(1, abs=0.05)
    assert float((bands[present] - 1).abs().max()) < 1


def test_energy_is_kept():
    """Parseval: four frames of unit windows see each sample, and rfft tells half of the bins."""
    spectrum = Spectrum(SMALL)
    x = noise(1, 1000)
    both_sides = spectrum.analyse(x).abs().square()
    both_sides[:, 1:-1] *= 2
    torch.testing.assert_close(both_sides.sum(), 4 * x.square().sum())


@pytest.mark.parametrize("rate", RATES)
def test_a_tone_lies_in_the_same_band_at_any_rate(rate):
    spectrum = Spectrum(DEFAULT, rate)
    for hertz in (110.0, 1000.0, 3000.0):
        x = torch.sin(2 * np.pi * hertz * torch.arange(rate, dtype=torch.float64) / rate)[None].float()
        band = spectrum.band_power(spectrum.analyse(x).abs().square())[0, :, 20].argmax()
        edges = np.array(DEFAULT.band_edges) * DEFAULT.rate / DEFAULT.n_fft
        slack = 11 + 0.01 * hertz  # one bin, and the window's rounding to a handy length
        assert edges[band] - slack <= hertz <= edges[band + 1] + slack


@pytest.mark.parametrize("rate", [*range(4000, 50000, 997), *RATES])
def test_the_window_is_about_as_long_at_any_rate(rate):
    n = fft_size(DEFAULT, rate)
    assert n % 4 == 0
    assert n / rate == pytest.approx(DEFAULT.n_fft / DEFAULT.rate, rel=0.01)


def test_low_rates_lack_the_upper_bands():
    for rate in (8000, 16000, 22050):
        spectrum = Spectrum(DEFAULT, rate)
        edges = torch.tensor(DEFAULT.band_edges)
        assert torch.equal(spectrum.present_d, edges[:-1] <= spectrum.n_fft // 2)
        power = spectrum.band_power(torch.ones(spectrum.n_fft // 2 + 1, 3))
        assert torch.equal(power[:, 0] > 0, spectrum.present_d)
    assert Spectrum(DEFAULT).present_d.all() and Spectrum(DEFAULT, 96000).present_d.all()


def test_bins_above_the_models_range_follow_its_last_band_and_do_not_sway_it():
    spectrum = Spectrum(DEFAULT, 96000)
    bins = spectrum.n_fft // 2 + 1
    above = torch.arange(bins) >= 2049
    assert above.any() and (spectrum.band_f[above] == 292).all()
    power = torch.where(above, 1e6, 1.0)[:, None]
    torch.testing.assert_close(spectrum.band_power(power), torch.ones(293, 1))


def test_a_band_value_reaches_its_bins_and_a_flat_band_keeps_its_mean():
    spectrum = Spectrum(SMALL)
    masks = torch.rand(2, spectrum.bands, 4)
    torch.testing.assert_close(spectrum.band_power(spectrum.expand(masks)), masks)


def test_x_and_power_are_inverse_down_to_the_floor():
    spectrum = Spectrum(DEFAULT)
    power = torch.logspace(-12, 3, 50).double()
    torch.testing.assert_close(spectrum.to_power(spectrum.to_x(power)), power + 10**-7.2)
    torch.testing.assert_close(spectrum.to_x(torch.zeros(1)), spectrum.to_x(torch.tensor([1e-15])))
    x = torch.linspace(-2, 3, 20).double()
    torch.testing.assert_close(spectrum.to_x(spectrum.to_power(x) - spectrum.floor), x)
    assert float(spectrum.to_x(torch.ones(1))) == pytest.approx((np.log(1 + 10**-7.2) + 8) / 4)


def test_the_convention_does_not_change():
    """Golden: an impulse and a cosine by hand; a model's weights mean nothing under another convention."""
    spectrum = Spectrum(SMALL)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(64) / 64)
    unit = hann / np.sqrt((hann**2).sum())
    impulse = torch.zeros(1, 100)
    impulse[0, 20] = 1
    spectra = spectrum.analyse(impulse)[0].numpy()
    f = np.arange(33)
    for frame in range(spectra.shape[1]):
        at = 20 - (frame - 3) * 16  # frame j starts at sample (j - 3) hop
        expected = unit[at] * np.exp(-2j * np.pi * f * at / 64) if 0 <= at < 64 else 0 * f
        np.testing.assert_allclose(spectra[:, frame], expected, atol=1e-6)
    cosine = torch.cos(2 * np.pi * 8 * torch.arange(640) / 64)[None]
    power = spectrum.analyse(cosine).abs().square()[0, :, 10]
    assert power.argmax() == 8
    assert float(power[8]) == pytest.approx(64 / 6, rel=1e-4)  # (sum w)^2 / (4 sum w^2)
    assert [round(float(v), 4) for v in power[[6, 7, 9, 10]]] == [0, 2.6667, 2.6667, 0]
