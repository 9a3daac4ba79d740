"""What is drawn of a track, measured while it streams by: peak, power and spectrum in columns.

Shape suffixes: c channel, t sample, f frequency row, n column (a moment in time).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...audio.info import Samples

__all__ = ["HIGHEST_HZ", "LOWEST_HZ", "Overview", "Picture", "Values", "column_starts"]

Values = NDArray[np.floating[Any]]

UNIT = 1024  # samples in a column, before columns are joined to those of the page
WINDOW = 2 * UNIT
COLUMNS = 1000
ROWS = 96
LOWEST_HZ, HIGHEST_HZ = 40.0, 16000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What the page draws of one track, in columns of equal width, and its length in seconds.

    `level_fn` is the power in each frequency band, lowest first; peak and RMS have full scale 1.0.
    """

    level_fn: Values
    peak_n: Values
    rms_n: Values
    seconds: float


class Overview:
    """Peak, power and spectrum of a stream of (c, t), in columns of `UNIT` samples."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.window = np.hanning(WINDOW).astype(np.float32)
        self.bands = band_weights(rate)
        self.columns: list[tuple[Values, Values, Values]] = []
        self.frames = 0

    def measure(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        """Yield the blocks unchanged and measure them; call `picture` after the last."""
        overhang = (WINDOW - UNIT) // 2
        held: Samples | None = None
        for block in blocks:
            before = np.zeros((block.shape[0], overhang), np.float32) if held is None else held
            held = self.add(np.concatenate([before, block], axis=1))
            self.frames += block.shape[1]
            yield block
        if held is not None:
            self.add(np.pad(held, ((0, 0), (0, WINDOW))))

    def add(self, samples_ct: Samples) -> Samples:
        """Measure the columns that are complete and return the samples that are left for the next ones."""
        count = (samples_ct.shape[1] - WINDOW) // UNIT + 1
        if count < 1:
            return samples_ct
        views = np.lib.stride_tricks.sliding_window_view(samples_ct, WINDOW, axis=1)
        frames_cnt = views[:, ::UNIT][:, :count]
        power_nf = (np.abs(np.fft.rfft(frames_cnt * self.window)) ** 2).mean(0)
        middle_cnt = frames_cnt[..., (WINDOW - UNIT) // 2 :][..., :UNIT]
        self.columns.append(
            (
                (power_nf @ self.bands.T).astype(np.float32),
                np.abs(middle_cnt).max((0, 2)),
                np.square(middle_cnt).mean((0, 2)),
            )
        )
        return samples_ct[:, count * UNIT :]

    def picture(self) -> Picture:
        """What was measured, joined to the columns of the page. Before the last block: what there is so far."""
        level_nf, peak_n, power_n = (np.concatenate(part) for part in zip(*list(self.columns), strict=True))
        units = min(-(-self.frames // UNIT), len(peak_n))
        starts = column_starts(units)
        count = np.diff(np.append(starts, units))
        return Picture(
            level_fn=(np.add.reduceat(level_nf[:units], starts) / count[:, None]).T,
            peak_n=np.maximum.reduceat(peak_n[:units], starts),
            rms_n=np.sqrt(np.add.reduceat(power_n[:units], starts) / count),
            seconds=self.frames / self.rate,
        )


def column_starts(length: int) -> NDArray[np.intp]:
    """Where the columns of the page start among `length` columns: at most `COLUMNS`, of even width."""
    columns = min(length, COLUMNS)
    return np.arange(columns) * length // columns


def band_weights(rate: int) -> Values:
    """Weights (f, bins) of an FFT's bins in each band: triangles on a logarithmic frequency axis.

    Each triangle is at least a bin wide and sums to 1.
    """
    hz = np.arange(WINDOW // 2 + 1) * rate / WINDOW
    centre = np.geomspace(LOWEST_HZ, HIGHEST_HZ, ROWS)
    width = np.maximum(centre * ((HIGHEST_HZ / LOWEST_HZ) ** (1 / (ROWS - 1)) - 1), hz[1])
    weights = np.maximum(0, 1 - np.abs(hz - centre[:, None]) / width[:, None])
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float64)
