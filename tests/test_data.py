"""What training hears: the files of the folders, each folder as often, nothing stale, nothing held out."""

import os
from itertools import pairwise

import numpy as np
import pytest
import soundfile as sf
import torch

from deepsep.config import SpectrumConfig
from deepsep.errors import DeepsepError
from deepsep.progress import Listener
from deepsep.recordings.banks import Bank, SampleBank
from deepsep.recordings.files import find_audio
from deepsep.spectral.mixtures import (
    central_shares,
    gram_sums,
    master,
    mixtures,
    random_gains,
    set_gains,
    simulate,
    widened,
)
from deepsep.spectral.powers import SPEEDS, PowerBank
from deepsep.spectral.production import (
    band_centres,
    compressor_gains,
    equaliser_gains,
    high_pass_gains,
    other_side,
    phrases,
)
from deepsep.spectral.songs import song_batches
from deepsep.spectral.spectrum import Spectrum, stereo_power
from deepsep.spectral.stretches import SetBank, draw_middles, draw_stretch, draw_wide_stretch

RATE = 8000
SPECTRUM = Spectrum(SpectrumConfig(rate=RATE, n_fft=64, single_bins=4))


def tone(path, hertz, seconds=2.0, level=0.3, channels=1, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(int(seconds * rate)) / rate
    x = level * np.sin(2 * np.pi * hertz * t)
    sf.write(path, np.tile(x[:, None], channels), rate, subtype="FLOAT")
    return path


@pytest.fixture
def folders(tmp_path):
    """Eight seconds of low tones in one folder, one second of a high tone in the other."""
    for i in range(2):
        tone(tmp_path / "low" / f"{i}.wav", 250, 4.0)
    tone(tmp_path / "high" / "deep" / "down.WAV", 3000, 1.0)
    return [tmp_path / "low", tmp_path / "high"]


# -- finding -----------------------------------------------------------------------------------------------


def test_audio_is_found_at_any_depth_sorted_and_nothing_else(tmp_path):
    b, a = tone(tmp_path / "b.wav", 100), tone(tmp_path / "a" / "x" / "y.flac.wav", 100)
    tone(tmp_path / ".hidden.wav", 100)
    (tmp_path / "notes.txt").write_text("no audio")
    (tmp_path / "folder.wav").mkdir()
    assert find_audio(tmp_path) == [a, b]
    assert find_audio(b) == [b]


def test_a_folder_that_is_missing_or_holds_no_audio_is_one_line(tmp_path):
    (tmp_path / "notes.txt").write_text("no audio")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DeepsepError, match=str(folder)) as caught:
            find_audio(folder)
        assert "\n" not in str(caught.value)


# -- banks -------------------------------------------------------------------------------------------------


def build(kind, folders, cache, seen=None):
    target = SPECTRUM if kind is PowerBank else RATE
    listener = Listener(files=lambda done, all: seen is None or seen.append(done))
    return kind.build(folders, target, cache, listener)


@pytest.mark.parametrize("kind", [PowerBank, SampleBank])
def test_a_cache_is_made_once_and_again_when_a_file_changes(kind, folders, tmp_path):
    seen = []
    first = build(kind, folders, tmp_path / "cache", seen)
    assert seen == [0, 1, 2]
    again = build(kind, folders, tmp_path / "cache", seen)
    assert seen == [0, 1, 2]
    name = "log_power" if kind is PowerBank else "samples"
    assert np.array_equal(getattr(first, name), getattr(again, name))

    path = find_audio(folders[1])[0]
    before = path.stat().st_mtime_ns
    tone(path, 900, 1.0)
    os.utime(path, ns=(before + 10**9, before + 10**9))
    changed = build(kind, folders, tmp_path / "cache", seen)
    assert seen == [0, 1, 2] * 2
    assert not np.array_equal(getattr(first, name), getattr(changed, name))
    tone(folders[0] / "new.wav", 500)
    build(kind, folders, tmp_path / "cache", seen)
    assert seen == [0, 1, 2] * 2 + [0, 1, 2, 3]


@pytest.mark.parametrize("kind", [PowerBank, SampleBank])
def test_silent_recordings_are_left_out_and_silence_alone_is_an_error(kind, folders, tmp_path):
    whole = build(kind, folders, tmp_path / "cache")
    tone(folders[0] / "silent.wav", 100, level=0)
    more = build(kind, folders, tmp_path / "cache")
    for name in ("log_power", "pieces") if kind is PowerBank else ("samples", "pieces"):
        assert np.array_equal(getattr(more, name), getattr(whole, name))
    tone(tmp_path / "mute" / "silent.wav", 100, level=0)
    with pytest.raises(DeepsepError, match="silent"):
        build(kind, [tmp_path / "mute"], tmp_path / "cache")


@pytest.mark.parametrize("kind", [PowerBank, SampleBank])
def test_a_bank_is_a_bank_whatever_it_holds(kind, tmp_path):
    """Hours of recordings, parts that are held out, endless batches that depend on the generator alone."""
    for i in range(3):
        tone(tmp_path / "in" / f"{i}.wav", 300 + 100 * i, 50.0)
    bank: Bank = build(kind, [tmp_path / "in"], tmp_path / "cache")
    assert bank.hours == pytest.approx(150 / 3600, rel=0.01)
    train, test = bank.split(0.2)
    assert train.hours + test.hours == pytest.approx(bank.hours, rel=0.01)
    assert 0 < test.hours < train.hours
    for vary in (False, True):
        rng = torch.Generator().manual_seed(4)
        first, second = (next(train.batches(3, 24, rng, vary=vary)) for _ in range(2))
        assert first.shape[::2] == (3, 24) and first.isfinite().all() and not torch.equal(first, second)
        assert torch.equal(next(train.batches(3, 24, rng.manual_seed(4), vary=vary)), first)


def test_a_power_bank_lets_no_folder_drown_another(folders, tmp_path):
    bank = build(PowerBank, folders, tmp_path / "cache")
    rng = torch.Generator().manual_seed(0)
    x = next(bank.batches(600, 16, rng, vary=False))
    assert x.shape == (600, SPECTRUM.bands, 16) and x.dtype == torch.float32
    high = x.mean(2).argmax(1) > SPECTRUM.bands / 2
    share = 1 / (1 + 8 ** (1 / 3))  # it holds a ninth of the sound
    assert share - 0.07 < float(high.float().mean()) < share + 0.07
    again = next(bank.batches(600, 16, rng.manual_seed(0), vary=False))
    assert torch.equal(x, again)


def test_a_sample_bank_lets_no_folder_drown_another_and_draws_at_level_one(folders, tmp_path):
    bank = build(SampleBank, folders, tmp_path / "cache")
    random = np.random.default_rng(0)
    drawn = [bank.draw(800, random) for _ in range(300)]
    assert np.std([np.sqrt(np.square(x).mean()) for x in drawn]) < 0.05
    assert np.sqrt(np.square(drawn).mean()) == pytest.approx(1, abs=0.05)
    crossings = np.array([(np.diff(np.sign(x)) != 0).sum() for x in drawn])
    share = 1 / (1 + 8 ** (1 / 3))
    assert share - 0.08 < (crossings > 300).mean() < share + 0.08
    assert len(bank.draw(10 * RATE, random)) == 10 * RATE  # longer than any recording


def test_recordings_of_any_level_rate_and_channels_come_out_alike(tmp_path):
    for i, (level, rate, channels) in enumerate([(0.9, 8000, 1), (0.001, 16000, 2), (0.3, 22050, 3)]):
        tone(tmp_path / "in" / f"{i}.wav", 500, 2.0, level, channels, rate)
    bank = build(PowerBank, [tmp_path / "in"], tmp_path / "cache")
    loudest = [
        float(np.median(bank.log_power[start : start + frames].max(1).astype(float)))
        for start, frames, _ in bank.pieces[::3]
    ]
    assert np.ptp(loudest) < 0.1


def test_held_out_stretches_are_heard_at_no_speed():
    """In time of the recording: what is held out at one speed is not trained on at another."""
    lengths = [round(n / speed) for n in (31000, 700, 9000) for speed in SPEEDS]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    pieces = np.stack([starts[:-1], lengths, np.zeros(9, int)], 1)
    bank = PowerBank(np.zeros((starts[-1], 2), np.float16), pieces, SPECTRUM)
    assert bank.hours == pytest.approx((31000 + 700 + 9000) * SPECTRUM.hop / RATE / 3600, rel=1e-4)
    train, test = ([(s, s + n, g) for s, n, g in part.pieces] for part in bank.split(0.15))
    assert sum(e - s for s, e, _ in train + test) == starts[-1]
    assert 0.05 < sum(e - s for s, e, _ in test) / starts[-1] < 0.3

    def place(span):
        piece = int(np.searchsorted(starts, span[0], "right")) - 1
        return piece // 3, *((np.array(span[:2]) - starts[piece]) / lengths[piece])

    for recording, a, b in map(place, test):
        for other, c, d in map(place, train):
            assert other != recording or min(b, d) - max(a, c) < 1e-3


# -- simulated and recorded mixtures -----------------------------------------------------------------------


@pytest.mark.parametrize("augment", [False, True])
def test_simulated_mixtures_are_possible_and_repeat_with_their_seed(folders, tmp_path, augment):
    banks = [build(SampleBank, [folder], tmp_path / "cache") for folder in folders]

    def draw():
        rng = torch.Generator().manual_seed(3)
        return next(simulate(banks, SPECTRUM, frames=24, batch=16, rng=rng, augment=augment))

    m = draw()
    b, k, d, n = m.power_bpdn.shape
    assert (b, k, d, n) == (16, 2, SPECTRUM.bands, 24) and m.mix_bcdn.shape == (16, 4, d, n)
    # a mask's error is a squared distance: not negative; the cross sums add up to the mixture's power
    gain = torch.rand(m.power_bpdn.shape)
    error = gain**2 * m.total_bdn[:, None] - 2 * gain * m.cross_bpdn + m.power_bpdn
    assert error.min() > -1e-3 * m.total_bdn.max()
    torch.testing.assert_close(
        m.cross_bpdn.sum(1), m.total_bdn, rtol=1e-3, atol=1e-3 * float(m.total_bdn.max())
    )
    left_right = (m.mix_bcdn[:, 0] + m.mix_bcdn[:, 1]) * SPECTRUM.count_d[:, None]
    torch.testing.assert_close(left_right, m.total_bdn, rtol=1e-3, atol=1e-3)
    again = draw()
    assert all(torch.equal(getattr(m, f), getattr(again, f)) for f in m.__dataclass_fields__)


@pytest.mark.parametrize("augment", [False, True])
def test_a_set_stands_for_its_sources_in_both_channels(folders, tmp_path, augment):
    """Three sources, of which the second and third are known only together: a record with tones left and right."""
    t = np.arange(8 * RATE) / RATE
    stereo = np.stack([np.sin(2 * np.pi * 500 * t), np.sin(2 * np.pi * 2000 * t)], 1)
    (tmp_path / "set").mkdir()
    sf.write(tmp_path / "set" / "record.wav", 0.2 * stereo, RATE, subtype="FLOAT")
    banks = [build(SampleBank, [folders[i]], tmp_path / str(i)) for i in (1, 0, 0)]
    sets = [SetBank((1, 2), build(SampleBank, [tmp_path / "set"], tmp_path / "cache"))]
    rng = torch.Generator().manual_seed(1)
    batches = simulate(
        banks, SPECTRUM, frames=24, batch=32, rng=rng, extra=1, augment=augment, sets=sets, set_share=1.0
    )
    m = next(batches)
    assert m.member_bpk.tolist() == 32 * [[[1, 0, 0], [0, 1, 1], [0, 0, 0]]]
    assert float(m.power_bpdn[:, 2].max()) == 0
    torch.testing.assert_close(
        m.cross_bpdn.sum(1), m.total_bdn, rtol=1e-3, atol=1e-3 * float(m.total_bdn.max())
    )
    voice, record = m.power_bpdn[:, :2].flatten(2).sum(2).unbind(1)
    without_voice = (voice == 0) & (record > 0)
    assert 0 < without_voice.sum() < 20
    left, right = m.mix_bcdn[without_voice, 0], m.mix_bcdn[without_voice, 1]
    low, high = (round(hertz / RATE * SPECTRUM.n_fft) for hertz in (500, 2000))
    band = SPECTRUM.band_f
    one_sided = torch.stack(
        [left[:, band[low]] / right[:, band[low]], right[:, band[high]] / left[:, band[high]]]
    )
    swapped = one_sided.mean((0, 2)) < 1
    assert 0 < swapped.sum() < len(swapped), "the channels change places now and then"
    assert (one_sided.log10().abs() > 1).all(), "and are not mixed"


def test_sets_of_all_sources_are_never_drawn_unless_asked_for(folders, tmp_path):
    banks = [build(SampleBank, [folder], tmp_path / "cache") for folder in folders]
    sets = [SetBank((0,), banks[1])]
    drawn = simulate(banks, SPECTRUM, frames=8, batch=2, rng=torch.Generator().manual_seed(0), sets=sets)
    assert all(torch.equal(next(drawn).member_bpk[0], torch.eye(2)) for _ in range(10))


def test_the_level_beside_a_set_is_that_of_a_singer():
    """Around 5 dB below it, silent a third of the time; the set itself is kept as it is, or absent."""
    gains = set_gains(
        np.array([0, 0, 1, 1]), np.arange(4), np.full(3, 0.5), 4000, np.random.default_rng(0)
    ).astype(np.float64)
    voice = np.square(gains[:, :, 0]).mean(1)
    assert 0.3 < (voice == 0).mean() < 0.4
    assert -6 < np.median(10 * np.log10(voice[voice > 0])) < -4
    record = np.abs(gains[:, :, 2:])
    assert 0.03 < (record == 0).all((1, 2)).mean() < 0.1
    assert set(record.sum((1, 2))) == {0.0, 2.0} and np.isin(record, [0, 1]).all()


def test_stretches_that_are_mixed_anew_are_other_mixtures(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("deepsep.spectral.mixtures.REPLAYED", 1)
    banks = [build(SampleBank, [folder], tmp_path / "cache") for folder in folders]
    monkeypatch.setattr("deepsep.spectral.stretches.draw_stretch", heard := Counting(draw_stretch))
    rng = torch.Generator().manual_seed(0)
    batches = simulate(banks, SPECTRUM, frames=24, batch=2, rng=rng, extra=0)
    drawn = [next(batches).total_bdn for _ in range(20)]
    assert 2 * 5 <= heard.calls < 2 * 16, "about half of them are new"
    assert all(not torch.allclose(a, b) for a, b in pairwise(drawn))


class Counting:
    """A function that counts its calls."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args):
        self.calls += 1
        return self.function(*args)


def test_an_equaliser_is_smooth_and_clearing_keeps_most_of_the_energy():
    random = np.random.default_rng(0)
    gain = equaliser_gains(50, SPECTRUM, random)
    assert gain.shape == (50, SPECTRUM.bands) and gain.std() > 0.2
    assert gain.log().diff(dim=1).abs().mean() < 0.5 * gain.log().abs().mean()
    energy = torch.rand(50, SPECTRUM.bands, 4) + 0.1
    high_pass = high_pass_gains(energy, SPECTRUM, random)
    kept = (energy.sum(-1) * high_pass**2).sum(1) / energy.sum((1, 2))
    assert 0.5 < kept.min() < 0.95 and kept.max() == pytest.approx(1)
    assert (high_pass.diff(dim=1) > -1e-6).all()


def test_instruments_come_and_go_within_a_mixture():
    second = SPECTRUM.rate / SPECTRUM.hop
    gains = phrases(400, int(12 * second), SPECTRUM, np.random.default_rng(0))
    assert gains.min() == 0 and gains.max() <= 1 + 1e-6
    always = (gains == 1).all(1)
    assert 0.7 < always.float().mean() < 0.85
    assert gains.diff(dim=1).abs().max() <= 1 / int(0.05 * second) + 1e-6, "no click"
    changing = gains[~always]
    assert 0.4 < changing.mean() < 0.6
    turns = ((changing[:, 1:] > 0.5) != (changing[:, :-1] > 0.5)).sum(1).float()
    assert 2 < turns.mean() < 4, "every four seconds"


def test_a_compressor_takes_dynamics_and_no_energy():
    level = torch.repeat_interleave(torch.tensor([1.0, 0.01, 1.0, 1e-9]), 20)
    power = torch.cat([level.expand(200, -1), torch.zeros(1, 80)])
    gains = compressor_gains(power, 0.8, np.random.default_rng(0))
    after = power * gains**2
    torch.testing.assert_close(after.sum(1), power.sum(1))
    left_db = 10 * torch.log10(after[:200, 10] / after[:200, 30])  # of 20 dB
    assert left_db.min() > 20 * (1 - 0.8) - 0.1 and left_db.max() < 20.01
    assert 0.5 < (left_db > 19.99).float().mean() < 0.7
    silence_db = 10 * torch.log10(after[:200, 10] / after[:200, 70])  # of 90 dB
    assert silence_db.min() > 90 - 0.8 * 30 - 0.1


def test_a_master_changes_no_share_of_the_mixture():
    """Compressed and cut off as a whole: the best mask stays the best, what is above the cutoff is nearly gone."""
    random = np.random.default_rng(0)
    spectrum = Spectrum(SpectrumConfig())
    gram = torch.rand(1, 1, spectrum.bands, 40) + 0.5
    m = mixtures(gram, torch.ones(60, 2, 1), torch.tensor([0]), 1, spectrum.count_d)
    after = master(m, spectrum, random)
    torch.testing.assert_close(after.cross_bpdn[:, 0], after.total_bdn)
    torch.testing.assert_close(after.power_bpdn[:, 0], after.total_bdn)
    ratio_bd = (after.total_bdn / m.total_bdn).mean(2)
    cut = ratio_bd[:, -1] < 1e-5
    assert 0.05 < cut.float().mean() < 0.3
    kept_hz = band_centres(spectrum)[((ratio_bd[cut] > 1e-3).sum(1) - 1).numpy()] * spectrum.rate / 2
    assert (kept_hz > 10500).all() and (kept_hz < 19000).all()
    moved = (after.total_bdn / m.total_bdn)[:, 0].std(1) > 1e-4
    assert 0.2 < moved.float().mean() < 0.6


def test_mixtures_of_one_signal_are_that_signal():
    gram = torch.rand(1, 1, SPECTRUM.bands, 3) + 0.1
    m = mixtures(gram, torch.tensor([[[2.0], [1.0]]]), torch.tensor([0]), 1, SPECTRUM.count_d)
    torch.testing.assert_close(m.total_bdn, 5 * gram[0])
    torch.testing.assert_close(m.power_bpdn[:, 0], m.total_bdn)
    torch.testing.assert_close(m.cross_bpdn[:, 0], m.total_bdn)
    torch.testing.assert_close(m.mix_bcdn[:, 2] * SPECTRUM.count_d[:, None], 4.5 * gram[0])


def test_gains_pan_without_changing_power_and_leave_some_sources_out():
    source = np.array([0, 1, 2, 1])
    gains = random_gains(source, np.arange(4), np.full(3, 0.5), 4000, np.random.default_rng(0))
    assert gains.shape == (4000, 2, 4) and np.isfinite(gains).all()
    assert 0.05 < (gains[:, :, 0] == 0).all(1).mean() < 0.2
    assert (gains < 0).any() and (gains[:, 0] > 0).any()
    mono = np.isclose(gains[:, 0], gains[:, 1]).all(1).mean()
    assert 0.2 < mono < 0.6


def test_singers_drums_and_basses_stand_in_the_middle_and_what_comes_to_them_anywhere():
    central_k = np.array(central_shares(["vocals", "cello", "bass"]))
    source = np.array([0, 1, 2, 0, 2])
    gains = random_gains(source, np.arange(5), central_k, 4000, np.random.default_rng(0))
    panned = gains[~np.isclose(gains[:, 0], gains[:, 1]).all(1)]  # not of a mono song
    heard = (panned != 0).any(1)
    middle = [np.isclose(*panned[heard[:, i]][:, :, i].T).mean() for i in range(5)]
    assert middle[0] > 0.75 and middle[2] > 0.85
    assert all(0.2 < middle[i] < 0.5 for i in (1, 3, 4))


def test_signals_are_made_wide_by_others_of_their_source():
    random = np.random.default_rng(0)
    drawn = np.stack([draw_middles(4, 3, random, True) for _ in range(2000)])
    assert (drawn[:, :4] == np.arange(4)).all()
    sides = drawn[:, 4:] < 4
    assert (drawn[:, 4:][~sides] == np.nonzero(~sides)[1] + 4).all()
    assert 0.4 < sides.mean() < 0.6 and all(len(set(row)) == len(row) for row in drawn[:, 4:])
    assert (draw_middles(4, 3, random, False) == np.arange(7)).all()


def test_a_side_is_added_on_the_left_and_subtracted_on_the_right():
    random = np.random.default_rng(0)
    middle = np.array([0, 1, 0])
    gains = random.standard_normal((4000, 2, 3))
    gains[:1000, 1] = gains[:1000, 0]
    wide = widened(gains, middle, random)
    np.testing.assert_allclose(wide[:, :, :2], gains[:, :, :2], rtol=1e-6)
    assert (wide[:, 0, 2] == -wide[:, 1, 2]).all()
    assert (wide[:1000, :, 2] == 0).all(), "a mono mixture stays mono"
    width = wide[1000:, 0, 2] / np.sqrt(np.square(gains[1000:, :, 0]).mean(1))
    assert 0.15 < (width == 0).mean() < 0.25
    assert -24.01 < 20 * np.log10(width[width > 0].min()) and width.max() < 1.0001
    assert -11 < 20 * np.log10(np.median(width[width > 0])) < -9


def test_what_makes_a_stretch_wide_is_its_recordings_own_or_made_up(tmp_path):
    random = np.random.default_rng(0)
    channels = random.standard_normal((8 * RATE, 2)) * [0.1, 0.05]
    for name, samples in (("stereo", channels), ("mono", channels[:, :1]), ("alike", channels[:, [0, 0]])):
        (tmp_path / name).mkdir()
        sf.write(tmp_path / name / "a.wav", samples, RATE, subtype="FLOAT")
        bank = build(SampleBank, [tmp_path / name], tmp_path / f"{name} cache")
        for _ in range(8):
            middle, side = draw_wide_stretch(bank, 2 * RATE, RATE, random, None)
            assert np.square(side).sum() == pytest.approx(np.square(middle).sum(), rel=1e-3)
            together = np.dot(middle, side) / np.square(middle).sum()
            # (l + r) / 2 and (l - r) / 2 have the same energy here: the two added are one channel
            own = abs(together - (1 - 0.25) / (1 + 0.25)) < 0.05
            assert own if name == "stereo" else abs(together) < 0.5
    echo = other_side(np.eye(1, 4 * RATE)[0].astype(np.float32), RATE, random)
    assert np.isfinite(echo).all() and np.abs(echo).max() > 0


def test_wide_mixtures_are_still_the_sum_of_their_parts(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("deepsep.spectral.stretches.SIDED", 1.0)  # no second parts
    banks = [build(SampleBank, [folder], tmp_path / "cache") for folder in folders]
    drawn = simulate(banks, SPECTRUM, frames=24, batch=64, rng=torch.Generator().manual_seed(0), extra=2)
    wide = 0
    for _ in range(8):
        m = next(drawn)
        tolerance = 1e-3 * float(m.total_bdn.max())
        torch.testing.assert_close(m.cross_bpdn.sum(1), m.total_bdn, rtol=1e-3, atol=tolerance)
        left_right = m.mix_bcdn[:, :2].sum(1) * SPECTRUM.count_d[:, None]
        torch.testing.assert_close(left_right, m.total_bdn, rtol=1e-3, atol=tolerance)
        alone = (m.power_bpdn.flatten(2).sum(2) > 0).sum(1) == 1
        left, right, mid, side = m.mix_bcdn[alone].double().unbind(1)
        apart = mid * side - ((left - right) / 2) ** 2  # 0 where one channel is a multiple of the other
        wide += int((apart.flatten(1).mean(1) > 1e-4 * ((left + right) ** 2).flatten(1).mean(1)).sum())
    assert wide > 0, "a source alone is not the same left and right, give or take a gain"


def test_songs_are_heard_in_stretches_at_level_one(tmp_path):
    song = tone(tmp_path / "songs" / "a.wav", 500, 3.0, level=0.01, channels=2)
    tone(tmp_path / "songs" / "mute.wav", 500, level=0)
    rng = torch.Generator().manual_seed(0)
    spectra = next(song_batches(tmp_path / "songs", SPECTRUM, Listener(), batch=3, frames=20, rng=rng))
    planes = stereo_power(spectra, SPECTRUM)
    assert planes.shape == (3, 4, SPECTRUM.bands, 20)
    left, right, mid, side = planes.unbind(1)
    torch.testing.assert_close(left, right)
    torch.testing.assert_close(mid, 2 * left, rtol=1e-3, atol=1e-6)
    assert side.abs().max() < 1e-6
    power = float((left * SPECTRUM.count_d[:, None]).sum(1).mean()) / (SPECTRUM.n_fft / 2)
    assert power == pytest.approx(1, rel=0.05)
    song.unlink()
    with pytest.raises(DeepsepError, match="every song is silent"):
        next(song_batches(tmp_path / "songs", SPECTRUM, Listener(), batch=3, frames=20, rng=rng))


def test_parts_of_a_source_that_cancel_leave_no_negative_power():
    """Gram sums round to float32: x - x of a loud x was some -1e-3, and the log of it nan."""
    x = 30 * torch.randn(1, 40 * SPECTRUM.hop, generator=torch.Generator().manual_seed(0))
    gram = gram_sums(SPECTRUM.stft(torch.cat([x, 0.37 * x, torch.ones_like(x)])), SPECTRUM)
    gains = torch.tensor([[0.37, -1.0, 1.0], [0.37, -1.0, 0.5]])[None]
    m = mixtures(gram, gains, torch.tensor([0, 0, 1]), 2, SPECTRUM.count_d)
    assert m.power_bpdn.min() >= 0
    assert SPECTRUM.to_x(m.power_bpdn).isfinite().all()
