"""What an option may be, as types that a type checker, the command line and its help all read."""

from __future__ import annotations

from typing import Any, Literal, get_args

from ..errors import DeepsepError

__all__ = [
    "BatchSize",
    "BitDepth",
    "Codec",
    "DomainName",
    "Format",
    "Init",
    "Level",
    "Mask",
    "Method",
    "Metric",
    "Objective",
    "Optimizer",
    "Shuffle",
    "Start",
    "check_choice",
]

DomainName = Literal["spectral", "waveform"]
Method = Literal["auto", "sgld", "encoder"]
Init = Literal["auto", "mixture", "encoder"]  # where SGLD starts
BatchSize = int | Literal["auto"]  # windows separated at a time
Format = Literal["wav", "flac", "mp3", "ogg", "stem"]
BitDepth = Literal["float", "24", "16"]
Codec = Literal["aac", "alac"]  # of a stem file
Metric = Literal["sdr", "si_sdr", "sdr_median"]
Objective = Literal["both", "simulated", "elbo", "remix"]  # of an encoder's training
Optimizer = Literal["adamw", "muon"]
Start = Literal["new", "resume", "overwrite"]  # of a training: what to do with one that is there already
Level = Literal["relative", "absolute"]
Mask = Literal["channel", "checkerboard", "alternate"]
Shuffle = Literal["conv", "flip"]


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raise DeepsepError unless `value` is one of the strings of a Literal type."""
    if value not in get_args(choices):
        raise DeepsepError(f"unknown {name} {value!r}; choose one of {', '.join(get_args(choices))}")
