"""Simulated mixtures of solo recordings: the model's own draws, of recordings that are independent of one another.

A recording of several sources together, in unknown shares, may stand in for these sources: a set.

Shape suffixes: b batch, k stem, p part (a stem, or a set of stems known only by its sum), g signal of a simulated
mixture, c plane or audio channel, d band, n frame, t sample.

The squared error of a mask needs sums over each band only, and all of those follow from the signals' Gram sums
sum_f Re(S_i S_j*), so one STFT of each signal gives many mixtures (new gains, signs, places, silences).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..recordings.banks import SampleBank
from .production import (
    band_centres,
    compressor_gains,
    equaliser_gains,
    high_pass_gains,
    phrases,
)
from .spectrum import Spectrum, pairs_of
from .stretches import SetBank, Signals, draw_set, draw_solos

__all__ = ["Mixtures", "central_shares", "concatenate", "simulate"]

TILE = 128  # frames whose products stay in a processor's cache
REPLAYED = 96  # draws of stretches that a simulator keeps, to mix them anew
# share of songs in which the first sound of a source stands in the middle, and of any other sound
CENTRAL, ANYWHERE = {"vocals": 0.9, "drums": 0.9, "bass": 0.95}, 0.45


@dataclass(frozen=True, slots=True)
class Mixtures:
    """A batch of simulated stereo mixtures of RMS about 1, by their sums over each band's bins.

    mix_bcdn: mean power of left, right, mid and side in each band (c = 4). total_bdn: P = sum |M|^2 over bins and
    the two channels; cross_bpdn: C_p = sum Re(S_p M*); power_bpdn: Q_p = sum |S_p|^2. The squared error of a
    mask g is g^2 P - 2 g C + Q. member_bpk: 1 where stem k belongs to part p. There are as many parts as stems: part
    k is stem k alone, or the set whose first member is stem k; the rows of its other members are 0.
    """

    mix_bcdn: Tensor
    total_bdn: Tensor
    cross_bpdn: Tensor
    power_bpdn: Tensor
    member_bpk: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Mixtures:
        """Apply a function to each tensor."""
        return Mixtures(*(function(getattr(self, name)) for name in self.__dataclass_fields__))

    def to(self, device: torch.device, non_blocking: bool = False) -> Mixtures:
        """These mixtures on a device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Mixtures:
        """These mixtures in memory that a GPU copies from in the background."""
        return self.map(lambda tensor: tensor.pin_memory())

    def chunk(self, parts: int) -> list[Mixtures]:
        """These mixtures as up to so many batches."""
        tensors = [getattr(self, name).chunk(parts) for name in self.__dataclass_fields__]
        return [Mixtures(*part) for part in zip(*tensors, strict=True)]


def concatenate(batches: Sequence[Mixtures]) -> Mixtures:
    """Join several batches."""
    names = Mixtures.__dataclass_fields__
    return Mixtures(*(torch.cat([getattr(m, name) for m in batches]) for name in names))


def simulate(
    banks: Sequence[SampleBank],
    spectrum: Spectrum,
    *,
    frames: int,
    batch: int,
    rng: torch.Generator,
    extra: int = 5,
    augment: bool = True,
    sets: Sequence[SetBank] = (),
    set_share: float = 0.0,
    central: Sequence[float] | None = None,
) -> Iterator[Mixtures]:
    """Endless batches of simulated mixtures: the model's own draws, of recordings independent of one another.

    Every batch is `batch` mixtures of the same g = len(banks) + extra signals, placed by the banks' `central_shares`.
    With `augment` most of the extra ones make another one wide: they are added on the left and subtracted on the
    right. The rest are second parts of sources. Half of the batches mix signals anew that were heard before: other
    equalisation, levels, signs and places. A share `set_share` of the batches has one of the `sets` in both channels,
    and the sources outside it from `banks`. With `augment` the sounds of half of the draws are played in time and in
    key with one another (`Beat`).
    """
    random = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng)))
    length = (frames + 3) * spectrum.hop
    central_k = np.full(len(banks), ANYWHERE) if central is None else np.asarray(central)
    heard: list[tuple[Signals, Tensor]] = []
    while True:
        if len(heard) == REPLAYED and random.random() < 0.5:
            signals, gram = heard[random.integers(REPLAYED)]
        else:
            if sets and random.random() < set_share:
                signals, drawn = draw_set(banks, sets, extra, length, spectrum.rate, random, augment)
            else:
                signals, drawn = draw_solos(banks, extra, length, spectrum.rate, random, augment)
            gram = gram_sums(spectrum.stft(torch.from_numpy(drawn)), spectrum)
            if augment and len(heard) < REPLAYED:
                heard.append((signals, gram))
            elif augment:
                heard[random.integers(REPLAYED)] = signals, gram
        mixed = gram
        if augment and random.random() < 0.6:  # as from a studio; else as the instruments sounded
            gain = equaliser_gains(len(signals.source), spectrum, random)
            gain = gain * high_pass_gains(
                gram.diagonal().movedim(-1, 0) * gain[..., None] ** 2, spectrum, random
            )
            gain = gain[signals.middle]
            if signals.members:  # both channels alike, and a whole record keeps its low end
                gain[-2:] = equaliser_gains(1, spectrum, random)
            mixed = gram * (gain[:, None] * gain)[..., None]
        if augment:  # but for a set, which has been arranged and mixed
            powers_gn = mixed.diagonal().sum(0).T[: len(mixed) - 2 * bool(signals.members)]
            gain_gn = mixed.new_ones(len(mixed), mixed.shape[-1])
            entries_gn = phrases(len(powers_gn), mixed.shape[-1], spectrum, random)
            middle = signals.middle[: len(powers_gn)]
            gain_gn[: len(powers_gn)] = (entries_gn * compressor_gains(powers_gn, 0.8, random))[middle]
            mixed = mixed * (gain_gn[:, None] * gain_gn)[:, :, None]
        make = set_gains if signals.members else random_gains
        gains = torch.from_numpy(make(signals.source, signals.middle, central_k, batch, random))
        batch_of = mixtures(
            mixed, gains, torch.from_numpy(signals.source), len(banks), spectrum.count_d, signals.members
        )
        yield normalise_levels(master(batch_of, spectrum, random) if augment else batch_of, random, spectrum)


def gram_sums(spectra_gfn: Tensor, spectrum: Spectrum) -> Tensor:
    """sum over each band's bins of Re(S_i S_j*): complex (g, f, n) -> (g, g, d, n), symmetric."""
    g = len(spectra_gfn)
    parts = []
    for pairs in torch.split(pairs_of(spectra_gfn), TILE, -2):
        part = pairs.new_empty(g, g, spectrum.bands, pairs.shape[-2])
        for i in range(g):
            sums = spectrum.pair_means(pairs[i:] * pairs[i]) * spectrum.count_d[:, None]
            part[i, i:], part[i:, i] = sums, sums
        parts.append(part)
    return torch.cat(parts, -1)


def mixtures(
    gram: Tensor, gains: Tensor, source: Tensor, stems: int, count_d: Tensor, members: Sequence[int] = ()
) -> Mixtures:
    """Mixtures of g signals by gains (b, 2, g) for left and right; `source` (g,) says whose each signal is.

    Signals of the first of several `members` are those of all of them.
    """
    owner = torch.nn.functional.one_hot(source, stems).to(gains).T  # (k, g)
    both = gram.flatten(2)
    parts = torch.einsum("bcg,kg->bckg", gains, owner)
    # sums of S_kc M_c* and S_kc S_kc*, from the Gram sums alone
    mixed = torch.einsum("bch,ghx->bcgx", gains, both)
    cross = torch.einsum("bckg,bcgx->bckx", parts, mixed)
    own = torch.einsum("bckg,bckh,ghx->bkx", parts, parts, both)
    total_c = cross.sum(2)
    middle = torch.einsum("bg,bh,ghx->bx", gains[:, 0], gains[:, 1], both)  # sum Re(L R*)
    left, right = total_c[:, 0], total_c[:, 1]
    mid, side = (left + right + 2 * middle) / 2, (left + right - 2 * middle) / 2
    shape = gram.shape[2:]
    planes = torch.stack([left, right, mid, side], 1).clamp_min(0)
    mix = planes.reshape(*planes.shape[:2], *shape) / count_d[:, None]
    member = torch.eye(stems)
    if members:
        member[list(members)] = 0
        member[members[0], list(members)] = 1
    return Mixtures(
        mix,
        (left + right).clamp_min(0).reshape(-1, *shape),
        cross.sum(1).reshape(*own.shape[:2], *shape),
        own.clamp_min(0).reshape(*own.shape[:2], *shape),  # parts that cancel leave rounding errors
        member.expand(len(gains), -1, -1),
    )


def central_shares(sources: Sequence[str]) -> list[float]:
    """How often the first sound of each source stands in the middle: a singer, drums and a bass nearly always."""
    return [CENTRAL.get(source, ANYWHERE) for source in sources]


def is_first(source_g: np.ndarray) -> np.ndarray:
    """Whether a signal is the first of its source: (g,)."""
    return np.isin(np.arange(len(source_g)), np.unique(source_g, return_index=True)[1])


def random_gains(
    source: np.ndarray, middle: np.ndarray, central_k: np.ndarray, batch: int, random: np.random.Generator
) -> np.ndarray:
    """Gains (batch, 2, g): a level, sign and place between left and right for each signal; some sources absent.

    The first signal of source k stands in the middle in a share central_k of the mixtures.
    """
    g, stems = len(source), len(central_k)
    level = 10 ** ((random.normal(-6, 6, (batch, stems)).clip(-24, 8)) / 20)
    level *= random.random((batch, stems)) > 0.12
    only = random.random(batch) < 0.04
    level[only] *= np.eye(stems)[random.integers(stems, size=only.sum())]
    own = 10 ** (random.normal(0, 2, (batch, g)) / 20) * random.choice([-1.0, 1.0], (batch, g))
    extra = np.arange(g) >= stems  # a second part of a source: another voice, a double
    own *= np.where(extra, random.random((batch, g)) < 0.6, True)
    central = np.where(is_first(source), central_k[source], ANYWHERE)
    pan = np.where(random.random((batch, g)) < central, 0, random.uniform(-0.9, 0.9, (batch, g)))
    pan = np.where(random.random((batch, 1)) < 0.3, 0, pan)  # mono songs
    angle = (pan + 1) * np.pi / 4
    gains = (level[:, source] * own)[:, None] * np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], 1)
    return widened(gains, middle, random)


def widened(gains: np.ndarray, middle: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Gains (batch, 2, g) where signals that make others wide are added on the left and subtracted on the right.

    They lie about 10 dB below those. A mixture whose channels are the same otherwise stays mono.
    """
    gains = gains.astype(np.float32)
    stereo = (gains[:, 0] != gains[:, 1]).any(1)
    for i in np.flatnonzero(middle != np.arange(len(middle))):
        width = 10 ** (random.normal(-10, 6, len(gains)).clip(-24, 0) / 20)
        width *= stereo & (random.random(len(gains)) < 0.8)
        level = width * np.sqrt(np.square(gains[:, :, middle[i]]).mean(1))
        gains[:, :, i] = np.stack([level, -level], 1)
    return gains


def set_gains(
    source: np.ndarray, middle: np.ndarray, central_k: np.ndarray, batch: int, random: np.random.Generator
) -> np.ndarray:
    """`random_gains` where the last two signals are the channels of a set: both kept, perhaps swapped, one level.

    The sources outside it lie about 5 dB below it, as a singer does, and a third of the time they are silent.
    """
    g = len(source)
    gains = random_gains(source, np.arange(g), central_k, batch, random)
    outside = source[:-2]
    level = 10 ** (random.normal(-5, 4.5, (batch, len(central_k))).clip(-24, 8) / 20)
    level *= random.random((batch, len(central_k))) > 0.25
    power = np.square(gains[:, :, :-2]).mean(1, keepdims=True)
    place = gains[:, :, :-2] / np.sqrt(np.where(power > 0, power, 1))
    second = np.where(is_first(outside), True, random.random((batch, g - 2)) < 0.3)
    gains[:, :, :-2] = place * (level[:, outside] * second)[:, None]
    swap = random.random(batch) < 0.5
    sign = random.choice([-1.0, 1.0], batch)
    gains[:, :, -2:] = np.where(swap[:, None, None], np.eye(2)[::-1], np.eye(2)) * sign[:, None, None]
    alone = random.random(batch) < 0.06  # the sources outside, with nothing else
    gains[alone, :, -2:] = 0
    return widened(gains, middle, random)


def master(m: Mixtures, spectrum: Spectrum, random: np.random.Generator) -> Mixtures:
    """Compress some of the mixtures as a whole, and leave others nothing above 11 to 19 kHz, as lossy codecs do."""
    gain_bn = compressor_gains(m.total_bdn.sum(1), 0.6, random)
    cutoff = np.where(random.random(len(gain_bn)) < 0.15, random.uniform(11e3, 19e3, len(gain_bn)), np.inf)
    above_bd = torch.from_numpy(band_centres(spectrum) * spectrum.rate / 2 > cutoff[:, None])
    return scaled(m, gain_bn[:, None] ** 2 * torch.where(above_bd, 1e-6, 1.0)[..., None])


def scaled(m: Mixtures, power_bdn: Tensor) -> Mixtures:
    """Mixtures and all that they are made of, by a factor of power."""
    return replace(
        m, mix_bcdn=m.mix_bcdn * power_bdn[:, None], total_bdn=m.total_bdn * power_bdn,
        cross_bpdn=m.cross_bpdn * power_bdn[:, None], power_bpdn=m.power_bpdn * power_bdn[:, None],
    )  # fmt: skip


def normalise_levels(m: Mixtures, random: np.random.Generator, spectrum: Spectrum) -> Mixtures:
    """Bring each mixture to RMS 1, give or take: a stretch of a song need not be as loud as the whole."""
    rms2 = m.total_bdn.sum(1).mean(1) / (2 * spectrum.n_fft / 2)
    scale = torch.from_numpy(
        10 ** (random.normal(0, 3, len(rms2)).clip(-15, 6) / 10)
    ).float() / rms2.clamp_min(1e-8)
    return scaled(m, scale[:, None, None])
