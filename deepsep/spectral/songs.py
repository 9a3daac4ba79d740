"""Unlabelled songs: stretches of their band powers, for the ELBO.

Shape suffixes: d band, n frame.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from .spectrum import Spectrum, stereo_power

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
    """Draw endless batches of stretches of songs: powers of left, right, mid, side, (batch, 4, d, frames).

    Every song is read once before this returns; one that cannot be read is left out. DeepsepError if none is left.
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
    return stretches(loudness, spectrum, batch, frames, rng)


def stretches(
    loudness: dict[Path, float], spectrum: Spectrum, batch: int, frames: int, rng: torch.Generator
) -> Iterator[Tensor]:
    """Draw the batches, from songs whose gated RMS is known."""
    random = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng)))
    files = list(loudness)
    need = (frames + 3) * spectrum.hop
    while True:
        path = files[int(random.integers(len(files)))]
        rate = audio.probe(path).rate
        # a song's blocks in order, so that it is decoded once
        for i, block in enumerate(audio.read_blocks(path, SEGMENT * rate)):
            samples = resample(block[:2], rate, spectrum.rate) / loudness[path]
            if samples.shape[1] < need:
                if i:  # the rest of a song
                    continue
                samples = np.stack([np.resize(channel, need) for channel in samples])
            power = stereo_power(spectrum.stft(torch.from_numpy(samples)), spectrum)
            starts = random.integers(0, power.shape[-1] - frames + 1, batch)
            yield torch.stack([power[..., at : at + frames] for at in starts])
