"""The whole route: samples -> one gain -> frames -> windows -> sampler or encoder -> masks -> stems.

Shape suffixes: b batch, k stem, c audio channel, t sample, f bin, d band, n frame. Streams in, streams out:
memory does not grow with the track.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from . import audio, chunks, sgld
from .config import SgldConfig
from .encoder import Encoder, WaveformEncoder, mixture_features
from .errors import DeepsepError
from .mixture import BandLikelihood, SumLikelihood, project, wiener_gains
from .model import Model
from .posterior import Posterior
from .priors import DefensivePrior, WaveformPrior
from .spectrum import Spectrum, stereo_power

__all__ = [
    "Settings",
    "choose_method",
    "gains_of",
    "pick_device",
    "separate_blocks",
    "separate_samples",
]

Method = Literal["sgld", "encoder"]
CORE = 256  # frames of a window that count, about; more where the context is wide
SGLD_CONTEXT = 64
SGLD_FADE = 32
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

    The encoder wherever there is one: on every device it is both faster and better (docs/results.md).
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


def separate_blocks(
    blocks: Iterable[np.ndarray],
    rate: int,
    rms: float,
    samples: int,
    model: Model,
    settings: Settings,
    *,
    groups: Sequence[Sequence[int]] | None = None,
    on_spread: Callable[[Tensor], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[np.ndarray]:
    """Stems of a track that comes in blocks: float32 (c, t) at `rate` -> float32 (k, c, t), `samples` in all.

    rms is the track's `Loudness`; a silent track (0) gives silent stems. on_progress hears how many
    samples are done. groups are the sources that each stem sums, by number; by default every source is a
    stem. Several samples of the posterior (`settings.samples`) come one after the other: (s k, c, t).
    on_spread hears, frames in order, the standard deviation (k, d, n) of the stems' Wiener gains under the
    posterior.
    """
    groups = groups or [[k] for k in range(len(model.sources))]
    if model.waveform and on_spread:
        raise DeepsepError(
            "priors of samples have no Wiener gains whose spread could be shown; use --samples to hear it"
        )
    if rms == 0:
        for block in blocks:
            yield np.zeros((settings.samples * len(groups), *block.shape), np.float32)
        return
    if model.waveform:
        yield from separate_waveform(blocks, rate, rms, model, settings, groups, on_progress)
        return
    spectrum = Spectrum(model.spectrum, rate, settings.device)
    core, context, fade = layout(model, settings, spectrum.frames(samples))
    scaled = (
        torch.from_numpy(np.ascontiguousarray(block / rms)).float().to(settings.device) for block in blocks
    )
    cut = chunks.windows(spectrum.analyse_stream(scaled), core, context)
    estimates = (
        pair
        for batch in chunks.batched(cut, settings.batch_size)
        for pair in zip(
            batch,
            estimates_of(batch, model, spectrum, settings, groups, spread=on_spread is not None),
            strict=True,
        )
    )
    joined = tell_spread(chunks.join(estimates, core, context, fade), len(groups), on_spread)
    joined = thinner(joined, settings.samples)
    stems = (spectrum.expand(gain_kdn)[:, None] * spectra_cfn for spectra_cfn, gain_kdn in joined)
    done = 0
    for stems_kct in spectrum.synthesise_stream(stems):
        piece = stems_kct[..., : samples - done]
        done += piece.shape[-1]
        if piece.shape[-1]:
            yield (piece * rms).cpu().numpy()
        if on_progress:
            on_progress(done)


def layout(model: Model, settings: Settings, frames: int) -> tuple[int, int, int]:
    """Core, context and fade of the windows, in frames, for a track of `frames`.

    Cores of one track are alike, so that a short one's windows share a batch and none is mostly context.
    """
    deep = model.encoder.config.context if isinstance(model.encoder, Encoder) else 0
    if settings.method == "encoder":
        context, fade = deep, 0
    else:
        warm = deep if settings.init == "encoder" else 0
        context, fade = max(SGLD_CONTEXT, warm), SGLD_FADE
    number = max(1, round(frames / max(CORE, 4 * context)))
    return -(-frames // (number * chunks.ALIGN)) * chunks.ALIGN, context, fade


def tell_spread(
    joined: Iterable[tuple[Tensor, Tensor]], stems: int, on_spread: Callable[[Tensor], None] | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Hands the last `stems` planes of each estimate to on_spread, and the others on."""
    for spectra_cfn, estimate_kdn in joined:
        if on_spread is None:
            yield spectra_cfn, estimate_kdn
        else:
            on_spread(estimate_kdn[-stems:])
            yield spectra_cfn, estimate_kdn[:-stems]


def thinner(joined: Iterable[tuple[Tensor, Tensor]], samples: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same frames in shorter pieces, so that many samples of a track need no more memory than one."""
    step = max(8, CORE // samples)
    for spectra_cfn, estimate_kdn in joined:
        for at in range(0, spectra_cfn.shape[-1], step):
            yield spectra_cfn[..., at : at + step], estimate_kdn[..., at : at + step]


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
    for chain, draw in posterior_draws(batch, model, spectrum, settings):
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
    batch: Sequence[chunks.Window], model: Model, spectrum: Spectrum, settings: Settings
) -> Iterator[tuple[int, Tensor]]:
    """Numbered draws of the gains (b, k, d, n): from the encoder's q, or SGLD's late iterates by chain."""
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
    for number in range(max(settings.samples, ENCODER_DRAWS)):
        noises = [sgld.frame_noise(settings.seed, number, f, (k, d, n))(0) for f in first]
        yield number, wiener_gains(mean + q.log_std.exp() * torch.stack(noises).to(mean), spectrum)


@torch.no_grad()
def gains_of(batch: Sequence[chunks.Window], model: Model, spectrum: Spectrum, settings: Settings) -> Tensor:
    """Wiener gains (b, k, d, n) of some windows."""
    planes = torch.stack([stereo_power(w.spectra, spectrum) for w in batch])
    if settings.method == "encoder":
        assert isinstance(model.encoder, Encoder)
        gains: Tensor = model.encoder(mixture_features(planes, spectrum)).log_gain.exp()
        return gains
    return sgld_gains(planes, [w.first for w in batch], model, spectrum, settings)


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
        BandLikelihood(
            (power + spectrum.floor), spectrum.count_d * spectrum.present_d * INDEPENDENT, spectrum
        ),
        config.likelihood,
    )
    _, k, d, n = start.shape
    late = config.levels * config.steps - min(config.average, config.levels * config.steps)
    for chain in range(config.chains):
        noises = [sgld.frame_noise(settings.seed, chain, f, (k, d, n)) for f in first]

        def noise(number: int, noises: list[sgld.Noise] = noises) -> Tensor:
            return torch.stack([draw(number) for draw in noises]).to(start)

        for state, info in sgld.anneal(start, posterior, config, noise):
            if state.step > late:
                gains = wiener_gains(info.denoised, spectrum, config.alpha)
                yield chain, pooled(gains, initial, config.pool) if settings.init == "encoder" else gains


def pooled(gains: Tensor, others: Tensor, weight: float) -> Tensor:
    """The geometric mean of two estimates' Wiener gains (b, k, d, n), a logarithmic opinion pool, normalised."""
    logs = weight * gains.clamp_min(LEAST_GAIN).log() + (1 - weight) * others.clamp_min(LEAST_GAIN).log()
    return logs.softmax(1)


def initial_gains(planes_bcdn: Tensor, model: Model, spectrum: Spectrum, settings: Settings) -> Tensor:
    """Wiener gains (b, k, d, n) that a chain starts from: the encoder's, or those of the priors' mean spectra."""
    if settings.init == "encoder":
        assert isinstance(model.encoder, Encoder)
        gains: Tensor = model.encoder(mixture_features(planes_bcdn, spectrum)).log_gain.exp()
        return gains
    stationary = stationary_gains(model, spectrum)
    return stationary.expand(len(planes_bcdn), *stationary.shape[:-1], planes_bcdn.shape[-1])


def stationary_gains(model: Model, spectrum: Spectrum) -> Tensor:
    """Wiener gains of the priors' mean spectra, (k, d, 1)."""
    mean_kd = torch.stack([prior.mean_spectrum for prior in model.priors.values()])
    return wiener_gains(mean_kd[None, :, :, None], spectrum)[0]


# --- the time domain -----------------------------------------------------------------------------------


def separate_waveform(
    blocks: Iterable[np.ndarray],
    rate: int,
    rms: float,
    model: Model,
    settings: Settings,
    groups: Sequence[Sequence[int]],
    on_progress: Callable[[int], None] | None,
) -> Iterator[np.ndarray]:
    """`separate_blocks` for priors of samples, at the priors' own rate; (s k, c, t) at the file's.

    What that rate cannot hold, the mixture above its Nyquist frequency and the error of resampling, is shared out
    alike among the sources, so that the stems sum to the mixture at any rate.
    """
    assert model.waveform is not None
    own, k = model.waveform.rate, len(model.sources)
    gain = rms if model.waveform.level == "relative" else 1.0
    waiting: list[np.ndarray] = []  # of the mixture, as much as has no stems yet

    def heard() -> Iterator[np.ndarray]:
        for block in blocks:
            waiting.append(block)
            yield np.ascontiguousarray(block, np.float32)

    low = (torch.from_numpy(piece / gain).float() for piece in audio.resample_blocks(heard(), rate, own))
    context = model.waveform.window // 8
    core = model.waveform.window - 2 * context
    estimates = (
        pair
        for batch in chunks.batched(chunks.windows(low, core, context), settings.batch_size)
        for pair in zip(batch, window_stems(batch, model, settings), strict=True)
    )
    joined = chunks.join(estimates, core, context, context)
    flat = ((stems.flatten(0, 1) * gain).numpy() for _, stems in joined)
    done = 0
    for piece in audio.resample_blocks(flat, own, rate):
        ready = sum(block.shape[-1] for block in waiting)
        held = np.concatenate(waiting, -1)
        length = min(piece.shape[-1], ready)
        yield shared_out(piece[:, :length], held[:, :length], k, groups)
        waiting[:] = [held[:, length:]]
        done += length
        if on_progress:
            on_progress(done)
    rest = np.concatenate(waiting, -1)
    if rest.shape[-1]:  # resampled twice, a signal may end some samples early
        none = np.zeros((settings.samples * k * len(rest), rest.shape[-1]), np.float32)
        yield shared_out(none, rest, k, groups)
        if on_progress:
            on_progress(done + rest.shape[-1])


def shared_out(
    flat: np.ndarray, mix_ct: np.ndarray, sources: int, groups: Sequence[Sequence[int]]
) -> np.ndarray:
    """Stems (s k c, t) with what they lack of the mixture added, in groups: (s g, c, t)."""
    stems = torch.from_numpy(flat.reshape(-1, sources, *mix_ct.shape))
    stems = project(stems, torch.from_numpy(mix_ct)[None])
    grouped = torch.stack([stems[:, list(group)].sum(1) for group in groups], 1)
    out: np.ndarray = grouped.flatten(0, 1).float().numpy()
    return out


def window_stems(batch: Sequence[chunks.Window], model: Model, settings: Settings) -> list[Tensor]:
    """Stems (s k, c, t) of each window (c, t), every channel on its own; none where it reaches past the signal.

    Samples have a direction in time, which their mirror image has not.
    """
    spans = [(max(0, -window.first), window.end) for window in batch]
    stems = [w.spectra.new_zeros(settings.samples * len(model.sources), *w.spectra.shape) for w in batch]
    for start, end in set(spans):
        own = [i for i, span in enumerate(spans) if span == (start, end)]
        rows = torch.cat([batch[i].spectra[:, start:end] for i in own])
        first = [batch[i].first + start for i in own for _ in batch[i].spectra]
        found = separate_samples(rows, model, settings, first=first)
        for i, part in zip(own, found.chunk(len(own)), strict=True):
            stems[i][..., start:end] = part.permute(1, 2, 0, 3).flatten(0, 1)
    return stems


@torch.no_grad()
def separate_samples(
    mix_ct: Tensor, model: Model, settings: Settings, *, first: Sequence[int] | None = None
) -> Tensor:
    """Stems of mono mixtures (c, t) at the priors' rate and level: (c, s, k, t); each of the s sums to its mixture.

    With SGLD the best of its chains, by log p(s_1) + ... + log p(s_K) at the last noise level; with
    `settings.samples` each sample is a chain of its own. `first` numbers each mixture's first sample in its track.
    """
    c, t = mix_ct.shape
    multiple = multiple_of(model)
    padded = torch.nn.functional.pad(mix_ct, (0, -t % multiple))[:, None]
    first = first or [0] * c
    if settings.method == "encoder":
        stems = encoder_stems(padded, first, model, settings)
    else:
        stems = sgld_stems(padded, first, model, settings)
    return stems[..., :t]


def within_range(config: SgldConfig, model: Model) -> SgldConfig:
    """The same with noise levels that every prior has been trained on."""
    own = [prior.config for prior in model.priors.values() if isinstance(prior, WaveformPrior)]
    high = min([config.sigma_max, *(flow.sigma_max for flow in own)])
    low = max([config.sigma_min, *(flow.sigma_min for flow in own)])
    return replace(config, sigma_max=high, sigma_min=min(low, high))


def multiple_of(model: Model) -> int:
    """What a number of samples must be a multiple of for every network."""
    own = [prior.config.multiple for prior in model.priors.values() if isinstance(prior, WaveformPrior)]
    if isinstance(model.encoder, WaveformEncoder):
        own.append(model.encoder.config.squeeze)
    return math.lcm(*own)


def encoder_stems(mix_c1t: Tensor, first: Sequence[int], model: Model, settings: Settings) -> Tensor:
    """q's mean, or draws from q moved onto the mixture: (c, s, k, t)."""
    assert isinstance(model.encoder, WaveformEncoder)
    q = model.encoder(mix_c1t)
    if settings.samples == 1:
        mean: Tensor = q.mean
        return mean.transpose(1, 2)
    shape = (q.mean.shape[1], 1, q.mean.shape[3])
    draws = []
    for number in range(settings.samples):
        noise = [sgld.frame_noise(settings.seed, number, at, shape)(0) for at in first]
        draws.append(project(q.mean + q.log_std.exp() * torch.stack(noise), mix_c1t))
    return torch.cat(draws, 2).transpose(1, 2)


def sgld_stems(mix_c1t: Tensor, first: Sequence[int], model: Model, settings: Settings) -> Tensor:
    """Annealed Langevin on samples, all chains at once, at noise levels that the priors know: (c, s, k, t)."""
    config = within_range(settings.sgld, model)
    c, k, t = len(mix_c1t), len(model.sources), mix_c1t.shape[-1]
    chains = settings.samples if settings.samples > 1 else config.chains
    mixes = mix_c1t.repeat_interleave(chains, 0)  # (c chains, 1, t)
    if settings.init == "encoder":
        assert isinstance(model.encoder, WaveformEncoder)
        start = model.encoder(mixes).mean
    else:
        start = project(mixes.new_zeros(len(mixes), k, 1, t), mixes)
    priors = [DefensivePrior(p) if isinstance(p, WaveformPrior) else p for p in model.priors.values()]
    posterior = Posterior(priors, SumLikelihood(mixes, config.gamma), config.likelihood, config.denoise)
    noises = [
        sgld.frame_noise(settings.seed, chain, at, (k, 1, t)) for at in first for chain in range(chains)
    ]

    def noise(number: int) -> Tensor:
        return torch.stack([draw(number) for draw in noises]).to(start)

    late = config.levels * config.steps - min(config.average, config.levels * config.steps)
    total, count = torch.zeros_like(start), 0
    for state, info in sgld.anneal(start, posterior, config, noise):
        if state.step > late:
            total, count = total + info.denoised, count + 1
    stems = project(total / count, mixes)
    by_chain = stems.reshape(c, chains, k, t)
    if settings.samples > 1 or chains == 1:
        return by_chain
    fit = sum(
        (prior.log_prob(stems[:, i], config.sigma_min) for i, prior in enumerate(model.priors.values())),
        start=torch.zeros(len(stems)),
    )
    best: Tensor = by_chain[torch.arange(c), fit.reshape(c, chains).argmax(1)]
    return best[:, None]
