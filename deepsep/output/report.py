"""Stems -> one HTML page to listen on: player, waveforms, spectrograms, settings; no network, no other file.

The page holds every track as mp3 in pieces of a few seconds, which the browser decodes when their turn comes:
neither the first paint nor the browser's memory for samples depends on the length of the song. Neighbouring
pieces overlap and are cross-faded; all tracks start at the same sample of one audio clock.
Shapes: c channel, t sample, f frequency row, n column (a moment in time).
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import os
import re
import shutil
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from ..audio import files as audio
from ..audio.info import AudioInfo
from ..audio.resampling import resample_blocks
from ..errors import DeepsepError
from .stems import StagedFiles

__all__ = ["write_report"]

Samples = NDArray[np.float32]
Values = NDArray[np.floating[Any]]

PIECE_SECONDS = 15
MARGIN_SECONDS = 0.1  # more than the codec looks back or ahead
FADE_SECONDS = 0.02

# kbit/s in stereo, and the size of the whole page's audio up to which it is chosen
_BITRATES = ((128, 23.5e6), (112, 23.5e6), (96, 100e6), (64, math.inf))
_WRITE_FRAMES = 1 << 14

_UNIT = 1024  # samples per column before columns are joined to those of the page
_WINDOW = 2 * _UNIT
_COLUMNS = 1000
_ROWS = 96
_LOWEST_HZ, _HIGHEST_HZ = 40.0, 16000.0
_RANGE_DB = 75.0
_SHADES = 48

# OKLCH hue of the names that are usual; other stems take what is left, in turn.
_HUES = {"vocals": 12, "drums": 62, "bass": 292, "other": 172, "piano": 240, "guitar": 112, "no_vocals": 205}
_SPARE_HUES = (330, 145, 265, 35, 90, 220)
_CHROMA = 0.14


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
) -> None:
    """Writes the page of one separated track; an existing one is replaced only once the new one is whole.

    Args:
        path: the page, an .html file; missing folders are made.
        title: the heading, as a rule the track's name.
        mix: the file that was separated.
        stems: name -> file, in the order of the page. Any rate and channel count that `audio` reads; more
            than two channels are folded to stereo on the page.
        settings: name -> value, shown as a table; nested mappings are shown as `name: value` pairs.
        priors: stem -> what it was separated with, shown likewise.
        uncertainty: stem -> how unsure it is, (n,) over time or (f, n) with the lowest frequency first,
            spread over the whole track. Finite, 0 is certain; all stems are drawn on one scale.
        seconds: how long the separation took.

    Raises DeepsepError when a file cannot be read or the page cannot be written.
    """
    uncertainty = {name: _checked(name, values) for name, values in (uncertainty or {}).items()}
    unknown = uncertainty.keys() - stems.keys()
    if unknown:
        raise ValueError(f"uncertainty is given for {', '.join(sorted(unknown))}, which is no stem")
    if "MP3" not in sf.available_formats():
        raise DeepsepError("the report needs mp3, which this libsndfile cannot write; install libsndfile 1.1")
    tracks = [_Track("Original", mix, hue=0, chroma=0.0)]
    tracks += [_Track(name, stems[name], hue, _CHROMA) for name, hue in _hues(stems).items()]
    infos = [audio.probe(track.path) for track in tracks]
    rate = _page_rate(infos[0].rate)
    kbps = _bitrate(infos)

    staged = StagedFiles({"page": path})
    try:
        sounds = staged.scratch(staged.temporary["page"].parent)
        with sounds.open("w+b") as sound, staged.temporary["page"].open("wb") as page:
            pictures = [
                _embed(track.path, info.rate, rate, kbps, index, sound)
                for index, (track, info) in enumerate(zip(tracks, infos, strict=True))
            ]
            head, tail = _fill(tracks, pictures, infos, rate, title, settings, priors, uncertainty, seconds)
            page.write(head)
            sound.seek(0)
            shutil.copyfileobj(sound, page)
            page.write(tail)
        staged.commit()
    except OSError as error:
        raise DeepsepError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        staged.abort()


@dataclass(frozen=True, slots=True)
class _Track:
    name: str
    path: Path
    hue: float
    chroma: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    """What the page draws of one track: its columns, and how long it is in seconds."""

    level_fn: Values  # power
    peak_n: Values
    rms_n: Values
    seconds: float


def _checked(name: str, values: NDArray[Any]) -> Values:
    checked = np.atleast_2d(np.asarray(values, np.float64))
    if checked.ndim != 2 or not checked.size:
        raise ValueError(f"uncertainty of {name} has shape {np.shape(values)}, (n,) or (f, n) is needed")
    if not np.isfinite(checked).all() or checked.min() < 0:
        raise ValueError(f"uncertainty of {name} is negative, NaN or infinite somewhere")
    return checked


def _hues(names: Iterable[str]) -> dict[str, float]:
    names = list(names)
    spare = [hue for name, hue in _HUES.items() if name not in names]
    left = chain(_SPARE_HUES, spare)
    return {
        name: _HUES[name] if name in _HUES else next(left, 137.5 * i % 360) for i, name in enumerate(names)
    }


# --- sound ---------------------------------------------------------------------------------------------


def _page_rate(rate: int) -> int:
    """44100 or 48000: the rates at which every browser plays mp3 without touching its length."""
    return 44100 if rate % 11025 == 0 else 48000


def _bitrate(infos: Iterable[AudioInfo]) -> int:
    seconds = [(info.frames or 0) / info.rate * min(info.channels, 2) / 2 for info in infos]
    bytes_per_kbps = sum(seconds) * (1 + 2 * MARGIN_SECONDS / PIECE_SECONDS) * 125 * 4 / 3
    return next(kbps for kbps, limit in _BITRATES if kbps * bytes_per_kbps <= limit)


def _embed(path: Path, rate: int, page_rate: int, kbps: int, track: int, page: IO[bytes]) -> _Picture:
    """Appends the track's pieces to `page` and returns its picture, in one pass over the file."""
    overview = _Overview(page_rate)
    folded = (_fold(block) for block in audio.read_blocks(path))
    blocks = overview.watch(resample_blocks(folded, rate, page_rate))
    pieces = _pieces(blocks, PIECE_SECONDS * page_rate, round(MARGIN_SECONDS * page_rate))
    for index, mp3 in enumerate(_in_parallel(lambda piece: _mp3(piece, page_rate, kbps), pieces)):
        page.write(b'<script type="text/plain" id="sound-%d-%d">' % (track, index))
        page.write(base64.b64encode(mp3))
        page.write(b"</script>\n")
    return overview.picture()


def _in_parallel(encode: Callable[[Samples], bytes], pieces: Iterable[Samples]) -> Iterator[bytes]:
    """`map`, in order, with as few pieces in memory as there are workers."""
    workers = min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[bytes]] = deque()
        for piece in pieces:
            waiting.append(pool.submit(encode, piece))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        for future in waiting:
            yield future.result()


def _fold(samples_ct: Samples) -> Samples:
    """At most two channels: those past the second go to both sides, at a gain that cannot clip."""
    if samples_ct.shape[0] <= 2:
        return samples_ct
    share = math.sqrt(0.5)
    both = samples_ct[:2] + share * samples_ct[2:].sum(0)
    return np.asarray(both / (1 + share * (samples_ct.shape[0] - 2)), np.float32)


def _pieces(blocks: Iterable[Samples], frames: int, margin: int) -> Iterator[Samples]:
    """Piece i holds samples [i frames - margin, (i + 1) frames + margin), silence outside the signal.

    The last piece ends `margin` after the signal.
    """
    held: Samples | None = None
    for block in blocks:
        before = np.zeros((block.shape[0], margin), np.float32) if held is None else held
        held = np.concatenate([before, block], axis=1)
        while held.shape[1] >= frames + 2 * margin:
            yield held[:, : frames + 2 * margin]
            held = held[:, frames:]
    while held is not None and held.shape[1] > margin:
        end = np.zeros((held.shape[0], margin), np.float32)
        yield np.concatenate([held, end], axis=1)[:, : frames + 2 * margin]
        held = held[:, frames:]


def _mp3(samples_ct: Samples, rate: int, kbps: int) -> bytes:
    channels = samples_ct.shape[0]
    level = (320 - kbps * channels / 2) / (320 - 32)  # libsndfile's scale: 0 is 320 kbit/s, 1 is 32
    file = io.BytesIO()
    try:
        with sf.SoundFile(
            file,
            "w",
            rate,
            channels,
            format="MP3",
            subtype="MPEG_LAYER_III",
            bitrate_mode="CONSTANT",
            compression_level=min(level, 0.9999),
        ) as sound:
            for start in range(0, samples_ct.shape[1], _WRITE_FRAMES):
                sound.write(samples_ct[:, start : start + _WRITE_FRAMES].T)
    except sf.LibsndfileError as error:
        raise DeepsepError(f"mp3 for the report could not be encoded ({error.error_string})") from None
    return file.getvalue()


def _click(rate: int) -> tuple[bytes, int]:
    """An mp3 of one click and the sample it is at: where a browser puts it tells the delay of its decoder."""
    samples = np.zeros((1, rate // 4), np.float32)
    at = rate // 8
    samples[0, at] = 0.9
    return _mp3(samples, rate, 128), at


# --- pictures ------------------------------------------------------------------------------------------


class _Overview:
    """Peak, power and spectrum of a stream of (c, t), in columns of `_UNIT` samples."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._window = np.hanning(_WINDOW).astype(np.float32)
        self._bands = _band_weights(rate)
        self._columns: list[tuple[Values, Values, Values]] = []
        self._frames = 0

    def watch(self, blocks: Iterable[Samples]) -> Iterator[Samples]:
        """Passes the blocks on and notes them; `picture` may be called after the last."""
        overhang = (_WINDOW - _UNIT) // 2
        held: Samples | None = None
        for block in blocks:
            before = np.zeros((block.shape[0], overhang), np.float32) if held is None else held
            held = self._add(np.concatenate([before, block], axis=1))
            self._frames += block.shape[1]
            yield block
        if held is not None:
            self._add(np.pad(held, ((0, 0), (0, _WINDOW))))

    def _add(self, samples_ct: Samples) -> Samples:
        count = (samples_ct.shape[1] - _WINDOW) // _UNIT + 1
        if count < 1:
            return samples_ct
        frames_cnt = np.lib.stride_tricks.sliding_window_view(samples_ct, _WINDOW, axis=1)[:, ::_UNIT][
            :, :count
        ]
        power_nf = (np.abs(np.fft.rfft(frames_cnt * self._window)) ** 2).mean(0)
        middle_cnt = frames_cnt[..., (_WINDOW - _UNIT) // 2 :][..., :_UNIT]
        self._columns.append(
            (
                (power_nf @ self._bands.T).astype(np.float32),
                np.abs(middle_cnt).max((0, 2)),
                np.square(middle_cnt).mean((0, 2)),
            )
        )
        return samples_ct[:, count * _UNIT :]

    def picture(self) -> _Picture:
        level_nf, peak_n, power_n = (np.concatenate(part) for part in zip(*self._columns, strict=True))
        units = -(-self._frames // _UNIT)
        starts = _starts(units)
        count = np.diff(np.append(starts, units))
        return _Picture(
            level_fn=(np.add.reduceat(level_nf[:units], starts) / count[:, None]).T,
            peak_n=np.maximum.reduceat(peak_n[:units], starts),
            rms_n=np.sqrt(np.add.reduceat(power_n[:units], starts) / count),
            seconds=self._frames / self._rate,
        )


def _starts(length: int) -> NDArray[np.intp]:
    """Where the columns of the page begin among `length` columns: at most `_COLUMNS`, even in width."""
    columns = min(length, _COLUMNS)
    return np.arange(columns) * length // columns


def _band_weights(rate: int) -> Values:
    """(f, bins): triangles on a logarithmic frequency axis, at least a bin wide, each of sum 1."""
    hz = np.arange(_WINDOW // 2 + 1) * rate / _WINDOW
    centre = np.geomspace(_LOWEST_HZ, _HIGHEST_HZ, _ROWS)
    width = np.maximum(centre * ((_HIGHEST_HZ / _LOWEST_HZ) ** (1 / (_ROWS - 1)) - 1), hz[1])
    weights = np.maximum(0, 1 - np.abs(hz - centre[:, None]) / width[:, None])
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float64)


def _shades(values: Values) -> NDArray[np.uint8]:
    """Values of 0 to 1 -> indices into a ramp."""
    return np.asarray(np.clip(values, 0, 1) * (_SHADES - 1) + 0.5, np.uint8)


def _spectrogram(level_fn: Values, loudest: float) -> NDArray[np.uint8]:
    """(rows, columns) with the highest frequency on top, `_RANGE_DB` below the loudest of all tracks."""
    db = 10 * np.log10(np.maximum(level_fn / max(loudest, 1e-20), 1e-20))
    return _shades(1 + db[::-1] / _RANGE_DB)


def _rgb(lightness: Values, chroma: Values, hue: float) -> NDArray[np.uint8]:
    """OKLCH -> sRGB (n, 3). Reference: B. Ottosson, https://bottosson.github.io/posts/oklab/"""
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


def _ramp(track: _Track, dark: bool) -> NDArray[np.uint8]:
    """Steps of equal lightness from the page's ground to the loudest, in the track's hue."""
    t = np.linspace(0, 1, _SHADES)
    lightness = 0.21 + 0.73 * t if dark else 0.965 - 0.64 * t
    return _rgb(lightness, 1.2 * track.chroma * t**0.6 * (1 - 0.5 * t), track.hue)


_GREY = _Track("", Path(), hue=0, chroma=0.0)


def _accent(track: _Track, dark: bool) -> str:
    lightness, chroma = (0.77, 0.9) if dark else (0.56, 1.0)
    rgb = _rgb(np.array([lightness]), np.array([chroma * track.chroma]), track.hue)
    return "#" + rgb.tobytes().hex()


def _png(shades: NDArray[np.uint8], ramp: NDArray[np.uint8]) -> str:
    """A data URL of an image with a palette."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = shades.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), shades], axis=1)  # 0: the row is not filtered
    image = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        + chunk(b"PLTE", ramp.tobytes())
        + chunk(b"IDAT", zlib.compress(rows.tobytes(), 9))
        + chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(image).decode()


def _outline(height_n: Values) -> str:
    """The path of a shape that is `height_n` above and below its axis, in a box of n x 200."""
    rounded = np.round(100 * np.clip(height_n, 0, 1) ** 0.6).astype(int)  # quiet stems stay visible
    top = "".join(f"L{x} {100 - y}" for x, y in enumerate(rounded))
    bottom = "".join(f"L{x} {100 + y}" for x, y in reversed(list(enumerate(rounded))))
    return f"M0 100{top}{bottom}Z"


# --- the page ------------------------------------------------------------------------------------------


def _fill(
    tracks: list[_Track],
    pictures: list[_Picture],
    infos: list[AudioInfo],
    rate: int,
    title: str,
    settings: Mapping[str, object],
    priors: Mapping[str, object],
    uncertainty: Mapping[str, Values],
    seconds: float | None,
) -> tuple[bytes, bytes]:
    """The page before the sound and after it."""
    length = max(picture.seconds for picture in pictures)
    click, click_at = _click(rate)
    data = {
        "rate": rate,
        "seconds": length,
        "piece": PIECE_SECONDS,
        "margin": round(MARGIN_SECONDS * rate),
        "fade": round(FADE_SECONDS * rate),
        "click": base64.b64encode(click).decode(),
        "clickAt": click_at,
        "tracks": [
            {"name": track.name, "frames": round(picture.seconds * rate)}
            for track, picture in zip(tracks, pictures, strict=True)
        ],
    }
    facts = [_clock(length), f"{infos[0].rate / 1000:g} kHz", _channels(infos[0].channels)]
    if seconds is not None:
        facts.append(f"separated in {_duration(seconds)}, {seconds / length:.2g}\u00a0× the track's length")
    template = files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    script = re.findall(r"<script>(.*?)</script>", template, re.DOTALL)[0]
    scale = max((float(values.max()) for values in uncertainty.values()), default=0.0)
    filled = {
        "TITLE": _text(title),
        "FACTS": _text(" · ".join(facts)),
        "SCRIPT_HASH": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "DATA": _json(data),
        "RULER": _ruler(length),
        "LENGTH": _clock(length),
        "TRACKS": _rows(tracks, pictures, uncertainty, scale, length),
        "LEGEND": _legend(scale if uncertainty else None),
        "SETTINGS": _table("Settings", settings),
        "PRIORS": _table("Priors", priors),
    }
    # one pass: what is filled in is never searched
    page = re.sub(r"@@([A-Z_]+)@@", lambda match: filled.get(match[1], match[0]), template)
    head, _, tail = page.encode("utf-8", "replace").partition(b"@@SOUND@@")
    return head, tail


def _rows(
    tracks: list[_Track],
    pictures: list[_Picture],
    uncertainty: Mapping[str, Values],
    scale: float,
    length: float,
) -> str:
    loudest = max(float(picture.level_fn.max()) for picture in pictures)
    peak = max(float(picture.peak_n.max()) for picture in pictures) or 1.0
    rows = []
    for index, (track, picture) in enumerate(zip(tracks, pictures, strict=True)):
        name = _text(track.name)
        width = f"{100 * picture.seconds / length:.4f}%"
        columns = len(picture.peak_n)
        strip = ""
        if index and track.name in uncertainty:
            strip = _uncertainty(track.name, uncertainty[track.name], scale)
        choice = ""
        if index:
            key = f' aria-keyshortcuts="{index}"' if index < 10 else ""
            choice = (
                f'<button class="solo" type="button" aria-pressed="false" aria-label="Solo {name}"{key}>'
                "Solo</button>"
                f'<button class="mute" type="button" aria-pressed="false" aria-label="Mute {name}">'
                "Mute</button>"
            )
        rows.append(
            f'<section class="track" data-track="{index}" aria-label="{name}"'
            f' style="--light:{_accent(track, False)};--dark:{_accent(track, True)}">'
            f'<div class="controls"><h2 dir="auto">{name}</h2>{choice}'
            f'<input class="volume" type="range" min="0" max="150" value="100" step="5"'
            f' aria-label="Volume of {name}" aria-valuetext="100 %"></div>'
            f'<div class="lane"><svg class="wave" style="width:{width}" viewBox="0 0 {columns} 200"'
            f' preserveAspectRatio="none" role="img" aria-label="Waveform of {name}">'
            f'<path class="peak" d="{_outline(picture.peak_n / peak)}"/>'
            f'<path class="rms" d="{_outline(picture.rms_n / peak)}"/></svg>'
            + _image(
                track, _spectrogram(picture.level_fn, loudest), "spectrum", f"Spectrogram of {name}", width
            )
            + f'{strip}<i class="head"></i></div></section>'
        )
    return "\n".join(rows)


def _uncertainty(name: str, values_fn: Values, scale: float) -> str:
    starts = _starts(values_fn.shape[1])
    widest = np.maximum.reduceat(values_fn, starts, axis=1)
    shades = _shades(widest[::-1] / (scale or 1.0))
    return _image(_GREY, shades, "unsure", f"Uncertainty of {_text(name)}", "100%")


def _image(track: _Track, shades: NDArray[np.uint8], kind: str, label: str, width: str) -> str:
    light, dark = (_png(shades, _ramp(track, dark)) for dark in (False, True))
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img class="{kind}" style="width:{width}" alt="{label}" src="{light}" draggable="false"></picture>'
    )


def _ruler(length: float) -> str:
    step = next((s for s in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800) if length / s <= 6), 3600)
    marks = [t for t in range(0, math.ceil(length), step) if length - t > 0.05 * length]
    return "".join(f'<span style="left:{100 * t / length:.3f}%">{_clock(t)}</span>' for t in marks)


def _legend(scale: float | None) -> str:
    range_ = f"{_LOWEST_HZ:g} Hz to {_HIGHEST_HZ / 1000:g} kHz, {_RANGE_DB:g} dB deep"
    legend = f"Waveforms share one scale, and so do spectrograms ({range_})."
    if scale is not None:
        legend += (
            f" The strip below a spectrogram is how unsure the stem is: faintest 0, strongest {scale:.3g}."
        )
    return _text(legend)


def _table(caption: str, values: Mapping[str, object]) -> str:
    if not values:
        return ""
    rows = "".join(
        f'<tr><th scope="row" dir="auto">{_text(str(name))}</th><td dir="auto">{_value(value)}</td></tr>'
        for name, value in values.items()
    )
    return f"<table><caption>{caption}</caption><tbody>{rows}</tbody></table>"


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "<br>".join(f"<span>{_text(str(name))}:</span> {_value(part)}" for name, part in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(_value(part) for part in value)
    if value is None:
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    return _text(str(value))


def _text(text: str) -> str:
    return html.escape(text)


def _json(data: object) -> str:
    """JSON that cannot end the script element around it."""
    text = json.dumps(data, ensure_ascii=True)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _clock(seconds: float) -> str:
    whole = int(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _duration(seconds: float) -> str:
    return f"{seconds:.3g}\u00a0s" if seconds < 100 else f"{seconds / 60:.3g}\u00a0min"


def _channels(count: int) -> str:
    return {1: "mono", 2: "stereo"}.get(count, f"{count} channels, folded to stereo here")
