"""deepsep priors: what is here, what the Hub has, and putting one's own there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DeepsepError
from ..models import card, hub
from ..models.local import facts_of, local_priors
from .command import Command, Group
from .common import answer, listed, say, usage
from .fetch import fetch, pinned_name, size_of
from .options import JsonOption, OfflineOption, QuietOption

__all__ = ["app"]

app = typer.Typer(cls=Group, no_args_is_help=True)

SpecArgument = Annotated[
    str,
    typer.Argument(metavar="SPEC", help="bundled, a folder, or org/name or org/name@revision on the Hub."),
]


@app.callback()
def root() -> None:
    """List, inspect, fetch and share priors.

    Example: deepsep priors info bundled
    """


@app.command("list", cls=Command)
def list_priors(as_json: JsonOption = False) -> None:
    """List the priors on this machine: those in the package and those in the Hub cache. No network.

    Example: deepsep priors list
    """
    rows = local_priors()
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        say("no priors here yet; fetch some: deepsep priors download org/name")
        return
    lines = [("PRIORS", "COMMIT", "SIZE", "SOURCES", "LICENCE")]
    for row in rows:
        sources = ", ".join(row["sources"]) + ("" if row["complete"] else " (not all downloaded)")
        commit = (row["commit"] or "-")[:12]
        lines.append((row["name"], commit, size_of(row["size"]), sources, card.licence_line(row)))
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line[:4], widths, strict=True)]
        answer("  ".join([*cells, line[4]]).rstrip())


@app.command("info", cls=Command)
def info(spec: SpecArgument, as_json: JsonOption = False, offline: OfflineOption = False) -> None:
    """Show what priors hold: sources, licence, data, figures, commit. Of a Hub name it fetches no weights.

    Example: deepsep priors info org/name@v1
    """
    found = hub.resolve(spec, offline=offline, only=[])
    facts = facts_of(found)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    head: dict[str, Any] = {
        "priors": facts["name"],
        "commit": facts["commit"] or "none (not from the Hub)",
        "folder": facts["folder"],
        "format": facts["format"],
        "domain": f"{facts['domain']}, {facts['rate']} Hz" if facts["rate"] else facts["domain"],
        "sources": ", ".join(facts["sources"]),
        "encoder": f"for {', '.join(facts['encoder'])}" if facts["encoder"] else "none",
        "size": size_of(facts["size"]) + ("" if facts["complete"] else ", not all downloaded"),
        "licence": card.licence_line(facts),
    }
    for name, value in head.items():
        answer(f"{name + ':':9} {value}")
    for source, statement in facts["data"].items():
        answer(f"data:     {source}: {statement}")
    for name, table in facts["figures"].items():
        for figure, value in table.items():
            answer(f"figure:   {name}: {figure} {value}")


@app.command("download", cls=Command)
def download(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="org/name[@revision] on the Hub.")],
    sources: Annotated[str | None, typer.Option(help="Only these, such as vocals,drums.")] = None,
    offline: OfflineOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fetch priors from the Hub into the cache and print their folder. The licence is shown first.

    Example: deepsep priors download org/name
    """
    found = fetch(spec, only=listed(sources), offline=offline, quiet=quiet)
    if not quiet and found.commit:
        say(f"use them with: deepsep separate song.mp3 --priors {pinned_name(found)}")
    answer(found.folder)


@app.command("path", cls=Command)
def path(spec: SpecArgument) -> None:
    """Print the folder of priors that are on this machine. No network.

    Example: deepsep priors path org/name
    """
    answer(hub.resolve(spec, offline=True).folder)


@app.command("remove", cls=Command)
def remove(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC",
            help="org/name for every commit, or org/name@revision for one; of a commit 7 digits or more.",
        ),
    ],
    quiet: QuietOption = False,
) -> None:
    """Delete Hub priors from the cache. They can be downloaded again.

    Example: deepsep priors remove org/name
    """
    _, at, revision = spec.strip().partition("@")
    if spec.strip() == "bundled" or Path(spec).expanduser().is_dir():
        raise DeepsepError(
            f"{spec} is not in the Hub cache; only what was downloaded from the Hub is removed"
        )
    if at and not revision:
        raise usage(f"{spec!r} names no revision; give org/name or org/name@revision")
    freed = hub.remove(spec)
    if not quiet:
        say(f"removed {spec.strip()}: {size_of(freed)} freed")


@app.command("licence", cls=Command)
def licence(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A priors folder, as training writes it.")],
    licence: Annotated[str, typer.Argument(metavar="LICENCE", help="Such as CC-BY-4.0.")],
    sources: Annotated[str | None, typer.Option(help="Only of these instruments; by default all.")] = None,
    quiet: QuietOption = False,
) -> None:
    """State the licence of trained weights, in config.json. The weights stay as they are.

    Example: deepsep priors licence mypriors/ CC-BY-4.0
    """
    from ..inference.compute import Compute
    from ..models import folder as model
    from ..training.claim import claimed

    if not licence.strip():
        raise usage("LICENCE is empty; give its name, such as CC-BY-4.0")
    model.read_config(folder)  # before a training folder is made for the claim
    with claimed(folder, Compute()):  # a training would write what it knew
        of = model.set_licence(folder, licence.strip(), listed(sources) or ())
    if not quiet:
        say(f"{folder}: {', '.join(of)} under {licence.strip()}")


@app.command("push", cls=Command)
def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A priors folder, as training writes it.")],
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repository; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to push to; by default main.")] = None,
    card_only: Annotated[
        bool, typer.Option("--card-only", help="Write README.md and stop, to read it first.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Share a priors folder on the Hub: check it, write its model card, upload it.

    The card is README.md; of one that is there, your own text is kept. Log in first: hf auth login.

    Example: deepsep priors push mypriors/ org/name
    """
    named = hub.REPO.fullmatch(repo)
    if named is None or named["revision"]:
        raise usage(f"{repo!r} is not the name of a repository; give org/name")
    from ..models import folder as model

    hub.check_push(folder)
    config = model.read_config(folder)
    facts = card.describe(config)
    unstated = [s for s, licence in facts["licence"].items() if licence == card.UNSPECIFIED]
    if unstated:
        say(f"note: no licence is stated for {', '.join(unstated)}; people will not know what they may do")
    written = card.write_card(folder, config, repo)
    if card_only:
        answer(written)
        return
    if quiet:
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
    address = hub.push(folder, repo, private=private, revision=revision)
    if not quiet:
        say(f"pushed {', '.join(facts['sources'])} ({size_of(facts['size'])})")
    answer(address)
