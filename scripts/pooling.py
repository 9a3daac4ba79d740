"""Print what Langevin could add to the encoder that starts it: how alike the errors of both are, song by song.

Usage: python scripts/pooling.py SONGS [--priors bundled] [--seconds 10]

For each source of songs with known stems: the SDR of the encoder, and of a chain that it starts and that is not pooled
with it; the correlation of their errors; the SDR of the best mean of both stems, with one weight for all songs, and
with the weight that suits each stem best, which only the true stem tells.
"""

import argparse
from pathlib import Path

import numpy as np

from deepsep import load_priors, separate
from deepsep.evaluation.metrics import sdr
from deepsep.evaluation.songs import find_songs, read

WEIGHTS = np.linspace(0, 1, 21)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("songs", type=Path)
    parser.add_argument("--priors", default="bundled")
    parser.add_argument("--seconds", type=float, default=10)
    args = parser.parse_args()
    model = load_priors(args.priors, device="cpu")
    rows: dict[str, list[np.ndarray]] = {}
    alike: dict[str, list[float]] = {}
    for song in find_songs(args.songs):
        clip = read(song, model.sources, args.seconds)
        by_encoder = separate(clip.mixture_ct, clip.rate, priors=model, method="encoder")
        by_chain = separate(clip.mixture_ct, clip.rate, priors=model, method="sgld", sgld={"pool": 1.0})
        for source, truth in clip.references.items():
            one, other = by_encoder[source], by_chain[source]
            rows.setdefault(source, []).append(
                np.array([sdr(truth, (1 - w) * one + w * other) for w in WEIGHTS])
            )
            errors = np.stack([(one - truth).ravel(), (other - truth).ravel()])
            alike.setdefault(source, []).append(float(np.corrcoef(errors)[0, 1]))
    print("| source | encoder | chain | correlation of errors | one weight | a weight for each stem |")
    print("| --- | --- | --- | --- | --- | --- |")
    for source, found in rows.items():
        table = np.stack(found)
        mean = table.mean(0)
        best = int(mean.argmax())
        print(
            f"| {source} | {mean[0]:.2f} | {mean[-1]:.2f} | {np.mean(alike[source]):.2f} | "
            f"{mean[best]:.2f} ({WEIGHTS[best]:.0%}) | {table.max(1).mean():.2f} |"
        )


if __name__ == "__main__":
    main()
