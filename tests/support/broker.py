"""The MQTT broker of the system."""

from __future__ import annotations

import shutil

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
