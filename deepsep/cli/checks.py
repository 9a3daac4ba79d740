"""What is wrong with the options of `deepsep separate`, before any work."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..config import BatchSize, BitDepth, Format, Method, bounds, ranges
from ..errors import MissingExtra
from .common import as_usage, clock_seconds, refuse_idle, usage

if TYPE_CHECKING:
    from ..audio.info import Part
    from ..output.library import Shard

__all__ = [
    "check_filename",
    "check_idle",
    "check_method",
    "check_pictures",
    "check_ray",
    "parse_batch_size",
    "parse_part",
    "parse_shard",
]

OF_SGLD = ("init", "steps", "levels", "sigma_max", "sigma_min", "gamma", "temperature", "chains")


def check_filename(pattern: str, draws: int) -> None:
    """Raise a usage mistake for a pattern that no track could use."""
    from ..output.paths import check_pattern

    with as_usage("--filename: "):
        check_pattern(pattern)
    if draws > 1 and "{sample}" not in pattern:
        raise usage(f"--samples {draws} needs {{sample}} in the pattern {pattern!r}")


def check_idle(typed: set[str], format: Format, bit_depth: BitDepth, draws: int) -> None:
    """Raise a usage mistake where an option that was typed would do nothing."""
    idle = {
        "bit_depth": (format not in ("wav", "flac"), f"{format} has no bit depth; leave --bit-depth out"),
        "bitrate": (format != "mp3", f"--bitrate is of mp3; use --format mp3, or leave it out of {format}"),
        "codec": (
            format != "stem",
            f"--codec is of stem files; use --format stem, or leave it out of {format}",
        ),
        "chains": (draws > 1, "--samples takes a chain for each sample; leave --chains out"),
    }
    for name, (useless, message) in idle.items():
        if name in typed and useless:
            raise usage(message)
    if format == "flac" and bit_depth == "float" and "bit_depth" in typed:
        raise usage("flac holds no floats; use --bit-depth 24 or 16, or --format wav")


def check_method(typed: set[str], method: Method) -> None:
    """Raise a usage mistake for an option of Langevin where the encoder separates."""
    way = "use --method sgld" if method == "encoder" else "these priors have an encoder; add --method sgld"
    refuse_idle(typed, OF_SGLD, f"is of Langevin and does nothing here; {way}")


def check_pictures() -> None:
    """Raise MissingExtra unless pictures can be drawn."""
    if find_spec("matplotlib") is None:
        raise MissingExtra(
            "the picture of --uncertainty needs matplotlib; run `pipx inject deepsep matplotlib` or "
            '`pip install "deepsep[plot]"`'
        )


def check_ray(inputs: Sequence[str], device: str) -> None:
    """Raise a usage mistake for what a cluster cannot do, and MissingExtra without Ray."""
    if "-" in inputs or device not in ("auto", "cpu", "cuda"):
        raise usage("--ray separates files, on --device auto, cpu or cuda")
    if find_spec("ray") is None:
        raise MissingExtra('--ray needs Ray: pip install "deepsep[ray]"')


def parse_batch_size(text: str) -> BatchSize:
    """Read --batch-size."""
    low, high = bounds(ranges.BatchSize).values()
    if text == "auto":
        return "auto"
    if re.fullmatch(r"\d{1,9}", text) and low <= int(text) <= high:
        return int(text)
    raise usage(f"--batch-size takes auto, or a number from {low:g} to {high:g}, got {text!r:.40}")


def parse_part(start: str | None, end: str | None) -> Part:
    """Read --start and --end; a usage mistake where nothing lies between them."""
    from ..audio.info import Part

    part = Part(clock_seconds(start, "--start") or 0.0, clock_seconds(end, "--end"))
    if part.end is not None and part.end <= part.start:
        raise usage(f"--end {end} is not after {f'--start {start}' if start else 'the start'}")
    return part


def parse_shard(text: str | None) -> Shard | None:
    """Read --shard; None stays None."""
    from ..output.library import Shard

    if text is None:
        return None
    with as_usage("--shard: "):
        return Shard.parse(text)
