"""Loudness follows the gain, leaves silence out and does not depend on the blocks."""

import numpy as np
import pytest

from deepsep.audio.loudness import Loudness, gated_rms


def test_gated_rms_follows_the_gain_and_ignores_silence():
    power = np.random.default_rng(0).uniform(0.2, 1, 50)
    rms = gated_rms(power)
    assert gated_rms(power * 100) == pytest.approx(10 * rms)
    assert gated_rms(np.concatenate([power, np.zeros(1000)])) == pytest.approx(rms)
    assert gated_rms(np.concatenate([power, np.full(1000, 1e-4)])) == pytest.approx(rms, rel=1e-3)
    assert gated_rms(np.full(7, 0.25)) == pytest.approx(0.5)
    assert gated_rms(np.zeros(5)) == 0 and gated_rms(np.zeros(0)) == 0


def test_loudness_does_not_depend_on_the_blocks():
    x = np.random.default_rng(0).standard_normal((2, 30011)).astype(np.float32)
    x[:, 9000:20000] *= 0.001
    heard = []
    for sizes in ([30011], [1, 4095, 4097, 17, 20000], [10000] * 3):
        loudness = Loudness()
        for block in np.split(x, np.cumsum(sizes), axis=1):
            loudness.add(block)
        heard.append(loudness.rms)
    assert heard == pytest.approx([heard[0]] * 3)
    assert heard[0] == pytest.approx(1, rel=0.15)
    assert Loudness().rms == 0
