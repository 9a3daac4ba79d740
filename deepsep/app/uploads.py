"""Songs on their way in: a name that is safe on any disk, room for it, and its bytes."""

from __future__ import annotations

import re
import shutil
import unicodedata
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from ..audio.files import AUDIO_SUFFIXES, track_name
from ..errors import DeepsepError
from ..progress import printable

__all__ = [
    "MOST_BYTES",
    "RESERVE",
    "check_room",
    "check_size",
    "label_of",
    "receive",
    "suffix_of",
    "track_of",
]

MOST_BYTES = 4 << 30  # of a song
RESERVE = 200 << 20  # bytes that are left free on the disk
coming: dict[Path, int] = {}  # bytes that are still to come of the files that are being received
LONGEST = 80  # characters of a track's name
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # names of devices on Windows


def label_of(name: str) -> str:
    """What a file is called by the person who sent it, without folders, safe to show."""
    return printable(re.split(r"[/\\]", name)[-1])[:200].strip() or "song"


def suffix_of(label: str) -> str:
    """The suffix of a label, if it is one of audio files; some decoders look at it."""
    suffix = Path(label).suffix.lower()
    return suffix if suffix in AUDIO_SUFFIXES else ""


def track_of(label: str, taken: Callable[[str], bool]) -> str:
    """A name for the results of a song, made of letters, digits and few signs; `taken` says which are in use."""
    name = unicodedata.normalize("NFC", track_name(Path(label)) if suffix_of(label) else label)
    name = "".join(c if c.isalnum() or c in " -_.,()[]&+'" else "_" for c in name)
    name = name.encode()[:LONGEST].decode(errors="ignore")
    while (short := re.sub(r"(^[ .]+|[ .]+$|\.stem$)", "", name, flags=re.IGNORECASE)) != name:
        name = short
    if not name or RESERVED.match(name):
        name = f"song {name}".strip()
    found, number = name, 1
    while taken(found):
        number += 1
        found = f"{name} ({number})"
    return found


def check_room(folder: Path, size: float) -> None:
    """Raise DeepsepError unless the disk has room for so many bytes, for what is being received, and some more."""
    free = shutil.disk_usage(folder).free - RESERVE - sum(coming.values())
    if size > free:
        raise DeepsepError(
            f"{folder} has {max(0, free) / 1e9:.1f} GB to spare, {size / 1e9:.1f} GB are needed; make room, or start "
            "deepsep app with another --folder"
        )


def check_size(folder: Path, length: str | None) -> int:
    """The length that an upload states, in bytes. Raises DeepsepError for none, too much, or no room for it."""
    if length is None or not re.fullmatch(r"\d{1,18}", length) or not int(length):
        raise DeepsepError("the file is empty, or was sent without its length; choose another")
    size = int(length)
    if size > MOST_BYTES:
        most = f"{MOST_BYTES / 1e9:.1f}"
        raise DeepsepError(f"the file has {size / 1e9:.1f} GB, at most {most} are taken; cut it in parts")
    check_room(folder, size)
    return size


async def receive(stream: AsyncIterator[bytes], path: Path, length: str | None) -> None:
    """Write what comes to `path`, whose folder is there; whoever calls removes it after a failure.

    Raises DeepsepError as `check_size` does, before anything is written, and where less or more comes.
    """
    size = check_size(path.parent, length)
    coming[path] = size  # nothing was awaited since the check: no other upload counts on the same room
    done = 0
    try:
        with path.open("xb") as file:
            async for chunk in stream:
                done += len(chunk)
                if done > size:
                    break
                file.write(chunk)
                coming[path] = size - done
    except OSError as error:
        raise DeepsepError(f"the file cannot be kept ({error.strerror}); make room on the disk") from None
    finally:
        del coming[path]
    if done != size:
        raise DeepsepError(f"{done} bytes of the file came, {size} were said; send it again")
