"""The address of an HTTP server: HOST:PORT, which machines reach it, the token they need."""

from __future__ import annotations

import errno
import re
import socket

from speech_emotion.common.errors import UserError
from speech_emotion.common.wire.endpoint import check_host_name, is_loopback

DEFAULT_LISTEN = "127.0.0.1:8765"


def split_listen(listen: str) -> tuple[str, str]:
    """Host (IPv6 without brackets) and port, as text."""
    host, _, port = listen.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), port


def check_listen(listen: str) -> str:
    """`listen` itself; raises UserError if it is not HOST:PORT."""
    host, port = split_listen(listen)
    named = re.fullmatch(r"[0-9A-Za-z._:%-]+", host)
    if not named or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise UserError(f"listen {listen!r} must be HOST:PORT, such as {DEFAULT_LISTEN}")
    check_host_name(host)
    return listen


def check_token(token: str) -> str:
    """`token` itself; raises UserError, without the token in its text, if it is malformed."""
    if not re.fullmatch(r"[\x21-\x7e]{16,256}", token):
        raise UserError("token must be 16 to 256 printable ASCII characters without spaces")
    return token


def check_base_url(base_url: str) -> str:
    """`base_url` itself; raises UserError if it is not http(s)://HOST[:PORT][/PATH]."""
    if not re.fullmatch(r"https?://[0-9A-Za-z.\-\[\]:]+(/[0-9A-Za-z._~\-/]*)?", base_url):
        raise UserError(
            f"base_url {base_url!r} must be http(s)://HOST[:PORT][/PATH], "
            "such as https://example.org/emotion"
        )
    return base_url


def check_host(name: str) -> str:
    """`name` itself; raises UserError if it is not the name or address of a host."""
    if not re.fullmatch(r"[0-9A-Za-z._:\-]+", name):
        raise UserError(f"trusted host {name!r} must be a host name without scheme and port")
    return name


def check_reach(listen: str, token: str | None, name: str = "dashboard.token") -> str:
    """`listen` itself; raises UserError if other machines could open the page without a token.

    Args:
        name: what sets the token, for the text of the error.
    """
    if token is None and not is_loopback(split_listen(listen)[0]):
        raise UserError(
            f"{listen} can be reached from other machines: set {name}, "
            f"or listen on {DEFAULT_LISTEN}"
        )
    return listen


def listen_tcp(listen: str) -> socket.socket:
    """A TCP socket that listens on HOST:PORT.

    Raises:
        UserError: the port is in use, or the host is no address of this machine.
    """
    host, port = split_listen(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, int(port)), family=family)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            reason = "is already in use; stop the other program or choose another"
        raise UserError(f"page address {listen}: {reason}") from None
