"""The STFT and its bands, and the shapes of the networks."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import DeepsepError
from .choices import Level, Mask, Shuffle, check_choice
from .ranges import (
    Bands,
    Bins,
    Context,
    Decibels,
    Deep,
    Depth,
    FftSize,
    Kernel,
    LogScaleBound,
    NoiseLevel,
    Rate,
    Scale,
    Shift,
    Width,
    Widths,
    Window,
    bounds,
    check_bounds,
)

__all__ = [
    "SpectralEncoderConfig",
    "SpectralFlowConfig",
    "SpectrumConfig",
    "WaveformConfig",
    "WaveformEncoderConfig",
    "WaveformFlowConfig",
]

LONGEST_WINDOW = 0.5  # seconds of an STFT
LONGEST_REACH = 1 << 16  # frames to either side that a stack of dilated layers sees
LONGEST_CONTEXT = bounds(Context)["max"]
LARGEST_PASS = 1 << 25  # bands x frames of context x channels of an encoder's first level; about 0.5 GB
SHORTEST_WINDOW = 0.002  # seconds of samples; shorter ones are too many
LARGEST_SQUEEZE = 1 << 16  # samples that become one frame


def check_reach(layers: int, kernel: int) -> None:
    """Raise DeepsepError for dilated layers that reach further than any signal they are given."""
    if layers > 16 or (kernel - 1) * 2**layers > 2 * LONGEST_REACH:
        raise DeepsepError(f"{layers} dilated layers of kernel {kernel} reach too far; take fewer")


@dataclass(frozen=True, kw_only=True, slots=True)
class SpectrumConfig:
    """The STFT, its bands, and the affine map from log band power to the unit x that the flows model."""

    rate: Rate = 44100
    n_fft: FftSize = 4096  # Hann window; the hop is a quarter of it
    single_bins: Bins = 64  # bands of one bin up to here, then of width bin / single_bins
    floor_db: Decibels = -72.0  # added to every band power, relative to a mixture of RMS 1
    shift: Shift = -8.0  # x = (ln(power + floor) - shift) / scale
    scale: Scale = 4.0

    def __post_init__(self) -> None:
        if self.n_fft % 4 or self.n_fft < 64:
            raise DeepsepError(f"n_fft must be a multiple of 4 and at least 64, got {self.n_fft}")
        if self.scale <= 0 or self.single_bins < 1 or self.rate < 1:
            raise DeepsepError("scale, single_bins and rate of a spectrum must be positive")
        if self.n_fft > LONGEST_WINDOW * self.rate:
            raise DeepsepError(
                f"n_fft of {self.n_fft} at {self.rate} Hz is more than {LONGEST_WINDOW:g} s; take a shorter window"
            )
        check_bounds(self)

    @property
    def band_edges(self) -> list[int]:
        """First bin of each band, and one past the last bin: width 1, then bin / single_bins."""
        bins = self.n_fft // 2 + 1
        edges = [0]
        while edges[-1] < bins:
            edges.append(min(bins, edges[-1] + max(1, round(edges[-1] / self.single_bins))))
        return edges

    @property
    def bands(self) -> int:
        """How many bands there are, which is the size of x."""
        return len(self.band_edges) - 1

    def check_bands(self, what: str, bands: int) -> None:
        """Raise DeepsepError unless a network has as many bands as the spectrum."""
        if bands != self.bands:
            raise DeepsepError(f"the {what} has {bands} bands, the spectrum {self.bands}; make them equal")


BANDS = SpectrumConfig().bands  # 293


@dataclass(frozen=True, kw_only=True, slots=True)
class SpectralFlowConfig:
    """A noise-conditional flow prior on x (d, n): d channels (bands), n frames."""

    channels: Bands = BANDS
    steps: Depth = 8  # flow steps: ActNorm, invertible 1x1 convolution, affine coupling
    hidden: Width = 96  # width of each coupling's WaveNet
    layers: Depth = 3  # dilated layers of each WaveNet, dilation 2**i
    kernel: Kernel = 3
    log_scale_bound: LogScaleBound = 2.0  # |log s| of a coupling stays below
    sigma_min: NoiseLevel = 0.1
    sigma_max: NoiseLevel = 2.0

    @property
    def multiple(self) -> int:
        """What the number of frames must be a multiple of: any number will do."""
        return 1

    def __post_init__(self) -> None:
        if min(self.channels - 1, self.steps, self.hidden, self.layers, self.kernel) < 1:
            raise DeepsepError("a flow needs 2 or more channels and 1 or more steps, layers and hidden units")
        check_reach(self.layers, self.kernel)
        if not 0 < self.sigma_min < self.sigma_max:
            raise DeepsepError(
                f"noise levels must be 0 < min < max, got {self.sigma_min:g} and {self.sigma_max:g}"
            )
        check_bounds(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class WaveformConfig:
    """The time domain: at which rate priors hear samples, how many at a time, and at which level."""

    rate: Rate = 14700
    window: Window = 512  # samples of a training example, and of a window in separation
    level: Level = "relative"  # to a mixture of RMS 1; "absolute" takes samples as they are

    def __post_init__(self) -> None:
        if self.window < 64 or self.window % 64:
            raise DeepsepError(f"a window must be a multiple of 64 samples, got {self.window}")
        if self.rate < 1:
            raise DeepsepError(f"the rate of a waveform must be positive, got {self.rate}")
        check_choice("level", self.level, Level)
        check_bounds(self)
        if self.window < SHORTEST_WINDOW * self.rate:
            raise DeepsepError(
                f"a window of {self.window} samples at {self.rate} Hz is less than {SHORTEST_WINDOW:g} s; "
                "take longer ones"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class WaveformFlowConfig:
    """A noise-conditional flow prior on samples (1, t): blocks of a squeeze, flows, and a split (FloWaveNet)."""

    squeeze: Widths = (16,)  # factor of each block, time into channels
    flows: Depth = 6  # of each block: ActNorm, shuffle, affine coupling
    mask: Mask = "channel"  # what a coupling is given: channels, frames (checkerboard), or either in turn
    shuffle: Shuffle = "conv"  # before each coupling: an invertible 1x1 convolution, or channels reversed
    split: bool = (
        False  # after each block but the last, half the channels leave, with learned mean and variance
    )
    hidden: Width = 64
    layers: Depth = 5
    kernel: Kernel = 3
    log_scale_bound: LogScaleBound = 3.0
    sigma_min: NoiseLevel = 0.01
    sigma_max: NoiseLevel = 6.0
    bands: Bands = BANDS  # of the mean spectrum that is kept for the stationary Wiener filter

    def __post_init__(self) -> None:
        object.__setattr__(self, "squeeze", tuple(self.squeeze))
        check_bounds(self)
        if not self.squeeze or min(self.squeeze) < 1 or self.squeeze[0] < 2:
            raise DeepsepError(
                "a waveform flow needs one or more blocks, the first of a squeeze of 2 or more"
            )
        if min(self.flows, self.hidden, self.layers, self.kernel) < 1:
            raise DeepsepError("a waveform flow needs 1 or more flows, layers and hidden units")
        check_reach(self.layers, self.kernel)
        if self.multiple > LARGEST_SQUEEZE:
            raise DeepsepError(f"the blocks squeeze {self.multiple} samples into a frame; squeeze less")
        check_choice("mask", self.mask, Mask)
        check_choice("shuffle", self.shuffle, Shuffle)
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
class SpectralEncoderConfig:
    """The amortized posterior q(x_1..x_K | m): a U-Net over bands and frames."""

    bands: Bands = BANDS
    widths: Widths = (
        32,
        64,
        128,
    )  # channels of each level; each halves bands and frames
    bottleneck: Width = 32  # hidden units of the dense layers along the bands
    deep: Deep = 3  # further residual blocks at the deepest level, for a longer view
    context: Context = 0  # frames on either side that an estimate is given; 0 takes as many as it can use

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        check_bounds(self)
        if not self.widths or min(self.widths) < 1:
            raise DeepsepError("an encoder needs one or more levels of one or more channels")
        if self.deep < 0:
            raise DeepsepError(f"the number of deep blocks cannot be negative, got {self.deep}")
        if not self.context:
            object.__setattr__(self, "context", -(-self.reach // self.multiple) * self.multiple)
        if self.reach > LONGEST_CONTEXT:
            raise DeepsepError(f"an encoder that sees {self.reach} frames to either side is too deep")
        if self.context % self.multiple or self.context < self.reach:
            raise DeepsepError(
                f"context must be a multiple of {self.multiple} frames and at least {self.reach}"
            )
        if self.bands * self.context * self.widths[0] > LARGEST_PASS:
            raise DeepsepError(
                f"{self.bands} bands, {self.context} frames of context and {self.widths[0]} channels take too much "
                "memory together; take fewer"
            )

    @property
    def multiple(self) -> int:
        """What the number of frames must be a multiple of."""
        return int(2 ** len(self.widths))

    @property
    def shape(self) -> dict[str, Any]:
        """What another encoder needs to have layers like these; bands are its domain's, and context follows."""
        return {"widths": self.widths, "bottleneck": self.bottleneck, "deep": self.deep}

    @property
    def reach(self) -> int:
        """How many frames to either side an estimate depends on, at most."""
        *upper, deepest = (2 << i for i in range(len(self.widths)))  # frames to a step of each level
        wide = 3 + sum(2 + i % 2 for i in range(self.deep))  # steps that dilated convolutions reach
        return 3 + 5 * sum(upper) + wide * deepest


@dataclass(frozen=True, kw_only=True, slots=True)
class WaveformEncoderConfig:
    """The amortized posterior q(s_1..s_K | m) on samples: one non-causal WaveNet on frames of `squeeze` samples."""

    squeeze: Width = 16
    hidden: Width = 128
    layers: Depth = 12  # dilations 1, 2, 4... of `cycle` layers, then again from 1
    cycle: Depth = 6
    kernel: Kernel = 3

    def __post_init__(self) -> None:
        if min(self.squeeze, self.hidden, self.layers, self.cycle, self.kernel) < 1:
            raise DeepsepError("a waveform encoder needs 1 or more layers, hidden units and samples a frame")
        check_reach(min(self.cycle, self.layers), self.kernel)
        check_bounds(self)

    @property
    def multiple(self) -> int:
        """What the number of samples must be a multiple of."""
        return self.squeeze

    @property
    def shape(self) -> dict[str, Any]:
        """What another encoder needs to have layers like these."""
        return asdict(self)
