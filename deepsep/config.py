"""Every setting and its default, once. Frozen, keyword-only, checked when built; no torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from .errors import DeepsepError

__all__ = [
    "SURE_CHAINS",
    "EncoderConfig",
    "FlowConfig",
    "SgldConfig",
    "SpectrumConfig",
    "TrainConfig",
    "default_sgld",
    "from_dict",
    "to_dict",
]

T = TypeVar("T")

SURE_CHAINS = 4  # from which a spread is told where nobody says how many


@dataclass(frozen=True, kw_only=True, slots=True)
class SpectrumConfig:
    """The STFT, its bands, and the affine map from log band power to the unit x that the flows model."""

    rate: int = 44100
    n_fft: int = 4096  # Hann window; the hop is a quarter of it
    single_bins: int = 64  # bands of one bin up to here, then of width bin / single_bins
    floor_db: float = -72.0  # added to every band power, relative to a mixture of RMS 1
    shift: float = -8.0  # x = (ln(power + floor) - shift) / scale
    scale: float = 4.0

    def __post_init__(self) -> None:
        if self.n_fft % 4 or self.n_fft < 64:
            raise DeepsepError(f"n_fft must be a multiple of 4 and at least 64, got {self.n_fft}")
        if self.scale <= 0 or self.single_bins < 1 or self.rate < 1:
            raise DeepsepError("scale, single_bins and rate of a spectrum must be positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowConfig:
    """A noise-conditional flow prior on (d, n): d channels (bands), n frames."""

    channels: int = 293
    steps: int = 8  # flow steps: ActNorm, invertible 1x1 convolution, affine coupling
    hidden: int = 96  # width of each coupling's WaveNet
    layers: int = 3  # dilated layers of each WaveNet, dilation 2**i
    kernel: int = 3
    log_scale_bound: float = 2.0  # |log s| of a coupling stays below
    sigma_min: float = 0.1
    sigma_max: float = 2.0

    def __post_init__(self) -> None:
        if min(self.channels - 1, self.steps, self.hidden, self.layers, self.kernel) < 1:
            raise DeepsepError("a flow needs 2 or more channels and 1 or more steps, layers and hidden units")
        if not 0 < self.sigma_min < self.sigma_max:
            raise DeepsepError(
                f"noise levels must be 0 < min < max, got {self.sigma_min:g} and {self.sigma_max:g}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """The amortized posterior q(x_1..x_K | m): a U-Net over bands and frames."""

    bands: int = 293
    widths: tuple[int, ...] = (32, 64, 128)  # channels of each level; each halves bands and frames
    bottleneck: int = 32  # hidden units of the dense layers along the bands
    deep: int = 0  # further residual blocks at the deepest level, for a longer view
    context: int = 64  # frames on either side that an estimate is given

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        if not self.widths or min(self.widths) < 1:
            raise DeepsepError("an encoder needs one or more levels of one or more channels")
        if self.deep < 0:
            raise DeepsepError("an encoder cannot have fewer than no deep blocks")
        if self.context % 2 ** len(self.widths) or self.context < self.reach:
            raise DeepsepError(
                f"context must be a multiple of {2 ** len(self.widths)} frames and at least {self.reach}"
            )

    @property
    def reach(self) -> int:
        """How many frames to either side an estimate depends on, at most."""
        *upper, deepest = (2 << i for i in range(len(self.widths)))  # frames to a step of each level
        wide = 3 + sum(2 + i % 2 for i in range(self.deep))  # steps that dilated convolutions reach
        return 3 + 5 * sum(upper) + wide * deepest


@dataclass(frozen=True, kw_only=True, slots=True)
class SgldConfig:
    """Annealed stochastic gradient Langevin dynamics (thesis Algorithm 2, corrected)."""

    levels: int = 6  # noise levels, geometric from sigma_max to sigma_min
    steps: int = 2  # Langevin steps a level
    sigma_max: float = 1.0
    sigma_min: float = 0.5
    step_size: float = 1.0  # delta: eta = delta / precision, delta * sigma^2 under the prior alone
    temperature: float = 0.5  # scales the noise: 1 samples the posterior, 0 climbs to a mode
    likelihood: float = 1.0  # beta: tempers the mixture's log-likelihood
    chains: int = 1  # independent chains, averaged
    average: int = 5  # late iterates whose Wiener estimates are averaged
    alpha: float = 1.0  # exponent of the magnitudes whose ratios are the gains; 2 is Wiener's
    pool: float = 0.4  # weight of a chain that the encoder started, against the encoder's own estimate

    def __post_init__(self) -> None:
        if min(self.levels, self.steps, self.chains, self.average) < 1:
            raise DeepsepError("levels, steps, chains and average of SGLD must be at least 1")
        if not 0 < self.sigma_min <= self.sigma_max:
            raise DeepsepError(
                f"noise levels must be 0 < min <= max, got {self.sigma_min:g} and {self.sigma_max:g}"
            )
        if not 0 < self.step_size < 2:
            raise DeepsepError(f"the step size must lie between 0 and 2, got {self.step_size:g}")
        if not 0 <= self.pool <= 1:
            raise DeepsepError(f"the weight of a pooled chain must lie between 0 and 1, got {self.pool:g}")
        if not self.alpha > 0:
            raise DeepsepError(f"the exponent of the magnitudes must be more than 0, got {self.alpha:g}")
        if self.temperature < 0 or self.likelihood < 0:
            raise DeepsepError("temperature and likelihood weight must not be negative")


def default_sgld(*, draws: bool = False, uncertainty: bool = False) -> SgldConfig:
    """SGLD where nobody says how: draws and their spread need the posterior itself, the spread some chains."""
    best = SgldConfig()
    return SgldConfig(
        temperature=1.0 if draws or uncertainty else best.temperature,
        chains=SURE_CHAINS if uncertainty else best.chains,
        pool=1.0 if draws or uncertainty else best.pool,
        alpha=2.0 if draws or uncertainty else best.alpha,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run; it ends at `steps` or after `minutes`, whichever comes first."""

    steps: int = 20000
    minutes: float = float("inf")
    batch: int = 16
    frames: int = 128
    lr: float = 1e-3
    warmup: int = 200
    ema: float = 0.999
    clip_norm: float = 5.0
    save_minutes: float = 5.0
    seed: int = 0
    bf16: bool = False

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.frames) < 1 or self.minutes <= 0 or self.lr <= 0:
            raise DeepsepError("steps, minutes, batch, frames and learning rate must be positive")
        if not 0 <= self.ema < 1:
            raise DeepsepError(f"ema must lie in [0, 1), got {self.ema:g}")


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON values."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(config).items()}


def from_dict(kind: type[T], raw: dict[str, Any]) -> T:
    """A configuration from plain values; raises DeepsepError for keys it does not know."""
    if not isinstance(raw, dict):
        raise DeepsepError(f"{kind.__name__} must be a table of settings, found {type(raw).__name__}")
    names = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(raw.keys() - names):
        raise DeepsepError(f"unknown {kind.__name__} settings: {', '.join(unknown)}")
    try:
        return kind(**raw)
    except (TypeError, ValueError) as error:
        raise DeepsepError(f"{kind.__name__} cannot be built: {error}") from error
