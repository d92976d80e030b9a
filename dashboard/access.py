"""Who gets an answer: the page's own origin only, and beyond loopback who knows the token.

A browser carries other people's pages. They may send requests here (and learn nothing of the
answers but that there are some), rebind a name of theirs to this address, or open a socket. So
every request must name a host that is meant, and come from a page of that very host.
"""

from __future__ import annotations

import hashlib
import hmac
import urllib.parse
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from speech_emotion.common.wire.endpoint import is_loopback
from speech_emotion.dashboard.static_files import STATIC

COOKIE = "sep_token"
COOKIE_AGE_S = 30 * 86400
FORM_LIMIT = 2048
OPEN = ("/token.css",)
"""Nothing but the looks of the page that asks for the token."""
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
    """Stands before an application and lets through what may.

    Args:
        host: what the server listens on.
        token: what a browser must know; None: only this machine is answered.
    """

    def __init__(self, app: ASGIApp, host: str, token: str | None) -> None:
        self._app = app
        self._host = host
        self._token = token
        self._cookie = _derived(token) if token is not None else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # there is no socket here, whoever asks
        request = Request(scope, receive)
        answer = self._refusal(request) or await self._stranger(request)
        await (answer or self._app)(scope, receive, _with_headers(send))

    def _refusal(self, request: Request) -> Response | None:
        headers = request.headers
        host = _host_name(headers.get("host", ""))
        if self._token is None and not (is_loopback(host) or host == self._host):
            return _no("this page answers to localhost only")
        if (origin := headers.get("origin")) is not None:
            parts = urllib.parse.urlsplit(origin)
            if parts.scheme not in ("http", "https") or parts.netloc != headers.get("host"):
                return _no("another origin")
        if not _own_site(headers, request):
            return _no("another site")
        if "upgrade" in headers:
            return _no("no such socket")
        return None

    async def _stranger(self, request: Request) -> Response | None:
        """The answer to who does not show the token; None where it is shown, or not needed."""
        if self._token is None or request.url.path in OPEN or self._known(request):
            return None
        path, given = request.url.path, None
        if path == "/login" and request.method == "POST":
            given = await _form_token(request)
        elif path == "/" and request.method == "GET":
            given = request.query_params.get("token")
        if given is not None and _equal(given, self._token):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(
                COOKIE, self._cookie, max_age=COOKIE_AGE_S, httponly=True, samesite="lax"
            )
            return answer
        if path in ("/", "/login"):
            return FileResponse(STATIC / "token.html", 401)
        return PlainTextResponse("the token is missing or wrong\n", 401)

    def _known(self, request: Request) -> bool:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._token is not None and _equal(given, self._token):
            return True
        try:
            cookie = SimpleCookie(request.headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and _equal(cookie.value, self._cookie)


def _own_site(headers: Headers, request: Request) -> bool:
    """Whether the browser, if it is one that tells, was sent here by this very page or a person."""
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return True
    # A link on another page may lead here: it opens the page and gets nothing of it.
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
    """What a cookie holds: it opens the page, but the token cannot be read from it."""
    return hmac.new(token.encode(), b"cookie", hashlib.sha256).hexdigest()


def _equal(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _no(why: str) -> Response:
    return PlainTextResponse(f"refused: {why}\n", 403)


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
