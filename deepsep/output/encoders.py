"""Encode several stereo streams into one mp4, with PyAV or with the ffmpeg program.

Shape suffixes: c channel, t sample. Samples are float32, full scale is 1.0.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from ..audio.decoders import ffmpeg, pyav
from ..audio.info import Samples, file_url
from ..errors import DeepsepError, MissingExtra, refusal
from ..staging import place_of

__all__ = ["BlockSource", "Encode", "Streams", "encode_ffmpeg", "encode_pyav", "find_encoder"]

# A function that starts a new pass over the (c, t) blocks of a signal.
BlockSource = Callable[[], Iterator[Samples]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Streams:
    """The streams of a file. The first alone is enabled, so that it plays where stems are not known.

    Args:
        sources: of stereo blocks; all streams have blocks of the same lengths.
        titles: one per stream.
        rate: Hz.
        codec: "aac", or "alac" for 24 bit lossless.
        bitrate: bit/s of each aac stream.
        comment: of the file. Its tags are written later: a command line takes none that is long or has a NUL.
    """

    sources: Sequence[BlockSource]
    titles: Sequence[str]
    rate: int
    codec: str
    bitrate: int
    comment: str

    @property
    def lossless(self) -> bool:
        """Whether the codec keeps every bit of 24."""
        return self.codec == "alac"


Encode = Callable[[Path, Streams], None]


def find_encoder() -> Encode:
    """`encode_pyav` where PyAV is installed, else `encode_ffmpeg`. Raises MissingExtra when neither is."""
    if pyav.is_installed():
        return encode_pyav
    if ffmpeg.is_installed():
        return encode_ffmpeg
    raise MissingExtra(
        "writing stem.mp4 needs PyAV or ffmpeg; run `pipx inject deepsep av` or "
        '`pip install "deepsep[av]"`, or install ffmpeg'
    )


def encode_pyav(path: Path, streams: Streams) -> None:
    """Write the mp4 with PyAV. Raises DeepsepError when that fails."""
    import av

    sample_format = "s32p" if streams.lossless else "fltp"
    try:
        # moov comes last unless faststart is asked for, which mp4.add_manifest relies on.
        # With the default time scale of milliseconds the file could not state its length to the sample.
        options = {"brand": "M4A ", "movie_timescale": str(streams.rate)}
        with av.open(file_url(path), "w", format="mp4", options=options) as container:
            container.metadata["comment"] = streams.comment
            outputs: list[Any] = []
            for index, title in enumerate(streams.titles):
                output: Any = container.add_stream(streams.codec, rate=streams.rate)
                output.layout, output.format = "stereo", sample_format
                if not streams.lossless:
                    output.bit_rate = streams.bitrate
                output.disposition = type(output.disposition)(1 if index == 0 else 0)
                output.metadata["handler_name"] = title
                outputs.append(output)
            done = 0
            # One block of every stream in turn: the file is interleaved and memory stays small.
            for blocks in zip(*(source() for source in streams.sources), strict=True):
                for output, block in zip(outputs, blocks, strict=True):
                    samples = to_24_bit(block) if streams.lossless else block
                    frame = av.AudioFrame.from_ndarray(
                        np.ascontiguousarray(samples), format=sample_format, layout="stereo"
                    )
                    frame.sample_rate, frame.pts = streams.rate, done
                    container.mux(output.encode(frame))
                done += blocks[0].shape[1]
            for output in outputs:
                container.mux(output.encode(None))
    except (av.error.FFmpegError, OSError) as error:
        raise DeepsepError(f"encoding the stem file failed ({error}); is the disk full?") from None


def encode_ffmpeg(path: Path, streams: Streams) -> None:
    """Write the mp4 with the ffmpeg program. Raises DeepsepError when that fails.

    A process has one standard input, so each stream goes through a file beside `path`.
    """
    with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=path.parent) as folder:
        command = ["ffmpeg", "-v", "error", "-nostdin", "-y"]
        for index, source in enumerate(streams.sources):
            waiting = Path(folder, str(index))
            write_blocks(waiting, source, streams)
            command += ["-i", file_url(waiting)]
        for index, title in enumerate(streams.titles):
            command += ["-map", f"{index}:a:0", f"-metadata:s:a:{index}", f"handler_name={title}"]
        command += ["-c:a", streams.codec]
        command += ["-sample_fmt", "s32p"] if streams.lossless else ["-b:a", str(streams.bitrate)]
        command += ["-disposition:a", "0", "-disposition:a:0", "default"]
        command += ["-metadata", f"comment={streams.comment}"]
        command += ["-brand", "M4A ", "-movie_timescale", str(streams.rate), "-f", "mp4", file_url(path)]
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise DeepsepError(f"ffmpeg could not encode the stem file ({lines[-1] if lines else 'no reason'})")


def write_blocks(path: Path, source: BlockSource, streams: Streams) -> None:
    """Write one stream as W64, which has no size limit. Raises DeepsepError when that fails."""
    subtype = "PCM_32" if streams.lossless else "FLOAT"
    try:
        with sf.SoundFile(path, "w", streams.rate, 2, format="W64", subtype=subtype) as file:
            for block in source():
                file.write((to_24_bit(block) if streams.lossless else block).T)
    except sf.LibsndfileError as error:
        raise refusal(place_of(path), error) from None


def to_24_bit(block: Samples) -> NDArray[np.int32]:
    """Round to 24 bits, in the upper part of 32; samples that were read from a 24-bit file come out exact."""
    whole = np.clip(np.rint(block.astype(np.float64) * (1 << 23)), -(1 << 23), (1 << 23) - 1)
    return whole.astype(np.int32) << 8
