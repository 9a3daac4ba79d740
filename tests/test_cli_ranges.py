"""Every number that can be typed has a range, and whatever else is typed is an answer or one line."""

import json
import os
import typing
from pathlib import Path
from types import UnionType

import hypothesis.strategies as st
import pytest
import typer
from cli_fixtures import examples
from hypothesis import HealthCheck, given, settings

from deepsep.cli import app as program
from deepsep.progress import printable

COMMANDS = {c.name or c.callback.__name__: c.callback for c in program.registered_commands if c.callback}


def numeric_options():
    """(command, option, int or float, least, greatest) of all commands."""
    for command, function in COMMANDS.items():
        for name, hint in typing.get_type_hints(function, include_extras=True).items():
            if (
                typing.get_origin(hint) is typing.Union
            ):  # Python 3.10 makes None as default Optional[Annotated[...]]
                hint = typing.get_args(hint)[0]
            if typing.get_origin(hint) is not typing.Annotated:
                continue
            kind, info = hint.__origin__, hint.__metadata__[0]
            kinds = typing.get_args(kind) if isinstance(kind, UnionType) else (kind,)
            for number in (int, float):
                if number in kinds:
                    flags = [word for word in info.param_decls or () if word.startswith("--")]
                    yield command, (flags or [f"--{name.replace('_', '-')}"])[0], number, info.min, info.max


OPTIONS = list(numeric_options())


def test_every_number_has_a_range():
    assert len(OPTIONS) > 50
    endless = [(command, option) for command, option, _, low, high in OPTIONS if low is None or high is None]
    assert not endless


def outside(number, low, high):
    whole = st.one_of(st.integers(max_value=int(low) - 1), st.integers(min_value=int(high) + 1))
    if number is int:
        return st.one_of(
            whole.map(str), st.sampled_from(["nan", "inf", "1e3", "", "9" * 5000, "0x10", "1.5"])
        )
    below = st.floats(max_value=low, exclude_max=True)
    above = st.floats(min_value=high, exclude_min=True)
    return st.one_of(
        whole.map(str), below.map(str), above.map(str), st.sampled_from(["nan", "-nan", "inf", "x", ""])
    )


@settings(max_examples=examples(120), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_number_out_of_its_range_is_wrong_usage(deepsep, data):
    command, option, number, low, high = data.draw(st.sampled_from(OPTIONS))
    value = data.draw(outside(number, low, high))
    code, out, err = deepsep(command, f"{option}={value}")
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert option in err or ("nan" in value and "Missing" in err)  # nan is looked for after all is parsed


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train-prior", ("--squeeze", "1000000000,2", "--domain", "waveform")),
        ("train-prior", ("--squeeze", ",".join(["2"] * 40), "--domain", "waveform")),
        ("train-prior", ("--squeeze", "4096,4096", "--domain", "waveform")),
        ("train-prior", ("--layers", "100")),
        ("train-prior", ("--layers", "100", "--domain", "waveform")),
        ("train-encoder", ("--widths", "1000000000", "--priors", "x")),
        ("train-encoder", ("--widths", ",".join(["8"] * 40), "--priors", "x")),
        ("train-encoder", ("--widths", "8,8,8,8,8,8", "--deep", "32", "--priors", "x")),
    ],
)
def test_sizes_that_are_too_large_together_are_wrong_usage(command, words, deepsep):
    extra = ("--source", "x") if command == "train-prior" else ()
    code, out, err = deepsep(command, "data", *extra, *words)
    assert (code, out, err.count("\n")) == (2, "", 1), err


def test_the_ends_of_a_range_are_taken(deepsep, priors):
    """A range that refuses its own ends would be a mistake in the range."""
    for command, option, number, low, high in OPTIONS:
        if command == "app":  # it would serve until it is stopped
            continue
        for end in (low, high):
            err = deepsep(command, f"{option}={number(end)}")[2]
            assert option not in err or "Missing" in err or "must be more than 0" in err, err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_what_fits_no_memory_is_one_line_and_no_other_error_is_hidden(error, deepsep, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("deepsep.training.prior.train_prior", fail)
    assert "not enough memory" in deepsep.bad("train-prior", "data", "--source", "x")
    error = RuntimeError("a mistake of ours")
    with pytest.raises(RuntimeError, match="ours"):
        deepsep("train-prior", "data", "--source", "x")


@pytest.mark.parametrize("value", ["nan", "-nan"])
def test_nan_is_no_number(value, deepsep, tmp_path):
    code, out, err = deepsep(
        "train-prior", "--source", "vocals", tmp_path, "-o", tmp_path / "p", f"--sigma-min={value}"
    )
    assert (code, out) == (2, "") and "--sigma-min" in err and err.count("\n") == 1


def commands(group, *before):
    """(words, command) of all commands, groups taken apart."""
    for name, command in group.commands.items():
        yield from (
            commands(command, *before, name) if hasattr(command, "commands") else [((*before, name), command)]
        )


# not: the page, which serves until it is stopped, and what needs no input
ENDLESS = {"app", "doctor", "toy"}
ALL = [
    (words, command)
    for words, command in commands(typer.main.get_command(program))
    if words[0] not in ENDLESS
]
PLAIN = (
    "- -- -x --no 0 -1 1 1e999 nan a,b a=b = , 1/2 2/1 .. / /dev/null /dev/full text folder nothing bundled vocals "
    "auto cuda:9 all [/b] [red] {stem} { %s ~nobody 0:00 -0:01"
).split()
WORD = st.sampled_from(
    [*PLAIN, "", " ", "\n", "\x1b[31m", "\udcff", "\u202e", "é" * 300, "9" * 400]
) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)


@settings(max_examples=examples(200), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_typed_is_answered_or_one_line(deepsep, monkeypatch, data):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("text").write_text("no sound")
    Path("folder").mkdir(exist_ok=True)
    words, command = data.draw(st.sampled_from(ALL))
    typed, options = [*words], [param for param in command.params if param.param_type_name == "option"]
    for _ in range(data.draw(st.integers(0, 5)) if options else 0):
        option = data.draw(st.sampled_from(options))
        typed.append(data.draw(st.sampled_from(option.opts)))
        if not option.is_flag:
            typed.append(data.draw(WORD))
    typed += data.draw(st.lists(WORD, max_size=3))
    code, out, err = deepsep(*typed)
    assert code in (0, 1, 2)
    if code:
        *lines, last = err.splitlines()
        assert not out or isinstance(json.loads(out), dict)  # --json tells of failed songs as well
        assert all(line.startswith("error: ") for line in lines)  # one for each song
        assert last.startswith(("error: ", "0 done"))
    assert all(printable(line) == line for line in (out + err).split("\n"))
    assert sorted(os.listdir()) == ["folder", "text"] or not code
