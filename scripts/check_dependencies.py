"""Fail if an installed package is of a version with a known vulnerability that reaches what deepsep does.

    python scripts/check_dependencies.py

The list is short and kept by hand, so that the check needs no network: `pip-audit`, which knows all advisories, has no
database to take along and asks pypi.org or osv.dev. Where these are in reach, run it as well: `pipx run pip-audit`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["findings"]

# versions that are bad -> why
BAD = {
    "certifi<2024.7.4": "CVE-2024-39689, trusts a certificate authority that was withdrawn",
    "filelock<3.20.3": "CVE-2025-68146 and CVE-2026-22701, a link in the place of a lock is followed",
    "fonttools>=4.33,<4.60.2": "CVE-2025-66034, writes outside of its folder",
    "h11<0.16": "CVE-2025-43859, reads malformed bodies of requests",
    "idna<3.7": "CVE-2024-3651, a long name takes time without end",
    "jinja2<3.1.6": "CVE-2025-27516, leaves its sandbox",
    "pillow<10.3": "CVE-2023-4863 and CVE-2024-28219, writes beyond a buffer",
    "pydantic<2.4": "CVE-2024-3772, a crafted text takes time without end",
    "pygments<2.15.1": "CVE-2022-40896, a crafted text takes time without end",
    "requests<2.32.4": "CVE-2024-47081, gives a password to another host",
    "scikit-learn<1.5": "CVE-2024-5206, keeps tokens of its training data",
    "torch<2.6": "CVE-2025-32434, torch.load runs code in spite of weights_only",
    "tqdm<4.66.3": "CVE-2024-34062, runs what its command line says",
    "urllib3<2.5": "CVE-2025-50181, follows redirects that are switched off",
}


def findings(installed: Mapping[str, str]) -> list[str]:
    """A line on each bad version among packages by their canonical names.

    >>> findings({"torch": "2.5.1+cpu", "idna": "3.7"})
    ['torch 2.5.1+cpu: CVE-2025-32434, torch.load runs code in spite of weights_only']
    """
    found = []
    for words, why in BAD.items():
        bad = Requirement(words)
        version = installed.get(canonicalize_name(bad.name))
        if version is not None and bad.specifier.contains(version, prereleases=True):
            found.append(f"{bad.name} {version}: {why}")
    return found


def main() -> int:
    """Look at this environment; return 1 for a finding."""
    installed: dict[str, str] = {
        canonicalize_name(d.metadata["Name"]): d.version for d in distributions() if d.metadata["Name"]
    }
    lines = findings(installed)
    print("\n".join(lines) or f"none of {len(BAD)} known vulnerabilities in {len(installed)} packages")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
