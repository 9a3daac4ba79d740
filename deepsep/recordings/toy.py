"""The thesis' toy instruments: periodic waves at the pitches of a piano, and their exact densities.

A note is a w(f t / rate + phase), t in samples: one of 88 pitches f, phase U[0, 1) turns, amplitude a U[0.8, 1].
The waves are not band-limited, as in the thesis. Since that is all there is to know, log p_sigma(x) can be computed,
which no recording of music allows.

Shape suffixes: b batch, t sample, g grid point (a pitch and a phase).
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from ..errors import DeepsepError

__all__ = ["AMPLITUDES", "PITCHES", "RATE", "WAVES", "ExactPrior", "notes", "wave", "write"]

RATE = 14700  # Hz
AMPLITUDES = (0.8, 1.0)
PITCHES = tuple(27.5 * 2 ** (key / 12) for key in range(88))  # Hz, A0 to C8
WAVES = ("sine", "square", "saw", "triangle")


def wave(name: str, turns: Tensor) -> Tensor:
    """One of `WAVES` of amplitude 1 at a phase in turns, any shape; KeyError for another name."""
    part = turns - turns.floor()
    waves: dict[str, Callable[[], Tensor]] = {
        "sine": lambda: (2 * math.pi * part).sin(),
        "square": lambda: torch.where(part < 0.5, 1.0, -1.0).to(part),
        "saw": lambda: 2 * part - 1,
        "triangle": lambda: 1 - 4 * (part - 0.5).abs(),
    }
    return waves[name]()


def notes(name: str, count: int, samples: int, rng: torch.Generator, *, key: int | None = None) -> Tensor:
    """Notes drawn from the toy's distribution, or of one key of the 88: (count, samples)."""
    keys = torch.randint(len(PITCHES), (count,), generator=rng) if key is None else torch.full((count,), key)
    phase = torch.rand(count, generator=rng, dtype=torch.float64)
    low, high = AMPLITUDES
    amplitude = low + (high - low) * torch.rand(count, generator=rng)
    hertz = torch.tensor(PITCHES, dtype=torch.float64)[keys]
    turns = phase[:, None] + hertz[:, None] * torch.arange(samples, dtype=torch.float64) / RATE
    return amplitude[:, None] * wave(name, turns).float()


def write(folder: Path, *, takes: int, mixtures: int, seconds: float, seed: int) -> None:
    """Writes train/<wave>/*.wav, `takes` notes of each pitch, and songs/<number>/ with four notes and their sum.

    All in one move: a folder that is there, or one that cannot be written, is a DeepsepError and left as it was.
    """
    if folder.exists():
        raise DeepsepError(f"{folder} exists; choose another folder")
    rng = torch.Generator().manual_seed(seed)
    samples = round(seconds * RATE)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".toy-", dir=folder.parent) as part:
            for name in WAVES:
                train = Path(part, "toy", "train", name)
                train.mkdir(parents=True)
                for key in range(len(PITCHES)):
                    for take, note in enumerate(notes(name, takes, samples, rng, key=key)):
                        soundfile.write(train / f"key{key + 1:02}-{take + 1:02}.wav", note.numpy(), RATE)
            for number in range(mixtures):
                song = Path(part, "toy", "songs", f"{number + 1:03}")
                song.mkdir(parents=True)
                parts = {name: notes(name, 1, samples, rng)[0] for name in WAVES}
                for name, note in {**parts, "mixture": sum_of(parts)}.items():
                    soundfile.write(song / f"{name}.wav", note.numpy(), RATE, "FLOAT")
            os.replace(Path(part, "toy"), folder)
    except OSError as error:
        raise DeepsepError(f"{folder}: cannot be written to ({error.strerror}); choose another") from error


def sum_of(parts: dict[str, Tensor]) -> Tensor:
    """The mixture."""
    return torch.stack(list(parts.values())).sum(0)


class ExactPrior:
    """The density itself: p_sigma(x) = mean over pitches and phases of int N(x; a w, sigma^2 I) da / 0.2.

    The integral over amplitudes is closed; the phases stand on a grid, so it is exact where sigma is well above what
    one grid step changes (`phases` of 64: about 0.05 for a sine).
    """

    def __init__(self, name: str, samples: int, phases: int = 64) -> None:
        hertz = torch.tensor(PITCHES, dtype=torch.float64)[:, None, None]
        time = torch.arange(samples, dtype=torch.float64)
        turns = torch.arange(phases, dtype=torch.float64)[:, None] / phases + hertz * time / RATE
        self.waves_gt = wave(name, turns).float().flatten(0, 1)
        self.energy_g = self.waves_gt.square().sum(1)

    def log_prob(self, x_b1t: Tensor, sigma: Tensor | float) -> Tensor:
        """log p_sigma(x) in nats: (b, 1, t) -> (b,); sigma is one number."""
        x = x_b1t.flatten(1)
        level = float(sigma)
        fit = x @ self.waves_gt.T
        mean, std = fit / self.energy_g, level / self.energy_g.sqrt()
        low, high = ((edge - mean) / std for edge in AMPLITUDES)
        inside = torch.where(low > 0, log_difference(-low, -high), log_difference(high, low))
        log_g = 0.5 * fit * mean / level**2 + inside + (std * math.sqrt(2 * math.pi)).log()
        spread = math.log(AMPLITUDES[1] - AMPLITUDES[0]) + math.log(len(self.energy_g))
        base = -0.5 * x.square().sum(1) / level**2 - x.shape[1] * math.log(level * math.sqrt(2 * math.pi))
        total: Tensor = torch.logsumexp(log_g, 1) - spread + base
        return total


def log_difference(high: Tensor, low: Tensor) -> Tensor:
    """ln(Phi(high) - Phi(low)), high > low."""
    top, bottom = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    difference: Tensor = top + torch.log1p(-(bottom - top).exp().clamp_max(1 - 1e-6))
    return difference
