"""One HTTP request, for webhooks and ntfy."""

from __future__ import annotations

import base64
import http.client
import ssl
from collections.abc import Mapping

from speech_emotion import __version__
from speech_emotion.alerts.errors import DeliveryError
from speech_emotion.common.alert_address import AlertAddress
from speech_emotion.common.connection_error import phrase

TIMEOUT_S = 10.0
"""Longest time in seconds for the connection, and for each wait for data."""
MAX_ANSWER = 2048
"""Bytes of an answer that are read, for the text of a failure."""


def post(address: AlertAddress, path: str, body: bytes, headers: Mapping[str, str]) -> None:
    """POST a body; only an answer of 200 to 299 is success. Redirections are not followed.

    Raises:
        DeliveryError: there is no such answer.
    """
    connection = (
        http.client.HTTPSConnection(
            address.host, address.port, timeout=TIMEOUT_S, context=ssl.create_default_context()
        )
        if address.tls
        else http.client.HTTPConnection(address.host, address.port, timeout=TIMEOUT_S)
    )
    agent = {"User-Agent": f"speech-emotion/{__version__}"}
    try:
        connection.request("POST", path, body, {**agent, **headers})
        answer = connection.getresponse()
        text = answer.read(MAX_ANSWER).decode("utf-8", "replace")
    except TimeoutError:
        raise DeliveryError(f"no answer within {TIMEOUT_S:g} s") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DeliveryError(phrase(error)) from None
    finally:
        connection.close()
    if not 200 <= answer.status < 300:
        first = "".join(text.strip().splitlines()[:1])
        raise DeliveryError(f"the server answers {answer.status} {answer.reason} {first}".strip())


def basic(user: str, password: str) -> str:
    """The value of `Authorization` for a user and a password."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
