"""A name that DNS cannot have is refused at every entrance: a look-up of it ends a thread."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion.commands.mqtt import command as mqtt
from speech_emotion.commands.wyoming import main as wyoming
from speech_emotion.common.alert_address import parse_address
from speech_emotion.common.config.checks import check_source
from speech_emotion.common.config.nats import check_server
from speech_emotion.common.errors import UserError
from speech_emotion.common.security.exposure import check_listen
from speech_emotion.common.wire.endpoint import check_host_name

TO = "ws://127.0.0.1:8001/door"
ENTRANCES: dict[str, Callable[[str], object]] = {
    "listen": lambda host: check_listen(f"{host}:1"),
    "mqtt": lambda host: mqtt.main(["--broker", host]),
    "nats": lambda host: check_server(f"tls://{host}:4222"),
    "ntfy": lambda host: parse_address(f"ntfy+https://{host}/topic"),
    "mail": lambda host: parse_address(f"smtps://{host}/a@example.org"),
    "alert to mqtt": lambda host: parse_address(f"mqtts://{host}/topic"),
    "rtsp": lambda host: check_source(f"rtsp://{host}/door"),
    "wyoming source": lambda host: check_source(f"wyoming:{host}:1"),
    "listen source": lambda host: check_source(f"listen:ws://{host}:1/door"),
    "recognizer": lambda host: wyoming(["--recognizer", f"{host}:1", "--to", TO]),
    "pipeline": lambda host: wyoming(["--recognizer", "a:1", "--to", f"ws://{host}:1/door"]),
}


@pytest.mark.parametrize("host", ["a" * 64, "cam..example"])
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_it_is_refused_in_one_line(entrance: str, host: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"{host!r} is no name of a host")) as refused:
        ENTRANCES[entrance](host)
    assert "\n" not in str(refused.value)


@given(st.text("ab.-:1é", max_size=70))
def test_a_name_that_is_accepted_can_be_looked_up(host: str) -> None:
    try:
        check_host_name(host)
    except UserError:
        return
    with contextlib.suppress(socket.gaierror):  # without an address, which every program handles
        socket.getaddrinfo(host, 1, flags=socket.AI_NUMERICHOST)


@pytest.mark.parametrize("host", ["localhost", "::1", "fe80::1%eth0", "10.0.0.1", "bücher.example"])
def test_usual_names_and_addresses_are_accepted(host: str) -> None:
    assert check_host_name(host) == host
