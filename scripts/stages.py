"""Long programs of several steps, each taken once: stopped at any moment, one goes on with the step that it was in."""

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["alone", "fresh", "take"]


@contextmanager
def alone(folder: Path, name: str) -> Iterator[None]:
    """Work in a folder as the only program of this name: another one ends in a line.

    Ctrl-C, a request to end and a closed terminal end this one by KeyboardInterrupt, and then by status 130.
    """
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, signal.default_int_handler)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / f"{name}.lock", timeout=0):
            yield
    except Timeout:
        raise SystemExit(f"error: {folder}: another {name} is at work there") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def fresh(folder: Path) -> None:
    """Make a folder, without what was in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def take(
    step: Callable[[Path], None], mark: Path, made: Path, check: Callable[[Path], None] | None = None
) -> None:
    """Take a step, unless its mark is there; what it makes in the folder `made` is moved beside the mark.

    Nothing is moved before all is made, and checked; a step that was stopped while it made something begins anew.
    """
    complete = made / "complete"
    if not mark.exists():
        if not complete.exists():
            fresh(made)
            step(made)
            if check:
                check(made)
            complete.touch()
        for path in sorted(p for p in made.rglob("*") if p.is_symlink() or (p.is_file() and p != complete)):
            target = mark.parent / path.relative_to(made)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        mark.touch()
    shutil.rmtree(made, ignore_errors=True)
