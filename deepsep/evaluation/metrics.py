"""How close an estimate is to its reference, in dB; larger is better.

Shape suffixes: k stem, c audio channel, t sample. A silent reference has no such figure: nan.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["median_sdr", "sdr", "si_sdr"]


def sdr(reference_ct: ArrayLike, estimate_ct: ArrayLike) -> float:
    """10 log10(|s|^2 / |s - s'|^2) over all channels and the whole clip: the "global SDR".

    nan for a silent reference, inf for the reference itself.
    Reference: Mitsufuji et al., Music Demixing Challenge 2021, Eq. 1, without its epsilon.
    """
    reference, estimate = pair(reference_ct, estimate_ct)
    return decibels(energy(reference), energy(reference - estimate))


def si_sdr(reference_ct: ArrayLike, estimate_ct: ArrayLike) -> float:
    """10 log10(|a s|^2 / |a s - s'|^2), a = <s, s'> / |s|^2: the estimate's gain does not count.

    nan for a silent reference, -inf for an estimate that has nothing of it.
    Reference: Le Roux et al., SDR - half-baked or well done?, 2019, Eq. 4.
    """
    reference, estimate = pair(reference_ct, estimate_ct)
    power = energy(reference)
    if power == 0:
        return float("nan")
    scaled = reference * (float((reference * estimate).sum()) / power)
    target = energy(scaled)
    return decibels(target, energy(scaled - estimate)) if target else -float("inf")


def median_sdr(reference_kct: ArrayLike, estimate_kct: ArrayLike, rate: int) -> list[float]:
    """The SDR of BSS Eval v4 as museval reports it: for each source, the median over stretches of one second.

    The four parts that BSS Eval cuts an estimate into add up again in its SDR for images: no filter has to be
    found, it is `sdr` of each stretch. As there, a stretch in which any reference or estimate is silent
    counts for no source, nor does a last stretch of less than a second.
    Reference: Stöter et al., The 2018 Signal Separation Evaluation Campaign, 2018.
    """
    s, s_hat = pair(reference_kct, estimate_kct)
    length = s.shape[-1]
    window = min(rate, length)
    frames_nk: list[list[float]] = []
    for at in range(0, length - window + 1, window):
        piece = slice(at, at + window)
        if all(part.any() for stems in (s, s_hat) for part in stems[..., piece]):
            frames_nk.append([sdr(a, b) for a, b in zip(s[..., piece], s_hat[..., piece], strict=True)])
    return [float(np.median(column)) for column in zip(*frames_nk, strict=True)] or [float("nan")] * len(s)


def pair(reference: ArrayLike, estimate: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both in double precision; ValueError unless their shapes agree, so that nothing is broadcast unseen."""
    s, s_hat = np.asarray(reference, np.float64), np.asarray(estimate, np.float64)
    if s.shape != s_hat.shape:
        raise ValueError(f"reference and estimate differ in shape: {s.shape} and {s_hat.shape}")
    return s, s_hat


def energy(samples: NDArray[np.float64]) -> float:
    """Sum of squares."""
    return float(np.square(samples).sum())


def decibels(target: float, error: float) -> float:
    """10 log10(target / error): nan without a target, inf without an error."""
    if target == 0:
        return float("nan")
    return 10 * float(np.log10(target / error)) if error else float("inf")
