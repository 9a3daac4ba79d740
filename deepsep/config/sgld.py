"""The settings of the sampler, one class for each domain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from ..errors import DeepsepError
from .ranges import (
    Chains,
    Exponent,
    Gamma,
    Iterates,
    Levels,
    NoiseLevel,
    SgldSteps,
    Share,
    Temperature,
    Weight,
    check_bounds,
)

__all__ = [
    "SURE_CHAINS",
    "SgldConfig",
    "SpectralSgldConfig",
    "WaveformSgldConfig",
    "changed",
    "fits_some_domain",
]

SURE_CHAINS = 4  # SGLD chains that an uncertainty is estimated from by default


@dataclass(frozen=True, kw_only=True, slots=True)
class SgldConfig:
    """Annealed stochastic gradient Langevin dynamics (thesis Algorithm 2, corrected): what every domain's has."""

    levels: Levels = 6  # noise levels, geometric from sigma_max to sigma_min
    steps: SgldSteps = 2  # Langevin steps a level
    sigma_max: NoiseLevel = 1.0
    sigma_min: NoiseLevel = 0.5
    step_size: float = 1.0  # delta: eta = delta / precision, delta * sigma^2 under the prior alone
    temperature: Temperature = 0.5  # scales the noise: 1 samples the posterior, 0 climbs to a mode
    likelihood: Weight = 1.0  # beta: tempers the mixture's log-likelihood
    chains: Chains = 1  # independent chains
    average: Iterates = 8  # last iterates whose estimates are averaged

    @property
    def burn_in(self) -> int:
        """Steps before those that are averaged."""
        return max(0, self.levels * self.steps - self.average)

    def largest_move(self, sigma: float) -> float:
        """The most that the score may move a coordinate in one step at a noise level."""
        return math.inf

    def __post_init__(self) -> None:
        if min(self.levels, self.steps, self.chains, self.average) < 1:
            raise DeepsepError("levels, steps, chains and average of SGLD must be at least 1")
        if not 0 < self.sigma_min <= self.sigma_max:
            raise DeepsepError(
                f"noise levels must be 0 < min <= max, got {self.sigma_min:g} and {self.sigma_max:g}"
            )
        if not 0 < self.step_size < 2:
            raise DeepsepError(f"the step size must lie between 0 and 2, got {self.step_size:g}")
        if self.temperature < 0 or self.likelihood < 0:
            raise DeepsepError("temperature and likelihood weight must not be negative")
        check_bounds(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class SpectralSgldConfig(SgldConfig):
    """SGLD on log band powers x; its chains are averaged, two and two with mirrored noise (`mirrored_noise`)."""

    steps: SgldSteps = 1
    temperature: Temperature = 0.2
    likelihood: Weight = 1.25
    chains: Chains = 2
    average: Iterates = 5
    alpha: Exponent = 1.1  # exponent of the magnitudes whose ratios are the gains; 2 is Wiener's
    pool: Share = 0.4  # weight of a chain that the encoder started, against the encoder's own estimate
    largest: Weight = 1.0  # move of any coordinate of x in one step

    @classmethod
    def default(
        cls, *, draws: bool = False, uncertainty: bool = False, from_encoder: bool = False
    ) -> SpectralSgldConfig:
        """The settings for a task: draws and their spread need samples of the posterior itself, so longer chains.

        From an encoder's estimate the sources' powers are surer, and are shared out more sharply.
        """
        if not (draws or uncertainty):
            return cls(alpha=1.4) if from_encoder else cls()
        chains = SURE_CHAINS if uncertainty else 1
        return cls(temperature=1.0, likelihood=1.0, pool=1.0, alpha=2.0, steps=2, average=8, chains=chains)

    def largest_move(self, sigma: float) -> float:
        """The same at every noise level."""
        return self.largest

    def __post_init__(self) -> None:
        SgldConfig.__post_init__(self)
        if not 0 <= self.pool <= 1:
            raise DeepsepError(f"the weight of a pooled chain must lie between 0 and 1, got {self.pool:g}")
        if not self.alpha > 0:
            raise DeepsepError(f"the exponent of the magnitudes must be more than 0, got {self.alpha:g}")
        if not self.largest > 0:
            raise DeepsepError("the largest move of SGLD must be more than 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class WaveformSgldConfig(SgldConfig):
    """SGLD on samples, from noise that hides every note; the likeliest of its chains is kept.

    At a whole step, a temperature of a half keeps the noise of a chain at sigma: x + (denoised - x) + sigma eps.
    """

    levels: Levels = 40
    steps: SgldSteps = 4
    sigma_max: NoiseLevel = 5.0
    sigma_min: NoiseLevel = 0.05
    chains: Chains = 8
    average: Iterates = 1
    gamma: Gamma = (
        1.0  # width of the constraint that sources sum to the mixture, in sigma; 0 keeps it exactly
    )
    denoise: bool = True  # the mixture constrains the denoised sources (Posterior), not the chain's own
    largest_in_sigma: Weight = 6.0  # move of any coordinate in one step, in units of sigma

    @classmethod
    def default(
        cls, *, draws: bool = False, uncertainty: bool = False, from_encoder: bool = False
    ) -> WaveformSgldConfig:
        """The settings for a task: from an encoder's estimate start low, since full noise would drown it."""
        return cls(sigma_max=0.5, levels=20) if from_encoder else cls()

    def largest_move(self, sigma: float) -> float:
        """In proportion to the noise level."""
        return self.largest_in_sigma * sigma

    def __post_init__(self) -> None:
        SgldConfig.__post_init__(self)
        if self.gamma < 0:
            raise DeepsepError(f"gamma must not be negative, got {self.gamma:g}")
        if not self.largest_in_sigma > 0:
            raise DeepsepError("the largest move of SGLD must be more than 0")


C = TypeVar("C", bound=SgldConfig)


def changed(config: C, options: Mapping[str, Any]) -> C:
    """The configuration with the options that are not None. DeepsepError for one that this domain does not have."""
    given = {name: value for name, value in options.items() if value is not None}
    known = {f.name for f in fields(config)}
    for name in given:
        if name not in known:
            raise DeepsepError(f"{name} is no setting of SGLD on these priors; leave it out")
    return replace(config, **given)


def fits_some_domain(options: Mapping[str, Any]) -> None:
    """Raise DeepsepError for options of SGLD that no kind of priors could use, before any is loaded."""
    errors = []
    for config in (SpectralSgldConfig(), WaveformSgldConfig(), WaveformSgldConfig.default(from_encoder=True)):
        try:
            changed(config, options)
        except DeepsepError as error:
            errors.append(error)
        else:
            return
    raise errors[-1 if options.get("gamma") is not None else 0]
