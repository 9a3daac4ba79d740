"""The one training loop: Adam, warm-up and cosine decay, weight averaging, checkpoints, resume, Ctrl-C.

A checkpoint is one safetensors file: weights, their average, Adam's moments, the generator's state, and as JSON
metadata the step, the minutes spent and what is being trained. Resuming from another configuration is refused.
"""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..config import TrainConfig
from ..errors import DeepsepError
from ..flows.networks import WaveNet

__all__ = ["Status", "check_checkpoint", "train"]

JUDGE_SECONDS = 60.0  # between two looks at held-out data

Loss = Callable[[nn.Module, Any, torch.Generator], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True, slots=True)
class Status:
    """What a progress line shows. `fraction` runs to 1; rate in steps a second; eta in seconds."""

    step: int
    fraction: float
    rate: float
    eta: float
    figures: dict[str, float] = field(default_factory=dict)
    held_out: dict[str, float] = field(default_factory=dict)


def train(
    model: nn.Module,
    batches: Iterator[Any],
    loss: Loss,
    config: TrainConfig,
    *,
    checkpoint: Path,
    identity: dict[str, Any],
    rng: torch.Generator,
    resume: bool = False,
    remarks: dict[str, Any] | None = None,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    on_save: Callable[[nn.Module, Status], None] | None = None,
    on_progress: Callable[[Status], None] | None = None,
) -> tuple[nn.Module, Status, bool]:
    """Trains `model` in place; returns its averaged copy, the last status, and whether it ran to its end.

    `identity` says what this run is; `resume` continues a checkpoint of the same identity (DeepsepError for
    another). `remarks` are written into its note, not compared. `on_save` gets the averaged model at every
    checkpoint. Ctrl-C saves and returns with False; a second one, while the average is judged on held-out data, is
    passed on, with the checkpoint written.
    """
    average = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(model.parameters(), config.lr, betas=(0.9, 0.99), weight_decay=1e-4)
    step, spent = 0, 0.0
    if resume:
        step, spent = load_checkpoint(checkpoint, identity, model, average, optimizer, rng)
    for module in model.modules():
        if isinstance(module, WaveNet):
            module.bf16 = config.bf16
    held_out: dict[str, float] = {}
    smooth: dict[str, float] = {}
    judged = -math.inf
    started, saved, first = time.monotonic() - spent * 60, time.monotonic(), step
    began = time.monotonic()

    def status() -> Status:
        minutes = (time.monotonic() - started) / 60
        rate = (step - first) / max(1e-9, time.monotonic() - began)
        eta = min((config.steps - step) / max(rate, 1e-9), (config.minutes - minutes) * 60)
        return Status(
            step, fraction(step, minutes, config), rate, max(0.0, eta), dict(smooth), dict(held_out)
        )

    def judge() -> None:
        nonlocal held_out, judged
        if evaluate:
            held_out = evaluate(average)
        judged = time.monotonic()

    def save() -> None:
        nonlocal saved
        minutes = (time.monotonic() - started) / 60
        with undisturbed():
            note = {**(remarks or {}), "identity": identity, "step": step, "minutes": minutes}
            save_checkpoint(checkpoint, note, model, average, optimizer, rng)
        judge()
        if on_save:
            with undisturbed():
                on_save(average, status())
        saved = time.monotonic()

    finished = False
    try:
        model.train()
        while not (finished := fraction(step, (time.monotonic() - started) / 60, config) >= 1):
            if time.monotonic() - judged > JUDGE_SECONDS:
                judge()
            progress = fraction(step, (time.monotonic() - started) / 60, config)
            rate = min(1.0, (step + 1) / config.warmup) * (
                0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))
            )
            for group in optimizer.param_groups:
                group["lr"] = config.lr * rate
            value, figures = loss(model, next(batches), rng)
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            with undisturbed():
                if torch.isfinite(norm):
                    optimizer.step()
                step += 1
                blend(average, model, min(config.ema, (step + 1) / (step + 10)))
            for key, figure in figures.items():
                if math.isfinite(figure):
                    smooth[key] = smooth.get(key, figure) + 0.03 * (figure - smooth.get(key, figure))
            if on_progress:
                on_progress(status())
            if time.monotonic() - saved > 60 * config.save_minutes:
                save()
    except KeyboardInterrupt:
        pass
    model.eval()
    save()
    return average, status(), finished


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within, Ctrl-C and being told to end wait: steps are taken whole, and files written with those that name them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    kept = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if heard:
            signal.raise_signal(heard[0])


def fraction(step: int, minutes: float, config: TrainConfig) -> float:
    """How much of the run is done, by steps or by minutes, whichever is further."""
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


def save_checkpoint(
    path: Path,
    note: dict[str, Any],
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    rng: torch.Generator,
) -> None:
    """Writes the whole state beside the target, then moves it into place."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
    tensors["rng"] = rng.get_state()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        save_file(
            {k: v.contiguous().clone() for k, v in tensors.items()},
            part,
            metadata={"deepsep": json.dumps(note)},
        )
        os.replace(part, path)
    except SafetensorError as error:
        raise DeepsepError(f"{path}: cannot be written ({error})") from error
    finally:
        part.unlink(missing_ok=True)


def check_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of itself. DeepsepError if there is none, or not one of this run."""
    if not path.exists():
        raise DeepsepError(f"{path}: no checkpoint to resume from; leave out --resume to start afresh")
    try:
        with safe_open(path, "pt") as file:
            note: dict[str, Any] = json.loads((file.metadata() or {})["deepsep"])
        theirs = note["identity"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DeepsepError(f"{path}: not a deepsep checkpoint, or a damaged one ({error})") from error
    if differing := sorted(k for k in {*identity, *theirs} if identity.get(k) != theirs.get(k)):
        told = ", ".join(difference(k, theirs.get(k), identity.get(k)) for k in differing)
        raise DeepsepError(
            f"{path}: checkpoint of another configuration ({told}); give the same options, "
            "or leave out --resume to start afresh"
        )
    return note


def difference(name: str, there: Any, here: Any) -> str:
    """Two settings, or only those of their parts that differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        parts = sorted(k for k in {*there, *here} if there.get(k) != here.get(k))
        return ", ".join(difference(f"{name} {k}", there.get(k), here.get(k)) for k in parts)
    return f"{name} {there!r} there, {here!r} here"


def load_checkpoint(
    path: Path,
    identity: dict[str, Any],
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    rng: torch.Generator,
) -> tuple[int, float]:
    """Restores a run; returns its step and the minutes it has had. DeepsepError if it is not this run's."""
    note = check_checkpoint(path, identity)
    try:
        with safe_open(path, "pt") as file:
            tensors = {k: file.get_tensor(k) for k in file.keys()}
    except (SafetensorError, ValueError) as error:
        raise DeepsepError(f"{path}: not a deepsep checkpoint, or a damaged one ({error})") from error
    for name, module in (("model.", model), ("average.", average)):
        module.load_state_dict({k[len(name) :]: v for k, v in tensors.items() if k.startswith(name)})
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("adam."):
            _, i, name = key.split(".")
            state.setdefault(int(i), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    rng.set_state(tensors["rng"])
    return int(note["step"]), float(note["minutes"])
