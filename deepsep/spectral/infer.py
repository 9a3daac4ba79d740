"""A window of a mixture -> Wiener gains of its sources: by the sampler, by the encoder, or by both.

Shape suffixes: b batch, k stem, c audio channel, f bin, d band, n frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ..config import SgldConfig
from ..errors import DeepsepError
from ..inference import chunks, sgld
from ..inference.mixture import BandLikelihood, wiener_gains
from ..inference.posterior import Posterior
from ..models.folder import Model, stationary_gains
from .encoder import Encoder, mixture_features
from .spectrum import Spectrum, stereo_power

__all__ = [
    "Settings",
    "choose_method",
    "estimates_of",
    "gains_of",
    "pick_device",
]

Method = Literal["sgld", "encoder"]
ENCODER_DRAWS = 16  # from q, for its spread
LEAST_GAIN = 1e-6  # of a pooled estimate, 60 dB below the mixture
INDEPENDENT = 0.375  # coefficients per bin and frame: frames overlap by three quarters


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How to separate."""

    method: Method = "encoder"
    init: Literal["mixture", "encoder"] = "mixture"
    sgld: SgldConfig = field(default_factory=SgldConfig)
    seed: int = 0
    batch_size: int = 2
    device: str = "cpu"
    samples: int = 1  # 1 is the point estimate; more are that many draws from the posterior


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
    """What `auto` means for this model, and a check of what was asked for.

    The encoder wherever there is one: on every device it is faster, and for songs better (docs/results.md).
    """
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


@torch.no_grad()
def estimates_of(
    batch: Sequence[chunks.Window],
    model: Model,
    spectrum: Spectrum,
    settings: Settings,
    groups: Sequence[Sequence[int]],
    *,
    spread: bool,
) -> Tensor:
    """Gains of the groups' stems, for each sample, then their spread if wanted: (b, s k [+ k], d, n)."""

    def grouped(gains_bkdn: Tensor) -> Tensor:
        return torch.stack([gains_bkdn[:, list(group)].sum(1) for group in groups], 1)

    if settings.samples == 1 and not spread:
        return grouped(gains_of(batch, model, spectrum, settings))
    last: dict[int, Tensor] = {}
    count, mean, square = 0, torch.zeros(()), torch.zeros(())
    least = ENCODER_DRAWS if spread else settings.samples
    for chain, draw in posterior_draws(batch, model, spectrum, settings, least):
        gains = grouped(draw)
        last[chain] = gains
        count, mean, square = count + 1, mean.to(gains) + gains, square.to(gains) + gains.square()
    mean, square = mean / count, square / count
    if settings.samples > 1:
        planes = [last[sample] for sample in range(settings.samples)]
    else:
        planes = [
            grouped(gains_of(batch, model, spectrum, settings)) if settings.method == "encoder" else mean
        ]
    if spread:
        planes.append((square - mean.square()).clamp_min(0).sqrt())
    return torch.cat(planes, 1)


def posterior_draws(
    batch: Sequence[chunks.Window], model: Model, spectrum: Spectrum, settings: Settings, least: int
) -> Iterator[tuple[int, Tensor]]:
    """Numbered draws of the gains (b, k, d, n): `least` or more from q, or SGLD's late iterates by chain."""
    planes = torch.stack([stereo_power(w.spectra, spectrum) for w in batch])
    first = [w.first for w in batch]
    if settings.method == "sgld":
        chains = settings.samples if settings.samples > 1 else settings.sgld.chains
        settings = replace(settings, sgld=replace(settings.sgld, chains=chains))
        yield from sgld_draws(planes, first, model, spectrum, settings)
        return
    assert isinstance(model.encoder, Encoder)
    q = model.encoder(mixture_features(planes, spectrum))
    mean = q.mean((planes[:, 0] + planes[:, 1]) / 2, spectrum)
    _, k, d, n = mean.shape
    for number in range(max(settings.samples, least)):
        noises = [sgld.frame_noise(settings.seed, number, f, (k, d, n))(0) for f in first]
        yield number, wiener_gains(mean + q.log_std.exp() * torch.stack(noises).to(mean), spectrum)


@torch.no_grad()
def gains_of(batch: Sequence[chunks.Window], model: Model, spectrum: Spectrum, settings: Settings) -> Tensor:
    """Wiener gains (b, k, d, n) of some windows."""
    planes = torch.stack([stereo_power(w.spectra, spectrum) for w in batch])
    if settings.method == "encoder":
        return encoder_gains(planes, model, spectrum)
    return sgld_gains(planes, [w.first for w in batch], model, spectrum, settings)


def encoder_gains(planes_bcdn: Tensor, model: Model, spectrum: Spectrum) -> Tensor:
    """Wiener gains (b, k, d, n) that q holds best."""
    assert isinstance(model.encoder, Encoder)
    gains: Tensor = model.encoder(mixture_features(planes_bcdn, spectrum)).log_gain.exp()
    return gains


def sgld_gains(
    planes_bcdn: Tensor, first: Sequence[int], model: Model, spectrum: Spectrum, settings: Settings
) -> Tensor:
    """Wiener gains averaged over the late iterates of all chains: (b, k, d, n)."""
    total = torch.zeros(())
    for _, gains in sgld_draws(planes_bcdn, first, model, spectrum, settings):
        total = total.to(gains) + gains
    return total / total.sum(1, keepdim=True)


def sgld_draws(
    planes_bcdn: Tensor, first: Sequence[int], model: Model, spectrum: Spectrum, settings: Settings
) -> Iterator[tuple[int, Tensor]]:
    """Wiener gains (b, k, d, n) of every late iterate, with the number of its chain.

    A chain that the encoder started is pooled with the encoder's estimate, q^(1 - w) p^w on the gains: q has learned
    what the priors cannot say, and the other way round (docs/results.md has what the geometric mean of both gains).
    """
    config = settings.sgld
    power = (planes_bcdn[:, 0] + planes_bcdn[:, 1]) / 2
    initial = initial_gains(planes_bcdn, model, spectrum, settings)
    start = spectrum.to_x(power[:, None] * initial)
    posterior = Posterior(
        list(model.priors.values()),
        BandLikelihood(power + spectrum.floor, spectrum.count_d * spectrum.present_d * INDEPENDENT, spectrum),
        config.likelihood,
    )
    _, k, d, n = start.shape
    for chain in range(config.chains):
        noises = [sgld.frame_noise(settings.seed, chain, f, (k, d, n)) for f in first]

        def noise(number: int, noises: list[sgld.Noise] = noises) -> Tensor:
            return torch.stack([draw(number) for draw in noises]).to(start)

        for state, info in sgld.anneal(start, posterior, config, noise):
            if state.step > config.burn_in:
                gains = wiener_gains(info.denoised, spectrum, config.alpha)
                yield chain, pooled(gains, initial, config.pool) if settings.init == "encoder" else gains


def pooled(gains: Tensor, others: Tensor, weight: float) -> Tensor:
    """The geometric mean of two estimates' Wiener gains (b, k, d, n), a logarithmic opinion pool, normalised."""
    logs = weight * gains.clamp_min(LEAST_GAIN).log() + (1 - weight) * others.clamp_min(LEAST_GAIN).log()
    return logs.softmax(1)


def initial_gains(planes_bcdn: Tensor, model: Model, spectrum: Spectrum, settings: Settings) -> Tensor:
    """Wiener gains (b, k, d, n) that a chain starts from: the encoder's, or those of the priors' mean spectra."""
    if settings.init == "encoder":
        return encoder_gains(planes_bcdn, model, spectrum)
    stationary = stationary_gains(model, spectrum)
    return stationary.expand(len(planes_bcdn), *stationary.shape[:-1], planes_bcdn.shape[-1])
