"""What the subcommands share: options, usage mistakes, lines for people."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Annotated, Any

import typer

from ..config import WAVEFORM_SGLD, SgldConfig, default_sgld
from ..errors import DeepsepError

__all__ = [
    "INTERRUPTED",
    "SGLD",
    "DeviceOption",
    "GammaOption",
    "LevelsOption",
    "OfflineOption",
    "PriorsOption",
    "SigmaMaxOption",
    "SigmaMinOption",
    "StepsOption",
    "ThreadsOption",
    "check_sgld",
    "listed",
    "only_our_lines",
    "pairs",
    "refuse",
    "say",
    "set_threads",
    "sgld_config",
    "stoppable",
    "typed_options",
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

SGLD = SgldConfig()
WARM = default_sgld(waveform=True, from_encoder=True)
BY_DEFAULT = "by default {0:g}, with priors of samples {1:g}."
OR_WARM = BY_DEFAULT[:-1] + ", and {2:g} from an encoder."
StepsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="SGLD: Langevin steps a noise level; " + BY_DEFAULT.format(SGLD.steps, WAVEFORM_SGLD.steps),
    ),
]
LevelsOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="SGLD: noise levels; " + OR_WARM.format(SGLD.levels, WAVEFORM_SGLD.levels, WARM.levels)
    ),
]
SigmaMaxOption = Annotated[
    float | None,
    typer.Option(
        help="SGLD: first noise level; "
        + OR_WARM.format(SGLD.sigma_max, WAVEFORM_SGLD.sigma_max, WARM.sigma_max)
    ),
]
SigmaMinOption = Annotated[
    float | None,
    typer.Option(
        help="SGLD: last noise level; " + BY_DEFAULT.format(SGLD.sigma_min, WAVEFORM_SGLD.sigma_min)
    ),
]
GammaOption = Annotated[
    float | None,
    typer.Option(
        help="SGLD with priors of samples: how loosely sources sum to the mixture, in noise levels; 0 exactly. "
        f"By default {SGLD.gamma:g}."
    ),
]


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


def check_sgld(given: Mapping[str, Any]) -> None:
    """Ends with a line and exit code 2 for settings of SGLD that fit no priors; None is what was not given."""
    sigmas = [v for k, v in given.items() if k.startswith("sigma") and v is not None]
    alone = {"sigma_max": sigmas[0], "sigma_min": sigmas[0]} if len(sigmas) == 1 else {}
    sgld_config(SGLD, {**given, **alone})


def sgld_config(default: SgldConfig, given: Mapping[str, Any]) -> SgldConfig:
    """A domain's settings of SGLD with those that were given."""
    try:
        return replace(default, **{k: v for k, v in given.items() if v is not None})
    except DeepsepError as error:
        raise usage(str(error)) from None


def typed_options(context: typer.Context) -> set[str]:
    """The parameters that were given on the command line; by name, since newer typers bring a click of their own."""
    names = ((n, getattr(context.get_parameter_source(n), "name", "")) for n in context.params)
    return {n for n, source in names if source == "COMMANDLINE"}


def refuse(typed: set[str], names: Iterable[str], why: str) -> None:
    """Ends with a line and exit code 2 where one of these options was typed, which would do nothing."""
    for name in names:
        if name in typed:
            raise usage(f"--{name.replace('_', '-')} {why}")


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
