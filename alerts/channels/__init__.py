"""Send one alert to one address: a module per kind of address, loaded when it is used."""

from __future__ import annotations

import importlib

from speech_emotion.alerts.alert import Alert
from speech_emotion.common.alert_address import AlertAddress

MODULES = {
    "webhook": "webhook",
    "ntfy": "ntfy",
    "smtp": "mail",
    "mqtt": "mqtt",
    "command": "command",
}
"""Kind of address → module with `send(address, alert)`."""


def send(address: AlertAddress, alert: Alert) -> None:
    """Send an alert.

    Raises:
        DeliveryError: it did not arrive, as far as is known.
    """
    module = importlib.import_module(f"{__name__}.{MODULES[address.kind]}")
    module.send(address, alert)
