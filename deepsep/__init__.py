"""Generative, unsupervised music source separation.

    import deepsep

    stems = deepsep.separate(samples, rate)  # {"vocals": ..., "drums": ..., ...}, summing to the samples

Importing this is light: torch is loaded by the first call.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import DeepsepError, MissingExtra

if TYPE_CHECKING:
    from .api import Draw, evaluate, load_priors, sample_prior, separate
    from .config import (
        ContrastTraining,
        EncoderTraining,
        PriorTraining,
        SpectralEncoderConfig,
        SpectralFlowConfig,
        SpectralSgldConfig,
        SpectrumConfig,
        WaveformConfig,
        WaveformEncoderConfig,
        WaveformFlowConfig,
        WaveformSgldConfig,
    )
    from .evaluation.results import Results
    from .evaluation.run import Evaluation
    from .inference.model import Model, ModelInfo
    from .progress import Listener, Status, TrainResult
    from .spectral.domain import SpectralDomain
    from .spectral.uncertainty import Uncertainty
    from .training.contrast import contrast_priors
    from .training.encoder import train_encoder
    from .training.prior import train_prior
    from .waveform.domain import WaveformDomain

__version__ = "0.1.0"

__all__ = [
    "ContrastTraining",
    "DeepsepError",
    "Draw",
    "EncoderTraining",
    "Evaluation",
    "Listener",
    "MissingExtra",
    "Model",
    "ModelInfo",
    "PriorTraining",
    "Results",
    "SpectralDomain",
    "SpectralEncoderConfig",
    "SpectralFlowConfig",
    "SpectralSgldConfig",
    "SpectrumConfig",
    "Status",
    "TrainResult",
    "Uncertainty",
    "WaveformConfig",
    "WaveformDomain",
    "WaveformEncoderConfig",
    "WaveformFlowConfig",
    "WaveformSgldConfig",
    "__version__",
    "contrast_priors",
    "evaluate",
    "load_priors",
    "sample_prior",
    "separate",
    "train_encoder",
    "train_prior",
]

LAZY = {
    "ContrastTraining": ".config",
    "Draw": ".api",
    "EncoderTraining": ".config",
    "Evaluation": ".evaluation.run",
    "Listener": ".progress",
    "Model": ".inference.model",
    "ModelInfo": ".inference.model",
    "PriorTraining": ".config",
    "Results": ".evaluation.results",
    "SpectralDomain": ".spectral.domain",
    "SpectralEncoderConfig": ".config",
    "SpectralFlowConfig": ".config",
    "SpectralSgldConfig": ".config",
    "SpectrumConfig": ".config",
    "Status": ".progress",
    "TrainResult": ".progress",
    "Uncertainty": ".spectral.uncertainty",
    "WaveformConfig": ".config",
    "WaveformDomain": ".waveform.domain",
    "WaveformEncoderConfig": ".config",
    "WaveformFlowConfig": ".config",
    "WaveformSgldConfig": ".config",
    "contrast_priors": ".training.contrast",
    "evaluate": ".api",
    "load_priors": ".api",
    "sample_prior": ".api",
    "separate": ".api",
    "train_encoder": ".training.encoder",
    "train_prior": ".training.prior",
}


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(LAZY[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
