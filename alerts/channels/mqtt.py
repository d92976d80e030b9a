"""A message to an MQTT broker, with QoS 1: the broker has confirmed it."""

from __future__ import annotations

import secrets
import threading
import time
from typing import Any

from speech_emotion.alerts.alert import Alert
from speech_emotion.alerts.errors import DeliveryError
from speech_emotion.common.alert_address import AlertAddress
from speech_emotion.common.connection_error import phrase

TIMEOUT_S = 10.0
"""Longest time in seconds from the connection to the confirmation of the broker."""


def send(address: AlertAddress, alert: Alert) -> None:
    """Publish an alert as JSON, and wait for the confirmation of the broker.

    Raises:
        DeliveryError: the broker has not confirmed it.
    """
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    deadline = time.monotonic() + TIMEOUT_S
    # A broker disconnects the older of two clients with the same id.
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2, client_id=f"sep-alerts-{secrets.token_hex(6)}"
    )
    if address.user is not None:
        client.username_pw_set(address.user, address.password)
    if address.tls:
        client.tls_set()
    answered = threading.Event()
    refusals: list[str] = []

    def on_connect(_c: Any, _u: Any, _f: Any, code: Any, _p: Any) -> None:
        if code.is_failure:
            refusals.append(str(code))
        answered.set()

    client.on_connect = on_connect
    client.connect_timeout = TIMEOUT_S
    try:
        client.connect(address.host, address.port, keepalive=15)
        client.loop_start()
        if not answered.wait(deadline - time.monotonic()):
            raise DeliveryError(f"no answer within {TIMEOUT_S:g} s")
        if refusals:
            raise DeliveryError(f"the broker refuses the connection: {refusals[0]}")
        sent = client.publish(address.target, alert.to_json(), qos=1)
        sent.wait_for_publish(max(0.0, deadline - time.monotonic()))
        if not sent.is_published():
            raise DeliveryError(f"no confirmation within {TIMEOUT_S:g} s")
    except TimeoutError:
        raise DeliveryError(f"no answer within {TIMEOUT_S:g} s") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise DeliveryError(phrase(error, "broker")) from None
    finally:
        client.disconnect()
        client.loop_stop()
