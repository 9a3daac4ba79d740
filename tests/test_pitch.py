"""An encoder that hears a mixture at several pitches."""

import numpy as np
import pytest
import torch

from deepsep.config import SpectrumConfig
from deepsep.errors import DeepsepError
from deepsep.inference.settings import choose_pitches
from deepsep.spectral.pitch import STEP, as_higher, as_it_was
from deepsep.spectral.spectrum import Spectrum

FINE = SpectrumConfig()
SPECTRUM = Spectrum(FINE)


def tone(frequency, seconds=1.0):
    """Band powers (1, 1, d, n) of a sine."""
    t = torch.arange(round(seconds * SPECTRUM.rate)) / SPECTRUM.rate
    spectra = SPECTRUM.analyse(torch.sin(2 * np.pi * frequency * t)[None])
    return SPECTRUM.band_power(spectra.abs().square())[None, ..., 3:-3]


@pytest.mark.parametrize("frequency", [300.0, 1000.0, 2500.0])
@pytest.mark.parametrize("number", [1, 2])
def test_a_tone_lies_where_it_would_at_the_higher_pitch(frequency, number):
    def centre(power):  # in bins
        total = (power * SPECTRUM.count_d[:, None]).sum((0, 1, 3))
        edges = torch.tensor(FINE.band_edges, dtype=torch.float32)
        return float((total * (edges[1:] + edges[:-1] - 1) / 2).sum() / total.sum())

    higher = as_higher(tone(frequency), FINE, number)
    true = centre(tone(frequency / STEP**number))
    width = np.diff(FINE.band_edges)[np.searchsorted(FINE.band_edges, true, "right") - 1]
    assert abs(centre(higher) - true) < 0.5 * width


@pytest.mark.parametrize("number", [0, 1, 3])
def test_shares_brought_back_are_shares(number):
    rng = torch.Generator().manual_seed(0)
    gains = torch.rand(2, 3, FINE.bands, 5, generator=rng).softmax(1)
    back = as_it_was(gains, FINE, number)
    torch.testing.assert_close(back.sum(1), torch.ones(2, FINE.bands, 5))
    if number == 0:
        torch.testing.assert_close(back, gains)
    same = torch.full((1, 1, FINE.bands, 1), 0.7)
    torch.testing.assert_close(as_it_was(as_higher(same, FINE, number), FINE, number), same)


def test_what_is_found_of_a_tone_comes_back_to_it():
    power = tone(1000.0)
    found = as_higher(power, FINE, 2)
    found = (found > 0.1 * found.max()).float()  # a gain of 1 where the tone is heard
    assert float((as_it_was(found, FINE, 2) * power).sum() / power.sum()) > 0.7
    assert float((found * power).sum() / power.sum()) < 0.3, "it was heard where it sounds"


def test_two_pitches_by_default_only_where_langevin_starts_from_the_encoder():
    assert choose_pitches(None, "encoder", "encoder", several=True) == 1
    assert choose_pitches(None, "sgld", "mixture", several=True) == 1
    assert choose_pitches(None, "sgld", "encoder", several=True) == 2
    assert choose_pitches(None, "sgld", "encoder", several=False) == 1
    assert choose_pitches(3, "encoder", "mixture", several=True) == 3


@pytest.mark.parametrize(
    ("pitches", "method", "several", "why"),
    [
        (0, "encoder", True, "between 1 and 8"),
        (9, "encoder", True, "between 1 and 8"),
        (2, "sgld", True, "do nothing without"),
        (2, "encoder", False, "hears one pitch"),
    ],
)
def test_pitches_that_would_do_nothing_are_refused(pitches, method, several, why):
    with pytest.raises(DeepsepError, match=why):
        choose_pitches(pitches, method, "mixture", several=several)
