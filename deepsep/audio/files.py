"""File -> samples: probe, stream, resample.

A file is always read from its start to its end in blocks, so memory does not grow with its length and
two passes over it give the same samples (seeking in some compressed formats does not).
Shapes: c channel, t sample. Samples are float32, full scale is 1.0.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from ..errors import DeepsepError, MissingExtra

__all__ = [
    "AUDIO_SUFFIXES",
    "MAX_CHANNELS",
    "AudioInfo",
    "probe",
    "read",
    "read_blocks",
    "resample",
    "resample_blocks",
    "track_name",
]

Samples = NDArray[np.float32]

MAX_CHANNELS = 8
BLOCK_FRAMES = 1 << 18  # 6 s at 44.1 kHz, 2 MiB in stereo

_SOUNDFILE_SUFFIXES = frozenset(
    ".wav .flac .mp3 .ogg .oga .opus .aiff .aif .aifc .w64 .rf64 .caf .au .snd".split()
)
AUDIO_SUFFIXES = _SOUNDFILE_SUFFIXES | frozenset(
    ".m4a .mp4 .m4b .aac .alac .wma .webm .mka .mkv .mov .ac3 .wv .tta .ape".split()
)
_DOUBLE_SUFFIXES = (".stem.mp4", ".stem.m4a")

# A lossy stream may end up to two codec frames before the length its container states; less is a cut file.
_LOSSY_SLACK = 4608
# libsndfile reports its largest count when a header leaves the length open.
_OPEN_LENGTH = 1 << 60


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioInfo:
    """What a file holds, known before it is decoded.

    `rate` is in Hz. `frames` counts samples per channel; when it is not None, `read_blocks` yields exactly
    that many. `decoder` is "soundfile", "pyav" or "ffmpeg".
    """

    path: Path
    rate: int
    channels: int
    frames: int | None
    format: str
    decoder: str


def track_name(path: Path) -> str:
    """The file name without its audio suffix: "a.b.mp3" -> "a.b", "song.stem.mp4" -> "song"."""
    name = path.name
    for suffix in (*_DOUBLE_SUFFIXES, path.suffix.lower()):
        known = suffix in _DOUBLE_SUFFIXES or suffix in AUDIO_SUFFIXES
        if known and name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def probe(path: Path | str) -> AudioInfo:
    """Rate, channels and length of the first audio stream of a file.

    Raises DeepsepError when the file is missing, is a folder, is empty, is not audio, holds no sample or
    has more than 8 channels; MissingExtra when only a decoder that is not installed could tell.
    """
    path = Path(path)
    _check_file(path)
    reasons: list[str] = []
    for attempt in (_probe_soundfile, _probe_pyav, _probe_ffmpeg, _probe_soundfile_without_length):
        info = attempt(path, reasons)
        if info is not None:
            break
    else:
        raise _unreadable(path, reasons)
    if info.channels > MAX_CHANNELS:
        raise DeepsepError(
            f"{path}: has {info.channels} channels; deepsep reads 1 to {MAX_CHANNELS}; mix it down first"
        )
    if info.frames == 0:
        raise _no_samples(path)
    return info


def read_blocks(path: Path | str, block_frames: int = BLOCK_FRAMES) -> Iterator[Samples]:
    """Yields the file in blocks of shape (c, block_frames); only the last may be shorter, none is empty.

    Each call starts again at the first sample and yields the same blocks. Raises DeepsepError as `probe`
    does, and, when the damage is met: for a file that is cut short or broken, or that has a sample which
    is NaN or infinite.
    """
    if block_frames < 1:
        raise ValueError(f"block_frames must be at least 1, got {block_frames}")
    info = probe(path)
    done = 0
    for block in _reblock(_to_length(_DECODE[info.decoder](info), info), block_frames):
        finite = np.isfinite(block).all(axis=0)
        if not finite.all():
            seconds = (done + int(np.argmin(finite))) / info.rate
            raise DeepsepError(
                f"{info.path}: has a sample that is NaN or infinite at {seconds:.3f} s; export it again"
            )
        done += block.shape[1]
        yield block
    if done == 0:
        raise _no_samples(info.path)


def read(path: Path | str) -> tuple[Samples, int]:
    """The whole file, shape (c, t), and its rate in Hz. Raises what `read_blocks` raises."""
    return np.concatenate(list(read_blocks(path)), axis=1), probe(path).rate


def resample(samples_ct: Samples, rate: int, to_rate: int) -> Samples:
    """Band-limited resampling of (c, t) from `rate` to `to_rate` Hz; the lag is zero."""
    if rate == to_rate:
        return samples_ct
    import soxr

    out: Samples = soxr.resample(np.ascontiguousarray(samples_ct.T), rate, to_rate).T
    return np.ascontiguousarray(out, dtype=np.float32)


def resample_blocks(blocks: Iterable[Samples], rate: int, to_rate: int) -> Iterator[Samples]:
    """`resample` for a stream of (c, t) blocks, in constant memory."""
    if rate == to_rate:
        yield from blocks
        return
    import soxr

    stream = None
    for block in blocks:
        if stream is None:
            stream = soxr.ResampleStream(rate, to_rate, block.shape[0], dtype="float32")
        out = stream.resample_chunk(np.ascontiguousarray(block.T))
        if len(out):
            yield np.ascontiguousarray(out.T)
    if stream is not None:
        rest = stream.resample_chunk(np.zeros((0, block.shape[0]), np.float32), last=True)
        if len(rest):
            yield np.ascontiguousarray(rest.T)


# --- the pieces that every decoder shares --------------------------------------------------------------


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise DeepsepError(f"{path}: is a folder, an audio file is needed; name the files in it")
    if not path.is_file():
        raise DeepsepError(f"{path}: no such file; check the path")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise DeepsepError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if empty:
        raise DeepsepError(f"{path}: is empty (0 bytes); get the file again")


def _no_samples(path: Path) -> DeepsepError:
    return DeepsepError(f"{path}: holds no audio samples; export it again")


def _cut_short(info: AudioInfo, done: int) -> DeepsepError:
    stated = "" if info.frames is None else f" of {info.frames / info.rate:.2f} s"
    return DeepsepError(
        f"{info.path}: is cut short or damaged, only {done / info.rate:.2f} s{stated} can be decoded; "
        "get the file again"
    )


def _kind(path: Path) -> str:
    return path.suffix.lower().lstrip(".") or "unnamed"


def _unreadable(path: Path, reasons: list[str]) -> DeepsepError:
    has_fallback = _has_pyav() or shutil.which("ffmpeg") is not None
    if not has_fallback and (reasons or path.suffix.lower() not in _SOUNDFILE_SUFFIXES):
        why = f" ({'; '.join(reasons)})" if reasons else ""
        return MissingExtra(
            f"{path}: this {_kind(path)} file{why} needs PyAV or ffmpeg to be read; "
            'run `pipx inject deepsep av` or `pip install "deepsep[av]"`, or install ffmpeg'
        )
    return DeepsepError(
        f"{path}: no audio found in this {_kind(path)} file; it is damaged or not what its name says; "
        "get the file again"
    )


def _reblock(pieces: Iterable[Samples], block_frames: int) -> Iterator[Samples]:
    held: list[Samples] = []
    held_frames = 0
    for piece in pieces:
        while piece.shape[1]:
            part = piece[:, : block_frames - held_frames]
            piece = piece[:, part.shape[1] :]
            held.append(part)
            held_frames += part.shape[1]
            if held_frames == block_frames:
                yield np.concatenate(held, axis=1, dtype=np.float32)
                held, held_frames = [], 0
    if held:
        yield np.concatenate(held, axis=1, dtype=np.float32)


def _to_length(pieces: Iterable[Samples], info: AudioInfo) -> Iterator[Samples]:
    """Cuts the encoder's padding off, so that `info.frames` is what comes out; less is a damaged file."""
    done = 0
    for piece in pieces:
        if info.frames is not None:
            piece = piece[:, : info.frames - done]
        done += piece.shape[1]
        yield piece
        if done == info.frames:
            return
    if info.frames is None or done == info.frames:
        return
    lossy = info.decoder != "soundfile" or info.format == "mp3"
    missing = info.frames - done
    if done == 0 or missing > (_LOSSY_SLACK if lossy else 0):
        raise _cut_short(info, done)
    yield np.zeros((info.channels, missing), np.float32)


# --- soundfile -----------------------------------------------------------------------------------------


def _probe_soundfile(path: Path, reasons: list[str]) -> AudioInfo | None:
    info = _sndfile_info(path)
    if info is None:
        return None
    if info.frames is None:
        # libsndfile loses the last block of a flac whose header leaves the length open (piped encoders).
        reasons.append("its header does not tell its length")
        return None
    if info.format == "mp3" and not _mp3_tells_length(path):
        # libsndfile guesses the length from the first bit rate and stops there: half a VBR file is lost.
        reasons.append("its header does not tell its length")
        return None
    return info


def _probe_soundfile_without_length(path: Path, reasons: list[str]) -> AudioInfo | None:
    """The last resort for mp3 without a length header: accepted when libsndfile reaches the file's end."""
    if not reasons or _has_pyav() or shutil.which("ffmpeg") is not None:
        return None
    info = _sndfile_info(path)
    if info is None or info.frames is None:
        return None
    tail = 1 << 14  # room for tags after the audio; at most a second of music
    with path.open("rb") as file, sf.SoundFile(file) as sound:
        done = 0
        try:
            for block in _sndfile_blocks(sound):
                done += block.shape[1]
        except sf.LibsndfileError:
            return None
        if path.stat().st_size - file.tell() > tail:
            return None
    return AudioInfo(
        path=path, rate=info.rate, channels=info.channels, frames=done, format="mp3", decoder="soundfile"
    )


def _sndfile_info(path: Path) -> AudioInfo | None:
    if path.suffix.lower() == ".raw":
        return None  # soundfile would ask for the rate that such a file does not have
    try:
        with sf.SoundFile(path) as sound:
            return AudioInfo(
                path=path,
                rate=sound.samplerate,
                channels=sound.channels,
                frames=sound.frames if sound.frames < _OPEN_LENGTH else None,
                format=sound.format.lower(),
                decoder="soundfile",
            )
    except sf.LibsndfileError:
        return None


def _sndfile_blocks(sound: sf.SoundFile) -> Iterator[Samples]:
    while True:
        block = sound.read(BLOCK_FRAMES, dtype="float32", always_2d=True)
        if not len(block):
            return
        yield block.T


def _decode_soundfile(info: AudioInfo) -> Iterator[Samples]:
    done = 0
    try:
        with sf.SoundFile(info.path) as sound:
            for block in _sndfile_blocks(sound):
                done += block.shape[1]
                yield block
    except sf.LibsndfileError:
        raise _cut_short(info, done) from None


def _mp3_tells_length(path: Path) -> bool:
    """Whether the first frame is a Xing, Info or VBRI header, which states the number of frames."""
    with path.open("rb") as file:
        head = file.read(10)
        if head[:3] == b"ID3" and len(head) == 10:
            size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
            file.seek(10 + size)
        else:
            file.seek(0)
        # The first frame follows the tag, sometimes after padding; its header field lies in its first bytes.
        start = file.read(1 << 13)
    return any(mark in start for mark in (b"Xing", b"Info", b"VBRI"))


# --- PyAV ----------------------------------------------------------------------------------------------


def _has_pyav() -> bool:
    try:
        import av  # noqa: F401
    except ImportError:
        return False
    return True


def _url(path: Path) -> str:
    # Without the protocol's name ffmpeg reads "a:b.m4a" as protocol "a", and "-x.m4a" as an option.
    return f"file:{path}"


def _probe_pyav(path: Path, reasons: list[str]) -> AudioInfo | None:
    if not _has_pyav():
        return None
    import av

    try:
        with av.open(_url(path)) as container:
            if not container.streams.audio:
                return None
            stream: Any = container.streams.audio[0]
            # The codec's own rate is wrong for HE-AAC until a frame has been decoded.
            frame = next(_av_frames(container, stream), None)
            if frame is None:
                return None
            exact = container.format.name.startswith("mov") and stream.duration is not None
            return AudioInfo(
                path=path,
                rate=frame.sample_rate,
                channels=frame.layout.nb_channels,
                frames=round(stream.duration * stream.time_base * frame.sample_rate) if exact else None,
                format=_kind(path) if exact else container.format.name,
                decoder="pyav",
            )
    except (av.error.FFmpegError, OSError):
        return None


def _av_frames(container: Any, stream: Any) -> Iterator[Any]:
    """Decoded frames; a packet that fails is forgiven before the first good frame and after the last."""
    import av

    failure: Exception | None = None
    started = False
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            failure = error if started else None
            continue
        for frame in frames:
            if failure is not None:
                raise failure
            started = True
            yield frame


def _decode_pyav(info: AudioInfo) -> Iterator[Samples]:
    import av

    done = 0
    try:
        with av.open(_url(info.path)) as container:
            to_float = av.AudioResampler(format="fltp")
            for frame in chain(_av_frames(container, container.streams.audio[0]), [None]):
                if frame is not None and (
                    frame.sample_rate != info.rate or frame.layout.nb_channels != info.channels
                ):
                    raise DeepsepError(
                        f"{info.path}: its rate or channel count changes at {done / info.rate:.2f} s; "
                        "convert it to wav or flac first"
                    )
                for out in to_float.resample(frame):
                    block: Samples = np.asarray(out.to_ndarray(), np.float32)
                    done += block.shape[1]
                    yield block
    except (av.error.FFmpegError, OSError):
        raise _cut_short(info, done) from None


# --- the ffmpeg program --------------------------------------------------------------------------------


def _probe_ffmpeg(path: Path, reasons: list[str]) -> AudioInfo | None:
    if shutil.which("ffmpeg") is None:
        return None
    with _ffmpeg(path) as (pipe, _):
        header = _wav_header(pipe)
    if header is None:
        return None
    rate, channels = header
    kind, frames = _kind(path), None
    if shutil.which("ffprobe") is not None:
        kind, frames = _ffprobe_length(path, rate, kind)
    return AudioInfo(path=path, rate=rate, channels=channels, frames=frames, format=kind, decoder="ffmpeg")


def _ffprobe_length(path: Path, rate: int, kind: str) -> tuple[str, int | None]:
    """Container name and, where the container keeps it to the sample (the mp4 family), the length."""
    entries = "stream=duration_ts,time_base:format=format_name"
    command = ["ffprobe", "-v", "error", "-select_streams", "a:0", "-show_entries", entries, "-of", "json"]
    done = subprocess.run([*command, _url(path)], capture_output=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        return kind, None
    found = json.loads(done.stdout)
    name = str(found["format"]["format_name"])
    stream = found["streams"][0] if found.get("streams") else {}
    if not name.startswith("mov") or "duration_ts" not in stream:
        return name, None
    up, down = (int(part) for part in stream["time_base"].split("/"))
    return kind, round(int(stream["duration_ts"]) * up * rate / down)


class _ffmpeg:
    """Runs ffmpeg on the first audio stream of a file: (wav float32 pipe, its exit code as a function)."""

    def __init__(self, path: Path) -> None:
        command = ["ffmpeg", "-v", "error", "-nostdin", "-i", _url(path), "-map", "0:a:0"]
        self._errors = tempfile.TemporaryFile()  # a pipe that nobody empties would block ffmpeg
        self._process = subprocess.Popen(
            [*command, "-c:a", "pcm_f32le", "-f", "wav", "-"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def __enter__(self) -> tuple[IO[bytes], Callable[[], int]]:
        assert self._process.stdout is not None
        return self._process.stdout, self._process.wait

    def __exit__(self, *_: object) -> None:
        assert self._process.stdout is not None
        self._process.stdout.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._errors.close()


def _wav_header(pipe: IO[bytes]) -> tuple[int, int] | None:
    """Reads a RIFF header up to its samples: (rate, channels)."""
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


def _decode_ffmpeg(info: AudioInfo) -> Iterator[Samples]:
    done = 0
    with _ffmpeg(info.path) as (pipe, wait):
        header = _wav_header(pipe)
        frame_bytes = 4 * info.channels
        while header is not None:
            data = pipe.read(BLOCK_FRAMES * frame_bytes)
            count = len(data) // frame_bytes
            if count:
                flat = np.frombuffer(data, "<f4", count * info.channels)
                yield flat.reshape(count, info.channels).T
            done += count
            if count < BLOCK_FRAMES:
                break
        if header is None or wait() != 0:
            raise _cut_short(info, done)


_DECODE: dict[str, Callable[[AudioInfo], Iterator[Samples]]] = {
    "soundfile": _decode_soundfile,
    "pyav": _decode_pyav,
    "ffmpeg": _decode_ffmpeg,
}
