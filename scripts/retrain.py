"""Make everything that the wheel carries, from an empty folder: data, priors, contrast, encoder, figures, card, lists.

Usage: python scripts/retrain.py CORPUS OUT [--prior-minutes 120] [--contrast-minutes 60] [--encoder-minutes 1440]

CORPUS is as in collect.py. What is written into OUT: collect.py's folders, `priors/` (each instrument alone),
`bundled/` (the priors after contrast, the encoder, the model card), `results.json` (figures on OUT/songs),
`training_recordings.txt` and `development_recordings.txt`. Stop it at any time, with Ctrl-C too, and run it again: it
goes on where it stopped, trainings from their last checkpoint. --steps and --frames make a short trial of it all.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from deepsep.models import folder as folders
from deepsep.models.card import write_card

HERE = Path(__file__).resolve().parent
SOURCES = ("vocals", "drums", "bass", "other")
SOFTER = 0.85  # of the logits: trained on simulated mixtures, it is too sure of songs (docs/experiments.md)


def run(*command: object, into: Path | None = None) -> None:
    """Run a Python program; what it prints goes to a file, if one is named, once it has ended well."""
    words = [sys.executable, *map(str, command)]
    print("$", " ".join(words[1:]), flush=True)
    if into is None:
        subprocess.run(words, check=True)
    else:
        into.write_bytes(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)


def train(command: str, checkpoint: Path, *words: object) -> None:
    """Run a training command of deepsep, from its checkpoint where it has one."""
    run("-m", "deepsep", command, *words, *(["--resume"] if checkpoint.exists() else []))


def origins(data: Path, name: str) -> list[Path]:
    """A source's or a set's recordings, a folder for each origin."""
    return sorted(path for path in (data / name).iterdir() if path.is_dir())


def by_name(data: Path) -> list[str]:
    """NAME=DIR of all recordings, as the command line takes them."""
    return [f"{top.name}={path}" for top in sorted(data.iterdir()) for path in origins(data, top.name)]


def soften(folder: Path, factor: float) -> None:
    """Scale the logits of a folder's encoder, unless that was done."""
    config = folders.read_config(folder)
    about: dict[str, Any] = config["encoder"]
    if about.get("logits") == factor:
        return
    model = folders.load(folder)
    assert model.encoder is not None
    stems = len(model.sources)
    weights = load_file(folder / "encoder.safetensors")
    for name, rows in (("last.weight", (slice(None), slice(stems))), ("last.bias", (slice(stems),))):
        weights[name][rows] *= factor
    model.encoder.load_state_dict(weights)
    about["logits"] = factor
    folders.store(folder, "encoder.safetensors", folders.pack(model.encoder, half=model.domain.half), config)


def main() -> None:
    """Take the steps that have not been taken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data-minutes", type=float, default=160, help="of rendered MIDI for each source")
    parser.add_argument("--prior-minutes", type=float, default=120, help="for each of the four")
    parser.add_argument("--contrast-minutes", type=float, default=60)
    parser.add_argument("--encoder-minutes", type=float, default=1440)
    parser.add_argument("--widths", default="32,64,128,256", help="of the encoder")
    parser.add_argument("--licence", default="CC-BY-SA-4.0")
    parser.add_argument("--steps", type=int, default=10**9, help="at most, of each training")
    args = parser.parse_args()
    out: Path = args.out
    data, priors, bundled, songs = out / "data", out / "priors", out / "bundled", out / "songs"
    common = ["--steps", args.steps]

    def prior(source: str) -> None:
        train(
            "train-prior", priors / "training" / f"{source}.safetensors", "--source", source, *origins(data, source),
            "-o", priors, "--frames", 128, "--minutes", args.prior_minutes, *common,
        )  # fmt: skip

    def contrast() -> None:
        solos = [item for item in by_name(data) if "+" not in item.partition("=")[0]]
        train(
            "contrast-priors", bundled / "training" / "contrast.safetensors", *solos, "--priors", priors,
            "-o", bundled, "--batch", 8, "--minutes", args.contrast_minutes, *common,
        )  # fmt: skip

    def encoder() -> None:
        train(
            "train-encoder", bundled / "training" / "encoder.safetensors", *by_name(data), "--priors", bundled,
            "--objective", "simulated", "--widths", args.widths, "--frames", 512, "--batch", 4, "--lr", "1e-3",
            "--minutes", args.encoder_minutes, *common,
        )  # fmt: skip
        soften(bundled, SOFTER)

    def card() -> None:
        folders.set_licence(bundled, args.licence)
        write_card(bundled, folders.read_config(bundled), "bundled")

    def figures() -> None:
        run(
            "-m", "deepsep", "evaluate", songs, "--priors", bundled, "--seconds", 10, "--json",
            "--methods", "mixture,stationary,sgld,encoder,encoder+sgld,oracle", into=out / "results.json",
        )  # fmt: skip

    def lists() -> None:
        tops = [f"{top.name}={top}" for top in sorted(data.iterdir())]
        run(HERE / "list_recordings.py", *tops, into=out / "training_recordings.txt")
        run(HERE / "list_recordings.py", f"songs={songs}", into=out / "development_recordings.txt")

    steps: dict[str, Callable[[], None]] = {
        "data": lambda: run(HERE / "collect.py", args.corpus, out, "--minutes", args.data_minutes),
        **{f"prior-{source}": partial(prior, source) for source in SOURCES},
        "contrast": contrast,
        "encoder": encoder,
        "card": card,
        "figures": figures,
        "lists": lists,
    }
    for name, take in steps.items():
        mark = out / f"retrain-{name}.done"
        if not mark.exists():
            take()
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_text(json.dumps(vars(args), default=str) + "\n")


if __name__ == "__main__":
    main()
