"""Whatever is wrong is one line on stderr, exit code 1 (2 for wrong usage), and leaves nothing behind."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_fixtures import FOUR, noise, program, read, record, tree
from processes import PATIENCE
from tiny import folder_of


@pytest.fixture
def separate(deepsep, priors):
    return lambda *words: deepsep("separate", "--priors", priors, "-o", "out", *words)


def one_line(result, code=1):
    """The line, of a run that failed as it should."""
    assert result[0] == code, result
    assert result[1] == ""
    assert result[2].startswith("error: ")
    assert result[2].count("\n") == 1 and result[2].endswith("\n"), result[2]
    return result[2]


def broken(name: str) -> Path:
    """A file (or what stands in its place) that cannot be separated."""
    path = Path(name)
    if name == "folder.mp3":
        path.mkdir()
    elif name == "empty.wav":
        path.touch()
    elif name == "text.mp3":
        path.write_text("these are words\n" * 100)
    elif name == "cut.flac":
        whole = record(Path("whole.flac")).read_bytes()
        Path("whole.flac").unlink()
        path.write_bytes(whole[: len(whole) // 2])
    elif name == "zero.wav":
        record(path, noise()[:0])
    elif name == "nan.wav":
        samples = noise()
        samples[4000, 1] = np.nan
        record(path, samples)
    elif name == "nine.wav":
        record(path, noise(channels=9))
    return path


BROKEN = {
    "missing.wav": "no such file",
    "folder.mp3": "is a folder without audio files",
    "empty.wav": "is empty",
    "text.mp3": "no audio found",
    "cut.flac": "cut short",
    "zero.wav": "holds no audio samples",
    "nan.wav": "of full scale at 0.250 s",
    "nine.wav": "9 channels",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_input_is_one_line(name, separate):
    broken(name)
    before = tree(Path())
    assert f"error: {name}: " in (line := one_line(separate(name)))
    assert BROKEN[name] in line
    assert tree(Path()) == before


def test_decoders_written_in_c_add_no_lines_of_their_own(priors, tmp_path):
    (tmp_path / "text.mp3").write_text("these are words\n" * 100)
    run = program("separate", "--priors", priors, "text.mp3", cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    err = run.communicate(timeout=PATIENCE)[1]
    assert run.returncode == 1
    assert err.startswith("error: text.mp3") and err.count("\n") == 1


def test_one_bad_track_does_not_stop_the_others(separate):
    for name in ("cut.flac", "nan.wav"):
        broken(name)
    record(Path("good.wav"))
    code, out, err = separate("cut.flac", "missing.wav", "no*.ogg", "nan.wav", "good.wav")
    assert (code, out) == (1, "")
    assert [line.split(":")[0] for line in err.splitlines() if "error" not in line] == [
        "good.wav", "1 done, 4 failed, 0 skipped",
    ]  # fmt: skip
    assert err.count("error: ") == 4
    assert tree(Path("out")) == sorted(f"good/{source}.wav" for source in FOUR)


def test_silence_gives_silent_stems(separate):
    record(Path("silent.wav"), np.zeros((3000, 2), np.float32))
    code, _, err = separate("silent.wav")
    assert code == 0 and "silent throughout" in err
    for source in FOUR:
        assert not read(Path(f"out/silent/{source}.wav")).any()
        assert len(read(Path(f"out/silent/{source}.wav"))) == 3000


def test_what_exists_is_not_touched_unless_asked(separate):
    record(Path("song.wav"))
    Path("out/song").mkdir(parents=True)
    Path("out/song/bass.wav").write_text("precious")
    assert "--overwrite" in one_line(separate("song.wav"))
    assert "--overwrite" in one_line(separate("song.wav", "--skip-existing"))
    assert tree(Path("out")) == ["song/bass.wav"]
    assert Path("out/song/bass.wav").read_text() == "precious"
    assert separate("song.wav", "--overwrite")[0] == 0
    assert len(read(Path("out/song/bass.wav"))) == len(noise())


def test_extras_that_exist_are_not_touched_either(separate):
    record(Path("song.wav"))
    Path("out/song").mkdir(parents=True)
    Path("out/song/report.html").write_text("mine")
    assert "report.html" in one_line(separate("song.wav", "--report"))
    assert tree(Path("out")) == ["song/report.html"]


def test_an_input_is_never_an_output(deepsep, priors):
    inputs = [record(Path("music/vocals.wav")), record(Path("music/x/y.wav"), noise(seed=1))]
    inputs.append(record(Path("music/x-y/vocals.wav"), noise(seed=2)))
    before = [path.read_bytes() for path in inputs]
    words = ("separate", "--priors", priors, "--overwrite", "-o", "music", "--stems", "vocals")
    assert "input itself" in one_line(deepsep(*words, "music/vocals.wav", "--filename", "{track}.wav"))
    pattern = ("--filename", "{parent}-{track}/{stem}.wav")  # one track's output is another track
    line = one_line(deepsep(*words, "music/x/y.wav", "music/x-y/vocals.wav", *pattern))
    assert line.startswith("error: music/x-y/vocals.wav: is an input itself")
    assert [path.read_bytes() for path in inputs] == before


@pytest.mark.parametrize("out", ["file", "file/below", "/proc/nothing/here"])
def test_an_output_folder_that_cannot_be(out, deepsep, priors):
    record(Path("song.wav"))
    Path("file").write_text("a file")
    one_line(deepsep("separate", "--priors", priors, "song.wav", "-o", out))
    assert tree(Path()) == ["file", "song.wav"]


def test_outputs_stay_in_the_output_folder(separate):
    record(Path("...wav"))  # a track called ".."
    record(Path("song.wav"))
    assert "lies outside" in one_line(separate("...wav", "--stems", "vocals"))
    assert "lies outside" in one_line(separate("song.wav", "--filename", "../{stem}.wav"))
    assert "lies outside" in one_line(separate("song.wav", "--filename", "/{track}/{stem}.wav"))
    assert tree(Path()) == ["...wav", "song.wav"]


@pytest.mark.parametrize(
    "words",
    [
        ("--stems", "vocals,flute"),
        ("--sources", "flute,vocals"),
        ("--two-stems", "flute"),
        ("--prior", "flute=two"),
    ],
)
def test_an_unknown_source(words, separate):
    folder_of(Path("two"), "piano", "rest")
    record(Path("song.wav"))
    line = one_line(separate("song.wav", *words))
    assert "flute" in line and ("piano, rest" in line if "--prior" in words else "vocals, drums" in line)
    assert not Path("out").exists()


def spoil(folder: Path, how: str) -> None:
    """Makes a priors folder one that cannot be used."""
    weights = folder / "drums.safetensors"
    if how == "no config":
        (folder / "config.json").unlink()
    elif how == "no JSON":
        (folder / "config.json").write_text("{")
    elif how == "another JSON":
        (folder / "config.json").write_text('{"model": "something else"}')
    elif how == "newer format":
        text = (folder / "config.json").read_text()
        (folder / "config.json").write_text(text.replace('"format": 1', '"format": 99'))
    elif how == "missing part":
        weights.unlink()
    elif how == "corrupt part":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif how == "cut part":
        weights.write_bytes(weights.read_bytes()[:-10])
    else:
        shutil.copy(folder / "encoder.safetensors", weights)


HOWS = (
    "no config", "no JSON", "another JSON", "newer format", "missing part", "corrupt part", "cut part", "foreign",
)  # fmt: skip


@pytest.mark.parametrize("how", HOWS)
def test_a_spoilt_priors_folder(how, deepsep, priors):
    shutil.copytree(priors, "spoilt")
    spoil(Path("spoilt"), how)
    record(Path("song.wav"))
    line = one_line(deepsep("separate", "--priors", "spoilt", "song.wav", "-o", "out"))
    assert "spoilt" in line or "drums.safetensors" in line
    assert not Path("out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there(separate):
    record(Path("song.wav"))
    assert "--device cpu" in one_line(separate("song.wav", "--device", "cuda"))


@pytest.mark.parametrize(
    "words",
    [
        ("--overwrite", "--skip-existing"),
        ("--stems", "vocals", "--two-stems", "vocals"),
        ("--stems", ","),
        ("--format", "aiff"),
        ("--format", "stem", "--report"),
        ("--bit-depth", "12"),
        ("--method", "magic"),
        ("--init", "magic"),
        ("--prior", "vocals"),
        ("--sigma-max", "-1"),
        ("--samples", "2", "--temperature", "0", "--method", "sgld"),
        ("-q", "-v"),
    ],
)
def test_wrong_usage_is_one_line_and_two(words, separate):
    record(Path("song.wav"))
    one_line(separate("song.wav", *words), code=2)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("-f", "mp3", "--bit-depth", "16"), "leave --bit-depth out"),
        (("-f", "ogg", "--bitrate", "128"), "--format mp3"),
        (("--codec", "alac"), "--format stem"),
        (("-f", "flac", "--bit-depth", "float"), "--bit-depth 24 or 16"),
        (("--method", "sgld", "--samples", "2", "--chains", "3"), "leave --chains out"),
        (("--method", "encoder", "--steps", "9"), "--steps is of Langevin"),
        (("--sigma-max", "2"), "add --method sgld"),
        (("--method", "sgld", "--init", "mixture", "--pitches", "2"), "pitches are of the encoder"),
        (("--filename", "{artist}/{stem}.{ext}"), "uses {artist}; it may use {track}, {stem}"),
        (("--filename", "{stem}.{ext}", "--samples", "2"), "needs {sample}"),
    ],
)
def test_an_option_that_cannot_do_its_work_is_wrong_usage(words, says, separate):
    record(Path("song.wav"))
    assert says in one_line(separate("song.wav", *words), code=2)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "words", [(), ("song.wav", "--nonsense"), ("song.wav", "--steps", "0"), ("song.wav", "--samples", "0")]
)
def test_wrong_options_are_two(words, separate):
    code, out, err = separate(*words)
    assert (code, out) == (2, "") and "Traceback" not in err
    assert not Path("out").exists()


def test_without_matplotlib_the_extra_is_named_before_any_work(separate, monkeypatch):
    record(Path("song.wav"))
    monkeypatch.setattr("deepsep.cli.checks.find_spec", lambda name: None)
    assert "deepsep[plot]" in one_line(separate("song.wav", "--uncertainty"))
    assert not Path("out").exists()


@pytest.mark.slow
def test_what_can_be_refused_is_refused_before_torch_is_loaded(separate, priors, tmp_path):
    record(Path("song.wav"))
    record(Path("six.wav"), noise(channels=6))
    assert separate("song.wav", "--two-stems", "vocals")[0] == 0
    code = "import sys; from deepsep.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    for words, told in (
        (("song.wav", "--two-stems", "vocals"), "exists; use --overwrite"),
        (("song.wav", "--stems", "flute"), "unknown source 'flute'"),
        (("song.wav", "--sources", "flute"), "unknown source 'flute'"),
        (("song.wav", "--device", "abacus"), "unknown device 'abacus'"),
        (("six.wav", "-f", "mp3"), "six.wav: mp3 holds 1 to 2 channels"),
        (("song.wav", "--sources", "vocals", "--method", "encoder"), "no encoder for just these"),
    ):
        command = [sys.executable, "-c", code, "separate", "--priors", str(priors), "-o", "out", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert told in done.stderr and done.stdout == "False\n" and done.returncode == 1, done


def test_samples_that_are_no_sound_are_refused_with_the_files_name(separate):
    record(Path("huge.wav"), np.full((200, 1), 3e38, np.float32), subtype="FLOAT")
    line = one_line(separate("huge.wav"))
    assert "huge.wav: has a sample that is NaN, infinite or beyond 1e+32 of full scale at 0.000 s" in line
    assert not Path("out").exists()


def test_an_empty_name_is_not_the_current_folder(separate):
    record(Path("a.wav"))
    assert "a song's name is empty; is a variable of your shell unset?" in one_line(separate(""), 2)
    assert not Path("out").exists()


def test_places_that_are_no_files_and_no_folders(deepsep, priors):
    record(Path("a.wav"))
    Path("out").symlink_to("nowhere")
    said = one_line(deepsep("separate", "--priors", priors, "a.wav", "-o", "out"))
    assert "cannot be created" in said and "is a link to nothing; choose another --out" in said
    os.mkfifo("pipe.wav")
    said = one_line(deepsep("separate", "--priors", priors, "pipe.wav", "-o", "stems"))
    assert "pipe.wav: is no regular file; save the sound in a file first" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting", ["HF_HUB_DOWNLOAD_TIMEOUT=abc", "HF_HUB_ETAG_TIMEOUT=", "HF_ENDPOINT=http://["]
)
def test_an_environment_that_the_hubs_client_cannot_read_is_a_line(setting, tmp_path):
    name, _, value = setting.partition("=")
    environment = {**os.environ, name: value}

    def run(*words):
        done = subprocess.run(
            [sys.executable, "-m", "deepsep", *words],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout, done.stderr

    for words in (
        ("priors", "list"),
        ("priors", "download", "a/b"),
        ("separate", "a.wav", "--priors", "a/b"),
    ):
        record(tmp_path / "a.wav")
        assert "the Hub's client cannot read its environment variables" in one_line(run(*words))
    code, out, err = run("doctor")
    assert (code, err) == (0, "") and "correct or unset them" in out
