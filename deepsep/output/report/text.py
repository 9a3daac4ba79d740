"""Text of the page: values as a person reads them, escaped for HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape

import numpy as np

__all__ = ["channel_text", "clock", "duration", "script_json", "table"]


def table(caption: str, values: Mapping[str, object]) -> str:
    """An HTML table of names and values; nothing when there are none."""
    if not values:
        return ""
    rows = "".join(
        f'<tr><th scope="row" dir="auto">{escape(str(name))}</th><td dir="auto">{value_html(value)}</td></tr>'
        for name, value in values.items()
    )
    return f"<table><caption>{caption}</caption><tbody>{rows}</tbody></table>"


def value_html(value: object) -> str:
    """A value as HTML: mappings and sequences with all they hold, numbers to six digits."""
    if isinstance(value, Mapping):
        return "<br>".join(
            f"<span>{escape(str(name))}:</span> {value_html(part)}" for name, part in value.items()
        )
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(value_html(part) for part in value)
    if value is None:
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    return escape(str(value))


def script_json(data: object) -> str:
    """JSON for a script element, which nothing in it can end."""
    text = json.dumps(data, ensure_ascii=True)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def clock(seconds: float) -> str:
    """A time in the track: "3:05", "1:00:00"."""
    whole = int(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def duration(seconds: float) -> str:
    """How long something took: "12.3 s", "4.5 min"."""
    return f"{seconds:.3g}\u00a0s" if seconds < 100 else f"{seconds / 60:.3g}\u00a0min"


def channel_text(count: int) -> str:
    """How many channels the track has, as the page names it."""
    return {1: "mono", 2: "stereo"}.get(count, f"{count} channels, folded to stereo here")
