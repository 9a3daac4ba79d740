"""Checkpoints: the whole state of a training run in one safetensors file.

It holds weights, their average, the optimizer's moments, the generator's state, and as JSON metadata the step, the
minutes spent and what is being trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..config import is_number, is_whole, parse_json, shorten
from ..errors import DeepsepError, refusal
from ..models.weights import check_stated, check_values, open_weights, read_stated
from ..staging import StagedFiles
from .muon import Muon

__all__ = ["State", "check_checkpoint", "is_written_by", "load_checkpoint", "save_checkpoint"]

MOST_TOLD = 8  # settings that differ
MOST_STEPS, MOST_MINUTES = 10**12, 1e9  # no run is longer; a note that says so is damaged


@dataclass(frozen=True, slots=True)
class State:
    """What a checkpoint saves and restores in place."""

    model: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    rng: torch.Generator


def save_checkpoint(path: Path, note: dict[str, Any], state: State) -> None:
    """Write the state; the former checkpoint stays until it is whole.

    Raises DeepsepError where that fails, and for weights that could not be read again.
    """
    tensors = weights_of(state)
    for i, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{k}": torch.as_tensor(v) for k, v in moments.items()}
    tensors["rng"] = state.rng.get_state()
    try:
        check_values(tensors)
    except ValueError as error:
        raise DeepsepError(
            f"the training has diverged ({error}); nothing is replaced; start again from a lower --lr"
        ) from None
    with StagedFiles({"checkpoint": path}) as staged:
        try:
            save_file(
                {k: v.contiguous().clone() for k, v in tensors.items()},
                staged.temporary["checkpoint"],
                metadata={"deepsep": json.dumps({**note, "tensors": len(tensors)})},
            )
        except (SafetensorError, OSError) as error:
            raise refusal(path, error) from error
        staged.commit()


def check_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Read the note of a checkpoint. DeepsepError if there is none, or it is of another run."""
    if not path.exists():
        raise DeepsepError(f"{path}: no checkpoint to resume from; leave out --resume to start afresh")
    note = note_of(path)
    theirs = note["identity"]
    if differing := sorted(k for k in {*identity, *theirs} if identity.get(k) != theirs.get(k)):
        told = ", ".join(difference(k, theirs.get(k), identity.get(k)) for k in differing[:MOST_TOLD])
        raise DeepsepError(
            f"{path}: checkpoint of another configuration ({told}); give the same options, "
            "or leave out --resume to start afresh"
        )
    return note


def is_written_by(path: Path, run: str) -> bool:
    """Whether there is a checkpoint that this run of torchrun wrote. DeepsepError for a damaged one."""
    return path.exists() and bool(note_of(path).get("run") == run)


def note_of(path: Path) -> dict[str, Any]:
    """Read what a checkpoint says of itself. DeepsepError for a file that is none."""
    try:
        with open_weights(path) as file:
            return read_note((file.metadata() or {})["deepsep"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> DeepsepError:
    """The error for a file that is no checkpoint, or not a whole one."""
    return DeepsepError(
        f"{path}: not a deepsep checkpoint, or a damaged one ({shorten(str(error))}); "
        "start afresh with --overwrite"
    )


def read_note(text: str) -> dict[str, Any]:
    """Read what a checkpoint says of itself. Raises ValueError for a note of other types than it is written with."""
    note = parse_json(text)
    if not isinstance(note, dict) or not isinstance(note.get("identity"), dict):
        raise ValueError("its note has no identity")
    step, minutes, data, tensors = (note.get(name) for name in ("step", "minutes", "data", "tensors"))
    if not is_whole(step) or not 0 <= step <= MOST_STEPS:
        raise ValueError(f"its note has the step {shorten(step)}")
    if not is_number(minutes) or not 0 <= minutes <= MOST_MINUTES:
        raise ValueError(f"its note has {shorten(minutes)} for minutes")
    if not isinstance(data, (str, type(None))) or not isinstance(tensors, (int, type(None))):
        raise ValueError("its note has no valid account of its data or tensors")
    return note


def difference(name: str, there: Any, here: Any) -> str:
    """Describe two settings, or only those of their parts that differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        parts = sorted(k for k in {*there, *here} if there.get(k) != here.get(k))[:MOST_TOLD]
        return ", ".join(difference(f"{name} {k}", there.get(k), here.get(k)) for k in parts)
    return f"{shorten(name)} {shorten(there)} there, {shorten(here)} here"


def load_checkpoint(path: Path, identity: dict[str, Any], state: State) -> tuple[int, float]:
    """Restore a run; return its step and the minutes it has had. DeepsepError if it is of another run.

    Nothing of `state` is changed before every tensor is known to be whole.
    """
    note = check_checkpoint(path, identity)
    try:
        stated = read_stated(path)
        wanted = expected(stated, state)
        check_stated(stated, wanted)
        if note.get("tensors", len(stated)) != len(stated):
            raise ValueError(f"it holds {len(stated)} tensors, its note says {note['tensors']}")
        with open_weights(path) as file:
            tensors: dict[str, Tensor] = {k: file.get_tensor(k) for k in wanted}
        check_values(tensors)
        torch.Generator().set_state(tensors["rng"])
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise damaged(path, error) from error
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


def weights_of(state: State) -> dict[str, Tensor]:
    """The weights and their average, by their names in a checkpoint."""
    tensors = {f"model.{k}": v for k, v in state.model.state_dict().items()}
    return tensors | {f"average.{k}": v for k, v in state.average.state_dict().items()}


def expected(stated: Mapping[str, Any], state: State) -> dict[str, Tensor]:
    """What a checkpoint of this state has; no moments of a parameter that has had no gradient, one of Muon's."""
    wanted = {**weights_of(state), "rng": state.rng.get_state()}
    hidden = state.optimizer.hidden if isinstance(state.optimizer, Muon) else []
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    for i, parameter in enumerate(parameters):
        if any(name.startswith(f"adam.{i}.") for name in stated):
            wanted |= {f"adam.{i}.step": torch.tensor(0.0)}
            moments = ("exp_avg",) if any(parameter is p for p in hidden) else ("exp_avg", "exp_avg_sq")
            wanted |= {f"adam.{i}.{name}": parameter for name in moments}
    return wanted
