"""The training of an amortized posterior for the priors of a folder (thesis Algorithm 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..config import (
    EncoderTraining,
    SpectralEncoderConfig,
    Start,
    WaveformEncoderConfig,
    to_dict,
)
from ..inference.domain import TaskRun
from ..inference.encoder import AmortizedPosterior
from ..models import folder as folders
from ..progress import Listener, Status, TrainResult
from .loop import Run, train
from .runs import check_data, describe, fresh_weights, prepare, round_figures
from .stems import named_by_source

__all__ = ["train_encoder"]


def train_encoder(
    priors: Path,
    data: Mapping[str, Sequence[Path]],
    *,
    network: SpectralEncoderConfig | WaveformEncoderConfig,
    training: EncoderTraining,
    start: Start = "new",
    listener: Listener | None = None,
) -> TrainResult:
    """Train q(x_1..x_K | m) for the sources of a priors folder, and write it there.

    `training.objective`: "simulated" (mixtures of independently drawn sources, sources known), "elbo" (thesis Eq. 13
    under the fixed priors, sources never looked at) or "both". Songs in `training.mixtures` take the simulated
    mixtures' place in the ELBO. Raises DeepsepError as `train_prior` does, and for sources without recordings.
    """
    listener = listener or Listener()
    model = folders.load(priors, encoder=False)
    check_data(model, priors, data)
    model.domain.check_training(training, network)
    with fresh_weights(training.seed):
        encoder = model.domain.build_encoder(network, len(model.sources))
    identity: dict[str, Any] = {"kind": "encoder", "sources": model.sources, "network": to_dict(network)}
    checkpoint = priors / "training" / "encoder.safetensors"
    remarks, before = prepare(priors, "encoder", identity, [data[s] for s in model.sources], start, listener)
    rng = torch.Generator().manual_seed(training.seed)
    task = named_by_source(
        model.domain.encoder_task(
            model, data, training, TaskRun(priors / "training" / "cache", rng, listener, before)
        ),
        model.sources,
    )

    def save(average: AmortizedPosterior, status: Status) -> None:
        about = {
            "training": describe(training, status.step, objective=training.objective),
            "simulated": round_figures(status.held_out, 3),
        }
        folders.save_encoder(priors, average, model.sources, about)

    run: Run[AmortizedPosterior] = Run(
        checkpoint=checkpoint, identity=identity, rng=rng, resume=start == "resume", remarks=remarks,
        on_save=save, on_step=listener.step,
    )  # fmt: skip
    return train(encoder, task, training, run)[1]
