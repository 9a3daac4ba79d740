"""Faults at every moment: the n-th call of each kind fails, for every n of a small separation and of a training.

Then there is one line and exit code 1, or success; no output is half there; what was there before is there still; and
the next run succeeds.
"""

import builtins
import http.client
import io
import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from cli_fixtures import FOUR, noise, program, record, tree
from hub_server import HubServer, Repo
from huggingface_hub import constants
from processes import until
from safetensors import SafetensorError
from tiny import SPECTRUM, files_of, folder_of, point_client

import deepsep as library
from deepsep.training import checkpoint

pytestmark = pytest.mark.slow


def full():
    return OSError(28, "No space left on device")


class Fault:
    """Makes the n-th call of a function fail, counted from 0; `happened` says whether there were so many."""

    def __init__(self, patch, owner, name, error, n, counts=lambda *args, **more: True):
        self.left = n
        real = getattr(owner, name)

        def call(*args, **more):
            if counts(*args, **more):
                self.left -= 1
                if self.left == -1:
                    raise error()  # a new one: it keeps what its traceback holds alive
            return real(*args, **more)

        patch.setattr(owner, name, call)

    @property
    def happened(self):
        return self.left < 0


def each_fault(kind, words, deepsep, monkeypatch, record_property, numbers):
    """Runs a command with the n-th call of a kind failing, until there are no so many: each n and what came of it."""
    owner, name, error, *counts = kind
    for tried, n in enumerate(numbers):
        with monkeypatch.context() as patch:
            fault = Fault(patch, owner, name, error, n, *counts)
            result = deepsep(*words)
        if not fault.happened:
            record_property("faults", tried)
            assert result[0] == 0
            return
        yield n, result
    pytest.fail("the fault happens without end")


def writes(path, mode="r", *args, **more):
    """Whether a file is opened to write."""
    return set(mode) & set("wxa+") != set()


KINDS = {
    "mkdir": (os, "mkdir", full),
    "rename": (os, "replace", full),
    "link": (os, "link", lambda: OSError(1, "Operation not permitted")),
    "fsync": (os, "fsync", full),
    "open": (io, "open", full, writes),
    "sound opened": (sf.SoundFile, "__init__", lambda: sf.LibsndfileError(2, "Error opening: ")),
    "sound written": (sf.SoundFile, "write", lambda: sf.LibsndfileError(2)),
    "sound read": (sf.SoundFile, "read", lambda: sf.LibsndfileError(2)),
    "memory": (np, "concatenate", MemoryError),
}


def size_of(folder):
    """Bytes in a track's hidden folder, from which files may go at any time."""
    size = 0
    for path in folder.glob(".deepsep-*/*"):
        with suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("format", "old"), [("wav", True), ("flac", False)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_separation(kind, format, old, deepsep, priors, monkeypatch, record_property):
    record(Path("song.wav"))
    words = [
        "separate",
        "--priors",
        priors,
        "song.wav",
        "-o",
        "out",
        "-f",
        format,
        "--report",
        "--uncertainty",
        "-q",
    ]
    whole = sorted([*(f"{s}.{format}" for s in FOUR), "report.html", "uncertainty.npz", "uncertainty.png"])
    if old:
        words.append("--overwrite")
        deepsep.good(*words)
        for path in Path("out/song").iterdir():
            path.write_text(f"old {path.name}")
    before = contents(Path("out"))
    failed = 0
    every = 1 if "DEEPSEP_KILLS" in os.environ or kind != "memory" else 5  # a picture allocates often
    numbers = range(0, 200, every)
    for n, (code, _, err) in each_fault(KINDS[kind], words, deepsep, monkeypatch, record_property, numbers):
        if code == 0:
            assert tree(Path("out/song")) == whole and contents(Path("out")).items().isdisjoint(
                before.items()
            )
            for path, text in before.items():
                Path("out", path).write_bytes(text)
            if not old:
                shutil.rmtree("out")
        else:
            failed += 1
            assert code == 1 and err.startswith("error: ") and err.count("\n") == 1, (n, err)
            assert contents(Path("out")) == before, n
            assert old or not Path("out").exists(), n
    assert tree(Path("out/song")) == whole
    # without second names a commit goes on; where nothing is replaced, nothing is renamed
    assert failed >= (0 if kind == "link" or (kind == "rename" and not old) else 1), f"no {kind} failed"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Priors with an encoder, and what they are trained on."""
    top = tmp_path_factory.mktemp("trained")
    folder_of(top / "p", "hum", "hiss", encoder=True)
    for i, name in enumerate(("hum", "hiss")):
        record(top / "data" / name / "a.wav", noise(2, 1, SPECTRUM.rate, seed=i), SPECTRUM.rate)
    return top


TRAININGS = {
    "prior": ("train-prior", "--source", "third", "data/hum", "-o", "new", "--frames", 16, "--flow-steps", 1),
    "encoder": ("train-encoder", "--priors", "p", "data", "--widths", 4, "--bottleneck", 2, "--workers", 0,
                "--deep", 0, "--frames", 16),
}  # fmt: skip
TRAINING_KINDS = {
    **{
        kind: KINDS[kind]
        for kind in ("mkdir", "rename", "link", "fsync", "open", "sound opened", "sound read")
    },
    "checkpoint": (
        checkpoint,
        "save_file",
        lambda: SafetensorError("I/O error: No space left on device (os error 28)"),
    ),
}


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("kind", TRAINING_KINDS)
def test_a_training_step_and_its_checkpoint(
    kind, training, deepsep, trained, monkeypatch, tmp_path, record_property
):
    words = [*TRAININGS[training], "--steps", 1, "--batch", 2, "-q", "--overwrite"]
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    target = tmp_path / ("new" if training == "prior" else "p")
    if training == "encoder":
        deepsep.good(*words)  # so that there is a checkpoint to lose
    trees = tmp_path.parent / f"{tmp_path.name} before"
    shutil.copytree(tmp_path, trees)
    failed = 0
    before = contents(target)
    for n, (code, _, err) in each_fault(
        TRAINING_KINDS[kind], words, deepsep, monkeypatch, record_property, range(100)
    ):
        now = contents(target)
        assert not any(".part" in path for path in now), n
        if code:
            failed += 1
            assert code == 1 and err.startswith("error: ") and err.count("\n") == 1, (n, err)
            formers = target / "training" / "former-encoder"
            kept = {**now, **contents(formers)}
            assert {p: t for p, t in before.items() if "cache" not in p}.items() <= kept.items(), n
        if (target / "config.json").exists():
            library.load_priors(target)  # each file is one that config.json names
        shutil.rmtree(target, ignore_errors=True)
        if (trees / target.name).exists():
            shutil.copytree(trees / target.name, target)
    assert failed >= (0 if kind in ("link", "sound opened", "sound read") else 1), f"no {kind} failed"


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.95] if "DEEPSEP_KILLS" in os.environ else [0.5])
def test_kill_9_leaves_nothing_under_a_final_name_and_the_next_run_cleans_up(
    share, priors, tmp_path, deepsep
):
    record(tmp_path / "song.wav", noise(20, 2))
    words = ("separate", "--priors", priors, "song.wav", "-o", "out", "--report", "-f", "flac", "-q")
    run = program(*words, cwd=tmp_path)
    scratch = tmp_path / "out" / "song"
    until(lambda: size_of(scratch) >= share * 4 * 20 * 16000 * 8, run)  # of the stems that wait as floats
    run.kill()
    run.wait()
    left = tree(tmp_path / "out")
    assert run.returncode == -9, "it was done too soon"
    assert left and all("/.deepsep-" in path for path in left)
    deepsep.good(*words)
    assert tree(tmp_path / "out") == sorted(
        f"song/{name}" for name in [*(f"{s}.flac" for s in FOUR), "report.html"]
    )


DOWNLOAD_KINDS = {
    "mkdir": (os, "mkdir", full),
    "open": (builtins, "open", full, writes),
    "rename": (shutil, "move", full),
    "replace": (os, "replace", full),
    "symlink": (os, "symlink", full),
    "reset": (
        http.client.HTTPResponse,
        "read",
        lambda: ConnectionResetError(104, "Connection reset by peer"),
    ),
}


@pytest.mark.parametrize("kind", DOWNLOAD_KINDS)
def test_a_download(kind, deepsep, monkeypatch, tmp_path, record_property):
    folder, cache = folder_of(tmp_path / "band", "hum", "hiss"), tmp_path / "cache"
    words = ("priors", "download", "ana/band", "-q")
    with HubServer() as server:
        server.repos["ana/band"] = Repo()
        server.repos["ana/band"].commit(files_of(folder))
        point_client(monkeypatch, server.url, cache)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS_WARNING", True)
        for n, (code, out, err) in each_fault(
            DOWNLOAD_KINDS[kind], words, deepsep, monkeypatch, record_property, range(100)
        ):
            if code:
                assert code == 1 and err.splitlines()[-1].startswith("error: "), (n, err)
                out = deepsep.good(*words)
            assert {k: v for k, v in files_of(Path(out.strip())).items() if k != "README.md"} == files_of(
                folder
            ), n
            shutil.rmtree(cache)
