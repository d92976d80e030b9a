"""One phrase for each cause of a lost connection, without numbers of the operating system."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import socket
import ssl
import urllib.error

import pytest

from speech_emotion.common.connection_error import phrase


def made(number: int) -> OSError:
    """The error that a call of the operating system raises."""
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (made(errno.ECONNREFUSED), "no broker answers there (connection refused)"),
        (
            OSError(
                "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), "
                "[Errno 111] Connect call failed ('127.0.0.1', 1)"
            ),
            "no broker answers there (connection refused)",
        ),
        (urllib.error.URLError(made(errno.ECONNREFUSED)), "no broker answers there"),
        *((made(n), "the broker closed the connection") for n in (errno.ECONNRESET, errno.EPIPE)),
        (ConnectionResetError("Connection lost"), "the broker closed the connection"),
        (http.client.RemoteDisconnected("no response"), "the broker closed the connection"),
        (ssl.SSLEOFError(8, "EOF occurred"), "the broker closed the connection"),
        (EOFError(), "the broker closed the connection"),
        (TimeoutError("timed out"), "the broker does not answer (timed out)"),
        (made(errno.ETIMEDOUT), "the broker does not answer (timed out)"),
        (socket.gaierror(-2, "Name or service not known"), "the name of the broker is unknown"),
        (socket.gaierror(-3, "Temporary failure"), "the name of the broker is unknown"),
        (made(errno.EHOSTUNREACH), "no route to the broker (is the network up?)"),
        (made(errno.ENETUNREACH), "no route to the broker (is the network up?)"),
        (made(errno.EMFILE), "Too many open files"),
        (http.client.BadStatusLine("x"), "x"),
        (UnicodeEncodeError("latin-1", "\u20ac", 0, 1, "of a header"), "'latin-1' codec can't"),
        (OSError(), "OSError"),
    ],
    ids=repr,
)
def test_a_cause_has_one_phrase(error: Exception, text: str) -> None:
    assert phrase(error, "broker").startswith(text)
    assert "Errno" not in phrase(error)


def test_a_name_that_is_none() -> None:
    with pytest.raises(UnicodeError) as caught:
        socket.create_connection(("a" * 300, 1))
    assert phrase(caught.value) == "the name of the server is unknown (is the network up?)"


def test_a_server_that_speaks_no_tls() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as stack:
        client = stack.enter_context(socket.create_connection(server.getsockname()))
        there, _ = server.accept()
        stack.enter_context(there)
        there.sendall(b"220 mail.example.org ready\r\n")
        with pytest.raises(ssl.SSLError) as caught:
            ssl.create_default_context().wrap_socket(client, server_hostname="localhost")
    assert phrase(caught.value) == "no TLS with the server (wrong version number)"
