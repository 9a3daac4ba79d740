import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
from processes import PATIENCE
from tiny import folder_of

from deepsep import cli
from deepsep.models import hub

DOCS = Path(__file__).parents[1] / "docs"
SPEC = importlib.util.spec_from_file_location("make_cli", DOCS.parent / "scripts" / "make_cli.py")
assert SPEC is not None and SPEC.loader is not None
make_cli = importlib.util.module_from_spec(SPEC)
sys.modules["make_cli"] = make_cli
SPEC.loader.exec_module(make_cli)

COMMANDS = {command.name: command for command in make_cli.commands()}


def examples(command):
    return [line.strip() for line in re.findall(r"^Example: (.*)$", command.help, re.MULTILINE)]


def test_the_page_of_commands_is_up_to_date():
    assert (DOCS / "cli.md").read_text(encoding="utf-8") == make_cli.page(), "run python scripts/make_cli.py"


def test_check_notices_a_page_that_fell_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make_cli, "PAGE", tmp_path / "cli.md")
    assert make_cli.main(check=True) == 1
    assert make_cli.main(check=False) == 0
    assert make_cli.main(check=True) == 0
    make_cli.PAGE.write_text(make_cli.page() + "more\n", encoding="utf-8")
    assert make_cli.main(check=True) == 1
    assert "run python scripts/make_cli.py" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_option_and_argument_has_help(name):
    command = COMMANDS[name]
    assert command.help.split("\n\n")[0].rstrip().endswith("."), "the first paragraph is a sentence"
    bare = {f"{name} {p.names[0]}" for p in command.parameters if not p.help.strip()}
    assert not bare


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_parses(name):
    assert examples(COMMANDS[name])
    for example in examples(COMMANDS[name]):
        assert example.startswith(name)
        words = shlex.split(example)[len(name.split()) :]
        known = {spelling for p in COMMANDS[name].parameters for spelling in p.names}
        assert {word for word in words if word.startswith("-") and word != "-"} <= known
        for parameter in COMMANDS[name].parameters:
            if parameter.is_option and parameter.required:
                assert set(parameter.names) & set(words), f"the example lacks {parameter.names[0]}"


PAGES = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_pages_have_their_options(page):
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")  # commands go on after a backslash
    lines = [] if page.name == "cli.md" else re.findall(r"^deepsep [a-z].*$", text, re.MULTILINE)
    for line in lines:
        words = shlex.split(line, comments=True)
        name = next((n for n in (" ".join(words[:3]), " ".join(words[:2])) if n in COMMANDS), None)
        assert name, line
        known = {spelling for p in COMMANDS[name].parameters for spelling in p.names}
        assert {word for word in words if re.match("-+[a-z]", word)} <= known, line


def test_the_page_says_what_the_program_takes():
    """The declarations that the page is made from against the commands that Typer builds of them."""
    built = {}

    def walk(command, prefix):
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, f"{prefix} {name}")
        if not hasattr(command, "commands"):
            options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
            built[prefix] = {frozenset([*p.opts, *p.secondary_opts]): p.help or "" for p in options}

    walk(typer.main.get_command(cli.app), "deepsep")
    declared = {
        name: {frozenset(p.names): p.help for p in command.parameters if p.is_option}
        for name, command in COMMANDS.items()
    }
    assert declared == built


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "offers"),
    [
        ("pri", "priors"),
        ("priors down", "download"),
        ("separate --sk", "--skip-existing"),
        ("separate --format m", "mp3"),
        ("separate --method e", "encoder"),
    ],
)
def test_bash_completes(typed, offers):
    words = f"deepsep {typed}"
    asked = {
        "_DEEPSEP_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    code = "import sys; sys.argv[0] = 'deepsep'; from deepsep.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stdout.split() == [offers], done.stderr


def test_the_python_page_runs(tmp_path, monkeypatch, capsys):
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 7
    bundled = folder_of(tmp_path / "bundled", "vocals", "drums", "bass", "other", encoder=True)
    monkeypatch.setattr(hub, "bundled_folder", lambda: bundled)
    monkeypatch.chdir(tmp_path)
    song = 0.1 * np.random.default_rng(0).standard_normal((4000, 2))
    soundfile.write("song.wav", song, 16000, subtype="FLOAT")
    for folder in ("songs/one", "data/tones", "data/noise"):
        Path(folder).mkdir(parents=True)
    for number, name in enumerate(("songs/one/vocals", "songs/one/drums", "data/tones/a", "data/noise/a")):
        noise = np.random.default_rng(number).standard_normal(48000)
        soundfile.write(f"{name}.wav", 0.1 * noise, 16000, subtype="FLOAT")
    scope = {}
    for block in blocks:
        exec(compile(block, "python.md", "exec"), scope)
    written = {name: soundfile.read(f"{name}.wav")[0] for name in ("vocals", "drums", "bass", "other")}
    np.testing.assert_allclose(sum(written.values()), song, atol=1e-5)
    assert "no priors at './nowhere'" in capsys.readouterr().out


def test_the_tests_that_hold_a_promise_are_there():
    promises = (DOCS.parent / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", promises)
    assert len(named) > 25
    tests = Path(__file__).parent
    assert [f for f, name in named if f"\ndef {name}(" not in (tests / f).read_text(encoding="utf-8")] == []


def test_vulnerable_versions_are_found_and_others_are_not():
    spec = importlib.util.spec_from_file_location("check", DOCS.parent / "scripts" / "check_dependencies.py")
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    lines = check.findings({"torch": "2.5.1+cpu", "idna": "3.7", "fonttools": "4.32", "filelock": "3.20.2"})
    assert [line.split()[0] for line in lines] == ["filelock", "torch"]
