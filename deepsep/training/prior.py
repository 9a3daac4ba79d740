"""The training of one instrument's prior on its solo recordings (thesis Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import PriorTraining, SpectralFlowConfig, Start, WaveformFlowConfig, to_dict
from ..flows.flow import Flow
from ..inference.domain import Domain, Task
from ..inference.losses import prior_loss
from ..models import folder as folders
from ..progress import Listener, Status, TrainResult
from .loop import Run, train
from .runs import (
    describe,
    encoder_sources,
    fresh_weights,
    held_out_bits,
    prepare,
    remove_empty_folders_on_error,
    round_figures,
)

__all__ = ["train_prior"]

SCORE_EVERY = 3  # steps to one with score matching, on average


def train_prior(
    source: str,
    data: Sequence[Path],
    out: Path,
    *,
    domain: Domain,
    flow: SpectralFlowConfig | WaveformFlowConfig,
    training: PriorTraining,
    licence: str = "unspecified",
    start: Start = "new",
    listener: Listener | None = None,
) -> TrainResult:
    """Train one instrument's flow on folders of its solo recordings, and write it into the priors folder `out`.

    Raises DeepsepError for folders without audio, a flow that does not fit the domain, a folder of another format or
    domain or that has this prior already (see `start`), or a checkpoint of another configuration; all before any
    recording is read.
    """
    listener = listener or Listener()
    folders.check_name(source)
    domain.check_training(training, flow)
    folders.check_domain(out, domain)
    rng = torch.Generator().manual_seed(training.seed)
    with fresh_weights(training.seed):
        prior = domain.build_flow(flow, rng)
    identity: dict[str, Any] = {"kind": "prior", "source": source, "flow": to_dict(flow)}
    identity |= {k: v for k, v in domain.to_config().items() if k != "domain"}
    remarks, _ = prepare(out, source, identity, [data], start, listener)
    if listener.note and source in encoder_sources(out):
        listener.note(
            f"note: the encoder in {out} learnt beside the former prior of {source} and stays as it is; "
            f"to renew it afterwards: deepsep train-encoder --priors {out} --overwrite"
        )
    cache = out / "training" / "cache" / source
    with remove_empty_folders_on_error(cache, out):
        examples = domain.examples(data, training, cache, rng, listener)
    if start != "resume":
        domain.initialise(prior, examples, rng)

    def loss(module: Flow, x: Tensor, rng: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        # score matching differentiates twice and costs four times as much: now and then, with as much more weight
        now = int(torch.randint(SCORE_EVERY, (1,), generator=rng)) == 0
        weight = SCORE_EVERY * training.score_weight if now else 0.0
        return prior_loss(module, x, rng, weight, domain.score_scale)

    def save(average: Flow, status: Status) -> None:
        about = {
            "licence": licence,
            "data": {"hours": round(examples.hours, 3), "folders": [p.name for p in data]},
            "training": describe(training, status.step, score_weight=training.score_weight),
            "held_out": round_figures(status.held_out),
        }
        folders.save_prior(out, source, average, domain, about)

    task = Task(
        examples.batches, loss, lambda average: held_out_bits(average, examples.held_out, domain.sigmas)
    )
    run: Run[Flow] = Run(
        checkpoint=out / "training" / f"{source}.safetensors", identity=identity, rng=rng,
        resume=start == "resume", remarks=remarks, on_save=save, on_step=listener.step,
    )  # fmt: skip
    return train(prior, task, training, run)[1]
