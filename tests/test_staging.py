"""Files appear together or not at all; what a killed process left goes away, what a living one holds stays."""

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

from deepsep.errors import DeepsepError
from deepsep.staging import Scratch, StagedFiles, place_of, uninterrupted

HOLD = """
import sys
from pathlib import Path
from deepsep.staging import Scratch
scratch = Scratch(Path(sys.argv[1]))
(scratch.path / "0.wav").write_bytes(bytes(1000))
print("ready", flush=True)
sys.stdin.read()
"""


def stage(folder, old=("a", "b")):
    """Three targets in two folders, one of them new; some exist."""
    targets = {"a": folder / "a.wav", "b": folder / "new" / "b.wav", "c": folder / "c.html"}
    for name in old:
        targets[name].parent.mkdir(exist_ok=True)
        targets[name].write_text(f"old {name}")
    return targets


def contents(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def fill(staged):
    for name, path in staged.temporary.items():
        path.write_text(f"new {name}")


def test_all_appear_at_the_commit_and_no_trace_stays(tmp_path):
    targets = stage(tmp_path, old=("a",))
    with StagedFiles(targets) as staged:
        fill(staged)
        assert [path.exists() for path in targets.values()] == [True, False, False]
        staged.commit()
    assert contents(tmp_path) == {"a.wav": "new a", "new/b.wav": "new b", "c.html": "new c"}
    assert sorted(os.listdir(tmp_path)) == ["a.wav", "c.html", "new"]


@pytest.mark.parametrize("call", ["replace", "fsync", "link", "mkdir"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=type)
def test_a_failure_at_any_moment_changes_nothing(call, error, tmp_path, monkeypatch):
    real, failed = getattr(os, call), 0
    for n in range(20):
        folder = tmp_path / str(n)
        folder.mkdir()
        targets = stage(folder, old=() if call == "mkdir" else ("a", "b"))
        before = contents(folder)
        left = [n]

        def fail(*args, left=left, **more):
            left[0] -= 1
            if left[0] == -1:
                raise error
            return real(*args, **more)

        monkeypatch.setattr(os, call, fail)
        try:
            with StagedFiles(targets) as staged:
                fill(staged)
                staged.commit()
        except (DeepsepError, KeyboardInterrupt) as found:
            failed += 1
            assert "\n" not in str(found)
            assert contents(folder) == before
        else:
            assert contents(folder) == {"a.wav": "new a", "new/b.wav": "new b", "c.html": "new c"}
        finally:
            monkeypatch.undo()
        assert not list(folder.rglob(".*"))
        if left[0] >= 0:
            break
    # without a second name for what it replaces, a commit goes on
    assert failed >= (2 if call != "link" else 0), "nothing was injected"


@pytest.mark.slow
def test_what_a_killed_process_left_goes_away_and_what_a_living_one_holds_stays(tmp_path):
    command, pipe = [sys.executable, "-c", HOLD, str(tmp_path)], subprocess.PIPE
    killed, living = (subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2))
    try:
        for process in (killed, living):
            assert process.stdout.readline() == "ready\n"
        assert len(os.listdir(tmp_path)) == 2
        killed.kill()
        killed.wait()
        others = {".mine.part", ".deepsep-live.part"}  # of another program; of a song of this name
        for name in others:
            (tmp_path / name).mkdir()
        Scratch(tmp_path).remove()
        left = {path.name for path in tmp_path.iterdir()}
        assert len(left) == 3 and others < left
        held = next(path for path in tmp_path.iterdir() if path.name not in others)
        assert (held / "0.wav").stat().st_size == 1000
    finally:
        for process in (killed, living):
            process.kill()
            process.communicate()
    with StagedFiles({"a": tmp_path / "a.wav"}):
        pass
    assert set(os.listdir(tmp_path)) == others


def test_a_link_is_not_followed_out_of_the_folder(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "song.wav").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".deepsep-000000000000.part").symlink_to(tmp_path / "kept")
    Scratch(tmp_path / "out").remove()
    assert (tmp_path / "kept" / "song.wav").read_text() == "mine"


def test_a_temporary_file_names_its_place_in_messages(tmp_path):
    with StagedFiles({"a": tmp_path / "a.wav"}) as staged:
        assert (
            place_of(staged.temporary["a"]) == place_of(staged.temporary["a"].parent / "x" / "1") == tmp_path
        )
    assert place_of(tmp_path / "a.wav") == tmp_path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_the_block_that_holds_it(number):
    seen = []
    before = signal.signal(number, lambda *_: seen.append("signal"))
    try:
        with uninterrupted():
            with uninterrupted():
                signal.raise_signal(number)
                seen.append("inner")
            seen.append("outer")
        assert seen == ["inner", "outer", "signal"]
    finally:
        signal.signal(number, before)


def test_a_thread_can_commit(tmp_path):
    def work():
        with StagedFiles({"a": tmp_path / "a"}) as staged:
            fill(staged)
            staged.commit()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert contents(tmp_path) == {"a": "new a"}


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("replace", [True, False])
def test_what_another_process_wrote_meanwhile_is_replaced_only_where_asked(
    tmp_path, monkeypatch, replace, links
):
    if not links:

        def refuse(*args, **more):
            raise OSError(errno.EPERM, "Operation not permitted")  # as exFAT says

        monkeypatch.setattr(os, "link", refuse)
    targets = {name: tmp_path / f"{name}.wav" for name in ("a", "b")}
    with StagedFiles(targets, replace=replace) as staged:
        for name in targets:
            staged.temporary[name].write_text("mine")
        targets["b"].write_text("theirs")
        if replace:
            staged.commit()
        else:
            with pytest.raises(DeepsepError, match=r"another process has written it; use --overwrite"):
                staged.commit()
    assert targets["b"].read_text() == ("mine" if replace else "theirs")
    assert targets["a"].exists() == replace
