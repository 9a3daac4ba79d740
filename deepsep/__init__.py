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
    from .api import load_priors, separate
    from .config import SgldConfig
    from .models.folder import Model
    from .spectral.uncertainty import Uncertainty

__version__ = "0.1.0"

__all__ = [
    "DeepsepError",
    "MissingExtra",
    "Model",
    "SgldConfig",
    "Uncertainty",
    "__version__",
    "load_priors",
    "separate",
]

LAZY = {
    "separate": ".api",
    "load_priors": ".api",
    "SgldConfig": ".config",
    "Model": ".models.folder",
    "Uncertainty": ".spectral.uncertainty",
}


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(LAZY[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
