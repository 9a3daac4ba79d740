"""Print whose recordings these are, and under which licences: the table for a model card.

Usage: python scripts/credit.py LIST, where LIST is what list_recordings.py printed of the training data

docs/recording_licences.tsv knows the licence and the author of each recording, or of a folder of them (NAME/ORIGIN/).
"""

import csv
import sys
from collections.abc import Iterable
from pathlib import Path

from list_recordings import read_list

LICENCES = Path(__file__).resolve().parent.parent / "docs" / "recording_licences.tsv"


def credits_of(recordings: Iterable[str], licences: Path = LICENCES) -> str:
    """The table for recordings NAME/ORIGIN/FILE. SystemExit for one whose licence is not known."""
    with open(licences, encoding="utf-8", newline="") as table:
        known = {row["recording"]: row for row in csv.DictReader(table, delimiter="\t")}
    used: dict[tuple[str, str, str], set[str]] = {}
    for recording in recordings:
        source, _, within = recording.partition("/")
        row = known.get(recording) or known.get(f"{source}/{within.partition('/')[0]}/")
        if row is None:
            raise SystemExit(f"error: {licences} has no licence of {recording}; add it, or leave it out")
        used.setdefault((row["from"], row["author"], row["licence"]), set()).add(source)
    lines = ["| recordings | by | licence | as |", "| --- | --- | --- | --- |"]
    return "\n".join(
        lines + [f"| {' | '.join(key)} | {', '.join(sorted(names))} |" for key, names in sorted(used.items())]
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    print(credits_of(read_list(Path(sys.argv[1]))))
