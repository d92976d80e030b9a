"""Access control: same-origin requests only, and a token if the page is not on loopback.

A browser also runs pages of other sites. Such a page can send requests to this server, point its
own DNS name at this address (DNS rebinding) or open a WebSocket. Therefore each request must have
an accepted `Host` and must come from a page of this server.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import urllib.parse
from collections.abc import Callable, Iterable
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from speech_emotion.common.wire.endpoint import is_loopback
from speech_emotion.dashboard.static_files import STATIC

COOKIE = "sep_token"
COOKIE_AGE_S = 30 * 86400
FORM_LIMIT = 2048
PUBLIC_PATHS = ("/token.css",)
"""Paths without a token: only the style sheet of the token form."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class AccessMiddleware:
    """Refuses requests of other origins and requests without the token.

    Args:
        app: the application that gets the accepted requests.
        host: address that the server listens on.
        token: the access token; None: only requests of this machine, of the host in `base_url`
            and of `trusted_hosts` are answered.
        base_url: address of the page behind a reverse proxy, which may keep or rewrite `Host` and
            may keep or remove the path prefix.
        trusted_hosts: further accepted host names.
        noted: called when a token arrives: whether it is right, and the address.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        token: str | None,
        *,
        base_url: str | None = None,
        trusted_hosts: Iterable[str] = (),
        noted: Callable[[bool, str], None] = lambda *_: None,
    ) -> None:
        self._app = app
        self._token = token
        self._noted = noted
        base = urllib.parse.urlsplit(base_url or "")
        self._prefix = base.path.rstrip("/")
        self._https = base.scheme == "https"
        self._origin = (base.scheme, base.netloc.lower())
        self._trusted = frozenset(name.lower() for name in trusted_hosts)
        self._hosts = self._trusted | {host, base.hostname}
        self._cookie = _derived(token) if token is not None else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no WebSocket is served
        path: str = scope["path"]
        if self._prefix and path == self._prefix:
            await RedirectResponse(f"{self._prefix}/", 308)(scope, receive, send)
            return
        if self._prefix and path.startswith(f"{self._prefix}/"):
            scope = {**scope, "path": path.removeprefix(self._prefix), "raw_path": None}
        request = Request(scope, receive)
        response = self._refusal(request) or await self._challenge(request)
        await (response or self._app)(scope, receive, _with_headers(send))

    def _refusal(self, request: Request) -> Response | None:
        headers = request.headers
        host = _host_name(headers.get("host", ""))
        if self._token is None and not (is_loopback(host) or host in self._hosts):
            return _forbidden(
                "this page answers to localhost only; behind a reverse proxy set dashboard.base_url"
            )
        if (origin := headers.get("origin")) is not None and not self._own_origin(
            origin, headers.get("host")
        ):
            return _forbidden("another origin")
        if not _own_site(headers, request):
            return _forbidden("another site")
        if "upgrade" in headers:
            return _forbidden("no WebSocket is served")
        return None

    def _own_origin(self, origin: str, host: str | None) -> bool:
        try:
            parts = urllib.parse.urlsplit(origin)
        except ValueError:
            return False
        if parts.scheme not in ("http", "https"):
            return False
        # A trusted host is trusted at its default port only: other ports are other programs.
        return (
            parts.netloc == host
            or (parts.scheme, parts.netloc) == self._origin
            or parts.netloc in self._trusted
        )

    async def _challenge(self, request: Request) -> Response | None:
        """The response to a request without the token; None if the request may pass."""
        if self._token is None or request.url.path in PUBLIC_PATHS or self._has_token(request):
            return None
        path, given = request.url.path, None
        if path == "/login" and request.method == "POST":
            with contextlib.suppress(ClientDisconnect):
                given = await _form_token(request)
        elif path == "/" and request.method == "GET":
            given = request.query_params.get("token")
        right = given is not None and _equal(given, self._token)
        if given is not None:
            self._noted(right, request.client.host if request.client is not None else "unknown")
        if right:
            # Relative to the address that the browser knows, whatever prefix the proxy removes.
            response = Response(status_code=303, headers={"location": "./"})
            response.set_cookie(
                COOKIE,
                self._cookie,
                max_age=COOKIE_AGE_S,
                path=f"{self._prefix}/",
                secure=self._https,
                httponly=True,
                samesite="lax",
            )
            return response
        if path in ("/", "/login"):
            return FileResponse(STATIC / "token.html", 401)
        return PlainTextResponse("the token is missing or wrong\n", 401)

    def _has_token(self, request: Request) -> bool:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._token is not None and _equal(given, self._token):
            return True
        try:
            cookie = SimpleCookie(request.headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and _equal(cookie.value, self._cookie)


def _own_site(headers: Headers, request: Request) -> bool:
    """Whether a page of this server or the user made the request, as far as the browser says."""
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return True
    # A link of another site may open the page; that site cannot read the response.
    navigation = headers.get("sec-fetch-mode") == "navigate"
    return navigation and headers.get("sec-fetch-dest") == "document" and request.url.path == "/"


def _host_name(host: str) -> str:
    try:
        return urllib.parse.urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def _form_token(request: Request) -> str | None:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_LIMIT:
            return None
    fields = urllib.parse.parse_qs(body.decode("utf-8", "replace"))
    return fields.get("token", [None])[0]


def _derived(token: str) -> str:
    """The cookie's value: derived from the token, which cannot be computed from it."""
    return hmac.new(token.encode(), b"cookie", hashlib.sha256).hexdigest()


def _equal(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _forbidden(reason: str) -> Response:
    return PlainTextResponse(f"refused: {reason}\n", 403)


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = [*message.get("headers", [])]
            extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            if not any(name == b"cache-control" for name, _ in given):
                extra.append((b"cache-control", b"no-cache"))
            message = {**message, "headers": given + extra}
        await send(message)

    return wrapped
