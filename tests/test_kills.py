"""kill -9 at any moment of a separation, a training step with its checkpoint, and a download.

A moment is a call that opens, makes, renames or removes something below the folder: the process ends itself just before
it. A few of them here; DEEPSEP_KILLS=50 takes fifty of each program.
"""

import os
import shutil
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from cli_fixtures import FOUR, noise, read, record, tree
from hub_server import HubServer, Repo
from safetensors import safe_open
from tiny import SPECTRUM, files_of, folder_of, point_client

import deepsep as library
from deepsep import cli

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")]

KILLS = int(os.environ.get("DEEPSEP_KILLS", 5))
CALLS = {"open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}


def die_at(moment, top, words):
    """Runs the program in a fork of this process, which ends itself at a moment; returns its status and its moments."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # other threads: of the server, which the fork needs not
        child = os.fork()
    if child == 0:
        try:
            run(moment, str(top), writer, [str(word) for word in words])
        finally:
            os._exit(70)
    os.close(writer)
    seen = 0
    while block := os.read(reader, 1 << 16):
        seen += len(block)
    os.close(reader)
    return os.waitpid(child, 0)[1], seen


def run(moment, top, writer, words):
    """What the fork does: a byte down the pipe for each moment."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)
    left = moment

    def count(event, arguments):
        nonlocal left
        if event in CALLS and any(isinstance(a, (str, Path)) and str(a).startswith(top) for a in arguments):
            os.write(writer, b".")
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    sys.argv = ["deepsep", *words]
    try:
        cli.main()
    except SystemExit as stop:
        os._exit(int(stop.code or 0))
    os._exit(0)


def moments(top, words):
    """Numbers of moments, evenly spread over those of a run from what is there now."""
    status, seen = die_at(0, top, words)
    assert status == 0 and seen > 3
    return sorted({int(m) for m in np.linspace(1, seen, KILLS).round()})


def killed(moment, top, words):
    status, _ = die_at(moment, top, words)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status


@pytest.mark.parametrize("old", [False, True])
def test_a_separation(old, priors, tmp_path, deepsep, record_property):
    record(tmp_path / "song.wav")
    words = ("separate", "--priors", priors, tmp_path / "song.wav", "-o", tmp_path / "out", "--report", "-q",
             "--overwrite")  # fmt: skip
    out = tmp_path / "out"
    whole = sorted([*(f"song/{s}.wav" for s in FOUR), "song/report.html"])
    deepsep.good(*words)
    good = {source: read(out / f"song/{source}.wav") for source in FOUR}

    def begin():
        shutil.rmtree(out)
        for name in whole if old else ():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_text(f"old {name}")

    begin()
    chosen = moments(out, words)
    for moment in chosen:
        begin()
        killed(moment, out, words)
        final = [name for name in tree(out) if "/.deepsep-" not in name]
        assert set(final) <= {*whole, "", "song"} and (not old or set(final) == set(whole)), (moment, final)
        for source in FOUR:
            path = out / f"song/{source}.wav"
            if path.exists() and not path.read_bytes().startswith(b"old "):
                np.testing.assert_allclose(read(path), good[source], atol=1e-6)
        deepsep.good(*words)
        assert tree(out) == whole, moment
    record_property("kills", len(chosen))


def test_a_training_step_and_its_checkpoint(tmp_path, deepsep, record_property):
    folder_of(tmp_path / "p", "hum", "hiss", encoder=True)
    for i, name in enumerate(("hum", "hiss")):
        record(tmp_path / "data" / name / "a.wav", noise(2, 1, SPECTRUM.rate, seed=i), SPECTRUM.rate)
    top, before = tmp_path / "p", (tmp_path / "p" / "encoder.safetensors").read_bytes()
    shutil.copytree(top, tmp_path / "former")
    words = ("train-encoder", "--priors", top, tmp_path / "data", "--overwrite", "--widths", 4, "--bottleneck", 2,
             "--deep", 0, "--workers", 0, "--frames", 16, "--batch", 2, "--steps", 1, "-q")  # fmt: skip
    chosen = moments(top, words)
    for moment in chosen:
        shutil.rmtree(top)
        shutil.copytree(tmp_path / "former", top)
        killed(moment, top, words)
        final = [path for path in top.rglob("*.safetensors") if ".deepsep-" not in str(path)]
        for path in final:
            with safe_open(path, "pt") as file:
                assert list(file.keys())
        done = (
            not (top / "training" / "former-encoder").exists()
            and (top / "training/encoder.safetensors").exists()
        )
        assert done or before in [path.read_bytes() for path in final], moment
        deepsep.good(*words)
        assert library.load_priors(top).sources == ["hum", "hiss"]
        assert not [name for name in tree(top) if ".deepsep-" in name or "claim" in name], moment
    record_property("kills", len(chosen))


def test_a_download(tmp_path, monkeypatch, deepsep, record_property):
    folder = folder_of(tmp_path / "band", "hum", "hiss", encoder=True)
    cache = tmp_path / "cache"
    with HubServer() as server:
        server.repos["ana/band"] = Repo()
        server.repos["ana/band"].commit(files_of(folder))
        point_client(monkeypatch, server.url, cache)
        words = ("priors", "download", "ana/band", "-q")
        deepsep.good(*words)  # the client learns what the folder can do
        shutil.rmtree(cache)
        chosen = moments(cache, words)
        for moment in chosen:
            shutil.rmtree(cache)
            killed(moment, cache, words)
            place = Path(deepsep.good(*words).strip())
            assert {n: b for n, b in files_of(place).items() if n != "README.md"} == files_of(folder), moment
    record_property("kills", len(chosen))
