"""The command line: a thin skin over the library. Only it and its commands print, exit, or catch DeepsepError.

torch is imported inside the commands, never for --help.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from .. import __version__
from ..errors import DeepsepError, is_out_of_memory, refusal
from . import (
    contrast_priors,
    doctor,
    evaluate,
    page,
    priors,
    sample,
    separate,
    toy,
    train_encoder,
    train_prior,
)
from .command import Command, Group, UsageError
from .common import INTERRUPTED, flush_stdout, interrupt_between_imports, open_closed_streams, say

__all__ = ["app", "main"]

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Separate music into stems with generative flow priors.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=Command)(separate.separate)
app.command("app", cls=Command)(page.app)
app.command("train-prior", cls=Command)(train_prior.train_prior)
app.command("train-encoder", cls=Command)(train_encoder.train_encoder)
app.command("contrast-priors", cls=Command)(contrast_priors.contrast_priors)
app.command(cls=Command)(evaluate.evaluate)
app.add_typer(priors.app, name="priors")
app.command(cls=Command)(sample.sample)
app.command(cls=Command)(toy.toy)
app.command(cls=Command)(doctor.doctor)


def show_version(wanted: bool) -> None:
    """Print the version and exit."""
    if wanted:
        typer.echo(f"deepsep {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Separate music into stems with generative flow priors."""


def main() -> None:
    """Run the program: a mistake that a user can mend is one line and exit code 1."""
    open_closed_streams()
    os.environ.pop("MPLBACKEND", None)  # a notebook's, which need not be there; pictures go to files
    try:
        with interrupt_between_imports():
            run()
    finally:
        if (error := flush_stdout()) and not isinstance(error, BrokenPipeError):
            say(f"error: {refusal('stdout', error)}")
            raise SystemExit(1) from None


def run() -> None:
    """Run the command that was typed, and exit."""
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # not in every release of Typer
            error.show()
            raise SystemExit(2) from None
        command = error.ctx.command_path if error.ctx else "deepsep"
        say(f"error: {error.format_message().rstrip('.')}. See {command} --help")
        raise SystemExit(2) from None
    except typer.Abort:
        raise SystemExit(INTERRUPTED) from None
    except DeepsepError as error:
        say(f"error: {error}")
        raise SystemExit(1) from None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        say("error: not enough memory; try a smaller batch, network or excerpt")
        raise SystemExit(1) from None
    except OSError as error:
        say(f"error: {refusal(error.filename or 'a file or stdout', error, 'used')}")
        raise SystemExit(1) from None
    raise SystemExit(code)


if __name__ == "__main__":
    main()
