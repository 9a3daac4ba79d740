"""The stem box of an mp4 file: find it, read it, put one in.

An mp4 is a row of boxes, each a size, a type of four letters and content, which may be boxes again. The stem
box lies in `moov/udta/stem` and holds JSON, the manifest, with the names and colours of the stems.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import is_number, parse_json, shorten
from ..errors import DeepsepError

__all__ = ["add_manifest", "read_manifest"]


def read_manifest(path: Path | str) -> dict[str, Any]:
    """The JSON of the stem box of an mp4: {"version": int, "stems": [{"name", "color"}, ...], ...}.

    Accepts what players accept: an object with a whole version number of at least 1 and a list of objects;
    zero bytes may follow the JSON. Raises DeepsepError for anything else and for a file without the box.
    """
    path = Path(path)
    try:
        moov = read_moov(path)[2]
    except OSError as error:
        raise DeepsepError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    # As players do: only the first udta counts, and its first stem box.
    user = next((content for kind, content, _ in split_boxes(moov, path) if kind == b"udta"), b"")
    payload = next((content for kind, content, _ in split_boxes(user, path) if kind == b"stem"), None)
    if payload is None:
        raise DeepsepError(f"{path}: has no stem box; it is not a stem file")
    return parse_manifest(payload, path)


def add_manifest(path: Path | str, manifest: Mapping[str, Any]) -> None:
    """Write `manifest` into the stem box of an mp4, in place of an older one; all other boxes stay.

    Only `moov` is rewritten, at the end of the file: the audio does not move, so the offsets in `moov` stay
    right. Raises DeepsepError when `moov` is not the last box and for what `read_manifest` refuses.
    """
    path = Path(path)
    payload = json.dumps(manifest, ensure_ascii=False, separators=(",", ":")).encode()
    parse_manifest(payload, path)
    start, end, moov = read_moov(path)
    user, body = b"", b""
    for kind, content, raw in split_boxes(moov, path):
        if kind == b"udta":
            user += b"".join(box for name, _, box in split_boxes(content, path) if name != b"stem")
        else:
            body += raw
    body += make_box(b"udta", user + make_box(b"stem", payload))
    with path.open("r+b") as file:
        if file.seek(0, os.SEEK_END) != end:
            raise DeepsepError(f"{path}: its moov box is not the last; write it again without faststart")
        file.seek(start)
        file.write(make_box(b"moov", body))
        file.truncate()


def parse_manifest(payload: bytes, path: Path) -> dict[str, Any]:
    """The JSON of a stem box. Raises DeepsepError unless it is a manifest."""
    try:
        found = parse_json(payload.rstrip(b"\0").decode(), finite=True)
    except ValueError:
        raise DeepsepError(f"{path}: its stem box does not hold JSON; write the file again") from None
    if not isinstance(found, dict):
        raise DeepsepError(f"{path}: its stem box is not a JSON object; write the file again")
    version: Any = found.get("version")
    stems = found.get("stems")
    number = is_number(version)
    if not number or version < 1 or version % 1:
        raise DeepsepError(
            f"{path}: its stem box has version {shorten(version)!r}, a whole number from 1 is needed"
        )
    if not isinstance(stems, list) or not all(isinstance(stem, dict) for stem in stems):
        raise DeepsepError(f"{path}: its stem box has no list of stems; write the file again")
    return found


def make_box(kind: bytes, content: bytes) -> bytes:
    """A whole box; its size takes 64 bits where 32 are too few."""
    size = 8 + len(content)
    if size < 1 << 32:
        return struct.pack(">I4s", size, kind) + content
    return struct.pack(">I4sQ", 1, kind, 8 + size) + content


def read_box_header(head: bytes, space: int, path: Path) -> tuple[bytes, int, int]:
    """(kind, header bytes, total bytes) of the box that starts with `head`.

    `head` is its first 16 bytes; `space` is how many bytes are left in what holds it.
    """
    if len(head) < 8:
        raise truncated(path)
    size, kind = struct.unpack_from(">I4s", head)
    header = 8
    if size == 1:
        if len(head) < 16:
            raise truncated(path)
        (size,) = struct.unpack_from(">Q", head, 8)
        header = 16
    elif size == 0:
        size = space  # the box reaches to the end of what holds it
    if not header <= size <= space:
        raise truncated(path)
    return kind, header, size


def truncated(path: Path) -> DeepsepError:
    """The error for a box that is longer than what holds it."""
    return DeepsepError(f"{path}: is not a whole mp4 file; its boxes are cut short; get the file again")


def split_boxes(content: bytes, path: Path) -> list[tuple[bytes, bytes, bytes]]:
    """The boxes in `content`: (kind, content, whole box with its size)."""
    found, at = [], 0
    while at < len(content):
        # QuickTime ends udta with four zero bytes, which are not a box.
        if not content[at:].strip(b"\0") and len(content) - at < 8:
            break
        kind, header, size = read_box_header(content[at : at + 16], len(content) - at, path)
        inside, raw = content[at + header : at + size], content[at : at + size]
        if raw.startswith(bytes(4)):  # to the end: with its size instead, another box may follow it
            raw = make_box(kind, inside)
        found.append((kind, inside, raw))
        at += size
    return found


def read_moov(path: Path) -> tuple[int, int, bytes]:
    """(start, end, content) of the moov box; start and end are byte positions in the file."""
    with path.open("rb") as file:
        total = os.fstat(file.fileno()).st_size
        at = 0
        while at < total:
            file.seek(at)
            kind, header, size = read_box_header(file.read(16), total - at, path)
            if kind == b"moov":
                file.seek(at + header)
                return at, at + size, file.read(size - header)
            at += size
    raise DeepsepError(f"{path}: has no moov box; it is not an mp4 file")
