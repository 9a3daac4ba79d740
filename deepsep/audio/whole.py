"""Whether a file holds what its header says: libsndfile reads what is there of a cut one, and says nothing.

Of a wav, aiff, w64, caf or au that is the length of the chunk of samples, of an ogg its row of pages.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..errors import DeepsepError
from .info import AudioInfo, cut_short

__all__ = ["check_whole", "has_open_end", "is_chained"]

MOST_CHUNKS = 10_000  # looked at before the samples
SLACK_BYTES = 64  # some writers count their own header among the samples
OPEN_SIZES = (range(1), range(0x7FFF0000, 0x80000001), range(0xFFFF0000, 0x100000000))  # written into a pipe


class Chunk(NamedTuple):
    """The chunk of samples: how many bytes its header states, and how many there are."""

    stated: int
    there: int


def check_whole(info: AudioInfo) -> None:
    """Raise DeepsepError for a file that ends before its samples do, as its own header tells."""
    with info.path.open("rb") as file:
        if file.read(4) == b"OggS":
            if has_part_of_a_page(file):
                raise cut_short(replace(info, frames=None), info.frames or 0)
            return
        chunk = find_samples(file)
    if chunk is None or chunk.stated <= chunk.there + SLACK_BYTES:
        return
    if not info.frames or chunk.there <= 0:
        raise DeepsepError(
            f"{info.path}: is cut short, {max(0, chunk.there)} of {chunk.stated} bytes of its samples are there; "
            "get the file again"
        )
    raise cut_short(replace(info, frames=round(info.frames * chunk.stated / chunk.there)), info.frames)


def is_chained(path: Path) -> bool:
    """Whether an ogg holds several streams one after the other, of which libsndfile reads the first."""
    with path.open("rb") as file:
        if file.read(4) != b"OggS":
            return False
        heads = True  # streams that play together begin with one head each, before any other page
        for flags, _, _ in pages(file):
            head = bool(flags & 2)
            if head and not heads:
                return True
            heads = head
    return False


def has_open_end(path: Path) -> bool:
    """Whether an ogg's last page is not marked as its last: the file is cut there, or was recorded from a stream."""
    with path.open("rb") as file:
        if file.read(4) != b"OggS":
            return False
        flags = [flags for flags, _, _ in pages(file)]
    return not flags[-1] & 4


def has_part_of_a_page(file: IO[bytes]) -> bool:
    """Whether an ogg ends within a page."""
    return any(end > size for _, end, size in pages(file))


def pages(file: IO[bytes]) -> Iterator[tuple[int, int, int]]:
    """(flags, end, size of the file) of each page of an ogg, up to the first place that is no page."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        size, at = len(content), 0
        while content[at : at + 4] == b"OggS":
            head = content[at : at + 27]
            parts = head[26] if len(head) == 27 else 255
            body = content[at + 27 : at + 27 + parts]
            end = at + 27 + parts + sum(body) if len(body) == parts else size + 1
            yield (head[5] if len(head) > 5 else 0), end, size
            at = end


def find_samples(file: IO[bytes]) -> Chunk | None:
    """Find the chunk of samples of a wav, aiff, w64, caf or au; None for other files and for an open length."""
    size = file.seek(0, 2)
    file.seek(0)
    magic = file.read(4)
    wide: int | None = None  # of a wav above 4 GiB
    for name, at, stated in chunks(file, magic, size):
        if name == b"ds64":
            file.seek(at + 8)
            wide = int.from_bytes(file.read(8), "little")
        if name in (b"data", b"SSND", b".snd"):
            if wide and stated == 0xFFFFFFFF:
                stated = wide
            elif any(stated in known for known in OPEN_SIZES):
                return None
            return Chunk(stated, size - at)
    return None


def chunks(file: IO[bytes], magic: bytes, size: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, where its content begins, bytes of it) of the chunks of a file, as far as they can be read."""
    order = "<" if magic in (b"RIFF", b"RF64", b"BW64", b"riff") else ">"
    if magic == b".snd":
        yield magic, *(read_struct(file, 4, ">II") or (0, 0))
        return
    if magic in (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM"):
        at, layout, align = 12, order + "4sI", 2
    elif magic == b"riff":  # w64
        at, layout, align = 40, "<4s12xQ", 8
    elif magic == b"caff":
        at, layout, align = 8, ">4sq", 1
    else:
        return
    header = struct.calcsize(layout)
    for _ in range(MOST_CHUNKS):
        found = read_struct(file, at, layout) if at < size else None
        if found is None:
            return
        name, stated = found
        stated -= header if magic == b"riff" else 0
        if stated < 0:  # a caf says so of an open length
            return
        yield name, at + header, stated
        at += header + stated
        at += -at % align


def read_struct(file: IO[bytes], at: int, layout: str) -> Any:
    """Unpack what lies at a place; None beyond the end."""
    file.seek(at)
    raw = file.read(struct.calcsize(layout))
    return struct.unpack(layout, raw) if len(raw) == struct.calcsize(layout) else None
