"""The one training loop: AdamW or Muon, warm-up and cosine decay, weight averaging, checkpoints, resume, Ctrl-C.

On any device, in one process or several, each with its part of every batch (PyTorch's DistributedDataParallel).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, distributed, nn

from ..config import Optimizer, TrainConfig
from ..errors import DeepsepError, is_out_of_memory
from ..flows.networks import WaveNet
from ..inference.compute import Compute
from ..inference.domain import Task
from ..inference.draws import Draws
from ..inference.losses import Figures
from ..progress import Status, TrainResult
from ..staging import uninterrupted
from .checkpoint import State, load_checkpoint, save_checkpoint
from .former import Former
from .muon import Muon

__all__ = ["Run", "train"]

JUDGE_SECONDS = 60.0  # between two looks at held-out data
SMOOTHING = 0.03  # weight of the latest step in the figures that are shown

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run(Generic[M]):
    """Where a run keeps its checkpoint, and what becomes of it.

    `identity` says what is trained: a checkpoint of another identity is not resumed. `remarks` are written beside it
    and not compared. `on_save` gets the averaged model at every checkpoint. `former` is what the run replaces, kept
    until it has come to its end.
    """

    checkpoint: Path
    identity: dict[str, Any]
    rng: torch.Generator
    compute: Compute = Compute()  # noqa: RUF009 (frozen)
    resume: bool = False
    remarks: dict[str, Any] = field(default_factory=dict)
    former: Former | None = None
    optimizer: Optimizer = "adamw"
    on_save: Callable[[M, Status], None] | None = None
    on_step: Callable[[Status], None] | None = None
    on_note: Callable[[str], None] | None = None


class Step(nn.Module):
    """A loss as a module, so that DistributedDataParallel sees the forward pass that its gradients belong to."""

    def __init__(self, model: nn.Module, task: Task, draws: Draws) -> None:
        super().__init__()
        self.model, self.task, self.draws = model, task, draws

    def forward(self, batch: Any) -> tuple[Tensor, Figures]:
        """The loss and its figures."""
        return self.task.loss(self.model, batch, self.draws)


def train(model: M, task: Task, config: TrainConfig, run: Run[M]) -> tuple[M, TrainResult]:
    """Train `model` in place; return its averaged copy and how the run ended.

    Ctrl-C saves and ends the run, unfinished. A second one, while the average is judged on held-out data, is raised
    after the checkpoint is written. Nothing is saved before a step is taken: Ctrl-C before that is raised.
    Raises DeepsepError for a checkpoint that cannot be resumed, and where no step could be taken.
    """
    compute = run.compute
    model.to(compute.device)
    average = copy.deepcopy(model).requires_grad_(False).eval()
    fused = compute.device.type in ("cpu", "cuda")
    adam: dict[str, Any] = {"betas": (0.9, 0.99), "weight_decay": 1e-4, "fused": fused}
    optimizer = (
        Muon(model, config.lr, **adam)
        if run.optimizer == "muon"
        else torch.optim.AdamW(model.parameters(), config.lr, **adam)
    )
    state = State(model, average, optimizer, run.rng)
    step, spent = 0, 0.0
    learnt = run.resume
    if run.resume:
        step, spent = load_checkpoint(run.checkpoint, run.identity, state)
        if compute.part:  # the generator is the leading process's; each draws examples of its own
            run.rng.manual_seed(int(torch.randint(2**62, (1,), generator=run.rng)) + compute.part)
    if task.teach:
        task.teach(average)
    for module in model.modules():
        if isinstance(module, WaveNet):
            module.dtype = compute.dtype
    network: nn.Module = Step(
        model, task, Draws(noise_of(run, config.seed + step), compute.part, compute.parts)
    )
    if compute.parts > 1:
        if compute.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        network = nn.parallel.DistributedDataParallel(network)
    scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.dtype is torch.float16)
    pieces = 1  # that a batch is taken in, where it does not fit into memory as a whole
    held_out: dict[str, float] = {}
    smooth: dict[str, float] = {}
    judged = -math.inf
    began = time.monotonic()
    started, saved, first = began - spent * 60, began, step

    def minutes() -> float:
        return (time.monotonic() - started) / 60

    def status() -> Status:
        rate = (step - first) / max(1e-9, time.monotonic() - began)
        eta = min((config.steps - step) / max(rate, 1e-9), (config.minutes - minutes()) * 60)
        done = fraction(step, minutes(), config)
        return Status(step, done, rate, max(0.0, eta), dict(smooth), dict(held_out))

    def judge() -> None:
        nonlocal held_out, judged
        held_out = {k: float(v) for k, v in task.evaluate(average).items()}
        judged = time.monotonic()

    def save() -> None:
        nonlocal saved
        if not compute.leads:
            saved = time.monotonic()
            return
        if run.former and not run.resume:
            run.former.keep()
        note = {**run.remarks, "identity": run.identity, "step": step, "minutes": minutes()}
        if compute.run:
            note["run"] = compute.run
        with uninterrupted():
            save_checkpoint(run.checkpoint, note, state)
        judge()
        if run.on_save:
            with uninterrupted():
                run.on_save(average, status())
        saved = time.monotonic()

    finished = False
    try:
        model.train()
        while True:
            done = agreed(fraction(step, minutes(), config), compute)
            if finished := done >= 1 and step > 0:
                break
            if compute.leads and time.monotonic() - judged > JUDGE_SECONDS:
                judge()
            rate = learning_rate(step, done, config)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = move(next(task.batches), compute.device)
            figures, fitting = backward_in_memory(network, batch, pieces, scaler, divide=compute.parts == 1)
            if fitting > pieces and run.on_note:
                run.on_note(f"the device's memory is full: each batch is taken in {fitting} parts from here")
            pieces = fitting
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            with uninterrupted():
                if torch.isfinite(norm):
                    scaler.step(optimizer)
                    learnt = True
                scaler.update()
                step += 1
                blend(average, model, min(config.ema, (step + 1) / (step + 10)))
            for key, figure in figures.items():
                value = float(figure)
                if math.isfinite(value):
                    smooth[key] = smooth.get(key, value) + SMOOTHING * (value - smooth.get(key, value))
            if run.on_step and compute.leads:
                run.on_step(status())
            if learnt and time.monotonic() - saved > 60 * config.save_minutes:
                save()
    except KeyboardInterrupt:
        if not learnt:
            raise
    if not learnt:
        raise DeepsepError("no step had finite gradients, so nothing is saved; try a lower learning rate")
    model.eval()
    save()
    if run.former and finished and compute.leads:
        run.former.drop()
    kept = run.former.folder if run.former and run.former.folder.exists() else None
    return average, TrainResult(status(), finished, kept)


def noise_of(run: Run[Any], seed: int) -> torch.Generator:
    """The generator of a loss's noise: the run's own, or one on its device that all processes share."""
    if run.compute.device.type == "cpu" and run.compute.parts == 1:
        return run.rng
    return torch.Generator(run.compute.device).manual_seed(seed)


def move(batch: Any, device: torch.device) -> Any:
    """A batch on a device; the copy to a GPU runs beside its work."""
    if device.type == "cuda":
        return batch.pin_memory().to(device, non_blocking=True)
    return batch.to(device)


def backward_in_memory(
    module: nn.Module, batch: Any, pieces: int, scaler: torch.amp.GradScaler, *, divide: bool
) -> tuple[Figures, int]:
    """The figures of `backward`, and in how many pieces the batch fits into memory: `pieces`, or more with `divide`.

    Raises DeepsepError where no number does.
    """
    while True:
        module.zero_grad(set_to_none=True)
        try:
            return backward(module, batch, pieces, scaler), pieces
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if not divide or len(batch.chunk(2 * pieces)) <= pieces:
                raise DeepsepError("the device's memory is full; use a smaller --batch") from error
        pieces *= 2


def backward(module: nn.Module, batch: Any, pieces: int, scaler: torch.amp.GradScaler) -> Figures:
    """Add up the gradients of a batch, taken in so many pieces; return the figures of the last."""
    figures: Figures = {}
    parts = batch.chunk(pieces) if pieces > 1 else [batch]
    for part in parts:
        value, figures = module(part)
        scaler.scale(value / len(parts)).backward()
    return figures


def agreed(done: float, compute: Compute) -> float:
    """The leading process's share of the run, so that all processes end at the same step."""
    if compute.parts == 1:
        return done
    told = torch.tensor(done, dtype=torch.float64, device=compute.device)
    distributed.broadcast(told, 0)
    return float(told)


def learning_rate(step: int, done: float, config: TrainConfig) -> float:
    """The learning rate at a step: linear warm-up, then a cosine that ends at a fiftieth of the highest."""
    warm = min(1.0, (step + 1) / config.warmup)
    return config.lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def fraction(step: int, minutes: float, config: TrainConfig) -> float:
    """The share of the run that is done, by steps or by minutes, whichever is further."""
    return min(1.0, max(step / config.steps, minutes / config.minutes))


@torch.no_grad()
def blend(average: nn.Module, model: nn.Module, keep: float) -> None:
    """average <- keep * average + (1 - keep) * model, buffers too."""
    ours = [*average.parameters(), *average.buffers()]
    new = [*model.parameters(), *model.buffers()]
    for a, m in zip(ours, new, strict=True):
        if a.is_floating_point():
            a.lerp_(m, 1 - keep)
        else:
            a.copy_(m)
