"""What the commands share beside their options: usage mistakes, lines for people, signals."""

from __future__ import annotations

import _thread
import gc
import os
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TextIO

import typer

from ..errors import DeepsepError
from ..progress import printable

__all__ = [
    "INTERRUPTED",
    "answer",
    "as_usage",
    "clock_seconds",
    "exit_on_signals",
    "flush_stdout",
    "interrupt_between_imports",
    "listed",
    "loading",
    "open_closed_streams",
    "pairs",
    "refuse_idle",
    "say",
    "set_threads",
    "silence_c_libraries",
    "typed_options",
    "usage",
    "working_folder",
]

INTERRUPTED = 130


def usage(message: str) -> typer.Exit:
    """Say in one line what is wrong with the command itself. Raise the result, for exit code 2."""
    say(f"error: {message}")
    return typer.Exit(2)


@contextmanager
def as_usage(prefix: str = "") -> Iterator[None]:
    """Turn a DeepsepError of the block into a usage mistake."""
    try:
        yield
    except DeepsepError as error:
        raise usage(prefix + str(error)) from None


def working_folder() -> str:
    """The working folder. Raises DeepsepError where it has been removed: importing PyTorch there ends the process."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise DeepsepError("the working folder has been removed; change to another") from None


@contextmanager
def loading() -> Iterator[None]:
    """Import modules without looking for garbage among what they make, here or later: a quarter of a short run."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def say(line: str) -> None:
    """Write a line for people on stderr, made safe for a terminal; stdout is for machines.

    Where stderr takes nothing, on a full disk, nobody is told, and what the program does goes on.
    """
    try:
        typer.echo(printable(line), err=True)
    except OSError:
        discard(sys.stderr)


def answer(line: str | Path) -> None:
    """Write a line of what was asked for on stdout, made safe for a terminal; a program gets a path byte for byte."""
    if isinstance(line, Path) and not sys.stdout.isatty():
        typer.echo(os.fsencode(line))
    else:
        typer.echo(printable(str(line)))


def flush_stdout() -> OSError | None:
    """Write what is waiting for stdout; return what went wrong, after which stdout takes all and keeps nothing."""
    try:
        sys.stdout.flush()
    except OSError as error:
        discard(sys.stdout)
        return error
    return None


def discard(stream: TextIO) -> None:
    """Lead a stream nowhere, with what is still waiting for it."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


def open_closed_streams() -> None:
    """Lead standard streams that were closed nowhere: the next file that is opened would be taken for one of them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdin = sys.stdin or open(0)
    sys.stdout = sys.stdout or open(1, "w")
    sys.stderr = sys.stderr or open(2, "w")


def pairs(items: list[str], option: str) -> dict[str, str]:
    """Read NAME=VALUE options into a dictionary."""
    table = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (name and equals and value):
            raise usage(f"{option} takes NAME=VALUE, got {item!r}")
        table[name] = value
    return table


def clock_seconds(text: str | None, option: str) -> float | None:
    """Read a time: seconds, m:ss or h:mm:ss, whose seconds may have decimals; None stays None."""
    if text is None:
        return None
    match = re.fullmatch(r"(?:(?:(\d+):(?=\d\d:))?(\d+):(?=\d\d(?:\.|$)))?(\d+(?:\.\d*)?)", text.strip())
    if match is None or len(text) > 20:
        raise usage(f"{option} takes seconds, m:ss or h:mm:ss, got {text!r}")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def listed(names: str | None) -> list[str] | None:
    """Read a comma-separated list; None stays None."""
    if names is None:
        return None
    if found := [n.strip() for n in names.split(",") if n.strip()]:
        return found
    raise usage(f"{names!r} is a list without names; give them as a,b,c")


def typed_options(context: typer.Context) -> set[str]:
    """The names of the parameters that were given on the command line."""
    # by the source's name: newer typers bring a click of their own
    names = ((n, getattr(context.get_parameter_source(n), "name", "")) for n in context.params)
    return {n for n, source in names if source == "COMMANDLINE"}


def refuse_idle(typed: set[str], names: Iterable[str], why: str) -> None:
    """Raise a usage mistake if one of these options was typed, which would do nothing."""
    for name in names:
        if name in typed:
            raise usage(f"--{name.replace('_', '-')} {why}")


def set_threads(threads: int | None) -> None:
    """Set the number of threads of PyTorch, where one is given."""
    if threads:
        import torch

        torch.set_num_threads(threads)


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit within the block, so that what is half done is taken back first."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    names = [n for n in ("SIGTERM", "SIGHUP") if hasattr(signal, n)]
    ours = [n for n in map(signal.Signals.__getitem__, names) if signal.getsignal(n) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def interrupt_between_imports() -> Iterator[None]:
    """Let Ctrl-C wait until no module is being loaded: a library that is half there fails in ways of its own."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        above = frame
        while above:
            if above.f_code.co_filename.startswith("<frozen importlib"):
                again = threading.Timer(0.05, _thread.interrupt_main)
                again.daemon = True
                again.start()
                return
            above = above.f_back
        signal.default_int_handler(number, frame)

    try:
        signal.signal(signal.SIGINT, stop)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def silence_c_libraries() -> Iterator[None]:
    """Keep C libraries from writing to stderr within the block: mpg123 has notes about every file it cannot read."""
    try:
        ours = sys.stderr.fileno() == 2
        kept = os.dup(2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
    except (OSError, AttributeError, ValueError):  # no such thing as a stderr
        yield
        return
    before = sys.stderr
    before.flush()
    os.dup2(nowhere, 2)
    os.close(nowhere)
    if ours:
        sys.stderr = os.fdopen(
            os.dup(kept), "w", buffering=1, encoding=before.encoding, errors="backslashreplace"
        )
    try:
        yield
    finally:
        if ours:
            sys.stderr.close()
            sys.stderr = before
        os.dup2(kept, 2)
        os.close(kept)
