"""How sure each stem is over time and frequency: the spread of its Wiener gain under the posterior, as a map.

Shape suffixes: k stem, d band, n frame or column. A gain lies between 0 (none of the mixture) and 1 (all of
it), so a standard deviation of 0 is certain and 0.5 is the most there can be. Where the mixture is quiet a gain is
uncertain and nobody hears it: pictures fade there.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..config import SpectrumConfig
from .spectrum import Spectrum

__all__ = ["COLUMNS", "SpreadMap", "Uncertainty", "draw", "load", "save"]

COLUMNS = 2000  # of a map at most, whatever the track's length
PICTURE_COLUMNS = 500
FADE_DB = 60.0  # below the loudest, where pictures have faded to nothing
TICKS_HZ = (200, 500, 1000, 2000, 5000, 10000)

Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """Standard deviations (k, d, n) by stem; the centres of bands in Hz (d,), of columns in seconds (n,).

    `power_dn` is the mixture's power in each band, relative to that of the whole track.
    """

    stems: list[str]
    std_kdn: Values
    power_dn: Values
    band_hz: Values
    time_s: Values

    def by_stem(self) -> dict[str, Values]:
        """Stem -> its map (d, n)."""
        return dict(zip(self.stems, self.std_kdn, strict=True))

    def heard(self) -> dict[str, Values]:
        """Stem -> its map (d, n), whole where the mixture is loudest, fading to 0 at `FADE_DB` below that."""
        level_db = 10 * np.log10(np.maximum(self.power_dn, 1e-12) / max(float(self.power_dn.max()), 1e-12))
        weight_dn: Values = np.clip(1 + level_db / FADE_DB, 0, 1).astype(np.float32)
        return {stem: std_dn * weight_dn for stem, std_dn in self.by_stem().items()}


class SpreadMap:
    """Standard deviations gathered frame by frame; frames share columns where a track has too many of them."""

    def __init__(self, config: SpectrumConfig, rate: int, samples: int, stems: Sequence[str]) -> None:
        spectrum = Spectrum(config, rate)
        self.stems = list(stems)
        self.frames = spectrum.frames(samples)
        self.columns = min(COLUMNS, self.frames)
        self.present_d = spectrum.present_d.numpy()
        edges = np.array(config.band_edges, np.float64)
        self.band_hz = ((edges[:-1] + edges[1:] - 1) / 2 * rate / spectrum.n_fft)[self.present_d]
        self.frame_s = (np.arange(self.frames) - 1) * spectrum.hop / rate  # a frame's middle
        self.total_kdn = np.zeros((len(self.stems), int(self.present_d.sum()), self.columns))
        self.power_dn = np.zeros(self.total_kdn.shape[1:])
        self.done = 0

    def add(self, std_kdn: Tensor, power_dn: Tensor) -> None:
        """Add the next frames' standard deviations (k, d, n) and the mixture's power (d, n).

        A column's variance is the mean of its frames', and so is its power.
        """
        n = min(std_kdn.shape[-1], self.frames - self.done)
        if n <= 0:
            return
        variance = std_kdn[..., :n].square().cpu().double().numpy()[:, self.present_d]
        power = power_dn[..., :n].cpu().double().numpy()[self.present_d]
        column = np.arange(self.done, self.done + n) * self.columns // self.frames
        first = np.flatnonzero(np.diff(column, prepend=-1))
        self.total_kdn[..., column[first]] += np.add.reduceat(variance, first, axis=-1)
        self.power_dn[..., column[first]] += np.add.reduceat(power, first, axis=-1)
        self.done += n

    def result(self) -> Uncertainty:
        """The map; it is 0, certain, where no frame was added (silence)."""
        column = np.arange(self.frames) * self.columns // self.frames
        count = np.bincount(column, minlength=self.columns)
        return Uncertainty(
            self.stems,
            np.sqrt(self.total_kdn / count).astype(np.float32),
            (self.power_dn / count).astype(np.float32),
            self.band_hz.astype(np.float32),
            np.maximum(0, np.bincount(column, weights=self.frame_s) / count).astype(np.float32),
        )


def save(path: Path, found: Uncertainty) -> None:
    """npz: `stems` (k,), `std` (k, d, n), `power` (d, n), `band_hz` (d,), `time_s` (n,)."""
    packed = io.BytesIO()  # some megabytes; zipfile hides a full disk behind an error of its own
    np.savez_compressed(
        packed, stems=np.array(found.stems), std=found.std_kdn, power=found.power_dn, band_hz=found.band_hz,
        time_s=found.time_s,
    )  # fmt: skip
    path.write_bytes(packed.getbuffer())


def load(path: Path) -> Uncertainty:
    """Read what `save` wrote."""
    with np.load(path) as kept:
        return Uncertainty(
            kept["stems"].tolist(), kept["std"], kept["power"], kept["band_hz"], kept["time_s"]
        )


def draw(path: Path, found: Uncertainty, title: str) -> None:
    """A png: a map for each stem as it is heard, time from left to right, bands upwards, all on one scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stems, columns = len(found.stems), found.std_kdn.shape[-1]
    figure: Any = Figure(figsize=(10, 1 + 1.9 * stems), layout="constrained")
    FigureCanvasAgg(figure)
    starts = np.unique(np.linspace(0, columns, min(columns, PICTURE_COLUMNS), endpoint=False).astype(int))
    widths = np.diff(starts, append=columns)
    axes = figure.subplots(stems, 1, sharex=True, squeeze=False)[:, 0]
    limits = (0.0, float(found.time_s[-1]) or 1.0, -0.5, len(found.band_hz) - 0.5)
    ticks = [hz for hz in TICKS_HZ if hz <= found.band_hz[-1]]
    for ax, (stem, std_dn) in zip(axes, found.heard().items(), strict=True):
        image = ax.imshow(
            np.add.reduceat(std_dn, starts, axis=-1) / widths,
            origin="lower", aspect="auto", extent=limits, cmap="magma", vmin=0, vmax=0.5,
        )  # fmt: skip
        ax.set_yticks([int(np.abs(found.band_hz - hz).argmin()) for hz in ticks])
        ax.set_yticklabels([f"{hz // 1000} k" if hz >= 1000 else str(hz) for hz in ticks])
        ax.set_ylabel(f"{stem}\nHz", parse_math=False)
    axes[-1].set_xlabel("seconds")
    figure.suptitle(title.encode("utf-8", "replace").decode(), parse_math=False)
    figure.colorbar(
        image, ax=list(axes), label="standard deviation of the gain, fading where the song is quiet (0: sure)"
    )
    figure.savefig(path, format="png", dpi=100)
