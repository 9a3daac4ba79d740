"""Steps of a long program, each taken once: stopped at any moment, it goes on with the step that it was in."""

import shutil
from collections.abc import Callable
from pathlib import Path

__all__ = ["fresh", "take"]


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
    if mark.exists():
        return
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
    shutil.rmtree(made)
