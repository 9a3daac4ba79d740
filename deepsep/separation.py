"""The whole route, in order: samples -> one gain -> frames -> windows -> sampler or encoder -> masks -> stems.

Shape suffixes: b batch, k stem, c audio channel, t sample, f bin, d band, n frame. Streams in, streams out: memory
does not grow with the track.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from . import chunks, sgld
from .config import SgldConfig
from .encoder import mixture_features
from .errors import DeepsepError
from .mixture import BandLikelihood, wiener_gains
from .model import Model
from .posterior import Posterior
from .spectrum import Spectrum, stereo_power

__all__ = ["Settings", "choose_method", "gains_of", "pick_device", "separate_blocks"]

Method = Literal["sgld", "encoder"]
CORE = 256  # frames of a window that count
SGLD_CONTEXT = 64
SGLD_FADE = 32
INDEPENDENT = 0.375  # coefficients per bin and frame: frames overlap by three quarters


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How to separate."""

    method: Method = "encoder"
    init: Literal["mixture", "encoder"] = "mixture"
    sgld: SgldConfig = field(default_factory=SgldConfig)
    seed: int = 0
    batch_size: int = 4
    device: str = "cpu"


def pick_device(name: str) -> str:
    """ "auto" -> cuda, mps or cpu; DeepsepError for one that is not there."""
    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return "cuda" if have["cuda"] else "mps" if have["mps"] else "cpu"
    kind = name.split(":")[0]
    if kind not in have:
        raise DeepsepError(f"unknown device {name!r}; choose auto, cpu, cuda or mps")
    if not have[kind]:
        raise DeepsepError(
            f"--device {name}: this PyTorch ({torch.__version__}) finds no {kind} device; use --device cpu"
        )
    return name


def choose_method(method: str, init: str, model: Model) -> tuple[Method, Literal["mixture", "encoder"]]:
    """What `auto` means for this model, and a check of what was asked for."""
    if method not in ("auto", "sgld", "encoder"):
        raise DeepsepError(f"unknown method {method!r}; choose auto, sgld or encoder")
    if init not in ("auto", "mixture", "encoder"):
        raise DeepsepError(f"unknown init {init!r}; choose auto, mixture or encoder")
    has = model.encoder is not None
    if not has and (method == "encoder" or (init == "encoder" and method != "encoder")):
        raise DeepsepError(
            "these priors have no encoder for just these sources; use --method sgld --init mixture, "
            "or train one: deepsep train-encoder"
        )
    chosen: Method = "encoder" if method == "encoder" or (method == "auto" and has) else "sgld"
    return chosen, "encoder" if has and init in ("auto", "encoder") else "mixture"


def separate_blocks(
    blocks: Iterable[np.ndarray],
    rate: int,
    rms: float,
    samples: int,
    model: Model,
    settings: Settings,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[np.ndarray]:
    """Stems of a track that comes in blocks: float32 (c, t) at `rate` -> float32 (k, c, t), `samples` in all.

    rms is the track's `Loudness`; a silent track (0) gives silent stems. on_progress hears how many samples are done.
    """
    spectrum = Spectrum(model.spectrum, rate, settings.device)
    if rms == 0:
        for block in blocks:
            yield np.zeros((len(model.sources), *block.shape), np.float32)
        return
    core, context, fade = layout(model, settings)
    scaled = (
        torch.from_numpy(np.ascontiguousarray(block / rms)).float().to(settings.device) for block in blocks
    )
    cut = chunks.windows(spectrum.analyse_stream(scaled), core, context)
    estimates = (
        pair
        for batch in chunks.batched(cut, settings.batch_size)
        for pair in zip(batch, gains_of(batch, model, spectrum, settings), strict=True)
    )
    joined = chunks.join(estimates, core, context, fade)
    stems = (spectrum.expand(gain_kdn)[:, None] * spectra_cfn for spectra_cfn, gain_kdn in joined)
    done = 0
    for stems_kct in spectrum.synthesise_stream(stems):
        piece = stems_kct[..., : samples - done]
        done += piece.shape[-1]
        if piece.shape[-1]:
            yield (piece * rms).cpu().numpy()
        if on_progress:
            on_progress(done)


def layout(model: Model, settings: Settings) -> tuple[int, int, int]:
    """Core, context and fade of the windows, in frames."""
    deep = model.encoder.config.context if model.encoder else 0
    if settings.method == "encoder":
        return CORE, deep, 0
    return CORE, max(SGLD_CONTEXT, deep), SGLD_FADE


@torch.no_grad()
def gains_of(batch: Sequence[chunks.Window], model: Model, spectrum: Spectrum, settings: Settings) -> Tensor:
    """Wiener gains (b, k, d, n) of some windows."""
    planes = torch.stack([stereo_power(w.spectra, spectrum) for w in batch])
    if settings.method == "encoder":
        assert model.encoder is not None
        gains: Tensor = model.encoder(mixture_features(planes, spectrum)).log_gain.exp()
        return gains
    return sgld_gains(planes, [w.first for w in batch], model, spectrum, settings)


def sgld_gains(
    planes_bcdn: Tensor, first: Sequence[int], model: Model, spectrum: Spectrum, settings: Settings
) -> Tensor:
    """Wiener gains averaged over the late iterates of all chains: (b, k, d, n)."""
    config = settings.sgld
    power = (planes_bcdn[:, 0] + planes_bcdn[:, 1]) / 2
    start = starting_point(planes_bcdn, power, model, spectrum, settings)
    weight = spectrum.count_d * spectrum.present_d * INDEPENDENT
    posterior = Posterior(
        list(model.priors.values()),
        BandLikelihood((power + spectrum.floor), weight, spectrum),
        config.likelihood,
    )
    b, k, d, n = start.shape
    total = start.new_zeros(start.shape)
    late = config.levels * config.steps - min(config.average, config.levels * config.steps)
    for chain in range(config.chains):
        noises = [sgld.frame_noise(settings.seed, chain, f, (k, d, n)) for f in first]

        def noise(number: int, noises: list[sgld.Noise] = noises) -> Tensor:
            return torch.stack([draw(number) for draw in noises]).to(start)

        for state, _ in sgld.anneal(start, posterior, config, noise):
            if state.step > late:
                total += wiener_gains(state.position, spectrum)
    return total / total.sum(1, keepdim=True)


def starting_point(
    planes_bcdn: Tensor, power_bdn: Tensor, model: Model, spectrum: Spectrum, settings: Settings
) -> Tensor:
    """x (b, k, d, n) that explains the mixture: shared out by the encoder, or by the priors' mean spectra."""
    if settings.init == "encoder":
        assert model.encoder is not None
        gains = model.encoder(mixture_features(planes_bcdn, spectrum)).log_gain.exp()
    else:
        means = torch.stack([p.whitening.mean for p in model.priors.values()])
        gains = wiener_gains(means[None, :, :, None], spectrum).expand(
            len(power_bdn), -1, -1, power_bdn.shape[-1]
        )
    return spectrum.to_x(power_bdn[:, None] * gains)
