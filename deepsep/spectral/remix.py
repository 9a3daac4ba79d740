"""Unlabelled songs as training mixtures: what a teacher takes them apart into, added up anew (RemixIT).

Tzinis et al. 2022. The teacher is the student's own average. Its estimates are shuffled across songs, so that each new
mixture has known parts, with the sound of real recordings and the errors of the teacher.

Shape suffixes: b batch, k stem, c audio channel, f STFT bin, d band, n frame.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..inference.draws import Draws
from .encoder import BandPosterior
from .mixtures import Mixtures
from .spectrum import Spectrum, stereo_power

__all__ = ["remix"]

SURE = (
    0.5  # share of the estimates of each source that the student has to find: those the teacher is surest of
)


@torch.no_grad()
def remix(q: BandPosterior, songs_bcfn: Tensor, spectrum: Spectrum, draws: Draws) -> Mixtures:
    """Mix a teacher's estimates of stretches of songs, each source's from another song: as many mixtures.

    q is the teacher's posterior of the songs, whose STFT in two channels is at the level of a song of RMS 1. All
    estimates are heard; of those that the teacher is less sure of than of half of its source's, nothing is asked.
    """
    order_bk = draws.uniform(q.log_gain.shape[:2], songs_bcfn.device).argsort(0)
    stem_k = torch.arange(order_bk.shape[1], device=order_bk.device)
    parts = spectrum.mask(songs_bcfn[:, None], q.log_gain.exp()[:, :, None])[order_bk, stem_k]
    mix = parts.sum(1)

    def sums(one: Tensor, other: Tensor) -> Tensor:
        product = one.real * other.real + one.imag * other.imag
        return spectrum.band_power(product).sum(-3) * spectrum.count_d[:, None]

    power = sums(parts, parts)
    log_std = q.log_std[order_bk, stem_k]
    doubt_bk = (power * log_std).sum((2, 3)) / power.sum((2, 3)).clamp_min(1e-12)
    sure_bk = (doubt_bk <= doubt_bk.quantile(SURE, 0)).to(power)
    return Mixtures(
        stereo_power(mix, spectrum),
        sums(mix, mix),
        sums(parts, mix[:, None]),
        power,
        torch.diag_embed(sure_bk),
    )
