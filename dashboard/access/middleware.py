"""Access control: same-origin requests only, a token if the page is not on loopback, API keys.

A browser also runs pages of other sites. Such a page can send requests to this server, point its
own DNS name at this address (DNS rebinding) or open a WebSocket. Therefore each request must have
an accepted `Host` and must come from a page of this server.

The token opens everything. An API key reads what lies below `/api/`, and changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from speech_emotion.common.security.api_keys import PREFIX, ApiKeys
from speech_emotion.common.wire.control_messages import LogIn
from speech_emotion.common.wire.endpoint import is_loopback
from speech_emotion.dashboard.static_files import STATIC

COOKIE = "sep_token"
COOKIE_AGE_S = 30 * 86400
FORM_LIMIT = 2048
API = "/api/"
READING = ("GET", "HEAD")
NOTED_S = 3600.0
"""A key that is used from the same address is reported again after this time."""
NOTED = 1000
"""Pairs of key and address that are kept for that."""
ALLOWED = "speech_emotion.allowed"
"""Key of a request's scope: whether it would still be answered."""
WRONG = "the token is missing or wrong"
PUBLIC_PATHS = ("/token.css",)
"""Paths without a token: only the style sheet of the token form."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; media-src 'self'; connect-src 'self'; manifest-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
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
        keys: the API keys.
        tls: whether the server itself encrypts.
        noted: called when a token or key arrives.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        token: str | None,
        *,
        base_url: str | None = None,
        trusted_hosts: Iterable[str] = (),
        keys: ApiKeys | None = None,
        tls: bool = False,
        noted: Callable[[LogIn], None] = lambda _: None,
    ) -> None:
        self._app = app
        self._token = token
        self._keys = keys or ApiKeys(None)
        self._noted = noted
        self._used: dict[tuple[str, str], float] = {}
        base = urllib.parse.urlsplit(base_url or "")
        self._prefix = base.path.rstrip("/")
        self._https = tls or base.scheme == "https"
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
        scope = {**scope, ALLOWED: None}
        request = Request(scope, receive)
        response = self._refusal(request) or await self._challenge(request)
        await (response or self._app)(scope, receive, _with_headers(send))

    def _refusal(self, request: Request) -> Response | None:
        headers = request.headers
        host = _host_name(headers.get("host", ""))
        reason = None
        if self._token is None and not (is_loopback(host) or host in self._hosts):
            reason = (
                "this page answers to localhost only; behind a reverse proxy set dashboard.base_url"
            )
        elif (origin := headers.get("origin")) is not None and not self._own_origin(
            origin, headers.get("host")
        ):
            reason = "another origin"
        elif not _own_site(headers, request):
            reason = "another site"
        elif "upgrade" in headers:
            reason = "no WebSocket is served"
        return None if reason is None else refusal(request, 403, f"refused: {reason}")

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
        """The response to a request without token and key; None if the request may pass."""
        path, given = request.url.path, None
        if path in PUBLIC_PATHS:
            return None
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self._bearer(request, bearer.strip())
        if self._token is None or self._has_cookie(request):
            return None
        if path == "/login" and request.method == "POST":
            with contextlib.suppress(ClientDisconnect):
                given = await _form_token(request)
        elif path == "/" and request.method == "GET":
            given = request.query_params.get("token")
        right = given is not None and _equal(given, self._token)
        if given is not None:
            self._noted(LogIn(right, _address(request)))
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
        return refusal(request, 401, WRONG)

    def _bearer(self, request: Request, given: str) -> Response | None:
        """The response to a request with a token or key; None if it may pass."""
        if self._token is not None and _equal(given, self._token):
            return None
        address, asked = _address(request), f"{request.method} {request.url.path}"
        name = self._keys.name_of(given)
        if name is None:
            self._noted(LogIn(False, address, "" if given.startswith(PREFIX) else None, asked))
            return refusal(request, 401, WRONG)
        if request.method not in READING or not request.url.path.startswith(API):
            self._noted(LogIn(False, address, name, asked))
            return refusal(request, 403, f"refused: the key {name} can only read {API}")
        self._note_use(LogIn(True, address, name, asked))
        request.scope[ALLOWED] = lambda: self._keys.name_of(given) is not None
        return None

    def _note_use(self, log_in: LogIn) -> None:
        """Report the use of a key, once an hour for each address."""
        pair, now = (log_in.key or "", log_in.address), time.monotonic()
        if now - self._used.get(pair, -NOTED_S) < NOTED_S:
            return
        if len(self._used) >= NOTED:
            self._used.clear()
        self._used[pair] = now
        self._noted(log_in)

    def _has_cookie(self, request: Request) -> bool:
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


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else "unknown"


def allowed(scope: Scope) -> bool:
    """Whether a request that was accepted would still be: its key may have been removed."""
    check = scope.get(ALLOWED)
    return check is None or bool(check())


def reads_only(scope: Scope) -> bool:
    """Whether a request came with an API key, and not with the token."""
    return scope.get(ALLOWED) is not None


def refusal(
    request: Request, status: int, text: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer to a request that is refused: JSON below `/api/`, else a line."""
    headers = dict(headers or {})
    if not request.url.path.startswith(API):
        return PlainTextResponse(f"{text}\n", status, headers)
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse({"error": text}, status, headers)


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
