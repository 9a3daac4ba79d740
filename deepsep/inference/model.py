"""What a separation needs of a priors folder, in memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..flows.flow import Flow
from .domain import Domain
from .encoder import AmortizedPosterior

__all__ = ["Model", "ModelInfo", "Origin"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a prior came from: "bundled", a folder or org/name, and the commit of what came from the Hub."""

    priors: str
    commit: str | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a model's weights: where they came from, and under which licence, by source."""

    name: str = ""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    licences: Mapping[str, str] = field(default_factory=dict)


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
        first = next(iter(self.priors.values()))
        if first.whitening.mean.device == first.whitening.mean.to(device).device:
            return self
        priors = {source: copy.deepcopy(flow).to(device) for source, flow in self.priors.items()}
        encoder = copy.deepcopy(self.encoder).to(device) if self.encoder is not None else None
        return replace(self, priors=priors, encoder=encoder)
