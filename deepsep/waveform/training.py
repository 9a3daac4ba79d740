"""What a waveform encoder trains on: sums of solo stretches.

Shape suffixes: b batch, k stem, t sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..config import EncoderTraining, WaveformConfig
from ..errors import DeepsepError
from ..inference.domain import Task, TaskRun
from ..inference.draws import Draws
from ..inference.losses import Figures
from ..inference.mixture import mix
from ..inference.model import Model
from ..recordings.banks import HELD_OUT, SampleBank
from ..recordings.files import Folders, find_audio
from .encoder import WaveformEncoder, WaveformPosterior
from .losses import elbo, sleep_loss

__all__ = ["build_bank", "encoder_task"]

TEST_MIXTURES = 64


def build_bank(config: WaveformConfig, folders: Folders, cache: str, run: TaskRun) -> SampleBank:
    """Recordings at the priors' rate, at gated RMS 1 or at their own level."""
    as_is = config.level == "absolute"
    return SampleBank.build(folders, config.rate, run.cache / cache, run.listener, as_is=as_is)


def encoder_task(
    config: WaveformConfig,
    model: Model,
    folders: Mapping[str, Folders],
    training: EncoderTraining,
    run: TaskRun,
) -> Task:
    """See `Domain.encoder_task` (thesis Algorithm 3)."""
    if sets := set(folders) - set(model.sources):
        raise DeepsepError(f"{min(sets)}: waveform encoders train on solo recordings alone")
    if training.mixtures:
        find_audio(training.mixtures)  # a mistyped folder is an error before hours are spent
    as_is = config.level == "absolute"
    flows = list(model.priors.values())
    banks = [build_bank(config, folders[s], s, run).split(HELD_OUT) for s in model.sources]
    songs = build_bank(config, [training.mixtures], "songs", run) if training.mixtures else None

    def at_level(stems_bkt: Tensor) -> Tensor:
        """Stems (b, k, 1, t) of mixtures of RMS 1, or as they are."""
        gain: Tensor | float = 1.0
        if not as_is:
            gain = mix(stems_bkt).square().mean(1).clamp_min(1e-6).rsqrt()[:, None, None]
        return (stems_bkt * gain)[:, :, None]

    def draw(banks: Sequence[SampleBank], count: int, rng: torch.Generator) -> Tensor:
        """Stems (b, k, 1, t) of simulated mixtures."""
        stems = [bank.stretches(count, config.window, rng, vary=not as_is) for bank in banks]
        return at_level(torch.stack(stems, 1))

    def batches() -> Iterator[Tensor]:
        while True:
            yield draw([bank for bank, _ in banks], training.batch, run.rng)

    def loss(
        encoder: Callable[[Tensor], WaveformPosterior], stems: Tensor, draws: Draws
    ) -> tuple[Tensor, Figures]:
        posterior = encoder(mix(stems))
        value = stems.new_zeros(())
        figures: Figures = {}
        if training.objective != "elbo":
            value, figures = sleep_loss(posterior, stems)
        if training.objective != "simulated":
            half = max(1, len(stems) // 2)  # the priors cost more than the encoder
            if songs:
                unlabelled = songs.stretches(half, config.window, run.rng, vary=False)
                heard = mix(at_level(unlabelled[:, None])).to(stems.device)
                judged = encoder(heard)
            else:
                heard, judged = mix(stems[:half]), WaveformPosterior(*(v[:half] for v in posterior))
            bound, more = elbo(judged, flows, heard, draws)
            value = value - (bound if training.objective == "elbo" else training.elbo_weight * bound)
            figures |= more
        return value, figures

    test = draw([bank for _, bank in banks], TEST_MIXTURES, torch.Generator().manual_seed(1))
    test = test.to(run.compute.device)

    @torch.no_grad()
    def evaluate(average: WaveformEncoder) -> Figures:
        return sleep_loss(average(mix(test)), test)[1]

    return Task(batches(), loss, evaluate)
