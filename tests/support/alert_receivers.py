"""Real servers that receive alerts: HTTP, ntfy by its documented schema, SMTP."""

from __future__ import annotations

import contextlib
import dataclasses
import email
import email.policy
import json
import re
import ssl
import threading
import types
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.pipelines import PATIENCE_S
from tools.ports import free_port

NTFY_KEYS: dict[str, type] = {
    "topic": str,
    "message": str,
    "title": str,
    "tags": list,
    "priority": int,
    "click": str,
    "actions": list,
    "attach": str,
    "markdown": bool,
    "icon": str,
    "filename": str,
    "delay": str,
    "email": str,
    "call": str,
    "sequence_id": str,
}
"""Keys of a message that ntfy accepts: https://docs.ntfy.sh/publish/#publish-as-json"""
NTFY_TOPIC = NTFY_SEQUENCE = r"[-_A-Za-z0-9]{1,64}"
NTFY_LENGTH = 4096
"""Longest message of ntfy in bytes; a longer one becomes an attachment."""


@dataclasses.dataclass(frozen=True)
class Posted:
    """A request: its path, headers in lower case, and body."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        table: dict[str, Any] = json.loads(self.body)
        return table


class WebServer:
    """Keeps what is posted; `answers` decides what it answers.

    Args:
        answers: gets a request and gives status and body; None: no answer, the connection is cut.
        certificate: PEM files for TLS.
        port: 0: any.
    """

    def __init__(
        self,
        answers: Callable[[Posted], tuple[int, str] | None] = lambda _: (204, ""),
        certificate: tuple[Path, Path] | None = None,
        port: int = 0,
    ) -> None:
        self.posted: list[Posted] = []
        self.answers = answers
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(int(headers.get("content-length", "0")))
                one = Posted(self.path, headers, body)
                answer = outer.answers(one)
                if answer is None:
                    self.close_connection = True
                    return
                if 200 <= answer[0] < 300:
                    outer.posted.append(one)
                self.send_response(answer[0])
                if 300 <= answer[0] < 400:
                    self.send_header("Location", "/elsewhere")
                content = answer[1].encode()
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def ids(self) -> list[str]:
        """The ids of the alerts, in the order of their arrival."""
        return [one.headers["idempotency-key"] for one in list(self.posted)]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextlib.contextmanager
def web_server(**options: Any) -> Iterator[WebServer]:
    """A web server for the length of a block."""
    server = WebServer(**options)
    try:
        yield server
    finally:
        server.close()


def ntfy_answer(token: str | None = None) -> Callable[[Posted], tuple[int, str]]:
    """What an ntfy server answers to a message published as JSON.

    Args:
        token: access token that it requires.
    """

    def answer(one: Posted) -> tuple[int, str]:
        if token is not None and one.headers.get("authorization") != f"Bearer {token}":
            return 401, '{"code":40101,"http":401,"error":"unauthorized"}'
        bad = '{"code":40024,"http":400,"error":"invalid request: request body must be valid JSON"}'
        try:
            message = one.json
        except ValueError:
            return 400, bad
        typed = all(type(value) is NTFY_KEYS.get(key) for key, value in message.items())
        if one.path != "/" or not typed or not re.fullmatch(NTFY_TOPIC, message.get("topic", "")):
            return 400, bad
        if not re.fullmatch(NTFY_SEQUENCE, message.get("sequence_id", "x")):
            return 400, '{"code":40049,"http":400,"error":"invalid request: sequence ID invalid"}'
        if len(message["message"].encode()) > NTFY_LENGTH:
            return 413, '{"code":41301,"http":413,"error":"attachment too large"}'
        return 200, json.dumps({"id": "xE73Iyuabi", "event": "message", **message})

    return answer


class MailServer:
    """A mail server that keeps what it gets.

    Args:
        login: user and password that it requires.
        certificate: PEM files, for STARTTLS.
        tls: the connection is encrypted from its start.
    """

    def __init__(
        self,
        login: tuple[str, str] | None = None,
        certificate: tuple[Path, Path] | None = None,
        *,
        tls: bool = False,
    ) -> None:
        from aiosmtpd.controller import Controller
        from aiosmtpd.smtp import AuthResult, LoginPassword

        self.mails: list[EmailMessage] = []
        self.encrypted: list[bool] = []
        self.refused: set[str] = set()
        self.refuses_quit = False
        """Answer the end of a connection with an error."""

        async def recipient(_s: Any, _x: Any, envelope: Any, address: str, _o: Any) -> str:
            if address in self.refused:
                return "550 no such mailbox"
            envelope.rcpt_tos.append(address)
            return "250 OK"

        async def data(_s: Any, session: Any, envelope: Any) -> str:
            mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
            assert isinstance(mail, EmailMessage)
            self.mails.append(mail)
            self.encrypted.append(session.ssl is not None or tls)
            return "250 OK"

        async def end(*_: Any) -> str:
            return "451 later" if self.refuses_quit else "221 bye"

        handler = types.SimpleNamespace(handle_RCPT=recipient, handle_DATA=data, handle_QUIT=end)

        def check(_s: Any, _x: Any, _e: Any, _m: Any, data: Any) -> AuthResult:
            assert isinstance(data, LoginPassword)
            known = (data.login.decode(), data.password.decode()) == login
            return AuthResult(success=known, handled=False)

        context = None
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
        options: dict[str, Any] = {
            "ready_timeout": PATIENCE_S,
            "auth_required": login is not None,
            "authenticator": check,
            "auth_require_tls": False,
        }
        if tls:
            options["ssl_context"] = context
        elif context is not None:
            options |= {"tls_context": context, "require_starttls": True}
        self.port = free_port()
        self._controller = Controller(handler, hostname="127.0.0.1", port=self.port, **options)
        self._controller.start()

    def close(self) -> None:
        self._controller.stop()


@contextlib.contextmanager
def mail_server(*words: Any, **options: Any) -> Iterator[MailServer]:
    """A mail server for the length of a block."""
    server = MailServer(*words, **options)
    try:
        yield server
    finally:
        server.close()
