"""The one training loop: Adam, warm-up and cosine decay, weight averaging, checkpoints, resume, Ctrl-C.

A checkpoint is one safetensors file: weights, their average, Adam's moments, the generator's state, and as JSON
metadata the step, the minutes spent and what is being trained. Resuming from another configuration is refused.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .config import TrainConfig
from .errors import DeepsepError
from .networks import WaveNet

__all__ = ["Status", "train"]

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
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    on_save: Callable[[nn.Module, Status], None] | None = None,
    on_progress: Callable[[Status], None] | None = None,
) -> tuple[nn.Module, Status, bool]:
    """Trains `model` in place; returns its averaged copy, the last status, and whether it ran to its end.

    `identity` says what this run is; `resume` continues a checkpoint of the same identity (DeepsepError for
    another). `on_save` gets the averaged model at every checkpoint. Ctrl-C saves and returns with False.
    """
    average = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(model.parameters(), config.lr, betas=(0.9, 0.99), weight_decay=1e-4)
    step, spent = 0, 0.0
    if resume:
        step, spent = load_checkpoint(checkpoint, identity, model, average, optimizer, rng)
    for module in model.modules():
        if isinstance(module, WaveNet):
            module.bf16 = config.bf16
    started, saved, first = time.monotonic() - spent * 60, time.monotonic(), step
    began = time.monotonic()
    held_out: dict[str, float] = {}
    smooth: dict[str, float] = {}

    def status() -> Status:
        minutes = (time.monotonic() - started) / 60
        rate = (step - first) / max(1e-9, time.monotonic() - began)
        eta = min((config.steps - step) / max(rate, 1e-9), (config.minutes - minutes) * 60)
        return Status(
            step, fraction(step, minutes, config), rate, max(0.0, eta), dict(smooth), dict(held_out)
        )

    def save() -> None:
        nonlocal saved, held_out
        if evaluate:
            held_out = evaluate(average)
        minutes = (time.monotonic() - started) / 60
        save_checkpoint(checkpoint, identity, step, minutes, model, average, optimizer, rng)
        if on_save:
            on_save(average, status())
        saved = time.monotonic()

    finished = False
    try:
        model.train()
        while not (finished := fraction(step, (time.monotonic() - started) / 60, config) >= 1):
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
    identity: dict[str, Any],
    step: int,
    minutes: float,
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
    note = json.dumps({"identity": identity, "step": step, "minutes": minutes})
    part = path.with_name(path.name + ".part")
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, part, metadata={"deepsep": note})
    os.replace(part, path)


def load_checkpoint(
    path: Path,
    identity: dict[str, Any],
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    rng: torch.Generator,
) -> tuple[int, float]:
    """Restores a run; returns its step and the minutes it has had. DeepsepError if it is not this run's."""
    if not path.exists():
        raise DeepsepError(f"{path}: no checkpoint to resume from; leave out --resume to start afresh")
    try:
        with safe_open(path, "pt") as file:
            note = json.loads((file.metadata() or {})["deepsep"])
            tensors = {k: file.get_tensor(k) for k in file.keys()}
    except (SafetensorError, KeyError, ValueError) as error:
        raise DeepsepError(f"{path}: not a deepsep checkpoint, or a damaged one ({error})") from error
    differing = sorted(
        k for k in {*identity, *note["identity"]} if identity.get(k) != note["identity"].get(k)
    )
    if differing:
        told = ", ".join(
            f"{k} {note['identity'].get(k)!r} there, {identity.get(k)!r} here" for k in differing
        )
        raise DeepsepError(
            f"{path}: checkpoint of another configuration ({told}); leave out --resume to start afresh"
        )
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
