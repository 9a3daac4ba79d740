"""For tests that separate from the command line: short recordings, and the program as its own process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile as sf

FOUR = ("vocals", "drums", "bass", "other")
RATE = 16000
ROUNDING = 1e-4  # of full scale; what the same seed may differ by


def examples(number):
    """How many examples a property is tried on that deserves another number than the usual; in a long run, as all."""
    return 3000 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else number


def noise(seconds=0.5, channels=2, rate=RATE, seed=0, level=0.1):
    """A recording (t, c) whose bands differ, so that no estimate is trivial."""
    rng = np.random.default_rng(seed)
    white = rng.normal(size=(max(1, round(seconds * rate)), channels))
    return (level * (white + np.cumsum(white, 0) / 20)).astype(np.float32)


def record(path: Path, samples=None, rate=RATE, **formats) -> Path:
    """Writes a file, whatever its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"format": path.suffix[1:].upper() or "WAV", **formats}
    if kind["format"] == "WAV":
        kind.setdefault("subtype", "FLOAT")
    with path.open("wb") as file:
        sf.write(file, noise() if samples is None else samples, rate, **kind)
    return path


def read(path: Path):
    """Samples (t, c) as written."""
    return sf.read(path, dtype="float32", always_2d=True)[0]


def tree(folder: Path) -> list[str]:
    """Every file and empty folder below."""
    found = [p for p in folder.rglob("*") if p.is_file() or not any(p.iterdir())]
    return sorted(str(p.relative_to(folder)) for p in found)


def program(*words, cwd=None, **options):
    """`deepsep ...` as a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "deepsep", *map(str, words)]
    return subprocess.Popen(command, cwd=cwd, env=environment, **options)
