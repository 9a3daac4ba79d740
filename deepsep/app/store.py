"""The songs and what became of them, in SQLite: they outlive the server."""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from ..config import from_dict, parse_json, to_dict
from ..errors import DeepsepError
from .wishes import Wishes

__all__ = ["Song", "State", "Store"]

State = Literal["waiting", "running", "done", "failed", "cancelled"]

SCHEMA = """
    create table if not exists songs (
        number integer primary key autoincrement,
        id text not null unique,
        label text not null,
        track text not null unique collate nocase,
        suffix text not null,
        seconds real not null,
        wishes text not null,
        state text not null,
        error text not null default '',
        result text not null default '{}'
    );
    create table if not exists secrets (name text primary key, value text not null);
"""
COLUMNS = "id, label, track, suffix, seconds, wishes, state, error, result"
VERSION = 1


@dataclass(slots=True)
class Song:
    """A song in the queue.

    `label` is what the person calls it, `track` the name of its results, safe as a part of a path and used by no
    other song; `result` holds the outputs as {name: path below the folder}, "took" and "notes".
    """

    id: str
    label: str
    track: str
    suffix: str
    seconds: float
    wishes: Wishes
    state: State = "waiting"
    error: str = ""
    result: dict[str, Any] = field(default_factory=dict)


class Store:
    """The songs in one file. Every change is on the disk when its call returns.

    Raises DeepsepError for a file that is none of ours.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.touch(mode=0o600)
            self.base = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            version = self.base.execute("pragma user_version").fetchone()[0]
            if version > VERSION:
                raise DeepsepError(f"{path}: written by a newer deepsep; upgrade deepsep")
            self.base.executescript(SCHEMA)
            self.base.execute(f"pragma user_version = {VERSION}")
        except (sqlite3.Error, OSError) as error:
            raise DeepsepError(f"{path}: cannot be used ({error}); move it away, or use --folder") from None

    def close(self) -> None:
        """Close the file."""
        self.base.close()

    def songs(self) -> list[Song]:
        """All songs, the first to be separated first."""
        return [read_row(row) for row in self.base.execute(f"select {COLUMNS} from songs order by number")]

    def song(self, id: str) -> Song | None:
        """One song."""
        row = self.base.execute(f"select {COLUMNS} from songs where id = ?", [id]).fetchone()
        return read_row(row) if row else None

    def add(self, song: Song) -> None:
        """Put a song at the end."""
        wishes, result = json.dumps(to_dict(song.wishes)), json.dumps(song.result)
        values = [
            song.id, song.label, song.track, song.suffix, song.seconds, wishes, song.state, song.error, result,
        ]  # fmt: skip
        self.base.execute(f"insert into songs ({COLUMNS}) values ({', '.join('?' * len(values))})", values)

    def change(self, song: Song) -> None:
        """Keep a song's state, error and result."""
        values = [song.state, song.error, json.dumps(song.result), song.id]
        self.base.execute("update songs set state = ?, error = ?, result = ? where id = ?", values)

    def to_end(self, id: str) -> None:
        """Move a song to the end."""
        last = "(select max(number) + 1 from songs)"
        self.base.execute(f"update songs set number = {last} where id = ?", [id])

    def remove(self, id: str) -> None:
        """Forget a song."""
        self.base.execute("delete from songs where id = ?", [id])

    def has_track(self, track: str) -> bool:
        """Whether a song has this name for its results."""
        return bool(self.base.execute("select 1 from songs where track = ?", [track]).fetchone())

    def token(self) -> str:
        """A secret of this folder, the same after a restart, so that open pages and bookmarks stay valid."""
        self.base.execute("insert or ignore into secrets values ('token', ?)", [os.urandom(18).hex()])
        return str(self.base.execute("select value from secrets where name = 'token'").fetchone()[0])


def read_row(row: tuple[Any, ...]) -> Song:
    """A song as it was kept; a failed one that says so where its row cannot be read."""
    id, label, track, suffix, seconds, wishes, state, error, result = row
    try:
        known, found = from_dict(Wishes, parse_json(wishes)), parse_json(result)
        if state not in get_args(State) or not isinstance(seconds, float) or not isinstance(found, dict):
            raise ValueError("no state, length or results of a song")
        return Song(id, label, track, suffix, seconds, known, state, error, found)
    except (DeepsepError, ValueError, TypeError) as why:
        told = f"what the list says of it cannot be read ({why}); remove it, and send it again"
        return Song(str(id), str(label), str(track), str(suffix), 0.0, Wishes(), "failed", told)
