"""One command makes all weights of the wheel, and goes on where it was stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import deepsep

RETRAIN = Path(__file__).parents[1] / "scripts" / "retrain.py"
SOURCES = ("vocals", "drums", "bass", "other")


@pytest.mark.slow
@pytest.mark.skipif("DEEPSEP_RETRAIN" not in os.environ, reason="trains six whole networks for a step: 90 s")
def test_all_weights_are_made_by_one_command_that_goes_on(tmp_path):
    random = np.random.default_rng(0)
    out = tmp_path / "out"
    for name in (*SOURCES, "drums+bass+other"):
        for place in (out / "data" / name / "here", out / "songs" / "one"):
            place.mkdir(parents=True, exist_ok=True)
            file = place / ("a.flac" if place.name == "here" else f"{name}.flac")
            if "+" not in name or place.name == "here":
                soundfile.write(file, random.normal(0, 0.1, (5 * 44100, 2)), 44100)
    (out / "retrain-data.done").touch()  # collect.py needs its corpus
    program = [sys.executable, RETRAIN, tmp_path, out, "--steps", "1", "--widths", "2,2,2,2"]

    broken = out / "data" / "other" / "here"
    broken.rename(out / "away")
    first = subprocess.run(program, capture_output=True, text=True, timeout=900)
    assert first.returncode != 0
    assert (out / "retrain-prior-bass.done").exists() and not (out / "retrain-prior-other.done").exists()
    (out / "away").rename(broken)

    second = subprocess.run(program, capture_output=True, text=True, timeout=900)
    assert second.returncode == 0, second.stderr[-2000:]
    assert second.stdout.count("train-prior") == 1
    config = json.loads((out / "bundled" / "config.json").read_text())
    assert config["encoder"]["logits"] == 0.85 and config["priors"]["other"]["licence"] == "CC-BY-SA-4.0"
    assert list(deepsep.load_priors(out / "bundled").sources) == list(SOURCES)
    assert "cc-by-sa-4.0" in (out / "bundled" / "README.md").read_text()
    assert json.loads((out / "results.json").read_text())
    listed = (out / "training_recordings.txt").read_text()
    assert listed.count("\n") == 5 and "drums+bass+other/here/a.flac" in listed

    third = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert (third.returncode, third.stdout) == (0, "")
