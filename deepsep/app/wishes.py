"""What a person asks of a song, as the page sends it and the store keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Any

from ..config import (
    BIT_DEPTH,
    BUNDLED,
    CODEC,
    FORMAT,
    METHOD,
    MP3_KBPS,
    BitDepth,
    Codec,
    Format,
    Method,
    from_dict,
    to_dict,
)
from ..config.ranges import Range, check_bounds
from ..errors import DeepsepError, MissingExtra
from ..models.local import local_priors

__all__ = ["MOST_SAMPLES", "Wishes", "check", "check_pictures", "choices"]

MOST_SAMPLES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """Options of `deepsep separate`, by their names there; `stems` is empty for all of them."""

    priors: str = BUNDLED
    method: Method = METHOD
    stems: tuple[str, ...] = ()
    two_stems: str | None = None
    format: Format = FORMAT
    bit_depth: BitDepth = BIT_DEPTH
    bitrate: Annotated[int, Range(8, 320)] = MP3_KBPS
    codec: Codec = CODEC
    samples: Annotated[int, Range(1, MOST_SAMPLES)] = 1
    uncertainty: bool = False

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.stems and self.two_stems:
            raise DeepsepError("choose some stems, or one stem and the rest, but not both")


def choices() -> dict[str, Any]:
    """What the page offers: the priors on this machine, the defaults, and what is not installed."""
    priors = []
    for row in local_priors():
        if row["complete"]:
            spec = f"{row['name']}@{row['commit']}" if row["commit"] else row["name"]
            label = f"{row['name']} @ {row['commit'][:7]}" if row["commit"] else row["name"]
            encoder = set(row["encoder"] or ()) == set(row["sources"])
            priors.append({"spec": spec, "label": label, "sources": row["sources"], "encoder": encoder})
    return {
        "priors": priors,
        "defaults": to_dict(Wishes()),
        "most_samples": MOST_SAMPLES,
        "pictures": can_draw(),
    }


def check(raw: Any, priors: Sequence[Mapping[str, Any]]) -> Wishes:
    """What the page sent, if it can be done with these priors (those of `choices`). Raises DeepsepError."""
    wishes = from_dict(Wishes, raw)
    found = next((row for row in priors if row["spec"] == wishes.priors), None)
    if found is None:
        raise DeepsepError(f"no priors {wishes.priors!r} on this machine; reload the page and choose others")
    for name in (*wishes.stems, *([wishes.two_stems] if wishes.two_stems else ())):
        if name not in found["sources"]:
            raise DeepsepError(f"unknown source {name!r}; these priors have {', '.join(found['sources'])}")
    if wishes.method == "encoder" and not found["encoder"]:
        raise DeepsepError("these priors have no encoder for their sources; choose Langevin")
    if wishes.format == "stem":
        from ..output import ni_stem

        stems = wishes.stems or (wishes.two_stems and 2 * [wishes.two_stems]) or found["sources"]
        ni_stem.check(stems, 2, codec=wishes.codec)
    if wishes.uncertainty:
        check_pictures()
    return wishes


def can_draw() -> bool:
    """Whether pictures can be drawn."""
    return find_spec("matplotlib") is not None


def check_pictures() -> None:
    """Raise MissingExtra unless pictures can be drawn."""
    if not can_draw():
        raise MissingExtra(
            'the picture of the uncertainty needs matplotlib; run `pip install "deepsep[plot]"`'
        )
