"""Prints the figures of docs/benchmarks.md: speed, memory, start-up, repeatability.

Usage: python docs/benchmark.py [--long-minutes 60] [--skip-long]

Runs the installed `deepsep` as a user does, on music-like noise made here, and takes time and peak memory from the
operating system. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

RATE = 44100


def song(path: Path, seconds: float) -> Path:
    """Stereo test signal written in pieces: chords, a beat and noise; FLAC, 16 bit."""
    random = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE, 2, "PCM_16", format="FLAC") as file:
        for at in range(int(seconds)):
            t = at + np.arange(RATE) / RATE
            notes = [55, 220, 277.2, 329.6, 880 * (1 + 0.004 * np.sin(2 * np.pi * 5 * t))]
            tones = sum(np.sin(2 * np.pi * f * t) for f in notes) / 12
            beat = np.exp(-12 * (t * 2 % 1)) * random.standard_normal(RATE) / 4
            file.write(np.stack([tones + beat, tones - beat * 0.5], 1))
    return path


def run(*arguments: str) -> tuple[float, float]:
    """Seconds of wall time and MB of peak memory of one `deepsep` process."""
    command = [sys.executable, "-m", "deepsep", *arguments]
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    told = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed: {told}")
    return time.monotonic() - began, usage.ru_maxrss / 1024


def stems(folder: Path) -> np.ndarray:
    """The stems below a folder, by name."""
    return np.stack([soundfile.read(p, dtype="float32")[0] for p in sorted(folder.rglob("*.wav"))])


def main() -> None:
    """Measures and prints, a line a figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--long-minutes", type=float, default=60)
    parser.add_argument("--skip-long", action="store_true")
    args = parser.parse_args()
    print(
        f"{os.cpu_count()} CPU cores, Python {sys.version.split()[0]}, load {os.getloadavg()[0]:.1f} at the start"
    )
    help_time = min(run("--help")[0] for _ in range(5))
    print(f"deepsep --help: {help_time:.2f} s")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        minute = str(song(folder / "minute.flac", 60))
        for method in ("encoder", "sgld"):
            took, peak = run("separate", minute, "-o", str(folder / method), "--method", method)
            print(
                f"60 s of 44.1 kHz stereo, {method}: {took:.1f} s, {60 / took:.1f} times real time, "
                f"peak memory {peak:.0f} MB"
            )
        short = str(song(folder / "short.flac", 20))
        for method in ("encoder", "sgld"):
            outputs = []
            for name, options in (("a", []), ("b", []), ("c", ["--batch-size", "1"])):
                out = folder / f"{method}-{name}"
                run("separate", short, "-o", str(out), "--method", method, "--seed", "3", *options)
                outputs.append(stems(out))
            print(
                f"{method}: same seed twice differs by {np.abs(outputs[0] - outputs[1]).max():.1e}, "
                f"batch size 1 against 2 by {np.abs(outputs[0] - outputs[2]).max():.1e}"
            )
        if args.skip_long:
            return
        few = {"encoder": [], "sgld": ["--levels", "1", "--steps", "1"]}
        for method, options in few.items():
            peaks = []
            for minutes in (2, args.long_minutes):
                path = str(song(folder / "long.flac", minutes * 60))
                took, peak = run(
                    "separate", path, "-o", str(folder / "long"), "-f", "flac", "--bit-depth", "16",
                    "--method", method, "--overwrite", *options,
                )  # fmt: skip
                peaks.append(peak)
                print(
                    f"{minutes:g} minutes, {method} {' '.join(options)}: {took:.0f} s, peak memory {peak:.0f} MB"
                )
            print(f"{method}: memory grows by {100 * (peaks[1] / peaks[0] - 1):.1f} %")


if __name__ == "__main__":
    main()
