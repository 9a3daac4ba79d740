"""What the subcommands share: options, usage mistakes, lines for people."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

__all__ = [
    "INTERRUPTED",
    "DeviceOption",
    "OfflineOption",
    "PriorsOption",
    "ThreadsOption",
    "listed",
    "only_our_lines",
    "pairs",
    "say",
    "set_threads",
    "stoppable",
    "usage",
]

INTERRUPTED = 130

PriorsOption = Annotated[
    str,
    typer.Option(help="Where the priors come from: bundled, a folder, or org/name[@revision] on the Hub."),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Use the local cache only.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads.")]


def usage(message: str) -> typer.Exit:
    """A mistake in the command itself: says it in one line; the result is to be raised, for exit code 2."""
    say(f"error: {message}")
    return typer.Exit(2)


def say(line: str) -> None:
    """A line for people, on stderr, so that stdout stays for machines. A file's name cannot break it."""
    typer.echo(re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", line), err=True)


def pairs(items: list[str], option: str) -> dict[str, str]:
    """NAME=VALUE options as a dictionary."""
    table = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (name and equals and value):
            raise usage(f"{option} takes NAME=VALUE, got {item!r}")
        table[name] = value
    return table


def listed(names: str | None) -> list[str] | None:
    """A comma-separated list; None where nothing was said."""
    if names is None:
        return None
    if found := [n.strip() for n in names.split(",") if n.strip()]:
        return found
    raise usage(f"{names!r} is a list without names; give them as a,b,c")


def set_threads(threads: int | None) -> None:
    """Threads of the numerical libraries."""
    if threads:
        import torch

        torch.set_num_threads(threads)


@contextmanager
def stoppable() -> Iterator[None]:
    """Within, a program that is told to end takes back what is half done first, as on Ctrl-C."""

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
def only_our_lines() -> Iterator[None]:
    """Within, C libraries cannot write to stderr: mpg123 has notes about every file that it cannot read."""
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
