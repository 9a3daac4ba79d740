"""Singers made of those there are, by WORLD's analysis and resynthesis (Morise et al. 2016); used by collect.py."""

import numpy as np
import pyworld

RATE = 44100  # Hz
FRAME = 8.0  # ms, of the analysis
SCALE = (0, 2, 4, 5, 7, 9, 11)  # semitones


def analyse(samples: np.ndarray, highest: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pitch in Hz up to `highest` (0 where there is none), time in s, envelope and breath of each frame."""
    f0, t = pyworld.dio(samples, RATE, f0_floor=70, f0_ceil=highest, frame_period=FRAME)
    f0 = pyworld.stonemask(samples, f0, t, RATE)
    return f0, t, pyworld.cheaptrick(samples, f0, t, RATE), pyworld.d4c(samples, f0, t, RATE)


def other_singer(samples: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A phrase sung by somebody else, or by several, by WORLD's resynthesis (Morise et al. 2016)."""
    x = samples.astype(np.float64)
    f0, t, envelope, breath = analyse(x, 1000)
    shift, formant = random.uniform(-5, 5), float(np.exp(random.uniform(np.log(0.8), np.log(1.25))))
    style = str(random.choice(["plain", "breathy", "rough", "choir"], p=[0.45, 0.12, 0.15, 0.28]))
    if style == "breathy":
        breath = np.maximum(breath, random.uniform(0.4, 1.0))
    steps = [0.0]
    if style == "choir":
        chord = [[0, 4, 7], [0, 3, 7], [0, -5], [0, 12], [0, 3], [0, 4], [0, 0, 0], [0, -12]]
        steps = [s + random.normal(0, 0.08) for s in chord[int(random.integers(len(chord)))]]
    mixed = np.zeros(len(x) + RATE)
    for i, step in enumerate(steps):
        own = formant * (random.uniform(0.93, 1.07) if i else 1.0)
        drift = np.interp(
            t, np.linspace(0, t[-1] + 1, 12), random.normal(0, 0.12 if len(steps) > 1 else 0.05, 12)
        )
        moved = f0 * 2 ** ((shift + step + drift) / 12)
        if style == "rough":
            moved = moved * 2 ** (random.normal(0, 0.5, len(moved)) / 12)
        y = pyworld.synthesize(moved, warp(envelope, own), breath, RATE, FRAME)
        at = int(random.uniform(0, 0.03) * RATE) if i else 0
        mixed[at : at + len(y)] += y * (random.uniform(0.5, 1.0) if i else 1.0)
    y = mixed[: len(x)]
    y /= np.abs(y).max() + 1e-9
    if random.random() < 0.5:  # compressed
        level = np.sqrt(np.convolve(y**2, np.ones(2000) / 2000, "same")) + 0.02
        y = y * level ** -random.uniform(0.2, 0.6)
        y /= np.abs(y).max()
    if style == "rough" or random.random() < 0.1:
        drive = 10 ** random.uniform(0.3, 1.3)
        y = np.tanh(drive * y)
    result: np.ndarray = y.astype(np.float32)
    return result


def warp(envelope: np.ndarray, factor: float) -> np.ndarray:
    """Spectral envelopes (n, f) with their formants at `factor` times the frequency."""
    at = np.arange(envelope.shape[1]) / factor
    low = np.minimum(at.astype(int), envelope.shape[1] - 2)
    share = np.clip(at - low, 0, 1)
    log = np.log(envelope + 1e-16)
    return np.ascontiguousarray(np.exp(log[:, low] * (1 - share) + log[:, low + 1] * share))


def sing(samples: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Spoken words as if sung by the same speaker: vowels held, each on a note of a scale, with glides and vibrato.

    Samples are mono at RATE; where nothing in them has a pitch they come back as they are.
    """
    f0, _, envelope, breath = analyse(samples.astype(np.float64), 500)
    voiced = f0 > 0
    if voiced.sum() < 8:
        return samples
    held = np.where(voiced, random.uniform(1.5, 4.5), 1.0)
    at = np.interp(np.arange(held.sum()), np.cumsum(held) - held, np.arange(len(held))).round().astype(int)
    root = 12 * np.log2(np.median(f0[voiced])) + random.uniform(0, 7)
    pitch = np.interp(np.arange(len(at)), *melody(voiced[at], root, random))
    time = np.arange(len(at)) * FRAME / 1000
    pitch += random.uniform(0.1, 0.5) * np.sin(2 * np.pi * random.uniform(4.5, 6.5) * time)
    sung = np.where(voiced[at], 2 ** (pitch / 12), 0.0)
    y: np.ndarray = pyworld.synthesize(sung, envelope[at], breath[at], RATE, FRAME)
    return y.astype(np.float32)


def melody(voiced: np.ndarray, root: float, random: np.random.Generator) -> tuple[list[float], list[float]]:
    """Frames and their pitches in semitones, to draw lines between: a note for each voiced stretch, long ones two."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], voiced.astype(int), [0]])))
    frames, pitches, degree = [], [], 0
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        notes = 2 if end - start > 60 and random.random() < 0.5 else 1
        for i in range(notes):
            degree = int(np.clip(degree + random.integers(-2, 3), -3, 7))
            pitch = root + 12 * (degree // 7) + SCALE[degree % 7]
            first, last = start + (end - start) * np.array([i, i + 1]) / notes
            glide = min(6.0, (last - first) / 3)
            frames += [first + glide, last - glide]
            pitches += [pitch, pitch]
    return frames, pitches
