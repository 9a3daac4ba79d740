"""One training at a time in a folder; and what a dead one held is free."""

import json
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from cli_fixtures import noise, program, record, tree
from processes import PATIENCE, until
from tiny import SPECTRUM, folder_of

from deepsep.errors import DeepsepError
from deepsep.inference.compute import Compute
from deepsep.training.claim import claimed

ALONE = Compute()


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Two priors with an encoder and what they are trained on, below the current folder."""
    monkeypatch.chdir(tmp_path)
    folder_of(Path("p"), "hum", "hiss", encoder=True)
    for i, name in enumerate(("hum", "hiss")):
        record(Path("data", name, "a.wav"), noise(2, 1, SPECTRUM.rate, seed=i), SPECTRUM.rate)
    return tmp_path


TRAININGS = {
    "prior": ("train-prior", "--source", "third", "data/hum", "-o", "new", "--flow-steps", 1),
    "encoder": ("train-encoder", "--priors", "p", "data", "--widths", 4, "--deep", 0, "--workers", 0),
    "contrast": ("contrast-priors", "--priors", "q", "data", "-o", "p", "--workers", 0),
}


@pytest.mark.parametrize("start", ["--overwrite", "--resume"])
@pytest.mark.parametrize("training", TRAININGS)
def test_a_second_training_in_a_folder_is_one_line_that_says_who_holds_it(training, start, trained, deepsep):
    shutil.copytree("p", "q")
    words = [*TRAININGS[training], "--frames", 16, "--steps", 1, "--batch", 2, "-q"]
    if start == "--resume":
        deepsep.good(*words, "--overwrite")
    target = Path("new" if training == "prior" else "p")
    with claimed(target, ALONE):
        before = tree(target)
        line = deepsep.bad(*words, start)
        assert tree(target) == before
    assert line.startswith(f"error: {target}: another training is at work there (process {os.getpid()} on ")
    assert re.search(rf" on {re.escape(socket.gethostname())} since \d{{4}}-\d\d-\d\d \d\d:\d\d", line)
    deepsep.good(*words, start)


@pytest.mark.slow
def test_the_claim_of_a_killed_training_is_let_go_and_ends_with_the_next(trained, deepsep):
    words = [*TRAININGS["prior"], "--frames", 16, "--batch", 2]
    run = program(*words, stderr=subprocess.PIPE, text=True)
    until(lambda: "step 1 " in run.stderr.readline(), run)
    assert f"process {run.pid} on" in deepsep.bad(*words, "-q")
    run.kill()
    run.wait(PATIENCE)
    assert json.loads(Path("new/training/claim.json").read_text())["process"] == run.pid
    deepsep.good(*words, "-q", "--steps", 1)
    assert not list(Path("new").rglob("claim*"))


def test_a_claim_leaves_no_folder_that_it_made(tmp_path):
    with pytest.raises(KeyboardInterrupt), claimed(tmp_path / "new" / "p", ALONE):
        assert (tmp_path / "new" / "p" / "training").is_dir()
        raise KeyboardInterrupt
    assert tree(tmp_path) == []


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"process": 1', '"' + "\u0000" * 9])
def test_a_claim_that_says_nothing_is_a_claim_all_the_same(said, tmp_path):
    with claimed(tmp_path, ALONE):
        (tmp_path / "training" / "claim.json").write_text(said)
        with pytest.raises(DeepsepError, match="another training is at work there"), claimed(tmp_path, ALONE):
            pass


def test_only_the_leading_process_claims(tmp_path):
    with claimed(tmp_path, ALONE), claimed(tmp_path, Compute(part=1, parts=2)):
        pass


@pytest.mark.parametrize("name", ["", "cache", "cache/third", "claim.json", "claim.lock"])
def test_links_in_a_training_folder_lead_nowhere(name, trained, deepsep):
    Path("elsewhere").mkdir()
    Path("elsewhere", "power-1.json").write_text("mine")
    Path("mine").write_text("mine")
    link = Path("new", "training", name)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(Path("mine" if "." in name else "elsewhere").absolute())
    words = [*TRAININGS["prior"], "--frames", 16, "--steps", 1, "--batch", 2]
    assert f"{link} is a link; " in deepsep.bad(*words)
    assert Path("mine").read_text() == Path("elsewhere", "power-1.json").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders here")
@pytest.mark.parametrize("name", ["claim.json", "third.safetensors", "cache/third/power-0.json"])
def test_a_pipe_in_a_training_folder_is_not_waited_for(name, trained, deepsep):
    words = [*TRAININGS["prior"], "--frames", 16, "--batch", 2]
    deepsep.good(*words, "--steps", 1)
    path = Path("new", "training", name)
    if name.startswith("cache"):
        (path,) = path.parent.glob("*.json")
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    if name.startswith("cache"):
        deepsep.good(*words, "--steps", 2, "--resume")
    else:
        assert str(path) in deepsep.bad(*words, "--steps", 2, "--resume")


def test_a_licence_is_kept_by_the_training_that_goes_on_and_not_stated_beside_one(trained, deepsep):
    words = [*TRAININGS["prior"], "--frames", 16, "--batch", 2, "-q"]
    deepsep.good(*words, "--steps", 1)
    deepsep.good("priors", "licence", "new", "CC0-1.0")
    deepsep.good(*words, "--steps", 2, "--resume")
    assert licence_of(Path("new")) == "CC0-1.0"
    deepsep.good(*words, "--steps", 3, "--resume", "--licence", "CC-BY-4.0")
    assert licence_of(Path("new")) == "CC-BY-4.0"
    with claimed(Path("new"), ALONE):
        assert "another training is at work there" in deepsep.bad("priors", "licence", "new", "CC0-1.0")
    assert licence_of(Path("new")) == "CC-BY-4.0"


def licence_of(folder):
    return json.loads((folder / "config.json").read_text())["priors"]["third"]["licence"]
