"""The player's markup and data, for the page of the report and for that of the application.

`player.html`, `player.css` and `player.js` belong to it. Each track comes as pieces of sound of a few seconds, which
the browser decodes when their turn comes.
Shape suffixes: f frequency row, n column (a moment in time).
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from . import sound
from .drawing import (
    GREY,
    RANGE_DB,
    Colour,
    accent,
    choose_colours,
    outline,
    png_url,
    ramp,
    spectrogram,
    to_shades,
)
from .overview import HIGHEST_HZ, LOWEST_HZ, Picture, Values, column_starts
from .text import clock

__all__ = ["Label", "Track", "asset", "fill", "labels_of", "player_data", "player_html"]


@dataclass(frozen=True, slots=True)
class Label:
    """What a track is called; `sample` is the number of the separation that it is of, "" for one or for the mix."""

    name: str
    sample: str
    stem: str
    colour: Colour


@dataclass(frozen=True, slots=True)
class Track:
    """The mix or one stem, as the page shows it."""

    label: Label
    picture: Picture


def labels_of(stems: Iterable[str]) -> list[Label]:
    """The labels of the mix and of stems; of several separations these are "sample-1/vocals" and so on."""
    parts = {name: split_name(name) for name in stems}
    colours = choose_colours(dict.fromkeys(stem for _, stem in parts.values()))
    return [
        Label("Original", "", "Original", GREY),
        *(Label(name, sample, stem, colours[stem]) for name, (sample, stem) in parts.items()),
    ]


def split_name(name: str) -> tuple[str, str]:
    """ "sample-1/vocals" -> ("1", "vocals"); the name of a single separation's stem -> ("", name)."""
    match = re.fullmatch(r"sample-(\d+)/(.+)", name)
    return (match[1], match[2]) if match else ("", name)


def asset(name: str) -> str:
    """The text of a file of this folder."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def fill(template: str, values: Mapping[str, str]) -> str:
    """Replace each @@NAME@@ in one pass, so that marks in what is filled in are not replaced."""
    return re.sub(r"@@([A-Z_]+)@@", lambda match: values.get(match[1], match[0]), template)


def player_data(
    tracks: Sequence[tuple[str, int]], rate: int, piece: int, click: tuple[bytes, int], *, gain: float = 1.0
) -> dict[str, object]:
    """What player.js needs to know of the sound: the tracks, each with its length in samples at `rate` Hz.

    A piece is so many seconds long. `click` is a file with one click, encoded like the pieces, and the sample at
    which that is. `gain` is what the pieces are to be played at.
    """
    return {
        "rate": rate,
        "seconds": max(frames for _, frames in tracks) / rate,
        "piece": piece,
        "margin": round(sound.MARGIN_SECONDS * rate),
        "fade": round(sound.FADE_SECONDS * rate),
        "click": base64.b64encode(click[0]).decode(),
        "clickAt": click[1],
        "gain": gain,
        "tracks": [{"name": name, "frames": frames} for name, frames in tracks],
    }


def player_html(tracks: Sequence[Track], uncertainty: Mapping[str, Values], length: float) -> str:
    """The player's markup. The first track is the mix; `length` is in seconds."""
    scale = scale_of(uncertainty)
    filled = {
        "RULER": ruler(length),
        "LENGTH": clock(length),
        "SAMPLES": sample_switch([track.label.sample for track in tracks]),
        "SAMPLE_KEY": ", <kbd>S</kbd> next sample" if tracks[-1].label.sample else "",
        "TRACKS": track_rows(tracks, uncertainty, scale, length),
        "LEGEND": legend(scale if uncertainty else None),
    }
    return fill(asset("player.html"), filled)


def scale_of(uncertainty: Mapping[str, Values]) -> float:
    """The largest uncertainty of all."""
    return max((float(values.max()) for values in uncertainty.values()), default=0.0)


def track_rows(
    tracks: Sequence[Track], uncertainty: Mapping[str, Values], scale: float, length: float
) -> str:
    """One section for each track: controls, waveform, spectrogram and, where it is known, uncertainty.

    `scale` is the largest uncertainty of all, `length` that of the page in seconds.
    """
    loudest = max(float(track.picture.level_fn.max()) for track in tracks)
    peak = max(float(track.picture.peak_n.max()) for track in tracks) or 1.0
    rows = []
    for index, track in enumerate(tracks):
        picture, name = track.picture, escape(track.label.stem)
        group = f' data-stem="{name}" data-sample="{track.label.sample}"' if index else ""
        hidden = " hidden" if index and track.label.sample != tracks[1].label.sample else ""
        shades = spectrogram(picture.level_fn, loudest)
        width = f"{100 * picture.seconds / length:.4f}%"
        columns = len(picture.peak_n)
        strip = ""
        if index and track.label.name in uncertainty:
            strip = uncertainty_strip(track.label.name, uncertainty[track.label.name], scale)
        choice = ""
        if index:
            number = 1 + sum(other.label.sample == track.label.sample for other in tracks[1:index])
            key = f' aria-keyshortcuts="{number}"' if number < 10 else ""
            choice = (
                f'<button class="solo" type="button" aria-pressed="false" aria-label="Solo {name}"{key}>'
                "Solo</button>"
                f'<button class="mute" type="button" aria-pressed="false" aria-label="Mute {name}">'
                "Mute</button>"
            )
        rows.append(
            f'<section class="track" data-track="{index}"{group} aria-label="{name}"{hidden}'
            f' style="--light:{accent(track.label.colour, False)};--dark:{accent(track.label.colour, True)}">'
            f'<div class="controls"><h2 dir="auto">{name}</h2>{choice}'
            f'<input class="volume" type="range" min="0" max="150" value="100" step="5"'
            f' aria-label="Volume of {name}" aria-valuetext="100 %"></div>'
            f'<div class="lane"><svg class="wave" style="width:{width}" viewBox="0 0 {columns} 200"'
            f' preserveAspectRatio="none" role="img" aria-label="Waveform of {name}">'
            f'<path class="peak" d="{outline(picture.peak_n / peak)}"/>'
            f'<path class="rms" d="{outline(picture.rms_n / peak)}"/></svg>'
            + image(track.label.colour, shades, "spectrum", f"Spectrogram of {name}", width)
            + f'{strip}<i class="head"></i></div></section>'
        )
    return "\n".join(rows)


def sample_switch(samples: Sequence[str]) -> str:
    """Buttons to choose which of several separations is played; nothing where there is one."""
    numbers = [number for number in dict.fromkeys(samples) if number]
    choices = "".join(
        f'<label><input type="radio" name="sample" value="{number}"{" checked" if number == numbers[0] else ""}>'
        f'<span aria-label="Sample {number}">{number}</span></label>'
        for number in numbers
    )
    return f'<fieldset aria-label="Sample"><legend>Sample</legend>{choices}</fieldset>' if numbers else ""


def uncertainty_strip(name: str, values_fn: Values, scale: float) -> str:
    """The image of a stem's uncertainty; a column of the page shows the largest value in it."""
    starts = column_starts(values_fn.shape[1])
    largest = np.maximum.reduceat(values_fn, starts, axis=1)
    shades = to_shades(largest[::-1] / (scale or 1.0))
    return image(GREY, shades, "unsure", f"Uncertainty of {escape(name)}", "100%")


def image(colour: Colour, shades: NDArray[np.uint8], kind: str, label: str, width: str) -> str:
    """An image in the palettes of the light and the dark page. `kind` is its CSS class, `label` is HTML."""
    light, dark = (png_url(shades, ramp(colour, dark)) for dark in (False, True))
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img class="{kind}" style="width:{width}" alt="{label}" src="{light}" draggable="false"></picture>'
    )


def ruler(length: float) -> str:
    """Marks of time over the tracks, `length` in seconds; up to six hours at most six, none close to the end."""
    step = next((s for s in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800) if length / s <= 6), 3600)
    marks = [t for t in range(0, math.ceil(length), step) if length - t > 0.05 * length]
    return "".join(f'<span style="left:{100 * t / length:.3f}%">{clock(t)}</span>' for t in marks)


def legend(scale: float | None) -> str:
    """What the images show; `scale` is the largest uncertainty, None when there is none."""
    limits = f"{LOWEST_HZ:g} Hz to {HIGHEST_HZ / 1000:g} kHz, {RANGE_DB:g} dB deep"
    text = f"Waveforms share one scale, and so do spectrograms ({limits})."
    if scale is not None:
        text += (
            " The strip below a spectrogram is how unsure the stem is, where the song is loud: "
            f"faintest 0, strongest {scale:.3g}."
        )
    return escape(text)
