"""Why a network connection was not made, or was lost: one phrase for each cause.

The text of the operating system has numbers (`[Errno 104]`), and a server that is killed gives
another one from moment to moment: refused, reset, broken pipe.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl

_CLOSED = (
    *(errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE),
    *(errno.ENOTCONN, errno.ESHUTDOWN, errno.ENETRESET),
)
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN)
_NUMBER = re.compile(r"\[Errno (\d+)\]")


def refused(peer: str = "server") -> str:
    """Nothing listens at the address."""
    return f"no {peer} answers there (connection refused)"


def closed(peer: str = "server") -> str:
    """The other side ended the connection, or was killed."""
    return f"the {peer} closed the connection"


def timed_out(peer: str = "server") -> str:
    """The other side, or the network, is silent."""
    return f"the {peer} does not answer (timed out)"


def unknown_name(peer: str = "server") -> str:
    """The name is in no DNS that answers."""
    return f"the name of the {peer} is unknown (is the network up?)"


def no_route(peer: str = "server") -> str:
    """The network has no route to the address."""
    return f"no route to the {peer} (is the network up?)"


def phrase(error: BaseException, peer: str = "server") -> str:
    """The cause of an error of a connection.

    Args:
        peer: what the other side is called.
    """
    reason = getattr(error, "reason", None)
    if isinstance(reason, OSError):  # urllib puts the error into one of its own
        return phrase(reason, peer)
    if isinstance(error, socket.gaierror) or (
        isinstance(error, UnicodeError) and "'idna'" in str(error)  # no name that DNS can have
    ):
        return unknown_name(peer)
    if isinstance(error, TimeoutError):
        return timed_out(peer)
    if isinstance(error, ssl.SSLError):
        return _of_tls(error, peer)
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := _NUMBER.search(str(error))) is not None:
        number = int(found[1])  # asyncio joins the errors of several addresses
    if isinstance(error, ConnectionRefusedError) or number == errno.ECONNREFUSED:
        return refused(peer)
    if isinstance(error, ConnectionError | EOFError) or number in _CLOSED:
        return closed(peer)
    if number == errno.ETIMEDOUT:
        return timed_out(peer)
    if number in _NO_ROUTE:
        return no_route(peer)
    if number is not None:
        return os.strerror(number)
    return str(error) or type(error).__name__


def _of_tls(error: ssl.SSLError, peer: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of the {peer} is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return closed(peer)
    reason = (error.reason or str(error)).lower().replace("_", " ")
    return f"no TLS with the {peer} ({reason})"
