"""Writes docs/cli.md from what the commands say of themselves in --help: python scripts/make_cli.py [--check].

It reads the declarations of the commands, not the screen, so that the page is the same for every terminal
and every version of Typer. --check changes nothing and fails if the page is not up to date.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from typer.models import OptionInfo, ParameterInfo

from deepsep.cli.app import app

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
NAMES = {str: "TEXT", int: "N", float: "X", Path: "PATH"}
HEAD = """# The command line

This page is made from `--help` by `python scripts/make_cli.py`; do not edit it.

Exit codes: 0 done, 1 something failed and one line says what, 2 the command itself is mistyped,
130 interrupted. What is meant for people goes to stderr; paths, tables and JSON go to stdout.

## Shell completion

For bash, zsh, fish and PowerShell; it takes effect in the next shell that you open:

```
deepsep --install-completion
```

`deepsep --show-completion` prints the script instead, to put it where you like. Both look at the shell that
they are called from. Then `deepsep pri<TAB>` becomes `deepsep priors`, and `deepsep separate --sk<TAB>`
becomes `deepsep separate --skip-existing`.
"""


class Parameter(typing.NamedTuple):
    """One argument or option as it is declared."""

    names: list[str]  # the option's spellings, or the argument's metavar
    value: str  # "" for a flag
    help: str
    default: Any
    required: bool
    repeated: bool
    panel: str  # of the options in --help

    @property
    def is_option(self) -> bool:
        """Whether it is given by name."""
        return self.names[0].startswith("-")


class Command(typing.NamedTuple):
    """One command that does something."""

    name: str
    help: str
    parameters: list[Parameter]


def commands(of: typer.Typer = app, prefix: str = "deepsep") -> Iterator[Command]:
    """Every command, subcommands after the commands of their parent."""
    for info in of.registered_commands:
        assert info.callback is not None
        name = info.name or info.callback.__name__.replace("_", "-")
        text = inspect.cleandoc(info.help or info.callback.__doc__ or "")
        yield Command(f"{prefix} {name}", text, parameters(info.callback))
    for group in of.registered_groups:
        assert group.typer_instance is not None
        yield from commands(group.typer_instance, f"{prefix} {group.name}")


def parameters(function: Callable[..., Any]) -> list[Parameter]:
    """The parameters of a command, in order."""
    hints = typing.get_type_hints(function, include_extras=True)
    found = []
    for parameter in inspect.signature(function).parameters.values():
        if hints[parameter.name] is typer.Context:  # what Typer tells a command of its own call
            continue
        hint = hints[parameter.name]
        # Python 3.10 adds "or None" around a type whose default is None
        if typing.get_origin(hint) is typing.Union:
            hint = next(arg for arg in typing.get_args(hint) if typing.get_origin(arg) is typing.Annotated)
        kind, *notes = typing.get_args(hint)
        info = next(note for note in notes if isinstance(note, ParameterInfo))
        found.append(declared(parameter, kind, info))
    return found


def declared(parameter: inspect.Parameter, kind: Any, info: ParameterInfo) -> Parameter:
    """One parameter from its name, type and Typer's note."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(arg for arg in typing.get_args(kind) if arg is not type(None))
    repeated = typing.get_origin(kind) is list
    if repeated:
        kind = typing.get_args(kind)[0]
    bare = parameter.name.strip("_")
    choices = "|".join(typing.get_args(kind)) if typing.get_origin(kind) is typing.Literal else "TEXT"
    # a bare bar would end the cell of a table
    value = "" if kind is bool else (info.metavar or NAMES.get(kind, choices)).replace("|", "\\|")
    required = parameter.default is inspect.Parameter.empty
    if isinstance(info, OptionInfo):
        # in Annotated, Typer takes the first spelling for a default until it builds the command
        spelled = [d for d in (info.default, *(info.param_decls or ())) if isinstance(d, str)]
        names = [n for d in spelled for n in d.split("/")] or [f"--{bare.replace('_', '-')}"]
    else:
        names = [info.metavar or bare.upper()]
    panel = info.rich_help_panel or ""
    return Parameter(names, value, info.help or "", parameter.default, required, repeated, panel)


def page() -> str:
    """The whole of docs/cli.md."""
    every = list(commands())
    lines = [HEAD, "## Commands", "", "| command | what it does |", "| --- | --- |"]
    for command in every:
        anchor = command.name.replace(" ", "-")
        lines.append(f"| [`{command.name}`](#{anchor}) | {cell(command.help.split(chr(10) * 2)[0])} |")
    lines += [
        "",
        "`deepsep --version` prints the version; `-h` or `--help` after any command prints its help.",
    ]
    for command in every:
        lines += ["", *section(command)]
    return "\n".join([*lines, ""])


def section(command: Command) -> Iterator[str]:
    """One command."""
    arguments = [p for p in command.parameters if not p.is_option]
    options = [p for p in command.parameters if p.is_option]
    yield f"## {command.name}"
    yield ""
    examples = []
    for paragraph in command.help.split("\n\n"):
        text, example, rest = paragraph.partition("Example: ")
        examples += rest.splitlines() if example else []
        if text.strip():
            yield text.strip()
            yield ""
    usage = [command.name, *(["[OPTIONS]"] if options else []), *(p.names[0] for p in arguments)]
    yield "```"
    yield f"usage:   {' '.join(usage)}"
    for example in examples:
        yield f"example: {example.strip()}"
    yield "```"
    for title, found in (("argument", arguments), ("option", options)):
        if found:
            yield ""
            yield f"| {title} | |"
            yield "| --- | --- |"
            for panel in dict.fromkeys(["", *(parameter.panel for parameter in found)]):
                if panel:
                    yield f"| **{panel}** | |"
                yield from (row(parameter) for parameter in found if parameter.panel == panel)


def row(parameter: Parameter) -> str:
    """One line of a table."""
    value = f" {parameter.value}" if parameter.is_option and parameter.value else ""
    notes = []
    if parameter.required and parameter.is_option:
        notes.append("Required.")
    if parameter.repeated and parameter.is_option:
        notes.append("May be given several times.")
    default = parameter.default
    if not parameter.required and default is not None and default is not False and default != []:
        shown = (
            f"{default:g}"
            if isinstance(default, float)
            else str(getattr(default, "as_posix", lambda: default)())
        )
        notes.append(f"Default: `{shown}`.")
    names = ", ".join(parameter.names)
    return f"| `{names}{value}` | {cell(' '.join([parameter.help, *notes]))} |"


def cell(text: str) -> str:
    """Text for a table."""
    return " ".join(text.split()).replace("|", "\\|")


def main(check: bool) -> int:
    """Write the page, or says whether it is up to date."""
    text = page()
    if not check:
        PAGE.write_text(text, encoding="utf-8", newline="\n")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print("docs/cli.md is not up to date: run python scripts/make_cli.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
