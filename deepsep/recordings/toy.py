"""The thesis' toy instruments: periodic waves at the pitches of a piano.

A note is a w(f t / rate + phase), t in samples: one of 88 pitches f, phase U[0, 1) turns, amplitude a U[0.8, 1].
The waves are not band-limited, as in the thesis.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from ..errors import DeepsepError
from ..staging import Scratch, uninterrupted

__all__ = ["AMPLITUDES", "PITCHES", "RATE", "WAVES", "notes", "wave", "write"]

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
    """Write train/<wave>/*.wav, `takes` notes of each pitch, and songs/<number>/ with four notes and their sum.

    All in one move: a folder that is there, or one that cannot be written, is a DeepsepError and left as it was.
    """
    if folder.exists():
        raise DeepsepError(f"{folder} exists; choose another folder")
    rng = torch.Generator().manual_seed(seed)
    samples = round(seconds * RATE)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Scratch(folder.parent)
        try:
            part = scratch.path
            for name in WAVES:
                train = Path(part, "toy", "train", name)
                train.mkdir(parents=True)
                for key in range(len(PITCHES)):
                    for take, note in enumerate(notes(name, takes, samples, rng, key=key)):
                        save(train / f"key{key + 1:02}-{take + 1:02}.wav", note)
            for number in range(mixtures):
                song = Path(part, "toy", "songs", f"{number + 1:03}")
                song.mkdir(parents=True)
                parts = {name: notes(name, 1, samples, rng)[0] for name in WAVES}
                for name, note in {**parts, "mixture": sum_of(parts)}.items():
                    save(song / f"{name}.wav", note, "FLOAT")
            os.replace(Path(part, "toy"), folder)
        finally:
            scratch.remove()
    except soundfile.LibsndfileError as error:
        raise DeepsepError(f"{folder}: writing the toy failed; is the disk full?") from error
    except OSError as error:
        raise DeepsepError(f"{folder}: cannot be written to ({error.strerror}); choose another") from error


def save(path: Path, note: Tensor, subtype: str = "PCM_16") -> None:
    """Write a wav. soundfile's objects clean up as they go, and an interrupt that came there would be lost."""
    with uninterrupted():
        soundfile.write(path, note.numpy(), RATE, subtype)


def sum_of(parts: dict[str, Tensor]) -> Tensor:
    """The mixture."""
    return torch.stack(list(parts.values())).sum(0)
