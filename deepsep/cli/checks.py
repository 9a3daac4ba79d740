"""What is wrong with the options of `deepsep separate`, before any work."""

from __future__ import annotations

import re

from ..config import BatchSize, BitDepth, Format, Method, bounds, ranges
from .common import as_usage, refuse_idle, usage

__all__ = ["check_filename", "check_idle", "check_method", "parse_batch_size"]

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


def parse_batch_size(text: str) -> BatchSize:
    """Read --batch-size."""
    low, high = bounds(ranges.BatchSize).values()
    if text == "auto":
        return "auto"
    if re.fullmatch(r"\d{1,9}", text) and low <= int(text) <= high:
        return int(text)
    raise usage(f"--batch-size takes auto, or a number from {low:g} to {high:g}, got {text!r:.40}")
