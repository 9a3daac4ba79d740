"""Read tags and covers from audio files of one format and write them to another, where mutagen is installed.

Three families of tags: ID3 (mp3, wav, aiff), MP4 atoms, Vorbis comments (flac, ogg, opus).
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from ..errors import DeepsepError

__all__ = ["MAX_INFLATED", "Tags", "read_tags", "write_tags", "write_what_fits"]

T = TypeVar("T")

OGG_COVER = 1 << 22  # bytes; writing one takes time by the square of its size, 0.4 s for this


class TagsDoNotFit(DeepsepError):
    """A format cannot hold these tags or this cover."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tags:
    """Text fields by lower-case name (title, artist, album, ...) and the cover picture, if any."""

    fields: dict[str, str] = field(default_factory=dict)
    cover: bytes | None = None
    cover_mime: str | None = None
    too_long: tuple[str, ...] = ()  # names of what the file has and these leave out for its size


MAX_INFLATED = 32 * 1024**2  # bytes that a compressed ID3 frame may grow to: more than any cover
MAX_TEXT = 1 << 16  # characters of a field

# Field name (also its Vorbis comment) -> ID3v2 frame, MP4 atom.
TAG_NAMES = {
    "title": ("TIT2", "\xa9nam"),
    "artist": ("TPE1", "\xa9ART"),
    "album": ("TALB", "\xa9alb"),
    "albumartist": ("TPE2", "aART"),
    "composer": ("TCOM", "\xa9wrt"),
    "genre": ("TCON", "\xa9gen"),
    "date": ("TDRC", "\xa9day"),
    "tracknumber": ("TRCK", "trkn"),
    "discnumber": ("TPOS", "disk"),
    "bpm": ("TBPM", "tmpo"),
}


def read_tags(path: Path | str) -> Tags:
    """The tags and the cover of a file; empty when it has none, or when mutagen is not installed."""
    refused = BoundedZlib.refused
    file = open_file(path)
    too_long = ["compressed tag"] if BoundedZlib.refused > refused else []
    family = None if file is None else family_of(file)
    if file is None or family is None or file.tags is None:
        return Tags(too_long=tuple(too_long))
    texts = {name: harmless(family.read_field, file, name) for name in TAG_NAMES}
    known = {name: text for name, text in texts.items() if text is not None}
    fields = {name: text for name, text in known.items() if len(text) <= MAX_TEXT}
    too_long += [name for name in known if name not in fields]
    cover = harmless(family.read_cover, file)
    if cover is None:
        return Tags(fields=fields, too_long=tuple(too_long))
    return Tags(fields=fields, cover=cover[0], cover_mime=cover[1], too_long=tuple(too_long))


def write_tags(path: Path | str, tags: Tags) -> bool:
    """Set these tags in a flac, mp3, ogg, opus, m4a/mp4 or wav file, keeping its other fields.

    Returns whether they were written: False without mutagen and for other formats (RF64 among them).
    Raises TagsDoNotFit for what the format cannot hold; then the file is as it was. Raises DeepsepError when the
    file cannot be changed.
    """
    file = open_file(path)
    family = None if file is None else family_of(file)
    if file is None or family is None:
        return False
    import mutagen

    try:
        if file.tags is None:
            file.add_tags()
        for name, text in tags.fields.items():
            if name in TAG_NAMES:
                family.write_field(file, name, text)
        if tags.cover is not None:
            family.write_cover(file, tags.cover, tags.cover_mime or picture_mime(tags.cover))
        file.save()
    except (mutagen.MutagenError, OSError) as error:
        if isinstance(error, OSError) or any(isinstance(part, OSError) for part in error.args):
            raise DeepsepError(
                f"{path}: its tags could not be written ({error}); is the disk full?"
            ) from None
        raise TagsDoNotFit(f"{path}: its tags do not fit ({error})") from None
    except (ValueError, TypeError, KeyError, OverflowError, struct.error) as error:
        raise TagsDoNotFit(f"{path}: its tags do not fit ({error})") from None
    return True


def write_what_fits(path: Path | str, tags: Tags, format: str) -> str:
    """Set those of the tags that a file of this format can hold; return what is left out, "" for nothing.

    Raises DeepsepError when the file cannot be changed.
    """
    if tags.too_long:
        left_out = write_what_fits(path, replace(tags, too_long=()), format)
        said = f"left out of the tags, as it is far too long: {', '.join(tags.too_long)}"
        return "; ".join(filter(None, (said, left_out)))
    try:
        write_tags(path, tags)
        return ""
    except TagsDoNotFit:
        if tags.cover is None:
            return f"the tags do not fit into {format} and are left out"
    left_out = write_what_fits(path, replace(tags, cover=None), format)
    return (
        left_out or f"the cover ({len(tags.cover) / 1e6:.1f} MB) does not fit into {format} and is left out"
    )


def open_file(path: Path | str) -> Any:
    """The file as mutagen sees it; None without mutagen, for other files, and for tags that it cannot read."""
    try:
        import mutagen
    except ImportError:
        return None
    harmless(bound_inflation)
    return harmless(mutagen.File, path)


def harmless(read: Callable[..., T], *arguments: Any) -> T | None:
    """What a reader of tags finds, or None: broken tags are no reason to refuse the music, however they break it."""
    try:
        return read(*arguments)
    except Exception:
        return None


def bound_inflation() -> None:
    """Make mutagen leave out compressed ID3 frames that grow beyond `MAX_INFLATED`; of itself it knows no bound."""
    frames: Any = import_module("mutagen.id3._frames")
    frames.zlib = BoundedZlib


class BoundedZlib:
    """What mutagen uses of zlib."""

    error = zlib.error
    refused = 0  # how often, so far

    @staticmethod
    def decompress(data: bytes) -> bytes:
        """Decompress, at most to `MAX_INFLATED` bytes; zlib's error beyond."""
        stream = zlib.decompressobj()
        found = stream.decompress(data, MAX_INFLATED)
        if not stream.eof:
            BoundedZlib.refused += bool(len(found) >= MAX_INFLATED)
            raise zlib.error("it is cut short, or too large")
        return found


@dataclass(frozen=True, slots=True)
class Family:
    """How the formats of one family keep a field, by its name in `TAG_NAMES`, and the cover (bytes, MIME type)."""

    read_field: Callable[[Any, str], str | None]
    write_field: Callable[[Any, str, str], None]
    read_cover: Callable[[Any], tuple[bytes, str] | None]
    write_cover: Callable[[Any, bytes, str], None]


def family_of(file: Any) -> Family | None:
    """The family of tags that an open file has; None for a format that is not supported."""
    from mutagen.aiff import AIFF
    from mutagen.flac import FLAC
    from mutagen.mp3 import MP3
    from mutagen.mp4 import MP4
    from mutagen.oggopus import OggOpus
    from mutagen.oggvorbis import OggVorbis
    from mutagen.wave import WAVE

    if isinstance(file, MP3 | WAVE | AIFF):
        return Family(read_id3_field, write_id3_field, read_id3_cover, write_id3_cover)
    if isinstance(file, MP4):
        return Family(read_mp4_field, write_mp4_field, read_mp4_cover, write_mp4_cover)
    if isinstance(file, FLAC | OggVorbis | OggOpus):
        return Family(read_vorbis_field, write_vorbis_field, read_vorbis_cover, write_vorbis_cover)
    return None


# --- ID3 -----------------------------------------------------------------------------------------------


def read_id3_field(file: Any, name: str) -> str | None:
    frame = TAG_NAMES[name][0]
    return str(file.tags[frame]) if frame in file.tags else None


def write_id3_field(file: Any, name: str, text: str) -> None:
    frame = TAG_NAMES[name][0]
    kind = getattr(import_module("mutagen.id3"), frame)
    file.tags.setall(frame, [kind(encoding=3, text=[text])])


def read_id3_cover(file: Any) -> tuple[bytes, str] | None:
    pictures = file.tags.getall("APIC")
    return (bytes(pictures[0].data), pictures[0].mime) if pictures else None


def write_id3_cover(file: Any, cover: bytes, mime: str) -> None:
    id3 = import_module("mutagen.id3")
    file.tags.setall("APIC", [id3.APIC(encoding=3, mime=mime, type=3, desc="", data=cover)])


# --- MP4 -----------------------------------------------------------------------------------------------


def read_mp4_field(file: Any, name: str) -> str | None:
    values = file.tags.get(TAG_NAMES[name][1])
    if not values:
        return None
    if isinstance(values[0], tuple):  # trkn and disk are pairs (number, total), 0 when not known
        return "/".join(str(part) for part in values[0] if part)
    return str(values[0])


def write_mp4_field(file: Any, name: str, text: str) -> None:
    """Set the field; leave it out where the atom holds numbers and `text` is none."""
    atom = TAG_NAMES[name][1]
    if atom in ("trkn", "disk"):
        parts = [int(part) if part.isdecimal() else 0 for part in text.split("/")[:2]]
        if parts[0] == 0 or max(parts) > 0xFFFF:
            return  # the atom holds two 16-bit numbers, a side letter such as "A1" has no place in it
        file.tags[atom] = [(parts[0], parts[1] if len(parts) == 2 else 0)]
    elif atom == "tmpo":
        try:
            file.tags[atom] = [round(float(text))]
        except (ValueError, OverflowError):
            return
    else:
        file.tags[atom] = [text]


def read_mp4_cover(file: Any) -> tuple[bytes, str] | None:
    covers = file.tags.get("covr")
    return (bytes(covers[0]), picture_mime(bytes(covers[0]))) if covers else None


def write_mp4_cover(file: Any, cover: bytes, mime: str) -> None:
    mp4 = import_module("mutagen.mp4").MP4Cover
    kind = mp4.FORMAT_PNG if mime == "image/png" else mp4.FORMAT_JPEG
    file.tags["covr"] = [mp4(cover, imageformat=kind)]


# --- Vorbis comments -----------------------------------------------------------------------------------


def read_vorbis_field(file: Any, name: str) -> str | None:
    return "; ".join(file[name]) if file.get(name) else None


def write_vorbis_field(file: Any, name: str, text: str) -> None:
    file[name] = [text]


def read_vorbis_cover(file: Any) -> tuple[bytes, str] | None:
    flac = import_module("mutagen.flac")
    if isinstance(file, flac.FLAC):
        pictures = list(file.pictures)
    else:
        pictures = []
        for text in file.get("metadata_block_picture", []):
            try:
                pictures.append(flac.Picture(base64.b64decode(text)))
            except (ValueError, flac.error):
                continue
    return (bytes(pictures[0].data), pictures[0].mime) if pictures else None


def write_vorbis_cover(file: Any, cover: bytes, mime: str) -> None:
    flac = import_module("mutagen.flac")
    picture = flac.Picture()
    picture.type, picture.mime, picture.data = 3, mime, cover
    if isinstance(file, flac.FLAC):
        file.clear_pictures()
        file.add_picture(picture)
    elif len(cover) > OGG_COVER:
        raise ValueError(f"a picture of {len(cover)} bytes")
    else:
        file["metadata_block_picture"] = [base64.b64encode(picture.write()).decode("ascii")]


def picture_mime(picture: bytes) -> str:
    """The MIME type of a png, and that of jpeg for everything else."""
    return "image/png" if picture.startswith(b"\x89PNG") else "image/jpeg"
