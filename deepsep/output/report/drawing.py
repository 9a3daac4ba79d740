"""Colours and images of the page: spectrograms as png, waveforms as the outline of a shape.

Shape suffixes: f frequency row, n column (a moment in time).
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from .overview import Values

__all__ = [
    "GREY",
    "RANGE_DB",
    "Colour",
    "accent",
    "choose_colours",
    "outline",
    "png_url",
    "ramp",
    "spectrogram",
    "to_shades",
]

RANGE_DB = 75.0
SHADES = 48

# OKLCH hue in degrees of the usual names; other stems take what is left, in turn.
HUES = {"vocals": 12, "drums": 62, "bass": 292, "other": 172, "piano": 240, "guitar": 112, "no_vocals": 205}
SPARE_HUES = (330, 145, 265, 35, 90, 220)
CHROMA = 0.14


@dataclass(frozen=True, slots=True)
class Colour:
    """Hue in degrees and chroma of OKLCH; the lightness is chosen where it is drawn."""

    hue: float
    chroma: float = CHROMA


GREY = Colour(0, 0.0)


def choose_colours(names: Iterable[str]) -> dict[str, Colour]:
    """A colour for each name, different from all others."""
    names = list(names)
    spare = chain(SPARE_HUES, [hue for name, hue in HUES.items() if name not in names])
    return {
        name: Colour(HUES[name] if name in HUES else next(spare, 137.5 * i % 360))
        for i, name in enumerate(names)
    }


def to_shades(values: Values) -> NDArray[np.uint8]:
    """Values from 0 to 1 -> indices into a ramp."""
    return np.asarray(np.clip(values, 0, 1) * (SHADES - 1) + 0.5, np.uint8)


def spectrogram(level_fn: Values, loudest: float) -> NDArray[np.uint8]:
    """Shades of shape (f, n), the highest frequency first.

    `level_fn` is power, `loudest` the largest power of all tracks; shade 0 lies `RANGE_DB` below that.
    """
    db = 10 * np.log10(np.maximum(level_fn / max(loudest, 1e-20), 1e-20))
    return to_shades(1 + db[::-1] / RANGE_DB)


def oklch_to_rgb(lightness: Values, chroma: Values, hue: float) -> NDArray[np.uint8]:
    """OKLCH, the hue in degrees -> sRGB, shape (n, 3).

    Reference: B. Ottosson, https://bottosson.github.io/posts/oklab/
    """
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.stack(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ],
        axis=-1,
    ).clip(0, 1)
    gamma = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.round(255 * gamma), np.uint8)


def ramp(colour: Colour, dark: bool) -> NDArray[np.uint8]:
    """The palette of an image, shape (shades, 3): even steps of lightness from the page's background on."""
    t = np.linspace(0, 1, SHADES)
    lightness = 0.21 + 0.73 * t if dark else 0.965 - 0.64 * t
    return oklch_to_rgb(lightness, 1.2 * colour.chroma * t**0.6 * (1 - 0.5 * t), colour.hue)


def accent(colour: Colour, dark: bool) -> str:
    """The colour of a track's waveform and buttons, as "#rrggbb"."""
    lightness, chroma = (0.77, 0.9) if dark else (0.56, 1.0)
    rgb = oklch_to_rgb(np.array([lightness]), np.array([chroma * colour.chroma]), colour.hue)
    return "#" + rgb.tobytes().hex()


def png_url(shades: NDArray[np.uint8], ramp: NDArray[np.uint8]) -> str:
    """A data URL of an image: indices (rows, columns) into the palette `ramp`, shape (shades, 3)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = shades.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), shades], axis=1)  # filter type 0: none
    image = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", ramp.tobytes())
        + chunk(b"IDAT", zlib.compress(rows.tobytes(), 9))
        + chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(image).decode()


def outline(height_n: Values) -> str:
    """The SVG path of a shape that reaches `height_n` above and below its axis, in a box of n x 200."""
    rounded = np.round(100 * np.clip(height_n, 0, 1) ** 0.6).astype(int)  # quiet stems stay visible
    top = "".join(f"L{x} {100 - y}" for x, y in enumerate(rounded))
    bottom = "".join(f"L{x} {100 + y}" for x, y in reversed(list(enumerate(rounded))))
    return f"M0 100{top}{bottom}Z"
