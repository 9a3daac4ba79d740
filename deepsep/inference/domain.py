"""What priors may be densities of: the one place where kinds of priors differ.

Shape suffixes: k stem, s draw, c audio channel, t sample, f frequency bin, d band, n frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import (
    ContrastTraining,
    EncoderTraining,
    PriorTraining,
    SgldConfig,
    SpectrumConfig,
    TrainConfig,
)
from ..flows.flow import Flow
from ..progress import Listener
from ..recordings.files import Folders
from .chunks import Planes, Reader, Window
from .compute import Compute
from .draws import Draws
from .encoder import AmortizedPosterior
from .losses import Figures
from .settings import Settings

if TYPE_CHECKING:
    from .model import Model

__all__ = ["Domain", "Examples", "Layout", "OnPart", "Separation", "Sound", "Task", "TaskRun", "Track"]

Samples = NDArray[np.float32]
OnPart = Callable[[float], None]


class Layout(NamedTuple):
    """How a track of `total` frames is cut into windows: see `chunks`."""

    core: int
    context: int
    fade: int
    total: int


@dataclass(frozen=True, slots=True)
class Track:
    """What is known of a track before it is separated: its rate in Hz, its length in samples, its gated RMS."""

    rate: int
    samples: int
    rms: float


@dataclass(frozen=True, slots=True)
class Separation:
    """A track, the model and the settings to separate it with, and what is wanted.

    Stem i sums the sources whose numbers are groups[i]. `spread` asks for the stems' standard deviation too.
    `on_part` is called with the share of a batch of windows that is inferred.
    """

    track: Track
    model: Model
    settings: Settings
    groups: Sequence[Sequence[int]]
    spread: bool = False
    on_part: OnPart | None = None


class Examples(NamedTuple):
    """What a prior trains on: endless batches (b, d, n), a batch held out, and hours of recordings."""

    batches: Iterator[Tensor]
    held_out: Tensor
    hours: float
    mean_spectrum: Tensor | None = None  # (bands,), where the flow keeps it beside its density

    def take(self, frames: int) -> Tensor:
        """The next batches as one (b, d, n) of about `frames` frames, at least one batch."""
        first = next(self.batches)
        more = max(1, frames // (len(first) * first.shape[2])) - 1
        return torch.cat([first, *(next(self.batches) for _ in range(more))])


class Task(NamedTuple):
    """What networks train on: endless batches, a loss with figures to show, figures on held-out data.

    Figures of a stem are called by its number, as in "SDR 0". solos has each source's held-out x, where priors are
    trained. calibrate finds the `AmortizedPosterior.spread` of an encoder, where a domain knows how. teach gets the
    network's running average, once and before the first loss, where that teaches the network.
    """

    batches: Iterator[Any]
    loss: Callable[[Any, Any, Draws], tuple[Tensor, Figures]]
    evaluate: Callable[[Any], Mapping[str, Tensor | float]]
    solos: Mapping[str, Tensor] = {}
    calibrate: Callable[[Any], Sequence[float]] | None = None
    teach: Callable[[Any], None] | None = None


@dataclass(frozen=True, slots=True)
class TaskRun:
    """What a task needs to know of the run that it is part of."""

    cache: Path  # folder of decoded recordings
    rng: torch.Generator
    listener: Listener
    steps_before: int = 0  # of a run that is resumed
    compute: Compute = Compute()  # noqa: RUF009 (frozen)


class Sound(NamedTuple):
    """Samples (t,) and their rate in Hz."""

    samples: Tensor
    rate: int


class Domain(Protocol):
    """What priors are densities of, and all that follows: networks, inference, training data.

    An implementation is a frozen dataclass of its settings, equal to another where their priors can be mixed.
    """

    @property
    def name(self) -> str:
        """As in config.json."""

    @property
    def rate(self) -> int:
        """At which rate in Hz recordings are heard in training."""

    @property
    def spectrum(self) -> SpectrumConfig:
        """The bands of the priors' mean spectra, on which baselines make their masks."""

    @property
    def half(self) -> bool:
        """Whether weights may be stored in half precision."""

    @property
    def several_pitches(self) -> bool:
        """Whether its encoder can hear a mixture at several pitches."""

    @property
    def can_contrast(self) -> bool:
        """Whether priors can be trained against one another: `contrast_task`."""

    @property
    def sigmas(self) -> Sequence[float]:
        """Noise levels at which held-out recordings are judged."""

    def to_config(self) -> dict[str, Any]:
        """What config.json says of it."""

    # networks

    def flow_config(self, raw: Any) -> Any:
        """A flow's configuration from plain values. DeepsepError for one that does not fit."""

    def build_flow(self, config: Any, rng: torch.Generator | None = None) -> Flow:
        """A flow with fresh weights. DeepsepError for a configuration that does not fit this domain."""

    def encoder_config(self, raw: Any) -> Any:
        """An encoder's configuration from plain values. DeepsepError for one that does not fit."""

    def build_encoder(self, config: Any, stems: int) -> AmortizedPosterior:
        """An encoder with fresh weights, drawn from the global generator."""

    # separation

    def sgld(
        self, *, draws: bool = False, uncertainty: bool = False, from_encoder: bool = False
    ) -> SgldConfig:
        """The sampler's settings where nobody says how."""

    def check(self, settings: Settings, *, spread: bool) -> None:
        """Raise DeepsepError for settings of another domain, or a spread that there is not."""

    def layout(self, separation: Separation) -> Layout:
        """How to cut the track into windows."""

    def analyse(self, blocks_ct: Iterable[Samples], separation: Separation) -> Iterator[Tensor]:
        """The track's blocks -> frames (c, f, n), or samples (c, n), at the rate and level of the priors."""

    def infer(self, windows: Sequence[Window], separation: Separation) -> Sequence[Planes]:
        """Estimates of each window, (s, k, ..., n).

        Then, if `spread`, the stems' standard deviation (k, d, n) and the mixture's power in its bands (d, n).
        """

    def synthesise(
        self, joined: Iterable[tuple[Tensor, Tensor]], mixture: Reader, separation: Separation
    ) -> Iterator[Samples]:
        """Frames with their estimates, as `chunks.join` gives them -> stems (s, k, c, t), in pieces.

        `mixture` has the track again, and is to be read as far as stems are yielded; the sources add up to it.
        """

    def sonify(
        self,
        flow: Flow,
        samples: int,
        *,
        sigma: float,
        temperature: float,
        iterations: int,
        rng: torch.Generator,
        on_part: OnPart | None = None,
    ) -> Sound:
        """A draw from a prior, made audible; not finite where the draw overflows."""

    # training

    def check_training(self, training: TrainConfig, network: Any = None) -> None:
        """Raise DeepsepError for settings of a training that do not fit this domain."""

    def examples(
        self, folders: Folders, training: PriorTraining, cache: Path, rng: torch.Generator, listener: Listener
    ) -> Examples:
        """What an instrument's prior trains on."""

    def score_scale(self, flow: Flow, sigma_b: Tensor) -> Tensor:
        """The weight of a score's error at each noise level, (b,) -> (b,)."""

    def initialise(self, flow: Flow, examples: Examples, rng: torch.Generator) -> None:
        """Set what a flow takes from data before its first step: `Flow.initialise`."""

    def encoder_task(
        self,
        model: Model,
        folders: Mapping[str, Folders],
        training: EncoderTraining,
        run: TaskRun,
    ) -> Task:
        """What an encoder for a model trains on."""

    def contrast_task(
        self, model: Model, folders: Mapping[str, Folders], training: ContrastTraining, run: TaskRun
    ) -> Task:
        """What the priors of a model train on together; called only if `can_contrast`."""
