"""Many runs on one library: its songs dealt out in shards, each song claimed by one run, one log for all.

Claims and the log's turns are locks on single bytes of one file, which the system lets go of when a process ends,
however it ends. Files that are locked whole would need one for each song, and none of them could be removed
while another run may just be opening it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
import time
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DeepsepError, refusal
from ..progress import printable

__all__ = ["CLAIMS", "Claims", "RunLog", "Shard"]

CLAIMS = ".deepsep-claims"  # in the output folder, while a run goes on
LOG_BYTE = 1 << 61  # far behind any end of file
BINARY = getattr(os, "O_BINARY", 0)


class Shard(NamedTuple):
    """Part `number` of `parts` of a library; the first is number 1."""

    number: int
    parts: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "3/8". Raises DeepsepError for what is no part of a whole."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if not match:
            raise DeepsepError(
                f"{printable(text)!r} is no shard; give its number and how many there are: 3/8"
            )
        shard = cls(int(match[1]), int(match[2]))
        if not 1 <= shard.number <= shard.parts:
            raise DeepsepError(f"shard {text} is not there; shards are numbered 1/N to N/N")
        return shard

    def has(self, key: str) -> bool:
        """Whether a song is of this shard, by a hash of its `paths.track_key`.

        So all machines agree, wherever each mounts the library, and a song stays in its shard when others come.
        """
        folded = unicodedata.normalize("NFC", key).casefold()
        return number_of(folded) % self.parts == self.number - 1


def number_of(key: str) -> int:
    """A number below 2^60 that is the same everywhere."""
    return int.from_bytes(hashlib.sha256(os.fsencode(key)).digest()[:8], "big") >> 4


class Claims:
    """The songs that this process is at, so that no other run does them too; `close` ends it.

    The folder is that of the outputs, and must be there or can be created. Where a file system has no locks, every
    claim is granted and `without_locks` is set. Raises DeepsepError where no file can be created.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / CLAIMS
        self.without_locks = False
        self.made = not folder.exists()
        try:
            self.file = self.open()
        except OSError as error:
            raise refusal(folder, error) from None

    def open(self) -> int:
        """A descriptor of the file whose bytes stand for songs."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self.path, os.O_RDWR | os.O_CREAT | BINARY, 0o666)

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Within, no other run has the song of this `paths.track_key`, if True; else another has it."""
        at = number_of(key)
        taken = self.take(at)
        try:
            yield taken
        finally:
            if taken:
                with suppress(OSError):
                    unlock(self.file, at)

    def take(self, at: int) -> bool:
        """Lock a byte, unless another process has it."""
        while True:
            try:
                if not lock(self.file, at):
                    return False
                if is_open_as(self.file, self.path):
                    return True
                former, self.file = (
                    self.file,
                    self.open(),
                )  # another run, the last one then, has removed the file
                os.close(former)
            except OSError:
                self.without_locks = True
                return True

    def close(self) -> None:
        """Remove the file unless another run has a song, and the folder if it was made here and stayed empty."""
        with suppress(OSError):
            if lock(self.file, 0, length=0):
                self.path.unlink()
        os.close(self.file)
        if self.made:
            with suppress(OSError):
                self.path.parent.rmdir()


class RunLog:
    """A file with one JSON line for each song, which several runs may append to.

    Raises DeepsepError where it cannot be written, and for a file that holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self.appending() as file:
            if not is_log(file):
                raise DeepsepError(
                    f"{path}: its first line is not that of a log, so it stays as it is; give --log another file"
                )

    @contextmanager
    def appending(self) -> Iterator[int]:
        """A descriptor at the end of the file, no other run at it."""
        try:
            file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | BINARY, 0o666)
            try:
                with suppress(OSError):  # no locks here; a line is still one write
                    lock(file, LOG_BYTE, wait=True)
                yield file
            finally:
                os.close(file)
        except OSError as error:
            raise refusal(self.path, error) from None

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a line, with when and by which process; one that a killed process left unfinished is ended first."""
        with self.appending() as file:
            who = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "host": platform.node(),
                "pid": os.getpid(),
            }
            data = (json.dumps({**who, **row}) + "\n").encode()
            if (end := os.lseek(file, 0, os.SEEK_END)) and not ends_a_line(file, end):
                data = b"\n" + data
            while data:
                data = data[os.write(file, data) :]


def is_log(file: int) -> bool:
    """Whether an open file is empty or begins with a line of JSON, whole or cut off."""
    if not os.lseek(file, 0, os.SEEK_END):
        return True
    os.lseek(file, 0, os.SEEK_SET)
    first, end, _ = os.read(file, 1 << 20).partition(b"\n")
    try:
        return first.startswith(b"{") and (not end or isinstance(json.loads(first), dict))
    except (ValueError, RecursionError):
        return False


def ends_a_line(file: int, end: int) -> bool:
    """Whether what is before the position `end` ends in a line feed."""
    os.lseek(file, end - 1, os.SEEK_SET)
    return os.read(file, 1) == b"\n"


def is_open_as(file: int, path: Path) -> bool:
    """Whether a path still names an open file."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:
        return False


if sys.platform == "win32":
    import msvcrt

    def lock(file: int, at: int, *, length: int = 1, wait: bool = False) -> bool:
        """Lock bytes of an open file, 0 of them for all; False if another process has one. Raises OSError."""
        os.lseek(file, at, os.SEEK_SET)
        while True:
            try:
                msvcrt.locking(file, msvcrt.LK_NBLCK, length or (1 << 31) - 1)
                return True
            except PermissionError:
                if not wait:
                    return False
                time.sleep(0.05)

    def unlock(file: int, at: int) -> None:
        """Let go of a byte."""
        os.lseek(file, at, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def lock(file: int, at: int, *, length: int = 1, wait: bool = False) -> bool:
        """Lock bytes of an open file, 0 of them for all; False if another process has one. Raises OSError."""
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), length, at)
        except (BlockingIOError, PermissionError):  # which of them depends on the system
            return False
        return True

    def unlock(file: int, at: int) -> None:
        """Let go of a byte."""
        fcntl.lockf(file, fcntl.LOCK_UN, 1, at)
