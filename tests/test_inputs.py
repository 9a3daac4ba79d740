"""What is typed becomes files."""

import os
from pathlib import Path

import pytest

from deepsep.output.inputs import expand_inputs


def names(found):
    files, problems = found
    assert problems == []
    return [str(path) for path in files]


@pytest.fixture
def music(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.wav", "a.FLAC", ".hidden.wav", "._b.wav", "notes.txt", "sub/c.ogg", "sub/.cache/d.wav"):
        path = Path("music", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return Path("music")


def test_a_folder_means_its_audio_files(music):
    assert names(expand_inputs(["music"])) == ["music/a.FLAC", "music/b.wav"]
    deep = names(expand_inputs(["music"], recursive=True))
    assert deep == ["music/a.FLAC", "music/b.wav", "music/sub/c.ogg"]


def test_earlier_outputs_are_no_inputs(music):
    deep = names(expand_inputs(["music"], recursive=True, avoid=Path("music/sub")))
    assert deep == ["music/a.FLAC", "music/b.wav"]
    assert names(expand_inputs(["music/sub/c.ogg"], avoid=Path("music/sub"))) == ["music/sub/c.ogg"]


def test_globs_are_ours_where_the_shell_leaves_them(music):
    assert names(expand_inputs(["music/*.wav"])) == ["music/b.wav"]
    assert names(expand_inputs(["music/**/*.ogg"])) == ["music/sub/c.ogg"]
    assert names(expand_inputs(["mus*"])) == ["music/a.FLAC", "music/b.wav"]


def test_a_name_with_brackets_is_a_name_first(music):
    for name in ("x [live].wav", "x l.wav"):
        (music / name).touch()
    assert names(expand_inputs(["music/x [live].wav"])) == ["music/x [live].wav"]


def test_each_file_once_whatever_way_it_is_reached(music):
    os.symlink("music", "again")
    os.symlink("b.wav", "music/other name.wav")
    ways = [
        "music/b.wav",
        "./music/b.wav",
        os.path.abspath("music/b.wav"),
        "again/b.wav",
        "music/../music/b.wav",
    ]
    assert names(expand_inputs(ways)) == ["music/b.wav"]
    assert names(expand_inputs(["music/b.wav", "music/other name.wav"])) == [
        "music/b.wav", "music/other name.wav",
    ]  # fmt: skip


def test_what_holds_nothing_is_told_apart(music):
    Path("nothing").mkdir()
    files, problems = expand_inputs(["nothing", "*.mp3", "gone.wav", "~no such user/x.wav"])
    assert [str(path) for path in files] == ["gone.wav", "~no such user/x.wav"]  # reading them will tell
    assert [str(problem).split(":")[0] for problem in problems] == ["nothing", "*.mp3"]
