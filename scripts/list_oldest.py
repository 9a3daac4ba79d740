"""Prints the oldest version of each package that pyproject.toml allows, as pip takes them: torch==2.6 numpy==1.26...

Usage: pip install $(python scripts/list_oldest.py)

The extras are included, but for those of developers (dev, docs), and Ray, which only slow tests need.
"""

from pathlib import Path

import tomllib
from packaging.requirements import Requirement

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
OTHERS = ("dev", "docs", "ray")


def main() -> None:
    """Print one pin a line."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    extras = {name: items for name, items in project["optional-dependencies"].items() if name not in OTHERS}
    items = [*project["dependencies"], *(item for extra in extras.values() for item in extra)]
    for requirement in dict.fromkeys(map(Requirement, items)):
        (lowest,) = (s.version for s in requirement.specifier if s.operator == ">=")
        print(f"{requirement.name}=={lowest}")


if __name__ == "__main__":
    main()
