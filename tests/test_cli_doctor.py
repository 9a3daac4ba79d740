import json
import sys
from collections import namedtuple

import pytest
from hub_server import HubServer, Repo
from huggingface_hub import constants
from tiny import Commands, files_of, folder_of, point_client

import deepsep as package
from deepsep.cli import doctor
from deepsep.errors import DeepsepError
from deepsep.models import hub


@pytest.fixture
def server(tmp_path, monkeypatch):
    with HubServer() as server:
        server.repos["ana/band"] = Repo()
        server.repos["ana/band"].commit(files_of(folder_of(tmp_path / "band", "vocals", "drums")))
        point_client(monkeypatch, server.url, tmp_path / "cache")
        yield server


@pytest.fixture
def deepsep(server, monkeypatch, capsys):
    return Commands(monkeypatch, capsys)


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "bundled", "vocals", "bass")
    monkeypatch.setattr(hub, "bundled_folder", lambda: folder)
    return folder


def findings(deepsep):
    return json.loads(deepsep.good("doctor", "--json"))


def test_everything_is_told_and_nobody_is_asked(server, deepsep, bundled):
    import soundfile
    import torch

    found = findings(deepsep)
    assert found["deepsep"]["version"] == package.__version__
    assert found["python"]["version"] == sys.version.split()[0]
    assert found["torch"]["version"] == torch.__version__
    assert found["torch"]["threads"] == torch.get_num_threads()
    assert found["torch"]["devices"][0] == "cpu"
    assert soundfile.__libsndfile_version__ in found["audio"]["soundfile"]
    assert {"wav", "flac", "ogg"} <= set(found["audio"]["formats"])
    assert found["hub"]["endpoint"] == server.url
    assert found["hub"]["free"] > 0
    (priors,) = found["priors"]
    assert (priors["name"], priors["sources"], priors["complete"]) == ("bundled", ["vocals", "bass"], True)
    assert priors["size"] == sum(path.stat().st_size for path in bundled.glob("*.safetensors"))
    assert server.log == []


def test_for_people(deepsep, bundled):
    commit = hub.resolve("ana/band").commit
    lines = deepsep.good("doctor").splitlines()
    assert any(
        line.startswith("priors:") and f"ana/band@{commit[:12]}: vocals, drums" in line for line in lines
    )
    assert any(line.startswith("cache:") and "free)" in line for line in lines)
    for name in (
        "deepsep",
        "python",
        "torch",
        "devices",
        "threads",
        "formats",
        "pyav",
        "ffmpeg",
        "matplotlib",
    ):
        assert any(line.startswith(f"{name}:") for line in lines)


def test_nothing_to_do(deepsep, bundled, monkeypatch):
    monkeypatch.setattr(doctor, "loaded", lambda module: "1.0")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(10**12))
    assert findings(deepsep)["advice"] == []
    assert deepsep.good("doctor").splitlines()[-1] == "Nothing is missing."


def test_what_is_missing_comes_with_what_to_do(deepsep, monkeypatch):
    def no_bundled():
        raise DeepsepError("none")

    real = doctor.loaded
    monkeypatch.setattr(hub, "bundled_folder", no_bundled)
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setitem(sys.modules, "mutagen", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(doctor.shutil, "which", lambda program: None)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(5 * 10**8))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert real("av") is None
    found = findings(deepsep)
    assert found["audio"]["pyav"] is found["audio"]["ffmpeg"] is found["audio"]["mutagen"] is None
    advice = "\n".join(found["advice"])
    for part in (
        "no priors here: deepsep priors download",
        "m4a, aac, wma and webm cannot be read: pip install 'deepsep[av]'",
        "stem files (.stem.mp4) cannot be written",
        "pip install 'deepsep[tags]'",
        "pip install 'deepsep[plot]'",
        "only 500.0 MB are free",
        "HF_HUB_OFFLINE is set",
    ):
        assert part in advice
    text = deepsep.good("doctor")
    assert "pyav:       missing\n" in text
    assert "To do:\n- " in text


def test_ffmpeg_alone_reads_and_writes_what_pyav_would(deepsep, bundled, monkeypatch):
    monkeypatch.setattr(doctor, "loaded", lambda module: None)
    monkeypatch.setattr(doctor, "program_version", lambda program: f"9.9 (/usr/bin/{program})")
    assert [line for line in findings(deepsep)["advice"] if "free" not in line] == [
        "tags and covers are not copied: pip install 'deepsep[tags]'",
        "--uncertainty cannot draw its pictures: pip install 'deepsep[plot]'",
    ]


def test_a_half_done_download_is_named(deepsep, bundled):
    commit = hub.resolve("ana/band", only=["drums"]).commit
    advice = findings(deepsep)["advice"]
    assert f"ana/band is not all downloaded: deepsep priors download ana/band@{commit}" in advice


@pytest.mark.parametrize(("module", "key"), [("torch", "PyTorch"), ("soundfile", "soundfile")])
def test_a_broken_library_is_a_finding(deepsep, bundled, monkeypatch, module, key):
    monkeypatch.setitem(sys.modules, module, None)
    assert findings(deepsep)["advice"][0].startswith(f"{key} does not load")
    assert "does not load" in deepsep.good("doctor")


@pytest.mark.parametrize("place", ["file", "x" * 300], ids=["a file", "too long"])
def test_a_cache_that_cannot_be_read_is_a_finding(deepsep, bundled, tmp_path, monkeypatch, place):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / place))
    advice = f"{tmp_path / place}: the Hub cache cannot be read ("
    assert any(line.startswith(advice) for line in findings(deepsep)["advice"])
    assert advice in deepsep.good("doctor") and "bundled: vocals, bass" in deepsep.good("doctor")
    assert deepsep.bad("priors", "list").startswith(f"error: {advice}")
    assert deepsep.bad("priors", "remove", "ana/band").startswith(f"error: {advice}")


def test_a_program_that_does_not_run_counts_as_missing(tmp_path, monkeypatch):
    broken = tmp_path / "ffmpeg"
    broken.write_text("not a program")
    broken.chmod(0o755)
    monkeypatch.setattr(doctor.shutil, "which", lambda program: str(broken))
    assert doctor.program_version("ffmpeg") is None
