"""Native Instruments stem files (.stem.mp4): the mix and four stems in one file that DJ programs play.

The file is an mp4 with five stereo streams, the mix first and alone enabled, and a stem box (see `mp4`) that
names and colours the stems. A player mutes and filters the four stems, so they must sum to the mix.
Shape suffixes: k stem, c channel, t sample. Samples are float32, full scale is 1.0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..audio.files import probe, read_blocks
from ..audio.info import Samples
from ..audio.resampling import resample_blocks
from ..audio.tags import Tags, write_what_fits
from ..config import AAC_BITRATE, CODEC, Codec
from ..errors import DeepsepError
from ..staging import StagedFiles
from . import encoders, mp4
from .writer import StagedWriter, StemSpool, shared_gain

__all__ = ["CODECS", "COLORS", "ORDER", "Encoding", "NiStemWriter", "check", "write"]

CODECS = ("aac", "alac")
ORDER = ("drums", "bass", "other", "vocals")
COLORS = dict(zip(ORDER, ("#009E73", "#D55E00", "#CC79A7", "#56B4E9"), strict=True))

RATES = (44100, 48000)
BLOCK_FRAMES = 4096
# Above this peak ffmpeg's aac encoder turns down single windows of single streams, and the stems no longer
# sum to the mix.
AAC_PEAK = 0.95
MIX_TITLE = "Master"

# Players apply these to the sum of the stems; switched off, so that they play that sum as it was written.
MASTERING_DSP: dict[str, dict[str, bool | int | float]] = {
    "compressor": {
        "enabled": False,
        "ratio": 2,
        "threshold": 0,
        "attack": 0.003,
        "release": 0.3,
        "input_gain": 0,
        "output_gain": 0,
        "hp_cutoff": 20,
        "dry_wet": 100,
    },
    "limiter": {"enabled": False, "threshold": 0, "release": 0.3, "ceiling": 0},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """How a stem file is encoded, and what it says of itself.

    Args:
        codec: "aac" (Traktor on every system) or "alac" (24 bit, lossless).
        bitrate: bit/s of each aac stream.
        tags: text fields and cover; they need mutagen.
        comment: written into the file as its comment.
    """

    codec: Codec = CODEC
    bitrate: int = AAC_BITRATE
    tags: Tags | None = None
    comment: str = ""


def check(stems: Sequence[str], channels: int, *, codec: Codec = CODEC) -> None:
    """Raise DeepsepError unless a stem file can hold these, MissingExtra when nothing can encode it."""
    if len(stems) != 4:
        raise DeepsepError(f"a stem.mp4 holds exactly 4 stems, not {len(stems)}; use --format wav or flac")
    if channels not in (1, 2):
        raise DeepsepError(f"a stem.mp4 is stereo, {channels} channels do not fit; use --format wav or flac")
    if codec not in CODECS:
        raise DeepsepError(f"codec {codec} is not one of {', '.join(CODECS)}; choose one of these")
    encoders.find_encoder()


class NiStemWriter(StagedWriter):
    """Streams the stems of one track into a stem file; used like `stems.StemWriter`.

    The mix is the sum of the stems. All five wait as float files beside `path` (4 bytes a sample) until
    `close` encodes them; `gain_db` is known from then on. When the `with` block raises, nothing is left
    behind. `rate` is in Hz, `channels` is 1 or 2, `staged` as there. Raises DeepsepError as `check` and `write` do.
    """

    def __init__(
        self,
        path: Path,
        stem_names: Sequence[str],
        rate: int,
        channels: int,
        encoding: Encoding | None = None,
        *,
        staged: StagedFiles | None = None,
    ) -> None:
        self.encoding = encoding or Encoding()
        check(stem_names, channels, codec=self.encoding.codec)
        super().__init__({"file": path}, staged)
        folder = self.temporary["file"].parent
        self.stems = {name: self.staged.scratch(folder) for name in stem_names}
        self.mix = self.staged.scratch(folder)
        # The mix comes last, so that the error for a NaN names the stem that has it.
        waiting = {**self.stems, "their sum": self.mix}
        try:
            # W64 has no size limit.
            self.spool = StemSpool(waiting, rate, channels, format="W64", subtype="FLOAT")
        except BaseException:
            if self.alone:
                self.staged.abort()
            raise

    def write(self, stems: Samples) -> None:
        """Append a block of shape (k, c, t), stems in the order of `stem_names`."""
        mix = stems.sum(axis=0, dtype=np.float64).astype(np.float32)
        self.spool.write(np.concatenate([stems, mix[None]]))

    def finish(self) -> None:
        """Encode the stem file."""
        parts = (self.mix, self.stems, self.encoding)
        self.gain_db = write(self.temporary["file"], *parts, on_note=self.notes.append)


def write(
    path: Path,
    mix: Path,
    stems: Mapping[str, Path],
    encoding: Encoding,
    *,
    on_note: Callable[[str], None] | None = None,
) -> float:
    """Write a stem file from five sound files; return the gain that was applied to all, in dB.

    `stems` maps names to files: the four of `ORDER` are put in that order, others keep theirs. Mono becomes
    stereo by doubling. Players know 44.1 and 48 kHz; other rates are resampled to 44.1 kHz. When a peak exceeds
    full scale (alac) or 0.95 of it (aac, whose encoder would turn loud moments down by itself), the mix and
    the stems are turned down by one common gain.
    Encodes through PyAV if it is installed, else through ffmpeg. `on_note` hears of tags that do not fit.
    Raises DeepsepError when the files differ in rate, channels or length or do not fit the format.
    """
    order = sort_stems(list(stems))
    infos = [probe(file) for file in (mix, *(stems[name] for name in order))]
    check(order, max(info.channels for info in infos), codec=encoding.codec)
    rate = infos[0].rate
    for info in infos:
        if info.rate != rate or info.channels != infos[0].channels:
            raise DeepsepError(
                f"{info.path}: has {info.channels} channels at {info.rate} Hz, the other parts have "
                f"{infos[0].channels} at {rate} Hz; make them alike"
            )
    to_rate = rate if rate in RATES else 44100

    def sources(gain: float) -> list[encoders.BlockSource]:
        return [stereo_source(info.path, rate, to_rate, gain) for info in infos]

    # The peak that counts is the one that will be encoded: resampling may raise it.
    gain = shared_gain(measure_peak(sources(1.0)), AAC_PEAK if encoding.codec == "aac" else 1.0)
    titles = [name.capitalize() for name in order]
    streams = encoders.Streams(
        sources=sources(gain),
        titles=[MIX_TITLE, *titles],
        rate=to_rate,
        codec=encoding.codec,
        bitrate=encoding.bitrate,
        comment=encoding.comment,
    )
    encoders.find_encoder()(path, streams)
    if encoding.tags is not None:
        # Before the stem box: mutagen rewrites udta and is not known to keep boxes it does not read.
        left_out = write_what_fits(path, encoding.tags, "stem.mp4")
        if left_out and on_note:
            on_note(left_out)
    mp4.add_manifest(path, make_manifest(order, titles))
    return 20 * math.log10(gain)


def sort_stems(stems: list[str]) -> list[str]:
    """The four usual stems in the order that players expect; other stems as they are."""
    return list(ORDER) if sorted(stems) == sorted(ORDER) else stems


def stereo_source(path: Path, rate: int, to_rate: int, gain: float) -> encoders.BlockSource:
    """Blocks of shape (2, t), t at most `BLOCK_FRAMES`, resampled to `to_rate` and multiplied by `gain`."""

    def blocks() -> Iterator[Samples]:
        for block in resample_blocks(read_blocks(path), rate, to_rate):
            stereo = np.broadcast_to(block, (2, block.shape[1])) * np.float32(gain)
            for start in range(0, stereo.shape[1], BLOCK_FRAMES):
                yield stereo[:, start : start + BLOCK_FRAMES]

    return blocks


def measure_peak(sources: Sequence[encoders.BlockSource]) -> float:
    """The largest peak of all. Raises DeepsepError unless they are equally long."""
    peak, lengths = 0.0, set()
    for source in sources:
        length = 0
        for block in source():
            peak = max(peak, float(np.abs(block).max()))
            length += block.shape[1]
        lengths.add(length)
    if len(lengths) != 1:
        raise DeepsepError(
            f"the mix and the stems have different lengths ({', '.join(map(str, sorted(lengths)))} samples); "
            "cut them alike"
        )
    return peak


def make_manifest(order: Sequence[str], titles: Sequence[str]) -> dict[str, Any]:
    """The JSON of the stem box. Stems of other names get the colour of their place."""
    stems = [
        {"name": title, "color": COLORS.get(name, color)}
        for name, title, color in zip(order, titles, COLORS.values(), strict=True)
    ]
    return {"mastering_dsp": MASTERING_DSP, "version": 1, "stems": stems}
