"""Training data: folders of solo recordings -> banks of band powers, and simulated mixtures.

Shape suffixes: b batch, k stem, g signal of a simulated mixture, d band, n frame, t sample.

A prior trains on a PowerBank: log band powers of every recording at a few playback speeds, computed once and
memory-mapped. An encoder trains on simulated mixtures: signals drawn independently from the instruments' folders.
The Wiener error of a mask needs sums over each band only, and all of those follow from the signals' Gram sums
sum_f Re(S_i S_j*), so one STFT of each signal gives many mixtures (new gains, signs, pans, silences).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import audio
from .errors import DeepsepError
from .loudness import Loudness
from .spectrum import Spectrum, stereo_power

__all__ = [
    "Mixtures",
    "PowerBank",
    "SampleBank",
    "find_audio",
    "recorded",
    "simulate",
]

SPEEDS = (1.0, 0.86, 1.16)  # playback speeds of a PowerBank: about -2.6, 0 and +2.6 semitones
SEGMENT = 20  # seconds decoded and analysed at a time

Progress = Callable[[int, int], None]  # files done, files in all


def find_audio(folder: Path) -> list[Path]:
    """Audio files at any depth below `folder` (or the one file), sorted; raises DeepsepError when there are none."""
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise DeepsepError(f"{folder}: no such folder; give a folder of solo recordings")
    found = sorted(
        p for p in folder.rglob("*")
        if p.suffix.lower() in audio.AUDIO_SUFFIXES and p.is_file() and not p.name.startswith(".")
    )  # fmt: skip
    if not found:
        raise DeepsepError(
            f"{folder}: no audio files in this folder; it should hold solo recordings (wav, flac, mp3...)"
        )
    return found


def file_rms(path: Path) -> float:
    """Gated RMS of one recording."""
    loudness = Loudness()
    for block in audio.read_blocks(path):
        loudness.hear(block)
    return loudness.rms


def fingerprint(files: Sequence[Path], *extra: object) -> str:
    """A short hash of names, sizes and times, so that a cache made of other files is not taken for this one."""
    lines = [f"{p.resolve()} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files]
    return hashlib.sha256("\n".join([*lines, repr(extra)]).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class PowerBank:
    """ln band powers of one instrument's recordings, each recording at gated RMS 1.

    log_power: float16 (frames, d), a memory map. starts: first frame of each piece (recording x speed), and the
    end. group: which folder each piece came from, so that folders are drawn from equally often.
    """

    log_power: np.ndarray
    starts: np.ndarray
    group: np.ndarray

    @classmethod
    def build(
        cls,
        folders: Sequence[Path],
        spectrum: Spectrum,
        cache: Path,
        *,
        speeds: Sequence[float] = SPEEDS,
        on_progress: Progress | None = None,
    ) -> PowerBank:
        """Analyses the folders, or maps the cache where that was made from these very files."""
        groups = [find_audio(folder) for folder in folders]
        files = [(p, g) for g, paths in enumerate(groups) for p in paths]
        key = fingerprint([p for p, _ in files], spectrum.config, tuple(speeds))
        table = cache / f"power-{key}.json"
        store = cache / f"power-{key}.f16"
        if not table.exists():
            cache.mkdir(parents=True, exist_ok=True)
            starts, group = [0], []
            with open(store.with_suffix(".part"), "wb") as out:
                for done, (path, g) in enumerate(files):
                    if on_progress:
                        on_progress(done, len(files))
                    rms = file_rms(path)
                    if rms == 0:
                        continue
                    for speed in speeds:
                        frames = 0
                        for log_power in log_powers(path, spectrum, rms, speed):
                            log_power.tofile(out)
                            frames += len(log_power)
                        starts.append(starts[-1] + frames)
                        group.append(g)
            if starts[-1] == 0:
                raise DeepsepError(f"{folders[0]}: every recording is silent")
            os.replace(store.with_suffix(".part"), store)
            table.write_text(json.dumps({"starts": starts, "group": group}))
        kept = json.loads(table.read_text())
        bounds = np.array(kept["starts"])
        log_power = np.memmap(store, np.float16, "r", shape=(int(bounds[-1]), spectrum.bands))
        return cls(log_power, bounds, np.array(kept["group"]))

    @property
    def frames(self) -> int:
        """Frames in all."""
        return int(self.starts[-1])

    def split(
        self, held_out: float, block: int = 2000
    ) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
        """Spans (start, end, group) to train on and to hold out: one block in every 1 / held_out of each recording.

        The same stretch of a recording is held out at each of its speeds.
        """
        train: list[tuple[int, int, int]] = []
        test: list[tuple[int, int, int]] = []
        every = max(2, round(1 / held_out))
        for i, g in enumerate(self.group):
            start, end = int(self.starts[i]), int(self.starts[i + 1])
            normal = i // len(SPEEDS) * len(SPEEDS)  # the recording as it is; as many parts at each speed
            parts = max(1, round((self.starts[normal + 1] - self.starts[normal]) / block))
            edges = np.linspace(start, end, parts + 1).astype(int)
            for j in range(parts):
                piece = (i // len(SPEEDS) * 7 + j) % every == every - 1
                (test if piece else train).append((int(edges[j]), int(edges[j + 1]), int(g)))
        if not test and len(train) > 1:
            test.append(train.pop())
        return train, test or train

    def batches(
        self,
        spans: Sequence[tuple[int, int, int]],
        spectrum: Spectrum,
        *,
        batch: int,
        frames: int,
        rng: torch.Generator,
        augment: bool = True,
    ) -> Iterator[Tensor]:
        """Endless batches of x, float32 (batch, d, frames), at levels as in a mixture of RMS 1."""
        random = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng)))
        groups = np.array([g for _, _, g in spans])
        weight = np.array([e - s for s, e, _ in spans], dtype=np.float64)
        for g in np.unique(groups):  # folders alike, frames alike within a folder
            weight[groups == g] /= weight[groups == g].sum()
        weight /= weight.sum()
        while True:
            out = np.empty((batch, self.log_power.shape[1], frames), np.float32)
            for i, s in enumerate(random.choice(len(spans), batch, p=weight)):
                start, end, _ = spans[s]
                at = int(random.integers(start, max(start, end - frames) + 1))
                piece = self.log_power[at : min(end, at + frames)].T
                out[i] = np.pad(piece, ((0, 0), (0, frames - piece.shape[1])), mode="wrap")
            power = torch.from_numpy(out)
            power = varied(power, random) if augment else power - 2 * 0.69
            yield spectrum.to_x(power.exp())


def log_powers(path: Path, spectrum: Spectrum, rms: float, speed: float) -> Iterator[np.ndarray]:
    """ln of the band powers, channels averaged, of a recording scaled by 1 / rms: float16 (n, d) pieces."""
    rate = audio.probe(path).rate
    for block in audio.read_blocks(path, SEGMENT * rate):
        samples = audio.resample(block, round(rate * speed), spectrum.rate)
        if samples.shape[-1] < spectrum.n_fft:
            continue
        padded = samples[:, : samples.shape[-1] // spectrum.hop * spectrum.hop]
        power = spectrum.stft(torch.from_numpy(padded / rms)).abs().square().mean(0)
        log_power = (spectrum.band_power(power) + 1e-9).log()
        yield np.ascontiguousarray(log_power.T.numpy().astype(np.float16))


def varied(log_power_bdn: Tensor, random: np.random.Generator) -> Tensor:
    """Other levels, equalisation, bandwidths and silences of the same performances, on ln band powers."""
    b, d, n = log_power_bdn.shape
    # a source lies about 6 dB below the mixture, give or take; 0.23 nats of power are one dB
    gain = random.normal(-6.0, 5.0, (b, 1, 1)).clip(-24, 4)
    position = np.linspace(0, 1, d)
    curve = sum(
        random.normal(0, 2.5 / (i + 1), (b, 1, 1))
        * np.cos(np.pi * (i + 1) * position + random.uniform(0, 6.3))[None, :, None]
        for i in range(4)
    )
    power = log_power_bdn + torch.from_numpy(0.2303 * (gain + curve)).float()
    for i in range(b):
        if random.random() < 0.15:  # low-passed, as by a lossy codec
            power[i, int(random.uniform(0.75, 0.97) * d) :] -= 12
        if random.random() < 0.15:  # the part enters or leaves
            at, length = int(random.integers(0, n)), int(random.integers(n // 8, n))
            power[i, :, at : at + length] -= float(random.choice([3.0, 40.0], p=[0.2, 0.8]))
    if random.random() < 0.3:
        power[int(random.integers(b))] -= 40
    return power


@dataclass(frozen=True, slots=True)
class SampleBank:
    """One instrument's recordings decoded to int16 at the model's rate, each at gated RMS `LEVEL`, memory-mapped.

    pieces: (offset, samples, channels, group) of each recording; channels follow one another within a recording.
    """

    LEVEL = 0.05  # headroom of 26 dB
    samples: np.ndarray
    pieces: np.ndarray

    @classmethod
    def build(
        cls, folders: Sequence[Path], rate: int, cache: Path, *, on_progress: Progress | None = None
    ) -> SampleBank:
        """Decodes the folders, or maps the cache where that was made from these very files."""
        files = [(p, g) for g, folder in enumerate(folders) for p in find_audio(folder)]
        key = fingerprint([p for p, _ in files], rate)
        table, store = cache / f"samples-{key}.json", cache / f"samples-{key}.i16"
        if not table.exists():
            cache.mkdir(parents=True, exist_ok=True)
            pieces, offset = [], 0
            with open(store.with_suffix(".part"), "wb") as out:
                for done, (path, g) in enumerate(files):
                    if on_progress:
                        on_progress(done, len(files))
                    samples, own_rate = audio.read(path)
                    samples = audio.resample(samples[:2], own_rate, rate)
                    loudness = Loudness()
                    loudness.hear(samples)
                    rms = loudness.rms
                    if rms == 0:
                        continue
                    scaled = np.clip(samples * (32767 * cls.LEVEL / rms), -32767, 32767).astype(np.int16)
                    scaled.tofile(out)
                    pieces.append((offset, scaled.shape[1], scaled.shape[0], g))
                    offset += scaled.size
            if not pieces:
                raise DeepsepError(f"{folders[0]}: every recording is silent")
            os.replace(store.with_suffix(".part"), store)
            table.write_text(json.dumps(pieces))
        kept = np.array(json.loads(table.read_text()), dtype=np.int64)
        total = int(kept[-1, 0] + kept[-1, 1] * kept[-1, 2])
        return cls(np.memmap(store, np.int16, "r", shape=(total,)), kept)

    def draw(self, length: int, random: np.random.Generator) -> np.ndarray:
        """A stretch of one recording at RMS about 1: float32 (length,), one channel or the mean of two."""
        weight = self.pieces[:, 1].astype(np.float64)
        for g in np.unique(self.pieces[:, 3]):
            weight[self.pieces[:, 3] == g] /= weight[self.pieces[:, 3] == g].sum()
        offset, samples, channels, _ = self.pieces[random.choice(len(weight), p=weight / weight.sum())]
        at = int(random.integers(0, max(1, samples - length + 1)))
        have = min(length, int(samples))
        parts = [
            self.samples[offset + c * samples + at :][:have].astype(np.float32) for c in range(int(channels))
        ]
        mono = parts[int(random.integers(len(parts)))] if random.random() < 0.5 else sum(parts) / len(parts)
        return np.resize(mono / (32767 * self.LEVEL), length)


def performed(samples_t: np.ndarray, rate: int, random: np.random.Generator) -> np.ndarray:
    """The same stretch through another chain: drive, room, equaliser. Float32 (t,), RMS about as before."""
    x = samples_t
    if random.random() < 0.2:
        drive = 10 ** random.uniform(-0.2, 0.9)
        x = np.tanh(drive * x) / drive * (1 + 0.3 * drive)
    if random.random() < 0.25:
        seconds = random.uniform(0.1, 0.9)
        room = random.standard_normal(int(seconds * rate)) * np.exp(-np.linspace(0, 6.9, int(seconds * rate)))
        room *= random.uniform(0.1, 0.6) / np.sqrt(np.square(room).sum())
        room[0] += 1
        size = 1 << (len(x) + len(room) - 1).bit_length()
        x = np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(room, size), size)[: len(x)]
    out: np.ndarray = x.astype(np.float32)
    return out


def gram_sums(spectra_gfn: Tensor, spectrum: Spectrum) -> Tensor:
    """sum over each band's bins of Re(S_i S_j*): complex (g, f, n) -> (g, g, d, n), symmetric."""
    g = len(spectra_gfn)
    real, imag = spectra_gfn.real.contiguous(), spectra_gfn.imag.contiguous()
    out = spectra_gfn.real.new_zeros(g, g, spectrum.bands, spectra_gfn.shape[-1])
    for i in range(g):
        product = torch.addcmul(real[i:] * real[i], imag[i:], imag[i])
        sums = spectrum.band_power(product) * spectrum.count_d[:, None]
        out[i, i:], out[i:, i] = sums, sums
    return out


@dataclass(frozen=True, slots=True)
class Mixtures:
    """A batch of simulated stereo mixtures of RMS about 1, by their sums over each band's bins.

    mix_bcdn: mean power of left, right, mid and side in each band (c = 4). total_bdn: P = sum |M|^2 over bins and
    the two channels; cross_bkdn: C_k = sum Re(S_k M*); power_bkdn: Q_k = sum |S_k|^2. The squared error of a
    mask g is g^2 P - 2 g C + Q.
    """

    mix_bcdn: Tensor
    total_bdn: Tensor
    cross_bkdn: Tensor
    power_bkdn: Tensor


def mixtures(gram: Tensor, gains: Tensor, source: Tensor, stems: int, count_d: Tensor) -> Mixtures:
    """Mixtures of g signals by gains (b, 2, g) for left and right; `source` (g,) says whose each signal is."""
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
    return Mixtures(
        mix,
        (left + right).reshape(-1, *shape),
        cross.sum(1).reshape(*own.shape[:2], *shape),
        own.reshape(*own.shape[:2], *shape),
    )


def random_gains(source: np.ndarray, stems: int, batch: int, random: np.random.Generator) -> np.ndarray:
    """Gains (batch, 2, g): a level, sign and place between left and right for each signal; some sources absent."""
    g = len(source)
    level = 10 ** ((random.normal(-6, 4, (batch, stems)).clip(-20, 4)) / 20)
    level *= random.random((batch, stems)) > 0.08
    only = random.random(batch) < 0.04
    level[only] *= np.eye(stems)[random.integers(stems, size=only.sum())]
    own = 10 ** (random.normal(0, 2, (batch, g)) / 20) * random.choice([-1.0, 1.0], (batch, g))
    extra = np.arange(g) >= stems  # a second part of a source: another voice, a double
    own *= np.where(extra, random.random((batch, g)) < 0.6, True)
    pan = np.where(random.random((batch, g)) < 0.45, 0, random.uniform(-0.9, 0.9, (batch, g)))
    pan = np.where(random.random((batch, 1)) < 0.3, 0, pan)  # mono songs
    angle = (pan + 1) * np.pi / 4
    gains = (level[:, source] * own)[:, None] * np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], 1)
    result: np.ndarray = gains.astype(np.float32)
    return result


def simulate(
    banks: Sequence[SampleBank],
    spectrum: Spectrum,
    *,
    frames: int,
    batch: int,
    rng: torch.Generator,
    extra: int = 2,
    augment: bool = True,
) -> Iterator[Mixtures]:
    """Endless batches of simulated mixtures: the model's own draws, sources independent of one another.

    Every batch is `batch` mixtures of the same g = len(banks) + extra stretches of sound.
    """
    random = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng)))
    length = (frames + 3) * spectrum.hop
    bins = spectrum.n_fft // 2 + 1
    while True:
        source = np.concatenate([np.arange(len(banks)), random.integers(len(banks), size=extra)])
        signals = []
        for k in source:
            speed = 2 ** (random.uniform(-3.5, 3.5) / 12) if augment else 1.0
            x = banks[k].draw(int(length * speed) + 64, random)
            if augment:
                x = audio.resample(x[None], round(spectrum.rate * speed), spectrum.rate)[0]
                x = performed(x, spectrum.rate, random)
            signals.append(x[:length] if len(x) >= length else np.pad(x, (0, length - len(x))))
        spectra = spectrum.stft(torch.from_numpy(np.stack(signals)))
        if augment:
            position = np.linspace(0, 1, bins) ** 0.4
            curve = sum(
                random.normal(0, 2.5 / (i + 1), (len(source), 1))
                * np.cos(np.pi * (i + 1) * position + random.uniform(0, 6.3))
                for i in range(4)
            )
            spectra = spectra * torch.from_numpy(10 ** (curve / 20)).float()[..., None]
        gram = gram_sums(spectra, spectrum)
        gains = torch.from_numpy(random_gains(source, len(banks), batch, random))
        batch_of = mixtures(gram, gains, torch.from_numpy(source), len(banks), spectrum.count_d)
        yield levelled(batch_of, random, spectrum)


def levelled(m: Mixtures, random: np.random.Generator, spectrum: Spectrum) -> Mixtures:
    """Each mixture at RMS 1 give or take: a stretch of a song need not be as loud as the whole."""
    rms2 = m.total_bdn.sum(1).mean(1) / (2 * spectrum.n_fft / 2)
    scale = torch.from_numpy(
        10 ** (random.normal(0, 3, len(rms2)).clip(-15, 6) / 10)
    ).float() / rms2.clamp_min(1e-8)
    s = scale[:, None, None]
    return Mixtures(
        m.mix_bcdn * s[..., None], m.total_bdn * s, m.cross_bkdn * s[..., None], m.power_bkdn * s[..., None]
    )


def recorded(
    folder: Path, spectrum: Spectrum, *, batch: int, frames: int, rng: torch.Generator
) -> Iterator[Tensor]:
    """Endless batches of stretches of unlabelled songs: powers of left, right, mid, side, (batch, 4, d, frames)."""
    random = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng)))
    files = find_audio(folder)
    loudness = {path: file_rms(path) for path in files}
    files = [path for path in files if loudness[path] > 0]
    if not files:
        raise DeepsepError(f"{folder}: every song is silent")
    while True:
        path = files[int(random.integers(len(files)))]
        rate = audio.probe(path).rate
        for block in audio.read_blocks(
            path, SEGMENT * rate
        ):  # a song's blocks in order, so that it is decoded once
            samples = audio.resample(block[:2], rate, spectrum.rate) / loudness[path]
            n = (samples.shape[1] - 3 * spectrum.hop) // spectrum.hop
            if n < frames:
                continue
            power = stereo_power(spectrum.stft(torch.from_numpy(samples)), spectrum)
            starts = random.integers(0, n - frames + 1, batch)
            yield torch.stack([power[..., at : at + frames] for at in starts])
