"""Native Instruments stem files (.stem.mp4): the mix and four stems in one file that DJ programs play.

The file is an mp4 with five stereo streams, the mix first and alone enabled, and a `moov/udta/stem` box
whose JSON names and colours the stems. A player mutes and filters the four stems, so they sum to the mix.
Shapes: k stem, c channel, t sample. Samples are float32, full scale is 1.0.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from ..audio.files import probe, read_blocks
from ..audio.resampling import resample_blocks
from ..audio.tags import Tags, write_tags
from ..errors import DeepsepError, MissingExtra
from .stems import StagedFiles, StagedWriter, StemSpool, shared_gain

__all__ = ["CODECS", "COLORS", "ORDER", "NiStemWriter", "add_manifest", "check", "read_manifest", "write"]

Samples = NDArray[np.float32]
MixReader = Callable[[], Iterator[Samples]]

CODECS = ("aac", "alac")
ORDER = ("drums", "bass", "other", "vocals")
COLORS = dict(zip(ORDER, ("#009E73", "#D55E00", "#CC79A7", "#56B4E9"), strict=True))

_RATES = (44100, 48000)
_BLOCK_FRAMES = 4096
# Above this ffmpeg's aac encoder turns single windows of single streams down, so the stems lose their sum.
_AAC_PEAK = 0.95
_MIX_TITLE = "Master"

# Players apply these to the sum of the stems; switched off, that sum stays what was written.
_MASTERING_DSP: dict[str, dict[str, bool | int | float]] = {
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


def check(stems: Sequence[str], channels: int, *, codec: str = "aac") -> None:
    """Raises DeepsepError unless a stem file can hold these, MissingExtra when nothing can encode it."""
    if len(stems) != 4:
        raise DeepsepError(f"a stem.mp4 holds exactly 4 stems, not {len(stems)}; use --format wav or flac")
    if channels not in (1, 2):
        raise DeepsepError(f"a stem.mp4 is stereo, {channels} channels do not fit; use --format wav or flac")
    if codec not in CODECS:
        raise DeepsepError(f"codec {codec} is not one of {', '.join(CODECS)}; choose one of these")
    _encoder()


def write(
    path: Path,
    mix: Path | MixReader,
    stems: Mapping[str, Path],
    rate: int,
    *,
    codec: str = "aac",
    bitrate: int = 256_000,
    colors: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
    tags: Tags | None = None,
    comment: str = "",
) -> float:
    """Writes a stem file from a mix and four sound files; returns the gain that was needed, in dB.

    Args:
        path: the file to make; it appears only when it is complete.
        mix: a sound file, or a function that starts a new pass over its (c, t) blocks.
        stems: stem -> sound file. The four of `ORDER` are put in that order, others keep theirs.
        rate: Hz, of all five. Players know 44.1 and 48 kHz; other rates are resampled to 44.1 kHz.
        codec: "aac" (Traktor on every system) or "alac" (24 bit, lossless).
        bitrate: bit/s of each aac stream.
        colors: stem -> "#RRGGBB", `COLORS` by default.
        names: stem -> the name that players show; by default the stem's own, capitalised.
        tags: text fields and cover; the cover needs mutagen.
        comment: a line that the file carries as its comment.

    Mono becomes stereo by doubling. When a peak exceeds full scale (alac) or 0.95 of it (aac, whose encoder
    would turn loud moments down by itself), the mix and the stems are turned down by one common gain.
    Encodes through PyAV if it is installed, else through ffmpeg.
    Raises DeepsepError when the parts differ in rate, channels or length or do not fit the format.
    """
    order = _ni_order(list(stems))
    infos = [probe(stems[name]) for name in order]
    sources: list[MixReader] = [_reader(stems[name]) for name in order]
    if isinstance(mix, Path):
        infos.insert(0, probe(mix))
        sources.insert(0, _reader(mix))
    else:
        sources.insert(0, mix)
    check(order, max(info.channels for info in infos), codec=codec)
    for info in infos:
        if info.rate != rate or info.channels != infos[0].channels:
            raise DeepsepError(
                f"{info.path}: has {info.channels} channels at {info.rate} Hz, the other parts have "
                f"{infos[0].channels} at {rate} Hz; make them alike"
            )
    to_rate = rate if rate in _RATES else 44100
    # The peak that counts is the one that will be encoded: resampling may raise it.
    measured = _measure([_prepared(source, rate, to_rate, 1.0) for source in sources])
    gain = shared_gain(measured, _AAC_PEAK if codec == "aac" else 1.0)
    parts = [_prepared(source, rate, to_rate, gain) for source in sources]
    shown = [(names or {}).get(name, name.capitalize()) for name in order]
    manifest = _manifest(order, shown, colors or {})
    staged = StagedFiles({"file": path})
    temporary = staged.temporary["file"]
    try:
        metadata = {**_muxer_tags(tags or Tags()), **({"comment": comment} if comment else {})}
        _encoder()(
            Encoding(temporary, parts, [_MIX_TITLE, *shown], to_rate, codec, bitrate, metadata, staged)
        )
        if tags is not None:
            # Before the stem box: mutagen rewrites udta and is not known to keep boxes it does not read.
            write_tags(temporary, tags)
        add_manifest(temporary, manifest)
        staged.commit()
    except BaseException:
        staged.abort()
        raise
    return 20 * math.log10(gain)


class NiStemWriter(StagedWriter):
    """Streams the stems of one track into a stem file; used like `stems.StemWriter`.

    The mix is the sum of the stems. The stems wait as float files beside `path` (five times the track,
    4 bytes a sample) until `close` encodes them; `gain_db` is known from then on. When the `with` block
    raises, nothing is left behind.
    Args and errors: see `write` and `check`; `rate` in Hz, `channels` 1 or 2.
    """

    def __init__(
        self,
        path: Path,
        stem_names: Sequence[str],
        rate: int,
        channels: int,
        *,
        codec: str = "aac",
        bitrate: int = 256_000,
        colors: Mapping[str, str] | None = None,
        names: Mapping[str, str] | None = None,
        tags: Tags | None = None,
        comment: str = "",
    ) -> None:
        check(stem_names, channels, codec=codec)
        self._path, self._stem_names, self._rate = path, list(stem_names), rate
        self._settings: dict[str, Any] = {
            "codec": codec,
            "bitrate": bitrate,
            "colors": colors,
            "names": names,
            "tags": tags,
            "comment": comment,
        }
        self._staged = StagedFiles({"file": path})
        folder = self._staged.temporary["file"].parent
        self._files = [self._staged.scratch(folder) for _ in range(5)]
        # The mix comes last, so that a broken sample is blamed on its stem.
        waiting = dict(zip([*self._stem_names, "their sum"], self._files, strict=True))
        try:
            # W64 has no size limit.
            self._spool = StemSpool(waiting, rate, channels, format="W64", subtype="FLOAT")
        except DeepsepError:
            self._staged.abort()
            raise

    def write(self, stems: Samples) -> None:
        """Appends a block of shape (k, c, t), stems in the order of `stem_names`."""
        mix = stems.sum(axis=0, dtype=np.float64).astype(np.float32)
        self._spool.write(np.concatenate([stems, mix[None]]))

    def _finish(self) -> None:
        stems = dict(zip(self._stem_names, self._files[:4], strict=True))
        self.gain_db = write(self._path, self._files[4], stems, self._rate, **self._settings)
        self._staged.forget()


# --- what is encoded -----------------------------------------------------------------------------------


def _reader(path: Path) -> MixReader:
    return lambda: read_blocks(path)


def _ni_order(stems: list[str]) -> list[str]:
    return list(ORDER) if sorted(stems) == sorted(ORDER) else stems


def _prepared(source: MixReader, rate: int, to_rate: int, gain: float) -> MixReader:
    """Stereo blocks of at most `_BLOCK_FRAMES` at the rate of the file, turned down by `gain`."""

    def blocks() -> Iterator[Samples]:
        for block in resample_blocks(source(), rate, to_rate):
            if block.shape[0] not in (1, 2):
                raise DeepsepError(f"a stem.mp4 is stereo, {block.shape[0]} channels do not fit")
            stereo = np.broadcast_to(block, (2, block.shape[1])) * np.float32(gain)
            for start in range(0, stereo.shape[1], _BLOCK_FRAMES):
                yield stereo[:, start : start + _BLOCK_FRAMES]

    return blocks


def _measure(parts: Sequence[MixReader]) -> float:
    """The peak over all parts. Raises DeepsepError unless they are equally long."""
    peak, lengths = 0.0, set()
    for part in parts:
        length = 0
        for block in part():
            peak = max(peak, float(np.abs(block).max()))
            length += block.shape[1]
        lengths.add(length)
    if len(lengths) != 1:
        raise DeepsepError(
            f"the mix and the stems have different lengths ({', '.join(map(str, sorted(lengths)))} samples); "
            "cut them alike"
        )
    return peak


def _manifest(order: Sequence[str], shown: Sequence[str], colors: Mapping[str, str]) -> dict[str, Any]:
    stems = []
    for name, title, standard in zip(order, shown, COLORS.values(), strict=True):
        stems.append({"name": title, "color": colors.get(name, COLORS.get(name, standard))})
    return {"mastering_dsp": _MASTERING_DSP, "version": 1, "stems": stems}


def _to_24_bit(block: Samples) -> NDArray[np.int32]:
    """Full scale to 24 bits in the upper part of 32, rounded; what was read from 24 bit is exact."""
    whole = np.clip(np.rint(block.astype(np.float64) * (1 << 23)), -(1 << 23), (1 << 23) - 1)
    return whole.astype(np.int32) << 8


# --- encoders ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Encoding:
    """What either encoder makes a file of: readers of prepared blocks with their titles; `rate` in Hz."""

    path: Path
    parts: Sequence[MixReader]
    titles: Sequence[str]
    rate: int
    codec: str
    bitrate: int
    metadata: Mapping[str, str]  # by ffmpeg's names
    staged: StagedFiles


Encode = Callable[[Encoding], None]


def _encoder() -> Encode:
    try:
        import av  # noqa: F401
    except ImportError:
        if shutil.which("ffmpeg") is None:
            raise MissingExtra(
                "writing stem.mp4 needs PyAV or ffmpeg; run `pipx inject deepsep av` or "
                '`pip install "deepsep[av]"`, or install ffmpeg'
            ) from None
        return _encode_ffmpeg
    return _encode_pyav


# Names of Tags -> names of ffmpeg's mp4 writer.
_MUXER_TAGS = {
    "title": "title",
    "artist": "artist",
    "album": "album",
    "albumartist": "album_artist",
    "composer": "composer",
    "genre": "genre",
    "date": "date",
    "tracknumber": "track",
    "discnumber": "disc",
}


def _muxer_tags(tags: Tags) -> dict[str, str]:
    return {_MUXER_TAGS[name]: text for name, text in tags.fields.items() if name in _MUXER_TAGS}


def _encode_pyav(to: Encoding) -> None:
    import av

    lossless = to.codec == "alac"
    try:
        # The mp4 writer puts moov last unless it is asked otherwise; add_manifest then moves no sample.
        # In its usual milliseconds the movie could not state the length to the sample.
        options = {"brand": "M4A ", "movie_timescale": str(to.rate)}
        with av.open(f"file:{to.path}", "w", format="mp4", options=options) as container:
            container.metadata.update(to.metadata)
            streams: list[Any] = []
            for index, title in enumerate(to.titles):
                stream: Any = container.add_stream(to.codec, rate=to.rate)
                stream.layout, stream.format = "stereo", "s32p" if lossless else "fltp"
                if not lossless:
                    stream.bit_rate = to.bitrate
                stream.disposition = type(stream.disposition)(1 if index == 0 else 0)
                stream.metadata["handler_name"] = title
                streams.append(stream)
            done = 0
            # Block by block over all streams: they stay interleaved and memory stays small.
            for blocks in zip(*(part() for part in to.parts), strict=True):
                for stream, block in zip(streams, blocks, strict=True):
                    samples = _to_24_bit(block) if lossless else block
                    frame = av.AudioFrame.from_ndarray(
                        np.ascontiguousarray(samples), format="s32p" if lossless else "fltp", layout="stereo"
                    )
                    frame.sample_rate, frame.pts = to.rate, done
                    container.mux(stream.encode(frame))
                done += blocks[0].shape[1]
            for stream in streams:
                container.mux(stream.encode(None))
    except (av.error.FFmpegError, OSError) as error:
        raise DeepsepError(f"encoding the stem file failed ({error}); is the disk full?") from None


def _encode_ffmpeg(to: Encoding) -> None:
    # Five inputs at once need five files: a process has one standard input.
    waiting = {str(index): to.staged.scratch(to.path.parent) for index in range(len(to.parts))}
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y"]
    for source, part in zip(waiting.values(), to.parts, strict=True):
        subtype = "PCM_32" if to.codec == "alac" else "FLOAT"
        try:
            with sf.SoundFile(source, "w", to.rate, 2, format="W64", subtype=subtype) as file:
                for block in part():
                    file.write((_to_24_bit(block) if to.codec == "alac" else block).T)
        except sf.LibsndfileError as error:
            raise DeepsepError(f"{to.path.parent}: cannot be written ({error.error_string})") from None
        command += ["-i", f"file:{source}"]
    for index, title in enumerate(to.titles):
        command += ["-map", f"{index}:a:0", f"-metadata:s:a:{index}", f"handler_name={title}"]
    command += [
        "-c:a",
        to.codec,
        *(["-sample_fmt", "s32p"] if to.codec == "alac" else ["-b:a", str(to.bitrate)]),
    ]
    command += ["-disposition:a", "0", "-disposition:a:0", "default"]
    for name, text in to.metadata.items():
        command += ["-metadata", f"{name}={text}"]
    command += ["-brand", "M4A ", "-movie_timescale", str(to.rate), "-f", "mp4", f"file:{to.path}"]
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    for source in waiting.values():
        source.unlink()
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise DeepsepError(f"ffmpeg could not encode the stem file ({lines[-1] if lines else 'no reason'})")


# --- the stem box --------------------------------------------------------------------------------------


def read_manifest(path: Path | str) -> dict[str, Any]:
    """The JSON of the stem box of an mp4: {"version": int, "stems": [{"name", "color"}, ...], ...}.

    Accepts what players accept: an object with an integer version of at least 1 and a list of objects;
    zero bytes may follow the JSON. Raises DeepsepError for anything else and for a file without the box.
    """
    path = Path(path)
    try:
        moov = _read_moov(path)[2]
    except OSError as error:
        raise DeepsepError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    # Players look into the first udta only, and take its first stem box.
    user = next((content for kind, content, _ in _children(moov, path) if kind == b"udta"), b"")
    payload = next((content for kind, content, _ in _children(user, path) if kind == b"stem"), None)
    if payload is None:
        raise DeepsepError(f"{path}: has no stem box; it is not a stem file")
    return _checked_manifest(payload, path)


def add_manifest(path: Path | str, manifest: Mapping[str, Any]) -> None:
    """Puts `manifest` into `moov/udta/stem` of an mp4, in place of an older one; all else stays.

    Only `moov` is rewritten, at the end of the file: no sample moves, so no offset needs mending.
    """
    path = Path(path)
    payload = json.dumps(manifest, ensure_ascii=False, separators=(",", ":")).encode()
    _checked_manifest(payload, path)
    start, end, moov = _read_moov(path)
    user, body = b"", b""
    for kind, content, raw in _children(moov, path):
        if kind == b"udta":
            user += b"".join(box for name, _, box in _children(content, path) if name != b"stem")
        else:
            body += raw
    body += _box(b"udta", user + _box(b"stem", payload))
    with path.open("r+b") as file:
        if file.seek(0, os.SEEK_END) != end:
            raise DeepsepError(f"{path}: its moov box is not the last; write it again without faststart")
        file.seek(start)
        file.write(_box(b"moov", body))
        file.truncate()


def _checked_manifest(payload: bytes, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(payload.rstrip(b"\0").decode(), parse_constant=_no_constant)
    except ValueError:
        raise DeepsepError(f"{path}: its stem box does not hold JSON; write the file again") from None
    if not isinstance(found, dict):
        raise DeepsepError(f"{path}: its stem box is not a JSON object; write the file again")
    version: Any = found.get("version")
    stems = found.get("stems")
    number = isinstance(version, int | float) and not isinstance(version, bool)
    if not number or version < 1 or version % 1:
        raise DeepsepError(f"{path}: its stem box has version {version!r}, a whole number from 1 is needed")
    if not isinstance(stems, list) or not all(isinstance(stem, dict) for stem in stems):
        raise DeepsepError(f"{path}: its stem box has no list of stems; write the file again")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")  # Python would take NaN and Infinity, players do not


def _box(kind: bytes, content: bytes) -> bytes:
    size = 8 + len(content)
    if size < 1 << 32:
        return struct.pack(">I4s", size, kind) + content
    return struct.pack(">I4sQ", 1, kind, 8 + size) + content


def _box_extent(head: bytes, space: int, path: Path) -> tuple[bytes, int, int]:
    """(kind, header bytes, total bytes) of a box that starts with `head` and has `space` bytes left."""
    if len(head) < 8:
        raise _broken(path)
    size, kind = struct.unpack_from(">I4s", head)
    header = 8
    if size == 1:
        if len(head) < 16:
            raise _broken(path)
        (size,) = struct.unpack_from(">Q", head, 8)
        header = 16
    elif size == 0:
        size = space  # such a box reaches to the end of what holds it
    if not header <= size <= space:
        raise _broken(path)
    return kind, header, size


def _broken(path: Path) -> DeepsepError:
    return DeepsepError(f"{path}: is not a whole mp4 file; its boxes are cut short; get the file again")


def _children(content: bytes, path: Path) -> list[tuple[bytes, bytes, bytes]]:
    """The boxes in `content`: (kind, content, whole box)."""
    found, at = [], 0
    while at < len(content):
        # QuickTime closes udta with four zero bytes that are no box.
        if not content[at:].strip(b"\0") and len(content) - at < 8:
            break
        kind, header, size = _box_extent(content[at : at + 16], len(content) - at, path)
        found.append((kind, content[at + header : at + size], content[at : at + size]))
        at += size
    return found


def _read_moov(path: Path) -> tuple[int, int, bytes]:
    """(start, end, content) of the moov box."""
    with path.open("rb") as file:
        total = os.fstat(file.fileno()).st_size
        at = 0
        while at < total:
            file.seek(at)
            kind, header, size = _box_extent(file.read(16), total - at, path)
            if kind == b"moov":
                file.seek(at + header)
                return at, at + size, file.read(size - header)
            at += size
    raise DeepsepError(f"{path}: has no moov box; it is not an mp4 file")
