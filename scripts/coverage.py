"""Print how many of the true gains of songs with known stems lie in the encoder's 50, 80 and 95 % intervals.

Usage: python scripts/coverage.py SONGS [--priors bundled] [--seconds 10] [--picture FILE.svg]

The intervals are those of `deepsep separate --uncertainty --method encoder` for excerpts of up to half a minute: the
estimate, and the standard deviation of draws from the posterior, before and after the factor that training learnt for
each source on simulated mixtures. A band and frame counts where the mixture lies within 50 dB of its loudest. The
picture draws the share of the truths that intervals of every level hold (needs matplotlib: "deepsep[plot]").
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
from deepsep.inference.chunks import ALIGN, windows
from deepsep.inference.model import Model
from deepsep.spectral.calibration import LEVELS, best_gains, coverage, loud
from deepsep.spectral.domain import END_CONTEXT
from deepsep.spectral.encoder import BandPosterior, UNet, gain_spread, inner, mixture_features
from deepsep.spectral.spectrum import Spectrum, stereo_power

DRAWS = 16
DRAWN = [
    share / 100 for share in range(5, 100, 5)
]  # levels of the picture; those of the table are among them


def sums(one_cfn: Tensor, other_cfn: Tensor, spectrum: Spectrum) -> Tensor:
    """Sum over channels and each band's bins of Re(S M*), (d, n)."""
    product = (one_cfn * other_cfn.conj()).real.sum(0)
    return spectrum.band_power(product) * spectrum.count_d[:, None]


def asked_for(
    about: str | None, *, picture: bool = False
) -> tuple[Model, Iterator[Clip], argparse.Namespace]:
    """The priors and the excerpts of songs that the command line names, and all that it says."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("songs", type=Path)
    parser.add_argument("--priors", default="bundled")
    parser.add_argument("--seconds", type=float, default=10)
    if picture:
        parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    model = load_priors(args.priors, device="cpu")
    return model, (read(song, model.sources, args.seconds) for song in find_songs(args.songs)), args


def posterior(encoder: UNet, mixed_cfn: Tensor, spectrum: Spectrum) -> BandPosterior:
    """q of an excerpt as a separation has it, a mirror image at both ends; its frames are the excerpt's."""
    frames, context = mixed_cfn.shape[-1], min(encoder.config.context, END_CONTEXT)
    (window,) = windows([mixed_cfn], -(-frames // ALIGN) * ALIGN, context)
    q = encoder(mixture_features(stereo_power(window.frames_cfn, spectrum)[None], spectrum), context)
    return BandPosterior(*(inner(plane, context)[..., :frames] for plane in q))


def draw(path: Path, shares: dict[str, Tensor]) -> None:
    """The picture: for each source the share of the truths held, over the level, as drawn and scaled."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    for axis, half, title in zip(
        figure.subplots(1, 2, sharey=True), (0, 1), ("as drawn", "scaled"), strict=True
    ):
        axis.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="as stated")
        for source, held in shares.items():
            axis.plot(DRAWN, held[half].numpy(), label=source)
        axis.set(title=title, xlabel="level of the interval", xlim=(0, 1), ylim=(0, 1))
    figure.axes[0].set_ylabel("share of the true gains in it")
    figure.axes[1].legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


@torch.no_grad()
def main() -> None:
    """Print the table."""
    model, clips, args = asked_for(__doc__, picture=True)
    encoder = cast(UNet, model.encoder)
    found: dict[str, list[Tensor]] = {}
    for clip in clips:
        spectrum = Spectrum(model.domain.spectrum, clip.rate)
        loudness = Loudness()
        loudness.add(clip.mixture_ct)
        level = loudness.rms
        stems = {s: spectrum.analyse(torch.tensor(x / level)) for s, x in clip.references.items()}
        mixed = spectrum.analyse(torch.tensor(clip.mixture_ct / level))
        planes = stereo_power(mixed, spectrum)[None]
        q = posterior(encoder, mixed, spectrum)
        rng = torch.Generator().manual_seed(0)
        noise = [torch.randn(q.log_std.shape, generator=rng) for _ in range(DRAWS)]
        std = gain_spread(q, (planes[:, 0] + planes[:, 1]) / 2, spectrum, noise)
        total = sums(mixed, mixed, spectrum)[None]
        for k, source in enumerate(model.sources):
            if source in stems:
                truth = best_gains(sums(stems[source], mixed, spectrum)[None, None], total)
                gain = q.log_gain.exp()[:, k : k + 1]
                scale = encoder.spread[k] if encoder.spread else 1.0
                rows = [
                    coverage(gain, own, truth, loud(total), DRAWN)[0]
                    for own in (std[:, k : k + 1], std[:, k : k + 1] * scale)
                ]
                found.setdefault(source, []).append(torch.stack(rows))
    print(
        "| source | songs | "
        + " | ".join(f"{level:.0%} {when}" for when in ("as drawn", "scaled") for level in LEVELS)
        + " |"
    )
    print("| --- | --- |" + " --- |" * (2 * len(LEVELS)))
    means = {source: torch.stack(rows_of).mean(0) for source, rows_of in found.items()}
    for source, held in means.items():
        shares = held[:, [DRAWN.index(level) for level in LEVELS]].flatten()
        print(f"| {source} | {len(found[source])} | " + " | ".join(f"{share:.0%}" for share in shares) + " |")
    if args.picture:
        draw(args.picture, means)


if __name__ == "__main__":
    main()
