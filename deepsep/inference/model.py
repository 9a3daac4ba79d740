"""What a separation needs of a priors folder, in memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from torch import nn

from ..flows.flow import Flow
from .domain import Domain
from .encoder import AmortizedPosterior

__all__ = ["LazyPriors", "Model", "ModelInfo", "Origin"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a prior came from: "bundled", a folder or org/name, and the commit of what came from the Hub."""

    priors: str
    commit: str | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a model's weights: where they came from, and under which licence, by source.

    `weights` is one hash of all of them, a folder's too, which has no commit.
    """

    name: str = ""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    licences: Mapping[str, str] = field(default_factory=dict)
    weights: str = ""


class LazyPriors(Mapping[str, Flow]):
    """Priors by source, each loaded when it is first asked for: an encoder alone separates without them."""

    def __init__(self, loaders: Mapping[str, Callable[[], Flow]]) -> None:
        self.loaders = dict(loaders)
        self.loaded: dict[str, Flow] = {}

    def __getitem__(self, source: str) -> Flow:
        if source not in self.loaded:
            self.loaded[source] = self.loaders[source]()
        return self.loaded[source]

    def __iter__(self) -> Iterator[str]:
        return iter(self.loaders)

    def __len__(self) -> int:
        return len(self.loaders)


@dataclass(frozen=True, slots=True)
class Model:
    """A domain, a prior for each source in order, and perhaps an encoder for just these sources."""

    domain: Domain
    priors: Mapping[str, Flow]
    encoder: AmortizedPosterior | None = None
    info: ModelInfo = field(default_factory=ModelInfo)

    @property
    def sources(self) -> list[str]:
        """The instruments, in order."""
        return list(self.priors)

    def to(self, device: str) -> Model:
        """This model on a device: itself where it is there already, else a copy."""
        some: nn.Module = self.encoder or next(iter(self.priors.values()))
        weight = next(some.parameters())
        if weight.device == weight.to(device).device:
            return self
        priors = LazyPriors({source: partial(moved, self.priors, source, device) for source in self.priors})
        encoder = copy.deepcopy(self.encoder).to(device) if self.encoder is not None else None
        return replace(self, priors=priors, encoder=encoder)


def moved(priors: Mapping[str, Flow], source: str, device: str) -> Flow:
    """Copy a prior to a device."""
    return copy.deepcopy(priors[source]).to(device)
