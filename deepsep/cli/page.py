"""deepsep app."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..config import APP_HOST, APP_PORT
from .common import say, typed_options

__all__ = ["app"]


def app(
    context: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Option(help="Where results and the queue are kept; by default deepsep/ in your music folder."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any.")] = APP_PORT,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond this machine, the page asks for a token.")
    ] = APP_HOST,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the page.")] = False,
) -> None:
    """Open a page in the browser to separate songs on: drop them, listen, download.

    It runs on this machine alone and needs no network. Ctrl-C stops it; songs that are left go on at the next start.

    Example: deepsep app --folder ~/Music/deepsep
    """
    from ..app.places import default_folder
    from ..app.serve import serve

    typed = typed_options(context)

    def ready(address: str) -> None:
        say(f"deepsep app: {address} (Ctrl-C stops it)")

    try:
        serve(
            folder or default_folder(), host=host, port=port, any_port="port" not in typed,
            open_browser=not no_browser, on_ready=ready,
        )  # fmt: skip
    except KeyboardInterrupt:
        say("stopped; songs that are left go on at the next start")
