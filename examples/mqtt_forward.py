"""Forwards results to an MQTT broker: the command `speech-emotion mqtt` under its former name.

python examples/mqtt_forward.py --broker 192.168.1.10
"""

import sys

try:
    import paho.mqtt.client  # noqa: F401

    from speech_emotion.commands.mqtt.command import main
    from speech_emotion.common.linux.entry import guarded
except ModuleNotFoundError as error:
    print(f"mqtt_forward: {error.name} is missing; pip install -e '.[examples]'", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(guarded("mqtt_forward", lambda: main(sys.argv[1:])))
