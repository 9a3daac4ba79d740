"""Separate one very long file, and very many short ones in one call; print time, memory and open files.

    python scripts/long_run.py                          # 3 hours, then 2000 files of a second
    python scripts/long_run.py --hours 0.1 --files 100  # a look at it
    python scripts/long_run.py --method sgld            # at its smallest settings

Run it on a quiet core, with OMP_NUM_THREADS=1. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile as sf

RATE = 44100
SMALLEST = ["--levels", "1", "--steps", "1"]


def song(path: Path, seconds: float) -> Path:
    """A flac of noise whose bands and channels differ."""
    random = np.random.default_rng(0)
    with sf.SoundFile(path, "w", RATE, 2, "PCM_16") as file:
        for _ in range(max(1, round(seconds))):
            white = random.normal(size=(RATE, 2))
            file.write(0.05 * (white + np.cumsum(white - white.mean(0), 0) / 20))
    return path


def watch(words: list[str]) -> tuple[float, list[tuple[float, int]]]:
    """Run deepsep; return its seconds, and (resident MB, open files) as seen twice a second."""
    began, seen = time.monotonic(), []
    with subprocess.Popen([sys.executable, "-m", "deepsep", *words]) as process:
        place = Path("/proc") / str(process.pid)
        while process.poll() is None:
            try:
                pages = int((place / "statm").read_text().split()[1])
                seen.append((pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(os.listdir(place / "fd"))))
            except (OSError, IndexError):
                break  # it is ending
            time.sleep(0.5)
    if process.returncode:
        sys.exit(f"deepsep {' '.join(words)}: exit code {process.returncode}")
    return time.monotonic() - began, seen


def error_of(mix: Path, stems: list[Path]) -> float:
    """By how much the stems miss the mix at most, over the whole length."""
    worst = 0.0
    files = [sf.SoundFile(path) for path in (mix, *stems)]
    if len({file.frames for file in files}) > 1:
        sys.exit(f"{mix}: stems of another length")
    while len(block := files[0].read(1 << 18)):
        worst = max(worst, float(np.abs(sum(file.read(len(block)) for file in files[1:]) - block).max()))
    return worst


def main() -> None:
    """Run both and print what was seen."""
    parser = argparse.ArgumentParser(description="One very long file, and very many short ones in one call.")
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--method", choices=["encoder", "sgld"], default="encoder")
    args = parser.parse_args()
    method = ["--method", args.method, *(SMALLEST if args.method == "sgld" else [])]
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top)
        mix = song(folder / "long.flac", args.hours * 3600)
        formats = ["-f", "flac", "--bit-depth", "16"]
        took, seen = watch(["separate", str(mix), "-o", str(folder / "long"), "-q", *formats, *method])
        worst = error_of(mix, sorted((folder / "long" / "long").glob("*.flac")))
        print(
            f"{args.method}, {args.hours:g} h: {took / 60:.1f} min, at most {max(mb for mb, _ in seen):.0f} MB; "
            f"the stems miss the mix by {worst:.1e}"
        )
        short, many = song(folder / "short.flac", 1), folder / "many"
        many.mkdir()
        for number in range(args.files):
            os.link(short, many / f"{number}.flac")
        took, seen = watch(
            ["separate", str(many), "-o", str(folder / "out"), "-q", "--stems", "vocals", *method]
        )
        done = len(list((folder / "out").glob("*/vocals.wav")))
        quarter = max(1, len(seen) // 4)
        early, late = seen[quarter : 2 * quarter] or seen, seen[-quarter:]
        memory = [statistics.median(mb for mb, _ in part) for part in (early, late)]
        files = [max(count for _, count in part) for part in (early, late)]
        print(
            f"{args.method}, {done} of {args.files} files: {took / 60:.1f} min; second quarter and last: "
            f"{memory[0]:.0f} and {memory[1]:.0f} MB, {files[0]} and {files[1]} open files"
        )


if __name__ == "__main__":
    main()
