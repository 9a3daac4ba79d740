"""The encoder's estimate of a frame needs `context` frames on either side and no more."""

import pytest
import torch
from conftest import shake

from deepsep.config import SpectralEncoderConfig, SpectrumConfig
from deepsep.errors import DeepsepError
from deepsep.spectral.encoder import UNet, mixture_features
from deepsep.spectral.spectrum import Spectrum, stereo_power

SPECTRUM = Spectrum(SpectrumConfig(rate=16000, n_fft=256, single_bins=8))


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=[{"deep": 0, "context": 64}, {}], ids=["plain", "deep"])
def default(request):
    """Encoders as they ship, random weights."""
    torch.manual_seed(0)
    return shake(UNet(SpectralEncoderConfig(**request.param), 4), 0.05)


def test_less_context_than_is_heard_is_refused():
    with pytest.raises(DeepsepError, match="at least 113"):
        SpectralEncoderConfig(deep=3, context=112)


def test_context_is_as_much_as_can_be_used_unless_it_is_given():
    assert SpectralEncoderConfig(deep=3).context == 120  # a multiple of 8, at least 113
    assert SpectralEncoderConfig(deep=3, context=128).context == 128


def test_deep_blocks_start_out_silent():
    torch.manual_seed(0)
    plain = shake(UNet(SpectralEncoderConfig(bands=10, widths=(4, 8), deep=0, context=28), 2), 0.1).eval()
    deep = UNet(SpectralEncoderConfig(bands=10, widths=(4, 8), deep=2, context=48), 2).eval()
    missing, unexpected = deep.load_state_dict(plain.state_dict(), strict=False)
    assert missing and all(name.startswith("deep.") for name in missing) and not unexpected
    features = noise(1, 4, 10, 16)
    torch.testing.assert_close(deep(features).log_gain, plain(features).log_gain)


def test_what_lies_beyond_the_context_cannot_be_heard(default):
    context, core, beyond = default.config.context, 8, 24
    features = noise(1, 4, 293, core + 2 * (context + beyond))
    other = features.clone()
    other[..., :beyond] = noise(1, 4, 293, beyond, seed=1)
    other[..., -beyond:] = noise(1, 4, 293, beyond, seed=2)
    middle = slice(beyond + context, beyond + context + core)
    for a, b in zip(default(features), default(other), strict=True):
        torch.testing.assert_close(a[..., middle], b[..., middle], atol=1e-5, rtol=0)
        assert not torch.allclose(a, b, atol=1e-2)
    near = features.clone()
    near[..., middle.start - 8] += 3  # while a near frame is
    assert not torch.allclose(default(near).log_gain[..., middle], default(features).log_gain[..., middle])


def test_windows_with_context_equal_the_whole(model):
    encoder = model.encoder
    context, core = encoder.config.context, 24
    features = noise(1, 4, encoder.config.bands, 3 * core + 2 * context)
    whole = encoder(features)
    for i in range(3):
        part = encoder(features[..., i * core : (i + 1) * core + 2 * context])
        for a, b in zip(part, whole, strict=True):
            mine, theirs = a[..., context : context + core], b[..., context + i * core :][..., :core]
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_the_mean_explains_the_whole_mixture(model):
    encoder = model.encoder
    spectra = SPECTRUM.analyse(noise(1, 2, 2000))
    planes = stereo_power(spectra, SPECTRUM)[..., :32]
    posterior = encoder(mixture_features(planes, SPECTRUM))
    power = (planes[:, 0] + planes[:, 1]) / 2
    x = posterior.mean(power, SPECTRUM)
    assert x.shape == (1, 3, SPECTRUM.bands, 32) and x.std(1).max() > 0.01
    torch.testing.assert_close((SPECTRUM.to_power(x) - SPECTRUM.floor).sum(1), power, rtol=1e-4, atol=1e-6)


def test_an_untrained_encoder_shares_the_mixture_out_evenly():
    fresh = UNet(SpectralEncoderConfig(bands=10, widths=(4, 8), deep=0, context=28), 5).eval()
    out = fresh(noise(2, 4, 10, 16))
    torch.testing.assert_close(out.log_gain.exp(), torch.full((2, 5, 10, 16), 0.2))


def test_a_mono_file_is_a_stereo_file_of_equal_channels():
    spectra = SPECTRUM.analyse(noise(1, 3000))
    mono = mixture_features(stereo_power(spectra, SPECTRUM)[None], SPECTRUM)
    stereo = mixture_features(stereo_power(spectra.expand(2, -1, -1), SPECTRUM)[None], SPECTRUM)
    torch.testing.assert_close(mono, stereo, atol=1e-5, rtol=1e-4)


def test_swapped_channels_turn_only_the_left_right_plane():
    spectra = SPECTRUM.analyse(noise(2, 3000) * torch.tensor([[1.0], [0.3]]))
    a = mixture_features(stereo_power(spectra, SPECTRUM)[None], SPECTRUM)
    b = mixture_features(stereo_power(spectra.flip(0), SPECTRUM)[None], SPECTRUM)
    torch.testing.assert_close(a[:, 2], -b[:, 2])
    torch.testing.assert_close(a[:, [0, 1, 3]], b[:, [0, 1, 3]])
    assert (a[:, 2].mean() > 0.3) and a[:, :3].isfinite().all()


def test_mid_and_side_hold_the_energy_of_left_and_right():
    left, right, mid, side = stereo_power(SPECTRUM.analyse(noise(2, 3000)), SPECTRUM)
    torch.testing.assert_close(left + right, mid + side, rtol=1e-4, atol=1e-6)


def test_silence_has_finite_features():
    planes = torch.zeros(1, 4, SPECTRUM.bands, 8)
    assert mixture_features(planes, SPECTRUM).isfinite().all()


@pytest.mark.parametrize("channels", [3, 6, 8])
def test_many_channels_count_by_their_mean_power(channels):
    spectra = SPECTRUM.analyse(noise(channels, 2000))
    left, right, mid, side = stereo_power(spectra, SPECTRUM)
    torch.testing.assert_close(left, SPECTRUM.band_power(spectra.abs().square()).mean(0))
    assert torch.equal(left, right) and torch.equal(mid, 2 * left) and not side.any()


def test_reordered_stems_are_the_same_stems():
    encoder = UNet(SpectralEncoderConfig(bands=20, widths=(4, 4), bottleneck=4, deep=0, context=28), 3).eval()
    torch.nn.init.normal_(encoder.last.weight)
    torch.nn.init.normal_(encoder.last.bias)
    x = torch.rand(1, 4, 20, 16)
    with torch.no_grad():
        before = encoder(x)
        encoder.reorder([2, 0, 1])
        after = encoder(x)
    for b, a in zip(before, after, strict=True):
        torch.testing.assert_close(a, b[:, [2, 0, 1]])


@pytest.mark.parametrize("shape", [{"deep": 3}, {"deep": 0, "context": 64}, {"widths": (8,), "deep": 2}])
def test_frames_that_are_context_only_may_be_left_out(shape):
    torch.manual_seed(0)
    net = shake(UNet(SpectralEncoderConfig(**{"widths": (4, 8, 8), **shape}), 2), 0.05)
    context = net.config.context
    x = noise(1, 4, net.config.bands, 2 * context + 64)
    whole, core = net(x), net(x, context)
    wanted = slice(context, context + 64)
    assert core.log_gain.shape == whole.log_gain.shape
    for part in ("log_gain", "log_std"):
        found, known = getattr(core, part)[..., wanted], getattr(whole, part)[..., wanted]
        torch.testing.assert_close(found, known, rtol=0, atol=1e-6)
    assert not torch.equal(core.log_gain, whole.log_gain), "nothing was left out"
