"""Tags and covers of audio files, read from one format and written to another. Needs mutagen; without it, nothing.

Three families of tags: ID3 (mp3, wav, aiff), MP4 atoms, Vorbis comments (flac, ogg, opus).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import DeepsepError

__all__ = ["Tags", "read_tags", "write_tags"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tags:
    """Text fields by lower-case name (title, artist, album, ...) and the cover picture, if any."""

    fields: dict[str, str] = field(default_factory=dict)
    cover: bytes | None = None
    cover_mime: str | None = None


# Field name (also its Vorbis comment) -> ID3v2 frame, MP4 atom.
_TAG_NAMES = {
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
    try:
        import mutagen
    except ImportError:
        return Tags()
    try:
        file = mutagen.File(path)
    except mutagen.MutagenError:
        return Tags()  # a broken tag is no reason to refuse the music
    if file is None or file.tags is None:
        return Tags()
    family = _tag_family(file)
    if family == "id3":
        return _id3_tags(file.tags)
    if family == "mp4":
        return _mp4_tags(file.tags)
    if family == "vorbis":
        return _vorbis_tags(file)
    return Tags()


def write_tags(path: Path | str, tags: Tags) -> bool:
    """Sets these tags in a flac, mp3, ogg, opus, m4a/mp4 or wav file, keeping its other fields.

    Returns whether they were written: False without mutagen and for other formats (RF64 among them).
    Raises DeepsepError when the file cannot be changed.
    """
    try:
        import mutagen
    except ImportError:
        return False
    try:
        file = mutagen.File(path)
    except mutagen.MutagenError:
        return False
    family = None if file is None else _tag_family(file)
    if file is None or family is None:
        return False
    try:
        if file.tags is None:
            file.add_tags()
        if family == "id3":
            _set_id3(file.tags, tags)
        elif family == "mp4":
            _set_mp4(file.tags, tags)
        else:
            _set_vorbis(file, tags)
        file.save()
    except mutagen.MutagenError as error:
        raise DeepsepError(
            f"{path}: its tags could not be written ({error}); the audio itself is complete"
        ) from None
    return True


def _tag_family(file: Any) -> str | None:
    from mutagen.aiff import AIFF
    from mutagen.flac import FLAC
    from mutagen.mp3 import MP3
    from mutagen.mp4 import MP4
    from mutagen.oggopus import OggOpus
    from mutagen.oggvorbis import OggVorbis
    from mutagen.wave import WAVE

    families = {"id3": (MP3, WAVE, AIFF), "mp4": (MP4,), "vorbis": (FLAC, OggVorbis, OggOpus)}
    return next((name for name, kinds in families.items() if isinstance(file, kinds)), None)


def _id3_tags(frames: Any) -> Tags:
    found = {name: str(frames[frame]) for name, (frame, _) in _TAG_NAMES.items() if frame in frames}
    pictures = frames.getall("APIC")
    if not pictures:
        return Tags(fields=found)
    return Tags(fields=found, cover=bytes(pictures[0].data), cover_mime=pictures[0].mime)


def _set_id3(frames: Any, tags: Tags) -> None:
    id3 = import_module("mutagen.id3")

    for name, text in tags.fields.items():
        if name in _TAG_NAMES:
            frame = _TAG_NAMES[name][0]
            frames.setall(frame, [getattr(id3, frame)(encoding=3, text=[text])])
    if tags.cover is not None:
        mime = tags.cover_mime or _mime(tags.cover)
        frames.setall("APIC", [id3.APIC(encoding=3, mime=mime, type=3, desc="", data=tags.cover)])


def _mp4_tags(atoms: Any) -> Tags:
    found = {}
    for name, (_, atom) in _TAG_NAMES.items():
        if not atoms.get(atom):
            continue
        value = atoms[atom][0]
        # trkn and disk are pairs (number, total), 0 when not known
        found[name] = (
            "/".join(str(part) for part in value if part) if isinstance(value, tuple) else str(value)
        )
    covers = atoms.get("covr")
    if not covers:
        return Tags(fields=found)
    return Tags(fields=found, cover=bytes(covers[0]), cover_mime=_mime(bytes(covers[0])))


def _set_mp4(atoms: Any, tags: Tags) -> None:
    mp4 = import_module("mutagen.mp4")

    for name, text in tags.fields.items():
        if name not in _TAG_NAMES:
            continue
        atom = _TAG_NAMES[name][1]
        if atom in ("trkn", "disk"):
            parts = [int(part) if part.isdecimal() else 0 for part in text.split("/")[:2]]
            if parts[0] > 0xFFFF or parts[-1] > 0xFFFF or parts[0] == 0:
                continue  # the atom holds two 16-bit numbers, a side letter such as "A1" has no place in it
            atoms[atom] = [(parts[0], parts[1] if len(parts) == 2 else 0)]
        elif atom == "tmpo":
            try:
                atoms[atom] = [round(float(text))]
            except (ValueError, OverflowError):
                continue
        else:
            atoms[atom] = [text]
    if tags.cover is not None:
        png = (tags.cover_mime or _mime(tags.cover)) == "image/png"
        kind = mp4.MP4Cover.FORMAT_PNG if png else mp4.MP4Cover.FORMAT_JPEG
        atoms["covr"] = [mp4.MP4Cover(tags.cover, imageformat=kind)]


def _vorbis_tags(file: Any) -> Tags:
    flac = import_module("mutagen.flac")

    found = {name: "; ".join(file[name]) for name in _TAG_NAMES if file.get(name)}
    if isinstance(file, flac.FLAC):
        pictures = list(file.pictures)
    else:
        pictures = []
        for text in file.get("metadata_block_picture", []):
            try:
                pictures.append(flac.Picture(base64.b64decode(text)))
            except (ValueError, flac.error):
                continue
    if not pictures:
        return Tags(fields=found)
    return Tags(fields=found, cover=bytes(pictures[0].data), cover_mime=pictures[0].mime)


def _set_vorbis(file: Any, tags: Tags) -> None:
    flac = import_module("mutagen.flac")

    for name, text in tags.fields.items():
        if name in _TAG_NAMES:
            file[name] = [text]
    if tags.cover is None:
        return
    picture = flac.Picture()
    picture.type, picture.mime, picture.data = 3, tags.cover_mime or _mime(tags.cover), tags.cover
    if isinstance(file, flac.FLAC):
        file.clear_pictures()
        file.add_picture(picture)
    else:
        file["metadata_block_picture"] = [base64.b64encode(picture.write()).decode("ascii")]


def _mime(picture: bytes) -> str:
    return "image/png" if picture.startswith(b"\x89PNG") else "image/jpeg"
