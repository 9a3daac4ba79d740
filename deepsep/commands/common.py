"""What the subcommands share: options, usage mistakes, lines for people."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

__all__ = [
    "INTERRUPTED",
    "DeviceOption",
    "OfflineOption",
    "PriorsOption",
    "ThreadsOption",
    "listed",
    "pairs",
    "say",
    "set_threads",
    "usage",
]

INTERRUPTED = 130

PriorsOption = Annotated[
    str,
    typer.Option(help="Where the priors come from: bundled, a folder, or org/name[@revision] on the Hub."),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Use the local cache only.")]
ThreadsOption = Annotated[Optional[int], typer.Option(min=1, help="CPU threads.")]


def usage(message: str) -> typer.BadParameter:
    """A mistake in the command itself: exit code 2."""
    return typer.BadParameter(message)


def say(line: str) -> None:
    """A line for people, on stderr, so that stdout stays for machines."""
    typer.echo(line, err=True)


def pairs(items: list[str], option: str) -> dict[str, str]:
    """NAME=VALUE options as a dictionary."""
    table = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (name and equals and value):
            raise usage(f"{option} takes NAME=VALUE, got {item!r}")
        table[name] = value
    return table


def listed(names: Optional[str]) -> list[str] | None:
    """A comma-separated list."""
    return [n.strip() for n in names.split(",") if n.strip()] if names else None


def set_threads(threads: int | None) -> None:
    """Threads of the numerical libraries."""
    if threads:
        import torch

        torch.set_num_threads(threads)
