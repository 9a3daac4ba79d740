"""What lays out the training data: steps that may be stopped anywhere, packages that are whole or not there."""

import hashlib
import importlib
import subprocess
import sys
import zipfile
from pathlib import Path
from unittest.mock import MagicMock

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from packages import extract, unlike, unpack_debian, unpack_npm
from stages import alone, take


class Killed(BaseException):
    """What ends a program at once."""


def write(path, text="sound"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def files(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_a_step_is_taken_once_and_its_files_lie_beside_its_mark(tmp_path):
    taken = []

    def step(made):
        taken.append(made)
        write(made / "data" / "drums" / "a.flac")
        (made / "data" / "drums" / "b.flac").symlink_to(tmp_path / "elsewhere.flac")

    write(tmp_path / "elsewhere.flac")
    write(tmp_path / "out" / "data" / "drums" / "old.flac")
    for _ in range(2):
        take(step, tmp_path / "out" / "one.done", tmp_path / "out" / "making")
    assert len(taken) == 1
    drums = {f"data/drums/{name}.flac" for name in ("a", "b", "old")}
    assert set(files(tmp_path / "out")) == drums | {"one.done"}


def test_a_step_that_was_stopped_begins_anew_and_leaves_nothing_of_the_first_try(tmp_path):
    tries = []

    def step(made):
        tries.append(made)
        write(made / "data" / f"try{len(tries)}.flac")
        if len(tries) == 1:
            raise Killed

    mark, making = tmp_path / "one.done", tmp_path / "making"
    with pytest.raises(Killed):
        take(step, mark, making)
    assert not mark.exists() and not (tmp_path / "data").exists()
    take(step, mark, making)
    assert set(files(tmp_path)) == {"data/try2.flac", "one.done"}


@pytest.mark.parametrize("moved", range(4))
def test_a_step_stopped_while_its_files_are_moved_goes_on_with_that(tmp_path, monkeypatch, moved):
    names = ["data/a/1.flac", "data/a/2.flac", "data/b/1.flac"]
    replace, left = Path.replace, [moved]

    def stopping(path, target):
        if not left[0]:
            raise Killed
        left[0] -= 1
        return replace(path, target)

    def step(made):
        assert not (tmp_path / "data").exists(), "the step was taken twice"
        for name in names:
            write(made / name)

    monkeypatch.setattr(Path, "replace", stopping)
    mark, making = tmp_path / "one.done", tmp_path / "making"
    if moved < len(names):
        with pytest.raises(Killed):
            take(step, mark, making)
        assert not mark.exists()
    left[0] = 99
    take(step, mark, making)
    assert set(files(tmp_path)) == {*names, "one.done"} and not making.exists()


def test_a_step_stopped_just_before_its_end_can_be_taken_again(tmp_path, monkeypatch):
    taken = []

    def step(made):
        taken.append(made)
        write(made / "data" / "a.flac")

    def stopping(folder, **words):
        if (tmp_path / "one.done").exists():
            raise Killed

    mark, making = tmp_path / "one.done", tmp_path / "making"
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("stages.shutil.rmtree", stopping)
        take(step, mark, making)
    assert mark.exists()
    take(step, mark, making)
    assert len(taken) == 1 and not making.exists()
    mark.unlink()
    take(step, mark, making)
    assert len(taken) == 2


def test_two_programs_of_a_name_are_not_at_work_in_a_folder(tmp_path):
    with alone(tmp_path, "collect"):
        with alone(tmp_path, "retrain"):
            pass
        with pytest.raises(SystemExit, match="another collect is at work"), alone(tmp_path, "collect"):
            pass
    with pytest.raises(SystemExit) as ended, alone(tmp_path, "collect"):
        raise KeyboardInterrupt
    assert ended.value.code == 130


def test_what_fails_its_check_is_not_put_in_place(tmp_path):
    def check(made):
        for path in unlike(tmp_path / "listed.txt", made / "data", {"synth"}):
            path.unlink()

    def step(made):
        for name in (
            "drums/eif/same.flac",
            "drums/eif/other.flac",
            "drums/eif/new.flac",
            "drums/synth/any.flac",
        ):
            write(made / "data" / name, name)

    same = hashlib.sha256(b"drums/eif/same.flac").hexdigest()[:16]
    write(
        tmp_path / "listed.txt",
        f"drums/eif/same.flac {same}\ndrums/eif/other.flac {same}\ndrums/synth/any.flac {same}\n",
    )
    take(step, tmp_path / "out" / "one.done", tmp_path / "making", check)
    kept = {"drums/eif/same.flac", "drums/eif/new.flac", "drums/synth/any.flac"}
    assert set(files(tmp_path / "out" / "data")) == kept


def imitate(monkeypatch, fail):
    """apt-get, dpkg, npm and tar that write one file; `fail` names the program that is killed halfway."""

    def run(command, cwd=None, check=True):
        program = Path(command[0]).name
        place = Path(cwd) if cwd else Path(command[-1])
        if program in ("apt-get", "npm"):
            write(place / ("some_1.deb" if program == "apt-get" else "some-1.tgz"))
        else:
            write(place / ("package/a.mp3" if program == "tar" else "usr/a.ogg"))
        if program in fail:
            raise Killed
        if program in ("tar", "dpkg"):
            write(place / ("package/b.mp3" if program == "tar" else "usr/b.ogg"))

    monkeypatch.setattr(subprocess, "run", run)


@pytest.mark.parametrize("stopped", ["apt-get", "dpkg"])
def test_a_debian_package_is_unpacked_whole_or_not_at_all(tmp_path, monkeypatch, stopped):
    imitate(monkeypatch, [stopped])
    with pytest.raises(Killed):
        unpack_debian("some", tmp_path)
    assert not (tmp_path / "some").exists()
    imitate(monkeypatch, [])
    assert set(files(unpack_debian("some", tmp_path))) == {"usr/a.ogg", "usr/b.ogg"}
    imitate(monkeypatch, ["apt-get", "dpkg"])
    unpack_debian("some", tmp_path)  # is there
    assert [p.name for p in tmp_path.iterdir()] == ["some"]


@pytest.mark.parametrize("stopped", ["npm", "tar"])
def test_an_npm_package_is_unpacked_whole_or_not_at_all(tmp_path, monkeypatch, stopped):
    imitate(monkeypatch, [stopped])
    with pytest.raises(Killed):
        unpack_npm("some", "1", tmp_path)
    assert not (tmp_path / "some-1").exists()
    imitate(monkeypatch, [])
    assert set(files(unpack_npm("some", "1", tmp_path))) == {"a.mp3", "b.mp3"}


def test_recordings_of_a_package_lie_in_it_or_in_archives_in_it(tmp_path):
    package, target = tmp_path / "package", tmp_path / "data" / "a.ogg"
    write(package / "usr" / "a.ogg", "plain")
    for name, member in (("music.pk3", "tracks/a.ogg"), ("game.love", "data/a.ogg")):
        with zipfile.ZipFile(package / name, "w") as archive:
            archive.writestr(member, name)
    for path, text in (
        ("usr/a.ogg", "plain"),
        ("music.pk3!/tracks/a.ogg", "music.pk3"),
        ("love/data/a.ogg", "game.love"),
    ):
        target.unlink(missing_ok=True)
        assert extract(package, path, target) and target.read_text() == text
    target.unlink()
    assert not extract(package, "love/data/b.ogg", target) and not target.exists()
    assert not extract(package, "usr/b.ogg", target) and not target.exists()
    assert not extract(package, "gone.pk3!/tracks/a.ogg", target) and not target.exists()


def test_collecting_lays_out_what_may_be_trained_on_and_only_that(tmp_path, monkeypatch, capsys):
    for module in ("mido", "pyworld"):
        monkeypatch.setitem(sys.modules, module, MagicMock())
    collect = importlib.import_module("collect")
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    for name in (
        "vocals/eif_x.ogg", "vocals/producer_01.ogg", "vocals/producer_04.ogg", "vocals/kumi_ja_90.ogg",
        "drums/waivops_x.ogg", "accompaniment/mcl_jukebox_track_3.ogg", "accompaniment/mcl_new.ogg",
        "songs/potassium/vocals.ogg", "unlabelled/song.ogg", "debian_music.tsv",
    ):  # fmt: skip
        write(corpus / name)
    program = ["collect.py", str(corpus), str(out), "--only"]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", [*program, "solos"])
        collect.main()
        laid = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_symlink()}
        assert {name for name in laid if not name.endswith(".stem.mp4")} == {
            "data/vocals/eif/eif_x.ogg", "data/vocals/banks/kumi_ja_90.ogg", "data/drums/waivops/waivops_x.ogg",
            "data/drums+bass+other/mcl/mcl_new.ogg", "mixtures/song.ogg", "songs/potassium/vocals.ogg",
        }  # fmt: skip
    assert "producer_01.ogg is not the recording that was trained on" in capsys.readouterr().out
    for words, said in (("solo", "unknown step solo"), ("solos", "no debian_music.tsv")):
        (corpus / "debian_music.tsv").unlink(missing_ok=words == "solos")
        monkeypatch.setattr(sys, "argv", [*program, words])
        with pytest.raises(SystemExit):
            collect.main()
        assert said in capsys.readouterr().err
