"""Writes synthetic solo recordings of basses and of accompanying instruments, to train priors on.

Usage: python scripts/synthesise.py OUT [--minutes 60] [--seed 0] [--samples SAMPLES]

OUT/bass and OUT/other get FLAC files of 30 s: random lines, chords and arpeggios played by random voices. A voice is
additive: plucked strings with their modes' own decays, filtered saws, squares and triangles, detuned stacks, FM, booms
that glide; then drive, chorus, tremolo, a side-chain's pumping. General MIDI alone teaches too narrow a bass.
OUT/drums gets beats on kits of synthetic drums: gliding sines, rings, bursts and hisses of noise.

With --samples the voices are recorded instruments instead: SAMPLES/bass/INSTRUMENT/, SAMPLES/other/INSTRUMENT/ hold
single notes named by their pitch (A2.mp3, Cs3.mp3, Ds3.wav), SAMPLES/drums/ROLE/ single hits, ROLE being kick, snare,
hat, open, tom, crash, ride or perc. Guitars also play muted power chords through an amplifier.
"""

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

RATE = 44100
ROLES = ("kick", "snare", "hat", "open", "tom", "crash", "ride", "perc")
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


def sampled(v: dict[str, Any], pitch: float, seconds: float, random: np.random.Generator) -> np.ndarray:
    """One note of a sampled voice: the nearest sample played faster or slower, damped, soft notes duller."""
    nearest = min(v["notes"], key=lambda p: abs(p - pitch))
    speed = 2 ** ((pitch - nearest + random.normal(0, 0.06)) / 12)
    x: np.ndarray = v["notes"][nearest][: int((seconds + v["release"]) * RATE * speed) + 64]
    x = soxr.resample(x, RATE * speed, RATE, "LQ")[: int((seconds + v["release"]) * RATE)]
    t = np.arange(len(x)) / RATE
    fade = np.minimum(1, np.maximum(0, (seconds + v["release"] - t) / v["release"]))
    if v["mute"]:
        fade = fade * np.exp(-t / v["mute"])
    if random.random() < v["dull"]:
        spectrum = np.fft.rfft(x) / (1 + 1j * np.fft.rfftfreq(len(x), 1 / RATE) / random.uniform(400, 3000))
        x = np.fft.irfft(spectrum, len(x))
    damped: np.ndarray = x * fade
    return damped


def voice(
    random: np.random.Generator,
    bass: bool,
    sampled_from: dict[str, Any] | None = None,
    only: list[str] | None = None,
) -> dict[str, Any]:
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


def note(v: dict[str, Any], f0: float, seconds: float, random: np.random.Generator) -> np.ndarray:
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
    sound: np.ndarray = (
        x * envelope * np.minimum(1, np.maximum(0, (seconds + v["release"] - t) / v["release"]))
    )
    return sound


def line(
    random: np.random.Generator,
    bass: bool,
    seconds: int,
    sampled_from: dict[str, Any] | None = None,
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
                    sound = sampled(v, float(pitch), min(length, 3), random)
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
    piece: np.ndarray = 0.8 * out / (np.abs(out).max() + 1e-9)
    return piece


def hits(folder: Path) -> dict[str, list[np.ndarray]]:
    """Recorded hits by role, mono, peak 1, without the silence before them."""
    found: dict[str, list[np.ndarray]] = {}
    for role in ROLES:
        for path in sorted((folder / role).glob("*.*")):
            x, rate = soundfile.read(path, dtype="float32", always_2d=True)
            x = soxr.resample(x.mean(1), rate, RATE)
            loud = np.flatnonzero(np.abs(x) > 0.02 * np.abs(x).max())
            if len(loud):
                found.setdefault(role, []).append(x[max(0, loud[0] - 100) :] / np.abs(x).max())
    return found


def hit(role: str, random: np.random.Generator) -> np.ndarray:
    """A synthetic drum: a sine that glides, modes that ring, noise that fades, in the shares of its role."""
    decay = {"kick": (0.06, 0.5), "snare": (0.04, 0.25), "hat": (0.01, 0.08), "open": (0.12, 0.6), "tom": (0.1, 0.4),
             "crash": (0.5, 1.6), "ride": (0.3, 1.0), "perc": (0.01, 0.25)}[role]  # fmt: skip
    tau = np.exp(random.uniform(*np.log(decay)))
    t = np.arange(int(min(4, 7 * tau + 0.05) * RATE)) / RATE
    x = np.zeros(len(t))
    if role in ("kick", "snare", "tom", "perc"):
        f0 = random.uniform(
            *{"kick": (38, 75), "snare": (140, 260), "tom": (70, 220), "perc": (200, 1800)}[role]
        )
        glide = random.uniform(0, {"kick": 3.5, "snare": 1, "tom": 1, "perc": 1}[role])
        phase = (
            2 * np.pi * np.cumsum(f0 * 2 ** (glide * np.exp(-t / np.exp(random.uniform(-5, -2.8))))) / RATE
        )
        x += np.sin(phase) * np.exp(-t / tau)
        for _ in range(0 if role == "kick" else random.integers(0, 4)):  # the modes of a skin, or of wood
            x += (
                0.4
                * random.random()
                * np.sin(phase * random.uniform(1.3, 3.2))
                * np.exp(-t / tau / random.uniform(0.2, 1))
            )
    if (
        role in ("hat", "open", "crash", "ride") and random.random() < 0.7
    ):  # squares that clash, as in analogue machines
        tones = random.uniform(250, 900) * random.uniform(1, 2.6, 6)
        x += np.sign(np.sin(2 * np.pi * np.outer(tones, t))).sum(0) / 6 * np.exp(-t / tau)
    noise = random.standard_normal(len(t))
    low, high = {"kick": (500, 6000), "snare": (400, 9000), "tom": (200, 4000), "perc": (800, 9000)}.get(
        role, (4000, 16000)
    )
    frequency = np.fft.rfftfreq(len(t), 1 / RATE)
    spectrum = np.fft.rfft(noise)
    spectrum *= 1 / np.sqrt(1 + (random.uniform(low / 2, low * 2) / (frequency + 1)) ** 4)
    spectrum /= np.sqrt(1 + (frequency / random.uniform(high / 2, high * 1.3)) ** 4)
    noise = np.fft.irfft(spectrum, len(t))
    fall = np.exp(-t / (tau * random.uniform(0.5, 1.2) if role != "kick" else random.uniform(0.002, 0.02)))
    if role in ("snare", "perc") and random.random() < 0.3:  # a clap: several bursts
        fall = sum(  # type: ignore[assignment]  # of three, so never the 0 of an empty sum
            np.exp(-np.maximum(0, t - d) / (tau if d > 0.02 else 0.006)) * (t >= d) for d in (0, 0.011, 0.023)
        )
    share = {"kick": 0.3, "snare": 1.5, "tom": 0.3, "perc": 0.5}.get(role, 1.5)
    if role in ("hat", "open", "crash", "ride"):  # metal has no low end
        x = x - np.convolve(x, np.ones(12) / 12, "same")
    x = x / (np.abs(x).max() + 1e-9) + random.uniform(0.1, share) * noise * fall / (
        np.abs(noise).max() + 1e-9
    )
    x[:20] *= np.linspace(0, 1, 20)
    scaled: np.ndarray = x / np.abs(x).max()
    return scaled


def beat(
    random: np.random.Generator, seconds: int, recorded: dict[str, list[np.ndarray]] | None
) -> np.ndarray:
    """A piece for one kit: a bar of 16 steps that repeats with changes, accents, ghost notes, fills and swing."""
    kit = {}
    for role in ROLES:
        known = (recorded or {}).get(role)
        sound = known[random.integers(len(known))] if known else hit(role, random)
        kit[role] = soxr.resample(sound, RATE * 2 ** random.uniform(-0.35, 0.25), RATE, "LQ")[: 4 * RATE]
    step = 60 / random.uniform(70, 178) / 4
    swing, loose = (
        random.choice([0, 0, random.uniform(0, 0.33)]),
        random.choice([0, random.uniform(0, 0.012)]),
    )
    level = {role: 10 ** random.uniform(-0.6, 0) for role in ROLES} | {
        "kick": 1.0,
        "snare": random.uniform(0.5, 1),
    }
    bar = np.zeros((len(ROLES), 16))
    style = random.choice(["four", "back", "back", "broken", "half"])
    if style == "four":
        bar[0, ::4] = 1
    else:
        bar[0, 0] = 1
        bar[0, random.choice(16, random.integers(1, 5), replace=False)] = 1
    bar[1, [8] if style == "half" else [4, 12]] = 1
    if style == "broken":
        bar[1] = np.roll(bar[1], random.choice([0, 0, -2, 3]))
    every = int(random.choice([1, 2, 2, 4]))
    time_keeper = 6 if random.random() < 0.25 else 2
    bar[time_keeper, random.choice([0, 0, 2]) % every :: every] = 1
    bar[3, random.choice(16, random.integers(0, 3), replace=False)] = 1
    bar[7, random.choice(16, random.integers(0, 6), replace=False)] = random.random() < 0.5
    ghosts = random.choice([0, 0, 0.12])
    out = np.zeros((seconds + 5) * RATE)
    # A hit ends the one before it on the same drum, and a closed hat the open one.
    ring: dict[str, tuple[int, np.ndarray]] = {}
    for bar_number in range(int(seconds / step / 16) + 1):
        now = bar.copy()
        now[0] = np.where(random.random(16) < 0.04, 1 - now[0], now[0])
        now[1] = np.maximum(now[1], (random.random(16) < ghosts) * 0.25)
        if bar_number % 4 == 0 and random.random() < 0.5:
            now[5, 0] = 1
        if bar_number % 4 == 3 and random.random() < 0.5:
            length = int(random.choice([4, 8]))
            now[:, -length:] = 0
            now[random.choice([1, 4]), -length:] = random.random(length) < 0.8
        for number in range(16):
            at = (bar_number * 16 + number + (swing if number % 2 else 0)) * step + abs(
                random.normal(0, loose + 1e-9)
            )
            start = int(at * RATE)
            for i in np.flatnonzero(now[:, number]):
                role = ROLES[i]
                power = now[i, number] * level[role] * random.uniform(0.55, 1)
                sound = kit[role] * power
                out[start : start + len(sound)] += sound[: max(0, len(out) - start)]
                choked = "open" if role == "hat" else role
                if choked in ring and ring[choked][0] < start:
                    begun, old = ring[choked]
                    rest = old[start - begun :][: max(0, len(out) - start)].copy()
                    rest[:400] *= np.linspace(0, 1, 400)[: len(rest)]
                    out[start : start + len(rest)] -= rest
                    del ring[choked]
                ring[role] = (start, sound)
    out = out[: seconds * RATE]
    if random.random() < 0.5:  # a room
        n = int(np.exp(random.uniform(-2.5, 0.2)) * RATE)
        room = random.standard_normal(n) * np.exp(-np.arange(n) / n * 6)
        size = len(out) + n
        wet = np.fft.irfft(np.fft.rfft(out, size) * np.fft.rfft(room, size), size)[: len(out)]
        out = out / (np.abs(out).max() + 1e-9) + random.uniform(0.05, 0.5) * wet / (np.abs(wet).max() + 1e-9)
    if random.random() < 0.5:
        out = np.tanh(out / (np.abs(out).max() + 1e-9) * 10 ** random.uniform(0.1, 1))
    piece: np.ndarray = 0.8 * out / (np.abs(out).max() + 1e-9)
    return piece


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=60, help="of each source")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=Path, help="play these instruments' notes instead")
    parser.add_argument("--kinds", help="only these kinds of voices, as in boom,sine")
    parser.add_argument("--sources", default="bass,other,drums", help="only these")
    args = parser.parse_args()
    only = args.kinds.split(",") if args.kinds else None
    for number, source in enumerate(("bass", "other", "drums")):
        folder = args.samples / source if args.samples else None
        if (folder and not folder.is_dir()) or source not in args.sources.split(","):
            continue
        random = np.random.default_rng([args.seed, number])
        (args.out / source).mkdir(parents=True, exist_ok=True)
        recorded: Any = (hits if source == "drums" else instruments)(folder) if folder else None
        for i in range(round(args.minutes * 2)):
            if source == "drums":
                piece = beat(random, 30, recorded)
            else:
                piece = line(random, source == "bass", 30, recorded, only)
            soundfile.write(args.out / source / f"synth_{i:04d}.flac", piece, RATE)


if __name__ == "__main__":
    main()
