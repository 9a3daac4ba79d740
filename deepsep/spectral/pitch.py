"""A mixture heard at several pitches: its bands as if it were played faster, and what is found there brought back.

An encoder errs otherwise at another pitch, so the mean errs less (test-time augmentation).

Shape suffixes: b batch, k stem, c plane, d band, n frame; e band at another pitch.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..config import SpectrumConfig

__all__ = ["as_higher", "as_it_was"]

STEP = (
    0.96  # from one pitch to the next higher one, as a ratio of the lengths of their periods: 0.7 semitones
)


def as_higher(planes_bcdn: Tensor, config: SpectrumConfig, number: int) -> Tensor:
    """Mean power in each band (b, c, d, n) as if all frequencies lay 1 / STEP^number times higher.

    Power is taken to lie evenly within a band.
    """
    higher_ed, _ = pitch_maps(config, number, planes_bcdn.device)
    return higher_ed @ planes_bcdn


def as_it_was(found_bkdn: Tensor, config: SpectrumConfig, number: int) -> Tensor:
    """What was found in each band at that pitch, brought back to the bands where it sounds: (b, k, d, n)."""
    _, back_de = pitch_maps(config, number, found_bkdn.device)
    return back_de @ found_bkdn


@lru_cache(maxsize=16)
def pitch_maps(config: SpectrumConfig, number: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Means of a band at a pitch over the bands as they are, and the other way round, (d, d) each: rows sum to 1."""
    edges = np.maximum(np.array(config.band_edges) - 0.5, 0)  # a bin reaches half a bin to either side
    edges[-1] /= STEP**number  # what lies above the highest band counts as in it
    higher = edges * STEP**number
    higher[-1] = edges[-1]
    overlap = np.minimum(higher[1:, None], edges[1:]) - np.maximum(higher[:-1, None], edges[:-1])
    overlap_ed = torch.from_numpy(overlap.clip(0))
    higher_ed, back_de = overlap_ed / overlap_ed.sum(1)[:, None], overlap_ed.T / overlap_ed.sum(0)[:, None]
    return higher_ed.float().to(device), back_de.float().to(device)
