"""The training of several priors at once: each learns to leave a mixture's other sources to the others.

No song is heard, and no source together with the others it was played with: mixtures are made of solo recordings that
have nothing to do with one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import nn

from ..config import ContrastTraining, Start, to_dict
from ..errors import DeepsepError
from ..flows.flow import Flow
from ..inference.domain import TaskRun
from ..models import folder as folders
from ..progress import Listener, Status, TrainResult
from ..recordings.files import Place, paths_of
from .claim import claimed
from .devices import computing, lead_first, quiet_unless_leading, start_or_resume
from .former import former_of
from .loop import Run, train
from .runs import (
    check_data,
    describe,
    held_out_bits,
    prepare,
    remove_empty_folders_on_error,
    round_figures,
)
from .stems import named_by_source

__all__ = ["contrast_priors"]


def contrast_priors(
    priors: Place,
    data: Mapping[str, Place | Sequence[Place]],
    out: Place,
    *,
    training: ContrastTraining | None = None,
    start: Start = "new",
    listener: Listener | None = None,
) -> TrainResult:
    """Train the priors of a folder against one another, so that Langevin tells them apart, and write them to `out`.

    Args:
        priors: the folder to start from; it stays as it is.
        data: as in `train_encoder`.
        out: another folder, for the new priors.
        training: how long, at which rate, from which seed.
        start: as in `train_prior`.
        listener: as in `train_prior`.

    Raises DeepsepError as `train_encoder` does, for waveform priors, and for a single prior.

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
    ...     run = deepsep.ContrastTraining(workers=0, **quick)
    ...     result = deepsep.contrast_priors(top + "/priors", data, top + "/sharper", training=run)
    ...     print(result.status.step, deepsep.load_priors(top + "/sharper").sources)
    1 ['hiss', 'hum']
    """
    training, listener = training or ContrastTraining(), listener or Listener()
    priors, out = Path(priors), Path(out)
    solos = {source: paths_of(places) for source, places in data.items()}
    if out.resolve() == priors.resolve():
        raise DeepsepError(f"{out}: holds the priors to start from; choose another output folder")
    model = folders.load(priors, encoder=False)
    check_data(model, priors, solos)
    model.domain.check_training(training)
    if not model.domain.can_contrast:
        raise DeepsepError(
            f"{priors}: its priors are of samples; only those of band powers can be contrasted"
        )
    if len(model.sources) < 2:
        raise DeepsepError(f"{priors}: has one prior; contrast takes two or more")
    known = folders.read_config(priors)["priors"]
    with computing(training, listener) as compute, claimed(out, compute):
        checkpoint = out / "training" / "contrast.safetensors"
        start = start_or_resume(start, checkpoint, compute)
        listener = quiet_unless_leading(listener, compute)
        model = model.to(str(compute.device))
        flows = nn.ModuleList(model.priors.values()).requires_grad_(True)
        shapes = {s: to_dict(flow.config) for s, flow in model.priors.items()}
        identity = {"kind": "contrast", "sources": model.sources, "flows": shapes}
        if start == "new" and (out / "config.json").exists():
            raise DeepsepError(f"{out}: holds priors; --resume goes on with them, --overwrite starts afresh")
        folders.check_domain(out, model.domain)
        remarks, before = prepare(
            out, "contrast", identity, [solos[s] for s in model.sources], start, listener
        )
        rng = torch.Generator().manual_seed(training.seed + compute.part)
        cache = out / "training" / "cache"
        with remove_empty_folders_on_error(cache, out), lead_first(compute):
            about_run = TaskRun(cache, rng, listener, before, compute)
            task = model.domain.contrast_task(model, solos, training, about_run)
        task = named_by_source(task, model.sources)
        sigmas = model.domain.sigmas
        bits_before = {s: held_out_bits(flow, task.solos[s], sigmas) for s, flow in model.priors.items()}

        def save(average: nn.ModuleList, status: Status) -> None:
            held_out = round_figures(status.held_out)
            settings = describe(training, status.step, likelihood_weight=training.likelihood_weight)
            for source, flow in zip(model.sources, cast(Sequence[Flow], average), strict=True):
                about = {k: v for k, v in known[source].items() if k != "flow"}
                about["contrast"] = {
                    **settings, "held_out": held_out, "before": round_figures(bits_before[source])
                }  # fmt: skip
                about["held_out"] = round_figures(held_out_bits(flow, task.solos[source], sigmas))
                folders.save_prior(out, source, flow, model.domain, about)

        run: Run[nn.ModuleList] = Run(
            checkpoint=checkpoint, identity=identity, rng=rng,
            compute=compute, resume=start == "resume", remarks=remarks, on_save=save, on_step=listener.step,
            on_note=listener.note, former=former_of(out, "contrast", model.sources),
        )  # fmt: skip
        return train(flows, task, training, run)[1]
