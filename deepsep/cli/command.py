"""Commands whose help is plain, and whose complaints name what somebody used to another separator may have meant."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

from .common import working_folder

__all__ = ["Command", "Group"]

# of whichever click this Typer runs on
UsageError = cast(type[Any], typer.BadParameter.__mro__[1])

HABITS = {  # options of demucs and spleeter -> what does the same here
    "--mp3": "--format mp3",
    "--flac": "--format flac",
    "--wav": "--format wav",
    "--int24": "--bit-depth 24",
    "--float32": "--bit-depth float",
    "--mp3-bitrate": "--bitrate",
    "-b": "--bitrate",
    "-c": "--format",
    "--name": "--priors",
    "-n": "--priors",
    "-p": "--priors",
    "--repo": "--priors",
    "--shifts": "--pitches",
    "-d": "--device",
    "--jobs": "--threads",
    "-j": "--threads",
    "--output_path": "--out",
    "--stem": "--two-stems",
}
OPTIONAL = {"--ray": ("auto", r"auto|local|ray://\S+|[^/\s]+:\d+")}  # options that may go without a value
# commands that do without a working folder
ANYWHERE = ("doctor", "list", "info", "path", "download", "remove")
VALUES = {"int": "N", "integer": "N", "float": "X", "path": "PATH", "text": "TEXT", "str": "TEXT"}


class PlainHelp:
    """Help that shows N, X, PATH or TEXT for an option's value, and nothing for a switch."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, each with what its help shows for a value."""
        return [show_plainly(parameter) for parameter in super().get_params(ctx)]  # type: ignore[misc]


class Command(PlainHelp, TyperCommand):
    """A command with plain help, FILE... without braces, and a hint for the options of other programs."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words of the usage line; arguments without braces."""
        return [plain_argument(piece) for piece in super().collect_usage_pieces(ctx)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what was typed; where an option is another program's, name ours."""
        try:
            parsed: list[str] = super().parse_args(ctx, with_values(args))
            refuse_nan(ctx)
        except UsageError as error:
            ours = HABITS.get(getattr(error, "option_name", ""))
            names = {name for parameter in self.params for name in parameter.opts}
            if ours and ours.split()[0] in names:
                raise UsageError(f"No such option: {error.option_name}; use {ours}.", ctx=ctx) from error
            raise
        return parsed

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises DeepsepError where it needs a working folder and that has been removed."""
        if self.name not in ANYWHERE:
            working_folder()
        return super().invoke(ctx)


def with_values(args: list[str]) -> list[str]:
    """Give the options of `OPTIONAL` the value that they have where the next word cannot be one."""
    end = args.index("--") if "--" in args else len(args)
    filled = []
    for at, word in enumerate(args):
        filled.append(word)
        if at < end and word in OPTIONAL:
            usual, pattern = OPTIONAL[word]
            following = args[at + 1] if at + 1 < end else ""
            if not re.fullmatch(pattern, following) or Path(following).exists():
                filled.append(usual)
    return filled


class Group(PlainHelp, TyperGroup):
    """A group of commands that tells somebody who forgot the command which one it takes."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; a song in its place is a song to separate."""
        try:
            return super().resolve_command(ctx, args)
        except UsageError as error:
            song = args[0]
            if self.get_command(ctx, "separate") and looks_like_song(song):
                quoted = f'"{song}"' if " " in song else song
                raise UsageError(
                    f"No such command {song!r}; to separate it: deepsep separate {quoted}.", ctx=ctx
                ) from error
            raise


def refuse_nan(ctx: Any) -> None:
    """Raise a usage mistake for an option that is NaN, which lies within every range."""
    for name, value in ctx.params.items():
        if isinstance(value, float) and value != value:
            raise UsageError(f"Invalid value for '--{name.replace('_', '-')}': nan is no number.", ctx=ctx)


def show_plainly(parameter: Any) -> Any:
    """Make help say little of a parameter's type: nothing for an argument, a word for an option."""
    if parameter.param_type_name == "argument":
        parameter.display_type_rich = lambda ctx: None  # as newer releases of Typer ask for it
    elif parameter.metavar is None:
        parameter.metavar = value_name(parameter)
    return parameter


def value_name(parameter: Any) -> str | None:
    """What help shows for an option's value; None leaves it to Typer, as for choices."""
    if getattr(parameter, "is_flag", False):
        return ""
    described = getattr(parameter, "type_descriptor", None)  # in newer releases of Typer
    kind = getattr(described, "annotation", None) or getattr(parameter, "type", None)
    name = getattr(kind, "__name__", None) or getattr(kind, "name", "")
    return VALUES.get(str(name).lower().removesuffix(" range"))


def plain_argument(piece: str) -> str:
    """ "{FILE...}..." -> "FILE..."."""
    match = re.fullmatch(r"\{?([^{}]*?)(\.\.\.)?\}?(\.\.\.)?", piece)
    return f"{match[1]}..." if match and (match[2] or match[3]) else piece.strip("{}")


def looks_like_song(word: str) -> bool:
    """Whether a word names a recording: a file, a folder, or something that ends like one."""
    from ..audio.files import AUDIO_SUFFIXES

    return "://" in word or Path(word).suffix.lower() in AUDIO_SUFFIXES or Path(word).exists()
