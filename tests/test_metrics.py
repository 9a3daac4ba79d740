from __future__ import annotations

import math

import numpy as np
import pytest

from deepsep.evaluation import metrics


@pytest.fixture
def reference() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 4000)).astype(np.float32)


@pytest.mark.parametrize("gain", [0.5, 1.5, -1.0, 0.9])
def test_a_wrong_gain_costs_its_own_error(reference: np.ndarray, gain: float) -> None:
    assert metrics.sdr(reference, gain * reference) == pytest.approx(
        -20 * math.log10(abs(1 - gain)), abs=1e-4
    )


def test_the_reference_itself_has_no_error(reference: np.ndarray) -> None:
    assert metrics.sdr(reference, reference) == math.inf
    assert metrics.sdr(reference, np.zeros_like(reference)) == 0.0


def test_sdr_is_over_the_whole_clip_not_a_mean_of_its_parts(reference: np.ndarray) -> None:
    estimate = reference.copy()
    estimate[:, :1000] = 0
    lost = np.square(reference[:, :1000], dtype=np.float64).sum()
    whole = np.square(reference, dtype=np.float64).sum()
    assert metrics.sdr(reference, estimate) == pytest.approx(10 * math.log10(whole / lost))


@pytest.mark.parametrize("gain", [1e-3, 0.5, 7.0, -2.0])
def test_si_sdr_does_not_hear_the_gain(reference: np.ndarray, gain: float) -> None:
    estimate = reference + 0.3 * np.roll(reference, 7, 1)
    assert metrics.si_sdr(reference, gain * estimate) == pytest.approx(
        metrics.si_sdr(reference, estimate), abs=1e-6
    )


def test_si_sdr_of_orthogonal_noise_is_the_ratio_of_powers() -> None:
    t = np.arange(4000) / 4000
    tone, noise = np.sin(2 * np.pi * 50 * t)[None], np.cos(2 * np.pi * 80 * t)[None]
    assert metrics.si_sdr(tone, 3 * tone + 0.3 * noise) == pytest.approx(20.0, abs=1e-6)


def test_si_sdr_of_nothing_is_minus_infinity(reference: np.ndarray) -> None:
    assert metrics.si_sdr(reference, np.zeros_like(reference)) == -math.inf


@pytest.mark.parametrize("figure", [metrics.sdr, metrics.si_sdr])
def test_a_silent_reference_has_no_figure(figure, reference: np.ndarray) -> None:
    assert math.isnan(figure(np.zeros_like(reference), reference))
    assert math.isnan(figure(np.zeros_like(reference), np.zeros_like(reference)))


@pytest.mark.parametrize("figure", [metrics.sdr, metrics.si_sdr])
def test_a_mono_estimate_is_not_taken_for_a_stereo_one(figure, reference: np.ndarray) -> None:
    with pytest.raises(ValueError, match="shape"):
        figure(reference, reference[:1])


def test_the_median_is_over_whole_seconds_in_which_all_sources_sound(reference: np.ndarray) -> None:
    rate = 900  # four stretches and a rest of 400 samples
    true = np.stack([reference, np.roll(reference, 50, 1)])
    true[1, :, :rate] = 0
    estimate = true * 1.0
    for i, gain in enumerate((9.0, 0.9, 0.5, 0.0, 9.0)):
        estimate[0, :, i * rate : (i + 1) * rate] *= gain
    estimate[0, 0, 3 * rate] = 1e-9  # not quite silent, so that it counts
    estimate[1] *= 0.5
    first, second = metrics.median_sdr(true, estimate, rate)
    assert first == pytest.approx(20 * math.log10(2), abs=1e-3)
    assert second == pytest.approx(20 * math.log10(2), abs=1e-6)
    short = metrics.median_sdr(true[:1], 0.9 * true[:1].astype(float), 10**6)
    assert short == pytest.approx([20.0], abs=1e-6)
    assert all(map(math.isnan, metrics.median_sdr(true, estimate * 0, rate)))


def test_the_median_is_what_museval_reports(reference: np.ndarray) -> None:
    museval = pytest.importorskip("museval")
    true = np.stack([reference, np.roll(reference, 50, 1)])
    true[1, :, :1300] = 0
    estimate = true + 0.3 * np.random.default_rng(1).standard_normal(true.shape) * np.linspace(0, 2, 4000)
    figures = museval.evaluate(true.transpose(0, 2, 1), estimate.transpose(0, 2, 1), win=1300, hop=1300)[0]
    assert metrics.median_sdr(true, estimate, 1300) == pytest.approx(
        np.nanmedian(figures, 1).tolist(), abs=1e-6
    )
