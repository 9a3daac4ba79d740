"""Draws docs/demo.png: spectrograms of the demo song and of its stems as `deepsep separate` writes them.

Usage: python scripts/make_picture.py [--method encoder|sgld]      (needs matplotlib: pip install "deepsep[plot]")
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import soundfile
from matplotlib.axes import Axes

DOCS = Path(__file__).resolve().parents[1] / "docs"
SECONDS = 8


def draw(axis: Axes, samples: np.ndarray, rate: int, title: str) -> None:
    """One spectrogram, 40 Hz to 12 kHz, 70 dB deep."""
    mono = samples[: SECONDS * rate].mean(1)
    window = np.hanning(4096)
    frames = np.lib.stride_tricks.sliding_window_view(mono, 4096)[::512] * window
    level = 20 * np.log10(np.abs(np.fft.rfft(frames)).T + 1e-6)
    axis.pcolormesh(
        np.arange(level.shape[1]) * 512 / rate, np.fft.rfftfreq(4096, 1 / rate), level,
        vmin=-30, vmax=40, cmap="magma", shading="auto", rasterized=True,
    )  # fmt: skip
    axis.set(yscale="log", ylim=(40, 12000), title=title)
    axis.set_yticks([100, 1000, 10000], ["100 Hz", "1 kHz", "10 kHz"])
    axis.minorticks_off()


def main() -> None:
    """Separate the demo song with the command a user types, and draws it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", default="auto")
    method = parser.parse_args().method
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "deepsep", "separate", str(DOCS / "demo.ogg"), "-o", folder, "-q"]
        subprocess.run([*command, "--method", method], check=True)
        stems = {p.stem: soundfile.read(p, always_2d=True)[0] for p in Path(folder, "demo").glob("*.wav")}
    mixture, rate = soundfile.read(DOCS / "demo.ogg", always_2d=True)
    figure, axes = plt.subplots(1, 5, figsize=(15, 3.2), sharey=True, constrained_layout=True)
    draw(axes[0], mixture, rate, "mixture")
    for axis, name in zip(axes[1:], ("vocals", "drums", "bass", "other"), strict=True):
        draw(axis, stems[name], rate, name)
    for axis in axes:
        axis.set_xlabel("s")
    figure.savefig(DOCS / "demo.png", dpi=90)


if __name__ == "__main__":
    main()
