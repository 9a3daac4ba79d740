"""What numbers may be: a range for each kind of setting, for files, Python and the command line alike.

They are wide of anything that is of use, and narrow enough that no value asks for all of the memory, or for a year.
"""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

from ..errors import DeepsepError

__all__ = [
    "Bands",
    "BatchSize",
    "Bins",
    "Chains",
    "Context",
    "Decibels",
    "Deep",
    "Depth",
    "Exponent",
    "FftSize",
    "Frames",
    "Gamma",
    "Iterates",
    "Kernel",
    "LearningRate",
    "Levels",
    "LogScaleBound",
    "Minutes",
    "NoiseLevel",
    "Pitches",
    "Range",
    "Rate",
    "Scale",
    "Seed",
    "SgldSteps",
    "Share",
    "Shift",
    "Steps",
    "Temperature",
    "Threads",
    "Weight",
    "Width",
    "Widths",
    "Window",
    "Workers",
    "bounds",
    "check_bounds",
]

LONGEST = 16  # values of a list


class Range(NamedTuple):
    """The least and the greatest that a number may be, or each number of a list."""

    low: float
    high: float


# sounds and spectra
Rate = Annotated[int, Range(1000, 384_000)]  # Hz
FftSize = Annotated[int, Range(64, 1 << 17)]
Bins = Annotated[int, Range(1, 1 << 17)]
Decibels = Annotated[float, Range(-200, 100)]
Shift = Annotated[float, Range(-1000, 1000)]
Scale = Annotated[float, Range(0.01, 1000)]
Bands = Annotated[int, Range(2, 4096)]
Window = Annotated[int, Range(64, 1 << 17)]  # samples
Frames = Annotated[int, Range(8, 8192)]  # of a training example

# networks
Width = Annotated[int, Range(1, 4096)]  # of a layer, in hidden units or channels
Depth = Annotated[int, Range(1, 128)]
Deep = Annotated[int, Range(0, 32)]  # further blocks
Widths = Annotated[tuple[int, ...], Range(1, 4096)]
Kernel = Annotated[int, Range(1, 65)]
Context = Annotated[int, Range(0, 2048)]  # frames on either side
LogScaleBound = Annotated[float, Range(0.01, 20)]
NoiseLevel = Annotated[float, Range(1e-12, 1e9)]

# Langevin sampling
Levels = Annotated[int, Range(1, 10_000)]
SgldSteps = Annotated[int, Range(1, 10_000)]  # of each level
Chains = Annotated[int, Range(1, 256)]
Iterates = Annotated[int, Range(1, 10_000_000)]
Temperature = Annotated[float, Range(0, 100)]
Pitches = Annotated[int, Range(1, 8)]
Gamma = Annotated[float, Range(0, 1000)]
Exponent = Annotated[float, Range(0, 16)]

# training
Steps = Annotated[int, Range(1, 10**9)]
Minutes = Annotated[float, Range(0, 10_000_000)]
LearningRate = Annotated[float, Range(0, 10)]
Weight = Annotated[float, Range(0, 1_000_000)]  # of a term of a loss
Share = Annotated[float, Range(0, 1)]

# running
Seed = Annotated[int, Range(0, 2**32 - 1)]
Threads = Annotated[int, Range(1, 512)]
Workers = Annotated[int, Range(0, 64)]
BatchSize = Annotated[int, Range(1, 1024)]


def bounds(kind: Any) -> dict[str, Any]:
    """A range as options of the command line take it.

    >>> bounds(Share)
    {'min': 0, 'max': 1}
    """
    low, high = next(part for part in kind.__metadata__ if isinstance(part, Range))
    return {"min": low, "max": high}


def check_bounds(config: Any) -> None:
    """Raise DeepsepError for a setting out of its range, or NaN."""
    for name, (low, high) in ranges_of(type(config)).items():  # type: ignore[arg-type]
        value = getattr(config, name)
        numbers = value if isinstance(value, tuple) else [] if value is None else [value]
        if len(numbers) > LONGEST:
            raise DeepsepError(f"{name} has {len(numbers)} values; give at most {LONGEST}")
        for number in numbers:
            if not low <= number <= high:
                raise DeepsepError(f"{name} must lie between {low:g} and {high:g}, got {number!r:.40}")


@lru_cache(maxsize=32)
def ranges_of(kind: type) -> dict[str, Range]:
    """The range of each setting that has one; of one that may be None too."""
    hints = get_type_hints(kind, include_extras=True)
    found: dict[str, Range] = {}
    for name in (f.name for f in fields(kind)):
        for part in (hints[name], *get_args(hints[name])):
            limits = [m for m in getattr(part, "__metadata__", ()) if isinstance(m, Range)]
            found |= {name: limits[0]} if limits else {}
    return found
