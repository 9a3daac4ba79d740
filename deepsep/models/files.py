"""The files of a priors folder: what its config.json lists, and whether they are those files.

The "files" table of `config.json` lists every weights file with its sha256 and its size:

    {"files": {"vocals.safetensors": {"sha256": "<64 hex digits>", "size": 1234}, ...}, ...}
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..config import is_whole, parse_json, shorten
from ..errors import DeepsepError, refusal

__all__ = [
    "MAX_FILE_BYTES",
    "MAX_TEXT_BYTES",
    "Entry",
    "check_file",
    "check_own",
    "check_size",
    "listed_files",
    "one_line",
    "quote",
    "read_json",
    "verify",
]

MAX_FILE_BYTES = 2 * 1024**3
"""The largest weights file that is fetched or listed."""

MAX_TEXT_BYTES = 4 * 1024**2  # config.json and README.md: far above any real one

SHA256 = re.compile(r"[0-9a-f]{64}")
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
SUFFIXES = (".safetensors", ".json", ".md")


class Entry(NamedTuple):
    """What config.json says of a file: sha256 in hex, size in bytes."""

    sha256: str
    size: int


def verify(folder: Path, config: Mapping[str, Any], *, only: list[str] | None = None) -> None:
    """Check size and sha256 of the files that `config` lists (or of the sources in `only`)."""
    for name, entry in listed_files(config, only, str(folder)).items():
        path = folder / name
        if not path.is_file():
            raise DeepsepError(
                f"{folder} lacks {name}, which its config.json lists; get it again, or train it"
            )
        check_file(path, entry)


def check_own(folder: Path, names: Iterable[str]) -> None:
    """Raise DeepsepError unless these are regular files of the folder itself, or are not there.

    What a link leads to may be anybody's, and is not to be shared or written over.
    """
    inside = folder.resolve()
    for name in names:
        path = folder / name
        if path.is_symlink() or path.resolve() != inside / name:
            raise DeepsepError(f"{path} is a link; put the file itself into the folder")
        if path.exists() and not path.is_file():
            raise DeepsepError(f"{path} is no regular file")


def read_json(folder: Path) -> dict[str, Any]:
    """Read `config.json` of a priors folder as JSON; what it says is for the caller to judge."""
    path = folder / "config.json"
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for without end
            raise DeepsepError(f"{path} is no regular file")
        if found.st_size > MAX_TEXT_BYTES:
            raise DeepsepError(f"{path} is too large for a priors config ({found.st_size} bytes)")
        config = parse_json(path.read_text(encoding="utf-8-sig"))  # some editors put a mark before it
    except FileNotFoundError:
        raise DeepsepError(f"{folder} is not a priors folder: it holds no config.json") from None
    except OSError as error:
        raise refusal(path, error, "read") from error
    except ValueError as error:
        raise DeepsepError(f"{path} is not valid JSON: {one_line(error)}") from error
    if not isinstance(config, dict):
        raise DeepsepError(f"{path} must hold a JSON object")
    return config


def listed_files(config: Mapping[str, Any], only: list[str] | None, where: str) -> dict[str, Entry]:
    """The "files" table, every name and size judged before a byte is fetched, narrowed to `only`."""
    files = config.get("files")
    if not isinstance(files, dict) or not files:
        raise DeepsepError(f'{where}: config.json has no "files" table, so this is not a priors folder')
    entries = {}
    for name, raw in files.items():
        check_name(name, where)
        sha256, size = (raw.get("sha256"), raw.get("size")) if isinstance(raw, dict) else (None, None)
        if not isinstance(sha256, str) or not SHA256.fullmatch(sha256.lower()):
            raise DeepsepError(f"{where}: config.json gives no valid sha256 for {name}")
        if not is_whole(size) or size < 0:
            raise DeepsepError(f"{where}: config.json gives no valid size for {name}")
        if size > MAX_FILE_BYTES:
            raise DeepsepError(
                f"{where}: {name} is declared as {shorten(size)} bytes, above {MAX_FILE_BYTES}; refused"
            )
        entries[name] = Entry(sha256.lower(), size)
    if only is None:
        return entries
    wanted = {}
    for source in only:
        if f"{source}.safetensors" not in entries:
            known = ", ".join(str(known) for known in config.get("sources") or ())
            raise DeepsepError(
                f"{where} has no prior for {quote(source)}; it has {one_line(known) or 'none'}"
            )
        wanted[f"{source}.safetensors"] = entries[f"{source}.safetensors"]
    return wanted


def check_name(name: str, where: str) -> None:
    if name.lower().endswith(PICKLES):
        raise DeepsepError(f"{where} lists {quote(name)}: pickles can run code; only safetensors are read")
    parts = set(name.split("/"))
    unsafe = "\\" in name or ":" in name or not name.isprintable() or parts & {"", ".", "..", "~"}
    if unsafe or name.lower() == "config.json" or not name.endswith(SUFFIXES):
        raise DeepsepError(
            f"{where} lists {quote(name)}: only relative .safetensors, .json and .md files are accepted"
        )


def check_size(path: Path, entry: Entry) -> None:
    """Raise DeepsepError unless a file has the size that config.json gives."""
    size = path.stat().st_size
    if size != entry.size:
        raise damaged(path, f"it has {size} bytes and config.json says {entry.size}")


def check_file(path: Path, entry: Entry) -> None:
    """Raise DeepsepError unless a file has the size and sha256 that config.json gives."""
    check_size(path, entry)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    sha256 = digest.hexdigest()
    if sha256 != entry.sha256:
        raise damaged(path, f"its sha256 is {sha256[:12]}.. and config.json says {entry.sha256[:12]}..")


def damaged(path: Path, found: str) -> DeepsepError:
    # in the Hub cache a file is a link: without its target gone, the client links the same bytes again
    return DeepsepError(f"{path.name} is damaged: {found}; delete {path.resolve()} and fetch it again")


def quote(text: str) -> str:
    """A name from outside, made safe for one line of a terminal."""
    return ascii(text if len(text) <= 120 else text[:117] + "...")


def one_line(error: object) -> str:
    """An error's text in one short line."""
    text = str(error) or type(error).__name__
    return " ".join(text.split())[:160].rstrip(".")
