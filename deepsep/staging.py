"""Files that appear whole or not at all: written in hidden folders beside their targets, then renamed together.

Such a folder is locked while its process lives: what a killed process left is removed by the next that writes there.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from .errors import DeepsepError, refusal

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Scratch", "StagedFiles", "place_of", "remove_abandoned", "uninterrupted"]

PREFIX, SUFFIX = ".deepsep-", ".part"
SCRATCH = re.compile(r"\.deepsep-[0-9a-f]{12}\.part")
# of systems and file systems that cannot flush such a file or folder
NO_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)


class Scratch:
    """A hidden folder in `parent` for what is not finished; `path` is its place, `remove` ends it.

    Removes those of processes that have ended. Raises OSError where no folder can be made.
    """

    def __init__(self, parent: Path) -> None:
        remove_abandoned(parent)
        while True:
            self.path = parent / f"{PREFIX}{uuid.uuid4().hex[:12]}{SUFFIX}"
            self.lock = lock_of(self.path)
            try:
                self.path.mkdir(mode=0o700)
                self.lock.acquire(blocking=False)
                return
            except (Timeout, FileNotFoundError):  # another process has just taken it for an abandoned one
                if not parent.is_dir():
                    raise
            except NotImplementedError:
                return  # a file system without locks
            except BaseException:
                self.remove()
                raise

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        remove_locked(self.path, self.lock)


def lock_of(folder: Path) -> FileLock:
    """The lock that a living process holds on its folder."""
    return FileLock(folder / "lock", thread_local=False)


def remove_locked(folder: Path, lock: FileLock) -> None:
    """Remove a folder, then let go of its lock; where an open file cannot be removed, once more after that."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        lock.release()
    shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(parent: Path) -> None:
    """Remove the scratch folders in `parent` that no living process holds."""
    with suppress(OSError):
        for folder in parent.glob(f"{PREFIX}*{SUFFIX}"):
            if (
                not SCRATCH.fullmatch(folder.name)
                or not folder.is_dir()
                or folder.is_symlink()
                or is_foreign(folder)
            ):
                continue
            lock = lock_of(folder)
            try:
                lock.acquire(blocking=False)
            except (Timeout, OSError, NotImplementedError):
                continue
            remove_locked(folder, lock)


def is_foreign(path: Path) -> bool:
    """Whether a path is another user's."""
    return hasattr(os, "getuid") and path.stat().st_uid != os.getuid()


def place_of(path: Path) -> Path:
    """The folder that a file is meant for: its own, or that which holds the scratch folder it lies in."""
    for folder in path.parents:
        if SCRATCH.fullmatch(folder.name):
            return folder.parent
    return path.parent


class StagedFiles:
    """Temporary files beside their targets, which `commit` renames all at once; a context manager that aborts.

    Write each file to its path in `temporary`. Missing folders are created; `abort` removes them again. Without
    `replace` a target that another process has written meanwhile stays, and `commit` raises DeepsepError.
    Raises DeepsepError when a folder cannot be created.
    """

    def __init__(self, targets: Mapping[str, Path], *, replace: bool = True) -> None:
        self.targets, self.replace = dict(targets), replace
        self.created: list[Path] = []
        self.scratches: dict[Path, Scratch] = {}
        self.temporary: dict[str, Path] = {}
        self.flushed = False
        try:
            for name, target in self.targets.items():
                folder = target.absolute().parent
                self.make_folder(folder)
                if folder not in self.scratches:
                    self.scratches[folder] = Scratch(folder)
                # a number, as the target's name may be as long as the system allows
                own = f"{len(self.temporary)}{target.suffix}"
                self.temporary[name] = self.scratches[folder].path / own
        except OSError as error:
            self.abort()
            raise refusal(target.parent, error, "created") from None
        except BaseException:
            self.abort()
            raise

    def scratch(self, folder: Path) -> Path:
        """A further temporary name, in the folder of one of those in `temporary`; it never becomes a target."""
        return folder / uuid.uuid4().hex[:12]

    def temporary_of(self, target: Path) -> Path:
        """Where to write the file that becomes `target`."""
        return next(self.temporary[name] for name, path in self.targets.items() if path == target)

    def flush(self) -> None:
        """Have the temporary files written to the disk. Raises DeepsepError when the system refuses."""
        for name, target in self.targets.items():
            try:
                flush(self.temporary[name])
            except OSError as error:
                raise refusal(target, error) from None
        self.flushed = True

    def commit(self) -> None:
        """Rename every temporary file to its target, or none. Raises DeepsepError when the system refuses."""
        renamed: list[tuple[Path, Path | None]] = []
        try:
            if not self.flushed:
                self.flush()
            with uninterrupted():
                try:
                    for name, target in self.targets.items():
                        renamed.append((target, self.place(self.temporary[name], target)))
                    for folder in {*self.scratches, *(made.parent for made in self.created)}:
                        flush_folder(folder)
                except BaseException as error:
                    take_back(renamed)
                    if not isinstance(error, OSError):
                        raise
                    raise refusal(target, error) from None
                self.created = []
        finally:
            self.abort()

    def place(self, temporary: Path, target: Path) -> Path | None:
        """Give a temporary file its target's name; return what `keep` says of the file that was there.

        Raises OSError; without `replace`, DeepsepError where the target is there.
        """
        if not self.replace:
            try:
                os.link(temporary, target)  # never replaces a file, as a rename may
                return self.unused(target)
            except (OSError, NotImplementedError):  # it is there, or the file system knows no such names
                if os.path.lexists(target):
                    raise DeepsepError(f"{target}: another process has written it; use --overwrite") from None
        former = self.keep(target)
        os.replace(temporary, target)
        return former

    def unused(self, target: Path) -> Path:
        """A name beside the target's temporary file that no file has."""
        return self.scratch(self.scratches[target.absolute().parent].path)

    def keep(self, target: Path) -> Path | None:
        """Give the file that a rename will replace, if any, a second name; None where the system has no such names."""
        former = self.unused(target)
        if os.path.lexists(target):
            try:
                os.link(target, former, follow_symlinks=False)
            except (OSError, NotImplementedError):
                return None
        return former

    def abort(self) -> None:
        """Remove the temporary files and the folders created here that are empty; does nothing after `commit`."""
        for scratch in self.scratches.values():
            scratch.remove()
        self.scratches = {}
        for folder in reversed(self.created):
            try:
                folder.rmdir()
            except OSError:
                continue  # another program has put a file there
        self.created = []

    def make_folder(self, folder: Path) -> None:
        """Create a folder and those above it that are missing; note them for `abort`."""
        missing = [part for part in (folder, *folder.parents) if not part.exists()]
        for part in reversed(missing):
            part.mkdir(exist_ok=True)
            self.created.append(part)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file is in the way")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()


def take_back(renamed: list[tuple[Path, Path | None]]) -> None:
    """Undo renames: each target is again what it was, or gone; one whose former file has no second name stays new."""
    for target, former in reversed(renamed):
        with suppress(OSError):
            if former and os.path.lexists(former):
                os.replace(former, target)
            elif former:
                target.unlink()


def flush(path: Path) -> None:
    """Wait until a file is on the disk, where the system can tell. Raises OSError, such as for a full disk."""
    with path.open("rb+") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in NO_FLUSH:
                raise


def flush_folder(folder: Path) -> None:
    """The same of the names in a folder."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # not to be opened: on Windows, and where its names may not be read
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in NO_FLUSH:
            raise
    finally:
        os.close(number)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the block ends, so that what belongs together happens together."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    kept = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if received:
            signal.raise_signal(received[0])
