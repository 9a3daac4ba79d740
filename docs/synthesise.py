"""Writes synthetic solo recordings of basses and of accompanying instruments, to train priors on.

Usage: python docs/synthesise.py OUT [--minutes 60] [--seed 0] [--samples SAMPLES]

OUT/bass and OUT/other get FLAC files of 30 s: random lines, chords and arpeggios played by random voices. A voice is
additive: plucked strings with their modes' own decays, filtered saws, squares and triangles, detuned stacks, FM, booms
that glide; then drive, chorus, tremolo, a side-chain's pumping. General MIDI alone teaches too narrow a bass.

With --samples the voices are recorded instruments instead: SAMPLES/bass/INSTRUMENT/, SAMPLES/other/INSTRUMENT/ hold
single notes named by their pitch (A2.mp3, Cs3.mp3, Ds3.wav). Guitars also play muted power chords through an amplifier.
"""

import argparse
import re
from pathlib import Path

import numpy as np
import soundfile
import soxr

RATE = 44100
SCALES = ([0, 2, 3, 5, 7, 8, 10], [0, 2, 4, 5, 7, 9, 11], [0, 3, 5, 6, 7, 10], [0, 2, 4, 7, 9])


def instruments(folder: Path) -> dict[str, dict[int, np.ndarray]]:
    """Sampled instruments: for each, its notes by MIDI pitch, mono, peak 1, without the silence before them."""
    found = {}
    for instrument in sorted(p for p in folder.iterdir() if p.is_dir()):
        notes = {}
        for path in sorted(instrument.iterdir()):
            match = re.fullmatch(r"([A-G])(s|#|b?)(-?\d)", path.stem)
            if not match:
                continue
            x, rate = soundfile.read(path, dtype="float32", always_2d=True)
            x = soxr.resample(x.mean(1), rate, RATE)
            loud = np.flatnonzero(np.abs(x) > 0.02 * np.abs(x).max())
            if len(loud):
                step = {"s": 1, "#": 1, "b": -1, "": 0}[match[2]]
                pitch = 12 + 12 * int(match[3]) + "C D EF G A B".index(match[1]) + step
                notes[pitch] = x[max(0, loud[0] - 200) :] / np.abs(x).max()
        if notes:
            found[instrument.name] = notes
    return found


def sampled(v: dict, pitch: float, seconds: float, random: np.random.Generator) -> np.ndarray:
    """One note of a sampled voice: the nearest sample played faster or slower, damped, soft notes duller."""
    nearest = min(v["notes"], key=lambda p: abs(p - pitch))
    speed = 2 ** ((pitch - nearest + random.normal(0, 0.06)) / 12)
    x = v["notes"][nearest][: int((seconds + v["release"]) * RATE * speed) + 64]
    x = soxr.resample(x, RATE * speed, RATE, "LQ")[: int((seconds + v["release"]) * RATE)]
    t = np.arange(len(x)) / RATE
    fade = np.minimum(1, np.maximum(0, (seconds + v["release"] - t) / v["release"]))
    if v["mute"]:
        fade = fade * np.exp(-t / v["mute"])
    if random.random() < v["dull"]:
        spectrum = np.fft.rfft(x) / (1 + 1j * np.fft.rfftfreq(len(x), 1 / RATE) / random.uniform(400, 3000))
        x = np.fft.irfft(spectrum, len(x))
    return x * fade


def voice(
    random: np.random.Generator, bass: bool, sampled_from: dict | None = None, only: list[str] | None = None
) -> dict:
    """A random instrument."""
    if sampled_from:
        name = str(random.choice(sorted(sampled_from)))
        return {
            "kind": "sampled",
            "name": name,
            "notes": sampled_from[name],
            "release": 10 ** random.uniform(-2, -0.5),
            "mute": random.choice([0, 0, 10 ** random.uniform(-1.4, 0)]),
            "dull": random.choice([0, 0.5, 1]),
        }
    kinds = ["pluck", "saw", "square", "triangle", "sine", "fm", "stack", *(["boom"] if bass else [])]
    kind = random.choice(only or kinds)
    return {
        "kind": kind,
        "bright": 2 ** random.uniform(0, 5.5 if bass else 5),  # cutoff over the fundamental
        "sweep": random.uniform(0, 2.5),  # octaves that the filter falls
        "sweep_time": 10 ** random.uniform(-1.7, -0.3),
        "order": random.choice([1, 2, 4]),
        "attack": 10 ** random.uniform(-3, -1.2 if bass or random.random() < 0.6 else -0.2),
        "decay": 10 ** random.uniform(-0.7, 0.6),
        "sustain": random.choice([0.0, 0.3, 0.8, 1.0]),
        "release": 10 ** random.uniform(-2, -0.7),
        "position": random.uniform(0.08, 0.45),
        "stiff": 10 ** random.uniform(-5.5, -3.7),
        "detune": random.uniform(2, 18) / 1200,
        "index": random.uniform(0.5, 5),
        "ratio": random.choice([0.5, 1, 1, 2, 3]),
        "vibrato": random.choice([0, 0, random.uniform(0.001, 0.008)]),
        "sub": random.choice([0, 0, random.uniform(0.3, 1)]),
        "noise": random.choice([0, random.uniform(0.02, 0.3)]),
        "glide": random.choice([0, random.uniform(-0.7, 1.5)]) if kind == "boom" else 0,  # octaves
        "glide_time": 10 ** random.uniform(-1.7, -0.4),
    }


def note(v: dict, f0: float, seconds: float, random: np.random.Generator) -> np.ndarray:
    """One note of a voice."""
    n = int((seconds + v["release"]) * RATE)
    t = np.arange(n) / RATE
    bend = 1 + v["vibrato"] * np.sin(2 * np.pi * random.uniform(4, 6.5) * t) * np.minimum(1, t / 0.3)
    bend = bend * 2 ** (v["glide"] * np.exp(-t / v["glide_time"]))
    phase = 2 * np.pi * f0 * np.cumsum(bend) / RATE
    if v["kind"] == "fm":
        index = v["index"] * np.exp(-t / v["sweep_time"] / 4)
        x = np.sin(phase + index * np.sin(v["ratio"] * phase))
    elif v["kind"] in ("sine", "boom"):
        x = np.sin(phase)
    else:
        h = np.arange(1, int(min(64, 14000 / f0)) + 1)
        start = random.uniform(0, 2 * np.pi, len(h)) if v["kind"] == "stack" else np.zeros(len(h))
        if v["kind"] == "pluck":
            level = np.sin(np.pi * h * v["position"]) / h**1.3
            mode = h * np.sqrt(1 + v["stiff"] * h**2)
            fall = np.exp(-np.outer(0.3 + 0.25 * h**1.2 * 4 / v["bright"] ** 0.5, t))
        else:
            level = {"saw": 1 / h, "square": (h % 2) / h, "triangle": (h % 2) / h**2, "stack": 1 / h}[
                v["kind"]
            ]
            mode = h
            cutoff = v["bright"] * 2 ** (v["sweep"] * (np.exp(-t / v["sweep_time"]) - 0.5))
            fall = 1 / np.sqrt(1 + (h[:, None] / cutoff) ** (2 * v["order"]))
        x = np.zeros(n)
        for shift in (-1, 0, 1) if v["kind"] == "stack" else (0,):
            x += (
                level[:, None]
                * fall
                * np.sin(np.outer(mode * (1 + shift * v["detune"]), phase) + start[:, None])
            ).sum(0)
    x += v["sub"] * np.sin(phase / 2 if f0 > 70 else phase)
    x += v["noise"] * random.standard_normal(n) * np.exp(-t / 0.012)
    envelope = np.minimum(1, t / v["attack"]) * (v["sustain"] + (1 - v["sustain"]) * np.exp(-t / v["decay"]))
    return x * envelope * np.minimum(1, np.maximum(0, (seconds + v["release"] - t) / v["release"]))


def line(
    random: np.random.Generator,
    bass: bool,
    seconds: int,
    sampled_from: dict | None = None,
    only: list[str] | None = None,
) -> np.ndarray:
    """A piece for one instrument."""
    v = voice(random, bass, sampled_from, only)
    guitar = "guitar" in v.get("name", "")
    out = np.zeros((seconds + 4) * RATE)
    step = 60 / random.uniform(75, 170) / random.choice([1, 2, 2, 4])
    scale, root = (
        SCALES[random.integers(len(SCALES))],
        random.integers(22 if v["kind"] == "boom" else 26, 40) if bass else random.integers(45, 64),
    )
    density, hold = random.uniform(0.35, 1), random.choice([0.5, 0.9, 1, 2, 4])
    pattern = random.random(16) < density
    style = "line" if bass else random.choice(["line", "chords", "chords", "arpeggio"])
    if guitar and random.random() < 0.5:
        style, root = "power", random.integers(38, 48)
    degree, at, number = 0, 0.0, 0
    while at < seconds:
        if number % 16 == 0:
            degree = int(random.integers(7))
        if pattern[number % 16]:
            length = max(0.05, step * hold * random.uniform(0.7, 1))
            if style == "line":
                jump = random.choice([0, 0, 0, 1, -1, 2, 4, len(scale)]) if random.random() < 0.6 else 0
                degrees = [degree + int(jump)]
            elif style == "arpeggio":
                degrees = [degree + 2 * (number % 4)]
            elif style == "power":
                degrees = [degree]
            else:
                degrees = [degree, degree + 2, degree + 4, *([degree + 6] if random.random() < 0.3 else [])]
            pitches = [root + 12 * (d // len(scale)) + scale[d % len(scale)] for d in degrees]
            if style == "power":
                pitches = [pitches[0], pitches[0] + 7, pitches[0] + 12]
            for i, pitch in enumerate(pitches):
                if v["kind"] == "sampled":
                    sound = sampled(v, pitch, min(length, 3), random)
                else:
                    sound = note(v, 440 * 2 ** ((pitch - 69) / 12), min(length, 3), random)
                sound = sound * random.uniform(0.6, 1)
                start = int((at + (0.012 * i if guitar else 0)) * RATE)
                out[start : start + len(sound)] += sound[: len(out) - start]
        at, number = at + step, number + 1
    out = out[: seconds * RATE] / (np.abs(out).max() + 1e-9)
    t = np.arange(len(out)) / RATE
    if random.random() < (0.7 if guitar else 0.35 if bass else 0.3):
        out = np.tanh(out * 10 ** random.uniform(0.2, 2.2 if guitar else 1.6))
        spectrum = np.fft.rfft(out)
        spectrum /= np.sqrt(1 + (np.fft.rfftfreq(len(out), 1 / RATE) / random.uniform(2500, 9000)) ** 4)
        out = np.fft.irfft(spectrum, len(out))
    if random.random() < 0.25:
        delay = (0.008 + 0.004 * np.sin(2 * np.pi * random.uniform(0.2, 1.5) * t)) * RATE
        out = out + 0.7 * np.interp(np.arange(len(out)) - delay, np.arange(len(out)), out)
    if random.random() < 0.25:
        out = out * (1 - random.uniform(0.4, 0.95) * np.exp(-((t / (4 * step)) % 1) * random.uniform(3, 10)))
    return 0.8 * out / (np.abs(out).max() + 1e-9)


def main() -> None:
    """Writes the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=60, help="of each source")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=Path, help="play these instruments' notes instead")
    parser.add_argument("--kinds", help="only these kinds of voices, as in boom,sine")
    args = parser.parse_args()
    only = args.kinds.split(",") if args.kinds else None
    for number, source in enumerate(("bass", "other")):
        if args.samples and not (args.samples / source).is_dir():
            continue
        random = np.random.default_rng([args.seed, number])
        (args.out / source).mkdir(parents=True, exist_ok=True)
        recorded = instruments(args.samples / source) if args.samples else None
        for i in range(round(args.minutes * 2)):
            piece = line(random, source == "bass", 30, recorded, only)
            soundfile.write(args.out / source / f"synth_{i:04d}.flac", piece, RATE)


if __name__ == "__main__":
    main()
