"""Folders of recordings: which files they hold, and caches of what was computed from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import IO, Any

from ..audio import files as audio
from ..audio.loudness import Loudness
from ..errors import DeepsepError, refusal
from ..progress import Listener
from ..staging import StagedFiles, remove_abandoned

__all__ = [
    "Folders",
    "Place",
    "Table",
    "cached",
    "contents",
    "file_rms",
    "find_audio",
    "gather",
    "paths_of",
    "set_members",
]

Place = str | PathLike[str]

Table = dict[str, list[Any]]  # of a cache: columns, and under "left_out" a line on each recording of no use

Folders = Sequence[Path]  # of recordings; each is drawn from by the cube root of its length


def set_members(name: str) -> list[str]:
    """The sources in the name of a folder of recordings: "drums" is one, "drums+bass+other" are three together."""
    return [source.strip() for source in name.split("+")]


def paths_of(data: Place | Sequence[Place]) -> list[Path]:
    """One path or several as a list."""
    return [Path(data)] if isinstance(data, (str, PathLike)) else [Path(place) for place in data]


def find_audio(folder: Path) -> list[Path]:
    """List the audio files at any depth below `folder` (or the one file), sorted. DeepsepError if there are none."""
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise DeepsepError(f"{folder}: no such folder; give a folder of solo recordings")
    found = sorted(
        p for p in folder.rglob("*")
        if p.suffix.lower() in audio.AUDIO_SUFFIXES and p.is_file()
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )  # fmt: skip
    if not found:
        raise DeepsepError(
            f"{folder}: no audio files in this folder; it should hold solo recordings (wav, flac, mp3...)"
        )
    return found


def file_rms(path: Path) -> float:
    """The gated RMS of one recording."""
    loudness = Loudness()
    for block in audio.read_blocks(path):
        loudness.add(block)
    return loudness.rms


def gather(folders: Sequence[Path]) -> list[tuple[Path, int]]:
    """List every recording once, with the number of its folder: the innermost of those that hold it.

    A recording listed twice could be trained on and held out at once.
    """
    home: dict[Path, tuple[Path, int]] = {}
    depth = [len(folder.resolve().parts) for folder in folders]
    for g, folder in enumerate(folders):
        for path in find_audio(folder):
            known = home.get(path.resolve())
            if known is None or depth[known[1]] < depth[g]:
                home[path.resolve()] = (path, g)
    return sorted(home.values(), key=lambda item: (item[1], item[0]))


def fingerprint(files: Sequence[tuple[Path, int]], *extra: object) -> str:
    """A short hash of names, sizes and times, so that a cache made of other files is not taken for this one."""
    lines = [f"{p.resolve()} {p.stat().st_size} {p.stat().st_mtime_ns} {g}" for p, g in files]
    return hashlib.sha256("\n".join([*lines, repr(extra)]).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def contents(folders: Sequence[Path]) -> str:
    """A short hash of the recordings' names and sizes: the same after a move to another machine."""
    lines = sorted(f"{path.name} {path.stat().st_size}" for path, _ in gather(folders))
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def cached(
    cache: Path,
    kind: str,
    files: Sequence[tuple[Path, int]],
    settings: tuple[object, ...],
    make: Callable[[IO[bytes], Path, int], Table],
    bytes_of: Callable[[Table], int],
    listener: Listener,
) -> tuple[Table, Path]:
    """Cache what `make` writes of each recording in one file; return its table and where it is.

    `make` gets the open file, a recording and its folder's number, and returns rows to add to the table's lists. It
    is called only if no cache of the same files and settings exists, or one whose size is not that of `bytes_of` its
    table; caches made of other files are removed. A recording that cannot be read or is silent is left out with a
    note, each time. DeepsepError if all are, and where the cache cannot be written.
    """
    key = fingerprint(files, *settings)
    table, store = cache / f"{kind}-{key}.json", cache / f"{kind}-{key}.bin"
    kept = read_table(table, store, bytes_of)
    if kept is None:
        kept = fill(table, store, files, make, listener)
        if (lacking := bytes_of(kept) - store.stat().st_size) != 0:
            raise DeepsepError(f"{store}: {lacking} bytes are missing; is the disk full?")
    else:
        remove_abandoned(cache)  # as `fill` does
    for path in cache.glob(f"{kind}-*"):
        if path not in (table, store):
            with suppress(OSError):  # another run may still have it open
                path.unlink()
    if listener.note:
        for line in kept["left_out"]:
            listener.note(f"left out: {line}")
    return kept, store


def read_table(table: Path, store: Path, bytes_of: Callable[[Table], int]) -> Table | None:
    """The table of a cache; None unless both its files are there and fit each other."""
    if not table.is_file() or not store.is_file():  # a pipe would be waited for without end
        return None
    try:
        kept = json.loads(table.read_text(encoding="utf-8"))
        left_out = kept["left_out"]
        if not isinstance(left_out, list) or not all(isinstance(line, str) for line in left_out):
            return None
        whole = bytes_of(kept) == store.stat().st_size > 0
    except (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError):
        return None
    return kept if whole else None


def fill(
    table: Path,
    store: Path,
    files: Sequence[tuple[Path, int]],
    make: Callable[[IO[bytes], Path, int], Table],
    listener: Listener,
) -> Table:
    """Write a cache and its table, both or none."""
    made: Table = {"left_out": []}
    with StagedFiles({"store": store, "table": table}) as staged:
        try:
            with staged.temporary["store"].open("wb") as out:
                for done, (path, g) in enumerate(files):
                    if listener.files:
                        listener.files(done, len(files))
                    try:
                        rows = make(out, path, g)
                    except DeepsepError as error:
                        made["left_out"].append(str(error))
                        continue
                    for name, row in rows.items():
                        made.setdefault(name, []).extend(row)
                empty = out.tell() == 0
            staged.temporary["table"].write_text(json.dumps(made), encoding="utf-8")
        except OSError as error:
            place, what = (error.filename, "used") if error.filename else (store.parent, "written")
            raise refusal(place, error, what) from None
        if empty:
            first = made["left_out"][0]
            raise DeepsepError(first if len(files) == 1 else f"no recording is of use; the first: {first}")
        staged.commit()
    return made
