"""Print what Langevin could add to the encoder that starts it: how alike the errors of both are, song by song.

Usage: python scripts/pooling.py SONGS [--priors bundled] [--seconds 10]

For each source of songs with known stems: the SDR of the encoder, and of a chain that it starts and that is not pooled
with it; the correlation of their errors; the SDR of the best mean of both stems, with one weight for all songs, and
with the weight that suits each stem best, which only the true stem tells.
"""

import numpy as np
from coverage import asked_for  # the script beside this one

from deepsep import separate
from deepsep.evaluation.metrics import sdr

WEIGHTS = np.linspace(0, 1, 21)


def main() -> None:
    """Print the table."""
    model, clips, _ = asked_for(__doc__)
    rows: dict[str, list[np.ndarray]] = {}
    alike: dict[str, list[float]] = {}
    for clip in clips:
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
