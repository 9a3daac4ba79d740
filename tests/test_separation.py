"""The stems are the mixture, shared out: whole, in any pieces, at any rate, for any gain."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from cli_fixtures import ROUNDING
from conftest import SMALL

from deepsep.config import SpectralSgldConfig
from deepsep.errors import DeepsepError
from deepsep.inference.chunks import ALIGN, Window
from deepsep.inference.domain import Separation, Track
from deepsep.inference.model import Model
from deepsep.inference.settings import Settings, choose_method, pick_device
from deepsep.separation import measure, read_twice, separate_blocks
from deepsep.spectral import domain, infer
from deepsep.spectral.spectrum import Spectrum

RATE = 16000
QUICK = SpectralSgldConfig(levels=2, steps=2, average=2, temperature=0.0)
COOL = Settings(method="sgld", sgld=QUICK)
WARM = Settings(
    method="sgld", sgld=SpectralSgldConfig(levels=2, steps=2, average=2, temperature=1.0, chains=2)
)
ENCODER = Settings(method="encoder")
TWO_PITCHES = Settings(method="encoder", pitches=2)
METHODS = pytest.mark.parametrize(
    "settings",
    [ENCODER, TWO_PITCHES, COOL, WARM],
    ids=["encoder", "encoder at two pitches", "sgld", "sgld at temperature 1"],
)


def song(seconds, channels=2, rate=RATE, seed=0):
    """Noise that comes and goes, a chord, something on one side."""
    random = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    chord = sum(np.sin(2 * np.pi * f * t) for f in (220, 331, 1200))
    x = random.standard_normal((channels, len(t))) * (1 + np.sin(2 * np.pi * 1.5 * t)) + chord
    x *= np.linspace(1, 0.4, channels)[:, None]
    return (0.1 * x).astype(np.float32)


def separate(x, model, settings, rate=RATE, block=5000):
    blocks = (x[:, i : i + block] for i in range(0, x.shape[1], block))
    out = list(separate_blocks(blocks, whole(model, settings, measure([x], rate))))
    return np.concatenate(out, -1)[0]


def whole(model, settings, track, **more):
    """Every source a stem of its own."""
    return Separation(track, model, settings, [[k] for k in range(len(model.sources))], **more)


def close(a, b, within=1e-4):
    np.testing.assert_allclose(a, b, atol=within * max(1.0, float(np.abs(b).max())), rtol=0)


@METHODS
@pytest.mark.parametrize("seconds", [0.05, 0.7, 4.6])
def test_stems_add_up_to_the_mixture_and_last_as_long(model, settings, seconds):
    x = song(seconds)
    stems = separate(x, model, settings)
    assert stems.shape == (3, *x.shape) and stems.dtype == np.float32
    np.testing.assert_allclose(stems.sum(0), x, atol=1e-5)
    assert min(np.square(s).mean() for s in stems) > 1e-4 * np.square(x).mean()  # and no stem is a mere zero
    assert np.square(stems[0] - stems[1]).mean() > 1e-4 * np.square(x).mean()


@pytest.mark.parametrize("channels", range(1, 9))
def test_any_number_of_channels(model, channels):
    x = song(0.3, channels)
    for settings in (ENCODER, COOL):
        stems = separate(x, model, settings)
        assert stems.shape == (3, channels, x.shape[1])
        np.testing.assert_allclose(stems.sum(0), x, atol=1e-5)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000, 192000])
def test_any_sample_rate_and_odd_length(model, rate):
    x = song(0.3, 2, rate)[:, :-7]
    for settings in (ENCODER, COOL):
        stems = separate(x, model, settings, rate)
        assert stems.shape == (3, *x.shape) and np.isfinite(stems).all()
        np.testing.assert_allclose(stems.sum(0), x, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 2, 63, 64, 65, 16384 - 192, 16384 - 191, 16384, 16385])
def test_any_length(model, samples):
    x = song(1.2)[:, :samples]
    stems = separate(x, model, ENCODER, block=999)
    assert stems.shape == (3, 2, samples)
    np.testing.assert_allclose(stems.sum(0), x, atol=1e-5)


def test_the_encoder_in_windows_equals_the_whole(model, monkeypatch):
    x = song(4.6)
    parts = separate(x, model, ENCODER)
    monkeypatch.setattr(domain, "CORE", 2048)
    close(parts, separate(x, model, ENCODER))
    monkeypatch.setattr(domain, "CORE", 40)
    close(parts, separate(x, model, ENCODER))


@METHODS
@pytest.mark.parametrize("frames", [1, 31, 250, 431, 900, 2_000, 100_000])
def test_windows_are_alike_and_few(model, settings, frames):
    track = Track(RATE, (frames - 3) * SMALL.n_fft // 4, 1.0)
    if track.samples < 1:
        track = Track(RATE, 1, 1.0)
    frames = Spectrum(SMALL, RATE).frames(track.samples)
    core, context, *_ = model.domain.layout(whole(model, settings, track))
    largest = max(domain.CORE, 4 * context)
    number = -(-frames // core)
    assert core % ALIGN == 0 and core <= 1.5 * largest + ALIGN
    assert number <= max(1, round(frames / largest))
    assert number * core < frames + number * ALIGN, "silence is added for the alignment alone"


@METHODS
def test_the_batch_size_does_not_show(model, settings):
    x = song(4.6)
    one = separate(x, model, replace(settings, batch_size=1))
    for size in (2, 5):
        close(separate(x, model, replace(settings, batch_size=size)), one)


@pytest.mark.parametrize("init", ["mixture", "encoder"])
def test_how_many_chains_run_at_once_does_not_show(model, monkeypatch, init):
    x = song(2.3)
    sgld = SpectralSgldConfig(levels=2, steps=2, average=2, temperature=1.0, chains=4)
    settings = Settings(method="sgld", init=init, sgld=sgld, batch_size=2)
    blocks = [x]

    def separated(**more):
        out = separate_blocks(blocks, whole(model, replace(settings, **more), measure(blocks, RATE)))
        return np.concatenate(list(out), -1)

    one, draws = separated(), separated(draws=4)
    monkeypatch.setitem(infer.CHAINS_AT_ONCE, "cpu", 3)
    close(separated(), one)
    close(separated(draws=4), draws)
    assert np.abs(draws[0] - draws[1]).max() > 1e-3


@METHODS
def test_the_blocks_do_not_show(model, settings):
    x = song(2.3)
    whole = separate(x, model, settings, block=x.shape[1])
    for block in (300, 7001):
        close(separate(x, model, settings, block=block), whole, 1e-6)


def test_a_seed_repeats_and_matters_at_temperature_alone(model):
    x = song(0.6)
    for settings in (WARM, COOL, ENCODER):
        first = separate(x, model, replace(settings, seed=5))
        np.testing.assert_allclose(
            separate(x, model, replace(settings, seed=5)), first, rtol=0, atol=ROUNDING
        )
        other = separate(x, model, replace(settings, seed=6))
        assert (np.abs(other - first).max() > 10 * ROUNDING) == (settings is WARM)


@METHODS
@pytest.mark.parametrize("gain", [0.003, 16.0])
def test_a_gain_passes_through(model, settings, gain):
    x = song(0.8)
    np.testing.assert_allclose(
        separate(np.float32(gain) * x, model, settings) / gain, separate(x, model, settings), atol=1e-4
    )


@METHODS
def test_silence_gives_silence(model, settings):
    stems = separate(np.zeros((2, 9000), np.float32), model, settings)
    assert stems.shape == (3, 2, 9000) and not stems.any()
    x = song(3.0)
    x[:, 8000:40000] = 0
    stems = separate(x, model, settings)
    np.testing.assert_allclose(stems.sum(0), x, atol=1e-5)
    assert np.abs(stems[..., 9000:39000]).max() < 1e-7


def test_progress_reaches_the_end(model):
    x, told = song(2.3), []
    separation = whole(model, ENCODER, measure([x], RATE))
    list(separate_blocks(iter([x]), separation, on_progress=told.append))
    assert told[-1] == x.shape[1] and told == sorted(told)


def test_progress_moves_with_every_step_of_the_sampler(model):
    x, told = song(0.5), []
    separation = whole(model, replace(COOL, sgld=replace(COOL.sgld, chains=2)), measure([x], RATE))
    list(separate_blocks(iter([x]), separation, on_progress=told.append))
    steps = 2 * COOL.sgld.levels * COOL.sgld.steps
    assert len(told) >= steps and told[-1] == x.shape[1]
    np.testing.assert_allclose(told[:steps], x.shape[1] * np.arange(1, steps + 1) / steps, atol=1)


@METHODS
def test_every_draw_from_the_posterior_is_a_separation(model, settings):
    x, spreads = song(0.6), []
    separation = Separation(
        measure([x], RATE), model, replace(settings, draws=3), groups=[[0, 2], [1]], spread=True
    )
    stems = np.concatenate(
        list(separate_blocks(iter([x]), separation, on_spread=lambda std, power: spreads.append(std))), -1
    )
    assert stems.shape == (3, 2, *x.shape)
    np.testing.assert_allclose(stems.sum(1), np.stack([x] * 3), atol=1e-5)
    assert (np.abs(stems[0] - stems[1]).max() > 1e-4) == (settings is not COOL)
    spread = torch.cat(spreads, -1)
    assert spread.shape == (2, SMALL.bands, Spectrum(SMALL).frames(x.shape[1]))
    assert spread.min() >= 0 and spread.max() <= 0.5
    torch.testing.assert_close(spread[0], spread[1], atol=1e-3, rtol=0)  # two shares that sum to 1


def test_priors_alone_suffice_and_each_has_its_own_say(model):
    bare = Model(model.domain, model.priors)
    x = song(0.6)
    stems = separate(x, bare, COOL)
    np.testing.assert_allclose(stems.sum(0), x, atol=1e-5)
    turned = Model(model.domain, dict(reversed(model.priors.items())))
    close(separate(x, turned, COOL)[::-1], stems, 1e-4)


@pytest.mark.parametrize("init", ["mixture", "encoder"])
def test_a_chain_starts_where_the_mixture_is_explained(model, init):
    spectrum = Spectrum(SMALL)
    window = Window(spectrum.analyse(torch.from_numpy(song(0.3)))[..., :32], 0, 32, 32)
    separation = whole(model, replace(COOL, init=init), Track(RATE, 1, 1.0))
    inference = infer.Inference.of([window], separation, spectrum, 0)
    with torch.no_grad():
        x = spectrum.to_x(inference.power_bdn[:, None] * inference.initial_gains())
    total = (spectrum.to_power(x) - spectrum.floor).sum(1)
    torch.testing.assert_close(total, inference.power_bdn, rtol=1e-4, atol=1e-6)


def test_a_pool_of_estimates_lies_between_them_and_explains_the_mixture():
    one, two = torch.tensor([[0.9, 0.1, 0.0]]), torch.tensor([[0.1, 0.8, 0.1]])
    for weight, same in ((1.0, one), (0.0, two)):
        torch.testing.assert_close(infer.pooled(one, two, weight), same, atol=1e-5, rtol=0)
    half = infer.pooled(one, two, 0.5)
    torch.testing.assert_close(half.sum(1), torch.ones(1))
    torch.testing.assert_close(half[0, 0] / half[0, 1], torch.tensor((0.9 * 0.1) ** 0.5 / (0.1 * 0.8) ** 0.5))


def test_a_chain_that_the_encoder_started_is_pooled_with_it(model):
    x = song(0.6)
    warm = replace(COOL, init="encoder")
    encoder = separate(x, model, ENCODER)
    close(separate(x, model, replace(warm, sgld=replace(warm.sgld, pool=0.0))), encoder)
    alone, both = (separate(x, model, replace(warm, sgld=replace(warm.sgld, pool=w))) for w in (1.0, 0.4))
    assert np.abs(both - encoder).max() > 1e-3
    assert np.square(both - encoder).sum() < np.square(alone - encoder).sum()


def test_a_chain_leaves_out_the_context_that_only_the_encoder_needs(model, monkeypatch):
    shape = replace(model.encoder.config, context=128)
    encoder = model.domain.build_encoder(shape, len(model.sources)).eval()
    encoder.load_state_dict(model.encoder.state_dict())
    far = Model(model.domain, model.priors, encoder)
    x, warm = song(2.0), replace(WARM, init="encoder")
    stems = separate(x, far, warm)
    monkeypatch.setattr(infer, "SGLD_CONTEXT", 128)
    close(separate(x, far, warm), stems, 1e-4)


def test_auto_chooses_what_there_is():
    assert choose_method("auto", "auto", has_encoder=True)[0] == "encoder"
    assert choose_method("auto", "auto", has_encoder=False) == ("sgld", "mixture")
    assert choose_method("sgld", "auto", has_encoder=True) == ("sgld", "encoder")
    assert choose_method("sgld", "mixture", has_encoder=True) == ("sgld", "mixture")
    for method, init, has in [
        ("encoder", "auto", False),
        ("sgld", "encoder", False),
        ("x", "auto", True),
        ("sgld", "x", True),
    ]:
        with pytest.raises(DeepsepError) as caught:
            choose_method(method, init, has_encoder=has)
        assert "\n" not in str(caught.value)


def test_two_stems_that_are_not_all_of_the_sources_leave_the_rest_out(model):
    x = song(0.6)
    separation = Separation(measure([x], RATE), model, ENCODER, [[0], [2]])
    stems = np.concatenate(list(separate_blocks([x], separation)), -1)[0]
    every = separate(x, model, ENCODER)
    np.testing.assert_allclose(stems, every[[0, 2]], atol=1e-5)


def test_a_device_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == "cpu"
    for name, told in [("cuda", "--device cpu"), ("mps", "--device cpu"), ("abacus", "choose")]:
        with pytest.raises(DeepsepError, match=told):
            pick_device(name)


def test_two_readers_of_one_stream_hold_only_what_lies_between_them():
    alive = []

    def blocks():
        for number in range(200):
            block = np.full((1, 4), number, np.float32)
            alive.append(weakref.ref(block))
            yield block
            del block

    first, second = read_twice(blocks())
    found: tuple[list[float], list[float]] = ([], [])
    for block in first:
        found[0].append(block[0, 0])
        if len(found[0]) > 3:
            found[1].append(next(second)[0, 0])
        del block
        assert sum(ref() is not None for ref in alive) <= 5
    found[1].extend(block[0, 0] for block in second)
    assert found[0] == found[1] == list(range(200))
