import hashlib
import inspect
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_server import Fault, HubServer, Repo
from huggingface_hub import constants, file_download
from processes import PATIENCE

from deepsep.errors import DeepsepError
from deepsep.models import files, hub

NAME = "ana/band"
RETRIES = 20  # seconds; what the client tries again by itself takes 23
VOCALS = b"vocals " * 20_000
DRUMS = b"drums " * 9_000
ENCODER = b"encoder " * 3_000
PICKLE = b"\x80\x04never fetched"


needs_recent_client = pytest.mark.skipif(
    "tqdm_class" not in inspect.signature(file_download.hf_hub_download).parameters,
    reason="older huggingface_hub: cannot be watched while it downloads, and does not resume",
)


def config(**files: bytes) -> dict:
    table = {
        f"{stem}.safetensors": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for stem, data in files.items()
    }
    return {"format": 1, "sources": [stem for stem in files if stem != "encoder"], "files": table}


def priors(raw: dict | None = None, **files: bytes) -> dict[str, bytes]:
    files = files or {"vocals": VOCALS, "drums": DRUMS, "encoder": ENCODER}
    raw = config(**files) if raw is None else raw
    weights = {f"{stem}.safetensors": data for stem, data in files.items()}
    return {"config.json": json.dumps(raw).encode(), "README.md": b"# band\n", "old.bin": PICKLE, **weights}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A loopback Hub that the real client is pointed at, with an empty cache."""
    with HubServer() as server:
        server.repos[NAME] = Repo()
        server.repos[NAME].commit(priors())
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(
            file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False
        )  # before 1.0
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        yield server


@pytest.fixture
def no_waiting(monkeypatch):
    """The client pauses a second before it takes up a broken download, and keeps whole blocks of it."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)


def fails(spec: str, **options) -> str:
    """The one line that resolving says, in little time."""
    start = time.monotonic()
    with pytest.raises(DeepsepError) as caught:
        hub.resolve(spec, **options)
    assert time.monotonic() - start < RETRIES
    message = str(caught.value)
    assert message == " ".join(message.split()), "an error is one line"
    return message


# --- folders and names


def test_an_existing_folder_is_taken_as_it_is(tmp_path, monkeypatch):
    folder = write(tmp_path / "ana" / "band", priors())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for spec in (str(folder), "./ana/band", "ana/band", "~/ana/band", " ana/band "):
        found = hub.resolve(spec)
        assert (found.kind, found.commit) == ("folder", None)
        assert found.folder.samefile(folder)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "band",
        "./nowhere",
        "/nowhere",
        "a/b/c",
        "ana/band@",
        "ana/band@../x",
        "https://x.org/a/b",
        "a\nb",
        "a\0b",
    ],
)
def test_other_names_say_which_forms_exist(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "org/name@revision" in fails(spec)


@pytest.mark.parametrize("spec", ["ana/a--b", "ana/band.git", "ana/" + "b" * 100])
def test_names_that_the_hub_forbids_cost_no_request(spec, server):
    assert "not the name of a repository" in fails(spec)
    assert not server.log


def test_a_folder_without_config_and_a_file_are_refused(tmp_path):
    assert "no config.json" in fails(str(tmp_path))
    (tmp_path / "vocals.safetensors").write_bytes(VOCALS)
    assert "is a file" in fails(str(tmp_path / "vocals.safetensors"))


def test_bundled_priors_are_package_data(tmp_path, monkeypatch):
    monkeypatch.setattr(hub.importlib.resources, "files", lambda package: tmp_path / package)
    assert "carries no bundled priors" in fails("bundled")
    folder = write(tmp_path / "deepsep" / "bundled", priors())
    assert hub.resolve("bundled") == hub.Resolved(name="bundled", folder=folder, commit=None, kind="bundled")


# --- the Hub, when all is well


def test_a_repository_is_fetched_at_one_commit_and_only_what_config_lists(server):
    commit = server.repos[NAME].refs["main"]
    found = hub.resolve(NAME)
    assert (found.name, found.kind, found.commit, found.folder.name) == (NAME, "hub", commit, commit)
    assert {path.name for path in found.folder.iterdir()} == set(priors()) - {"old.bin"}
    assert (found.folder / "vocals.safetensors").read_bytes() == VOCALS
    later = [request.path for request in server.log if "config.json" not in request.path]
    assert all(f"/resolve/{commit}/" in path for path in later)
    files.verify(found.folder, files.read_json(found.folder))


@needs_recent_client
def test_each_file_costs_one_head_and_one_get(server):
    hub.resolve(NAME)
    for name in ("vocals.safetensors", "drums.safetensors", "encoder.safetensors", "README.md"):
        assert [r.method for r in server.log if r.path.endswith(name)] == ["HEAD", "GET"]
    assert len(server.requests("GET")) == 5


def test_a_pinned_commit_in_the_cache_makes_no_request(server):
    commit = hub.resolve(NAME).commit
    server.log.clear()
    found = hub.resolve(f"{NAME}@{commit.upper()}")
    assert (found.name, found.commit) == (f"{NAME}@{commit}", commit)
    assert not server.log


def test_a_pinned_commit_without_a_card_makes_no_request(server):
    files = priors()
    del files["README.md"]
    pinned = f"{NAME}@{server.repos[NAME].commit(files)}"
    first = hub.resolve(pinned)
    server.log.clear()
    assert hub.resolve(pinned) == first
    assert not server.log


def test_a_branch_in_the_cache_makes_one_head(server):
    first = hub.resolve(NAME)
    server.log.clear()
    assert hub.resolve(NAME) == first
    assert [request.method for request in server.log] == ["HEAD"]


def test_a_branch_that_moved_fetches_only_what_changed(server):
    hub.resolve(NAME)
    commit = server.repos[NAME].commit(priors(vocals=VOCALS, drums=b"new", encoder=ENCODER))
    server.log.clear()
    found = hub.resolve(f"{NAME}@main")
    assert found.commit == commit
    assert (found.folder / "drums.safetensors").read_bytes() == b"new"
    assert {request.path.rpartition("/")[2] for request in server.requests("GET")} == {
        "config.json",
        "drums.safetensors",
    }


def test_a_branch_or_tag_with_a_slash(server):
    commit = server.repos[NAME].commit(priors(), branch="v2")
    assert hub.resolve(f"{NAME}@v2").commit == commit


def test_only_some_sources(server):
    found = hub.resolve(NAME, only=["vocals"])
    assert not (found.folder / "drums.safetensors").exists()
    assert not (found.folder / "encoder.safetensors").exists()
    files.verify(found.folder, files.read_json(found.folder), only=["vocals"])
    with pytest.raises(DeepsepError, match="lacks drums"):
        files.verify(found.folder, files.read_json(found.folder))
    assert "no prior for 'piano'; it has vocals, drums" in fails(NAME, only=["piano"])


def test_progress_leaves_by_the_callback(server):
    seen = []
    hub.resolve(NAME, on_progress=lambda *args: seen.append(args))
    vocals = [(done, total) for name, done, total in seen if name == "vocals.safetensors"]
    assert vocals == sorted(vocals)
    assert vocals[-1] == (len(VOCALS), len(VOCALS))


# --- the Hub, when it is not


def test_gone_repository_revision_and_files(server):
    assert "gone, private or mistyped" in fails("ana/nobody")
    assert "has no revision 'v9'" in fails(f"{NAME}@v9")
    assert "has no revision" in fails(f"{NAME}@{'0' * 40}")
    server.repos["ana/other"] = Repo()
    server.repos["ana/other"].commit({"model.safetensors": b""})
    assert "not a priors repository" in fails("ana/other")
    files = priors()
    del files["drums.safetensors"]
    server.repos[NAME].commit(files)
    assert "lacks drums.safetensors" in fails(NAME)


def test_a_revision_that_is_gone_is_told_even_with_a_cache(server):
    server.repos[NAME].commit(priors(), branch="v1")
    hub.resolve(f"{NAME}@v1")
    del server.repos[NAME].refs["v1"]
    assert "has no revision" in fails(f"{NAME}@v1")


@pytest.mark.parametrize("status", [401, 500])
def test_a_server_that_refuses_is_told_once(server, status):
    server.repos[NAME].faults["config.json"] = Fault(status=status)
    assert server.url in fails(NAME)
    assert len(server.log) == 1


def test_truncated_on_the_server(server):
    server.repos[NAME].faults["vocals.safetensors"] = Fault(body=VOCALS[:-1])
    assert f"has {len(VOCALS) - 1} bytes and config.json says {len(VOCALS)}" in fails(NAME)


def test_a_damaged_file_is_mended_as_the_message_says(server):
    server.repos[NAME].faults["vocals.safetensors"] = Fault(body=VOCALS[:-1] + b"?")
    message = fails(NAME)
    assert "vocals.safetensors is damaged: its sha256 is" in message
    server.repos[NAME].faults.clear()
    Path(message.partition("delete ")[2].partition(" and fetch")[0]).unlink()
    found = hub.resolve(NAME)
    files.verify(found.folder, files.read_json(found.folder))


def test_a_cached_file_cut_short_is_noticed(server):
    found = hub.resolve(NAME)
    os.truncate(found.folder / "drums.safetensors", 10)
    assert "drums.safetensors is damaged: it has 10 bytes" in fails(NAME, offline=True)


@needs_recent_client
def test_a_connection_cut_halfway_is_resumed(server, no_waiting):
    server.repos[NAME].faults["vocals.safetensors"] = Fault(cut_at=len(VOCALS) // 2)
    found = hub.resolve(NAME)
    assert (found.folder / "vocals.safetensors").read_bytes() == VOCALS
    ranges = [request.range for request in server.requests("GET") if "vocals" in request.path]
    assert ranges == [None, f"bytes={len(VOCALS) // 2}-"]


def test_a_connection_cut_for_good_leaves_nothing_half_done(server, no_waiting):
    server.repos[NAME].faults["vocals.safetensors"] = Fault(cut_at=len(VOCALS) // 2, cuts=99)
    assert "cannot download vocals.safetensors" in fails(NAME)
    server.repos[NAME].faults.clear()
    assert (hub.resolve(NAME).folder / "vocals.safetensors").read_bytes() == VOCALS


def test_server_down(server):
    found = hub.resolve(NAME)
    server.close()
    start = time.monotonic()
    assert hub.resolve(NAME) == found
    assert hub.resolve(f"{NAME}@{found.commit}").folder == found.folder
    assert time.monotonic() - start < RETRIES
    assert "not in the local cache" in fails("ana/nobody")
    (found.folder / "drums.safetensors").resolve().unlink()
    assert "cannot download drums.safetensors" in fails(NAME)


def test_server_that_fails_is_replaced_by_the_cache(server):
    found = hub.resolve(NAME)
    server.repos[NAME].faults["config.json"] = Fault(status=503)
    assert hub.resolve(NAME) == found


@pytest.mark.parametrize("environment", [False, True])
def test_offline(server, monkeypatch, environment):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", environment)
    asked = {} if environment else {"offline": True}
    assert f"run once online: deepsep priors download {NAME}" in fails(NAME, **asked)
    assert not server.log
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    found = hub.resolve(NAME, only=["drums"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", environment)
    server.log.clear()
    assert hub.resolve(NAME, only=["drums"], **asked) == found
    assert "vocals.safetensors of ana/band@main is not in the local cache" in fails(NAME, **asked)
    assert not server.log


# --- what a repository must not do

ENTRY = {"sha256": "0" * 64, "size": 1}


@pytest.mark.parametrize(
    "name",
    [
        "../up.safetensors",
        "a/../../up.safetensors",
        "/etc/up.safetensors",
        "..\\up.safetensors",
        "C:up.safetensors",
        "a//b.safetensors",
        "./a.safetensors",
        "a\n.safetensors",
        "run.py",
        "safetensors",
        "",
        "config.json",
        "Config.json",
    ],
)
def test_names_that_leave_the_folder_are_refused(server, tmp_path, name):
    server.repos[NAME].commit(priors({"sources": [], "files": {name: ENTRY}}))
    assert "only relative .safetensors, .json and .md files are accepted" in fails(NAME)
    assert {request.path.rpartition("/")[2] for request in server.log} == {"config.json"}
    with pytest.raises(DeepsepError, match="only relative"):
        files.verify(tmp_path, {"files": {name: ENTRY}})


@pytest.mark.parametrize("suffix", files.PICKLES)
def test_pickles_are_refused_by_name(server, suffix):
    server.repos[NAME].commit(priors({"sources": ["a"], "files": {f"a{suffix.upper()}": ENTRY}}))
    assert "pickles can run code" in fails(NAME)
    assert len(server.requests("GET")) == 1


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"sha256": "0" * 64, "size": files.MAX_FILE_BYTES + 1}, "refused"),
        ({"sha256": "0" * 64, "size": -1}, "no valid size"),
        ({"sha256": "0" * 64, "size": True}, "no valid size"),
        ({"sha256": "0" * 64, "size": "9"}, "no valid size"),
        ({"sha256": "0" * 64}, "no valid size"),
        ({"sha256": "xyz", "size": 1}, "no valid sha256"),
        ({"size": 1}, "no valid sha256"),
        ("0" * 64, "no valid sha256"),
    ],
)
def test_entries_that_make_no_sense_are_refused(server, entry, says):
    server.repos[NAME].commit(priors({"sources": ["a"], "files": {"a.safetensors": entry}}))
    assert says in fails(NAME)
    assert len(server.requests("GET")) == 1


@pytest.mark.parametrize(
    ("name", "honest"), [("config.json", 0), ("config.json", 1), ("vocals.safetensors", 0)]
)
def test_an_etag_that_leads_out_of_the_cache_writes_nothing(server, tmp_path, name, honest):
    up = "../" * len((tmp_path / "cache").parts)
    server.repos[NAME].faults[name] = Fault(etag=f"{up}{tmp_path}/stolen", honest=honest)
    assert "which is no ETag; not downloaded" in fails(NAME)
    assert not list(tmp_path.glob("stolen*"))


def test_a_config_that_was_spoilt_once_is_mended_as_the_message_says(server):
    length = len(server.repos[NAME].commits[server.repos[NAME].refs["main"]]["config.json"])
    server.repos[NAME].faults["config.json"] = Fault(body=b"x" * length, etag="a" * 40)
    message = fails(NAME)
    server.repos[NAME].faults["config.json"] = Fault(etag="a" * 40)
    assert fails(NAME) == message
    Path(message.partition("delete ")[2].partition(" and fetch")[0]).unlink()
    hub.resolve(NAME)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"{}", b'{"files": {}}', b'{"files": []}']
)
def test_a_config_that_is_none(server, text):
    server.repos[NAME].commit({"config.json": text})
    message = fails(NAME)
    assert "config.json" in message
    assert len(message) < 500


@pytest.mark.parametrize("name", ["config.json", "vocals.safetensors", "drums.safetensors"])
@pytest.mark.parametrize("length", [1 << 20, 1 << 32])
def test_a_declared_length_above_the_one_in_config_is_not_downloaded(server, name, length):
    server.repos[NAME].faults[name] = Fault(length=length + files.MAX_TEXT_BYTES)
    assert f"{name} has {length + files.MAX_TEXT_BYTES} bytes where at most" in fails(NAME)
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete"))


@pytest.mark.filterwarnings("ignore:Not enough free disk space")
def test_a_length_above_the_limit_of_the_client_is_one_line_too(server):
    server.repos[NAME].faults["vocals.safetensors"] = Fault(length=1 << 40)
    message = fails(NAME)
    assert "too large" in message or "not downloaded" in message
    assert not any("vocals" in request.path for request in server.requests("GET"))


# --- local folders, the cache, pushing


def test_verify_tells_a_wrong_hash_from_a_wrong_size_and_a_missing_file(tmp_path):
    folder = write(tmp_path / "band", priors())
    raw = files.read_json(folder)
    files.verify(folder, raw)
    (folder / "drums.safetensors").write_bytes(DRUMS[:-1] + b"?")
    with pytest.raises(DeepsepError, match=r"^drums.safetensors is damaged: its sha256 is"):
        files.verify(folder, raw)
    (folder / "drums.safetensors").write_bytes(DRUMS[:-1])
    with pytest.raises(DeepsepError, match=r"^drums.safetensors is damaged: it has"):
        files.verify(folder, raw)
    (folder / "drums.safetensors").unlink()
    with pytest.raises(DeepsepError, match=r"lacks drums\.safetensors"):
        files.verify(folder, raw)
    files.verify(folder, raw, only=["vocals"])


def test_the_cache_lists_and_removes_priors_only(server):
    assert hub.cached() == []
    old = hub.resolve(NAME)
    new = hub.resolve(f"{NAME}@{server.repos[NAME].commit(priors(vocals=b'new', drums=DRUMS))}")
    server.repos["eva/model"] = Repo()
    server.repos["eva/model"].commit({"config.json": b'{"architectures": []}'})
    fails("eva/model")
    assert {(found.repo, found.commit, found.path) for found in hub.cached()} == {
        (NAME, old.commit, old.folder),
        (NAME, new.commit, new.folder),
    }
    assert all(found.size > len(DRUMS) for found in hub.cached())
    with pytest.raises(DeepsepError, match="in the local cache"):
        hub.remove("eva/model")
    assert hub.remove(f"{NAME}@{old.commit}") >= len(VOCALS)
    assert [found.commit for found in hub.cached()] == [new.commit]
    assert hub.remove(NAME) > 0
    assert hub.cached() == []
    assert len(list(Path(constants.HF_HUB_CACHE).glob("models--*"))) == 1


@pytest.fixture
def own(server, monkeypatch):
    """The server, which takes pushes of who shows the token "t"; by LFS, since Xet goes past any endpoint."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    server.token = "t"
    monkeypatch.setenv("HF_TOKEN", "t")
    return server


def test_push_sends_what_config_lists_and_it_comes_back_the_same(own, tmp_path):
    folder = write(tmp_path / "band", priors())
    address = hub.push(folder, "ana/new", private=True)
    repo = own.repos["ana/new"]
    commit = repo.refs["main"]
    assert address == f"{own.url}/ana/new/commit/{commit}"
    assert repo.private
    sent = {name: data for name, data in priors().items() if name != "old.bin"}
    assert {n: d for n, d in repo.commits[commit].items() if n != ".gitattributes"} == sent
    found = hub.resolve("ana/new")
    assert found.commit == commit
    assert {path.name: path.read_bytes() for path in found.folder.iterdir()} == sent


def test_push_to_a_branch_leaves_main_alone(own, tmp_path):
    before = own.repos[NAME].refs["main"]
    changed = priors(vocals=b"new " * 1000)
    hub.push(write(tmp_path / "band", changed), NAME, revision="v2")
    assert own.repos[NAME].refs["main"] == before
    found = hub.resolve(f"{NAME}@v2")
    assert found.commit == own.repos[NAME].refs["v2"] != before
    assert (found.folder / "vocals.safetensors").read_bytes() == b"new " * 1000


def test_a_damaged_folder_is_not_pushed(own, tmp_path):
    folder = write(tmp_path / "band", priors())
    (folder / "drums.safetensors").write_bytes(b"other")
    with pytest.raises(DeepsepError, match="damaged"):
        hub.push(folder, NAME)
    assert own.log == []


def test_push_without_permission_says_how_to_log_in(own, tmp_path):
    own.token = "another"
    with pytest.raises(DeepsepError, match=r"no permission for ana/band at .*; log in with `hf auth login`"):
        hub.push(write(tmp_path / "band", priors()), NAME)
    assert own.large == {}


def test_push_to_a_server_that_says_no(server, tmp_path):
    folder = write(tmp_path / "band", priors())
    with pytest.raises(DeepsepError) as caught:
        hub.push(folder, NAME)
    assert "\n" not in str(caught.value)


def test_the_module_is_light_and_reads_the_environment(server, tmp_path):
    hub.resolve(NAME)
    code = (
        "import sys; from deepsep.models import hub\n"
        "assert not {'torch', 'huggingface_hub'} & sys.modules.keys()\n"
        f"print(hub.resolve({NAME!r}).commit)\n"
    )
    server.log.clear()
    env = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HUB_CACHE": constants.HF_HUB_CACHE,
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.stdout.strip(), done.stderr) == (server.repos[NAME].refs["main"], "")
    assert not server.log
