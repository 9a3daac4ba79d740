"""Several runs on one library: each song in one shard, each claimed by one run, every line of the log whole."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_fixtures import noise, program, record, tree
from hypothesis import given
from hypothesis import strategies as st

from deepsep.errors import DeepsepError
from deepsep.output.library import CLAIMS, Claims, RunLog, Shard
from deepsep.output.paths import Output, track_key

STEMS = {"vocals": ["vocals"]}

# --- shards


@given(st.text(), st.integers(1, 30))
def test_every_song_is_in_one_shard(key, parts):
    assert sum(Shard(number, parts).has(key) for number in range(1, parts + 1)) == 1


def test_shards_are_about_as_large_as_one_another():
    keys = [f"song {number}" for number in range(8000)]
    sizes = [sum(Shard(number, 8).has(key) for key in keys) for number in range(1, 9)]
    assert sum(sizes) == 8000 and 900 < min(sizes) <= max(sizes) < 1100


def test_a_songs_shard_is_the_same_on_every_machine_and_in_every_release():
    keys = [f"song {number}/" for number in range(20)]
    assert [number for number, key in enumerate(keys) if Shard(1, 4).has(key)] == [2, 10, 12, 15]
    assert Shard(1, 3).has("Blå") == Shard(1, 3).has("Bla\u030a") == Shard(1, 3).has("BLÅ")


@pytest.mark.parametrize(
    "text", ["", "3", "0/3", "4/3", "1/0", "-1/3", "1/x", "1/2/3", "1.5/3", "9" * 40 + "/3"]
)
def test_what_is_no_shard_is_wrong_usage(text, deepsep):
    with pytest.raises(DeepsepError):
        Shard.parse(text)
    record(Path("a.wav"))
    code, out, err = deepsep("separate", "a.wav", "-o", "out", f"--shard={text}")
    assert (code, out) == (2, "") and err.startswith("error: --shard: ") and err.count("\n") == 1


def test_songs_that_would_write_the_same_files_are_in_one_shard():
    output = Output(folder=Path("out"), stems=STEMS)
    one, two, other = (track_key(Path(name), output) for name in ("x/a.wav", "/mnt/y/a.flac", "x/b.wav"))
    assert one == two != other
    by_folder = Output(folder=Path("out"), stems=STEMS, pattern="{parent}/{track}/{stem}.{ext}")
    assert track_key(Path("x/a.wav"), by_folder) != track_key(Path("/mnt/y/a.flac"), by_folder)


def test_the_shards_of_a_library_together_are_the_library(deepsep, priors):
    for number in range(12):
        record(Path(f"songs/{number % 3}/{number}.wav"), noise(0.1))
    words = (
        "separate",
        "songs",
        "-r",
        "--priors",
        priors,
        "-o",
        "out",
        "--stems",
        "bass",
        "--log",
        "log.jsonl",
    )
    done = []
    for number in (1, 2, 3):
        told = json.loads(deepsep.good(*words, "--shard", f"{number}/3", "--json", "-q"))
        done += [row["source"] for row in told["done"]]
    assert sorted(done) == sorted(str(path) for path in Path("songs").rglob("*.wav"))
    assert tree(Path("out")) == sorted(f"{number}/bass.wav" for number in range(12))
    rows = [json.loads(line) for line in Path("log.jsonl").read_text().splitlines()]
    assert [row["source"] for row in rows] == done
    for row in rows:
        assert (row["outcome"], row["seconds"], row["priors"]) == ("done", 0.1, priors.name)
        assert len(row["weights"]) == 64 and row["took"] > 0


def test_a_shard_without_songs_has_nothing_to_do(deepsep, priors):
    record(Path("a.wav"))
    for number in (1, 2):
        words = ("separate", "a.wav", "--priors", priors, "-o", "out", "--shard", f"{number}/2")
        code, _, err = deepsep(*words)
        assert code == 0 and err.splitlines()[0] in (f"shard {number}/2: {n} of 1 tracks" for n in (0, 1))
    assert tree(Path("out/a"))


# --- the log


def test_what_failed_is_in_the_log(deepsep, priors):
    record(Path("a.wav"))
    Path("b.wav").write_text("no audio")
    words = ("separate", "a.wav", "b.wav", "--priors", priors, "-o", "out", "--log", "log.jsonl")
    for more in ((), ("--shard", "1/1", "--skip-existing")):
        code, _, err = deepsep(*words, *more, "-q")
        assert code == 1
    rows = [json.loads(line) for line in Path("log.jsonl").read_text().splitlines()]
    assert [(row["source"], row["outcome"]) for row in rows] == [
        ("b.wav", "failed"), ("a.wav", "done"), ("b.wav", "failed"),
    ]  # fmt: skip
    assert rows[0]["error"] in err


def test_a_log_that_cannot_be_written_is_said_before_any_work(deepsep, priors):
    record(Path("a.wav"))
    line = deepsep.bad("separate", "a.wav", "--priors", priors, "-o", "out", "--log", "nowhere/log.jsonl")
    assert "nowhere/log.jsonl: cannot be written" in line and not Path("out").exists()


@pytest.mark.parametrize("how", ["song", "link", "text", "json", "deep"])
def test_a_log_is_appended_to_nothing_that_is_no_log(how, deepsep, priors):
    song = record(Path("a.wav"))
    log = Path("log.jsonl")
    if how == "song":
        log = song
    elif how == "link":
        log.symlink_to(song)
    else:
        log.write_text({"text": "mine", "json": '{\n"mine": 1\n}\n', "deep": '{"a":' * 100_000 + "\n"}[how])
    before = log.read_bytes()
    line = deepsep.bad("separate", song, "--priors", priors, "-o", "out", "--log", log)
    assert f"{log}: its first line is not that of a log" in line
    assert log.read_bytes() == before and not Path("out").exists()


def test_a_line_that_was_cut_off_is_ended_first(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"source": "a"}\n{"sour')
    RunLog(path).add({"source": "b"})
    lines = path.read_text().splitlines()
    assert len(lines) == 3 and json.loads(lines[2])["source"] == "b"


WRITER = """
import sys
from pathlib import Path
from deepsep.output.library import RunLog
log = RunLog(Path(sys.argv[1]))
for number in range(100):
    log.add({"writer": sys.argv[2], "number": number, "error": "x" * (37 * number)})
"""


def test_lines_of_several_processes_are_whole(tmp_path):
    path = tmp_path / "log.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(n)]) for n in range(3)]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for n in range(3):
        assert [row["number"] for row in rows if row["writer"] == str(n)] == list(range(100))
    assert len(rows) == 300


# --- claims

HOLDER = """
import sys
from pathlib import Path
from deepsep.output.library import Claims
claims = Claims(Path(sys.argv[1]))
with claims.claim(sys.argv[2]) as mine:
    print(mine, flush=True)
    sys.stdin.read()
claims.close()
"""


def hold(folder, key="a/"):
    """Another process that claims song a, and whether it got it."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), key], stdin=pipe, stdout=pipe, text=True
    )
    return process, process.stdout.readline().strip()


def test_a_claim_is_one_processs_until_it_ends_however_it_ends(tmp_path):
    claims = Claims(tmp_path)
    killed, got = hold(tmp_path)
    assert got == "True"
    with claims.claim("a/") as mine, claims.claim("b/") as other:
        assert (mine, other) == (False, True)
    killed.kill()
    killed.communicate()
    with claims.claim("a/") as mine:
        assert mine
        late, got = hold(tmp_path)
        assert got == "False"
        late.communicate("")
        assert (tmp_path / CLAIMS).exists(), "who leaves removes no file that another uses"
    claims.close()
    assert tree(tmp_path) == [] and late.returncode == 0


def test_a_claim_on_a_file_that_the_last_run_has_removed_holds_all_the_same(tmp_path):
    claims = Claims(tmp_path)
    leaving, _ = hold(tmp_path)
    leaving.communicate("")
    assert not (tmp_path / CLAIMS).exists()
    tmp_path.rmdir()
    with claims.claim("a/") as mine:
        late, got = hold(tmp_path)
        assert (mine, got) == (True, "False")
        late.communicate("")
    claims.close()


def test_a_song_in_another_runs_hands_is_left_to_it(deepsep, priors, tmp_path):
    for name in ("a.wav", "b.wav"):
        record(Path(name), noise(0.1))
    (tmp_path / "out").mkdir()
    other, _ = hold(tmp_path / "out", track_key(Path("a.wav"), Output(folder=Path("out"), stems=STEMS)))
    words = ("separate", "a.wav", "b.wav", "--priors", priors, "-o", "out", "--skip-existing")
    code, _, err = deepsep(*words)
    told = json.loads(deepsep.good(*words, "--json"))
    other.communicate("")
    assert code == 0 and "1 done, 0 failed, 0 skipped, 1 taken by another run" in err
    assert (told["done"], told["skipped"], told["taken"]) == ([], 1, 1)
    assert [row["source"] for row in json.loads(deepsep.good(*words, "--json"))["done"]] == ["a.wav"]


def test_one_song_of_which_some_files_exist_does_not_stop_the_others(deepsep, priors):
    for name in ("a.wav", "b.wav"):
        record(Path(name), noise(0.1))
    record(Path("out/a/bass.wav"))
    words = ("separate", "a.wav", "b.wav", "--priors", priors, "-o", "out", "--skip-existing")
    code, _, err = deepsep(*words)
    assert code == 1 and "out/a/bass.wav: exists, though other outputs of this track do not" in err
    assert "1 done, 1 failed, 0 skipped" in err and tree(Path("out/a")) == ["bass.wav"]


@pytest.mark.slow
def test_two_runs_share_a_library(priors, tmp_path):
    names = [f"songs/{number}.wav" for number in range(12)]
    for name in names:
        record(tmp_path / name)
    words = ("separate", "songs", "--priors", priors, "-o", "out", "--skip-existing", "--log", "log.jsonl")
    runs = [program(*words, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], told
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sorted(row["source"] for row in rows) == sorted(names)
    assert not (tmp_path / "out" / CLAIMS).exists()
