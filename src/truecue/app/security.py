"""Who may ask the app for what: host names, passwords, tokens of forms, headers of answers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
from asyncio import sleep
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from truecue.errors import ConfigError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SESSION = "truecue_session"
PASS = "truecue_pass"
"""Cookies: a random name of the browser, and proof that the password was given."""
LARGEST, FORM = 64 * 2**20, 2**20
"""Bytes that a file of answers, and any other request, may have."""
LONGEST = 1000
"""Characters in the path of an address, at most: Python reads no number of 5,000 digits."""
POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""What a page may load: its own files, and no code that stands in the page."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
PATIENCE = 1.0
"""Seconds that a wrong password costs."""
_OPEN = ("/login", "/static/")
"""What is shown without the password."""
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:[0-9]{1,5})?", re.ASCII)
"""A name or an address and a port, and nothing that an address could go on with."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@lru_cache(1)
def _own_names() -> frozenset[str]:
    """What this machine calls itself; asked once, as a name server may take seconds."""
    return frozenset({socket.gethostname().lower(), socket.getfqdn().lower()})


@dataclass(frozen=True)
class Gate:
    """Decides about requests; one for each start of the app.

    Raises:
        ConfigError: other machines could reach the app without a password.
    """

    host: str = "127.0.0.1"
    """Where the server listens."""
    password: str | None = None
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    """Tokens are made with it."""

    def __post_init__(self) -> None:
        if self.password is not None and not self.password:
            raise ConfigError("--password is empty; give one, or leave the option out")
        if self.password is None and not is_loopback(self.host):
            raise ConfigError(
                f"with --host {self.host} other machines reach the app, and whoever reaches it can"
                " read the images and change verdicts; give --password, too"
            )

    def knows_host(self, header: str) -> bool:
        """Whether a request's Host is a name that this server goes by.

        A page elsewhere can give its own name this machine's address and then read what is
        answered (DNS rebinding); the name in the request gives it away. Addresses cannot be given
        away like that.
        """
        found = _HOST.fullmatch(header)
        if found is None:
            return False
        name = found[1].strip("[]").lower().rstrip(".")
        if is_loopback(name):
            return True
        if is_loopback(self.host):
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name == self.host.lower() or name in _own_names()
        return True

    def same_origin(self, origin: str | None, host: str) -> bool:
        """Whether a write comes from a page of this server, as far as the browser says."""
        try:
            return origin is None or urlsplit(origin).netloc == host
        except ValueError:  # such as http://[
            return False

    def token(self, session: str) -> str:
        """What a form of this browser must carry."""
        return self._sign(f"form {session}")

    def may_write(self, session: str, token: str) -> bool:
        """Whether a form carries this browser's token."""
        return bool(session) and hmac.compare_digest(token.encode(), self.token(session).encode())

    def proof(self) -> str:
        """What a browser shows once the password was given."""
        return self._sign(f"password {self.password}")

    def is_password(self, given: str) -> bool:
        """Whether this is the password."""
        return self.password is None or hmac.compare_digest(given.encode(), self.password.encode())

    def lets_in(self, request: Request) -> bool:
        """Whether a request has the password: a cookie from the form, or HTTP Basic."""
        if self.password is None:
            return True
        shown = request.cookies.get(PASS, "")
        if hmac.compare_digest(shown.encode(), self.proof().encode()):
            return True
        kind, _, value = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "basic":
            return False
        try:
            _, _, given = base64.b64decode(value).decode().partition(":")
        except ValueError:  # no base64, or no text in it
            return False
        return self.is_password(given)

    def _sign(self, what: str) -> str:
        return hmac.new(self.secret, what.encode(), hashlib.sha256).hexdigest()


class Guard:
    """The outermost layer of the app: refuses by host, origin, size and password; adds headers."""

    def __init__(self, app: ASGIApp, gate: Gate):
        self.app, self.gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        from starlette.datastructures import MutableHeaders
        from starlette.requests import Request

        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        request = Request(scope)
        session = request.cookies.get(SESSION, "")
        new = "" if session else secrets.token_urlsafe(24)
        scope.setdefault("state", {})["session"] = session or new

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
                if new:
                    headers.append("set-cookie", cookie(SESSION, new))
            await send(message)

        refused = self._refused(request)
        if refused is not None and "authorization" in request.headers:
            await sleep(PATIENCE)  # or passwords could be tried as fast as they can be sent
        await (refused or self.app)(scope, receive, with_headers)

    def _refused(self, request: Request) -> ASGIApp | None:
        from starlette.responses import PlainTextResponse, RedirectResponse

        host = request.headers.get("host", "")
        if not self.gate.knows_host(host):
            return PlainTextResponse(
                f"This app does not go by the name '{host[:100]}'. Open it by the address that it"
                " printed when it started.", 421,
            )  # fmt: skip
        # what routes go by: in request.url, some versions of Starlette put the Host header first
        path = request.scope["path"]
        if len(path) > LONGEST:
            return PlainTextResponse(f"An address may have {LONGEST:,} characters.", 414)
        length, most = request.headers.get("content-length", "0"), FORM
        if path == "/verdicts":
            most = LARGEST
        if not length.isdecimal() or int(length) > most:
            return PlainTextResponse(f"A request may have {most:,} bytes.", 413)
        writes = request.method not in ("GET", "HEAD")
        if writes and ("content-length" not in request.headers
                       or "transfer-encoding" in request.headers):  # fmt: skip
            return PlainTextResponse("A request must say how long it is.", 411)
        if writes and not self.gate.same_origin(request.headers.get("origin"), host):
            return PlainTextResponse("This came from a page of another site.", 403)
        if path.startswith(_OPEN) or self.gate.lets_in(request):
            return None
        if path.endswith(".json"):
            return PlainTextResponse("Give the password, by HTTP Basic or at /login.", 401)
        return RedirectResponse("/login", 303)


def cookie(name: str, value: str, days: int | None = None) -> str:
    """A Set-Cookie header that scripts cannot read and other sites do not send."""
    age = "" if days is None else f"; Max-Age={days * 86400}"
    return f"{name}={value}; Path=/; HttpOnly; SameSite=Strict{age}"
