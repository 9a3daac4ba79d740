import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import soundfile
from cli_fixtures import record
from hub_server import Fault, HubServer, Repo
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st
from processes import PATIENCE
from tiny import files_of, folder_of, point_client

from deepsep.cli.fetch import Downloads, fetch, pin, size_of
from deepsep.models import card, files, hub
from deepsep.models import folder as model

NAME = "ana/band"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    figures = {"held_out": {"bits/dim at 0.1": 0.5}}
    return folder_of(tmp_path_factory.mktemp("band"), "vocals", "drums", encoder=True, **figures)


@pytest.fixture
def server(folder, tmp_path, monkeypatch):
    with HubServer() as server:
        server.repos[NAME] = Repo()
        server.repos[NAME].commit({**files_of(folder), "README.md": b"# band"})
        point_client(monkeypatch, server.url, tmp_path / "cache")
        yield server


def asked(server) -> list[tuple[str, str]]:
    """Method and file of each request since the last look."""
    seen = [(request.method, request.path.rpartition("/")[2]) for request in server.log]
    server.log.clear()
    return seen


# --- download


def test_download_shows_the_licence_before_it_fetches_weights(server, deepsep):
    code, out, err = deepsep("priors", "download", NAME)
    commit = server.repos[NAME].refs["main"]
    assert code == 0
    assert Path(out.strip()).name == commit
    assert err.index("licence of the weights: CC-BY-4.0") < err.index("fetching vocals.safetensors")
    assert f"--priors {NAME}@{commit}" in err
    files.verify(Path(out.strip()), files.read_json(Path(out.strip())))


def test_a_second_download_asks_little_and_says_no_licence(server, deepsep):
    deepsep.good("priors", "download", NAME)
    asked(server)
    code, _, err = deepsep("priors", "download", NAME)
    assert (code, asked(server)) == (0, [("HEAD", "config.json")])
    assert "licence" not in err
    assert "fetching" not in err
    deepsep.good("priors", "download", f"{NAME}@{server.repos[NAME].refs['main']}")
    assert asked(server) == []


def test_a_new_commit_shows_its_licence_again(server, deepsep, tmp_path):
    deepsep.good("priors", "download", NAME)
    other = folder_of(tmp_path / "new", "vocals", licence="CC-BY-NC-4.0")
    commit = server.repos[NAME].commit(files_of(other))
    code, out, err = deepsep("priors", "download", NAME)
    assert (code, Path(out.strip()).name) == (0, commit)
    assert "licence of the weights: CC-BY-NC-4.0" in err


def test_fetching_in_steps_costs_at_most_one_more_question(server, tmp_path, monkeypatch):
    hub.resolve(NAME)
    direct = asked(server)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "other"))
    fetch(NAME, quiet=True)
    stepwise = Counter(asked(server))
    assert stepwise >= Counter(direct)
    # none for clients that ask for this file either way
    assert stepwise - Counter(direct) in (Counter(), Counter([("HEAD", "vocals.safetensors")]))


def test_some_sources_only(server, deepsep):
    deepsep.good("priors", "download", NAME, "--sources", "drums")
    assert {name for _, name in asked(server)} == {"config.json", "README.md", "drums.safetensors"}
    assert "has no prior for 'flute'" in deepsep.bad("priors", "download", NAME, "--sources", "flute")


@pytest.mark.parametrize("environment", [False, True])
def test_offline(server, deepsep, monkeypatch, environment):
    words = [] if environment else ["--offline"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", environment)
    assert "not in the local cache; run once online" in deepsep.bad("priors", "download", NAME, *words)
    assert "not in the local cache; run once online" in deepsep.bad("priors", "info", NAME, *words)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    deepsep.good("priors", "info", NAME)
    asked(server)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", environment)
    deepsep.good("priors", "info", NAME, *words)
    line = deepsep.bad("priors", "download", NAME, *words)
    assert "vocals.safetensors" in line
    assert "run once online" in line
    assert asked(server) == []


def test_server_down(server, deepsep):
    deepsep.good("priors", "download", NAME)
    server.close()
    assert NAME in deepsep.good("priors", "info", NAME)
    deepsep.good("priors", "download", NAME)
    assert "check the network" in deepsep.bad("priors", "download", "ana/other")


def test_gone_names_are_one_line(server, deepsep):
    assert "no repository ana/nobody" in deepsep.bad("priors", "download", "ana/nobody")
    assert "no revision 'v9'" in deepsep.bad("priors", "download", f"{NAME}@v9")
    assert "give `bundled`, a folder" in deepsep.bad("priors", "info", "nowhere")


def test_quiet_says_the_licence_once_and_no_more(server, deepsep):
    commit = server.repos[NAME].refs["main"]
    for told in (f"licence of the weights of {NAME}@{commit}: CC-BY-4.0\n", ""):
        code, out, err = deepsep("priors", "download", NAME, "-q")
        assert (code, err, Path(out.strip()).is_dir()) == (0, told, True)


def test_progress_is_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Downloads() as progress:
        progress("a.safetensors", 500, 1000)
        progress("a.safetensors", 1000, 1000)
        progress("b.safetensors", 1, 4)
        assert [(task.completed, task.total) for task in progress.bar.tasks] == [(1000, 1000), (1, 4)]
    assert "fetching" not in capsys.readouterr().err


def test_sizes_for_people():
    sizes = [0, 999, 1000, 6038694, 2 * 10**9]
    assert [size_of(n) for n in sizes] == ["0 bytes", "999 bytes", "1.0 kB", "6.0 MB", "2.0 GB"]


# --- what separate and sample use


def test_pinned_priors_are_loaded_without_a_request(server, deepsep, folder, capsys):
    local = str(folder)
    base, others = pin(NAME, {"drums": NAME, "vocals": local})
    commit = server.repos[NAME].refs["main"]
    assert (base, others) == (f"{NAME}@{commit}", {"drums": f"{NAME}@{commit}", "vocals": local})
    assert capsys.readouterr().err.count("licence of the weights") == 1
    asked(server)
    loaded = model.load_model(base, others)
    assert asked(server) == []
    assert loaded.info.origins["drums"].commit == commit
    assert pin("./" + os.path.relpath(folder), {}) == (os.path.relpath(folder), {})


def test_one_instrument_fetches_its_weights_only(server):
    pin(NAME, {})
    server.repos["eva/drums"] = server.repos[NAME]
    asked(server)
    pin(NAME, {"drums": "eva/drums"}, quiet=True)
    assert not {"vocals.safetensors", "encoder.safetensors"} & {name for _, name in asked(server)}


def test_outputs_carry_the_commit(server, deepsep):
    commit = server.repos[NAME].refs["main"]
    record(Path("song.wav"))
    made = f"priors {NAME}@{commit}"
    for format in ("wav", "flac", "mp3", "ogg"):
        deepsep.good("separate", "song.wav", "--priors", NAME, "-f", format, "-q")
        with soundfile.SoundFile(f"stems/song/drums.{format}") as stem:
            assert stem.comment.startswith("deepsep ") and stem.comment.endswith(made)
    found = json.loads(deepsep.good("separate", "song.wav", "--priors", NAME, "--json", "--overwrite"))
    assert found["origins"]["drums"]["commit"] == commit
    assert commit in deepsep.good("priors", "info", NAME)


# --- info and list


def test_info_tells_the_commit_and_fetches_no_weights(server, deepsep):
    commit = server.repos[NAME].refs["main"]
    text = deepsep.good("priors", "info", NAME)
    assert {name for _, name in asked(server)} == {"config.json", "README.md"}
    for part in (commit, "vocals, drums", "spectral, 16000 Hz", "not all downloaded", "licence:  CC-BY-4.0"):
        assert part in text
    assert "vocals: 1.5 hours from choir, solo" in text
    assert "drums: bits/dim at 0.1 0.5" in text
    facts = json.loads(deepsep.good("priors", "info", NAME, "--json"))
    assert (facts["commit"], facts["format"], facts["complete"]) == (commit, 1, False)
    assert facts["figures"]["vocals"] == {"bits/dim at 0.1": 0.5}
    assert facts["encoder"] == ["vocals", "drums"]


def test_info_of_a_folder(deepsep, folder):
    facts = json.loads(deepsep.good("priors", "info", folder, "--json"))
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert (facts["kind"], facts["commit"], facts["size"]) == ("folder", None, weights)
    assert facts["complete"] is True


def test_list_shows_what_is_here_and_asks_nobody(server, deepsep, tmp_path, monkeypatch):
    bundled = folder_of(tmp_path / "deepsep" / "bundled", "bass", licence="MIT")
    monkeypatch.setattr(hub, "bundled_folder", lambda: bundled)
    deepsep.good("priors", "info", NAME)
    commit = server.repos[NAME].refs["main"]
    asked(server)
    head, first, second = deepsep.good("priors", "list").splitlines()
    assert head.split() == ["PRIORS", "COMMIT", "SIZE", "SOURCES", "LICENCE"]
    assert (first.split()[0], first.split()[-2:]) == ("bundled", ["bass", "MIT"])
    assert NAME in second
    assert commit[:12] in second
    assert "not all downloaded" in second
    deepsep.good("priors", "download", NAME)
    asked(server)
    rows = json.loads(deepsep.good("priors", "list", "--json"))
    assert [(row["name"], row["commit"], row["complete"]) for row in rows] == [
        ("bundled", None, True),
        (NAME, commit, True),
    ]
    assert asked(server) == []


def test_an_empty_list_says_what_to_do(server, deepsep, monkeypatch):
    def none():
        raise hub.DeepsepError("none")

    monkeypatch.setattr(hub, "bundled_folder", none)
    code, out, err = deepsep("priors", "list")
    assert (code, out) == (0, "")
    assert "deepsep priors download" in err
    assert json.loads(deepsep.good("priors", "list", "--json")) == []


def test_a_strangers_config_cannot_write_to_the_terminal(deepsep, tmp_path):
    folder = folder_of(
        tmp_path / "band", "vocals", licence="\x1b[2JCC0\r\nlicence: mine", data="\x07bell\x9b2J"
    )
    text = deepsep.good("priors", "info", folder)
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "licence:  [2JCC0 licence: mine\n" in text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = "format domain spectrum sources priors encoder files figures licence data".split()


@given(st.dictionaries(st.sampled_from(KEYS), JSON), JSON)
def test_any_config_can_be_described(config, prior):
    for raw in (
        config,
        {**config, "sources": ["a"], "priors": {"a": prior}, "encoder": {"simulated": prior}},
    ):
        facts = card.describe(raw)
        json.dumps(facts, allow_nan=False)
        assert card.licence_line(facts).isprintable()
        assert card.model_card(raw, NAME).startswith("---\nlibrary_name: deepsep\n")


ODD = [10**400, -(10**400), float("nan"), float("inf"), True, None, [1], "x"]


@pytest.mark.parametrize("value", ODD, ids=lambda value: str(value)[:5])
def test_odd_numbers_are_left_out(value):
    raw = {"format": value, "spectrum": {"rate": value}, "sources": ["a"], "files": {"f": {"size": value}}}
    raw |= {"priors": {"a": {"data": {"hours": value}, "held_out": {"bits": value}}}, "figures": {"b": value}}
    facts = card.describe(raw)
    assert (facts["format"], facts["rate"], facts["size"], facts["data"]["a"]) == (
        None,
        None,
        0,
        "not stated",
    )
    shown = {"a": {"bits": "x"}, "separation": {"b": "x"}} if value == "x" else {}
    assert facts["figures"] == shown
    assert size_of(facts["size"]) == "0 bytes"


# --- path and remove


def test_path_knows_only_what_is_here(server, deepsep, folder):
    assert "not in the local cache" in deepsep.bad("priors", "path", NAME)
    assert asked(server) == []
    where = deepsep.good("priors", "download", NAME)
    asked(server)
    assert deepsep.good("priors", "path", NAME) == where
    assert asked(server) == []
    assert deepsep.good("priors", "path", folder).strip() == str(folder)


@pytest.mark.parametrize("form", ["{name}", "{name}@main", "{name}@{commit}", "{name}@{short}"])
def test_remove(server, deepsep, form):
    where = Path(deepsep.good("priors", "download", NAME).strip())
    commit = where.name
    code, _, err = deepsep("priors", "remove", form.format(name=NAME, commit=commit, short=commit[:8]))
    assert code == 0
    assert "freed" in err
    assert not where.exists()
    assert hub.cached() == []
    assert "in the local cache" in deepsep.bad("priors", "remove", NAME)


def test_remove_takes_the_named_commit_only(server, deepsep, tmp_path):
    first = Path(deepsep.good("priors", "download", NAME).strip())
    server.repos[NAME].commit(files_of(folder_of(tmp_path / "new", "bass")))
    second = Path(deepsep.good("priors", "download", NAME).strip())
    deepsep.good("priors", "remove", f"{NAME}@{first.name[:12]}")
    assert not first.exists()
    assert second.is_dir()


@pytest.mark.parametrize("revision", ["{digit}", "{six}", "nowhere", "0000000"])
def test_remove_guesses_no_commit(server, deepsep, revision):
    """One digit was taken for every commit that begins with it."""
    commit = Path(deepsep.good("priors", "download", NAME).strip()).name
    revision = revision.format(digit=commit[0], six=commit[:6])
    line = deepsep.bad("priors", "remove", f"{NAME}@{revision}")
    assert f"no revision {revision!r} of {NAME} in the local cache; it holds {commit}: " in line
    assert [found.commit for found in hub.cached()] == [commit]


def test_remove_refuses_digits_that_fit_several_commits(server, deepsep):
    files = server.repos[NAME].commits[server.repos[NAME].refs["main"]]
    commits = ["abcdef0" + digit * 33 for digit in "12"]
    server.repos[NAME].commits = dict.fromkeys(commits, files)
    for commit in commits:
        deepsep.good("priors", "download", f"{NAME}@{commit}")
    line = deepsep.bad("priors", "remove", f"{NAME}@ABCDEF0")
    assert line == f"error: {NAME}@ABCDEF0 is several commits: {', '.join(commits)}; give more digits\n"
    deepsep.good("priors", "remove", f"{NAME}@abcdef01")
    assert [found.commit for found in hub.cached()] == commits[1:]


def test_remove_touches_nothing_but_the_cache(server, deepsep, folder):
    deepsep.good("priors", "download", NAME)
    assert "only what was downloaded" in deepsep.bad("priors", "remove", folder)
    assert "only what was downloaded" in deepsep.bad("priors", "remove", "bundled")
    assert deepsep("priors", "remove", f"{NAME}@")[0] == 2
    assert (folder / "config.json").is_file()
    assert len(hub.cached()) == 1


# --- push


class FakeApi:
    """Stands for HfApi; keeps what would be sent."""

    sent: dict

    def __init__(self, token=None):
        type(self).sent = {}

    def create_repo(self, repo_id, **options):
        self.sent["repo"] = (repo_id, options)

    def create_branch(self, repo_id, **options):
        self.sent["branch"] = options["branch"]

    def upload_folder(self, *, folder_path, **options):
        self.sent["card"] = (folder_path / "README.md").read_text(encoding="utf-8")
        return type("Commit", (), {"commit_url": "https://hub/commit/1"})()


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", FakeApi)
    FakeApi.sent = {}
    return FakeApi


def test_push_writes_the_card_first(deepsep, api, tmp_path):
    folder = folder_of(tmp_path / "band", "vocals", "drums", held_out={"bits/dim at 1": 2.25})
    assert (
        deepsep.good("priors", "push", folder, NAME, "--private", "--revision", "v1")
        == "https://hub/commit/1\n"
    )
    assert api.sent["repo"] == (NAME, {"private": True, "exist_ok": True})
    assert api.sent["branch"] == "v1"
    lines = api.sent["card"].splitlines()
    front = lines[1 : lines.index("---", 1)]
    for line in ("library_name: deepsep", "pipeline_tag: audio-to-audio", "license: cc-by-4.0", "- deepsep"):
        assert line in front
    assert "| drums | CC-BY-4.0 | 1.5 hours from choir, solo |" in lines
    assert "| vocals | bits/dim at 1 | 2.25 |" in lines
    assert f"deepsep separate song.mp3 --priors {NAME}" in lines


def test_the_hub_client_reads_the_front_matter(tmp_path):
    yaml = pytest.importorskip("yaml")
    folder = folder_of(tmp_path / "band", "vocals", licence="CC BY 4.0")
    text = card.write_card(folder, model.read_config(folder), NAME).read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "cc-by-4.0"
    assert front["tags"][0] == "deepsep"


@pytest.mark.parametrize(
    ("licences", "line", "noted"),
    [
        (["MIT", "CC-BY-4.0"], "license: other", False),
        (["mine alone", "mine alone"], "license: other", False),
        (["MIT", card.UNSPECIFIED], "license: other", True),
        ([card.UNSPECIFIED, card.UNSPECIFIED], None, True),
    ],
)
def test_a_licence_is_never_claimed_for_weights_that_lack_it(deepsep, api, tmp_path, licences, line, noted):
    for source, licence in zip(("vocals", "drums"), licences, strict=True):
        folder = folder_of(tmp_path / "band", source, licence=licence)
    code, _, err = deepsep("priors", "push", folder, NAME)
    assert code == 0
    assert ("no licence is stated" in err) == noted
    assert ("ask the author" in api.sent["card"]) == noted
    front = api.sent["card"].split("---\n")[1].splitlines()
    assert [item for item in front if item.startswith("license:")] == ([line] if line else [])


def test_a_card_is_renewed_around_its_authors_text(deepsep, api, tmp_path):
    folder = folder_of(tmp_path / "band", "vocals")
    theirs = "---\ndatasets:\n- ana/choir\ntags:\n- mine\nlicense: mit\n---\n\nMy own words.\n"
    (folder / "README.md").write_text(theirs)
    deepsep.good("priors", "push", folder, NAME)
    first = api.sent["card"]
    assert first.index("- ana/choir") < first.index("My own words.") < first.index("# ana/band")
    assert "license: cc-by-4.0\n" in first
    assert "- mine" not in first
    (folder / "README.md").write_text(first + "\nAnd below.\n")
    folder_of(folder, "drums")
    deepsep.good("priors", "push", folder, NAME)
    second = api.sent["card"]
    assert second.count("My own words.") == second.count("And below.") == second.count(card.BEGIN) == 1
    assert "| drums |" in second
    deepsep.good("priors", "push", folder, NAME)
    assert api.sent["card"] == second


def test_card_only_sends_nothing(deepsep, api, tmp_path):
    folder = folder_of(tmp_path / "band", "vocals")
    assert deepsep.good("priors", "push", folder, NAME, "--card-only").strip() == str(folder / "README.md")
    assert (folder / "README.md").is_file()
    assert api.sent == {}


def test_a_push_by_the_real_client_is_there_for_others(server, tmp_path):
    folder = folder_of(tmp_path / "band", "flute", "hum")
    server.token = "t"
    cache = tmp_path / "elsewhere"
    environment = {
        **os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(cache), "HF_TOKEN": "t", "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-m", "deepsep", "priors", "push", folder, "ana/winds", "-q"],
        env=environment, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    commit = server.repos["ana/winds"].refs["main"]
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == f"{server.url}/ana/winds/commit/{commit}\n"
    base, _ = pin("ana/winds", {})
    assert base == f"ana/winds@{commit}" and model.load_model(base).sources == ["flute", "hum"]
    assert (
        "deepsep separate song.mp3 --priors ana/winds" in (hub.resolve(base).folder / "README.md").read_text()
    )


def test_a_server_s_address_of_a_commit_cannot_write_to_the_terminal(deepsep, api, tmp_path, monkeypatch):
    hostile = type("Commit", (), {"commit_url": "https://hub/\x1b]0;mine\x07\x9b2J"})()
    monkeypatch.setattr(api, "upload_folder", lambda self, **options: hostile)
    folder = folder_of(tmp_path / "band", "vocals")
    assert deepsep.good("priors", "push", folder, NAME) == "https://hub/?]0;mine??2J\n"


def test_what_cannot_be_pushed_is_left_alone(deepsep, api, tmp_path):
    folder = folder_of(tmp_path / "band", "vocals")
    assert deepsep("priors", "push", folder, "nobody")[0] == 2
    assert deepsep("priors", "push", folder, f"{NAME}@v1")[0] == 2
    assert "no config.json" in deepsep.bad("priors", "push", tmp_path, NAME)
    (folder / "vocals.safetensors").write_bytes(b"other")
    assert "damaged" in deepsep.bad("priors", "push", folder, NAME)
    assert not (folder / "README.md").exists()
    assert api.sent == {}


def test_push_offline_is_one_line(deepsep, api, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = folder_of(tmp_path / "band", "vocals")
    assert "cannot push while HF_HUB_OFFLINE is set" in deepsep.bad("priors", "push", folder, NAME)


# --- the real program


def test_the_program_reads_the_environment(server, tmp_path):
    def program(*words, **more):
        env = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), **more}
        env.pop("HF_HUB_CACHE", None)
        command = [sys.executable, "-m", "deepsep", "priors", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE)

    assert program("download", NAME, HF_HUB_OFFLINE="1").returncode == 1
    assert asked(server) == []
    fetched = program("download", NAME)
    assert (fetched.returncode, "CC-BY-4.0" in fetched.stderr) == (0, True)
    assert Path(fetched.stdout.strip()).is_relative_to(tmp_path / "home")
    asked(server)
    assert program("path", NAME, HF_HUB_OFFLINE="1").stdout == fetched.stdout
    assert asked(server) == []


def shown(*words) -> bytes:
    """What the program shows on a terminal."""
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "deepsep", *words]
    run = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
    os.close(theirs)
    text = b""
    with os.fdopen(ours, "rb", buffering=0) as terminal, contextlib.suppress(OSError):  # its end, on Linux
        while part := terminal.read(1 << 16):
            text += part
    assert run.wait(PATIENCE) == 0, text
    return text


@pytest.mark.skipif(os.name != "posix", reason="such names and terminals are of POSIX systems")
@pytest.mark.parametrize(
    ("words", "below"),
    [("path {}", ""), ("download {} -q", ""), ("push {} ana/band --card-only", "/README.md")],
)
def test_a_path_is_safe_on_a_terminal_and_whole_in_a_pipe(words, below, tmp_path):
    no_text = "\udcff" if sys.platform == "linux" else "\x07"
    folder = tmp_path / f"p\x1b[31m\x1b]0;mine{no_text}é"
    folder_of(tmp_path / "band", "vocals").rename(folder)
    filled = ["priors", *(word.format(folder) for word in words.split())]
    said = shown(*filled)
    assert said.decode().rstrip("\r\n") == str(tmp_path / "p?[31m?]0;mine?é") + below
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    command = [sys.executable, "-m", "deepsep", *filled]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, os.fsencode(f"{folder}{below}\n"), b"")


DEAD_END = "http://127.0.0.1:1/token"  # nobody listens there


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(headers={"X-HF-Warning": "topic; look \x1b]0;here"}), 0),
        pytest.param(Fault(cut_at=10, cuts=99), 1, marks=pytest.mark.slow),
        pytest.param(
            Fault(headers={"X-Xet-Hash": "a" * 64, "X-Xet-Refresh-Route": DEAD_END}),
            1,
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(find_spec("hf_xet") is None, reason="nobody asks for such a route"),
            ],
        ),
    ],
    ids=["a warning of the server", "cut for good", "a dead route"],
)
def test_what_the_client_says_of_its_own_accord_is_not_shown(server, tmp_path, fault, code):
    """It tells each retry, and any text of the server's, escape sequences included."""
    server.repos[NAME].faults["vocals.safetensors"] = fault
    env = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
    env = {name: value for name, value in env.items() if name not in ("HF_HUB_CACHE", "HF_HUB_VERBOSITY")}
    command = [sys.executable, "-m", "deepsep", "priors", "download", NAME, "-q"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE)
    licence, *errors = done.stderr.splitlines()
    assert (done.returncode, licence.startswith("licence of"), len(errors)) == (code, True, code), done.stderr
    assert all(line.startswith("error: cannot download vocals.safetensors of") for line in errors)


def test_a_licence_is_stated_without_touching_the_weights(tmp_path, deepsep):
    folder = folder_of(tmp_path / "priors", "a", "b", licence="unspecified")
    before = files_of(folder)
    code, _, err = deepsep("priors", "licence", folder, "CC-BY-4.0", "--sources", "b")
    assert code == 0 and "b under CC-BY-4.0" in err
    after = files_of(folder)
    assert {name for name in before if before[name] != after[name]} == {"config.json"}
    assert model.load(folder).info.licences == {"a": "unspecified", "b": "CC-BY-4.0"}
    assert deepsep("priors", "licence", folder, "MIT", "-q") == (0, "", "")
    assert set(model.load(folder).info.licences.values()) == {"MIT"}
    code, _, err = deepsep("priors", "licence", folder, "MIT", "--sources", "c")
    assert code == 1 and "unknown source 'c'" in err
    assert deepsep("priors", "licence", folder, " ")[0] == 2


def test_a_licence_that_makes_config_json_too_long_to_read_is_not_written(tmp_path, deepsep):
    folder = folder_of(tmp_path / "priors", *(f"s{number}" for number in range(50)), licence="unspecified")
    before = files_of(folder)
    assert "config.json would have" in deepsep.bad("priors", "licence", folder, "x" * 100_000)
    assert files_of(folder) == before
