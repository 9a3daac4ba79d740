"""List recordings by what they hold: which files trained the bundled weights, and which songs they are scored on.

Usage: python scripts/list_recordings.py NAME=DIR... > docs/training_recordings.txt

One line a file: NAME/PATH and the start of its SHA-256. DIR is searched at any depth.
A test compares the two lists in docs/: nothing that is scored on was trained on.
"""

import hashlib
import sys
from pathlib import Path

from deepsep import DeepsepError
from deepsep.recordings.files import find_audio


def digest_of(path: Path) -> str:
    """The start of a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def read_list(path: Path) -> dict[str, str]:
    """A list that was printed: NAME/PATH -> digest."""
    return dict(line.rsplit(" ", 1) for line in path.read_text(encoding="utf-8").splitlines())


def main() -> None:
    """Print the list."""
    for item in sys.argv[1:]:
        name, _, folder = item.partition("=")
        top = Path(folder)
        try:
            found = find_audio(top)
        except DeepsepError as error:
            raise SystemExit(f"error: {error}") from None
        for path in found:
            print(f"{name}/{path.relative_to(top).as_posix()} {digest_of(path)}")


if __name__ == "__main__":
    main()
