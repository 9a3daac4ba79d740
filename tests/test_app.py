"""The application without a browser: who is let in, what comes in, the queue, and files equal to the command line's."""

import asyncio
import json
import re
import socket
import sqlite3
import subprocess
import sys
import time
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from cli_fixtures import RATE, noise, record, tree
from hypothesis import given
from hypothesis import strategies as st

from deepsep.app import downloads, jobs, listening, places, serve, uploads, wishes, worker
from deepsep.app.store import Song, Store
from deepsep.app.wishes import Wishes
from deepsep.errors import DeepsepError

pytest.importorskip("starlette", reason="starlette is not installed")
from deepsep.app import guard, routes

# A worker that says what a real one does, and separates nothing: what a song's label says is what becomes of it.
FAKE = """
import json, os, sys, threading
cancelled = set()
more = threading.Condition()
orders = []
def listen():
    for line in sys.stdin:
        with more:
            message = json.loads(line)
            if "cancel" in message: cancelled.add(message["cancel"])
            else: orders.append(message["separate"])
            more.notify()
    os._exit(0)
threading.Thread(target=listen, daemon=True).start()
def say(event, **facts): print(json.dumps({"event": event, **facts}), flush=True)
while True:
    with more:
        more.wait_for(lambda: orders)
        order = orders.pop(0)
    id, label = order["id"], order["label"]
    say("began", id=id, seconds=4.0, method="encoder")
    say("progress", id=id, done=2.0)
    if label.startswith("dies"): os._exit(9)
    if label.startswith("fails"): say("failed", id=id, error="it is broken"); continue
    if label.startswith("stays"):
        with more: more.wait_for(lambda: id in cancelled)
        say("cancelled", id=id); continue
    if label.startswith("stubborn"): threading.Event().wait()
    say("done", id=id, result={"files": {"vocals": "a/vocals.wav"}, "stems": ["vocals"], "took": 2.0})
"""


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(jobs, "WORKER", [sys.executable, "-c", FAKE])


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "music"


def client_of(folder, host="127.0.0.1", base="http://127.0.0.1:8765"):
    from starlette.testclient import TestClient

    return TestClient(routes.build(folder, host=host, port=8765), base_url=base)


@pytest.fixture
def client(fake, folder):
    with client_of(folder) as client:
        yield client


def token_of(client):
    return client.app.state.token


def post(client, path, content=b"", **headers):
    return client.post(path, content=content, headers={guard.TOKEN_HEADER: token_of(client), **headers})


def song_bytes(tmp_path, name="song.wav"):
    return record(tmp_path / name).read_bytes()


def listed(client):
    return {song["label"]: song for song in client.app.state.jobs.views()}


def wait(condition, seconds=30):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)
    return found


# --- who is let in ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "[", "10.0.0.1",
        "evil.example@127.0.0.1", "evil.example:80@127.0.0.1:8765", "127.0.0.1/evil.example", "127.0.0.1?evil.example",
        "127.0.0.1#evil.example", "127.0.0.1:evil", "127.0.0.1:8765:80", "[::1]evil.example", "localhost evil.example",
    ],
)  # fmt: skip
def test_a_name_that_leads_here_is_no_name_of_ours(client, host):
    for path in ("/", "/api/events", "/app.js"):
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == 403 and token_of(client) not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "127.0.0.1", "LocalHost:8765", "[::1]:8765", "[::1]"])
def test_this_machine_is_let_in(client, host):
    assert client.get("/", headers={"host": host}).status_code == 200


def test_what_changes_anything_needs_the_token_and_our_origin(client, tmp_path):
    song = song_bytes(tmp_path)
    good = {guard.TOKEN_HEADER: token_of(client)}
    for headers in (
        {}, {guard.TOKEN_HEADER: "0" * 36}, {**good, "origin": "http://evil.example"}, {**good, "origin": "null"},
        {**good, "origin": "http://127.0.0.1:9999"},
    ):  # fmt: skip
        assert client.post("/api/songs?name=a.wav", content=song, headers=headers).status_code == 403
    assert listed(client) == {}
    ours = {**good, "origin": "http://127.0.0.1:8765"}
    assert client.post("/api/songs?name=a.wav", content=song, headers=ours).status_code == 201


def test_beyond_this_machine_everything_needs_the_token(fake, folder):
    with client_of(folder, "0.0.0.0", "http://192.168.1.5:8765") as client:
        for path in ("/", "/app.js", "/api/events", "/api/choices", "/?token=wrong"):
            assert client.get(path).status_code == 403
        entered = client.get(f"/?token={token_of(client)}", follow_redirects=False)
        assert entered.status_code == 303 and "token" not in entered.headers["location"]
        assert (
            "HttpOnly" in entered.headers["set-cookie"]
            and "samesite=strict" in entered.headers["set-cookie"].lower()
        )
        assert client.get("/").status_code == 200  # by the cookie
        assert client.get("/", headers={"host": "evil.example"}).status_code == 403
        assert (
            client.post("/api/songs?name=a.wav", content=b"x").status_code == 403
        )  # the cookie alone is too little


def test_the_token_is_kept_and_readable_by_its_owner_alone(fake, folder):
    with client_of(folder) as client:
        token = token_of(client)
    with client_of(folder) as client:
        assert token_of(client) == token and len(token) >= 32
    if sys.platform != "win32":
        assert (places.state(folder) / "queue.sqlite").stat().st_mode & 0o077 == 0


def test_every_answer_forbids_foreign_scripts_and_frames(client):
    for path in ("/", "/app.js", "/api/choices", "/nowhere", "/api/songs/none/player"):
        headers = client.get(path).headers
        assert "script-src 'self';" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_the_page_is_small_needs_no_network_and_says_its_folder_as_text(fake, tmp_path):
    nasty = tmp_path / "<img src=x onerror=alert(1)>"
    with client_of(nasty) as client:
        parts = [client.get(f"/{name}").text for name in ("", "app.css", "app.js", "player.css", "player.js")]
    assert "<img" not in parts[0] and "&lt;img src=x" in parts[0]
    text = "".join(parts).replace("http://www.w3.org/2000/svg", "")
    assert "http://" not in text and "https://" not in text and "@@" not in text
    assert len(text.encode()) < 200_000


# --- what comes in ---------------------------------------------------------------------------------------


@given(st.text(max_size=300))
def test_a_name_becomes_one_harmless_part_of_a_path(name):
    label = uploads.label_of(name)
    track = uploads.track_of(label, lambda track: False)
    assert track == Path(track).name and track not in (".", "..")
    assert not track.startswith((".", " ")) and not track.endswith((".", " ", ".stem"))
    assert not set(track) & set('/\\:*?"<>|\0\n\r\t{}') and 0 < len(track.encode()) < 120
    assert not uploads.RESERVED.match(track)


@pytest.mark.parametrize(
    ("name", "track"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Windows\\a.mp3", "a"),
        ("song.stem.mp4", "song"),
        ("con.wav", "song con"),
        (".hidden.flac", "hidden"),
        ("", "song"),
        ("Mañana (live) – 2.ogg", "Mañana (live) _ 2"),
    ],
)
def test_names_stay_readable(name, track):
    assert uploads.track_of(uploads.label_of(name), lambda track: False) == track


def test_two_songs_of_one_name_have_their_own_results(client, folder, tmp_path):
    song = song_bytes(tmp_path)
    (folder / "a").mkdir()  # something of the person's own
    for _ in range(2):
        assert post(client, "/api/songs?name=a.wav", song).status_code == 201
    tracks = [song.track for song in client.app.state.jobs.store.songs()]
    assert tracks == ["a (2)", "a (3)"]


def kept(folder):
    return [name for name in tree(places.state(folder)) if name not in ("queue.sqlite", "songs", "lock")]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "empty"), (b"this is no song", "no audio found"), (b"RIFF\0\0\0\0WAVE", "")],
)
def test_what_is_no_song_leaves_nothing(client, folder, content, said):
    answer = post(client, "/api/songs?name=a.wav", content)
    assert answer.status_code == 422 and said in answer.json()["error"]
    assert str(folder) not in answer.json()["error"]
    assert listed(client) == {} and kept(folder) == []


def test_size_and_room_are_checked_before_anything_is_written(client, folder, tmp_path, monkeypatch):
    song = song_bytes(tmp_path)
    written = []
    monkeypatch.setattr(uploads, "receive", lambda *_: written.append(1))
    monkeypatch.setattr(uploads, "MOST_BYTES", len(song) - 1)
    assert "at most" in post(client, "/api/songs?name=a.wav", song).json()["error"]
    monkeypatch.setattr(uploads, "MOST_BYTES", 1 << 40)
    free = uploads.RESERVE + len(song) - 1
    monkeypatch.setattr(uploads.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    assert "make room" in post(client, "/api/songs?name=a.wav", song).json()["error"]
    assert post(client, "/api/songs?name=a.wav", iter([song])).status_code == 422  # no length is said
    assert not written and kept(folder) == []


def test_room_is_shared_by_uploads_at_the_same_time(tmp_path, monkeypatch):
    def usage(_):
        written = sum(path.stat().st_size for path in tmp_path.iterdir())
        return type("Usage", (), {"free": uploads.RESERVE + 100_000 - written})

    async def slow(size, more):
        yield b"1" * 20_000
        await more.wait()
        yield b"1" * (size - 20_000)

    async def run():
        more = asyncio.Event()
        first = asyncio.create_task(uploads.receive(slow(70_000, more), tmp_path / "a", "70000"))
        while not (tmp_path / "a").exists():
            await asyncio.sleep(0.01)
        with pytest.raises(DeepsepError, match="make room"):
            await asyncio.wait_for(uploads.receive(slow(40_000, more), tmp_path / "b", "40000"), 5)
        second = asyncio.create_task(uploads.receive(slow(25_000, more), tmp_path / "c", "25000"))
        await asyncio.sleep(0.01)
        more.set()
        await asyncio.gather(first, second)

    monkeypatch.setattr(uploads.shutil, "disk_usage", usage)
    asyncio.run(run())
    assert uploads.coming == {}


def test_less_than_was_said_is_refused(tmp_path):
    async def short():
        yield b"abc"

    with pytest.raises(DeepsepError, match="3 bytes of the file came, 5 were said"):
        asyncio.run(uploads.receive(short(), tmp_path / "a", "5"))


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("{", "no JSON"),
        ("[]", "table of settings"),
        ('{"priors": "../other"}', "no priors"),
        ('{"format": "exe"}', "format"),
        ('{"samples": 9}', "samples"),
        ('{"samples": true}', "samples"),
        ('{"stems": ["piano"]}', "unknown source"),
        ('{"two_stems": "vocals", "stems": ["drums"]}', "not both"),
        ('{"format": "stem", "two_stems": "vocals"}', "exactly 4 stems"),
        ('{"folder": "/"}', "unknown Wishes settings"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(client, folder, tmp_path, wanted, said):
    answer = post(client, f"/api/songs?name=a.wav&wishes={wanted}", song_bytes(tmp_path))
    assert answer.status_code == 422 and said in answer.json()["error"]
    assert kept(folder) == []


# --- the queue -------------------------------------------------------------------------------------------


def send(client, tmp_path, *names):
    song = song_bytes(tmp_path)
    return [post(client, f"/api/songs?name={name}", song).json()["id"] for name in names]


def states(client):
    return [song["state"] for song in client.app.state.jobs.views()]


def test_one_failure_does_not_stop_the_rest(client, tmp_path):
    send(client, tmp_path, "fails.wav", "dies.wav", "good.wav")
    wait(lambda: states(client) == ["failed", "failed", "done"])
    songs = listed(client)
    assert songs["fails.wav"]["error"] == "it is broken"
    assert "memory" in songs["dies.wav"]["error"]


def test_cancel_retry_and_remove(client, folder, tmp_path):
    first, second, third = send(client, tmp_path, "stays.wav", "stays 2.wav", "good.wav")
    wait(lambda: listed(client)["stays.wav"]["done"] == 2.0)
    post(client, f"/api/songs/{second}/cancel")
    assert states(client) == ["running", "cancelled", "waiting"]
    post(client, f"/api/songs/{first}/remove")  # not while it runs
    post(client, f"/api/songs/{first}/cancel")
    wait(lambda: states(client) == ["cancelled", "cancelled", "done"])
    post(client, f"/api/songs/{third}/retry")  # there is nothing to try again
    post(client, f"/api/songs/{second}/retry")
    wait(
        lambda: [song["state"] for song in client.app.state.jobs.views()] == ["cancelled", "done", "running"]
    )
    post(client, f"/api/songs/{first}/remove")
    assert list(listed(client)) == ["good.wav", "stays 2.wav"]
    assert not places.home(folder, Song(first, "", "", "", 0, Wishes())).exists()
    assert post(client, f"/api/songs/{first}/retry").status_code == 422


def test_a_song_that_does_not_stop_is_stopped(client, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "PATIENCE", 0.1)
    (first, _) = send(client, tmp_path, "stubborn.wav", "good.wav")
    wait(lambda: listed(client)["stubborn.wav"]["done"] == 2.0)
    post(client, f"/api/songs/{first}/cancel")
    wait(lambda: states(client) == ["cancelled", "done"])


def test_the_queue_outlives_the_server(fake, folder, tmp_path):
    with client_of(folder) as client:
        ids = send(client, tmp_path, "stays.wav", "good.wav")
        wait(lambda: states(client) == ["running", "waiting"])
        left = folder / "stays" / ".deepsep-0123456789ab.part"  # as a killed worker leaves it
        left.mkdir(parents=True)
    with client_of(folder) as client:
        assert [song["id"] for song in client.app.state.jobs.views()] == ids
        assert not (folder / "stays").exists()
        wait(lambda: states(client) == ["running", "waiting"])
        post(client, f"/api/songs/{ids[0]}/cancel")
        wait(lambda: states(client) == ["cancelled", "done"])
    with client_of(folder) as client:
        assert states(client) == ["cancelled", "done"]


def fail_once(monkeypatch, owner, name, error, when=lambda *_: True):
    """Have a call of `owner.name` raise, the first `when` its arguments say so."""
    real, failed = getattr(owner, name), []

    def call(*words, **options):
        if not failed and when(*words):
            failed.append(1)
            raise error
        return real(*words, **options)

    monkeypatch.setattr(owner, name, call)
    return failed


FULL = sqlite3.OperationalError("database or disk is full")


def test_a_full_disk_fails_a_song_and_not_the_queue(client, folder, tmp_path, monkeypatch, capsys):
    fail_once(monkeypatch, client.app.state.jobs.store, "change", FULL)
    send(client, tmp_path, "first.wav", "good.wav")
    wait(lambda: states(client) == ["failed", "done"])
    assert "make room" in listed(client)["first.wav"]["error"]
    assert "deepsep app: first.wav has failed: database or disk is full" in capsys.readouterr().err
    assert [song.state for song in client.app.state.jobs.store.songs()] == ["failed", "done"]


def test_what_the_store_cannot_take_is_true_on_the_page_and_kept_later(client, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jobs, "LATER", 0.5)
    at_work = client.app.state.jobs
    fail_once(monkeypatch, at_work.store, "change", FULL, lambda song: song.state == "done")
    send(client, tmp_path, "good.wav")
    wait(lambda: states(client) == ["done"])
    assert "cannot be kept (database or disk is full)" in capsys.readouterr().err
    wait(lambda: [song.state for song in at_work.store.songs()] == ["done"] and not at_work.unkept)


def test_a_list_that_takes_nothing_is_said_to_who_asks(client, tmp_path, monkeypatch):
    fail_once(monkeypatch, client.app.state.jobs.store, "add", FULL)
    answer = post(client, "/api/songs?name=a.wav", song_bytes(tmp_path))
    assert answer.status_code == 507 and "make room" in answer.json()["error"]


def test_a_worker_that_cannot_be_started_or_understood_fails_one_song(client, tmp_path, monkeypatch):
    wait(lambda: client.app.state.jobs.worker)
    fail_once(monkeypatch, client.app.state.jobs, "hear", KeyError("seconds"))
    send(client, tmp_path, "first.wav")
    wait(lambda: states(client) == ["failed"])
    assert "went wrong (KeyError('seconds'))" in listed(client)["first.wav"]["error"]
    fail_once(monkeypatch, asyncio, "create_subprocess_exec", OSError(12, "Cannot allocate memory"))
    send(client, tmp_path, "second.wav", "good.wav")
    wait(lambda: states(client) == ["failed", "failed", "done"])
    assert "Cannot allocate memory" in listed(client)["second.wav"]["error"]


def test_a_queue_that_ends_by_itself_ends_the_server(fake, folder, monkeypatch):
    pytest.importorskip("uvicorn")
    monkeypatch.setattr(jobs.Jobs, "keep_late", lambda self: 1 / 0)
    with pytest.raises(DeepsepError, match=r"queue has ended by itself.*start deepsep app again"):
        serve.serve(folder, host="127.0.0.1", port=0, open_browser=False)


@pytest.mark.parametrize(
    "change",
    [
        "wishes = '{\"samples\":99}'",
        "wishes = '{'",
        "wishes = 1",
        "result = '[]'",
        "state = 'odd'",
        "seconds = 'long'",
    ],
)
def test_a_row_that_cannot_be_read_is_a_failed_song(fake, folder, tmp_path, change):
    with client_of(folder) as client:
        first, _ = send(client, tmp_path, "first.wav", "good.wav")
        wait(lambda: states(client) == ["done", "done"])
    with sqlite3.connect(places.state(folder) / "queue.sqlite") as base:
        base.execute(f"update songs set {change} where id = ?", [first])
    base.close()
    with client_of(folder) as client:
        assert states(client) == ["failed", "done"]
        assert "remove it, and send it again" in listed(client)["first.wav"]["error"]
        send(client, tmp_path, "more.wav")
        wait(lambda: states(client) == ["failed", "done", "done"])
        post(client, f"/api/songs/{first}/remove")
        assert states(client) == ["done", "done"]


def test_a_list_of_other_columns_is_a_line_before_the_server_starts(folder):
    places.prepare(folder)
    with sqlite3.connect(places.state(folder) / "queue.sqlite") as base:
        base.execute("create table songs (id text)")
    base.close()
    with pytest.raises(DeepsepError, match=r"queue\.sqlite: cannot be used .*no such column"):
        client_of(folder)


def test_what_a_killed_server_left_of_an_upload_is_removed(fake, folder, tmp_path):
    with client_of(folder) as client:
        (id,) = send(client, tmp_path, "good.wav")
        wait(lambda: states(client) == ["done"])
    left = places.state(folder) / "songs" / "0123456789abcdef"
    left.mkdir()
    (left / "incoming.wav").write_bytes(b"RIFF")
    with client_of(folder):
        assert [path.name for path in left.parent.iterdir()] == [id]


@pytest.mark.parametrize("at", ["songs", ""], ids=["songs", "all"])
def test_nothing_is_removed_behind_a_link_or_under_a_name_of_others(fake, folder, tmp_path, at):
    music = tmp_path / "away" / ("0123456789abcdef" if at else "songs/0123456789abcdef")
    music.mkdir(parents=True)
    (music / "novel.txt").write_text("mine")
    link = places.state(folder) / at
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "away")
    with pytest.raises(DeepsepError, match="is a link; remove it"):
        client_of(folder)
    assert (music / "novel.txt").read_text() == "mine"
    link.unlink()
    (places.state(folder) / "songs" / "notes").mkdir(parents=True)
    with client_of(folder):
        assert [path.name for path in (places.state(folder) / "songs").iterdir()] == ["notes"]


def test_a_song_is_kept_in_the_folder_whatever_its_row_calls_it(folder):
    songs = places.state(folder) / "songs"
    for id in ("..", "../../x", "/etc", ""):
        home = places.home(folder, Song(id, "a.wav", "a", ".wav", 1.0, Wishes()))
        assert home.parent == songs and home.name not in ("", ".", "..")


def test_pages_hear_of_every_change(fake, folder):
    async def run():
        folder.mkdir()
        places.prepare(folder)
        at_work = jobs.Jobs(Store(folder / "queue.sqlite"), folder)
        with at_work.listen() as inbox:
            running = asyncio.create_task(at_work.run())
            at_work.add(Song("a", "good.wav", "good", ".wav", 4.0, Wishes()))
            heard = []
            while not heard or heard[-1].get("song", {}).get("state") != "done":
                heard.append(await asyncio.wait_for(inbox.get(), 30))
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            assert inbox.get_nowait() is None  # the stream ends with the server
        return heard

    first, *rest = asyncio.run(run())
    assert [song["label"] for song in first["songs"]] == ["good.wav"]
    phases = [message["song"]["phase"] for message in rest]
    assert phases == ["loading", "reading", "separating", ""]
    assert rest[2]["song"]["done"] == 2.0 and rest[-1]["song"]["took"] == 2.0


def test_a_store_of_another_kind_is_a_line(tmp_path):
    (tmp_path / "queue.sqlite").write_bytes(b"this is no database, but long enough to be read as one" * 30)
    with pytest.raises(DeepsepError, match="--folder"):
        Store(tmp_path / "queue.sqlite")


# --- files equal to the command line's ---------------------------------------------------------------------


def without_time(data):
    """The bytes of a file, without the time that libsndfile writes into a float WAV."""
    at = data.find(b"PEAK")
    return data if at < 0 else data[: at + 12] + data[at + 16 :]


def separate(folder, source, wanted, check=lambda: None):
    """What the worker does with one song, in this process; gives its result and what it said."""
    said = []
    order = {
        "id": "a", "label": source.name, "source": str(source), "folder": str(folder / "out"),
        "sounds": str(folder / "sound"), "wishes": wanted,
    }  # fmt: skip
    (folder / "out").mkdir(parents=True, exist_ok=True)
    result = worker.separate(order, check, lambda event, id, **facts: said.append((event, facts)))
    return result, said


@pytest.mark.parametrize(
    ("wanted", "typed"),
    [
        ({}, []),
        ({"format": "flac", "bit_depth": "16"}, ["-f", "flac", "--bit-depth", "16"]),
        ({"format": "mp3", "bitrate": 128}, ["-f", "mp3", "--bitrate", "128"]),
        ({"format": "stem"}, ["-f", "stem"]),
        ({"two_stems": "bass", "method": "encoder"}, ["--two-stems", "bass", "--method", "encoder"]),
        ({"stems": ["drums", "other"], "method": "sgld"}, ["--stems", "drums,other", "--method", "sgld"]),
        ({"samples": 2, "uncertainty": True}, ["--samples", "2", "--uncertainty"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_files_are_those_of_the_command_line(tmp_path, priors, deepsep, wanted, typed):
    if wanted.get("format") == "stem":
        pytest.importorskip("av")
    if wanted.get("uncertainty"):
        pytest.importorskip("matplotlib")
    source = record(tmp_path / "song.wav", noise(6.5))
    result, said = separate(tmp_path, source, {"priors": str(priors), **wanted})
    deepsep.good("separate", source, "-o", "cli", "--priors", priors, *typed)
    ours, theirs = tmp_path / "out", tmp_path / "cli"
    assert tree(ours) == tree(theirs) and tree(ours)
    for name in tree(ours):
        assert without_time((ours / name).read_bytes()) == without_time((theirs / name).read_bytes()), name
    assert sorted(result["files"].values()) == tree(ours)
    assert said[0] == ("began", {"seconds": 6.5, "method": said[0][1]["method"]})
    done = [facts["done"] for event, facts in said if event == "progress"]
    assert done == sorted(done) and done[-1] == 6.5
    assert [facts["ready"] for event, facts in said if event == "ready"] == [1, 2]


def test_the_stem_file_of_float_stems_is_that_of_the_command_line(tmp_path, priors, deepsep):
    pytest.importorskip("av")
    source = record(tmp_path / "song.wav", noise(1.5))
    result, _ = separate(tmp_path, source, {"priors": str(priors)})
    folder = tmp_path / "out"
    song = Song("a", "song.wav", "song", ".wav", 1.5, Wishes(), "done", "", result)
    upload = places.upload(folder, song)
    upload.parent.mkdir(parents=True)
    upload.write_bytes(source.read_bytes())
    assert downloads.may_be_stem_file(song)
    made = downloads.make_stem_file(folder, song)
    deepsep.good("separate", source, "-o", "cli", "--priors", priors, "-f", "stem")
    assert made.read_bytes() == (tmp_path / "cli" / "song.stem.mp4").read_bytes()


def test_a_cancelled_song_leaves_nothing(tmp_path, priors):
    source = record(tmp_path / "song.wav", noise(6.5))
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise worker.Cancelled

    with pytest.raises(worker.Cancelled):
        separate(tmp_path, source, {"priors": str(priors)}, check)
    assert tree(tmp_path / "out") == []


def test_a_player_that_cannot_be_kept_costs_the_player_alone(tmp_path, priors, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(listening, "write_whole", full)
    source = record(tmp_path / "song.wav", noise(6.5))
    result, said = separate(tmp_path, source, {"priors": str(priors)})
    assert result["notes"] == ["it cannot be played here (No space left on device)"]
    assert len(tree(tmp_path / "out")) == 4 and not [event for event, _ in said if event == "ready"]


def test_too_little_room_is_said_before_anything_is_written(tmp_path, priors, monkeypatch):
    source = record(tmp_path / "song.wav", noise(1))
    monkeypatch.setattr(uploads.shutil, "disk_usage", lambda _: type("Usage", (), {"free": uploads.RESERVE}))
    with pytest.raises(DeepsepError, match="make room"):
        separate(tmp_path, source, {"priors": str(priors)})
    assert tree(tmp_path / "out") == [] and not (tmp_path / "sound").exists()


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_the_player_hears_the_files(tmp_path, priors, rate):
    source = record(tmp_path / "song.wav", noise(11, rate=rate), rate)
    result, _ = separate(tmp_path, source, {"priors": str(priors)})
    drawn = json.loads((tmp_path / "sound" / "player.json").read_text())
    data = drawn["data"]
    assert [track["name"] for track in data["tracks"]] == ["Original", "vocals", "drums", "bass", "other"]
    assert data["seconds"] == pytest.approx(11)
    assert drawn["html"].count("<section") == 5
    truth = sf.read(tmp_path / "out" / result["files"]["vocals"], always_2d=True)[0]
    margin, step = data["margin"], listening.PIECE_SECONDS * data["rate"]
    pieces = [sf.read(tmp_path / "sound" / places.piece_name(1, n), always_2d=True)[0] for n in range(3)]
    heard = np.concatenate([piece[margin:-margin][:step] for piece in pieces])
    assert len(heard) == pytest.approx(data["tracks"][1]["frames"], abs=2)
    if rate == data["rate"]:
        assert np.abs(truth).max() > 1  # what goes past full scale is heard too
        assert np.abs(listening.HEADROOM * heard - truth).max() < 2**-14


# --- downloads -------------------------------------------------------------------------------------------


def add_done(client, folder, files):
    jobs_of = client.app.state.jobs
    song = Song(
        "abc", "song.wav", "song", ".wav", 1.0, Wishes(), "done", "", {"files": files, "stems": [*files]}
    )
    jobs_of.store.add(song)
    for path in files.values():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.encode() * 1000)
    return song


def test_one_file_and_all_as_a_zip(client, folder):
    files = {"sample-1/vocals": "song/sample-1/vocals.wav", "uncertainty": "song/uncertainty.npz"}
    add_done(client, folder, files)
    one = client.get("/api/songs/abc/file", params={"name": "sample-1/vocals"})
    assert one.content == (folder / files["sample-1/vocals"]).read_bytes()
    assert "attachment" in one.headers["content-disposition"]
    whole = zipfile.ZipFile(BytesIO(client.get("/api/songs/abc/zip").content))
    assert whole.namelist() == [*files.values()] and whole.testzip() is None
    assert {name: whole.read(name) for name in files.values()} == {
        name: (folder / name).read_bytes() for name in files.values()
    }
    (folder / files["uncertainty"]).unlink()
    assert "not there any more" in client.get("/api/songs/abc/zip").json()["error"]


def test_a_zip_is_sent_whole_or_seen_to_break(client, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "CHUNK", 1000)
    files = [(name, tmp_path / name) for name in "ab"]
    for _, path in files:
        path.write_bytes(b"12345" * 1000)
    pieces = downloads.zipped(files)
    first = next(pieces)
    if sys.platform != "win32":
        files[1][1].unlink()  # by now it is open
    assert zipfile.ZipFile(BytesIO(first + b"".join(pieces))).testzip() is None
    files[1][1].write_bytes(b"12345" * 1000)
    pieces = downloads.zipped(files)
    next(pieces)
    files[1][1].write_bytes(b"123")
    with pytest.raises(OSError, match="b has changed"):
        list(pieces)
    with pytest.raises(DeepsepError, match="c cannot be read"):
        downloads.zipped([*files, ("c", tmp_path / "c")])
    song = add_done(client, folder, {"vocals": "song/vocals.wav"})
    monkeypatch.setattr(
        downloads, "file_of", lambda *_: folder / "song/gone.wav"
    )  # gone since it was looked for
    answer = client.get(f"/api/songs/{song.id}/zip")
    assert answer.status_code == 422 and "cannot be read" in answer.json()["error"]


def test_only_results_in_the_folder_are_given_out(client, folder, tmp_path):
    (tmp_path / "secret").write_text("secret")
    add_done(client, folder, {"vocals": "song/vocals.wav"})
    song = client.app.state.jobs.store.song("abc")
    song.result["files"] |= {"up": "../secret", "absolute": str(tmp_path / "secret")}
    client.app.state.jobs.store.change(song)
    for name in ("up", "absolute", "../secret", "song/../../secret", "/etc/passwd", ""):
        assert client.get("/api/songs/abc/file", params={"name": name}).status_code == 422
    assert zipfile.ZipFile(BytesIO(client.get("/api/songs/abc/zip").content)).namelist() == [
        "song/vocals.wav"
    ]
    for path in (
        "/api/songs/..%2f..%2fsecret/player",
        "/api/songs/abc/sound/-1/0",
        "/api/songs/abc/sound/0/..",
        "/..%2fsecret",
    ):
        assert client.get(path).status_code in (404, 422)


def test_a_program_without_the_extra_names_it(deepsep, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "deepsep[app]" in deepsep.bad("app", "--no-browser")


def test_a_port_in_use_and_a_folder_that_is_a_file_are_lines(deepsep, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "choose another --port" in deepsep.bad("app", "--no-browser", "--folder", "f", "--port", port)
    (tmp_path / "file").write_text("")
    assert "choose another --folder" in deepsep.bad("app", "--no-browser", "--folder", "file", "--port", 0)


@pytest.mark.parametrize("host", ["a b", "a..b", "." * 70])
def test_a_host_that_is_none_says_what_to_give(deepsep, host):
    told = deepsep.bad("app", "--no-browser", "--folder", "f", "--port", 0, "--host", host)
    assert "Unknown error" not in told and "give --host an address of this machine" in told


def told_addresses(folder, host, monkeypatch):
    """What `serve` tells when it is ready, without a server that goes on."""
    uvicorn = pytest.importorskip("uvicorn")
    told = []

    def run(server, sockets):
        from starlette.testclient import TestClient

        with TestClient(server.config.app):
            pass

    monkeypatch.setattr(uvicorn.Server, "run", run)
    serve.serve(folder, host=host, port=0, open_browser=False, on_ready=told.append)
    return told


def test_the_address_for_a_phone_is_a_number_and_a_container_s_is_localhost(fake, folder, monkeypatch):
    (told,) = told_addresses(folder, "0.0.0.0", monkeypatch)
    found = re.fullmatch(r"http://(\S+):(\d+)(/\?token=\w+) or in a container: http://localhost:\2\3", told)
    assert found and found[1] in (serve.own_address(socket.AF_INET), socket.gethostname())
    (told,) = told_addresses(folder, "127.0.0.1", monkeypatch)
    assert re.fullmatch(r"http://127.0.0.1:\d+/", told)


def test_the_own_address_is_that_of_the_way_out_or_the_name_where_there_is_none(monkeypatch):
    class Way(socket.socket):
        def connect(self, target):
            assert self.type == socket.SOCK_DGRAM
            if self.family == socket.AF_INET6:
                raise OSError(101, "Network is unreachable")

        def getsockname(self):
            return ("192.168.1.5", 40000)

    monkeypatch.setattr(serve.socket, "socket", Way)
    assert serve.own_address(socket.AF_INET) == "192.168.1.5"
    assert serve.own_address(socket.AF_INET6) == socket.gethostname()


@pytest.mark.parametrize(
    "code",
    [
        "sys.argv = ['deepsep', 'app', '--help']; import deepsep.cli; deepsep.cli.main()",
        "import deepsep.app.routes",
    ],
)
def test_help_and_the_server_do_without_torch(code):
    script = f"import sys\ntry:\n    {code}\nexcept SystemExit as done: assert not done.code\n"
    script += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=60)


def test_priors_of_the_cache_are_offered_at_their_commit(monkeypatch):
    row = {"name": "org/name", "commit": "a" * 40, "sources": ["vocals", "drums"], "encoder": ["vocals"]}
    rows = [{**row, "complete": True}, {**row, "commit": "b" * 40, "complete": False}]
    monkeypatch.setattr(wishes, "local_priors", lambda: rows)
    (found,) = wishes.choices()["priors"]
    assert found["spec"] == f"org/name@{'a' * 40}" and found["sources"] == ["vocals", "drums"]
    assert wishes.check({"priors": found["spec"], "two_stems": "drums"}, [found]).two_stems == "drums"
    with pytest.raises(DeepsepError, match="no encoder"):
        wishes.check({"priors": found["spec"], "method": "encoder"}, [found])
