"""Every setting and its default, once, for the library and the command line alike. May import: errors.

Configurations are frozen and keyword-only, and check themselves when they are built. No torch here.
"""

from . import ranges
from .choices import (
    BatchSize,
    BitDepth,
    Codec,
    DomainName,
    Format,
    Init,
    Level,
    Mask,
    Method,
    Metric,
    Objective,
    Optimizer,
    Shuffle,
    Start,
    check_choice,
)
from .defaults import (
    AAC_BITRATE,
    APP_HOST,
    APP_PORT,
    BATCH_SIZE,
    BIT_DEPTH,
    BUNDLED,
    CODEC,
    DEVICE,
    FORMAT,
    INIT,
    METHOD,
    MP3_KBPS,
    SAMPLE_ITERATIONS,
    SAMPLE_SECONDS,
    SAMPLE_TEMPERATURE,
    SEED,
    WINDOWS,
)
from .networks import (
    SpectralEncoderConfig,
    SpectralFlowConfig,
    SpectrumConfig,
    WaveformConfig,
    WaveformEncoderConfig,
    WaveformFlowConfig,
)
from .plain import from_dict, is_number, is_whole, parse_json, shorten, to_dict
from .ranges import bounds
from .sgld import SURE_CHAINS, SgldConfig, SpectralSgldConfig, WaveformSgldConfig, changed, fits_some_domain
from .training import (
    CONTRAST_FRAMES,
    ENCODER_FRAMES,
    PRIOR_FRAMES,
    ContrastTraining,
    EncoderTraining,
    PriorTraining,
    TrainConfig,
)

__all__ = [
    "AAC_BITRATE", "APP_HOST", "APP_PORT", "BATCH_SIZE", "BIT_DEPTH", "BUNDLED", "CODEC", "CONTRAST_FRAMES", "DEVICE",
    "ENCODER_FRAMES", "FORMAT", "INIT", "METHOD", "MP3_KBPS", "PRIOR_FRAMES", "SAMPLE_ITERATIONS",
    "SAMPLE_SECONDS", "SAMPLE_TEMPERATURE", "SEED", "SURE_CHAINS", "WINDOWS", "BatchSize", "BitDepth", "Codec",
    "ContrastTraining", "DomainName", "EncoderTraining", "Format", "Init", "Level", "Mask", "Method", "Metric",
    "Objective", "Optimizer", "PriorTraining", "SgldConfig", "Shuffle", "SpectralEncoderConfig", "SpectralFlowConfig",
    "SpectralSgldConfig", "SpectrumConfig", "Start", "TrainConfig", "WaveformConfig",
    "WaveformEncoderConfig", "WaveformFlowConfig", "WaveformSgldConfig", "bounds", "changed", "check_choice",
    "fits_some_domain", "from_dict", "is_number", "is_whole", "parse_json", "ranges", "shorten", "to_dict",
]  # fmt: skip
