"""The settings of a training run, one class for each kind of run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ..errors import DeepsepError
from .choices import Objective, Optimizer, check_choice
from .defaults import DEVICE
from .ranges import BatchSize, Frames, LearningRate, Seed, Share, Steps, Weight, Workers, check_bounds

__all__ = [
    "CONTRAST_FRAMES",
    "ENCODER_FRAMES",
    "PRIOR_FRAMES",
    "ContrastTraining",
    "EncoderTraining",
    "PriorTraining",
    "TrainConfig",
]

PRIOR_FRAMES, ENCODER_FRAMES, CONTRAST_FRAMES = 128, 96, 64  # of a training example, 43 a second


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run; it ends at `steps` or after `minutes`, whichever comes first."""

    steps: Steps = 20000
    minutes: float = math.inf
    batch: BatchSize = 16  # examples a step
    frames: Frames | None = None  # of an example of bands; one of samples is as long as the domain's window
    lr: LearningRate = 1e-3
    warmup: Steps = 200
    ema: float = 0.999
    clip_norm: float = 5.0
    save_minutes: float = 5.0
    seed: Seed = 0
    bf16: bool | None = None  # a reduced precision; by default where a processor or CUDA GPU is faster in it
    device: str = DEVICE

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.frames or 1) < 1 or self.minutes <= 0 or self.lr <= 0:
            raise DeepsepError("steps, minutes, batch, frames and learning rate must be positive")
        if not 0 <= self.ema < 1:
            raise DeepsepError(f"ema must lie in [0, 1), got {self.ema:g}")
        check_bounds(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorTraining(TrainConfig):
    """The training of one instrument's prior."""

    score_weight: Weight = 0.0  # of denoising score matching beside likelihood


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderTraining(TrainConfig):
    """The training of an amortized posterior: simulated mixtures, the ELBO, or both, or songs that it mixes anew."""

    batch: BatchSize = 8
    lr: LearningRate = 1.5e-3
    objective: Objective = "both"
    optimizer: Optimizer = "muon"  # of the network's hidden layers
    elbo_weight: Weight = 0.1  # of the ELBO beside the loss on simulated mixtures
    remix_weight: Weight = 0.5  # of songs mixed anew beside simulated mixtures
    mixtures: Path | None = (
        None  # unlabelled songs, for the ELBO in place of simulated mixtures, or to mix anew
    )
    workers: Workers = 1  # processes that simulate mixtures
    draws: BatchSize = 2  # stretches of sound that the mixtures of a batch are made of
    set_share: Share = 0.25  # of simulated mixtures with a set of sources, where there are recordings of sets

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        check_choice("objective", self.objective, Objective)
        check_choice("optimizer", self.optimizer, Optimizer)
        if self.mixtures is not None and self.objective == "simulated":
            raise DeepsepError(
                "mixtures are for the ELBO and to mix anew; the objective simulated has no use for them"
            )
        if self.mixtures is None and self.objective == "remix":
            raise DeepsepError("the objective remix needs unlabelled songs; give mixtures")


@dataclass(frozen=True, kw_only=True, slots=True)
class ContrastTraining(TrainConfig):
    """The training of several priors against one another."""

    batch: BatchSize = 4
    lr: LearningRate = 4e-5
    warmup: Steps = 50
    ema: float = 0.998
    likelihood_weight: Weight = 0.5  # of bits per dimension beside the SDR in dB
    workers: Workers = 1  # processes that simulate mixtures
    draws: BatchSize = 2  # stretches of sound that the mixtures of a batch are made of
