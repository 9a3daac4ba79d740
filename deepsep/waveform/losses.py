"""What a waveform encoder minimises: its posterior and a batch -> (loss, figures to show).

Shape suffixes: b batch, k stem, d channel, t sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ..flows.flow import Flow
from ..inference.draws import Draws
from ..inference.losses import Figures, capped_sdr, gaussian_elbo, sdr_figures
from .encoder import WaveformPosterior
from .likelihood import SumLikelihood

__all__ = ["elbo", "sleep_loss"]

ELBO_SIGMA = 0.1  # noise level at which the priors judge, and width of the constraint (thesis section 3.2)


def sleep_loss(
    posterior: WaveformPosterior, stems_bkdt: Tensor, density_weight: float = 0.2
) -> tuple[Tensor, Figures]:
    """Simulated mixtures with known sources: the negative SDR of q's mean in dB, plus -log q(s_true | m) in nats."""
    error = stems_bkdt - posterior.mean
    power_bk, missed_bk = (v.square().flatten(2).sum(2) for v in (stems_bkdt, error))
    sdr_bk = capped_sdr(power_bk, missed_bk, stems_bkdt.sum(1).square().flatten(1).sum(1))
    # each part of the network has its own task: the mean follows the SDR, the spread what is left of it
    scaled = error.detach() * (-posterior.log_std).exp()
    density = (0.5 * scaled.square() + posterior.log_std).mean() + 0.5 * math.log(2 * math.pi)
    return -sdr_bk.mean() + density_weight * density, sdr_figures(sdr_bk, **{"-log q": density})


def elbo(
    posterior: WaveformPosterior, priors: Sequence[Flow], mix_b1t: Tensor, draws: Draws
) -> tuple[Tensor, Figures]:
    """`gaussian_elbo` on samples (thesis Algorithm 3, Eq. 13), in nats a sample."""
    return gaussian_elbo(posterior.mean, posterior.log_std, priors, SumLikelihood(mix_b1t), draws, ELBO_SIGMA)
