"""Lists recordings by what they hold: which files trained the bundled weights, and which songs they are scored on.

Usage: python docs/list_recordings.py NAME=DIR... > docs/training_recordings.txt

One line a file: NAME/PATH and the start of its SHA-256. DIR is searched at any depth.
A test compares the two lists beside this script: nothing that is scored on was trained on.
"""

import hashlib
import sys
from pathlib import Path

SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".mp4"}


def main() -> None:
    """Prints the list."""
    for item in sys.argv[1:]:
        name, _, folder = item.partition("=")
        top = Path(folder)
        for path in sorted(walk(top)):
            if path.suffix.lower() in SUFFIXES:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
                print(f"{name}/{path.relative_to(top).as_posix()} {digest}")


def walk(folder: Path) -> list[Path]:
    """All files below, through symbolic links too."""
    found = []
    for path in folder.iterdir():
        found += walk(path) if path.is_dir() else [path]
    return found


if __name__ == "__main__":
    main()
