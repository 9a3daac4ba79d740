"""Configurations as plain JSON values, and back: whatever a file says is checked before anything is built of it."""

from __future__ import annotations

import json
import reprlib
from dataclasses import asdict, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, get_type_hints

from ..errors import DeepsepError

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["from_dict", "is_number", "is_whole", "parse_json", "shorten", "to_dict"]

MAX_DEPTH = 32  # tables and lists within one another: far above any real file, far below Python's stack

MAX_DIGITS = 1000  # the largest float has 309

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """Write a configuration as plain JSON values."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}


def from_dict(kind: type[T], raw: dict[str, Any]) -> T:
    """Build a configuration from plain values.

    Raises DeepsepError for keys that it does not know, and for values of another type than its annotations say, out
    of their bounds, NaN or infinite.
    """
    if not isinstance(raw, dict):
        raise DeepsepError(f"{kind.__name__} must be a table of settings, found {type(raw).__name__}")
    names = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(raw.keys() - names):
        raise DeepsepError(f"unknown {kind.__name__} settings: {shorten(', '.join(unknown))}")
    from pydantic import ValidationError

    values = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    try:
        schema_of(kind).model_validate(values)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = " ".join(map(str, first["loc"]))
        told = first["msg"].removeprefix("Input ")
        raise DeepsepError(f"{kind.__name__}: {where} {told}, found {shorten(first['input'])}") from None
    return kind(**values)


def parse_json(text: str | bytes, *, finite: bool = False) -> Any:
    """Read JSON of bounded depth, its whole numbers of at most 1,000 digits.

    Raises ValueError for anything else, and where `finite` for NaN and Infinity.
    """
    try:
        found = json.loads(text, parse_int=read_whole, parse_constant=refuse_constant if finite else None)
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from None
    level = [found]
    for _ in range(MAX_DEPTH):
        tables = [item for item in level if isinstance(item, (dict, list))]
        level = [v for item in tables for v in (item.values() if isinstance(item, dict) else item)]
    if level:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    return found


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a JSON value is a whole number; true and false, which Python takes for 1 and 0, are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a JSON value is a number."""
    return is_whole(value) or isinstance(value, float)


def read_whole(digits: str) -> int:
    """A whole number of JSON; one with more digits than a float can have takes Python long, or is refused by it."""
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"it has a number of {len(digits)} digits")
    return int(digits)


def refuse_constant(name: str) -> float:
    """For NaN and Infinity, which Python's parser takes and the standard does not know."""
    raise ValueError(f"{name} is no JSON")


def shorten(value: object) -> str:
    """Write a value from outside in at most 80 printable characters; text without its quotes."""
    text = reprlib.Repr().repr(value) if not isinstance(value, str) else repr(value)[1:-1]
    return text if len(text) <= 80 else text[:77] + "..."


@lru_cache(maxsize=32)
def schema_of(kind: type) -> type[BaseModel]:
    """What a configuration's annotations ask of plain values, as pydantic checks it."""
    from pydantic import ConfigDict, create_model  # on first use: --help does without it

    hints = get_type_hints(kind, include_extras=True)
    strict = ConfigDict(strict=True, allow_inf_nan=False, protected_namespaces=())
    settings: dict[str, Any] = {name: (hint, None) for name, hint in hints.items()}
    return create_model(kind.__name__, __config__=strict, **settings)
