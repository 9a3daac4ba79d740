"""Make everything that the wheel carries, from an empty folder: data, priors, contrast, encoder, figures, card, lists.

Usage: python scripts/retrain.py CORPUS OUT [--prior-minutes 120] [--contrast-minutes 60] [--encoder-minutes 1440]

CORPUS is as in collect.py. Written into OUT are collect.py's folders, and

    priors/                          each instrument alone
    bundled/                         the priors after contrast, the encoder, the model card
    results.json, excerpts.json      figures on OUT/songs and OUT/excerpts
    coverage.txt, pooling.txt        how sure the encoder is, and what Langevin adds to it
    training_recordings.txt, development_recordings.txt

Stop it at any time, with Ctrl-C too, and run it again: it goes on where it stopped, trainings from their last
checkpoint. To train longer, remove OUT/retrain-encoder.done and the marks of later steps, and say how long.
--trial makes everything small, to see that it works on this machine; recordings that are in OUT/data already will do.

The weights in the wheel were not made in one go: they came of many such trainings, each on from one before, and of
means of weights (average.py); docs/experiments.md has the list. This is what all of that came down to, in one run.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from credit import credits_of
from list_recordings import read_list
from safetensors.torch import load_file
from stages import alone

from deepsep import Listener
from deepsep.config import EncoderTraining
from deepsep.inference.domain import TaskRun
from deepsep.models import folder as folders
from deepsep.models.card import write_card

HERE = Path(__file__).resolve().parent
SOURCES = ("vocals", "drums", "bass", "other")
METHODS = "mixture,stationary,nmf,sgld,encoder,encoder+sgld,oracle,oracle-full"
STATED = ("stationary", "sgld", "encoder", "encoder+sgld")  # in the card
SOFTER = 0.85  # of the logits: trained on simulated mixtures, it is too sure of songs (docs/experiments.md)
BATCH = 4  # mixtures of a step of the encoder


def run(*command: object, into: Path | None = None) -> None:
    """Run a Python program; what it prints goes to a file, if one is named, once it has ended well.

    When this program is stopped, that one is told to stop, and given the time to save.
    """
    words = [sys.executable, *map(str, command)]
    print("$", " ".join(words[1:]), flush=True)
    child = subprocess.Popen(
        words,
        stdout=subprocess.PIPE if into else None,
        start_new_session=True,  # the terminal's Ctrl-C would reach it twice
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    try:
        printed, _ = child.communicate()
    except KeyboardInterrupt:
        child.send_signal(signal.SIGINT)
        child.communicate()
        raise
    if child.returncode:
        name = next(word for word in words[1:] if word not in ("-m", "deepsep"))
        raise SystemExit(
            f"error: {Path(name).name} ended with {child.returncode}; this goes on there once it can"
        )
    if into:
        folders.write(into.parent, {into.name: printed})


def train(command: str, checkpoint: Path, *words: object) -> None:
    """Run a training command of deepsep, from its checkpoint where it has one."""
    run("-m", "deepsep", command, *words, *(["--resume"] if checkpoint.exists() else []))


def origins(data: Path, name: str) -> list[Path]:
    """A source's or a set's recordings, a folder for each origin."""
    return sorted(path for path in (data / name).iterdir() if path.is_dir())


def by_name(data: Path) -> dict[str, list[Path]]:
    """All recordings: source or set -> a folder for each origin."""
    return {top.name: origins(data, top.name) for top in sorted(data.iterdir()) if top.is_dir()}


def as_words(recordings: Mapping[str, list[Path]]) -> list[str]:
    """NAME=DIR of recordings, as the command line takes them."""
    return [f"{name}={path}" for name, paths in recordings.items() for path in paths]


def soften(folder: Path, factor: float) -> None:
    """Scale the logits of a folder's encoder to so many times what training made of them."""
    config = folders.read_config(folder)
    about: dict[str, Any] = config["encoder"]
    model = folders.load(folder)
    assert model.encoder is not None
    stems = len(model.sources)
    weights = load_file(folder / "encoder.safetensors")
    for name, rows in (("last.weight", (slice(None), slice(stems))), ("last.bias", (slice(stems),))):
        weights[name][rows] *= factor / about.get("logits", 1.0)
    model.encoder.load_state_dict(weights)
    about["logits"] = factor
    folders.store(folder, "encoder.safetensors", folders.pack(model.encoder, half=model.domain.half), config)


def calibrate(folder: Path, data: Path, frames: int) -> None:
    """Learn the factors of the encoder's spread as it is now, on the mixtures that its training was judged by."""
    config, model = folders.read_config(folder), folders.load(folder)
    assert model.encoder is not None
    training = EncoderTraining(frames=frames, batch=BATCH, objective="simulated", workers=0)
    about_run = TaskRun(folder / "training" / "cache", torch.Generator().manual_seed(0), Listener())
    task = model.domain.encoder_task(model, by_name(data), training, about_run)
    assert task.calibrate is not None
    scale = task.calibrate(model.encoder)
    config["encoder"]["spread"] = {s: round(v, 4) for s, v in zip(model.sources, scale, strict=True)}
    folders.write(folder, {"config.json": folders.as_text(config)})


def figures_of(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What the card states of an evaluation: for each method the mean SDR of each source over its songs, and of all."""
    songs = len(results["songs"])
    return {
        f"SDR in dB, {songs} development songs, {method}": {
            source: round(mean, 2)
            for source, mean in results["mean"][method]["sdr"].items()
            if mean is not None
        }
        for method in STATED
    }


def main() -> None:
    """Take the steps that have not been taken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data-minutes", type=float, default=160.0, help="of rendered MIDI for each source")
    parser.add_argument("--prior-minutes", type=float, default=120.0, help="for each of the four")
    parser.add_argument("--contrast-minutes", type=float, default=60.0)
    parser.add_argument("--encoder-minutes", type=float, default=1440.0)
    parser.add_argument("--licence", default="CC-BY-SA-4.0")
    parser.add_argument("--trial", action="store_true", help="a step of each training, of tiny networks")
    args = parser.parse_args()
    out: Path = args.out
    data, priors, bundled, songs = out / "data", out / "priors", out / "bundled", out / "songs"
    once = ["--steps", 1] if args.trial else []
    flow = ["--flow-steps", 2, "--hidden", 4, "--layers", 1] if args.trial else []
    widths, frames = ("2,2,2,2", 32) if args.trial else ("32,64,128,256", 512)

    def lay_out() -> None:
        if not (args.trial and data.is_dir()):
            minutes = 1 if args.trial else args.data_minutes
            run(HERE / "collect.py", args.corpus, out, "--minutes", minutes)

    def lists() -> None:
        tops = [f"{name}={data / name}" for name in by_name(data)]
        run(HERE / "list_recordings.py", *tops, into=out / "training_recordings.txt")
        tops = [f"{name}={out / name}" for name in ("songs", "held_out") if (out / name).exists()]
        run(HERE / "list_recordings.py", *tops, into=out / "development_recordings.txt")
        credits_of(read_list(out / "training_recordings.txt"))  # now, and not after all training

    def prior(source: str) -> None:
        train(
            "train-prior", priors / "training" / f"{source}.safetensors", "--source", source, *origins(data, source),
            "-o", priors, "--frames", 128, "--minutes", args.prior_minutes, *flow, *once,
        )  # fmt: skip

    def contrast() -> None:
        solos = {name: paths for name, paths in by_name(data).items() if name in SOURCES}
        train(
            "contrast-priors", bundled / "training" / "contrast.safetensors", *as_words(solos), "--priors", priors,
            "-o", bundled, "--batch", 8, "--lr", "6e-5", "--minutes", args.contrast_minutes, *once,
        )  # fmt: skip

    def encoder() -> None:
        train(
            "train-encoder", bundled / "training" / "encoder.safetensors", *as_words(by_name(data)),
            "--priors", bundled, "--objective", "simulated", "--widths", widths, "--frames", frames,
            "--batch", BATCH, "--lr", "1e-3", "--minutes", args.encoder_minutes, *once,
        )  # fmt: skip
        soften(bundled, SOFTER)
        calibrate(bundled, data, frames)

    def figures() -> None:
        evaluate = ["-m", "deepsep", "evaluate", "--priors", bundled, "--json"]
        solos = [word for source in SOURCES for word in ("--nmf-data", f"{source}={data / source}")]
        run(*evaluate, songs, "--seconds", 10, "--methods", METHODS, *solos, into=out / "results.json")
        if (excerpts := out / "excerpts").exists():
            methods = "sgld,encoder,encoder+sgld"
            run(*evaluate, excerpts, "--seconds", 20, "--methods", methods, into=out / "excerpts.json")
        for name in ("coverage", "pooling"):
            run(HERE / f"{name}.py", songs, "--priors", bundled, into=out / f"{name}.txt")

    def card() -> None:
        folders.set_licence(bundled, args.licence)
        config = folders.read_config(bundled)
        config["figures"] = figures_of(json.loads((out / "results.json").read_text()))
        folders.write(bundled, {"config.json": folders.as_text(config)})
        credited = credits_of(read_list(out / "training_recordings.txt"))
        top = f"# Recordings that these weights learnt from\n\n{credited}\n"
        (bundled / "README.md").write_text(top, encoding="utf-8")
        write_card(bundled, config, "bundled")

    steps: dict[str, tuple[Callable[[], None], float | None]] = {
        "data": (lay_out, args.data_minutes),
        "lists": (lists, None),
        **{f"prior-{source}": (partial(prior, source), args.prior_minutes) for source in SOURCES},
        "contrast": (contrast, args.contrast_minutes),
        "encoder": (encoder, args.encoder_minutes),
        "figures": (figures, None),
        "card": (card, None),
    }
    with alone(out, "retrain"):
        for name, (take, minutes) in steps.items():
            mark = out / f"retrain-{name}.done"
            if not mark.exists():
                take()
                folders.write(out, {mark.name: f"{minutes}\n".encode()})
            elif (done := mark.read_text().strip()) != str(minutes):
                print(f"{name} is done, of {done} minutes and not {minutes}: left as it is", flush=True)


if __name__ == "__main__":
    main()
