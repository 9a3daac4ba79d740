"""Run the server, and open the page when it answers."""

from __future__ import annotations

import os
import socket
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import DeepsepError, MissingExtra

__all__ = ["serve"]

EVERYWHERE = ("0.0.0.0", "::")
# of no machine, for documentation: what leads there leads to all other networks too
ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}


def serve(
    folder: Path,
    *,
    host: str,
    port: int,
    any_port: bool = False,
    open_browser: bool = True,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the page until the process is interrupted.

    Args:
        folder: for the results, and hidden in it the queue; made if it is missing.
        host: what to listen on; beyond loopback, whoever comes must have the token.
        port: where to listen; 0 for any.
        any_port: take another port where this one is in use.
        open_browser: open the page.
        on_ready: called with the page's address once it can be opened; where `host` is all of this machine's, with
            that which a phone finds, and that of a container's page on the machine it runs on.

    Raises DeepsepError where the folder or the port cannot be used, or another server works in the folder,
    or where the queue ends by itself;
    MissingExtra where starlette or uvicorn is missing.
    """
    try:
        import uvicorn

        from . import places
        from .guard import is_loopback
        from .routes import build
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise MissingExtra(
            "deepsep app needs starlette and uvicorn; run `pipx inject deepsep starlette uvicorn` or "
            '`pip install "deepsep[app]"`'
        ) from None
    folder = folder.expanduser().absolute()
    places.prepare(folder)
    with alone(places.state(folder) / "lock", folder), listen(host, port, any_port) as listening:
        number = listening.getsockname()[1]

        def ready(token: str) -> None:
            rest = f":{number}/" + ("" if is_loopback(host) else f"?token={token}")
            name = own_address(listening.family) if host in EVERYWHERE else host
            address = "http://" + (f"[{name}]" if ":" in name else name) + rest
            if on_ready:
                on_ready(
                    address + (f" or in a container: http://localhost{rest}" if host in EVERYWHERE else "")
                )
            if open_browser:
                webbrowser.open(address)

        ended: list[BaseException] = []

        def end(error: BaseException) -> None:
            ended.append(error)
            server.should_exit = True

        app = build(folder, host=host, port=number, on_ready=ready, on_end=end)
        config = uvicorn.Config(
            app, log_level="critical", access_log=False, lifespan="on", timeout_graceful_shutdown=1,
            server_header=False,
        )  # fmt: skip
        server = uvicorn.Server(config)
        server.run(sockets=[listening])
        if ended:
            raise DeepsepError(
                f"the queue has ended by itself ({ended[0]!r}); start deepsep app again: what was sent is still there"
            ) from ended[0]


@contextmanager
def alone(lock: Path, folder: Path) -> Iterator[None]:
    """Within, no other server works in the folder. Raises DeepsepError where one does."""
    try:
        with FileLock(lock, blocking=False):
            yield
    except Timeout:
        raise DeepsepError(
            f"{folder}: another deepsep app works there; close it, or choose another --folder"
        ) from None


def own_address(family: int) -> str:
    """Where other machines find this one: the address that it sends from, or its name where it is in no network."""
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as way:
        way.connect((ELSEWHERE[socket.AddressFamily(family)], 9))  # sends nothing
        return str(way.getsockname()[0])
    return socket.gethostname()


def listen(host: str, port: int, any_port: bool) -> socket.socket:
    """A socket that listens. Raises DeepsepError where that is not allowed, or the port is in use."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        try:
            return socket.create_server(address[:2], family=family)
        except OSError:
            if not any_port:
                raise
            return socket.create_server((address[0], 0), family=family)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no name of a machine"
        raise DeepsepError(
            f"cannot listen on {host!r} ({reason}); give --host an address of this machine, or 0.0.0.0 for all it has"
        ) from None
    except (OSError, OverflowError) as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise DeepsepError(
            f"cannot listen on {host}, port {port} ({why}); choose another --port or --host"
        ) from None
