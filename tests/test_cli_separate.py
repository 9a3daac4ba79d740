"""deepsep separate as a person uses it: songs in, stems out."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import mutagen
import numpy as np
import pytest
import soundfile as sf
import stempeg
import torch
from cli_fixtures import FOUR, RATE, noise, program, read, record, tree
from processes import PATIENCE, until
from tiny import folder_of

from deepsep import __version__
from deepsep.audio import files as audio
from deepsep.audio.tags import Tags, read_tags, write_tags
from deepsep.cli import bars
from deepsep.models import files, hub
from deepsep.output import encoders, mp4

SHORT = ("--method", "sgld", "--levels", "2", "--steps", "2")


@pytest.fixture
def separate(deepsep, priors):
    """stdout of a separation that must succeed."""
    return lambda *words: deepsep.good("separate", "--priors", priors, "-o", "out", *words)


def stems_of(folder, sources=FOUR, ext="wav"):
    return [read(Path(folder, f"{source}.{ext}")) for source in sources]


# --- one song


@pytest.mark.parametrize("method", ["encoder", "sgld"])
@pytest.mark.parametrize(
    ("rate", "channels", "seconds"),
    [(44100, 2, 0.4), (22050, 1, 0.3), (96000, 6, 0.1), (48000, 2, 0.05), (8000, 8, 2)],
)
def test_stems_have_the_songs_shape_and_add_up_to_it(method, rate, channels, seconds, separate):
    song = noise(seconds, channels, rate)
    record(Path("song.wav"), song, rate)
    separate("song.wav", *(SHORT if method == "sgld" else ("--method", "encoder")))
    assert tree(Path("out")) == sorted(f"song/{source}.wav" for source in FOUR)
    assert audio.probe("out/song/bass.wav").rate == rate
    stems = stems_of("out/song")
    assert all(stem.shape == song.shape for stem in stems)
    np.testing.assert_allclose(sum(stems), song, atol=1e-5)
    assert min(np.abs(stem).max() for stem in stems) > 0
    assert np.abs(stems[0] - stems[1]).max() > 1e-4


@pytest.mark.parametrize("samples", [1, 2, 100])
def test_the_shortest_songs(samples, separate):
    song = record(Path("song.wav"), noise()[:samples])
    separate("song.wav")
    np.testing.assert_allclose(sum(stems_of("out/song")), read(song), atol=1e-6)


@pytest.mark.parametrize("name", ["song.flac", "song.mp3", "song.ogg", "song.aiff", "SONG.WAV"])
def test_the_formats_of_songs(name, separate):
    song = record(Path(name))
    separate(name)
    np.testing.assert_allclose(sum(stems_of(f"out/{song.stem}")), audio.read(song)[0].T, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "subtype", "error"),
    [
        (("-f", "wav"), "FLOAT", 1e-6),
        (("-f", "wav", "--bit-depth", "24"), "PCM_24", 1e-5),
        (("-f", "flac", "--bit-depth", "16"), "PCM_16", 1e-3),
        (("-f", "mp3", "--bitrate", "128"), "MPEG_LAYER_III", 0.3),
        (("-f", "ogg"), "VORBIS", 0.6),  # its default quality, on noise
    ],
)
def test_the_formats_of_stems(words, subtype, error, separate):
    song = record(Path("song.wav"))
    separate("song.wav", *words)
    path = Path(f"out/song/vocals.{words[1]}")
    assert sf.info(path).subtype == subtype
    total = sum(audio.read(path.with_stem(source))[0] for source in FOUR)
    assert np.linalg.norm(total.T - read(song)) < error * np.linalg.norm(read(song))


def test_loud_songs_are_turned_down_in_common_and_this_is_said(deepsep, priors):
    song = noise(level=3)
    record(Path("song.wav"), song)
    code, _, err = deepsep("separate", "--priors", priors, "-o", "out", "song.wav", "-f", "flac")
    assert code == 0 and "turned down by" in err
    total = sum(stems_of("out/song", ext="flac"))
    gain = (total * song).sum() / (song * song).sum()
    assert gain < 0.9
    np.testing.assert_allclose(total, gain * song, atol=1e-5)


def test_a_stem_file(separate):
    song = record(Path("song.wav"), noise(1.0, rate=44100), 44100)
    separate("song.wav", "-f", "stem", "--codec", "alac")
    assert tree(Path("out")) == ["song.stem.mp4"]
    streams, rate = stempeg.read_stems("out/song.stem.mp4")
    assert (len(streams), rate) == (5, 44100)
    gain = (streams[0] * read(song)).sum() / (read(song) ** 2).sum()
    np.testing.assert_allclose(streams[0], gain * read(song), atol=1e-4)
    np.testing.assert_allclose(streams[1:].sum(0), streams[0], atol=1e-4)
    names = [stem["name"] for stem in mp4.read_manifest(Path("out/song.stem.mp4"))["stems"]]
    assert names == ["Drums", "Bass", "Other", "Vocals"]


@pytest.mark.parametrize("encoder", [encoders.encode_pyav, encoders.encode_ffmpeg])
def test_a_stem_file_says_what_made_it(encoder, separate, priors, monkeypatch):
    if encoder is encoders.encode_ffmpeg and not shutil.which("ffmpeg"):
        pytest.skip("ffmpeg is not installed")
    monkeypatch.setattr(encoders, "find_encoder", lambda: encoder)
    record(Path("song.flac"), noise(1.0, rate=44100), 44100)
    write_tags("song.flac", Tags(fields={"title": "Blå"}))
    separate("song.flac", "-f", "stem")
    atoms = mutagen.File("out/song.stem.mp4").tags
    assert atoms["\xa9cmt"] == [f"deepsep {__version__}, encoder, seed 0; priors {priors.name}"]
    assert atoms["\xa9nam"] == ["Blå"]


def test_the_comment_says_which_source_came_from_where(separate, priors):
    folder_of(Path("secret/mine"), "flute")
    record(Path("song.wav"))
    separate(
        "song.wav", "--prior", "flute=secret/mine", "--sources", "vocals,drums,flute", "--seed", "7", *SHORT
    )
    with sf.SoundFile("out/song/flute.wav") as stem:
        made = f"deepsep {__version__}, sgld, seed 7; priors vocals, drums: {priors.name}; flute: mine"
        assert stem.comment == made


def test_a_stem_file_needs_four_stems(deepsep, priors):
    record(Path("song.wav"), rate=44100)
    words = ("separate", "--priors", priors, "song.wav", "-f", "stem", "-o", "out")
    assert "song.wav: a stem.mp4 holds exactly 4 stems, not 2" in deepsep.bad(*words, "--two-stems", "vocals")
    assert not Path("out").exists()


def test_tags_and_cover_go_with_the_stems(separate):
    cover = b"\x89PNG\r\n\x1a\n" + bytes(50)
    record(Path("song.flac"))
    write_tags("song.flac", Tags(fields={"title": "Blå", "artist": "Ünal"}, cover=cover))
    for format in ("flac", "mp3", "ogg"):
        separate("song.flac", "-f", format, "--stems", "vocals")
        found = read_tags(f"out/song/vocals.{format}")
        assert (found.fields["title"], found.fields["artist"], found.cover) == ("Blå", "Ünal", cover)
        assert mutagen.File(f"out/song/vocals.{format}").info.length == pytest.approx(0.5, abs=0.1)


# --- which sources


def test_some_stems_are_what_they_are_among_all(separate):
    record(Path("song.wav"))
    separate("song.wav", "--filename", "all/{stem}.{ext}")
    separate("song.wav", "--filename", "some/{stem}.{ext}", "--stems", "bass,vocals")
    separate("song.wav", "--filename", "two/{stem}.{ext}", "--two-stems", "drums")
    assert tree(Path("out/some")) == ["bass.wav", "vocals.wav"]
    assert tree(Path("out/two")) == ["drums.wav", "no_drums.wav"]
    vocals, drums, bass, other = stems_of("out/all")
    np.testing.assert_allclose(read(Path("out/some/bass.wav")), bass, atol=1e-6)
    np.testing.assert_allclose(read(Path("out/two/drums.wav")), drums, atol=1e-6)
    np.testing.assert_allclose(read(Path("out/two/no_drums.wav")), vocals + bass + other, atol=1e-6)


def test_any_sources_and_one_of_another_folder(deepsep):
    folder_of(Path("duo"), "piano", "hum")
    folder_of(Path("solo"), "flute")
    record(Path("song.wav"))
    deepsep.good("separate", "--priors", "duo", "song.wav", "-o", "two", *SHORT)
    assert tree(Path("two")) == ["song/hum.wav", "song/piano.wav"]
    words = ("separate", "--priors", "duo", "--prior", "flute=solo", "song.wav", *SHORT)
    deepsep.good(*words, "-o", "three")
    assert tree(Path("three")) == ["song/flute.wav", "song/hum.wav", "song/piano.wav"]
    deepsep.good(*words, "-o", "chosen", "--sources", "flute,piano")
    stems = stems_of("chosen/song", ("flute", "piano"))
    np.testing.assert_allclose(sum(stems), read(Path("song.wav")), atol=1e-6)


# --- seeds, batches of windows, samples, uncertainty


def test_the_seed_decides_and_the_batch_size_does_not(separate):
    record(Path("song.wav"), noise(6.0, 1))
    runs = {"a": ("1", "4"), "b": ("1", "1"), "c": ("2", "4")}
    for name, (seed, batch) in runs.items():
        words = ("--temperature", "1", "--seed", seed, "--batch-size", batch)
        separate("song.wav", "--filename", name + "-{stem}.wav", "--stems", "vocals", *SHORT, *words)
    a, b, c = (read(Path(f"out/{name}-vocals.wav")) for name in "abc")
    np.testing.assert_allclose(a, b, atol=1e-5)
    assert np.abs(a - c).max() > 1e-3


@pytest.mark.parametrize("method", ["encoder", "sgld"])
def test_samples_are_plausible_separations_that_differ(method, separate):
    song = record(Path("song.wav"))
    words = SHORT if method == "sgld" else ("--method", "encoder")
    separate("song.wav", "--samples", "3", *words)
    first, second, third = (stems_of(f"out/song/sample-{n}") for n in (1, 2, 3))
    for stems in (first, second, third):
        np.testing.assert_allclose(sum(stems), read(song), atol=1e-5)
    assert np.abs(first[0] - second[0]).max() > 1e-3
    assert np.abs(second[0] - third[0]).max() > 1e-3
    separate("song.wav", "--samples", "2", *words, "--filename", "again/{sample}-{stem}.wav")
    np.testing.assert_allclose(read(Path("out/again/2-vocals.wav")), second[0], atol=1e-6)


@pytest.mark.parametrize("method", ["encoder", "sgld"])
def test_uncertainty_is_a_map_and_a_picture(method, separate):
    record(Path("song.wav"), noise(1.5))
    words = SHORT if method == "sgld" else ("--method", "encoder")
    separate("song.wav", "--uncertainty", *words)
    assert tree(Path("out/song")) == sorted(
        [*(f"{s}.wav" for s in FOUR), "uncertainty.npz", "uncertainty.png"]
    )
    found = np.load("out/song/uncertainty.npz")
    assert list(found["stems"]) == list(FOUR)
    assert found["std"].shape == (4, len(found["band_hz"]), len(found["time_s"]))
    assert 0 < found["std"].mean() and found["std"].max() <= 0.51 and found["std"].min() >= 0
    assert found["time_s"][-1] == pytest.approx(1.5, abs=0.1)
    assert found["band_hz"][-1] == pytest.approx(RATE / 2, rel=0.1)
    assert Path("out/song/uncertainty.png").read_bytes().startswith(b"\x89PNG")


def test_of_two_stems_one_is_as_sure_as_the_other(separate):
    record(Path("song.wav"))
    separate("song.wav", "--uncertainty", "--two-stems", "vocals")
    found = np.load("out/song/uncertainty.npz")
    assert list(found["stems"]) == ["vocals", "no_vocals"]
    np.testing.assert_allclose(found["std"][0], found["std"][1], atol=2e-3)


def test_the_encoders_estimate_is_the_same_with_its_uncertainty(separate):
    record(Path("song.wav"))
    separate("song.wav", "--method", "encoder", "--filename", "a/{stem}.wav")
    separate("song.wav", "--method", "encoder", "--filename", "b/{stem}.wav", "--uncertainty")
    np.testing.assert_allclose(stems_of("out/a"), stems_of("out/b"), atol=1e-6)
    assert "uncertainty.npz" not in tree(Path("out/b")) and "song.uncertainty.npz" in tree(Path("out/b"))


def test_a_report_lies_beside_the_stems(separate):
    record(Path("song.wav"))
    separate("song.wav", "--report", "--uncertainty", "--samples", "2", "--two-stems", "bass")
    page = Path("out/song/report.html").read_text(encoding="utf-8")
    for word in ("sample-1/bass", "sample-2/no_bass", "encoder"):
        assert word in page


def test_a_song_heard_at_two_pitches_says_so_and_has_other_stems_that_add_up(separate):
    record(Path("song.wav"))
    found = {}
    for pitches in ("1", "2"):
        told = json.loads(separate("song.wav", "--pitches", pitches, "--overwrite", "--json"))
        assert told["done"][0]["settings"].get("pitches", 1) == int(pitches)
        found[pitches] = stems_of("out/song")
        np.testing.assert_allclose(sum(found[pitches]), read(Path("song.wav")), atol=1e-5)
    assert np.abs(found["1"][0] - found["2"][0]).max() > 1e-4


# --- many songs


def test_a_batch_of_everything(deepsep, priors):
    record(Path("music/a.wav"))
    record(Path("music/deep/b.flac"))
    record(Path("c d [live].wav"))
    record(Path("-e.wav"))
    words = ("music", "c d [live].wav", "./-e.wav", "m*/d*/*.flac", "music/a.wav")
    out = deepsep.good("separate", "--priors", priors, "-o", "out", *words, "--stems", "vocals", "--json")
    told = json.loads(out)
    assert [Path(row["source"]).name for row in told["done"]] == [
        "a.wav",
        "c d [live].wav",
        "-e.wav",
        "b.flac",
    ]
    assert tree(Path("out")) == [f"{name}/vocals.wav" for name in ("-e", "a", "b", "c d [live]")]
    assert (told["failed"], told["skipped"], told["interrupted"]) == ([], 0, False)
    assert told["sources"] == list(FOUR) and set(told["origins"]) == set(FOUR)
    for row in told["done"]:
        assert Path(row["stems"]["vocals"]).is_file()
        assert row["seconds"] == 0.5 and row["settings"]["method"] == "encoder"


def test_recursive_goes_deeper_and_leaves_its_outputs_alone(deepsep, priors):
    record(Path("music/a.wav"))
    record(Path("music/deep/b.flac"))
    words = ("separate", "--priors", priors, "music", "-r", "-o", "music/out", "--stems", "bass", "-q")
    deepsep.good(*words)
    assert tree(Path("music/out")) == ["a/bass.wav", "b/bass.wav"]
    deepsep.good(*words, "--skip-existing")
    assert tree(Path("music/out")) == ["a/bass.wav", "b/bass.wav"]


def test_skipped_tracks_are_counted_and_not_touched(separate):
    record(Path("a.wav"))
    record(Path("b.wav"))
    separate("a.wav", "--stems", "vocals")
    before = Path("out/a/vocals.wav").stat().st_mtime_ns
    told = json.loads(separate("a.wav", "b.wav", "--stems", "vocals", "--skip-existing", "--json"))
    assert (len(told["done"]), told["skipped"]) == (1, 1)
    assert Path("out/a/vocals.wav").stat().st_mtime_ns == before


def test_json_tells_what_failed(deepsep, priors):
    record(Path("a.wav"))
    code, out, err = deepsep("separate", "--priors", priors, "gone.wav", "a.wav", "-o", "out", "--json", "-q")
    told = json.loads(out)
    assert (code, err.count("\n")) == (1, 1)
    assert [row["source"] for row in told["failed"]] == ["gone.wav"] and len(told["done"]) == 1


def test_the_model_is_loaded_once(separate, monkeypatch):
    from deepsep.models import folder as model

    seen = []
    load = model.load_model
    monkeypatch.setattr(model, "load_model", lambda *args, **more: seen.append(args) or load(*args, **more))
    for name in ("a.wav", "b.wav", "c.wav"):
        record(Path(name))
    separate("a.wav", "b.wav", "c.wav", "--stems", "vocals")
    assert len(seen) == 1


def test_two_tracks_in_one_place_stop_before_any_work(deepsep, priors):
    record(Path("x/song.wav"))
    record(Path("y/song.wav"))
    line = deepsep.bad("separate", "--priors", priors, "x/song.wav", "y/song.wav", "-o", "out")
    assert "--filename" in line and not Path("out").exists()


@pytest.mark.parametrize("name", ["über 日本語 🎵.wav", "a b  c.wav", "[red]x[bold].wav", "new\nline.wav"])
def test_awkward_names(name, deepsep, priors):
    record(Path(name))
    code, _, err = deepsep("separate", "--priors", priors, name, "-o", "out", "--stems", "vocals")
    assert code == 0 and err.count("\n") == 1
    assert Path("out", name.removesuffix(".wav"), "vocals.wav").is_file()


def test_quiet_says_nothing_and_verbose_says_with_what(deepsep, priors):
    record(Path("a.wav"))
    words = ("separate", "--priors", priors, "a.wav", "-o", "out", "--overwrite")
    assert deepsep(*words, "-q") == (0, "", "")
    code, out, err = deepsep(*words, "-v")
    assert (code, out) == (0, "") and "encoder on cpu, 4 sources" in err


def test_threads(separate):
    record(Path("a.wav"))
    try:
        separate("a.wav", "--threads", "2")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


# --- a process of its own


@pytest.mark.slow
def test_stdin(priors, tmp_path):
    song = record(tmp_path / "song.flac")
    words = ("separate", "--priors", priors, "-", "-o", "out", "--json", "--stems", "vocals")
    pipe = subprocess.PIPE
    with song.open("rb") as stdin:
        run = program(*words, cwd=tmp_path, stdin=stdin, stdout=pipe, stderr=pipe, text=True)
        out, err = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, err
    assert json.loads(out)["done"][0]["source"] == "stdin"
    assert len(read(tmp_path / "out/stdin/vocals.wav")) == len(read(song))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_leaves_nothing_half_done(number, code, priors, tmp_path):
    record(tmp_path / "long.wav", noise(120, 1))
    words = ("separate", "--priors", priors, "long.wav", "-o", "out", "--method", "sgld", "--steps", "50")
    run = program(*words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    until(lambda: list(tmp_path.glob("out/long/.deepsep-*/*")), run)  # it writes under other names first
    run.send_signal(number)
    err = run.communicate(timeout=PATIENCE)[1]
    assert run.returncode == code
    assert err.count("\n") == (1 if number == signal.SIGINT else 0) and "Traceback" not in err
    assert tree(tmp_path) == ["long.wav"]


@pytest.mark.slow
def test_long_tracks_tell_how_far_they_are_where_no_person_watches(deepsep, priors, monkeypatch):
    monkeypatch.setattr(bars, "EVERY", 0)
    record(Path("long.wav"), noise(30))
    words = ("separate", "long.wav", "--priors", priors, "--overwrite", "--report")
    _, _, err = deepsep(*words)
    *lines, last = err.splitlines()
    assert last.startswith("long.wav: 30.0 s in ")
    lines = [line.removeprefix("long.wav: ") for line in lines]
    stages = ["reading, ", r"\d+ % of 30 s(, \d+:\d\d left)?", "writing files", "making the page, "]
    told = [next(i for i, stage in enumerate(stages) if re.match(stage, line)) for line in lines]
    assert told == sorted(told) and set(told) == {0, 1, 2, 3}
    for number in (0, 1, 3):
        shares = [int(re.search(r"(\d+) %", ln)[1]) for ln, i in zip(lines, told, strict=True) if i == number]
        assert shares == sorted(shares) and shares[-1] == 100 and len(shares) > 1
    assert deepsep(*words, "-q") == (0, "", "")


@pytest.mark.slow
def test_nobody_reads_stdout(priors, tmp_path):
    record(tmp_path / "song.wav")
    reader, writer = os.pipe()
    os.close(reader)
    words = ("separate", "--priors", priors, "song.wav", "-o", "out", "--json")
    run = program(*words, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    err = run.communicate(timeout=PATIENCE)[1]
    assert run.returncode == 1 and "Traceback" not in err and "Broken" not in err
    assert tree(tmp_path / "out") == sorted(f"song/{source}.wav" for source in FOUR)


@pytest.mark.slow
def test_a_terminal_gets_progress_and_a_table(priors, tmp_path):
    pty = pytest.importorskip("pty")
    for name in ("one.wav", "[bold]two.wav", "\x1b]0;title\x07\x9b31m.wav"):
        record(tmp_path / name)
    master, slave = pty.openpty()
    names = ("one.wav", "[bold]two.wav", "\x1b]0;title\x07\x9b31m.wav", "\x1b]2;gone.wav")
    words = ("separate", "--priors", priors, *names, "-o", "out")
    run = program(*words, cwd=tmp_path, stderr=slave)
    os.close(slave)
    shown = b""
    while True:
        try:
            block = os.read(master, 1 << 16)
        except OSError:
            break
        if not block:
            break
        shown += block
    assert run.wait(timeout=PATIENCE) == 1
    text = shown.decode()
    for word in (
        "all tracks",
        "1/3 one.wav",
        "2/3 [bold]two.wav",
        "3/3 ?]0;title??31m.wav",
        "?]2;gone.wav",
        "result",
        "no such file",
        "3 done, 1 failed",
    ):
        assert word in text, word
    for sequence in ("\x1b]", "\x07", "\x9b"):
        assert sequence not in text


# --- what comes in the package


@pytest.mark.parametrize("method", ["encoder", "sgld"])
def test_the_bundled_priors_separate(method, deepsep):
    song = record(Path("song.wav"), noise(1.0, rate=44100), 44100)
    deepsep.good("separate", "song.wav", "-o", "out", *(SHORT if method == "sgld" else ("--method", method)))
    sources = files.read_json(hub.resolve("bundled").folder)["sources"]
    np.testing.assert_allclose(sum(stems_of("out/song", sources)), read(song), atol=1e-5)


def test_one_source_alone_says_that_it_is_the_whole_song(priors, tmp_path, deepsep):
    song = record(tmp_path / "a.wav")
    code, _, err = deepsep(
        "separate", song, "--priors", priors, "--sources", "vocals", "-o", tmp_path / "out"
    )
    assert code == 0 and "vocals alone is inferred" in err and "--stems vocals" in err
    code, _, err = deepsep(
        "separate", song, "--priors", priors, "--stems", "vocals", "-o", tmp_path / "other"
    )
    assert code == 0 and "is inferred" not in err
