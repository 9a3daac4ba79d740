"""Print how many of the true gains of songs with known stems lie in the encoder's 50, 80 and 95 % intervals.

Usage: python scripts/coverage.py SONGS [--priors bundled] [--seconds 10]

The intervals are those of `deepsep separate --uncertainty --method encoder`: the estimate, and the standard deviation
of draws from the posterior, before and after the factor that training learnt for each source on simulated mixtures.
A band and frame counts where the mixture lies within 50 dB of its loudest.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from deepsep import load_priors
from deepsep.audio.loudness import Loudness
from deepsep.evaluation.songs import Clip, find_songs, read
from deepsep.inference.model import Model
from deepsep.spectral.calibration import LEVELS, best_gains, coverage, loud
from deepsep.spectral.encoder import UNet, gain_spread, mixture_features
from deepsep.spectral.spectrum import Spectrum, stereo_power

DRAWS = 16


def sums(one_cfn: Tensor, other_cfn: Tensor, spectrum: Spectrum) -> Tensor:
    """Sum over channels and each band's bins of Re(S M*), (d, n)."""
    product = (one_cfn * other_cfn.conj()).real.sum(0)
    return spectrum.band_power(product) * spectrum.count_d[:, None]


def asked_for(about: str | None) -> tuple[Model, Iterator[Clip]]:
    """The priors and the excerpts of songs that the command line names."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("songs", type=Path)
    parser.add_argument("--priors", default="bundled")
    parser.add_argument("--seconds", type=float, default=10)
    args = parser.parse_args()
    model = load_priors(args.priors, device="cpu")
    return model, (read(song, model.sources, args.seconds) for song in find_songs(args.songs))


@torch.no_grad()
def main() -> None:
    """Print the table."""
    model, clips = asked_for(__doc__)
    encoder = cast(UNet, model.encoder)
    found: dict[str, list[Tensor]] = {}
    for clip in clips:
        spectrum = Spectrum(model.domain.spectrum, clip.rate)
        loudness = Loudness()
        loudness.add(clip.mixture_ct)
        level = loudness.rms
        stems = {s: spectrum.analyse(torch.tensor(x / level)) for s, x in clip.references.items()}
        mixed = spectrum.analyse(torch.tensor(clip.mixture_ct / level))
        frames = mixed.shape[-1] // encoder.config.multiple * encoder.config.multiple
        mixed = mixed[..., :frames]
        planes = stereo_power(mixed, spectrum)[None]
        q = encoder(mixture_features(planes, spectrum))
        rng = torch.Generator().manual_seed(0)
        noise = [torch.randn(q.log_std.shape, generator=rng) for _ in range(DRAWS)]
        std = gain_spread(q, (planes[:, 0] + planes[:, 1]) / 2, spectrum, noise)
        total = sums(mixed, mixed, spectrum)[None]
        for k, source in enumerate(model.sources):
            if source in stems:
                truth = best_gains(sums(stems[source][..., :frames], mixed, spectrum)[None, None], total)
                gain = q.log_gain.exp()[:, k : k + 1]
                scale = encoder.spread[k] if encoder.spread else 1.0
                rows = [
                    coverage(gain, own, truth, loud(total))[0]
                    for own in (std[:, k : k + 1], std[:, k : k + 1] * scale)
                ]
                found.setdefault(source, []).append(torch.cat(rows))
    print(
        "| source | songs | "
        + " | ".join(f"{level:.0%} {when}" for when in ("as drawn", "scaled") for level in LEVELS)
        + " |"
    )
    print("| --- | --- |" + " --- |" * (2 * len(LEVELS)))
    for source, rows_of in found.items():
        shares = torch.stack(rows_of).mean(0)
        print(f"| {source} | {len(rows_of)} | " + " | ".join(f"{share:.0%}" for share in shares) + " |")


if __name__ == "__main__":
    main()
