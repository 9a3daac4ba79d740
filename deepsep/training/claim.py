"""A training folder belongs to one process at a time; a process that dies lets go of it."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from ..config import parse_json, shorten
from ..errors import DeepsepError
from ..inference.compute import Compute
from ..models.files import check_own

__all__ = ["claimed"]


@contextmanager
def claimed(out: Path, compute: Compute) -> Iterator[None]:
    """Keep other trainings out of the priors folder `out`, which is made if it is not there, until the block ends.

    Of several processes of one training the leading one does so. Raises DeepsepError where another training is at
    work, and for a folder that cannot be written.
    """
    if not compute.leads:
        yield
        return
    training = out / "training"
    made = [folder for folder in (training, *training.parents) if not folder.exists()]
    check_no_links(training)
    lock, about = FileLock(training / "claim.lock", thread_local=False), training / "claim.json"
    try:
        try:
            training.mkdir(parents=True, exist_ok=True)
            for folder in (out, training):
                tempfile.TemporaryFile(dir=folder).close()
            lock.acquire(blocking=False)
            while not Path(lock.lock_file).exists():  # its holder removed it when this process had opened it
                lock.release()
                lock.acquire(blocking=False)
            about.write_text(json.dumps(myself()), encoding="utf-8")
        except Timeout:
            raise DeepsepError(
                f"{out}: another training is at work there ({holder(about)}); wait for it, or choose another folder"
            ) from None
        except NotImplementedError:
            pass  # a file system without locks
        except OSError as error:
            raise DeepsepError(
                f"{out}: cannot be written to ({error.strerror}); choose another folder"
            ) from error
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):
                about.unlink()
                Path(lock.lock_file).unlink()
            lock.release()
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def check_no_links(training: Path) -> None:
    """Raise DeepsepError for links and pipes in the place of what training writes: they may be anybody's."""
    for folder in (training, training / "cache", *training.glob("cache/*")):
        if folder.is_symlink():
            raise DeepsepError(f"{folder} is a link; put the folder itself there, or choose another folder")
    check_own(training, ("claim.lock", "claim.json"))


def myself() -> dict[str, object]:
    """What a claim says of this process."""
    now = datetime.now().astimezone().isoformat(" ", "minutes")
    return {"process": os.getpid(), "host": socket.gethostname(), "since": now}


def holder(about: Path) -> str:
    """Who holds a claim, in words."""
    try:
        said = parse_json(about.read_text(encoding="utf-8"))
        process, host, since = (shorten(said[name]) for name in ("process", "host", "since"))
    except (OSError, ValueError, KeyError, TypeError):
        return "it does not say which"
    return f"process {process} on {host} since {since}"
