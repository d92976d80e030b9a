"""Home Assistant with its integration MQTT, run by its own Python: FILE FOLDER PORT

It sets the integration up as a user does, prints a JSON line for each state of an entity that
changes, and calls the service of each line on stdin, `DOMAIN.SERVICE ENTITY_ID`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path
from typing import Any

from homeassistant import auth, bootstrap, config_entries, loader
from homeassistant.core import Event, HomeAssistant
from homeassistant.setup import async_setup_component


async def start(folder: str) -> HomeAssistant:
    """The core without any integration."""
    (Path(folder) / "configuration.yaml").touch()
    home = HomeAssistant(folder)
    home.config.skip_pip = True
    loader.async_setup(home)
    home.config_entries = config_entries.ConfigEntries(home, {})
    await loader.async_get_custom_components(home)
    await bootstrap.async_load_base_functionality(home)
    home.auth = await auth.auth_manager_from_config(home, [], [])
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = {"http": {"server_host": ["127.0.0.1"], "server_port": port}}
    for name in ("homeassistant", "http"):
        assert await async_setup_component(home, name, config)
    return home


async def connect(home: HomeAssistant, port: int) -> None:
    """Set up the integration MQTT in its dialog."""
    flow = await home.config_entries.flow.async_init("mqtt", context={"source": "user"})
    answers = {"broker": "127.0.0.1", "port": port}
    done = await home.config_entries.flow.async_configure(flow["flow_id"], answers)
    assert done["type"] == "create_entry", done
    await home.async_block_till_done()


async def main(folder: str, port: int) -> None:
    home = await start(folder)

    def changed(event: Event[Any]) -> None:
        state = event.data["new_state"]
        attributes = dict(state.attributes) if state else {}
        row = {"entity": event.data["entity_id"], "state": state and state.state, **attributes}
        print(json.dumps(row, default=str), flush=True)

    home.bus.async_listen("state_changed", changed)
    await connect(home, port)
    await home.async_start()
    print(json.dumps({"entity": "", "state": "started"}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        service, entity = line.split()
        domain, name = service.split(".")
        await home.services.async_call(domain, name, {"entity_id": entity}, blocking=True)
    await home.async_stop(force=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
