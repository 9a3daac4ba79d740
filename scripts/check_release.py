"""Check what is about to be released: python scripts/check_release.py dist [--tag v0.1.0].

The folder holds one wheel and one sdist of the version in deepsep/__init__.py; the wheel has every file of the
package and nothing else, in at most 40 MB, the sdist every tracked file of the folders that pyproject.toml names. With
--tag, the tag is that version and the changelog gives it a date.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LARGEST_WHEEL = 40_000_000  # bytes


def version_of(text: str, pattern: str) -> str:
    """The version that a file states, "" for none."""
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else ""


def tracked(*folders: str) -> set[str]:
    """The files of these folders, and these files, that git knows."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", *folders], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return set(filter(None, listed.stdout.split("\0")))


def included() -> list[str]:
    """What pyproject.toml says goes into the sdist."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = text.partition("[tool.hatch.build.targets.sdist]")[2]
    return re.findall(r'"([^"]+)"', table.partition("]")[0])


def compare(name: str, found: set[str], wanted: set[str]) -> list[str]:
    """What is missing in an archive, and what it has too many of."""
    told = [f"{name} lacks {path}" for path in sorted(wanted - found)]
    return told + [f"{name} holds {path}, which is not part of it" for path in sorted(found - wanted)]


def check(dist: Path, tag: str | None) -> list[str]:
    """Everything that is wrong, a line each."""
    version = version_of((ROOT / "deepsep/__init__.py").read_text(encoding="utf-8"), r'^__version__ = "(.+)"')
    wheel, sdist = dist / f"deepsep-{version}-py3-none-any.whl", dist / f"deepsep-{version}.tar.gz"
    if {path.name for path in dist.iterdir() if not path.name.startswith(".")} != {wheel.name, sdist.name}:
        return [f"{dist} must hold {wheel.name} and {sdist.name} and nothing else"]
    wrong = []
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    wrong += compare(wheel.name, names, tracked("deepsep"))
    if (size := wheel.stat().st_size) > LARGEST_WHEEL:
        wrong.append(f"{wheel.name} has {size / 1e6:.1f} MB, more than {LARGEST_WHEEL / 1e6:.0f}")
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    added = {"PKG-INFO", ".gitignore"}  # by hatchling
    wrong += compare(sdist.name, names - added, tracked(*included(), "pyproject.toml"))
    cited = version_of((ROOT / "CITATION.cff").read_text(encoding="utf-8"), r"^version: (.+)$")
    if cited != version:
        wrong.append(f"CITATION.cff is of version {cited}, the package of {version}")
    if tag is not None and tag != f"v{version}":
        wrong.append(f"the tag is {tag}, the version {version}")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if tag is not None and not re.search(
        rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$", changes, re.MULTILINE
    ):
        wrong.append(f"CHANGELOG.md has no dated section: ## {version} (YYYY-MM-DD)")
    return wrong


def main() -> None:
    """Print what is wrong and exit with 1, or say that nothing is."""
    parser = argparse.ArgumentParser(description="Check the files of a release.")
    parser.add_argument("dist", type=Path, help="folder of the wheel and the sdist")
    parser.add_argument("--tag", help="the tag that is to be released")
    options = parser.parse_args()
    wrong = check(options.dist, options.tag)
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    if wrong:
        raise SystemExit(1)
    print(f"{options.dist}: wheel and sdist hold what they should")


if __name__ == "__main__":
    main()
