"""The training of an amortized posterior for the priors of a folder (thesis Algorithm 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config import (
    EncoderTraining,
    SpectralEncoderConfig,
    Start,
    WaveformEncoderConfig,
    to_dict,
)
from ..errors import DeepsepError
from ..inference.domain import Domain, TaskRun
from ..inference.encoder import AmortizedPosterior
from ..models import folder as folders
from ..progress import Listener, Status, TrainResult
from ..recordings.files import Place, paths_of
from .claim import claimed
from .devices import computing, lead_first, quiet_unless_leading, start_or_resume
from .former import former_of
from .loop import Run, train
from .runs import check_data, describe, fresh_weights, prepare, round_figures
from .stems import named_by_source

__all__ = ["network_of", "train_encoder"]


def train_encoder(
    priors: Place,
    data: Mapping[str, Place | Sequence[Place]],
    *,
    network: SpectralEncoderConfig | WaveformEncoderConfig | None = None,
    training: EncoderTraining | None = None,
    init: AmortizedPosterior | None = None,
    start: Start = "new",
    listener: Listener | None = None,
) -> TrainResult:
    """Train the amortized posterior q(x_1..x_K | m) of a priors folder, and write it there.

    Args:
        priors: the priors folder.
        data: source -> one folder of solo recordings or several, for each source of the priors folder. A key such
            as "drums+bass+other" is a set: recordings of these sources together, in both channels.
        network: the network's shape, by default that of `init`, or else that of the priors' domain.
        training: how long, at which rate, from which seed, and the objective: "simulated" (mixtures of independently
            drawn sources, which are known), "elbo" (thesis Eq. 13 under the fixed priors, sources never looked at)
            or "both". Songs in `training.mixtures` take the simulated mixtures' place in the ELBO; or with "remix"
            they are taken apart by the encoder's average, added up anew and learnt from, beside simulated mixtures.
        init: an encoder whose weights to start from, such as `load_priors().encoder`; layers of other shapes than
            this one's start fresh.
        start: as in `train_prior`.
        listener: as in `train_prior`.

    Raises DeepsepError as `train_prior` does, and for sources without recordings.

    >>> import deepsep, numpy, soundfile, tempfile
    >>> flow = deepsep.SpectralFlowConfig(steps=1, hidden=4, layers=1)
    >>> quick = {"steps": 1, "batch": 2, "frames": 16}
    >>> random = numpy.random.default_rng(0)
    >>> with tempfile.TemporaryDirectory() as top:
    ...     data = {"hiss": top + "/hiss.wav", "hum": top + "/hum.wav"}
    ...     for source, file in data.items():
    ...         soundfile.write(file, random.normal(0, 0.1, 88200), 44100)
    ...         run = deepsep.PriorTraining(**quick)
    ...         result = deepsep.train_prior(source, file, top + "/priors", flow=flow, training=run)
    ...     net = deepsep.SpectralEncoderConfig(widths=(4,), bottleneck=2, deep=0)
    ...     run = deepsep.EncoderTraining(workers=0, **quick)
    ...     result = deepsep.train_encoder(top + "/priors", data, network=net, training=run)
    ...     print(result.finished, deepsep.load_priors(top + "/priors").encoder is not None)
    True True
    """
    training, listener, priors = training or EncoderTraining(), listener or Listener(), Path(priors)
    model = folders.load(priors, encoder=False)
    network = network or network_of(model.domain, init)
    solos = {source: paths_of(places) for source, places in data.items()}
    check_data(model, priors, solos, sets=True)
    model.domain.check_training(training, network)
    with fresh_weights(training.seed):
        encoder = model.domain.build_encoder(network, len(model.sources))
    if init is not None:
        copy_weights(init, encoder)
    identity: dict[str, Any] = {"kind": "encoder", "sources": model.sources, "network": to_dict(network)}
    if training.optimizer != "adamw":
        identity["optimizer"] = training.optimizer
    order = [*model.sources, *sorted(set(solos) - set(model.sources))]
    with computing(training, listener) as compute, claimed(priors, compute):
        checkpoint = priors / "training" / "encoder.safetensors"
        start = start_or_resume(start, checkpoint, compute)
        listener = quiet_unless_leading(listener, compute)
        remarks, before = prepare(priors, "encoder", identity, [solos[s] for s in order], start, listener)
        rng = torch.Generator().manual_seed(training.seed + compute.part)
        about_run = TaskRun(priors / "training" / "cache", rng, listener, before, compute)
        with lead_first(compute):
            task = model.domain.encoder_task(model.to(str(compute.device)), solos, training, about_run)
        task = named_by_source(task, model.sources)

        def save(average: AmortizedPosterior, status: Status) -> None:
            about = {
                "training": describe(training, status.step, objective=training.objective),
                "simulated": round_figures(status.held_out, 3),
            }
            if task.calibrate:
                scale = task.calibrate(average)
                about["spread"] = {s: round(v, 4) for s, v in zip(model.sources, scale, strict=True)}
            folders.save_encoder(priors, average, model.sources, about)

        run: Run[AmortizedPosterior] = Run(
            checkpoint=checkpoint, identity=identity, rng=rng, compute=compute, resume=start == "resume",
            remarks=remarks, optimizer=training.optimizer, on_save=save, on_step=listener.step, on_note=listener.note,
            former=former_of(priors, "encoder", ["encoder"]),
        )  # fmt: skip
        return train(encoder, task, training, run)[1]


def network_of(domain: Domain, init: AmortizedPosterior | None, **chosen: Any) -> Any:
    """The shape of an encoder to start from, or else the domain's own, but for what is chosen.

    Raises DeepsepError for an encoder of another domain, and for a shape that no network has.
    """
    if init is None:
        return domain.encoder_config(chosen)
    if type(init.config) is not type(domain.encoder_config({})):
        raise DeepsepError("the encoder to start from has no layer of this one's shape")
    return domain.encoder_config({**init.config.shape, **chosen})


@torch.no_grad()
def copy_weights(given: nn.Module, module: nn.Module) -> None:
    """Copy the weights of every layer of the same name and shape. DeepsepError if there is none."""
    known = given.state_dict()
    fitting = {
        name: known[name]
        for name, tensor in module.state_dict().items()
        if name in known and known[name].shape == tensor.shape
    }
    if all(tensor.ndim < 2 for tensor in fitting.values()):
        raise DeepsepError("the encoder to start from has no layer of this one's shape")
    module.load_state_dict(fitting, strict=False)
