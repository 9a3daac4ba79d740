"""Stretches of unlabelled songs.

Shape suffixes: f STFT bin, d band, n frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..audio import files as audio
from ..audio.resampling import resample
from ..errors import DeepsepError
from ..progress import Listener
from ..recordings.files import file_rms, find_audio
from .powers import SEGMENT
from .spectrum import Spectrum

__all__ = ["song_batches"]


def song_batches(
    folder: Path,
    spectrum: Spectrum,
    listener: Listener,
    *,
    batch: int,
    frames: int,
    rng: torch.Generator,
) -> Iterator[Tensor]:
    """Draw endless batches of stretches of songs: STFTs of two channels, complex (batch, 2, f, frames).

    The stretches of a batch are of different songs, where there are enough; each song is scaled to gated RMS 1. Every
    song is read once before this returns; one that cannot be read is left out. DeepsepError if none is left.
    """
    found = find_audio(folder)
    loudness: dict[Path, float] = {}
    for done, path in enumerate(found):
        if listener.files:
            listener.files(done, len(found))
        try:
            rms = file_rms(path)
            problem = "" if rms else f"{path}: is silent"
        except DeepsepError as error:
            rms, problem = 0.0, str(error)
        if rms:
            loudness[path] = rms
        elif listener.note:
            listener.note(f"left out: {problem}")
    if not loudness:
        raise DeepsepError(f"{folder}: every song is silent or cannot be read")
    return batches(loudness, spectrum, batch, frames, rng)


def batches(
    loudness: Mapping[Path, float], spectrum: Spectrum, batch: int, frames: int, rng: torch.Generator
) -> Iterator[Tensor]:
    """Draw the batches, from songs whose gated RMS is known."""
    random = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng)))
    order = random.permutation(len(loudness))
    files = [list(loudness)[i] for i in order]
    # as many songs at a time as a batch has stretches, each decoded once
    songs = [stretches(files[i::batch] or files, loudness, spectrum, frames, random) for i in range(batch)]
    while True:
        yield spectrum.stft(torch.stack([next(song) for song in songs]))


def stretches(
    files: Sequence[Path],
    loudness: Mapping[Path, float],
    spectrum: Spectrum,
    frames: int,
    random: np.random.Generator,
) -> Iterator[Tensor]:
    """Draw endless stretches of two channels, (2, t), from one song after the other."""
    need = (frames + 3) * spectrum.hop
    while True:
        path = files[int(random.integers(len(files)))]
        rate = audio.probe(path).rate
        for i, block in enumerate(audio.read_blocks(path, SEGMENT * rate)):
            samples = resample(block[[0, -1]] if len(block) < 3 else block[:2], rate, spectrum.rate)
            samples = samples / loudness[path]
            if samples.shape[1] < need:
                if i:  # the rest of a song
                    continue
                samples = np.stack([np.resize(channel, need) for channel in samples])
            for _ in range(max(1, samples.shape[1] // (2 * need))):
                at = int(random.integers(0, samples.shape[1] - need + 1))
                yield torch.from_numpy(samples[:, at : at + need].astype(np.float32))
