"""Write the page: head, the sound of every track, tail.

Neighbouring pieces of sound overlap and are cross-faded by the page; all tracks start at the same sample of one
audio clock.
Shape suffixes: f frequency row, n column (a moment in time).
"""

from __future__ import annotations

import base64
import hashlib
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from ...audio.files import probe
from ...audio.info import WHOLE, AudioInfo, Part
from ...errors import DeepsepError, refusal
from ...progress import part_of
from ...staging import StagedFiles
from . import sound
from .overview import Values
from .player import Track, asset, fill, labels_of, player_data, player_html
from .text import channel_text, clock, duration, script_json, table

__all__ = ["write_report"]


def write_report(
    path: Path,
    *,
    title: str,
    mix: Path,
    stems: Mapping[str, Path],
    settings: Mapping[str, object],
    priors: Mapping[str, object],
    part: Part = WHOLE,
    uncertainty: Mapping[str, NDArray[Any]] | None = None,
    seconds: float | None = None,
    staged: StagedFiles | None = None,
    on_part: Callable[[float], None] | None = None,
) -> str:
    """Write the page of one separated track; an existing one is replaced only when the new one is complete.

    Returns what a reader should know of it, "" for nothing.

    Args:
        path: the page, an .html file; missing folders are created.
        title: the heading, usually the track's name.
        mix: the file that was separated, or of which a `part` was.
        stems: name -> file, in the order of the page; of several separations "sample-1/vocals" and so on, of which
            the page plays one at a time. Any rate and channel count that can be read; more than two channels are
            folded to stereo on the page.
        settings: name -> value, shown as a table; nested mappings are shown as `name: value` pairs.
        priors: stem -> what it was separated with, shown likewise.
        uncertainty: stem -> its uncertainty, (n,) over time or (f, n) with the lowest frequency first,
            evenly over the whole track. Finite, 0 is certain; all stems are drawn on one scale.
        seconds: how long the separation took.
        staged: where the page waits, among the track's other files; by default it is a unit of its own.
        on_part: called with the share of the page's sound that is made.

    Raises DeepsepError when a file cannot be read or the page cannot be written, ValueError for uncertainty
    of another shape, of another value or of something that is not a stem.
    """
    uncertainty = {name: check_uncertainty(name, values) for name, values in (uncertainty or {}).items()}
    unknown = uncertainty.keys() - stems.keys()
    if unknown:
        raise ValueError(f"uncertainty is given for {', '.join(sorted(unknown))}, which is no stem")
    if "MP3" not in sf.available_formats():
        raise DeepsepError("the report needs mp3, which this libsndfile cannot write; install libsndfile 1.1")
    labels = labels_of(stems)
    infos = [probe(mix, part), *(probe(path) for path in stems.values())]
    rate = sound.page_rate(infos[0].rate)
    kbps = sound.choose_bitrate(infos)

    with ExitStack() as stack:
        waiting = staged or stack.enter_context(StagedFiles({"page": path}))
        target = waiting.temporary_of(path)
        try:
            with waiting.scratch(target.parent).open("w+b") as sounds, target.open("wb") as page:
                heard = []
                for index, info in enumerate(infos):
                    tell = part_of(index, len(infos), on_part)
                    heard.append(sound.embed(info, rate, kbps, index, sounds, tell))
                tracks = [Track(label, picture) for label, (picture, _) in zip(labels, heard, strict=True)]
                head, tail = render(tracks, infos[0], rate, title, settings, priors, uncertainty, seconds)
                page.write(head)
                sounds.seek(0)
                shutil.copyfileobj(sounds, page)
                page.write(tail)
        except OSError as error:
            raise refusal(path, error) from None
        if staged is None:
            waiting.commit()
    if not any(clipped for _, clipped in heard):
        return ""
    return f"the page's sound and picture are clipped at {20 * math.log10(sound.CEILING):.0f} dB above full scale"


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
    mix: AudioInfo,
    rate: int,
    title: str,
    settings: Mapping[str, object],
    priors: Mapping[str, object],
    uncertainty: Mapping[str, Values],
    seconds: float | None,
) -> tuple[bytes, bytes]:
    """The page before the sound and after it. The first track is the mix; `rate` is that of the sound, in Hz."""
    length = max(track.picture.seconds for track in tracks)
    frames = [(track.label.name, round(track.picture.seconds * rate)) for track in tracks]
    facts = [clock(length), f"{mix.rate / 1000:g} kHz", channel_text(mix.channels)]
    if seconds is not None:
        facts.append(f"separated in {duration(seconds)}, {seconds / length:.2g}\u00a0× the track's length")
    script = asset("player.js") + asset("embedded.js")
    # the same bytes as between the tags
    digest = hashlib.sha256(f"\n{script}".encode()).digest()
    filled = {
        "TITLE": escape(title),
        "FACTS": escape(" · ".join(facts)),
        "STYLE": asset("player.css"),
        "SCRIPT": script,
        "SCRIPT_HASH": base64.b64encode(digest).decode(),
        "DATA": script_json(player_data(frames, rate, sound.PIECE_SECONDS, sound.encode_click(rate))),
        "PLAYER": player_html(tracks, uncertainty, length),
        "SETTINGS": table("Settings", settings),
        "PRIORS": table("Priors", priors),
    }
    page = fill(asset("template.html"), filled)
    head, _, tail = page.encode("utf-8", "replace").partition(b"@@SOUND@@")
    return head, tail
