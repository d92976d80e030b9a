"""Cost of a centre for many boxes: CPU of its server and of `fleet store`, bytes, throughput.

    python -m bench.fleet [--boxes 1000] [--seconds 30]

Simulated boxes, each with one stream: two results a second and a `health` every ten. Their streams
lie on one server that stands for all leaf nodes; the centre sources every stream for itself. Then
the store reads the same messages again into an empty folder, as fast as it can.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import nats
import psutil
from nats.aio.client import Client

from bench.history import window
from speech_emotion.common.wire import public
from speech_emotion.fleet.messages import BOX, HEALTH, HEALTH_S, NUMBER_HEADER, RESULT, subject
from speech_emotion.fleet.streams import apply, definition
from tools.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
RESULTS_S = 2
"""Results per second and box."""
SPEECH = 0.44
"""Share of windows with speech, that of the demo."""
TICKS = 10
"""Turns per second of the publisher."""


def main() -> None:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--boxes", type=int, default=1000)
    flags.add_argument("--seconds", type=int, default=30)
    arguments = flags.parse_args()
    server = shutil.which("nats-server", path=str(Path(sys.executable).parent))
    if server is None:
        raise SystemExit("bench.fleet: needs nats-server beside the interpreter")
    with tempfile.TemporaryDirectory(prefix="sep-bench-", dir="/var/tmp") as folder:
        asyncio.run(measure(Path(folder), server, arguments.boxes, arguments.seconds))


async def measure(folder: Path, server: str, boxes: int, seconds: int) -> None:
    """Print the figures."""
    ports = {"centre": free_port(), "boxes": free_port()}
    leaf = free_port()
    head = "accounts { SEP { jetstream: enabled, users: [ {user: a, password: b} ] } }\n"
    link = {
        "centre": f'leafnodes {{ listen: "127.0.0.1:{leaf}" }}',
        "boxes": f'leafnodes {{ remotes: [ {{ urls: ["nats-leaf://a:b@127.0.0.1:{leaf}"], '
        'account: SEP, deny_exports: ["sep.>"], deny_imports: ["sep.>"] } ] }',
    }
    processes = {}
    for name, port in ports.items():
        (folder / f"{name}.conf").write_text(
            f'server_name: {name}\nlisten: "127.0.0.1:{port}"\n{head}{link[name]}\n'
            f"jetstream {{ store_dir: {json.dumps(str(folder / name))}, domain: {name} }}\n"
        )
        processes[name] = psutil.Popen(
            [server, "-l", f"{folder}/{name}.log", "-c", f"{folder}/{name}.conf"]
        )
    clients: dict[str, Client] = {}
    store = None
    try:
        await asyncio.sleep(2.0)
        for name, port in ports.items():
            clients[name] = await nats.connect(f"nats://127.0.0.1:{port}", user="a", password="b")
        names = [f"box{number:05d}" for number in range(boxes)]
        for box in names:
            stream = {**definition([f"sep.site.{box}.>"], None, 86400.0), "name": box}
            await apply(clients["boxes"], stream)
        began = time.monotonic()
        await apply(clients["centre"], centre_stream(names))
        print(f"{boxes} boxes; the centre's stream was made in {time.monotonic() - began:.1f} s")
        # `fleet store` logs in by key; this server knows a password only.
        words = [sys.executable, "-c", STORE, f"nats://a:b@127.0.0.1:{ports['centre']}"]
        store = psutil.Popen([*words, str(folder / "store"), "10"], cwd=ROOT)
        await asyncio.sleep(3.0)
        before = {n: cpu_s(p) for n, p in (*processes.items(), ("store", store))}
        began = time.monotonic()
        number = await publish(clients["boxes"], names, seconds)
        lasted = time.monotonic() - began
        info = await clients["centre"].jetstream().stream_info("SEP")
        lag = number - info.state.messages
        used = {n: cpu_s(p) - before[n] for n, p in (*processes.items(), ("store", store))}
        print(
            f"{number} messages in {lasted:.0f} s, {number / lasted:.0f} a second, "
            f"{lag} not yet on the centre"
        )
        for name in ("centre", "store"):
            print(f"CPU of {name}: {100 * used[name] / lasted:.1f} % of a core")
        print(f"RSS of centre: {processes['centre'].memory_info().rss / 2**20:.0f} MiB")
        while (await clients["centre"].jetstream().stream_info("SEP")).state.messages < number:
            await asyncio.sleep(0.2)
        print(f"complete on the centre {time.monotonic() - began - lasted:.1f} s after the last")
        info = await clients["centre"].jetstream().stream_info("SEP")
        print(f"stream: {info.state.bytes / number:.0f} bytes a message")
        store.terminate()
        store.wait()
        began = time.monotonic()
        again = psutil.Popen([*words, str(folder / "again"), "0"], cwd=ROOT)
        again.wait()
        took = time.monotonic() - began
        print(f"store, as fast as it can: {number / took:.0f} messages a second")
    finally:
        for client in clients.values():
            await client.close()
        for process in (*processes.values(), *([store] if store else [])):
            if process.poll() is None:
                process.terminate()
            process.wait()


STORE = """
import asyncio, sys
from pathlib import Path
from speech_emotion.common.nats_server import NatsServer
from speech_emotion.fleet.store.reader import store
url, path, every = sys.argv[1:]
print(store(NatsServer(url), Path(path), float(every) or 60.0, once=every == "0")[0])
"""


def centre_stream(names: list[str]) -> dict[str, object]:
    """The stream of the centre."""
    stream = definition([], None, 86400.0)
    stream["sources"] = [
        {
            "name": box,
            "filter_subject": f"sep.site.{box}.>",
            "external": {"api": "$JS.boxes.API", "deliver": ""},
        }
        for box in names
    ]
    return stream


async def publish(client: Client, names: list[str], seconds: int) -> int:
    """Publish what the boxes publish, evenly spread; the number of messages."""
    result = [
        json.dumps(public.to_json_map(window(seq, time.time(), speech=seq % 100 < 100 * SPEECH)))
        for seq in range(100)
    ]
    bodies = [text.encode() for text in result]
    health = json.dumps(
        public.to_json_map(public.Health(time.time(), "ok", [], [], {"results_accepted": 1}))
    ).encode()
    numbers = dict.fromkeys(names, 0)
    total, began = 0, time.monotonic()
    for turn in range(seconds * TICKS):
        share = names[turn % (TICKS // RESULTS_S) :: TICKS // RESULTS_S]
        signs = names[turn % round(HEALTH_S * TICKS) :: round(HEALTH_S * TICKS)]
        for kind, stream, boxes in ((RESULT, "main", share), (HEALTH, BOX, signs)):
            for box in boxes:
                numbers[box] += 1
                body = health if kind == HEALTH else bodies[numbers[box] % 100]
                headers = {
                    "Nats-Msg-Id": f"{box}/run/{numbers[box]}",
                    NUMBER_HEADER: f"{box}/{numbers[box]}",
                }
                await client.publish(subject("site", box, stream, kind), body, headers=headers)
                total += 1
        await asyncio.sleep(max(0.0, began + (turn + 1) / TICKS - time.monotonic()))
    await client.flush()
    return total


def cpu_s(process: psutil.Process) -> float:
    """CPU time of a process in seconds."""
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
