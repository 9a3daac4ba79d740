"""The whole route: samples -> one gain -> frames -> windows -> sampler or encoder -> masks -> stems.

Shape suffixes: b batch, k stem, c audio channel, t sample, f bin, d band, n frame. Streams in, streams out:
memory does not grow with the track.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from .audio.resampling import resample_blocks
from .errors import DeepsepError
from .inference import chunks
from .inference.mixture import project
from .models.folder import Model
from .spectral.encoder import Encoder
from .spectral.infer import Settings, estimates_of
from .spectral.spectrum import Spectrum
from .waveform.infer import window_stems

__all__ = ["separate_blocks"]

CORE = 256  # frames of a window that count, about; more where the context is wide
SGLD_CONTEXT = 64
SGLD_FADE = 32


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

    low = (
        torch.from_numpy(piece / gain).float().to(settings.device)
        for piece in resample_blocks(heard(), rate, own)
    )
    context = model.waveform.window // 8
    core = model.waveform.window - 2 * context
    estimates = (
        pair
        for batch in chunks.batched(chunks.windows(low, core, context), settings.batch_size)
        for pair in zip(batch, window_stems(batch, model, settings), strict=True)
    )
    joined = chunks.join(estimates, core, context, context)
    flat = ((stems.flatten(0, 1) * gain).cpu().numpy() for _, stems in joined)
    done = 0
    for piece in resample_blocks(flat, own, rate):
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
