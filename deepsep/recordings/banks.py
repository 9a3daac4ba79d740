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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ..audio import files as audio
from ..audio.loudness import Loudness
from ..audio.resampling import resample
from ..errors import DeepsepError
from ..spectral.spectrum import Spectrum, stereo_power

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
REPLAYED = 96  # draws of stretches that a simulator keeps, to mix them anew


Progress = Callable[[int, int], None]  # files done, files in all
Note = Callable[[str], None]  # takes a line about a recording that is left out


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


def gather(folders: Sequence[Path]) -> list[tuple[Path, int]]:
    """Every recording once, with the number of its folder: the innermost of those that hold it.

    A recording heard twice could be trained on and held out at once.
    """
    home: dict[Path, tuple[Path, int]] = {}
    depth = [len(folder.resolve().parts) for folder in folders]
    for g, folder in enumerate(folders):
        for path in find_audio(folder):
            known = home.get(path.resolve())
            if known is None or depth[known[1]] < depth[g]:
                home[path.resolve()] = (path, g)
    return sorted(home.values(), key=lambda item: (item[1], item[0]))


def fingerprint(files: Sequence[tuple[Path, int]], *extra: object) -> str:
    """A short hash of names, sizes and times, so that a cache made of other files is not taken for this one."""
    lines = [f"{p.resolve()} {p.stat().st_size} {p.stat().st_mtime_ns} {g}" for p, g in files]
    return hashlib.sha256("\n".join([*lines, repr(extra)]).encode()).hexdigest()[:16]


def contents(folders: Sequence[Path]) -> str:
    """A short hash of the recordings' names and sizes: the same after a move to another machine."""
    lines = sorted(f"{path.name} {path.stat().st_size}" for path, _ in gather(folders))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def cached(
    cache: Path,
    kind: str,
    files: Sequence[tuple[Path, int]],
    settings: tuple[object, ...],
    make: Callable[[IO[bytes], Path, int], dict[str, list[Any]]],
    on_progress: Progress | None,
    on_note: Note | None,
) -> tuple[dict[str, list[Any]], Path]:
    """What `make` writes of each recording, in one file, and its table; made once for the same files and settings.

    `make` gets the open file, a recording and its folder's number, and returns what to add to the table's lists.
    A recording that cannot be read or is silent is left out, and said so each time; DeepsepError if all are.
    Caches of this kind that were made of other files are removed.
    """
    key = fingerprint(files, *settings)
    table, store = cache / f"{kind}-{key}.json", cache / f"{kind}-{key}.bin"
    part = store.with_suffix(".part")
    if not (table.exists() and store.exists()):
        cache.mkdir(parents=True, exist_ok=True)
        made: dict[str, list[Any]] = {"left_out": []}
        try:
            with open(part, "wb") as out:
                for done, (path, g) in enumerate(files):
                    if on_progress:
                        on_progress(done, len(files))
                    try:
                        rows = make(out, path, g)
                    except DeepsepError as error:
                        made["left_out"].append(str(error))
                        continue
                    for name, row in rows.items():
                        made.setdefault(name, []).extend(row)
                empty = out.tell() == 0
            if empty:
                first = made["left_out"][0]
                raise DeepsepError(
                    first if len(files) == 1 else f"no recording is of use; the first: {first}"
                )
            os.replace(part, store)
            table.write_text(json.dumps(made))
        finally:
            part.unlink(missing_ok=True)
    for path in cache.glob(f"{kind}-*"):
        if path not in (table, store):
            with suppress(OSError):  # another run may still have it open
                path.unlink()
    kept: dict[str, list[Any]] = json.loads(table.read_text())
    if on_note:
        for line in kept["left_out"]:
            on_note(f"left out: {line}")
    return kept, store


def parts(lengths: Sequence[float], share: float) -> list[list[tuple[float, float, bool]]]:
    """Each recording of a folder cut into parts (start, end, held out), start and end in shares of its length.

    One part in every 1 / share is held out; of a folder too short for that, the end of its longest recording.
    `lengths` are in blocks.
    """
    every = max(2, round(1 / share))
    cut = []
    for i, length in enumerate(lengths):
        n = max(1, round(length))
        cut.append([(j / n, (j + 1) / n, (i * 7 + j) % every == every - 1) for j in range(n)])
    if not any(test for pieces in cut for _, _, test in pieces):
        longest = int(np.argmax(lengths))
        start = 1 - min(0.5, share * sum(lengths) / lengths[longest])
        cut[longest] = [(0.0, start, False), (start, 1.0, True)]
    return cut


def shares(length: np.ndarray, group: np.ndarray) -> np.ndarray:
    """How often each piece is drawn: alike for every second within a folder, and for folders by the cube root of
    their length, so that an hour is heard four times as often as a minute, not sixty times. Sums to 1.
    """
    weight = length.astype(np.float64)
    for g in np.unique(group):
        weight[group == g] /= weight[group == g].sum() ** (2 / 3)
    result: np.ndarray = weight / weight.sum()
    return result


@dataclass(frozen=True, slots=True)
class PowerBank:
    """ln band powers of one instrument's recordings, each recording at gated RMS 1.

    log_power: float16 (frames, d), a memory map. starts: first frame of each piece (recording x speed), and the
    end. group: which folder each piece came from, so that no folder drowns another.
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
        on_note: Note | None = None,
    ) -> PowerBank:
        """Analyses the folders, or maps the cache where that was made from these very files.

        One source has one `cache` folder: what it holds of other files is removed.
        """

        def make(out: IO[bytes], path: Path, g: int) -> dict[str, list[Any]]:
            found = log_powers_at(path, spectrum, speeds)
            for piece in found:
                piece.tofile(out)
            return {"frames": [len(piece) for piece in found], "group": [g] * len(found)}

        settings = (spectrum.config, tuple(speeds))
        kept, store = cached(cache, "power", gather(folders), settings, make, on_progress, on_note)
        starts = np.concatenate([[0], np.cumsum(kept["frames"])])
        log_power = np.memmap(store, np.float16, "r", shape=(int(starts[-1]), spectrum.bands))
        return cls(log_power, starts, np.array(kept["group"]))

    @property
    def frames(self) -> int:
        """Frames in all."""
        return int(self.starts[-1])

    @property
    def heard(self) -> int:
        """Frames of the recordings as they are, at no other speed."""
        return int(np.diff(self.starts)[:: len(SPEEDS)].sum())

    def split(
        self, held_out: float, block: int = 2000
    ) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
        """Spans (start, end, group) to train on and to hold out: one block in every 1 / held_out of each folder.

        The same stretch of a recording is held out at each of its speeds. DeepsepError where there is too little.
        """
        train: list[tuple[int, int, int]] = []
        test: list[tuple[int, int, int]] = []
        per = len(SPEEDS)
        for g in np.unique(self.group):
            pieces = np.flatnonzero(self.group == g)  # recordings x speeds, the recording as it is first
            length = (self.starts[pieces + 1] - self.starts[pieces]) / block
            for r, cut in enumerate(parts(length[::per].tolist(), held_out)):
                for i in pieces[r * per : (r + 1) * per]:
                    start, n = int(self.starts[i]), int(self.starts[i + 1] - self.starts[i])
                    for a, b, is_test in cut:
                        span = (start + int(a * n), start + int(b * n), int(g))
                        if span[1] > span[0]:
                            (test if is_test else train).append(span)
        if not train or not test:
            raise DeepsepError("the recordings are too short to train on; a second of sound is the least")
        return train, test

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
        weight = shares(np.array([e - s for s, e, _ in spans]), groups)
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
        samples = resample(block, round(rate * speed), spectrum.rate)
        if samples.shape[-1] >= spectrum.n_fft:
            yield levelled_powers(log_power(samples, spectrum), rms)


def log_powers_at(path: Path, spectrum: Spectrum, speeds: Sequence[float]) -> list[np.ndarray]:
    """The same at several speeds, each whole and at the recording's own gated RMS; the file is decoded once.

    Raises DeepsepError as audio.read_blocks does, and for silence.
    """
    rate = audio.probe(path).rate
    loudness = Loudness()
    found: list[list[np.ndarray]] = [[] for _ in speeds]
    for block in audio.read_blocks(path, SEGMENT * rate):
        loudness.hear(block)
        for pieces, speed in zip(found, speeds, strict=True):
            samples = resample(block, round(rate * speed), spectrum.rate)
            if (missing := spectrum.n_fft - samples.shape[-1]) > 0:
                if pieces:  # the last bit of a longer recording
                    continue
                samples = np.pad(samples, ((0, 0), (0, missing)))
            pieces.append(log_power(samples, spectrum))
    if loudness.rms == 0:
        raise DeepsepError(f"{path}: is silent")
    return [levelled_powers(np.concatenate(pieces), loudness.rms) for pieces in found]


def log_power(samples_ct: np.ndarray, spectrum: Spectrum) -> np.ndarray:
    """ln of the band powers of a stretch of n_fft or more samples, channels averaged: float16 (n, d)."""
    padded = samples_ct[:, : samples_ct.shape[-1] // spectrum.hop * spectrum.hop]
    power = spectrum.stft(torch.from_numpy(padded)).abs().square().mean(0)
    return np.ascontiguousarray((spectrum.band_power(power) + 1e-30).log().T.numpy().astype(np.float16))


def levelled_powers(log_power_nd: np.ndarray, rms: float) -> np.ndarray:
    """ln of the powers divided by rms^2, over a floor 90 dB below."""
    level, floor = np.float32(2 * np.log(rms)), np.float32(np.log(1e-9))
    out: np.ndarray = np.logaddexp(log_power_nd.astype(np.float32) - level, floor).astype(np.float16)
    return out


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

    Where they are kept `as_is`, full scale is at `LEVEL` instead.

    pieces: (offset, samples, channels, group, stride) of each recording or part of one; its channels lie `stride`
    apart.
    """

    LEVEL = 0.05  # headroom of 26 dB
    samples: np.ndarray
    pieces: np.ndarray

    @classmethod
    def build(
        cls,
        folders: Sequence[Path],
        rate: int,
        cache: Path,
        *,
        as_is: bool = False,
        on_progress: Progress | None = None,
        on_note: Note | None = None,
    ) -> SampleBank:
        """Decodes the folders, or maps the cache where that was made from these very files.

        One source has one `cache` folder: what it holds of other files is removed.
        """

        def make(out: IO[bytes], path: Path, g: int) -> dict[str, list[Any]]:
            samples, own_rate = audio.read(path)
            samples = resample(samples[:2], own_rate, rate)
            loudness = Loudness()
            loudness.hear(samples)
            if loudness.rms == 0:
                raise DeepsepError(f"{path}: is silent")
            unit = 1.0 if as_is else loudness.rms
            scaled = np.clip(samples * (32767 * cls.LEVEL / unit), -32767, 32767).astype(np.int16)
            offset = out.tell() // scaled.itemsize
            scaled.tofile(out)
            return {"pieces": [(offset, scaled.shape[1], scaled.shape[0], g, scaled.shape[1])]}

        settings = (rate, "as is") if as_is else (rate,)
        kept, store = cached(cache, "samples", gather(folders), settings, make, on_progress, on_note)
        return mapped(store, np.array(kept["pieces"], dtype=np.int64))

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker process maps the file itself, rather than be sent all that is in it."""
        if isinstance(self.samples, np.memmap):
            return mapped, (self.samples.filename, self.pieces)
        return SampleBank, (self.samples, self.pieces)

    def split(self, held_out: float, block: int) -> tuple[SampleBank, SampleBank]:
        """The parts to train on and those to hold out, as two banks; `block` is in samples.

        DeepsepError where there is too little.
        """
        train: list[tuple[int, ...]] = []
        test: list[tuple[int, ...]] = []
        for g in np.unique(self.pieces[:, 3]):
            own = self.pieces[self.pieces[:, 3] == g]
            for piece, cut in zip(own, parts((own[:, 1] / block).tolist(), held_out), strict=True):
                offset, n, channels, _, stride = map(int, piece)
                for a, b, is_test in cut:
                    start, end = int(a * n), int(b * n)
                    if end > start:
                        (test if is_test else train).append(
                            (offset + start, end - start, channels, g, stride)
                        )
        if not train or not test:
            raise DeepsepError("the recordings are too short to train on; a second of sound is the least")
        return SampleBank(self.samples, np.array(train)), SampleBank(self.samples, np.array(test))

    def draw(self, length: int, random: np.random.Generator) -> np.ndarray:
        """A stretch of one recording at RMS about 1, or as is: float32 (length,), one channel or the mean of two."""
        weight = shares(self.pieces[:, 1], self.pieces[:, 3])
        offset, samples, channels, _, stride = self.pieces[random.choice(len(weight), p=weight)]
        at = int(random.integers(0, max(1, samples - length + 1)))
        have = min(length, int(samples))
        parts = [
            self.samples[offset + c * stride + at :][:have].astype(np.float32) for c in range(int(channels))
        ]
        mono = parts[int(random.integers(len(parts)))] if random.random() < 0.5 else sum(parts) / len(parts)
        return np.resize(mono / (32767 * self.LEVEL), length)

    def stretches(self, count: int, length: int, rng: torch.Generator, *, vary: bool) -> Tensor:
        """Stretches drawn at random, (count, length); varied in level and polarity, or as they are.

        A source lies about 6 dB below a mixture of RMS 1, give or take.
        """
        random = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng)))
        found = np.stack([self.draw(length, random) for _ in range(count)])
        if vary:
            gain = 10 ** (random.normal(-6.0, 5.0, (count, 1)).clip(-24, 4) / 20)
            found *= gain * random.choice([-1.0, 1.0], (count, 1))
        return torch.from_numpy(found.astype(np.float32, copy=False))


def mapped(store: Path, pieces: np.ndarray) -> SampleBank:
    """A bank on its file."""
    return SampleBank(np.memmap(store, np.int16, "r"), pieces)


def performed(samples_t: np.ndarray, rate: int, random: np.random.Generator) -> np.ndarray:
    """The same stretch through another chain: drive, room, equaliser. Float32 (t,), RMS about as before."""
    x = samples_t
    if random.random() < 0.3:
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
    level = 10 ** ((random.normal(-6, 6, (batch, stems)).clip(-24, 8)) / 20)
    level *= random.random((batch, stems)) > 0.12
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

    Every batch is `batch` mixtures of the same g = len(banks) + extra stretches of sound. With `augment` half of the
    batches mix stretches anew that were heard before: other equalisation, levels, signs and places.
    """
    random = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng)))
    length = (frames + 3) * spectrum.hop
    heard: list[tuple[np.ndarray, Tensor]] = []
    while True:
        if len(heard) == REPLAYED and random.random() < 0.5:
            source, gram = heard[random.integers(REPLAYED)]
        else:
            source = np.concatenate([np.arange(len(banks)), random.integers(len(banks), size=extra)])
            signals = [stretch(banks[k], length, spectrum.rate, random, augment) for k in source]
            gram = gram_sums(spectrum.stft(torch.from_numpy(np.stack(signals))), spectrum)
            if augment and len(heard) < REPLAYED:
                heard.append((source, gram))
            elif augment:
                heard[random.integers(REPLAYED)] = source, gram
        mixed = gram
        if augment and random.random() < 0.6:  # as from a studio; else as the instruments sounded
            gain = equaliser(len(source), spectrum, random)
            gain = gain * cleared(gram.diagonal().movedim(-1, 0) * gain[..., None] ** 2, spectrum, random)
            mixed = gram * (gain[:, None] * gain)[..., None]
        gains = torch.from_numpy(random_gains(source, len(banks), batch, random))
        batch_of = mixtures(mixed, gains, torch.from_numpy(source), len(banks), spectrum.count_d)
        yield levelled(batch_of, random, spectrum)


def stretch(
    bank: SampleBank, length: int, rate: int, random: np.random.Generator, augment: bool
) -> np.ndarray:
    """Some stretch of a bank's recordings, float32 (length,); with `augment` at another speed and `performed`."""
    speed = 2 ** (random.uniform(-3.5, 3.5) / 12) if augment else 1.0
    x = bank.draw(int(length * speed) + 64, random)
    if augment:
        x = performed(resample(x[None], round(rate * speed), rate)[0], rate, random)
    return x[:length] if len(x) >= length else np.pad(x, (0, length - len(x)))


def centres(spectrum: Spectrum) -> np.ndarray:
    """Each band's centre frequency over half the sample rate, (d,)."""
    middle: np.ndarray = (spectrum.starts[:-1] + spectrum.starts[1:] - 1) / spectrum.n_fft
    return middle


def equaliser(signals: int, spectrum: Spectrum, random: np.random.Generator) -> Tensor:
    """Smooth random gains (g, d), a few dB up and down."""
    position = (2 * centres(spectrum)) ** 0.4
    curve = sum(
        random.normal(0, 4.0 / (i + 1), (signals, 1))
        * np.cos(np.pi * (i + 1) * position + random.uniform(0, 6.3))
        for i in range(4)
    )
    return torch.from_numpy(10 ** (curve / 20)).float()


def cleared(energy_gdn: Tensor, spectrum: Spectrum, random: np.random.Generator) -> Tensor:
    """High-pass gains (g, d) for some of the signals, as a mixing engineer clears the low end: the cutoff is where
    up to a quarter of a signal's energy lies below, so that a bass keeps its notes and a guitar loses its rumble.
    """
    energy = energy_gdn.sum(-1).double().cumsum(1)
    share = energy / energy[:, -1:].clamp_min(1e-12)
    centre = torch.from_numpy(centres(spectrum) * spectrum.n_fft)
    gains = torch.ones_like(share)
    for i in range(len(gains)):
        if random.random() < 0.6:
            below = int((share[i] < random.uniform(0, 0.25)).sum())
            cutoff = max(1.0, float(centre[min(below, len(centre) - 1)]))
            gains[i] = 1 / torch.sqrt(1 + (cutoff / centre.clamp_min(0.3)) ** random.choice([4, 8]))
    return gains.float()


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
    folder: Path,
    spectrum: Spectrum,
    *,
    batch: int,
    frames: int,
    rng: torch.Generator,
    on_progress: Progress | None = None,
    on_note: Note | None = None,
) -> Iterator[Tensor]:
    """Endless batches of stretches of unlabelled songs: powers of left, right, mid, side, (batch, 4, d, frames).

    Every song is heard once before this returns; one that cannot be read is left out. DeepsepError if none is left.
    """
    found = find_audio(folder)
    loudness: dict[Path, float] = {}
    for done, path in enumerate(found):
        if on_progress:
            on_progress(done, len(found))
        try:
            rms = file_rms(path)
            problem = "" if rms else f"{path}: is silent"
        except DeepsepError as error:
            rms, problem = 0.0, str(error)
        if rms:
            loudness[path] = rms
        elif on_note:
            on_note(f"left out: {problem}")
    if not loudness:
        raise DeepsepError(f"{folder}: every song is silent or cannot be read")
    return stretches(loudness, spectrum, batch, frames, rng)


def stretches(
    loudness: dict[Path, float], spectrum: Spectrum, batch: int, frames: int, rng: torch.Generator
) -> Iterator[Tensor]:
    """What `recorded` draws from these songs."""
    random = np.random.default_rng(int(torch.randint(2**62, (1,), generator=rng)))
    files = list(loudness)
    need = (frames + 3) * spectrum.hop
    while True:
        path = files[int(random.integers(len(files)))]
        rate = audio.probe(path).rate
        # a song's blocks in order, so that it is decoded once
        for i, block in enumerate(audio.read_blocks(path, SEGMENT * rate)):
            samples = resample(block[:2], rate, spectrum.rate) / loudness[path]
            if samples.shape[1] < need:
                if i:  # the rest of a song
                    continue
                samples = np.stack([np.resize(channel, need) for channel in samples])
            power = stereo_power(spectrum.stft(torch.from_numpy(samples)), spectrum)
            starts = random.integers(0, power.shape[-1] - frames + 1, batch)
            yield torch.stack([power[..., at : at + frames] for at in starts])
