"""Network sources: many reconnections, the length of a gap, a long pause, the drift of a clock.

The faults of each kind of source are in tests/chaos/sources.py.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from speech_emotion.capture.recording.reader import RecordingFile, open_recording
from speech_emotion.common.wire import public
from tests.chaos.scene import REPORTED_S, RETURN_S, Row, Scale, Scene, folder, in_order
from tests.chaos.sources import KINDS, LONG, is_named
from tests.support import sound_senders, sound_servers
from tests.support.cable import Cable
from tests.support.network_namespace import LOCAL
from tests.support.sound_servers import Server, Sound, noise
from tools.ports import free_port

CYCLES = 200
HEARD_S = 10.0
"""Longest time in seconds after which the last segment of a stopped server has been heard."""
GROWN_MB = 2.0
"""Largest growth of capture over all cycles."""


DROPPED = ("rtsp", "rtmp", "icecast", "wyoming")
"""Kinds whose connection a relay drops. A device that pushes is dropped as well."""


def port_of(server: Server) -> int:
    return int(server.url.rpartition(":")[2].partition("/")[0])


def _relayed(here: Path, stack: contextlib.ExitStack) -> tuple[dict[str, str], list[Cable]]:
    """Sources by name, each with a server of its own that is reached through a relay."""
    sources, cables = {}, []
    for name in (*DROPPED, "websocket"):
        (here / name).mkdir()
        sound = noise(here / name, KINDS[name].rate)
        if name == "websocket":
            cable = Cable(free_port())
            server = sound_senders.websocket(sound, port=cable.target, through=cable.port)
            sources[name] = server.url
        else:
            server = KINDS[name].make(sound, LOCAL)
            cable = Cable(port_of(server))
            sources[name] = server.url.replace(f":{cable.target}", f":{cable.port}")
        stack.enter_context(server)
        stack.callback(cable.close)
        cables.append(cable)
    return sources, cables


def _configured(here: Path, sources: dict[str, str]) -> Path:
    config = here / "box.toml"
    rows = [f"[[stream]]\nname = '{name}'\nsource = '{url}'\n" for name, url in sources.items()]
    config.write_text("".join(rows))
    return config


def reconnections(scale: Scale) -> list[Row]:
    """Servers and devices whose connections are closed again and again, all in one pipeline."""
    cycles = CYCLES if scale.kills > 2 else 10
    sizes: dict[str, list[float]] = {}
    longest = dict.fromkeys((*DROPPED, "websocket"), 0.0)
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(folder())
        sources, cables = _relayed(here, stack)
        env = {"SEP_LISTEN__TOKEN": sound_senders.TOKEN}
        with Scene("--config", str(_configured(here, sources)), env=env) as scene:
            scene.await_health(lambda h: _all(h, "live", len(sources)), "all to be live")
            captures = _captures(scene)
            for cycle in range(cycles):
                if cycle >= cycles // 10:  # the first ones warm up
                    for name, one in captures.items():
                        sizes.setdefault(name, []).append(one.memory_full_info().uss / 2**20)
                since = time.monotonic()
                for cable in cables:
                    cable.drop()
                for name in sources:
                    lost, _ = scene.await_health(_not_live(name), f"the loss of {name}", since)
                    back, _ = scene.await_health(_live(name), f"{name} again", since + lost)
                    longest[name] = max(longest[name], lost + back)
            helpers = max(len(psutil.Process(c.pid).children()) for c in captures.values())
            descriptors = max(one.num_fds() for one in captures.values())
            received = scene.stop()
    grown = max(float(np.mean(of[-5:]) - np.mean(of[:5])) for of in sizes.values())
    ordered = all(in_order(received.fresh(public.Result, name)) for name in sources)
    slowest = max(longest, key=lambda name: longest[name])
    return [
        Row(
            f"{', '.join(KINDS[n].name for n in sources)}: connection closed {cycles} times",
            f"memory flat (below {GROWN_MB:g} MiB), one ffmpeg each, no message missing",
            f"capture {grown:+.2f} MiB, {helpers} ffmpeg, {descriptors} descriptors at most; "
            f"live again after {longest[slowest]:.2f} s at most ({slowest}); "
            f"{'no' if ordered else 'SOME'} `seq` missing",
            grown < GROWN_MB and helpers == 1 and ordered and descriptors < 64,
        )
    ]


def gap_length(_scale: Scale) -> list[Row]:
    """The declared gap of a cut, compared with the sound that is missing."""
    with (
        folder() as here,
        tempfile.TemporaryDirectory(prefix="sep-icecast-") as name,
        sound_servers.icecast(sound := noise(here, 16000), Path(name)) as server,
    ):
        tape = here / "tape"
        cable = Cable(port_of(server))
        url = f"http://127.0.0.1:{cable.port}/sound.ogg"
        with Scene(f"--source={url}", f"--record={tape}") as scene:
            for count in range(1, 6):
                scene.await_health(lambda h: h.streams[0].state == "live", "the source to be live")
                time.sleep(6.0)
                cable.pull()
                scene.await_health(lambda h: h.streams[0].state != "live", "the loss")
                time.sleep(count / 2)
                cable.plug()
            scene.await_health(lambda h: h.streams[0].state == "live", "the source to be live")
            time.sleep(3.0)
            scene.stop()
        cable.close()
        off = [abs(error) for error in gap_errors(tape / "main", sound)]
    return [
        Row(
            "gap of a cut network, five times (Icecast, FLAC)",
            "declared within one packet (72 ms) of the sound that is missing",
            f"{len(off)} gaps, off by at most {1000 * max(off):.0f} ms",
            len(off) == 5 and max(off) <= 0.072,
        )
    ]


def gap_errors(recording: Path, sound: Sound) -> list[float]:
    """Of every gap of a recording: its length less that of the missing sound, in seconds."""
    stored = open_recording(recording, sound.rate)
    file, second = RecordingFile(stored), sound.rate
    errors = []
    for start, end in stored.gaps:
        found = []
        for position in (start - second, end):
            file.seek(position)
            samples = np.rint(file.read(second) * 32768.0).astype(np.int16)
            found.append(sound.find(samples))
        missing = (found[1] - found[0] - second) % len(sound.pcm)
        errors.append((end - start - missing) / sound.rate)
    file.close()
    return errors


def pause(scale: Scale) -> list[Row]:
    """Servers and senders of every kind that are stopped for ten minutes, all in one pipeline."""
    servers: dict[str, Server] = {}
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(folder())
        for name, kind in KINDS.items():
            (here / name).mkdir()
            sound = noise(here / name, kind.rate, kind.channels)
            servers[name] = stack.enter_context(kind.make(sound, LOCAL))
        config = _configured(here, {name: server.url for name, server in servers.items()})
        env = {"SEP_LISTEN__TOKEN": sound_senders.TOKEN}
        with Scene("--config", str(config), env=env) as scene:
            scene.await_health(lambda h: _all(h, "live", len(servers)), "all sources to be live")
            time.sleep(LONG["settled_s"])
            since = time.monotonic()
            for server in servers.values():
                server.freeze()
            named = {
                name: scene.await_health(_faulty(name), f"{name} to be named", since)[0]
                for name in servers
            }
            time.sleep(min(30.0, scale.pause_s / 2))  # the first attempts warm up
            captures = _captures(scene).values()
            before = [one.memory_full_info().uss for one in captures]
            time.sleep(max(0.0, since + scale.pause_s - time.monotonic()))
            after = [one.memory_full_info().uss for one in captures]
            revived = [
                stream.name
                for message, replay, came in scene.received.messages
                if isinstance(message, public.Health) and not replay and came > since + HEARD_S
                for stream in message.streams
                if stream.state == "live"
            ]
            since = time.monotonic()
            for server in servers.values():
                server.thaw()
            back = {name: scene.await_health(_live(name), name, since)[0] for name in servers}
            ordered = all(in_order(scene.received.fresh(public.Result, name)) for name in servers)
            scene.stop()
    grown = max(b - a for a, b in zip(before, after, strict=True)) / 2**20
    first, slowest = (max(of, key=lambda name: of[name]) for of in (named, back))
    return [
        Row(
            f"every kind of network source, all at once: stopped for {scale.pause_s:g} s",
            "named within 3 s (HLS: 4 s), never live meanwhile; live within 5 s of its return; "
            "memory flat; no message missing",
            f"named after {named[first]:.2f} s at most ({first}); "
            f"{sorted(set(revived)) or 'none'} live meanwhile; "
            f"live after {back[slowest]:.2f} s at most ({slowest}); capture "
            f"{grown:+.2f} MiB at most; {'no' if ordered else 'SOME'} `seq` missing",
            all(s <= REPORTED_S + KINDS[name].segment_s for name, s in named.items())
            and not revived
            and back[slowest] <= RETURN_S
            and grown < GROWN_MB
            and ordered,
        )
    ]


def _captures(scene: Scene) -> dict[str, psutil.Process]:
    """The capture process of each source."""
    health = scene.health()
    assert health is not None
    stages = [stage for stage in health.stages if stage.name.startswith("capture")]
    return {stage.name: psutil.Process(stage.pid) for stage in stages}


def _all(health: public.Health, state: str, count: int) -> bool:
    return [stream.state for stream in health.streams] == [state] * count


def _live(name: str) -> Callable[[public.Health], bool]:
    return lambda health: any(s.name == name and s.state == "live" for s in health.streams)


def _faulty(name: str) -> Callable[[public.Health], bool]:
    return lambda health: any(s.name == name and is_named(s) for s in health.streams)


def _not_live(name: str) -> Callable[[public.Health], bool]:
    return lambda health: any(s.name == name and s.state != "live" for s in health.streams)


FAST_PPM = 100.0


def drift(scale: Scale) -> list[Row]:
    """A device that sends its sound 100 ppm too fast."""
    from websockets.sync.client import connect

    address = f"ws://127.0.0.1:{free_port()}/device"
    block_s, rate = 0.02, 16000
    figures: dict[str, float] = {}
    with folder() as here, Scene(f"--source=listen:{address}") as scene:
        sound = noise(here, rate)
        size = round(block_s * rate)
        scene.await_health(
            lambda h: bool(h.streams) and h.streams[0].reason is not None, "the port"
        )
        with connect(f"{address}?rate={rate}&stamps=1", compression=None) as device:
            began = time.monotonic()
            for number in range(round(scale.drift_s / block_s)):
                at = number * size % (len(sound.pcm) - size)
                due = began + (number + 1) * block_s / (1.0 + 1e-6 * FAST_PPM)
                time.sleep(max(0.0, due - time.monotonic()))
                content = sound.pcm[at : at + size].tobytes()
                device.send((number * size).to_bytes(8, "little") + content)
            health = scene.health()
            if health is not None:
                figures = health.streams[0].quality
        scene.stop()
    off = abs(figures.get("drift_ppm", 1e6) - FAST_PPM)
    most = 10.0 if scale.drift_s >= 300.0 else 30.0
    return [
        Row(
            f"a device that sends {FAST_PPM:g} ppm too fast for {scale.drift_s:g} s",
            f"measured within {most:g} ppm",
            f"{figures.get('drift_ppm')} ppm over {figures.get('drift_s')} s",
            off <= most,
        )
    ]
