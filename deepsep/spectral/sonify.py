"""x made audible: the log-variances that a prior speaks of have no phase, so one is made up.

Shape suffixes: d band, f STFT bin, n frame, t sample.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..audio.loudness import Loudness
from ..errors import DeepsepError
from ..flows.flow import FlowPrior, WaveformPrior
from .spectrum import Spectrum

__all__ = ["draw", "draw_samples", "griffin_lim", "levelled", "sonify"]

LOUDEST = 1e4  # a band's power, relative to a mixture of RMS 1: 40 dB; no recording comes near
TARGET_RMS = 10 ** (-20 / 20)
PEAK = 0.98


@torch.no_grad()
def draw(prior: FlowPrior, frames: int, *, sigma: float, temperature: float, rng: torch.Generator) -> Tensor:
    """x = f^-1(temperature z), z ~ N(0, I): (d, n). At temperature 1 a draw from p_sigma.

    Raises DeepsepError where the inverse leaves the numbers, as it does at temperatures far above 1.
    """
    # the flow takes frames in pairs, and at its ends it knows less: draw more than is used
    edge = 16
    total = -(-(frames + 2 * edge) // 8) * 8
    z = temperature * torch.randn(1, prior.config.channels, total, generator=rng)
    x_dn: Tensor = prior.inverse(z.to(prior.whitening.mean), sigma)[0][0, :, edge : edge + frames]
    if not x_dn.isfinite().all():
        raise DeepsepError(f"the prior's draw overflows at temperature {temperature:g}; use one nearer to 1")
    return x_dn


@torch.no_grad()
def draw_samples(
    prior: WaveformPrior, samples: int, *, sigma: float, temperature: float, rng: torch.Generator
) -> Tensor:
    """The same of a prior of samples, which need no phase made up: (t,)."""
    z = temperature * torch.randn(
        1, -(-samples // prior.config.multiple) * prior.config.multiple, generator=rng
    )
    x_t: Tensor = prior.inverse(z.to(prior.whitening.mean), sigma)[0][0, 0, :samples]
    if not x_t.isfinite().all():
        raise DeepsepError(f"the prior's draw overflows at temperature {temperature:g}; use one nearer to 1")
    return x_t


@torch.no_grad()
def sonify(
    x_dn: Tensor, spectrum: Spectrum, samples: int, *, iterations: int, rng: torch.Generator
) -> Tensor:
    """A signal (t,) whose bands have the power that x says; n must be `spectrum.frames(samples)`.

    0 iterations: white noise through the time-varying filter sqrt(v), a draw of S ~ N_C(0, v).
    More: Griffin & Lim (1984) from the noise's phase, which seeks the signal of just these magnitudes.
    """
    power = (spectrum.to_power(x_dn) - spectrum.floor).clamp(0, LOUDEST)
    magnitude = spectrum.expand(power.sqrt())
    noise = torch.randn(1, samples, generator=rng).to(magnitude)
    spectra = spectrum.analyse(noise)[0]  # white noise of unit power in every coefficient
    if iterations == 0:
        return spectrum.synthesise(magnitude * spectra, samples)
    return griffin_lim(magnitude, spectra, spectrum, samples, iterations)


def griffin_lim(
    magnitude_fn: Tensor, start_fn: Tensor, spectrum: Spectrum, samples: int, iterations: int
) -> Tensor:
    """The signal (t,) whose STFT comes near these magnitudes, from the phase of `start_fn`."""
    spectra = start_fn
    signal = spectra.new_zeros(samples, dtype=magnitude_fn.dtype)
    for _ in range(iterations):
        phase = spectra / spectra.abs().clamp_min(1e-12)
        signal = spectrum.synthesise(magnitude_fn * phase, samples)
        spectra = spectrum.analyse(signal[None])[0]
    return signal


def levelled(signal_t: np.ndarray) -> np.ndarray:
    """One gain that brings a signal to -20 dB RMS where it is not quiet, lower if it would clip; (1, t)."""
    loudness = Loudness()
    loudness.hear(signal_t[None])
    if loudness.rms == 0:
        return signal_t[None].astype(np.float32)
    gain = min(TARGET_RMS / loudness.rms, PEAK / float(np.abs(signal_t).max()))
    return (signal_t[None] * gain).astype(np.float32)
