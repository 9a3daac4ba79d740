"""Decode with libsndfile: wav, flac, mp3, ogg, aiff and others. Always installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import soundfile as sf

from ..info import BLOCK_FRAMES, AudioInfo, Samples, cut_short

__all__ = ["SUFFIXES", "decode", "measure_length", "probe", "seeks_exactly", "states_length"]

SUFFIXES = frozenset(".wav .flac .mp3 .ogg .oga .opus .aiff .aif .aifc .w64 .rf64 .caf .au .snd".split())

# libsndfile reports its largest count when a header does not state the length.
OPEN_LENGTH = 1 << 60
# Room for tags after the last mp3 frame; at most a second of music.
TAIL_BYTES = 1 << 14
PLAIN = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")  # subtypes of samples that stand alone


def probe(path: Path) -> AudioInfo | None:
    """What libsndfile reads from the header; None when it cannot read the file.

    Trust `frames` only where `states_length` is true.
    """
    if path.suffix.lower() == ".raw":
        return None  # soundfile would ask for the rate, which such a file does not state
    try:
        with opened(path) as sound:
            return AudioInfo(
                path=path,
                rate=sound.samplerate,
                channels=sound.channels,
                frames=sound.frames if sound.frames < OPEN_LENGTH else None,
                format=sound.format.lower(),
                decoder="soundfile",
            )
    except sf.LibsndfileError:
        return None


def opened(path: Path) -> sf.SoundFile:
    """Open a file by its bytes, where names have such: soundfile encodes text strictly, and they need not be UTF-8."""
    return sf.SoundFile(os.fsencode(path) if os.name == "posix" else path)


def states_length(info: AudioInfo) -> bool:
    """Whether the header states the length, so that libsndfile decodes the file to its end.

    Of a flac whose header leaves the length open (piped encoders) libsndfile loses the last block. Of an mp3
    without a length header it guesses the length from the first bit rate and stops there: half of a file
    with a variable bit rate would be lost.
    """
    return info.frames is not None and (info.format != "mp3" or has_length_header(info.path))


def has_length_header(path: Path) -> bool:
    """Whether an mp3 starts with a Xing, Info or VBRI frame, which states the number of frames."""
    with path.open("rb") as file:
        head = file.read(10)
        if head[:3] == b"ID3" and len(head) == 10:
            size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
            file.seek(10 + size)
        else:
            file.seek(0)
        # The first frame follows the tag, sometimes after padding; the mark is within its first bytes.
        start = file.read(1 << 13)
    return any(mark in start for mark in (b"Xing", b"Info", b"VBRI"))


def measure_length(info: AudioInfo) -> AudioInfo | None:
    """`info` with the length found by decoding; None unless libsndfile reaches the end of the file.

    The last resort for an mp3 without a length header, where neither PyAV nor ffmpeg is installed.
    """
    if info.frames is None:
        return None
    with info.path.open("rb") as file, sf.SoundFile(file) as sound:
        frames = 0
        try:
            for block in read_all(sound):
                frames += block.shape[1]
        except sf.LibsndfileError:
            return None
        if info.path.stat().st_size - file.tell() > TAIL_BYTES:
            return None
    return replace(info, frames=frames)


def read_all(sound: sf.SoundFile) -> Iterator[Samples]:
    """Yield the rest of an open file in blocks of shape (c, t)."""
    while len(block := sound.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
        yield block.T


def seeks_exactly(info: AudioInfo) -> bool:
    """Whether a file can be read from any sample on: it holds plain samples, or is a flac."""
    with opened(info.path) as sound:
        return bool(sound.seekable() and sound.subtype.startswith(PLAIN))


def decode(info: AudioInfo, done: int = 0) -> Iterator[Samples]:
    """Yield blocks of shape (c, t), from sample `done` on. Raises DeepsepError where the file is damaged."""
    try:
        with opened(info.path) as sound:
            if done:
                sound.seek(done)
            for block in read_all(sound):
                done += block.shape[1]
                yield block
    except sf.LibsndfileError:
        raise cut_short(info, done) from None
