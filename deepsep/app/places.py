"""Where things are: results in the folder that the person named, all else hidden in it."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
from collections.abc import Collection
from pathlib import Path

from ..errors import DeepsepError
from .store import Song

__all__ = [
    "PLAYER",
    "default_folder",
    "home",
    "new_id",
    "piece_name",
    "prepare",
    "remove_strays",
    "sounds",
    "state",
    "upload",
]

PLAYER = "player.json"  # the player's data and markup
ID = re.compile(r"[0-9a-f]{16}")


def default_folder() -> Path:
    """`deepsep` in the folder that the system keeps music in."""
    music = Path.home() / "Music"
    if sys.platform not in ("win32", "darwin"):
        config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "user-dirs.dirs")
        text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
        if found := re.search(r'^XDG_MUSIC_DIR="(\$HOME/|/)([^"\n]*)"', text, re.MULTILINE):
            music = (Path.home() if found[1] != "/" else Path("/")) / found[2]
    return music / "deepsep"


def state(folder: Path) -> Path:
    """What the application keeps for itself."""
    return folder / ".deepsep-app"


def prepare(folder: Path) -> None:
    """Make the folder and what the application keeps in it.

    Raises DeepsepError where that is not allowed, and where a link is in its place: songs are removed in there.
    """
    own = state(folder) / "songs"
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeepsepError(f"{folder}: cannot be used ({error.strerror}); choose another --folder") from None
    for path in (own.parent, own):
        if path.is_symlink():
            raise DeepsepError(f"{path} is a link; remove it, or choose another --folder")


def new_id() -> str:
    """A name for what is kept of a song that nobody can guess."""
    return secrets.token_hex(8)


def home(folder: Path, song: Song) -> Path:
    """What is kept of one song: as it was sent, and the sound of the player; whatever a list calls it, in here."""
    return state(folder) / "songs" / (re.sub(r"\W", "_", song.id) or "_")


def remove_strays(folder: Path, ids: Collection[str]) -> None:
    """Remove what is kept of other songs than these: what a server left that was killed during an upload."""
    for path in (state(folder) / "songs").iterdir():
        if ID.fullmatch(path.name) and path.name not in ids:
            shutil.rmtree(path, ignore_errors=True)


def upload(folder: Path, song: Song) -> Path:
    """The song as it was sent; its outputs are named after this file."""
    return home(folder, song) / "upload" / f"{song.track}{song.suffix}"


def sounds(folder: Path, song: Song) -> Path:
    """The player's pieces of sound, and its markup."""
    return home(folder, song) / "sound"


def piece_name(track: int, index: int) -> str:
    """The file of a piece of sound."""
    return f"{track}-{index}.flac"
