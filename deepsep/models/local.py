"""The priors on this machine: those in the package and those in the Hub cache. No network, no torch."""

from __future__ import annotations

from typing import Any

from ..errors import DeepsepError
from . import card, files, hub

__all__ = ["facts_of", "local_priors"]


def facts_of(found: hub.Resolved) -> dict[str, Any]:
    """What is known of resolved priors: where they are and what their config.json says."""
    facts = card.describe(files.read_json(found.folder))
    complete = bool(facts["files"]) and all((found.folder / name).is_file() for name in facts["files"])
    place = {"name": found.name, "kind": found.kind, "commit": found.commit, "folder": str(found.folder)}
    return {**place, "complete": complete, **facts}


def local_priors(*, cache: bool = True) -> list[dict[str, Any]]:
    """The facts of the bundled priors and of every commit in the Hub cache; `size` is what lies on disk.

    Without `cache`, the bundled ones alone. Raises DeepsepError where the Hub client's environment, or its cache,
    cannot be read.
    """
    rows = []
    try:
        bundled = hub.resolve("bundled")
        rows.append(facts_of(bundled))
    except DeepsepError:
        pass  # an installation without them
    for found in hub.cached() if cache else ():
        here = hub.Resolved(name=found.repo, folder=found.path, commit=found.commit, kind="hub")
        rows.append({**facts_of(here), "size": found.size})
    return rows
