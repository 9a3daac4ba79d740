"""Checkpoints: the whole state of a training run in one safetensors file.

It holds weights, their average, Adam's moments, the generator's state, and as JSON metadata the step, the minutes spent
and what is being trained.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import DeepsepError
from ..staging import StagedFiles

__all__ = ["State", "check_checkpoint", "load_checkpoint", "save_checkpoint"]


@dataclass(frozen=True, slots=True)
class State:
    """What a checkpoint saves and restores in place."""

    model: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    rng: torch.Generator


def save_checkpoint(path: Path, note: dict[str, Any], state: State) -> None:
    """Write the state; the former checkpoint stays until it is whole. Raises DeepsepError where that fails."""
    tensors = {f"model.{k}": v for k, v in state.model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in state.average.state_dict().items()}
    for i, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{k}": torch.as_tensor(v) for k, v in moments.items()}
    tensors["rng"] = state.rng.get_state()
    with StagedFiles({"checkpoint": path}) as staged:
        try:
            save_file(
                {k: v.contiguous().clone() for k, v in tensors.items()},
                staged.temporary["checkpoint"],
                metadata={"deepsep": json.dumps(note)},
            )
        except (SafetensorError, OSError) as error:
            raise DeepsepError(f"{path}: cannot be written ({error})") from error
        staged.commit()


def check_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Read the note of a checkpoint. DeepsepError if there is none, or it is of another run."""
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
    """Describe two settings, or only those of their parts that differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        parts = sorted(k for k in {*there, *here} if there.get(k) != here.get(k))
        return ", ".join(difference(f"{name} {k}", there.get(k), here.get(k)) for k in parts)
    return f"{name} {there!r} there, {here!r} here"


def load_checkpoint(path: Path, identity: dict[str, Any], state: State) -> tuple[int, float]:
    """Restore a run; return its step and the minutes it has had. DeepsepError if it is of another run."""
    note = check_checkpoint(path, identity)
    try:
        with safe_open(path, "pt") as file:
            tensors = {k: file.get_tensor(k) for k in file.keys()}
    except (SafetensorError, ValueError) as error:
        raise DeepsepError(f"{path}: not a deepsep checkpoint, or a damaged one ({error})") from error
    for name, module in (("model.", state.model), ("average.", state.average)):
        module.load_state_dict({k[len(name) :]: v for k, v in tensors.items() if k.startswith(name)})
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("adam."):
            _, i, name = key.split(".")
            moments.setdefault(int(i), {})[name] = tensor
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    state.rng.set_state(tensors["rng"])
    return int(note["step"]), float(note["minutes"])
