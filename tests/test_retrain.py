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
    """Noise for each source, as origins whose licences are known, and one song."""
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

    broken = out / "priors" / "training" / "other.safetensors"
    broken.parent.mkdir(parents=True)
    broken.write_text("no checkpoint")
    first = subprocess.run(program, capture_output=True, text=True, timeout=900)
    assert first.returncode == 1
    # after the line of the training itself
    assert first.stderr.splitlines()[-1].startswith("error: train-prior ended with 1"), first.stderr
    assert (out / "retrain-prior-bass.done").exists() and not (out / "retrain-prior-other.done").exists()
    broken.unlink()

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
    assert "prior-bass is done, of 120.0 minutes and not 9.0: left as it is" in other.stdout
    (out / "data" / "drums" / "unheard-of").mkdir()
    (out / "data" / "drums" / "eif" / "a.flac").rename(out / "data" / "drums" / "unheard-of" / "a.flac")
    (out / "retrain-lists.done").unlink()
    unknown = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert unknown.returncode == 1 and "no licence of drums/unheard-of/a.flac" in unknown.stderr


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
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_it_waits_until_the_training_has_saved(tmp_path, how):
    (tmp_path / "saves.py").write_text(SAVES)
    told = tmp_path / "told"
    program = (
        "from pathlib import Path\nimport retrain, stages\n"
        f"with stages.alone(Path({str(tmp_path)!r}), 'retrain'):\n"
        f"    retrain.run({str(tmp_path / 'saves.py')!r}, {str(told)!r})"
    )
    running = subprocess.Popen([sys.executable, "-c", program], cwd=SCRIPTS)
    for _ in range(600):
        if told.exists():
            break
        time.sleep(0.1)
    second = subprocess.run(
        [sys.executable, SCRIPTS / "retrain.py", tmp_path, tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == 1 and second.stderr.count("\n") == 1
    assert "another retrain is at work there" in second.stderr
    running.send_signal(how)
    assert running.wait(30) == 130
    assert told.read_text() == "saved"


@pytest.mark.slow
def test_the_mean_of_two_folders_weights_is_a_folder_that_loads(tmp_path, priors):
    for name in ("a", "b"):
        shutil.copytree(priors, tmp_path / name)
    model = deepsep.load_priors(priors)
    first, second = (f"{name}.safetensors" for name in model.sources[:2])
    words = ["a", "b", "out", "--share", "0.25", "--files", first]
    shutil.copy(tmp_path / "b" / second, tmp_path / "b" / first)  # another prior of the same shape
    command = [sys.executable, SCRIPTS / "average.py", *words]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    one, other, found = (load_file(tmp_path / name / first) for name in ("a", "b", "out"))
    floats = [name for name in one if one[name].is_floating_point()]
    key = max(floats, key=lambda name: float((one[name].float() - other[name].float()).abs().max()))
    close = 0.25 * one[key].double() + 0.75 * other[key].double()
    assert abs(found[key].double() - close).max() <= 1e-3 * abs(close).max()
    assert deepsep.load_priors(tmp_path / "out").sources == model.sources
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert again.returncode == 2 and "out exists" in again.stderr


def test_a_mean_weighs_what_it_is_told():
    sys.path.insert(0, str(SCRIPTS))
    import torch
    from average import mean

    one = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(7)}
    other = {"w": torch.tensor([5.0, 0.0]), "n": torch.tensor(9)}
    found = mean(one, other, 0.25)
    assert found["w"].tolist() == [4.0, 0.5] and found["n"] == 7
