"""Configurations as plain JSON values, and back."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any, TypeVar

from ..errors import DeepsepError

__all__ = ["from_dict", "to_dict"]

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """Write a configuration as plain JSON values."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}


def from_dict(kind: type[T], raw: dict[str, Any]) -> T:
    """Build a configuration from plain values; DeepsepError for keys it does not know."""
    if not isinstance(raw, dict):
        raise DeepsepError(f"{kind.__name__} must be a table of settings, found {type(raw).__name__}")
    names = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(raw.keys() - names):
        raise DeepsepError(f"unknown {kind.__name__} settings: {', '.join(unknown)}")
    try:
        return kind(**raw)
    except (TypeError, ValueError) as error:
        raise DeepsepError(f"{kind.__name__} cannot be built: {error}") from error
