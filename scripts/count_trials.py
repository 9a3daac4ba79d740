"""Run the tests that try to break deepsep, and print how often they did: cases, faults, kills, examples.

python scripts/count_trials.py           # what the test suite does, some minutes
python scripts/count_trials.py --long    # 50 kills of each program, 3000 examples of each property: about an hour
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent.parent / "tests"
FILES = {
    "hostile files": "test_hostile_audio.py",
    "hostile priors": "test_hostile_priors.py",
    "hostile checkpoints": "test_hostile_checkpoints.py",
    "hostile or failing Hub": "test_hub.py",
    "sounds and tags of extreme size": "test_extremes.py",
    "numbers out of range, words of any kind": "test_cli_ranges.py",
    "broken inputs": "test_cli_bad_input.py",
    "names, places and patterns": "test_paths.py",
    "boxes of stem files": "test_mp4.py",
    "closed streams, full disks, odd moments": "test_surroundings.py",
    "folders that another process holds": "test_claims.py",
    "files that appear whole": "test_staging.py",
    "the n-th call of each kind fails": "test_faults.py",
    "kill -9": "test_kills.py",
}
COLUMNS = ("cases", "examples", "faults", "kills", "failures")


class Trials:
    """A pytest plugin that counts what each file of tests tries."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {file: Counter() for file in FILES.values()}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a test that has run, and what it says of itself."""
        counts = self.counts[Path(report.location[0]).name]
        if report.when == "call" and not report.skipped:
            counts["cases"] += 1
            for name, number in report.user_properties:
                counts[name] += number
        counts["failures"] += report.failed

    def pytest_runtest_teardown(self, item: Any) -> None:
        """Count the examples that hypothesis made for a test."""
        said = getattr(item, "hypothesis_statistics", "")
        made = re.findall(r"(\d+) (?:passing|failing|invalid)", said)
        self.counts[item.path.name]["examples"] += sum(map(int, made))


def main() -> int:
    """Run the tests and print a table; return the number of failures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--long", action="store_true", help="many more kills and examples")
    if parser.parse_args().long:
        os.environ |= {"HYPOTHESIS_PROFILE": "long", "DEEPSEP_KILLS": "50"}
    trials = Trials()
    pytest.main(["-q", *(str(TESTS / file) for file in FILES.values())], plugins=[trials])
    print(f"| what | {' | '.join(COLUMNS)} |\n| --- |{' ---: |' * len(COLUMNS)}")
    total: Counter[str] = Counter()
    for what, file in FILES.items():
        counts = trials.counts[file]
        total += counts
        print(f"| {what} | {' | '.join(str(counts[c]) for c in COLUMNS)} |")
    print(f"| all | {' | '.join(str(total[c]) for c in COLUMNS)} |")
    return min(total["failures"], 1)


if __name__ == "__main__":
    sys.exit(main())
