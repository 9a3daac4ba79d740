"""deepsep from Python: arrays in, arrays out. Its names are those of the package: `deepsep.separate`.

Shape suffixes: k stem, c audio channel, t sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .audio.files import MAX_CHANNELS
from .audio.loudness import Loudness
from .config import SgldConfig, default_sgld
from .errors import DeepsepError
from .models import folder as models
from .models import hub
from .models.folder import Model
from .separation import separate_blocks
from .spectral.infer import Settings, choose_method, pick_device
from .spectral.uncertainty import SpreadMap, Uncertainty

__all__ = ["load_priors", "separate"]

BLOCK = 1 << 18  # samples that are looked at together


def load_priors(
    priors: str = "bundled",
    prior: Mapping[str, str] | None = None,
    *,
    sources: Sequence[str] | None = None,
    device: str = "auto",
    offline: bool = False,
    on_progress: hub.OnProgress | None = None,
) -> Model:
    """Load priors once, to separate many recordings with them.

    Args:
        priors: "bundled", a folder, or "org/name[@revision]" on the Hugging Face Hub.
        prior: instruments to replace or to add, each with where it comes from: {"vocals": "org/name"}.
        sources: which sources to infer, in order; by default all of them.
        device: "auto", "cpu", "cuda" or "mps".
        offline: use the local cache only.
        on_progress: called with (file name, bytes so far, bytes in all) while files are downloaded.

    The model's `sources` are its instruments in order; `info` holds what the priors say of themselves, such
    as their licences, and `info["origins"]` the commit that each source came from.
    Raises DeepsepError for priors that are not there, do not fit together or are damaged.
    """
    chosen = pick_device(device)
    return models.assemble(
        str(priors), prior, sources=sources, device=chosen, offline=offline, on_progress=on_progress
    )


def separate(
    samples: NDArray[Any],
    rate: int,
    *,
    priors: str | Model = "bundled",
    method: str = "auto",
    init: str = "auto",
    sgld: SgldConfig | None = None,
    draws: int | None = None,
    seed: int = 0,
    batch_size: int = 2,
    device: str = "auto",
    offline: bool = False,
    on_uncertainty: Callable[[Uncertainty], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Separate a recording into stems that add up to it.

    Args:
        samples: floats of shape (c, t) or (t,), full scale 1.0, at most 8 channels.
        rate: sample rate in Hz; any. Only priors of samples resample, and what that loses is shared out.
        priors: what `load_priors` gave, or what it takes; for more than one recording load them once.
        method: "sgld" (Langevin sampling under the priors), "encoder" (one pass), or "auto".
        init: where SGLD starts: "mixture", "encoder", or "auto".
        sgld: settings of SGLD; by default those of the command line and the priors' domain, which sample the
            posterior itself (temperature 1, in the spectral domain) for `draws` and `on_uncertainty`.
        draws: so many plausible separations instead of one best; each stem then has an axis more, in front.
        seed: same seed, same machine, same stems.
        batch_size: windows at a time; changes memory, not the result.
        device: "auto", "cpu", "cuda" or "mps".
        offline: use the local cache only.
        on_uncertainty: called once, at the end, with how sure each stem is over time and frequency.
        on_progress: called with the share that is done, from 0 to 1.

    Returns the stems by source, in the model's order: float32, each of the shape of `samples`, or
    (draws, *samples.shape).
    Raises DeepsepError for samples of another shape or type, or with NaN, and as `load_priors` does.
    """
    mix_ct = checked(samples, rate)
    if batch_size < 1:
        raise DeepsepError(f"batch_size must be at least 1, got {batch_size}")
    if draws is not None and draws < 2:
        raise DeepsepError(f"draws must be at least 2, got {draws}; leave it out for the one best separation")
    if (draws or on_uncertainty) and sgld and sgld.temperature == 0:
        raise DeepsepError("draws and uncertainty need a temperature above 0")
    picked = pick_device(device)
    if isinstance(priors, Model):
        model = priors.to(picked)
    else:
        model = load_priors(priors, device=picked, offline=offline)
    chosen, start = choose_method(method, init, model)
    config = sgld or default_sgld(
        draws=draws is not None,
        uncertainty=on_uncertainty is not None,
        waveform=model.waveform is not None,
        from_encoder=start == "encoder",
    )
    settings = Settings(
        method=chosen,
        init=start,
        sgld=config,
        seed=seed,
        batch_size=batch_size,
        device=picked,
        samples=draws or 1,
    )
    total = mix_ct.shape[1]
    loudness = Loudness()
    for block in blocks_of(mix_ct):
        loudness.hear(block)

    def tell(done: int) -> None:
        if on_progress:
            on_progress(min(1.0, done / total))

    spread = SpreadMap(model.spectrum, rate, total, model.sources) if on_uncertainty else None
    count = draws or 1
    stems_sct = np.zeros((count * len(model.sources), *mix_ct.shape), np.float32)
    at = 0
    for piece in separate_blocks(
        blocks_of(mix_ct), rate, loudness.rms, total, model, settings,
        on_spread=spread.hear if spread else None, on_progress=tell,
    ):  # fmt: skip
        stems_sct[..., at : at + piece.shape[-1]] = piece
        at += piece.shape[-1]
    if spread and on_uncertainty:
        on_uncertainty(spread.result())
    shape = (draws, *samples.shape) if draws else samples.shape
    by_source = stems_sct.reshape(count, len(model.sources), *mix_ct.shape).swapaxes(0, 1)
    return {source: stem.reshape(shape) for source, stem in zip(model.sources, by_source, strict=True)}


def blocks_of(mix_ct: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """A signal in pieces, so that no step holds more than it needs."""
    return (mix_ct[:, at : at + BLOCK] for at in range(0, mix_ct.shape[1], BLOCK))


def checked(samples: NDArray[Any], rate: int) -> NDArray[np.float32]:
    """Samples as float32 (c, t), or what is wrong with them and what to do."""
    if isinstance(rate, bool) or not isinstance(rate, (int, np.integer)) or rate < 1:
        raise DeepsepError(f"the sample rate must be a whole number of Hz, got {rate!r}")
    if not isinstance(samples, np.ndarray) or samples.dtype.kind != "f":
        kind = samples.dtype if isinstance(samples, np.ndarray) else type(samples).__name__
        raise DeepsepError(
            f"samples must be a numpy array of floats, got {kind}; divide 16-bit integers by 32768, and call "
            ".numpy() on a torch tensor"
        )
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise DeepsepError(f"samples must have the shape (c, t) or (t,), got {samples.shape}")
    mix_ct = samples.reshape(-1, samples.shape[-1])
    if len(mix_ct) > MAX_CHANNELS:
        hint = "; transpose them" if samples.shape[1] <= MAX_CHANNELS else ""
        raise DeepsepError(
            f"samples of shape {samples.shape} have {len(mix_ct)} channels, at most {MAX_CHANNELS} are "
            f"separated{hint}"
        )
    if not np.isfinite(mix_ct).all():
        raise DeepsepError("samples hold NaN or infinity")
    return np.ascontiguousarray(mix_ct, dtype=np.float32)
