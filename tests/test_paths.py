"""Files become outputs, where the pattern says and before any work."""

import os
from contextlib import nullcontext
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import soundfile as sf
from cli_fixtures import examples
from filelock import FileLock
from hypothesis import given, settings

from deepsep.errors import DeepsepError
from deepsep.output import paths

RATE = 44100
NAMES = ["vocals", "drums", "bass", "other"]


@pytest.fixture
def music(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.wav", "a.FLAC"):
        path = Path("music", name)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    Path("music/sub").mkdir()
    return Path("music")


def output(**changes):
    return paths.Output(
        **{"folder": Path("out"), "stems": {"vocals": ["vocals"], "rest": ["rest"]}, **changes}
    )


def planned(files, priors="", skip=False, **changes):
    inputs = [paths.Input(Path(path), str(path)) for path in files]
    return paths.plan(inputs, output(**changes), priors=priors, skip_existing=skip)


def outputs(job):
    return {name: path.as_posix() for name, path in {**job.paths, **job.extras}.items()}


@pytest.mark.parametrize("alive", [False, True])
def test_what_a_killed_run_left_beside_complete_outputs_is_removed_when_they_are_skipped(music, alive):
    (job,) = planned(["music/b.wav"])
    left = Path("out/b/.deepsep-0123456789ab.part")
    left.mkdir(parents=True)
    for path in (*job.paths.values(), left / "0.wav", left / "lock"):
        path.touch()
    with FileLock(left / "lock") if alive else nullcontext():
        assert planned(["music/b.wav"], skip=True) == []
        assert left.exists() == alive
    assert all(path.exists() for path in job.paths.values())


def test_default_places(music):
    assert outputs(planned(["music/b.wav"])[0]) == {
        "vocals": "out/b/vocals.wav",
        "rest": "out/b/rest.wav",
    }
    assert outputs(planned(["music/b.wav"], format="stem")[0]) == {"mix": "out/b.stem.mp4"}
    several = planned(["music/b.wav"], draws=2, uncertainty=True, report=True, format="flac")[0]
    assert outputs(several) == {
        "sample-1/vocals": "out/b/sample-1/vocals.flac",
        "sample-1/rest": "out/b/sample-1/rest.flac",
        "sample-2/vocals": "out/b/sample-2/vocals.flac",
        "sample-2/rest": "out/b/sample-2/rest.flac",
        "uncertainty": "out/b/uncertainty.npz",
        "picture": "out/b/uncertainty.png",
        "report": "out/b/report.html",
    }


@pytest.mark.parametrize(
    ("pattern", "beside"),
    [
        ("{track}-{stem}.{ext}", "out/b.report.html"),
        ("{stem}/{track}.{ext}", "out/b.report.html"),
        ("{parent}/{track} ({priors})/{stem}.{ext}", "out/music/b (me)/report.html"),
    ],
)
def test_the_page_lies_beside_the_stems_and_is_one_for_each_track(pattern, beside, music):
    jobs = planned(["music/b.wav", "music/a.FLAC"], "me", pattern=pattern, report=True)
    assert outputs(jobs[0])["report"] == beside
    assert jobs[0].extras != jobs[1].extras


def test_two_tracks_in_one_place(music):
    (music / "b.mp3").touch()
    (music / "sub/b.wav").touch()
    with pytest.raises(DeepsepError, match=r"b\.wav and music/b\.mp3 would both .* different --out"):
        planned(["music/b.wav", "music/b.mp3"])
    with pytest.raises(DeepsepError, match=r'"\{parent\}/\{track\}/\{stem\}\.\{ext\}"'):
        planned(["music/b.wav", "music/sub/b.wav"])
    assert len(planned(["music/b.wav", "music/sub/b.wav"], pattern="{parent}/{track}/{stem}.{ext}")) == 2
    with pytest.raises(DeepsepError, match=r"put \{track\} in"):
        planned(["music/b.wav", "music/a.FLAC"], pattern="{stem}.{ext}")


def test_samples_need_their_key(music):
    with pytest.raises(DeepsepError, match=r"needs \{sample\}"):
        planned(["music/b.wav"], draws=2, pattern="{track}/{stem}.{ext}")


def test_only_tracks_that_are_complete_are_skipped(music):
    for job in planned(["music/b.wav"]):
        for path in job.paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    jobs = planned(["music/b.wav", "music/a.FLAC"], skip=True)
    assert [job.source.name for job in jobs] == ["a.FLAC"]
    with pytest.raises(DeepsepError, match="though other outputs of this track do not"):
        planned(["music/b.wav"], skip=True, report=True)


def test_planning_creates_nothing(music):
    planned(["music/b.wav"], report=True, uncertainty=True)
    assert not Path("out").exists()


def test_what_the_outputs_sum():
    sources = ["vocals", "drums", "bass"]
    assert paths.output_stems(sources) == {s: [s] for s in sources}
    assert list(paths.output_stems(sources, ["bass", "vocals"])) == ["vocals", "bass"]
    assert paths.output_stems(sources, two_stems="drums") == {
        "drums": ["drums"],
        "no_drums": ["vocals", "bass"],
    }
    with pytest.raises(DeepsepError, match="no other source"):
        paths.output_stems(["flute"], two_stems="flute")


def test_a_pattern_cannot_name_a_file_after_another_format(tmp_path):
    song = tmp_path / "song.wav"
    song.write_bytes(b"")
    output = paths.Output(folder=tmp_path, stems={"vocals": ["vocals"]}, pattern="{stem}.mp3", format="wav")
    with pytest.raises(DeepsepError, match="would hold wav"):
        paths.plan([paths.Input(song, "song")], output)


# --- the paths of one track


@pytest.fixture
def track(tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    sf.write(folder / "a.b.wav", np.zeros((100, 2)), RATE)
    return folder / "a.b.wav"


def planned_paths(track, out, pattern="{track}/{stem}.{ext}", names=NAMES):
    return paths.plan_paths(track, out, pattern, names, "wav", priors="tiny", draw=3)


def test_plan_fills_the_pattern_in_order_and_creates_nothing(track, tmp_path):
    found = planned_paths(track, tmp_path / "out", "{priors}/{parent}/{track}/{sample}/{stem}.{ext}")
    assert list(found) == NAMES
    assert found["bass"] == tmp_path / "out" / "tiny" / "album" / "a.b" / "3" / "bass.wav"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("{track}/{name}.{ext}", r"\{name\}.*\{track\}, \{stem\}.*\{sample\}"),
        ("{track.parent}/{stem}.wav", r"\{track.parent\}"),
        ("{stem!r}.wav", r"\{stem\}"),
        ("{track/{stem}.wav", "cannot be read|uses"),
        ("{}.wav", r"\{\}"),
        ("{track}.{ext}", "vocals and drums"),
        ("{stem}/", "names no file"),
    ],
)
def test_bad_patterns(track, tmp_path, pattern, found):
    with pytest.raises(DeepsepError, match=found):
        planned_paths(track, tmp_path, pattern)


def test_input_is_never_overwritten(track):
    with pytest.raises(DeepsepError, match="is the input itself"):
        planned_paths(track, track.parent / ".." / "album", "{track}.{ext}", names=["vocals"])


def test_folder_that_cannot_be_made(track, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DeepsepError, match="is a file"):
        planned_paths(track, tmp_path / "file" / "deeper")
    (tmp_path / "taken" / "a.b" / "drums.wav").mkdir(parents=True)
    with pytest.raises(DeepsepError, match="is a folder"):
        planned_paths(track, tmp_path / "taken")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(track, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(DeepsepError, match="cannot be written"):
        planned_paths(track, tmp_path / "locked" / "deeper")


# what may stand in a pattern or a name, and what should not
KEYS = "{track} {stem} {ext} {sample} {priors} {parent} {stem } {{ {} {stem!r} {stem:>9}".split()
PIECE = st.sampled_from(
    [*KEYS, "/", "..", ".", "~", ".wav", ".mp3", " ", "\\", "\n", "\x1b[31m", "\udcff", "CON", "a" * 300]
) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
TEXT = st.lists(PIECE, max_size=8).map("".join)


@settings(max_examples=examples(300))
@given(name=TEXT, pattern=TEXT | st.just("{track}/{stem}.{ext}"), priors=TEXT)
def test_any_pattern_and_name_give_a_path_for_each_stem_inside_the_folder_or_are_refused(
    tmp_path_factory, name, pattern, priors
):
    top = tmp_path_factory.mktemp("paths")
    stems = {stem: [stem] for stem in NAMES}
    try:
        track = paths.Input(top / "in" / name, "a song")
        (job,) = paths.plan([track], output(folder=top / "out", pattern=pattern, stems=stems), priors=priors)
    except DeepsepError:
        pass
    else:
        assert list(job.paths) == NAMES and len(set(job.paths.values())) == len(NAMES)
        for path in job.paths.values():
            assert Path(os.path.abspath(path)).is_relative_to(top / "out") and path.suffix == ".wav"
    assert not os.listdir(top)
