"""What a studio does to sounds, drawn at random: equaliser, cleared low end, entries, compressor, drive, room.

Shape suffixes: g signal, d band, n frame, t sample.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .spectrum import Spectrum

__all__ = [
    "add_drive_and_room",
    "band_centres",
    "compressor_gains",
    "equaliser_gains",
    "high_pass_gains",
    "other_side",
    "phrases",
]


def add_drive_and_room(samples_t: np.ndarray, rate: int, random: np.random.Generator) -> np.ndarray:
    """Overdrive some of the stretches and put some into a room: float32 (t,), RMS about as before."""
    x = samples_t
    if random.random() < 0.3:
        drive = 10 ** random.uniform(-0.2, 0.9)
        x = np.tanh(drive * x) / drive * (1 + 0.3 * drive)
    if random.random() < 0.25:
        seconds = random.uniform(0.1, 0.9)
        room = random.standard_normal(int(seconds * rate)) * np.exp(-np.linspace(0, 6.9, int(seconds * rate)))
        room *= random.uniform(0.1, 0.6) / np.sqrt(np.square(room).sum())
        room[0] += 1
        x = heard_in(room, x)
    out: np.ndarray = x.astype(np.float32)
    return out


def heard_in(response: np.ndarray, samples_t: np.ndarray) -> np.ndarray:
    """What a room, or the like, makes of sound by its impulse response: float32 (t,)."""
    length = len(samples_t) + len(response) - 1
    unit = 1 << max(0, length.bit_length() - 3)
    size = -(-length // unit) * unit  # of small prime factors
    dry, wet = (torch.fft.rfft(torch.from_numpy(part).float(), size) for part in (samples_t, response))
    out: np.ndarray = torch.fft.irfft(dry * wet, size)[: len(samples_t)].numpy()
    return out


def other_side(samples_t: np.ndarray, rate: int, random: np.random.Generator) -> np.ndarray:
    """What, added on the left and subtracted on the right, makes sound wide: float32 (t,).

    Its echo within 40 ms, as of a double, or its room, from a small box of 10 ms to a hall of 1.5 s.
    """
    late = int(random.uniform(0, 0.04) * rate)
    if random.random() < 0.25:
        return np.pad(samples_t, (late, 0))[: len(samples_t)]
    length = int(rate * 10 ** random.uniform(-2, np.log10(1.5)))
    room = random.standard_normal(length) * np.exp(-np.linspace(0, 6.9, length))
    return heard_in(np.pad(room, (late, 0)), samples_t)


def band_centres(spectrum: Spectrum) -> np.ndarray:
    """Each band's centre frequency over half the sample rate, (d,)."""
    middle: np.ndarray = (spectrum.starts[:-1] + spectrum.starts[1:] - 1) / spectrum.n_fft
    return middle


def equaliser_gains(signals: int, spectrum: Spectrum, random: np.random.Generator) -> Tensor:
    """Smooth random gains (g, d), a few dB up and down."""
    position = (2 * band_centres(spectrum)) ** 0.4
    curve = sum(
        random.normal(0, 4.0 / (i + 1), (signals, 1))
        * np.cos(np.pi * (i + 1) * position + random.uniform(0, 6.3))
        for i in range(4)
    )
    return torch.from_numpy(10 ** (curve / 20)).float()


def high_pass_gains(energy_gdn: Tensor, spectrum: Spectrum, random: np.random.Generator) -> Tensor:
    """High-pass gains (g, d) for some of the signals, as a mixing engineer clears the low end.

    Up to a quarter of a signal's energy lies below the cutoff: a bass keeps its notes, a guitar loses its rumble.
    """
    energy = energy_gdn.sum(-1).double().cumsum(1)
    share = energy / energy[:, -1:].clamp_min(1e-12)
    centre = torch.from_numpy(band_centres(spectrum) * spectrum.n_fft)
    gains = torch.ones_like(share)
    for i in range(len(gains)):
        if random.random() < 0.6:
            below = int((share[i] < random.uniform(0, 0.25)).sum())
            cutoff = max(1.0, float(centre[min(below, len(centre) - 1)]))
            gains[i] = 1 / torch.sqrt(1 + (cutoff / centre.clamp_min(0.3)) ** random.choice([4, 8]))
    return gains.float()


def phrases(signals: int, frames: int, spectrum: Spectrum, random: np.random.Generator) -> Tensor:
    """Gains (g, n) between 0 and 1 that let a quarter of the signals come and go, as singers do in a song.

    They play and rest for 4 s at a time, on average, and fade in and out within half a second.
    """
    second = spectrum.rate / spectrum.hop
    gains = np.ones((signals, frames))
    for i in range(signals):
        if random.random() < 0.25:
            fade = max(1, int(second * random.uniform(0.05, 0.5)))
            changes = np.cumsum(random.exponential(4 * second, 2 + int(frames / second)))
            playing = (np.searchsorted(changes, np.arange(frames + fade - 1)) + random.integers(2)) % 2
            gains[i] = np.convolve(playing, np.full(fade, 1 / fade), "valid")
    return torch.from_numpy(gains).float()


def compressor_gains(power_gn: Tensor, most: float, random: np.random.Generator) -> Tensor:
    """Gains (g, n) that take up to a share `most` off the dynamics of two signals in five; their energy stays.

    The level is measured over 3 to 15 frames. What lies 30 dB below the loudest or lower is not brought up further.
    """
    strength = random.uniform(0, most, len(power_gn)) * (random.random(len(power_gn)) < 0.4)
    around = int(random.integers(1, 8))
    level = torch.nn.functional.avg_pool1d(
        power_gn[:, None], 2 * around + 1, 1, around, count_include_pad=False
    )[:, 0]
    loudest = level.amax(1, keepdim=True).clamp_min(1e-12)
    gains = (level / loudest).clamp_min(1e-3) ** torch.from_numpy(-strength / 2).float()[:, None]
    energy, after = power_gn.sum(1, keepdim=True), (power_gn * gains**2).sum(1, keepdim=True)
    return gains * torch.where(energy > 0, energy / after, 1).sqrt()
