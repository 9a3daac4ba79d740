"""Sounds of simulated mixtures are played in time and in key with one another."""

import numpy as np
import pytest
import soundfile

from deepsep import Listener
from deepsep.recordings.banks import SampleBank
from deepsep.spectral.harmony import chroma
from deepsep.spectral.rhythm import Beat, onsets
from deepsep.spectral.stretches import draw_signals

RATE = 22050
FRAME = round(0.0232 * RATE)


def clicks(tempo, first, samples, random):
    """Short noises, `tempo` a minute, the first after `first` seconds: (1, t)."""
    x = random.normal(0, 0.01, samples)
    for at in np.arange(first, samples / RATE - 0.1, 60 / tempo):
        start = int(at * RATE)
        x[start : start + 1000] += random.normal(0, 1, 1000) * np.exp(-np.arange(1000) / 200)
    return x[None]


@pytest.mark.parametrize("tempo", [104, 120, 143, 61, 232])
def test_another_tempo_is_played_at_the_speed_and_start_that_make_it_the_same(tempo):
    random = np.random.default_rng(0)
    length = 12 * RATE
    beat = Beat(length, RATE)
    beat.add(clicks(120, 0.2, length, random))
    recording = clicks(tempo, 0.37, beat.needed(3.5), random)
    speed, start = beat.in_time(recording, 3.5)
    octave = tempo * speed / 120  # half and twice the tempo are in time as well
    assert min(abs(octave - o) / o for o in (0.5, 1, 2)) < 0.01
    period = 60 / max(120, tempo * speed)
    late = (0.37 / speed - start / RATE - 0.2) % period
    assert min(late, period - late) < 2 * FRAME / RATE
    assert start + length <= recording.shape[1] / speed, "the recording ends too early"


def test_silence_and_steady_sounds_are_in_time_at_any_start():
    beat = Beat(RATE, RATE)
    beat.add(np.zeros((1, RATE)))
    assert not beat.onsets_n.any()
    beat.add(clicks(120, 0.1, RATE, np.random.default_rng(0)))
    for samples in (np.zeros((1, beat.needed(3.5))), np.ones((2, beat.needed(3.5)))):
        speed, start = beat.in_time(samples, 3.5)
        assert 0.8 < speed < 1.25 and 0 <= start <= RATE * 2.05


def test_sounds_drawn_with_a_beat_share_more_onsets(tmp_path):
    random = np.random.default_rng(1)
    banks = []
    for i, tempo in enumerate((97, 131, 113)):
        (tmp_path / str(i)).mkdir()
        soundfile.write(tmp_path / str(i) / "a.wav", 0.1 * clicks(tempo, 0.1, 60 * RATE, random)[0], RATE)
        banks.append(SampleBank.build([tmp_path / str(i)], RATE, tmp_path / f"cache{i}", Listener()))
    length, source = 8 * RATE, np.arange(3)

    def alike(beat):
        found = []
        for _ in range(6):
            drawn = draw_signals(banks, source, source, length, RATE, random, True, beat())
            assert drawn.shape == (3, length)
            heard = np.stack([onsets(x[None], FRAME) for x in drawn])
            found.append(np.corrcoef(heard)[np.triu_indices(3, 1)].mean())
        return np.mean(found)

    assert alike(lambda: Beat(length, RATE)) > alike(lambda: None) + 0.15


def chords(semitones, samples, tempo=120, first=0.0):
    """Four chords, each struck four times, so many semitones higher: (1, t)."""
    beat, t = int(60 / tempo * RATE), np.arange(samples) / RATE
    x = np.zeros(samples)
    for i, a in enumerate(range(int(first * RATE), samples, beat)):
        for step in ((0, 4, 7), (5, 9, 12), (7, 11, 14), (0, 4, 7))[i // 4 % 4]:
            f = 220 * 2 ** ((step + semitones) / 12)
            held = t[: min(samples, a + beat) - a]
            x[a : a + beat] += sum(np.sin(2 * np.pi * f * h * held) / h for h in (1, 2, 3)) * np.exp(
                -3 * held
            )
    return x[None]


@pytest.mark.parametrize("semitones", [-3.0, -1.5, 0.0, 1.0, 3.0])
def test_another_key_is_played_at_the_speed_that_makes_it_the_same(semitones):
    """In time it would be at other speeds as well."""
    length = 12 * RATE
    beat = Beat(length, RATE)
    beat.add(chords(0, length))
    recording = chords(semitones, beat.needed(3.5), 120 * 2 ** (semitones / 12), 0.3)
    speed, _ = beat.in_time(recording, 3.5)
    assert 12 * np.log2(speed) == pytest.approx(-semitones, abs=0.1)


def test_chroma_knows_notes_by_their_class_and_noise_not_at_all():
    hop = 8 * FRAME
    low, high, other = (chroma(chords(s, 4 * RATE), RATE, hop).mean(0) for s in (0, 12, 3))
    assert np.corrcoef(low, high)[0, 1] > 0.8 > 0.3 > np.corrcoef(low, other)[0, 1]
    assert np.corrcoef(np.roll(low, 9), other)[0, 1] > 0.8  # a class is a third of a semitone
    noise = np.random.default_rng(0).normal(size=(2, 4 * RATE))
    assert (
        np.abs(chroma(noise, RATE, hop)).mean() < 0.2 * np.abs(chroma(chords(0, 4 * RATE), RATE, hop)).mean()
    )
