"""Which notes sound when, whatever their octave: the chroma by which sounds of a mixture are played in one key.

Shape suffixes: c audio channel, t sample, m frame of chroma, f frequency bin, p pitch class.
"""

from __future__ import annotations

import numpy as np

__all__ = ["CLASSES", "chroma"]

CLASSES = 36  # pitch classes in an octave, a third of a semitone wide
LOWEST, HIGHEST = 82.0, 2000.0  # Hz


def chroma(samples_ct: np.ndarray, rate: int, hop: int) -> np.ndarray:
    """How much of each pitch class sounds in each `hop` samples, less the mean of all classes: (m, p).

    As a share of all that sounds, so that drums and noise have little of any. Bartsch and Wakefield, 2001.
    """
    mono = np.pad(samples_ct.mean(0), (hop // 2, hop // 2 + hop))
    frames = np.lib.stride_tricks.sliding_window_view(mono, 2 * hop)[::hop]
    window = np.hanning(2 * hop + 1)[:-1]
    frequency = np.fft.rfftfreq(2 * hop, 1 / rate)
    heard = (frequency >= LOWEST) & (frequency <= HIGHEST)
    magnitude_mf = np.abs(np.fft.rfft(frames * window)[:, heard])
    # each bin belongs to the two classes nearest to it
    place_f = CLASSES * np.log2(frequency[heard] / LOWEST) % CLASSES
    distance_fp = np.abs((place_f[:, None] - np.arange(CLASSES) + CLASSES / 2) % CLASSES - CLASSES / 2)
    weight_fp = np.clip(1 - distance_fp, 0, None)
    weight_fp /= weight_fp.sum(0) + 1e-9  # the classes of white noise are all alike
    found_mp = magnitude_mf @ weight_fp
    centred: np.ndarray = (found_mp - found_mp.mean(1, keepdims=True)) / (found_mp.mean() + 1e-9)
    return centred
