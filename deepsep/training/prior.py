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
from ..inference.draws import Draws
from ..inference.losses import Figures, prior_loss
from ..models import folder as folders
from ..progress import Listener, Status, TrainResult, printable
from ..recordings.files import Place, paths_of
from ..spectral.domain import SpectralDomain
from .claim import claimed
from .devices import computing, lead_first, quiet_unless_leading, start_or_resume
from .former import former_of
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


def default_domain() -> Domain:
    """Log band powers."""
    return SpectralDomain()


def train_prior(
    source: str,
    data: Place | Sequence[Place],
    out: Place,
    *,
    domain: Domain | None = None,
    flow: SpectralFlowConfig | WaveformFlowConfig | None = None,
    training: PriorTraining | None = None,
    licence: str | None = None,
    start: Start = "new",
    listener: Listener | None = None,
) -> TrainResult:
    """Train one instrument's prior on folders of its solo recordings, and write it into the priors folder `out`.

    Args:
        source: the instrument's name.
        data: one folder or several of different origin.
        out: the priors folder; made if it is not there.
        domain: what the prior is a density of; by default log band powers, SpectralDomain().
        flow: the network's shape, by default the domain's.
        training: how long, at which rate, from which seed.
        licence: of the trained weights, for the model card; by default what the folder states, or "unspecified".
        start: "new", or what to do with a training that is there: "resume" or "overwrite".
        listener: what is called while it runs. Ctrl-C saves and ends the run.

    Raises DeepsepError for folders without audio and settings that do not fit, before any recording is read.

    >>> import deepsep, numpy, soundfile, tempfile
    >>> small = deepsep.SpectralFlowConfig(steps=1, hidden=4, layers=1)
    >>> run = deepsep.PriorTraining(steps=2, batch=2, frames=16)
    >>> hiss = numpy.random.default_rng(0).normal(0, 0.1, 88200)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     soundfile.write(folder + "/hiss.wav", hiss, 44100)
    ...     result = deepsep.train_prior("hiss", folder, folder + "/priors", flow=small, training=run)
    ...     print(result.finished, result.status.step, deepsep.load_priors(folder + "/priors").sources)
    True 2 ['hiss']
    """
    training, listener = training or PriorTraining(), listener or Listener()
    recordings, out = paths_of(data), Path(out)
    domain = default_domain() if domain is None else domain
    flow = flow or domain.flow_config({})
    folders.check_name(source)
    domain.check_training(training, flow)
    folders.check_domain(out, domain)
    with computing(training, listener) as compute, claimed(out, compute):
        checkpoint = out / "training" / f"{source}.safetensors"
        start = start_or_resume(start, checkpoint, compute)
        listener = quiet_unless_leading(listener, compute)
        rng = torch.Generator().manual_seed(training.seed + compute.part)
        with fresh_weights(training.seed):
            prior = domain.build_flow(flow, rng)
        identity: dict[str, Any] = {"kind": "prior", "source": source, "flow": to_dict(flow)}
        identity |= {k: v for k, v in domain.to_config().items() if k != "domain"}
        remarks, _ = prepare(out, source, identity, [recordings], start, listener)
        if listener.note and source in encoder_sources(out):
            listener.note(
                f"note: the encoder in {out} learnt beside the former prior of {source} and stays as it is; "
                f"to renew it afterwards: deepsep train-encoder --priors {out} --overwrite"
            )
        cache = out / "training" / "cache" / source
        with remove_empty_folders_on_error(cache, out), lead_first(compute):
            examples = domain.examples(recordings, training, cache, rng, listener)
        if start != "resume":
            domain.initialise(prior, examples, rng)

        def loss(module: Flow, x: Tensor, draws: Draws) -> tuple[Tensor, Figures]:
            # score matching differentiates twice and costs four times as much: now and then, with as much more weight
            weight = SCORE_EVERY * training.score_weight if draws.once_in(SCORE_EVERY) else 0.0
            return prior_loss(module, x, draws, weight, domain.score_scale)

        def save(average: Flow, status: Status) -> None:
            about = {
                "licence": licence or folders.stated_licence(out, source),
                "data": {
                    "hours": round(examples.hours, 3),
                    "folders": [printable(p.name) for p in recordings],
                },
                "training": describe(training, status.step, score_weight=training.score_weight),
                "held_out": round_figures(status.held_out),
            }
            folders.save_prior(out, source, average, domain, about)

        held_out = examples.held_out.to(compute.device)
        task = Task(examples.batches, loss, lambda average: held_out_bits(average, held_out, domain.sigmas))
        run: Run[Flow] = Run(
            checkpoint=checkpoint, identity=identity, rng=rng,
            compute=compute,
            resume=start == "resume", remarks=remarks, on_save=save, on_step=listener.step, on_note=listener.note,
            former=former_of(out, source, [source]),
        )  # fmt: skip
        return train(prior, task, training, run)[1]
