"""Resampling keeps time, and a stream comes out as the whole does."""

import numpy as np
import pytest

from deepsep.audio.resampling import resample, resample_blocks

RATE = 44100


def chirp(frames, rate=RATE):
    t = np.arange(frames) / rate
    return np.stack([0.4 * np.sin(2 * np.pi * (150 + 90 * c + 400 * t) * t) for c in range(2)]).astype(
        np.float32
    )


@pytest.mark.parametrize("to_rate", [22050, 44100, 48000])
def test_resampling_keeps_time_and_streams_to_the_same(to_rate):
    samples = chirp(2 * RATE)
    whole = resample(samples, RATE, to_rate)
    assert whole.shape == (2, 2 * to_rate) and whole.dtype == np.float32
    middle = slice(to_rate // 2, to_rate)  # away from the ends, where a chirp is cut off
    np.testing.assert_allclose(whole[:, middle], chirp(2 * to_rate, rate=to_rate)[:, middle], atol=1e-3)
    pieces = list(resample_blocks(np.array_split(samples, 9, axis=1), RATE, to_rate))
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=1e-6)
