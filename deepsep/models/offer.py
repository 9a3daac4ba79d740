"""What a priors folder offers, as its config.json says: enough to plan a separation, and read without torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from ..config import DomainName, is_whole, shorten
from ..errors import DeepsepError
from . import files
from .hub import Resolved

__all__ = ["FORMAT", "Choice", "check_name", "choose", "read_config"]

FORMAT = 1
MOST_SOURCES = 64
DOMAINS = get_args(DomainName)


class Choice(NamedTuple):
    """Sources in order, those of them whose prior is the folder's own, and whether its encoder is for just these."""

    sources: list[str]
    own: list[str]
    encoder: bool


RESERVED = ("encoder", "contrast", "config")  # files of a priors folder and of its trainings


def check_name(source: Any) -> str:
    """A source's name must do as a file name and in a list: letters, digits, _ and -."""
    fits = isinstance(source, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", source)
    if not fits or source in RESERVED:
        raise DeepsepError(
            f"{shorten(source)!r} cannot name a source; use letters, digits, _ and - (such as vocals)"
        )
    return str(source)


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json and check its format. DeepsepError for one that is not of a priors folder."""
    config = files.read_json(folder)
    number = config.get("format")
    if not is_whole(number) or number < 1:
        raise DeepsepError(f"{folder}: not a priors folder, its config.json names no format")
    if number > FORMAT:
        raise DeepsepError(
            f"{folder}: format {shorten(number)}, this deepsep reads up to {FORMAT}; upgrade deepsep"
        )
    for key, kind in (("sources", list), ("spectrum", dict), ("files", dict), ("priors", dict)):
        if not isinstance(config.get(key), kind):
            raise DeepsepError(f"{folder}: config.json has no valid {key!r}")
    sources, encoder = config["sources"], config.get("encoder", {})
    if not 1 <= len(sources) <= MOST_SOURCES or not isinstance(encoder, dict):
        raise DeepsepError(
            f"{folder}: config.json lists no sources, more than {MOST_SOURCES}, or an encoder that is no table"
        )
    for name in sources:
        if not isinstance(config["priors"].get(check_name(name)), dict):
            raise DeepsepError(f"{folder}: config.json says nothing about the prior of {name}")
    made_for = encoder.get("sources", [])
    if not isinstance(made_for, list) or not all(isinstance(name, str) for name in made_for):
        raise DeepsepError(f"{folder}: config.json has an encoder whose sources are no names")
    if len(set(sources)) < len(sources) or len(set(made_for)) < len(made_for):
        raise DeepsepError(f"{folder}: config.json names a source twice")
    domain = config.setdefault("domain", DOMAINS[0])
    if not isinstance(domain, str) or domain not in DOMAINS:
        known = " and ".join(DOMAINS)
        raise DeepsepError(f"{folder}: priors of the domain {shorten(domain)!r}, this deepsep knows {known}")
    return config


def choose(base: Resolved, replaced: Mapping[str, str], sources: Sequence[str] | None) -> Choice:
    """Pick and order the sources of a folder and those replaced or added; by default all.

    Raises DeepsepError for a source that there is not, and for none at all.
    """
    config = read_config(base.folder)
    offered = list(dict.fromkeys([*config["sources"], *replaced]))
    if sources is not None and not sources:
        raise DeepsepError(f"no source is named; {base.name} has {', '.join(offered)}")
    names = list(dict.fromkeys(sources or offered))
    if unknown := [name for name in names if name not in offered]:
        raise DeepsepError(f"unknown source {unknown[0]!r}; {base.name} has {', '.join(offered)}")
    own = [name for name in names if name not in replaced]
    made_for = config.get("encoder", {}).get("sources", [])
    return Choice(names, own, own == names and bool(made_for) and sorted(made_for) == sorted(names))
