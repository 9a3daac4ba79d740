"""Average the weights of two priors folders: what each file has in common is the mean of both, weighted.

Usage: python scripts/average.py A B OUT [--share 0.5] [--files encoder.safetensors]

OUT becomes a copy of A whose named weights are `share` of A's and the rest of B's. Both must be of one training, or one
on from the other: the mean of networks that started apart is no network. Figures of the copy are A's; measure anew.
"""

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor

from deepsep.models import folder as folders


def mean(one: dict[str, Tensor], other: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """share * one + (1 - share) * other; counters are those of `one`."""
    return {
        name: (share * a.double() + (1 - share) * other[name].double()).to(a.dtype)
        if a.is_floating_point()
        else a
        for name, a in one.items()
    }


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("a", "b", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of A's weights")
    parser.add_argument("--files", nargs="+", default=["encoder.safetensors"])
    args = parser.parse_args()
    part = args.out.with_name(f"{args.out.name}.part")
    if args.out.exists():
        parser.error(f"{args.out} exists; name another folder")
    for path in [folder / name for name in args.files for folder in (args.a, args.b)]:
        if not path.is_file():
            parser.error(f"there is no {path}")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(args.a, part, ignore=shutil.ignore_patterns("training"))
    for name in args.files:
        weights = mean(load_file(args.a / name), load_file(args.b / name), args.share)
        folders.store(part, name, save(weights), folders.read_config(part))
    part.rename(args.out)


if __name__ == "__main__":
    main()
