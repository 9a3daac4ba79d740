"""Write the page: head, the sound of every track, tail.

Neighbouring pieces of sound overlap and are cross-faded by the page; all tracks start at the same sample of one
audio clock.
Shape suffixes: f frequency row, n column (a moment in time).
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from ...audio.files import probe
from ...audio.info import AudioInfo
from ...errors import DeepsepError
from ...staging import StagedFiles
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
from .text import channel_text, clock, duration, script_json, table

__all__ = ["write_report"]


@dataclass(frozen=True, slots=True)
class Track:
    """The mix or one stem, as the page shows it; `sample` is the number of the separation that it is of, "" for one."""

    name: str
    sample: str
    stem: str
    colour: Colour
    info: AudioInfo
    picture: Picture


def write_report(
    path: Path,
    *,
    title: str,
    mix: Path,
    stems: Mapping[str, Path],
    settings: Mapping[str, object],
    priors: Mapping[str, object],
    uncertainty: Mapping[str, NDArray[Any]] | None = None,
    seconds: float | None = None,
    staged: StagedFiles | None = None,
) -> str:
    """Write the page of one separated track; an existing one is replaced only when the new one is complete.

    Returns what a reader should know of it, "" for nothing.

    Args:
        path: the page, an .html file; missing folders are created.
        title: the heading, usually the track's name.
        mix: the file that was separated.
        stems: name -> file, in the order of the page; of several separations "sample-1/vocals" and so on, of which
            the page plays one at a time. Any rate and channel count that can be read; more than two channels are
            folded to stereo on the page.
        settings: name -> value, shown as a table; nested mappings are shown as `name: value` pairs.
        priors: stem -> what it was separated with, shown likewise.
        uncertainty: stem -> its uncertainty, (n,) over time or (f, n) with the lowest frequency first,
            evenly over the whole track. Finite, 0 is certain; all stems are drawn on one scale.
        seconds: how long the separation took.
        staged: where the page waits, among the track's other files; by default it is a unit of its own.

    Raises DeepsepError when a file cannot be read or the page cannot be written, ValueError for uncertainty
    of another shape, of another value or of something that is not a stem.
    """
    uncertainty = {name: check_uncertainty(name, values) for name, values in (uncertainty or {}).items()}
    unknown = uncertainty.keys() - stems.keys()
    if unknown:
        raise ValueError(f"uncertainty is given for {', '.join(sorted(unknown))}, which is no stem")
    if "MP3" not in sf.available_formats():
        raise DeepsepError("the report needs mp3, which this libsndfile cannot write; install libsndfile 1.1")
    parts = {name: split_name(name) for name in stems}
    colours = choose_colours(dict.fromkeys(stem for _, stem in parts.values()))
    sources = [("Original", "", "Original", GREY, probe(mix))]
    sources += [(n, sample, stem, colours[stem], probe(stems[n])) for n, (sample, stem) in parts.items()]
    infos = [info for *_, info in sources]
    rate = sound.page_rate(infos[0].rate)
    kbps = sound.choose_bitrate(infos)

    with ExitStack() as stack:
        waiting = staged or stack.enter_context(StagedFiles({"page": path}))
        target = waiting.temporary_of(path)
        try:
            with waiting.scratch(target.parent).open("w+b") as sounds, target.open("wb") as page:
                heard = [sound.embed(info, rate, kbps, index, sounds) for index, info in enumerate(infos)]
                tracks = [
                    Track(*source, picture) for source, (picture, _) in zip(sources, heard, strict=True)
                ]
                head, tail = render(tracks, rate, title, settings, priors, uncertainty, seconds)
                page.write(head)
                sounds.seek(0)
                shutil.copyfileobj(sounds, page)
                page.write(tail)
        except OSError as error:
            raise DeepsepError(f"{path}: cannot be written ({error.strerror})") from None
        if staged is None:
            waiting.commit()
    if not any(clipped for _, clipped in heard):
        return ""
    return f"the page's sound and picture are clipped at {20 * math.log10(sound.CEILING):.0f} dB above full scale"


def split_name(name: str) -> tuple[str, str]:
    """ "sample-1/vocals" -> ("1", "vocals"); the name of a single separation's stem -> ("", name)."""
    match = re.fullmatch(r"sample-(\d+)/(.+)", name)
    return (match[1], match[2]) if match else ("", name)


def check_uncertainty(name: str, values: NDArray[Any]) -> Values:
    """The uncertainty of a stem as (f, n). Raises ValueError unless it is finite and not negative."""
    values_fn = np.atleast_2d(np.asarray(values, np.float64))
    if values_fn.ndim != 2 or not values_fn.size:
        raise ValueError(f"uncertainty of {name} has shape {np.shape(values)}, (n,) or (f, n) is needed")
    if not np.isfinite(values_fn).all() or values_fn.min() < 0:
        raise ValueError(f"uncertainty of {name} is negative, NaN or infinite somewhere")
    return values_fn


def render(
    tracks: Sequence[Track],
    rate: int,
    title: str,
    settings: Mapping[str, object],
    priors: Mapping[str, object],
    uncertainty: Mapping[str, Values],
    seconds: float | None,
) -> tuple[bytes, bytes]:
    """The page before the sound and after it. The first track is the mix; `rate` is that of the sound, in Hz."""
    mix = tracks[0].info
    length = max(track.picture.seconds for track in tracks)
    click, click_at = sound.encode_click(rate)
    data = {
        "rate": rate,
        "seconds": length,
        "piece": sound.PIECE_SECONDS,
        "margin": round(sound.MARGIN_SECONDS * rate),
        "fade": round(sound.FADE_SECONDS * rate),
        "click": base64.b64encode(click).decode(),
        "clickAt": click_at,
        "tracks": [{"name": track.name, "frames": round(track.picture.seconds * rate)} for track in tracks],
    }
    facts = [clock(length), f"{mix.rate / 1000:g} kHz", channel_text(mix.channels)]
    if seconds is not None:
        facts.append(f"separated in {duration(seconds)}, {seconds / length:.2g}\u00a0× the track's length")
    template = files(__package__).joinpath("template.html").read_text(encoding="utf-8")
    script = re.findall(r"<script>(.*?)</script>", template, re.DOTALL)[0]
    scale = max((float(values.max()) for values in uncertainty.values()), default=0.0)
    filled = {
        "TITLE": escape(title),
        "FACTS": escape(" · ".join(facts)),
        "SCRIPT_HASH": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "DATA": script_json(data),
        "RULER": ruler(length),
        "LENGTH": clock(length),
        "SAMPLES": sample_switch([track.sample for track in tracks]),
        "SAMPLE_KEY": ", <kbd>S</kbd> next sample" if tracks[-1].sample else "",
        "TRACKS": track_rows(tracks, uncertainty, scale, length),
        "LEGEND": legend(scale if uncertainty else None),
        "SETTINGS": table("Settings", settings),
        "PRIORS": table("Priors", priors),
    }
    # in one pass, so that marks in what is filled in are not replaced
    page = re.sub(r"@@([A-Z_]+)@@", lambda match: filled.get(match[1], match[0]), template)
    head, _, tail = page.encode("utf-8", "replace").partition(b"@@SOUND@@")
    return head, tail


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
        picture, name = track.picture, escape(track.stem)
        group = f' data-stem="{name}" data-sample="{track.sample}"' if index else ""
        hidden = " hidden" if index and track.sample != tracks[1].sample else ""
        shades = spectrogram(picture.level_fn, loudest)
        width = f"{100 * picture.seconds / length:.4f}%"
        columns = len(picture.peak_n)
        strip = ""
        if index and track.name in uncertainty:
            strip = uncertainty_strip(track.name, uncertainty[track.name], scale)
        choice = ""
        if index:
            number = 1 + sum(other.sample == track.sample for other in tracks[1:index])
            key = f' aria-keyshortcuts="{number}"' if number < 10 else ""
            choice = (
                f'<button class="solo" type="button" aria-pressed="false" aria-label="Solo {name}"{key}>'
                "Solo</button>"
                f'<button class="mute" type="button" aria-pressed="false" aria-label="Mute {name}">'
                "Mute</button>"
            )
        rows.append(
            f'<section class="track" data-track="{index}"{group} aria-label="{name}"{hidden}'
            f' style="--light:{accent(track.colour, False)};--dark:{accent(track.colour, True)}">'
            f'<div class="controls"><h2 dir="auto">{name}</h2>{choice}'
            f'<input class="volume" type="range" min="0" max="150" value="100" step="5"'
            f' aria-label="Volume of {name}" aria-valuetext="100 %"></div>'
            f'<div class="lane"><svg class="wave" style="width:{width}" viewBox="0 0 {columns} 200"'
            f' preserveAspectRatio="none" role="img" aria-label="Waveform of {name}">'
            f'<path class="peak" d="{outline(picture.peak_n / peak)}"/>'
            f'<path class="rms" d="{outline(picture.rms_n / peak)}"/></svg>'
            + image(track.colour, shades, "spectrum", f"Spectrogram of {name}", width)
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
            f" The strip below a spectrogram is how unsure the stem is: faintest 0, strongest {scale:.3g}."
        )
    return escape(text)
