"""Who may ask: this machine's own browser, on this page; with `--host`, whoever has the token.

A web page elsewhere cannot read an answer, but could send a request, or have its own name lead here (DNS rebinding).
So the Host header must be one of ours, a request that changes anything must carry the token, which only our page
holds, and what is served may run no script but ours.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["TOKEN_HEADER", "Guard", "is_loopback"]

TOKEN_HEADER = "x-deepsep-token"
SAFE = ("GET", "HEAD")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HOST = re.compile(
    r"(?:\[([0-9a-f.]*:[0-9a-f:.]*)\]|([a-z0-9._-]+))(?::[0-9]{1,5})?", re.IGNORECASE | re.ASCII
)
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """ASGI middleware around the routes. `host` is what the server listens on; beyond loopback all needs the token."""

    def __init__(self, app: ASGIApp, host: str, port: int, token: str) -> None:
        self.app, self.host, self.token = app, host.lower(), token
        self.open = is_loopback(host)
        self.cookie = f"deepsep-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on and add the headers."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = self.refusal(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await (answer or self.app)(scope, receive, send_with_headers)

    def refusal(self, scope: Scope) -> Response | None:
        """Why a request is not let in, or where it should go; None for one that is."""
        headers = Headers(scope=scope)
        if not self.is_ours(name_in(headers.get("host", ""))):
            return PlainTextResponse("This address is not one of deepsep's.", 403)
        given = QueryParams(scope["query_string"]).get("token")
        if scope["method"] in SAFE and given is not None and scope["path"] == "/":
            return self.let_in(given)
        if not self.open and not self.is_token(self.cookie_in(headers)):
            return PlainTextResponse("Open the address that deepsep app printed, with its token.", 403)
        if scope["method"] not in SAFE:
            origin = headers.get("origin")
            foreign = origin is not None and urlsplit(origin).netloc != headers.get("host")
            if foreign or not self.is_token(headers.get(TOKEN_HEADER, "")):
                return PlainTextResponse("This request did not come from deepsep's page; reload it.", 403)
        return None

    def let_in(self, given: str) -> Response:
        """Change a token in the address into a cookie."""
        if not self.is_token(given):
            return PlainTextResponse(
                "The token in this address is not the one that deepsep app printed.", 403
            )
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self.cookie, self.token, max_age=30 * 86400, httponly=True, samesite="strict")
        return answer

    def cookie_in(self, headers: Headers) -> str:
        """The token that a browser was given before."""
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return ""
        return found.value if found else ""

    def is_token(self, given: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(given.encode(), self.token.encode())

    def is_ours(self, name: str) -> bool:
        """Whether a Host header names this server: an address, or a name that no one else can make lead here."""
        if is_loopback(name) or name == self.host:
            return True
        if self.open:
            return False
        own = socket.gethostname().lower()
        return is_address(name) or name in (own, f"{own}.local", socket.getfqdn().lower())


def name_in(host: str) -> str:
    """The name in a Host header, without its port; nothing where there is more to it than these two."""
    found = HOST.fullmatch(host)
    return (found[1] or found[2]).lower() if found else ""


def is_address(name: str) -> bool:
    """Whether a name is an address by number."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
