"""Every setting and its default, once. Frozen, keyword-only, checked when built; no torch here."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

from .errors import DeepsepError

__all__ = [
    "DOMAINS",
    "OBJECTIVES",
    "SURE_CHAINS",
    "WAVEFORM_SGLD",
    "EncoderConfig",
    "FlowConfig",
    "SgldConfig",
    "SpectrumConfig",
    "TrainConfig",
    "WaveformConfig",
    "WaveformEncoderConfig",
    "WaveformFlowConfig",
    "default_sgld",
    "from_dict",
    "to_dict",
]

T = TypeVar("T")

DOMAINS = ("spectral", "waveform")  # what priors are densities of
OBJECTIVES = ("both", "simulated", "elbo")  # of an encoder

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


MASKS = ("channel", "checkerboard", "alternate")
SHUFFLES = ("conv", "flip")


@dataclass(frozen=True, kw_only=True, slots=True)
class WaveformConfig:
    """The time domain: at which rate priors hear samples, how many at a time, and at which level."""

    rate: int = 14700
    window: int = 512  # samples of a training example, and of a window in separation
    level: str = "relative"  # to a mixture of RMS 1; "absolute" takes samples as they are

    def __post_init__(self) -> None:
        if self.window < 64 or self.window % 64:
            raise DeepsepError(f"a window must be a multiple of 64 samples, got {self.window}")
        if self.rate < 1 or self.level not in ("relative", "absolute"):
            raise DeepsepError(
                f"a waveform has a positive rate and a relative or absolute level, got {self.rate}, {self.level}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class WaveformFlowConfig:
    """A noise-conditional flow prior on samples (1, t): blocks of a squeeze, flows, and a split (FloWaveNet)."""

    squeeze: tuple[int, ...] = (16,)  # factor of each block, time into channels
    flows: int = 6  # of each block: ActNorm, shuffle, affine coupling
    mask: str = "channel"  # what a coupling is given: channels, frames (checkerboard), or either in turn
    shuffle: str = (
        "conv"  # before each coupling: invertible 1x1 convolution, or flip, the even/odd mask inverted
    )
    split: bool = (
        False  # after each block but the last, half the channels leave, with learned mean and variance
    )
    hidden: int = 64
    layers: int = 5
    kernel: int = 3
    log_scale_bound: float = 3.0
    sigma_min: float = 0.01
    sigma_max: float = 6.0
    bands: int = 293  # of the mean spectrum that is kept for the stationary Wiener filter

    def __post_init__(self) -> None:
        object.__setattr__(self, "squeeze", tuple(self.squeeze))
        if not self.squeeze or min(self.squeeze) < 1 or self.squeeze[0] < 2:
            raise DeepsepError(
                "a waveform flow needs one or more blocks, the first of a squeeze of 2 or more"
            )
        if min(self.flows, self.hidden, self.layers, self.kernel) < 1:
            raise DeepsepError("a waveform flow needs 1 or more flows, layers and hidden units")
        if self.mask not in MASKS or self.shuffle not in SHUFFLES:
            raise DeepsepError(
                f"a flow's mask is one of {', '.join(MASKS)}, its shuffle {' or '.join(SHUFFLES)}"
            )
        if min(self.channels()) < 2:
            raise DeepsepError("the splits leave a block of one channel; squeeze more, or split less")
        if not 0 < self.sigma_min < self.sigma_max:
            raise DeepsepError(
                f"noise levels must be 0 < min < max, got {self.sigma_min:g} and {self.sigma_max:g}"
            )

    def channels(self) -> list[int]:
        """Channels of each block."""
        found, width = [], 1
        for factor in self.squeeze:
            width *= factor
            found.append(width)
            width = width // 2 if self.split else width
        return found

    @property
    def multiple(self) -> int:
        """What the number of samples must be a multiple of."""
        return math.prod(self.squeeze)


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
class WaveformEncoderConfig:
    """The amortized posterior q(s_1..s_K | m) on samples: one non-causal WaveNet on frames of `squeeze` samples."""

    squeeze: int = 16
    hidden: int = 128
    layers: int = 12  # dilations 1, 2, 4... of `cycle` layers, then again from 1
    cycle: int = 6
    kernel: int = 3

    def __post_init__(self) -> None:
        if min(self.squeeze, self.hidden, self.layers, self.cycle, self.kernel) < 1:
            raise DeepsepError("a waveform encoder needs 1 or more layers, hidden units and samples a frame")


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
    average: int = 8  # late iterates whose Wiener estimates are averaged
    alpha: float = 1.0  # exponent of the magnitudes whose ratios are the gains; 2 is Wiener's
    pool: float = 0.4  # weight of a chain that the encoder started, against the encoder's own estimate
    gamma: float = 1.0  # width of the constraint on a sum of samples, in units of sigma; 0 keeps it exactly
    largest_move: float | None = 1.0  # of any coordinate in one step, in units of x
    largest_in_sigma: float | None = None  # and in units of sigma
    denoise: bool = True  # the mixture speaks of the denoised sources (Posterior), not of the chain's own

    @property
    def burn_in(self) -> int:
        """Steps before those that are averaged."""
        return max(0, self.levels * self.steps - self.average)

    def __post_init__(self) -> None:
        if min(self.levels, self.steps, self.chains, self.average) < 1:
            raise DeepsepError("levels, steps, chains and average of SGLD must be at least 1")
        if not 0 < self.sigma_min <= self.sigma_max:
            raise DeepsepError(
                f"noise levels must be 0 < min <= max, got {self.sigma_min:g} and {self.sigma_max:g}"
            )
        if not 0 < self.step_size < 2:
            raise DeepsepError(f"the step size must lie between 0 and 2, got {self.step_size:g}")
        if any(bound is not None and bound <= 0 for bound in (self.largest_move, self.largest_in_sigma)):
            raise DeepsepError("the largest move of SGLD must be more than 0")
        if not 0 <= self.pool <= 1:
            raise DeepsepError(f"the weight of a pooled chain must lie between 0 and 1, got {self.pool:g}")
        if not self.alpha > 0:
            raise DeepsepError(f"the exponent of the magnitudes must be more than 0, got {self.alpha:g}")
        if self.temperature < 0 or self.likelihood < 0 or self.gamma < 0:
            raise DeepsepError("temperature, likelihood weight and gamma must not be negative")


# SGLD on samples: from noise that hides every note down to what priors can tell. At a whole step, a temperature of a
# half keeps the noise of a chain at sigma: x + (denoised - x) + sigma eps.
WAVEFORM_SGLD = SgldConfig(
    levels=40,
    steps=4,
    sigma_max=5.0,
    sigma_min=0.05,
    step_size=1.0,
    temperature=0.5,
    chains=8,
    average=1,
    largest_move=None,
    largest_in_sigma=6.0,
)


def default_sgld(
    *, draws: bool = False, uncertainty: bool = False, waveform: bool = False, from_encoder: bool = False
) -> SgldConfig:
    """SGLD where nobody says how: draws and their spread need the posterior itself, the spread some chains.

    Priors of samples have their own way, for draws too; what an encoder has found there, full noise would undo.
    """
    if waveform:
        return replace(WAVEFORM_SGLD, sigma_max=0.5, levels=20) if from_encoder else WAVEFORM_SGLD
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
