"""What every training run shares: checks before hours are spent, the folder it works in, what is said of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import Start, TrainConfig, check_choice
from ..errors import DeepsepError
from ..flows.flow import Flow
from ..inference.losses import bits_per_dim
from ..inference.model import Model
from ..models import folder as folders
from ..progress import Listener
from ..recordings.files import Folders, contents, set_members
from .checkpoint import check_checkpoint

__all__ = [
    "check_data",
    "describe",
    "fresh_weights",
    "held_out_bits",
    "prepare",
    "remove_empty_folders_on_error",
    "round_figures",
]


def prepare(
    out: Path, name: str, identity: dict[str, Any], data: Sequence[Folders], start: Start, listener: Listener
) -> tuple[dict[str, str], int]:
    """Check that a run may replace what is in `out`.

    Returns what the checkpoint is to remember of the recordings, and the steps of a run that is resumed. Raises
    DeepsepError for folders without audio, a training that is there already, or a checkpoint of another identity.
    """
    check_choice("start", start, Start)
    checkpoint = out / "training" / f"{name}.safetensors"
    remarks = {"data": " ".join(contents(folders_of_one) for folders_of_one in data)}
    before = 0
    if start == "resume":
        note = check_checkpoint(checkpoint, identity)
        before = int(note["step"])
        if note.get("data", remarks["data"]) != remarks["data"] and listener.note:
            listener.note(
                "the recordings are others than before: what is held out may have been trained on earlier"
            )
    elif start == "new" and (checkpoint.exists() or (out / f"{name}.safetensors").exists()):
        raise DeepsepError(
            f"{out}: {name} has been trained there; --resume goes on with it, --overwrite starts afresh"
        )
    return remarks, before


@contextmanager
def remove_empty_folders_on_error(folder: Path, top: Path) -> Iterator[None]:
    """Remove empty folders from `folder` up to `top` if the block raises."""
    try:
        yield
    except BaseException:
        for path in (folder, *folder.parents):
            with suppress(OSError):
                path.rmdir()
            if path == top:
                break
        raise


@contextmanager
def fresh_weights(seed: int) -> Iterator[None]:
    """Make layers draw their first weights from a seed; the caller's global generator stays as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def check_data(model: Model, priors: Path, data: Mapping[str, Folders], *, sets: bool = False) -> None:
    """Raise DeepsepError unless there are folders of recordings for each source of a model, and no others.

    With `sets` there may also be folders of several sources together, as in "drums+bass", but not of all of them.
    """
    known = ", ".join(model.sources)
    for name in data:
        members = set_members(name)
        if unknown := [s for s in members if s not in model.sources]:
            raise DeepsepError(f"unknown source {unknown[0]!r}; {priors} has {known}")
        if len(members) > 1 and not sets:
            raise DeepsepError(f"{name}: several sources together do not train this; give solo recordings")
        if len(set(members)) < len(members) or len(members) == len(model.sources) > 1:
            raise DeepsepError(
                f"{name}: a set must name some of {known}, each once; songs with all of them go to --mixtures"
            )
    if missing := [s for s in model.sources if s not in data]:
        raise DeepsepError(
            f"no recordings of {', '.join(missing)}; give a folder for each source of {priors}"
        )


def describe(config: TrainConfig, step: int, **more: Any) -> dict[str, Any]:
    """The settings of a run that a model card states."""
    settings = {k: v for k, v in asdict(config).items() if k in ("batch", "frames", "lr", "ema", "seed")}
    return {"steps": step, **more, **{k: v for k, v in settings.items() if v is not None}}


def round_figures(figures: Mapping[str, float], digits: int = 4) -> dict[str, float]:
    """Figures as a config.json states them."""
    return {k: round(v, digits) for k, v in figures.items()}


@torch.no_grad()
def held_out_bits(flow: Flow, x_bdn: Tensor, sigmas: Sequence[float]) -> dict[str, float]:
    """Bits per dimension of unseen x (b, d, n) at some noise levels."""
    noise = torch.randn(x_bdn.shape, generator=torch.Generator().manual_seed(2)).to(x_bdn)
    return {
        f"bits/dim at {sigma:g}": float(
            bits_per_dim(flow.log_prob(x_bdn + sigma * noise, sigma), x_bdn.shape)
        )
        for sigma in sigmas
    }


def encoder_sources(folder: Path) -> list[str]:
    """The sources that a priors folder's encoder separates; none where it has no encoder."""
    if not (folder / "config.json").exists():
        return []
    return list(folders.read_config(folder).get("encoder", {}).get("sources", []))
