"""How close an estimate is to its reference, in dB; larger is better.

Shape suffixes: k stem, c audio channel, t sample. A silent reference has no such figure: nan.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import MissingExtra

__all__ = ["bss_eval", "has_museval", "sdr", "si_sdr"]


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


def bss_eval(reference_kct: ArrayLike, estimate_kct: ArrayLike, rate: int) -> list[float]:
    """The SDR of BSS Eval v4 as museval reports it: for each source, the median over stretches of one second.

    Allows the estimate a filter of 512 taps for the whole clip. No reference may be silent throughout.
    """
    if not has_museval():
        raise MissingExtra('the BSS Eval figures need museval: pip install "deepsep[eval]"')
    import museval

    reference, estimate = pair(reference_kct, estimate_kct)
    window = min(rate, reference.shape[-1])
    figures: Any = museval.evaluate(reference.transpose(0, 2, 1), estimate.transpose(0, 2, 1), window, window)
    frames_kn = np.asarray(figures[0], np.float64)
    return [
        float(np.median(known)) if len(known := row[np.isfinite(row)]) else float("nan") for row in frames_kn
    ]


def has_museval() -> bool:
    """Whether `bss_eval` can be computed here."""
    try:
        import museval
    except ImportError:
        return False
    return hasattr(museval, "evaluate")


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
