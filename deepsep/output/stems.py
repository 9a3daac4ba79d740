"""Write the stems of a track to one sound file each.

All stems of a track share one gain, so that they keep their levels and still sum to the (equally scaled)
mixture; a silent stem is written like any other.
Shape suffixes: k stem, c channel, t sample. Samples are float32, full scale is 1.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from ..audio.decoders.libsndfile import read_all
from ..audio.files import MAX_CHANNELS
from ..audio.tags import Tags, write_what_fits
from ..config import BIT_DEPTH, FORMAT, MP3_KBPS, BitDepth
from ..errors import DeepsepError
from ..staging import StagedFiles, place_of
from .writer import StagedWriter, StemSpool, shared_gain

__all__ = ["BIT_DEPTHS", "FORMATS", "LOSSY_PEAK", "Encoding", "StemWriter", "check_format"]

FORMATS = ("wav", "flac", "mp3", "ogg")
BIT_DEPTHS = ("float", "24", "16")

# A lossy decoder overshoots the peak that was encoded, by little.
LOSSY_PEAK = 0.98

MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
MAX_RATE = {"wav": 0xFFFFFFFF, "flac": 655350, "ogg": 200000}
# The sizes in a WAV header go up to 4 GiB; less room for the header and its chunks.
WAV_BYTES = (1 << 32) - (1 << 16)
WAV_WIDTH = {"float": 4, "24": 3, "16": 2}  # bytes per sample


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """How sound files are encoded, and what they say of themselves.

    Args:
        format: "wav", "flac", "mp3" or "ogg".
        bit_depth: "float" (as deep as the format goes: float wav, 24-bit flac), "24" or "16".
            mp3 and ogg have none and ignore it.
        bitrate: kbit/s of mp3, rounded to what the format has (32-320; up to 160 below 32 kHz).
        tags: written where mutagen is installed.
        comment: written into every file as its comment.
    """

    format: str = FORMAT
    bit_depth: BitDepth = BIT_DEPTH
    bitrate: int = MP3_KBPS
    tags: Tags | None = None
    comment: str = ""


def check_format(format: str, rate: int, channels: int) -> None:
    """Raise DeepsepError unless `format` can hold `channels` channels at `rate` Hz."""
    if format not in FORMATS:
        raise DeepsepError(f"format {format} is not one of {', '.join(FORMATS)}; choose one of these")
    most = 2 if format == "mp3" else MAX_CHANNELS
    if not 1 <= channels <= most:
        raise DeepsepError(f"{format} holds 1 to {most} channels, not {channels}; use --format wav or flac")
    if format == "mp3" and rate not in MP3_RATES:
        known = ", ".join(str(known) for known in MP3_RATES)
        raise DeepsepError(f"mp3 has no sample rate {rate} Hz, only {known}; use --format wav or flac")
    if format != "mp3" and not 1 <= rate <= MAX_RATE[format]:
        raise DeepsepError(
            f"{format} holds sample rates up to {MAX_RATE[format]} Hz, not {rate}; use --format wav"
        )


class StemWriter(StagedWriter):
    """Streams the stems of one track to one file each; a context manager.

    Args:
        paths: stem -> file, in the order in which `write` gets the stems.
        rate: Hz.
        channels: per stem.
        encoding: format, bit depth, tags and comment; float wav by default.
        frames: samples per channel where that is known; a wav past 4 GiB is then written as RF64.
        staged: where the files wait, among others of the track; by default they are a unit of their own.

    Every stem is complete before the first is renamed to its target. When the `with` block raises, nothing
    is left behind, neither files nor the folders created for them.
    Integer and lossy formats cannot go past full scale: when the largest peak of all stems does, all are
    turned down by one common gain, `gain_db` (0.0 when none was needed; known after `close`).
    Raises DeepsepError as `check_format` does, and when a file cannot be written.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        rate: int,
        channels: int,
        encoding: Encoding | None = None,
        *,
        frames: int | None = None,
        staged: StagedFiles | None = None,
    ) -> None:
        self.encoding = encoding = encoding or Encoding()
        check_format(encoding.format, rate, channels)
        if encoding.bit_depth not in BIT_DEPTHS:
            raise DeepsepError(f"bit depth {encoding.bit_depth} is not one of {', '.join(BIT_DEPTHS)}")
        self.rate, self.channels = rate, channels
        self.arguments = sndfile_arguments(encoding, rate, channels, frames)
        self.arguments["comment"] = encoding.comment
        self.limit_frames = math.inf
        if self.arguments["format"] == "WAV":
            self.limit_frames = WAV_BYTES // (channels * WAV_WIDTH[encoding.bit_depth])
        super().__init__(paths, staged)
        # Float needs no gain, so it goes straight to its file. The others wait for the peak of the whole
        # track in W64, which has no size limit.
        self.waiting: dict[str, Path] | None = None
        try:
            if self.arguments["subtype"] == "FLOAT":
                self.spool = self.open_files(self.temporary)
            else:
                self.waiting = {
                    name: self.staged.scratch(path.parent) for name, path in self.temporary.items()
                }
                self.spool = StemSpool(self.waiting, rate, channels, format="W64", subtype="FLOAT")
        except BaseException:
            if self.alone:
                self.staged.abort()
            raise

    def open_files(self, paths: Mapping[str, Path]) -> StemSpool:
        """Open these files in the format that was asked for."""
        return StemSpool(paths, self.rate, self.channels, limit_frames=self.limit_frames, **self.arguments)

    def finish(self) -> None:
        """Convert the stems that wait for their gain, and write the tags."""
        if self.waiting is not None:
            self.convert(self.waiting)
        if self.encoding.tags:
            for path in self.temporary.values():
                self.notes.append(write_what_fits(path, self.encoding.tags, self.encoding.format))

    def convert(self, waiting: Mapping[str, Path]) -> None:
        """Encode the float files in `waiting` at their common gain, and remove each."""
        gain = shared_gain(self.spool.peak, LOSSY_PEAK if self.encoding.format in ("mp3", "ogg") else 1.0)
        self.gain_db = 20 * math.log10(gain)
        done = 0
        for name, source in waiting.items():
            final = self.open_files({name: self.temporary[name]})
            try:
                with sf.SoundFile(source) as file:
                    for block in read_all(file):
                        final.write((block * np.float32(gain))[None])
                        done += block.shape[1]
                        if self.on_part:
                            self.on_part(done / (len(waiting) * self.spool.frames))
                final.close()
            except sf.LibsndfileError as error:
                raise DeepsepError(
                    f"{place_of(source)}: a temporary file cannot be read ({error.error_string})"
                ) from None
            finally:
                final.abandon()
            source.unlink()  # now, not at the end: less disk space is needed at once


def sndfile_arguments(encoding: Encoding, rate: int, channels: int, frames: int | None) -> dict[str, Any]:
    """soundfile's keyword arguments for a file of `frames` samples (None: not known)."""
    if encoding.format == "mp3":
        low, high = (32, 320) if rate >= 32000 else (8, 160) if rate >= 16000 else (8, 64)
        # libsndfile's scale: 0 is the highest bit rate, 1 the lowest, though it refuses 1.0 itself
        level = min(max((high - encoding.bitrate) / (high - low), 0.0), 0.9999)
        return {
            "format": "MP3",
            "subtype": "MPEG_LAYER_III",
            "bitrate_mode": "CONSTANT",
            "compression_level": level,
        }
    if encoding.format == "ogg":
        return {"format": "OGG", "subtype": "VORBIS"}
    if encoding.format == "flac":
        return {"format": "FLAC", "subtype": "PCM_16" if encoding.bit_depth == "16" else "PCM_24"}
    subtype = {"float": "FLOAT", "24": "PCM_24", "16": "PCM_16"}[encoding.bit_depth]
    large = frames is not None and frames * channels * WAV_WIDTH[encoding.bit_depth] > WAV_BYTES
    return {"format": "RF64" if large else "WAV", "subtype": subtype}
