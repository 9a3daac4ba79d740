"""One command makes all weights of the wheel, and goes on where it was stopped."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.torch import load_file

import deepsep

SCRIPTS = Path(__file__).parents[1] / "scripts"
SOURCES = ("vocals", "drums", "bass", "other")
SET = "drums+bass+other"


def lay_out(out):
    """A second of noise for each source, as origins whose licences are known, and one song."""
    random = np.random.default_rng(0)
    for name, origin in (*((s, "eif") for s in SOURCES), (SET, "widelands")):
        (out / "data" / name / origin).mkdir(parents=True)
        soundfile.write(out / "data" / name / origin / "a.flac", random.normal(0, 0.1, (3 * 44100, 2)), 44100)
    for name in ("songs", "excerpts"):
        (out / name / "one").mkdir(parents=True)
        for source in SOURCES if name == "songs" else ("vocals", SET):
            soundfile.write(
                out / name / "one" / f"{source}.flac", random.normal(0, 0.1, (2 * 44100, 2)), 44100
            )


@pytest.mark.slow
def test_all_weights_are_made_by_one_command_that_goes_on(tmp_path):
    out = tmp_path / "out"
    lay_out(out)
    program = [sys.executable, SCRIPTS / "retrain.py", tmp_path, out, "--trial"]
    settings = {"corpus": str(tmp_path), "out": str(out), "trial": "True"}
    settings |= {"data_minutes": "160.0", "prior_minutes": "120.0", "contrast_minutes": "60.0"}
    settings |= {"encoder_minutes": "1440.0", "licence": "CC-BY-SA-4.0"}
    (out / "retrain-data.done").write_text(json.dumps(settings))  # collect.py needs its corpus

    broken = out / "data" / "other" / "eif"
    broken.rename(out / "away")
    first = subprocess.run(program, capture_output=True, text=True, timeout=900)
    assert first.returncode == 1
    assert "run this again" in first.stderr and "Traceback" not in first.stderr
    assert (out / "retrain-prior-bass.done").exists() and not (out / "retrain-prior-other.done").exists()
    (out / "away").rename(broken)

    second = subprocess.run(program, capture_output=True, text=True, timeout=900)
    assert second.returncode == 0, second.stderr[-2000:]
    assert second.stdout.count("train-prior") == 1
    config = json.loads((out / "bundled" / "config.json").read_text())
    assert config["encoder"]["logits"] == 0.85 and config["priors"]["other"]["licence"] == "CC-BY-SA-4.0"
    assert set(config["encoder"]["spread"]) == set(SOURCES)
    assert list(deepsep.load_priors(out / "bundled").sources) == list(SOURCES)

    results = json.loads((out / "results.json").read_text())
    (song,) = results["songs"].values()
    assert {"nmf", "encoder+sgld", "oracle-full"} <= set(song["methods"])
    stated = config["figures"]["SDR in dB, 1 development songs, encoder"]
    assert stated["drums"] == pytest.approx(song["methods"]["encoder"]["sdr"]["drums"], abs=0.01)
    assert json.loads((out / "excerpts.json").read_text())["songs"]
    for name in ("coverage", "pooling"):
        assert (out / f"{name}.txt").read_text().count("\n") == 2 + len(SOURCES)

    card = (out / "bundled" / "README.md").read_text()
    assert "license: cc-by-sa-4.0" in card and f"| {stated['drums']:g} |" in card
    assert (
        'album "Everything is Free" | Software-Entwicklungskit | CC0-1.0 | bass, drums, other, vocals' in card
    )
    listed = (out / "training_recordings.txt").read_text()
    assert listed.count("\n") == 5 and f"{SET}/widelands/a.flac" in listed
    assert (out / "development_recordings.txt").read_text().count("\n") == len(SOURCES)

    third = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert (third.returncode, third.stdout) == (0, "")
    other = subprocess.run([*program, "--prior-minutes", "9"], capture_output=True, text=True, timeout=60)
    assert other.returncode == 0
    assert "prior-bass was done with prior_minutes 120.0, and is left as it is" in other.stdout


SAVES = """
import signal, sys, time
from pathlib import Path
try:
    Path(sys.argv[1]).write_text("running")
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1.5)
    Path(sys.argv[1]).write_text("saved")
    sys.exit(130)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopped_it_waits_until_the_training_has_saved(tmp_path, how):
    (tmp_path / "saves.py").write_text(SAVES)
    told = tmp_path / "told"
    program = (
        "import signal, retrain\n"
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        f"retrain.run({str(tmp_path / 'saves.py')!r}, {str(told)!r})"
    )
    running = subprocess.Popen([sys.executable, "-c", program], cwd=SCRIPTS)
    for _ in range(600):
        if told.exists():
            break
        time.sleep(0.1)
    running.send_signal(how)
    assert running.wait(30) == 130
    assert told.read_text() == "saved"


@pytest.mark.slow
def test_the_mean_of_two_folders_weights_is_a_folder_that_loads(tmp_path, priors):
    for name in ("a", "b"):
        shutil.copytree(priors, tmp_path / name)
    model = deepsep.load_priors(priors)
    name = f"{model.sources[0]}.safetensors"
    one = load_file(tmp_path / "a" / name)
    words = ["a", "b", "out", "--share", "0.25", "--files", name]
    command = [sys.executable, SCRIPTS / "average.py", *words]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    for key, value in load_file(tmp_path / "out" / name).items():
        assert value.equal(one[key]), key  # the mean of the same twice
    deepsep.load_priors(tmp_path / "out")


def test_a_mean_weighs_what_it_is_told():
    sys.path.insert(0, str(SCRIPTS))
    import torch
    from average import mean

    one = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(7)}
    other = {"w": torch.tensor([5.0, 0.0]), "n": torch.tensor(9)}
    found = mean(one, other, 0.25)
    assert found["w"].tolist() == [4.0, 0.5] and found["n"] == 7
