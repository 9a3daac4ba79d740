"""x made audible: log band powers have no phase, so one is made up.

Shape suffixes: d band, f STFT bin, n frame, t sample.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .spectrum import Spectrum

__all__ = ["griffin_lim", "sonify"]

LOUDEST = 1e4  # a band's power, relative to a mixture of RMS 1: 40 dB; no recording comes near


@torch.no_grad()
def sonify(
    x_dn: Tensor,
    spectrum: Spectrum,
    samples: int,
    *,
    iterations: int,
    rng: torch.Generator,
    on_part: Callable[[float], None] | None = None,
) -> Tensor:
    """A signal (t,) whose bands have the power that x says; n must be `spectrum.frames(samples)`.

    0 iterations: white noise through the time-varying filter sqrt(v), a draw of S ~ N_C(0, v).
    More: Griffin & Lim (1984) from the noise's phase, which seeks the signal of just these magnitudes.
    `on_part` is called after each with the share that is done.
    """
    power = (spectrum.to_power(x_dn) - spectrum.floor).clamp(0, LOUDEST)
    magnitude = spectrum.expand(power.sqrt())
    noise = torch.randn(1, samples, generator=rng, device=magnitude.device).to(magnitude)
    spectra = spectrum.analyse(noise)[0]  # white noise of unit power in every coefficient
    if iterations == 0:
        return spectrum.synthesise(magnitude * spectra, samples)
    return griffin_lim(magnitude, spectra, spectrum, samples, iterations, on_part)


def griffin_lim(
    magnitude_fn: Tensor,
    start_fn: Tensor,
    spectrum: Spectrum,
    samples: int,
    iterations: int,
    on_part: Callable[[float], None] | None = None,
) -> Tensor:
    """The signal (t,) whose STFT comes near these magnitudes, from the phase of `start_fn`."""
    spectra = start_fn
    signal = spectra.new_zeros(samples, dtype=magnitude_fn.dtype)
    for number in range(iterations):
        phase = spectra / spectra.abs().clamp_min(1e-12)
        signal = spectrum.synthesise(magnitude_fn * phase, samples)
        spectra = spectrum.analyse(signal[None])[0]
        if on_part:
            on_part((number + 1) / iterations)
    return signal
