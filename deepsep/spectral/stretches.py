"""Stretches of solo recordings and of sets, drawn at random, for mixtures to be simulated from.

Shape suffixes: g signal of a simulated mixture, c audio channel, t sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..audio.resampling import resample
from ..recordings.banks import SampleBank
from .production import add_drive_and_room, other_side
from .rhythm import Beat

__all__ = ["SetBank", "Signals", "draw_set", "draw_solos"]

IN_TIME = 0.5  # share of the mixtures whose sounds are played in time with one another
SIDED = 0.6  # share of the signals beyond one of each source that widen another


@dataclass(frozen=True, slots=True)
class SetBank:
    """Recordings of several sources together: the numbers of these sources, in order, and the recordings."""

    members: tuple[int, ...]
    bank: SampleBank


@dataclass(frozen=True, slots=True)
class Signals:
    """Whose each signal is, the signal that it makes wide (itself, if none), and the members of a set.

    A set's left and right channel are the last two signals.
    """

    source: np.ndarray
    middle: np.ndarray
    members: tuple[int, ...] = ()


def draw_solos(
    banks: Sequence[SampleBank],
    extra: int,
    length: int,
    rate: int,
    random: np.random.Generator,
    augment: bool,
) -> tuple[Signals, np.ndarray]:
    """Draw a stretch of every source and `extra` of any: float32 (g, length)."""
    source = np.concatenate([np.arange(len(banks)), random.integers(len(banks), size=extra)])
    middle = draw_middles(len(banks), extra, random, augment)
    source = source[middle]
    beat = draw_beat(length, rate, random, augment)
    return Signals(source, middle), draw_signals(banks, source, middle, length, rate, random, augment, beat)


def draw_set(
    banks: Sequence[SampleBank],
    sets: Sequence[SetBank],
    extra: int,
    length: int,
    rate: int,
    random: np.random.Generator,
    augment: bool,
) -> tuple[Signals, np.ndarray]:
    """Draw a stretch of each source outside of one set, `extra` of any of these, then the set's two channels."""
    weight = np.cbrt([part.bank.hours for part in sets])  # as folders of one source are drawn
    chosen = sets[int(random.choice(len(sets), p=weight / weight.sum()))]
    outside = np.array([k for k in range(len(banks)) if k not in chosen.members])
    middle = draw_middles(len(outside), extra, random, augment)
    source = np.concatenate([outside, random.choice(outside, extra)])[middle]
    both = draw_stereo_stretch(chosen.bank, length, rate, random, 2 * augment)
    beat = draw_beat(length, rate, random, augment)
    if beat:
        beat.add(both)
    solos = draw_signals(banks, source, middle, length, rate, random, augment, beat)
    whose = np.concatenate([source, [chosen.members[0]] * 2])
    middle = np.concatenate([middle, np.arange(2) + len(middle)])
    return Signals(whose, middle, chosen.members), np.concatenate([solos, both])


def draw_beat(length: int, rate: int, random: np.random.Generator, augment: bool) -> Beat | None:
    """A beat for some of the mixtures' sounds to be in time with."""
    return Beat(length, rate) if augment and random.random() < IN_TIME else None


def draw_middles(first: int, extra: int, random: np.random.Generator, augment: bool) -> np.ndarray:
    """The signal that each of `first` + `extra` makes wide: some of the extra one of the first each; else itself."""
    middle = np.arange(first + extra)
    for i in range(first, first + extra) if augment else ():
        wide = random.integers(first)
        if random.random() < SIDED and wide not in middle[first:i]:
            middle[i] = wide
    return middle


def draw_signals(
    banks: Sequence[SampleBank],
    source: np.ndarray,
    middle: np.ndarray,
    length: int,
    rate: int,
    random: np.random.Generator,
    augment: bool,
    beat: Beat | None,
) -> np.ndarray:
    """Draw a stretch for each signal, float32 (g, length): of its source, or of what makes another one wide.

    With a `beat` each is played in time with what was drawn before, in random order.
    """
    drawn = np.empty((len(source), length), np.float32)
    whole = np.flatnonzero(middle == np.arange(len(middle)))
    for i in random.permutation(whole) if beat else whole:
        bank = banks[source[i]]
        sides = np.flatnonzero(middle == i)[1:]
        if len(sides):
            drawn[[i, sides[0]]] = draw_wide_stretch(bank, length, rate, random, beat)
        else:
            drawn[i] = draw_stretch(bank, length, rate, random, augment, beat)
        if beat:
            beat.add(drawn[[i]])
    return drawn


def draw_stretch(
    bank: SampleBank, length: int, rate: int, random: np.random.Generator, augment: bool, beat: Beat | None
) -> np.ndarray:
    """Draw a stretch of one channel, float32 (length,); with `augment` at another speed, with drive and room."""
    x = at_some_speed(lambda n: bank.draw(n, random)[None], length, rate, random, 3.5 * augment, beat)[0]
    return fit(add_drive_and_room(x, rate, random) if augment else x, length)


def draw_wide_stretch(
    bank: SampleBank, length: int, rate: int, random: np.random.Generator, beat: Beat | None
) -> np.ndarray:
    """Draw the middle of a stretch and what makes it wide, as loud as the middle: float32 (2, length).

    The latter is half the difference of the recording's channels, or made up where there is one, or two alike.
    """
    left, right = draw_stereo_stretch(bank, length, rate, random, 3.5, beat)
    middle, side = (left + right) / 2, (left - right) / 2
    if np.square(side).sum() < 1e-3 * np.square(middle).sum():
        middle = add_drive_and_room(middle, rate, random)
        side = other_side(middle, rate, random)
    energy = np.square(side).sum()
    return np.stack([middle, side * np.sqrt(np.square(middle).sum() / energy if energy else 0)])


def draw_stereo_stretch(
    bank: SampleBank,
    length: int,
    rate: int,
    random: np.random.Generator,
    semitones: float,
    beat: Beat | None = None,
) -> np.ndarray:
    """Draw a stretch of both channels, float32 (2, length), played up to `semitones` higher or lower."""
    x = at_some_speed(lambda n: bank.draw_stereo(n, random), length, rate, random, semitones, beat)
    return fit(x, length)


def at_some_speed(
    draw: Callable[[int], np.ndarray],
    length: int,
    rate: int,
    random: np.random.Generator,
    semitones: float,
    beat: Beat | None,
) -> np.ndarray:
    """Draw so many samples (c, n) that, played up to `semitones` higher or lower, they are about `length` or more.

    With a `beat` that anything has been added to, they are in time with that; else at any speed.
    """
    if not semitones:
        return draw(length + 64)
    if beat and beat.onsets_n.any():
        drawn = draw(beat.needed(semitones))
        speed, start = beat.in_time(drawn, semitones)
        drawn = drawn[:, int(start * speed) :][:, : int(length * speed) + 64]
    else:
        speed = 2 ** (random.uniform(-semitones, semitones) / 12)
        drawn = draw(int(length * speed) + 64)
    return resample(drawn, round(rate * speed), rate)


def fit(samples: np.ndarray, length: int) -> np.ndarray:
    """Cut samples (..., t) to `length`, or fill them with silence."""
    missing = max(0, length - samples.shape[-1])
    return np.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(0, missing)])[..., :length]
