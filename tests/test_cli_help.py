"""What --help, the shell's completion and a wrong word say."""

import os
import subprocess
import sys
from typing import get_args

import pytest
from cli_fixtures import record
from hub_server import HubServer, Repo
from huggingface_hub import constants
from tiny import files_of, folder_of, point_client

from deepsep import config

CHOICES = {
    ("separate", "--format"): config.Format,
    ("separate", "--bit-depth"): config.BitDepth,
    ("separate", "--codec"): config.Codec,
    ("separate", "--method"): config.Method,
    ("separate", "--init"): config.Init,
    ("evaluate", "--metric"): config.Metric,
    ("train-prior", "--domain"): config.DomainName,
    ("train-prior", "--level"): config.Level,
    ("train-prior", "--mask"): config.Mask,
    ("train-prior", "--shuffle"): config.Shuffle,
    ("train-encoder", "--objective"): config.Objective,
}
each_choice = pytest.mark.parametrize(("command", "option"), CHOICES)


@pytest.fixture(scope="module")
def texts():
    """--help of each command, on a wide terminal."""
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    commands = {command for command, _ in CHOICES}
    return {
        name: subprocess.run(
            [sys.executable, "-m", "deepsep", name, "--help"], capture_output=True, text=True, env=environment
        ).stdout
        for name in commands
    }


@each_choice
def test_help_lists_the_choices(command, option, texts):
    (line,) = (line for line in texts[command].splitlines() if f" {option} " in line)
    assert "|".join(get_args(CHOICES[command, option])) in line


def test_options_stand_in_panels(texts):
    for title in ("Files", "Stems", "Priors", "Langevin sampling (--method sgld)", "Running"):
        assert f"─ {title} ─" in texts["separate"]
    for title in ("Training", "Network", "Waveform priors (--domain waveform)"):
        assert f"─ {title} ─" in texts["train-prior"]


def test_help_says_what_a_value_is_in_a_word(texts):
    for name, text in texts.items():
        lines = text.splitlines()
        usage = next(line for line in lines if "Usage:" in line)
        assert "{" not in usage and "[[" not in usage, usage
        for line in lines:
            for word in ("<bool>", "<str>", "<int", "<float>", "<float range", "<path>", "list["):
                assert word not in line, (name, line)
    assert "org/name@revision" in texts["separate"]
    (threads,) = (line for line in texts["separate"].splitlines() if " --threads " in line)
    assert " N " in threads


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("song.mp3",), "to separate it: deepsep separate song.mp3."),
        (("my song.flac", "-o", "x"), 'to separate it: deepsep separate "my song.flac".'),
        (("https://a.b/c",), "to separate it: deepsep separate https://a.b/c."),
        (("separate", "song.mp3", "--mp3"), "use --format mp3."),
        (("separate", "song.mp3", "-n", "htdemucs"), "use --priors."),
        (("separate", "song.mp3", "--shifts", 2), "use --pitches."),
    ],
)
def test_the_habits_of_other_separators_get_a_hint(words, hint, deepsep):
    code, out, err = deepsep(*words)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert hint in err


def test_a_word_that_is_nobodys_habit_gets_none(deepsep):
    for words in (("sep",), ("separate", "a.wav", "--magic"), ("toy", "x", "--mp3")):
        code, _, err = deepsep(*words)
        assert code == 2 and "use --" not in err and "separate it" not in err


def test_formats_may_be_typed_in_capitals(priors, tmp_path, deepsep):
    song = record(tmp_path / "a.wav")
    deepsep.good(
        "separate", song, "--priors", priors, "--method", "encoder", "-f", "FLAC", "-o", tmp_path / "out"
    )
    assert (tmp_path / "out" / "a" / "vocals.flac").exists()


def test_a_web_address_is_no_file(deepsep):
    code, _, err = deepsep("separate", "https://a.b/song.mp3")
    assert code == 1 and "is a web address; download it first" in err


@each_choice
def test_a_wrong_choice_is_one_line(command, option, deepsep):
    code, out, err = deepsep(command, "x", option, "magic")
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert option in err and all(repr(choice) in err for choice in get_args(CHOICES[command, option]))


@each_choice
def test_the_shell_completes_the_choices(command, option):
    environment = {
        **os.environ,
        "_DEEPSEP_COMPLETE": "complete_bash",
        "COMP_WORDS": f"deepsep {command} {option} ",
        "COMP_CWORD": "3",
    }
    code = "import sys; sys.argv = ['deepsep']; from deepsep.cli import app; app(prog_name='deepsep')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == list(get_args(CHOICES[command, option])), done.stderr


def test_evaluating_hub_priors_shows_their_licence_once(deepsep, tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "band", "vocals", "drums")
    (tmp_path / "songs").mkdir()
    with HubServer() as server:
        server.repos["ana/band"] = Repo()
        server.repos["ana/band"].commit(files_of(folder))
        point_client(monkeypatch, server.url, tmp_path / "cache")
        words = ("evaluate", tmp_path / "songs", "--priors", "ana/band", "--methods", "mixture")
        for times in (1, 0):
            code, _, err = deepsep(*words)
            assert code == 1 and "holds no song" in err
            assert err.count("licence of the weights: CC-BY-4.0") == times


def test_offline_is_said_to_this_call_and_not_to_the_process(deepsep, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    song, folder = record(tmp_path / "song.wav"), folder_of(tmp_path / "band", "vocals", "drums")
    with HubServer() as server:
        server.repos["ana/band"] = Repo()
        server.repos["ana/band"].commit(files_of(folder))
        point_client(monkeypatch, server.url, tmp_path / "cache")
        words = (
            "separate",
            song,
            "--priors",
            "ana/band",
            "--method",
            "sgld",
            "--levels",
            1,
            "--steps",
            1,
            "-q",
        )
        deepsep.good(*words, "-o", tmp_path / "online")
        server.log.clear()
        deepsep.good(*words, "-o", tmp_path / "offline", "--offline")
        assert server.log == []
    assert "HF_HUB_OFFLINE" not in os.environ and not constants.HF_HUB_OFFLINE
