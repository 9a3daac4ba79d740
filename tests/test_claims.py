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
