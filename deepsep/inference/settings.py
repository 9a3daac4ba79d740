"""How to separate: the method, the sampler's settings, the device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..config import (
    WINDOWS,
    BatchSize,
    Init,
    Method,
    SgldConfig,
    SpectralSgldConfig,
    bounds,
    check_choice,
    ranges,
)
from ..errors import DeepsepError

__all__ = ["Settings", "check_device", "choose_method", "choose_pitches", "pick_batch_size", "pick_device"]

DEVICES = ("cpu", "cuda", "mps")

ChosenMethod = Literal["sgld", "encoder"]
ChosenInit = Literal["mixture", "encoder"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How to separate, nothing left open."""

    method: ChosenMethod = "encoder"
    init: ChosenInit = "mixture"
    sgld: SgldConfig = field(default_factory=SpectralSgldConfig)
    seed: int = 0
    batch_size: int | None = WINDOWS  # windows at a time; None: as many as fit into a GPU's free memory
    device: str = "cpu"
    pitches: int = 1  # at which the encoder hears the mixture; its estimates are averaged
    draws: int = 1  # 1 is the point estimate; more are that many draws from the posterior


def check_device(name: str) -> None:
    """Raise DeepsepError for a name that is no device's."""
    if name != "auto" and name.split(":")[0] not in DEVICES:
        raise DeepsepError(
            f"unknown device {name!r}; choose auto, {', '.join(DEVICES[:-1])} or {DEVICES[-1]}"
        )


def pick_device(name: str) -> str:
    """ "auto" -> cuda, mps or cpu. DeepsepError for a device that is not there."""
    check_device(name)
    import torch  # here: settings are looked at before anything heavy is loaded

    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return "cuda" if have["cuda"] else "mps" if have["mps"] else "cpu"
    kind = name.split(":")[0]
    if not have[kind]:
        raise DeepsepError(
            f"--device {name}: this PyTorch ({torch.__version__}) finds no {kind} device; use --device cpu"
        )
    return name


def pick_batch_size(size: BatchSize, device: str) -> int | None:
    """What `Settings.batch_size` is on a device: "auto" is as many as fit on a GPU, and one elsewhere.

    Raises DeepsepError for what is no size.
    """
    if size == "auto":
        return None if device.startswith("cuda") else WINDOWS
    if isinstance(size, str) or size < 1:
        raise DeepsepError(f"batch_size must be at least 1 or auto, got {size}")
    return size


def choose_method(method: Method, init: Init, *, has_encoder: bool) -> tuple[ChosenMethod, ChosenInit]:
    """What "auto" means for priors with or without an encoder. DeepsepError for a method that they do not have.

    The encoder wherever there is one: it is faster on every device, and better on songs (docs/results.md).
    """
    check_choice("method", method, Method)
    check_choice("init", init, Init)
    if not has_encoder and "encoder" in (method, init):
        raise DeepsepError(
            "these priors have no encoder for just these sources; use --method sgld --init mixture, "
            "or train one: deepsep train-encoder"
        )
    chosen: ChosenMethod = "encoder" if method == "encoder" or (method == "auto" and has_encoder) else "sgld"
    return chosen, "encoder" if has_encoder and init != "mixture" else "mixture"


def choose_pitches(pitches: int | None, method: ChosenMethod, init: ChosenInit, *, several: bool) -> int:
    """At how many pitches the encoder hears a mixture: by default one, and two where Langevin starts from it.

    Two cost twice the encoder's time, of which Langevin takes ten times more. `several` is `Domain.several_pitches`.
    Raises DeepsepError for a number that is out of range or does nothing.
    """
    heard = method == "encoder" or init == "encoder"
    if pitches is None:
        return 2 if several and heard and method == "sgld" else 1
    low, high = bounds(ranges.Pitches).values()
    if not low <= pitches <= high:
        raise DeepsepError(f"pitches must lie between {low:g} and {high:g}, got {pitches}")
    if not heard:
        raise DeepsepError("pitches are of the encoder and do nothing without it; leave them out")
    if pitches > 1 and not several:
        raise DeepsepError("an encoder of waveform priors hears one pitch; leave pitches out")
    return pitches
