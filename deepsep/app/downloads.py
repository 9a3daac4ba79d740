"""Results on their way out: one file, all of a song as a zip, or a stem file made of its stems."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ..audio.files import probe, read_blocks
from ..audio.tags import read_tags
from ..errors import DeepsepError
from ..output import ni_stem
from ..staging import StagedFiles
from . import places
from .store import Song

__all__ = ["file_of", "files_of", "make_stem_file", "may_be_stem_file", "named", "stem_file", "zipped"]

CHUNK = 1 << 20


def files_of(folder: Path, song: Song) -> dict[str, Path]:
    """Name -> file of all results. Only what lies in the folder counts, whatever the store says."""
    root = folder.resolve()
    found = {name: (folder / path) for name, path in song.result.get("files", {}).items()}
    return {name: path for name, path in found.items() if path.resolve().is_relative_to(root)}


def file_of(folder: Path, song: Song, name: str) -> Path:
    """One result. Raises DeepsepError for one that is not there."""
    path = files_of(folder, song).get(name)
    if path is None or not path.is_file():
        raise DeepsepError(f"{name} of {song.label} is not there any more; separate the song again")
    return path


class Sink:
    """What a zip writes, until it is sent."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> int:
        """Hold bytes."""
        self.data += data
        return len(data)

    def flush(self) -> None:
        """Nothing to do."""

    def taken(self) -> bytes:
        """What came since the last call."""
        data, self.data = bytes(self.data), bytearray()
        return data


def zipped(files: Sequence[tuple[str, Path]]) -> Iterator[bytes]:
    """A zip of files, by their names in it, as it is made: not compressed, since sound hardly is.

    All are open when this returns, so that one that is removed later is still sent whole. Raises DeepsepError for one
    that cannot be opened; on the way, OSError for one that can be read no more or is of another length than at first:
    the download must not end as if all were well.
    """
    pieces = zip_pieces(files)
    next(pieces)
    return pieces


def zip_pieces(files: Sequence[tuple[str, Path]]) -> Iterator[bytes]:
    """What `zipped` gives, after an empty piece when all files are open."""
    sink = Sink()
    with ExitStack() as stack:
        opened = []
        for name, path in files:
            try:
                opened.append((zipfile.ZipInfo.from_file(path, name), stack.enter_context(path.open("rb"))))
            except OSError as error:
                raise DeepsepError(
                    f"{name} cannot be read ({error.strerror}); separate the song again"
                ) from None
        yield b""
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
            for about, source in opened:
                left = about.file_size
                with archive.open(about, "w", force_zip64=True) as target:
                    while chunk := source.read(CHUNK):
                        left -= len(chunk)
                        target.write(chunk)
                        yield sink.taken()
                if left:
                    raise OSError(f"{about.filename} has changed while it was sent")
        yield sink.taken()


def may_be_stem_file(song: Song) -> bool:
    """Whether a stem file can be made of a song's stems: it holds four, of one separation."""
    stems = song.result.get("stems", [])
    return len(stems) == 4 and all(name in song.result.get("files", {}) for name in stems)


def stem_file(folder: Path, song: Song) -> Path:
    """Where the stem file of a song is made."""
    return places.home(folder, song) / "stem" / f"{song.track}.stem.mp4"


def make_stem_file(folder: Path, song: Song) -> Path:
    """Make a stem file of the stems that were written, unless it is there; from float WAV it is that of `-f stem`.

    Raises DeepsepError where it cannot be made.
    """
    path = stem_file(folder, song)
    if path.is_file():
        return path
    if not may_be_stem_file(song):
        raise DeepsepError("a stem file holds exactly 4 stems; separate the song into all four")
    stems = [file_of(folder, song, name) for name in song.result["stems"]]
    info = probe(stems[0])
    encoding = ni_stem.Encoding(tags=read_tags(places.upload(folder, song)), comment=song.result["comment"])
    with ExitStack() as stack:
        staged = stack.enter_context(StagedFiles({"file": path}))
        writer = ni_stem.NiStemWriter(
            path, song.result["stems"], info.rate, info.channels, encoding, staged=staged
        )
        with writer:
            for blocks in zip(*map(read_blocks, stems), strict=True):
                writer.write(np.stack(blocks))
        staged.commit()
    return path


def named(files: Iterable[Path], folder: Path) -> list[tuple[str, Path]]:
    """Files by their places below a folder, as a zip names them."""
    return [(path.relative_to(folder).as_posix(), path) for path in files]
