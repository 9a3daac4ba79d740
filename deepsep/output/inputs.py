"""What is typed -> files: names, folders and glob patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from ..audio.files import AUDIO_SUFFIXES, is_stem_file
from ..errors import DeepsepError
from .paths import path_key

__all__ = ["expand_inputs"]


def expand_inputs(
    inputs: Sequence[str], *, recursive: bool = False, avoid: Path | None = None
) -> tuple[list[Path], list[DeepsepError]]:
    """The files that were typed: by name, as folders (their audio files), or as glob patterns.

    Each file comes once. `recursive` includes the folders' subfolders. Files in the folder `avoid` (that of
    the outputs) and stem files count only when named themselves. Also returns one error for each folder or
    pattern that holds no audio; whether a named file exists is left to whoever reads it.
    """
    found: list[Path] = []
    problems: list[DeepsepError] = []
    for item in inputs:
        if "://" in item:
            problems.append(DeepsepError(f"{item}: is a web address; download it first, then name the file"))
            continue
        path = Path(item if os.path.lexists(item) else os.path.expanduser(item))
        try:
            if path.is_dir():
                found += find_in_folder(path, recursive, avoid)
            elif os.path.lexists(path) or not glob.has_magic(item):
                found.append(path)
            else:
                found += match_pattern(str(path), recursive, avoid)
        except (DeepsepError, OSError, ValueError) as error:
            problems.append(error if isinstance(error, DeepsepError) else DeepsepError(f"{item}: {error}"))
    unique: dict[str, Path] = {}
    # two paths may lead to one folder; a link to a file under another name is another track
    for path in found:
        unique.setdefault(path_key(Path(os.path.realpath(path.parent), path.name)), path)
    return list(unique.values()), problems


def find_in_folder(folder: Path, recursive: bool, avoid: Path | None) -> list[Path]:
    """The audio files of a folder, sorted, without hidden ones. Raises DeepsepError when there is none."""
    root = os.path.abspath(folder)
    outputs = os.path.abspath(avoid) + os.sep if avoid and os.path.abspath(avoid) != root else None
    inside = [  # songs, and stem files
        p
        for p in sorted(folder.glob("**/*" if recursive else "*"))
        if p.suffix.lower() in AUDIO_SUFFIXES
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
        and not (outputs and os.path.abspath(p).startswith(outputs))
        and p.is_file()
    ]
    songs = [path for path in inside if not is_stem_file(path)]
    if inside and not songs:
        raise DeepsepError(
            f"{folder}: holds stem files only, which are made of songs; name one to separate its mix"
        )
    if not songs:
        hint = "" if recursive else "; --recursive looks in its subfolders"
        raise DeepsepError(f"{folder}: is a folder without audio files{hint}")
    return songs


def match_pattern(pattern: str, recursive: bool, avoid: Path | None) -> list[Path]:
    """The files that a glob pattern matches, for shells that do not expand patterns themselves."""
    found: list[Path] = []
    for path in sorted(Path(p) for p in glob.glob(pattern, recursive=True)):
        if path.is_dir():
            found += find_in_folder(path, recursive, avoid)
        else:
            found.append(path)
    if not found:
        raise DeepsepError(f"{pattern}: no file matches; check the pattern")
    return found
