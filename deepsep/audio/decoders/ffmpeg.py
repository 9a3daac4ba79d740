"""Decode with the ffmpeg program, where it is installed: it writes a float wav into a pipe."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from ..info import BLOCK_FRAMES, FORMATS, PROTOCOLS, AudioInfo, Samples, cut_short, file_type, file_url

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["decode", "is_installed", "probe"]

BOUNDS = ("-format_whitelist", FORMATS, "-protocol_whitelist", PROTOCOLS)  # before the name of a file


def is_installed() -> bool:
    """Whether the ffmpeg program is on the search path."""
    return shutil.which("ffmpeg") is not None


def probe(path: Path) -> AudioInfo | None:
    """Rate, channels and, where ffprobe can tell, length of the first audio stream.

    None when ffmpeg is not installed or finds no audio.
    """
    if not is_installed():
        return None
    with WavPipe(path) as wav:
        header = read_wav_header(wav.pipe)
    if header is None:
        return None
    rate, channels = header
    format, frames = file_type(path), None
    if shutil.which("ffprobe") is not None:
        format, frames = probe_length(path, rate)
    return AudioInfo(path=path, rate=rate, channels=channels, frames=frames, format=format, decoder="ffmpeg")


def probe_length(path: Path, rate: int) -> tuple[str, int | None]:
    """Format name and, where the container states it to the sample (the mp4 family), the length in samples."""
    entries = "stream=duration_ts,time_base:format=format_name"
    command = ["ffprobe", "-v", "error", "-select_streams", "a:0", "-show_entries", entries, "-of", "json"]
    done = subprocess.run(
        [*command, *BOUNDS, file_url(path)], capture_output=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        return file_type(path), None
    found = json.loads(done.stdout)
    name = str(found["format"]["format_name"])
    stream = found["streams"][0] if found.get("streams") else {}
    if not name.startswith("mov") or "duration_ts" not in stream:
        return name, None
    numerator, denominator = (int(part) for part in stream["time_base"].split("/"))
    return file_type(path), round(int(stream["duration_ts"]) * numerator * rate / denominator)


class WavPipe:
    """A context manager: ffmpeg at work on the first audio stream of a file, its float wav in `pipe`."""

    def __init__(self, path: Path) -> None:
        command = ["ffmpeg", "-v", "error", "-nostdin", *BOUNDS, "-i", file_url(path), "-map", "0:a:0"]
        self.errors = tempfile.TemporaryFile()  # a pipe that nobody reads would fill and block ffmpeg
        self.process = subprocess.Popen(
            [*command, "-c:a", "pcm_f32le", "-f", "wav", "-"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )

    @property
    def pipe(self) -> IO[bytes]:
        """The wav, from its header on."""
        assert self.process.stdout is not None
        return self.process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pipe.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.errors.close()


def read_wav_header(pipe: IO[bytes]) -> tuple[int, int] | None:
    """Read a RIFF header up to its samples: (rate, channels), or None when it ends before them."""
    if len(pipe.read(12)) < 12:
        return None
    found: tuple[int, int] | None = None
    while True:
        head = pipe.read(8)
        if len(head) < 8:
            return None
        name, size = struct.unpack("<4sI", head)
        if name == b"data":
            return found
        body = pipe.read(size + size % 2)
        if name == b"fmt ":
            channels, rate = struct.unpack("<HI", body[2:8])
            found = (rate, channels)


def decode(info: AudioInfo) -> Iterator[Samples]:
    """Yield blocks of shape (c, t). Raises DeepsepError where ffmpeg fails."""
    done = 0
    with WavPipe(info.path) as wav:
        header = read_wav_header(wav.pipe)
        frame_bytes = 4 * info.channels
        while header is not None:
            data = wav.pipe.read(BLOCK_FRAMES * frame_bytes)
            count = len(data) // frame_bytes
            if count:
                flat = np.frombuffer(data, "<f4", count * info.channels)
                yield flat.reshape(count, info.channels).T
            done += count
            if count < BLOCK_FRAMES:
                break
        if header is None or wav.process.wait() != 0:
            raise cut_short(info, done)
