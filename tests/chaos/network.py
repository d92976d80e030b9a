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
from tests.chaos.sources import KINDS, LONG
from tests.support import sound_senders, sound_servers
from tests.support.network_namespace import LOCAL
from tests.support.sound_servers import Cable, Server, Sound, noise

CYCLES = 200
GROWN_MB = 2.0
"""Largest growth of capture over all cycles."""


def port_of(server: Server) -> int:
    return int(server.url.rpartition(":")[2].partition("/")[0])


def reconnections(scale: Scale) -> list[Row]:
    """A server that closes its connection again and again."""
    cycles = CYCLES if scale.kills > 2 else 20
    with folder() as here, sound_servers.rtsp(noise(here, 16000)) as server:
        cable = Cable(port_of(server))
        with Scene(f"--source=rtsp://127.0.0.1:{cable.port}/sound") as scene:
            scene.await_results(2)
            capture = scene.running.stages()["capture"]
            sizes: list[float] = []
            longest = 0.0
            for cycle in range(cycles):
                scene.await_health(lambda h: h.streams[0].state == "live", "the source to be live")
                if cycle >= cycles // 10:  # the first ones warm up
                    sizes.append(capture.memory_full_info().uss / 2**20)
                since = time.monotonic()
                cable.drop()
                scene.await_health(lambda h: h.streams[0].state != "live", "the loss", since)
                back, _ = scene.await_health(
                    lambda h: h.streams[0].state == "live", "live again", since
                )
                longest = max(longest, back)
            children = len(psutil.Process(capture.pid).children())
            descriptors = capture.num_fds()
            results = scene.stop().fresh(public.Result)
        cable.close()
    grown = float(np.mean(sizes[-5:]) - np.mean(sizes[:5]))
    held = grown < GROWN_MB and children == 1 and in_order(results) and descriptors < 64
    return [
        Row(
            f"connection closed by its server {cycles} times",
            f"memory flat (below {GROWN_MB:g} MiB), one ffmpeg, no message missing",
            f"capture {grown:+.2f} MiB, {children} ffmpeg, {descriptors} descriptors; "
            f"live again after {longest:.2f} s at most; "
            f"{'no' if in_order(results) else 'SOME'} `seq` missing",
            held,
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
    """Servers and senders that are stopped for ten minutes, all in one pipeline."""
    kinds = [KINDS[name] for name in ("rtsp", "icecast", "websocket", "datagrams", "wyoming")]
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(folder())
        (here / "sound").mkdir()
        sound = noise(here / "sound", 16000)
        servers = {k.name.lower(): stack.enter_context(k.make(sound, LOCAL)) for k in kinds}
        config = here / "box.toml"
        config.write_text(
            "".join(
                f"[[stream]]\nname = '{name}'\nsource = '{server.url}'\n"
                for name, server in servers.items()
            )
        )
        env = {"SEP_LISTEN__TOKEN": sound_senders.TOKEN}
        with Scene("--config", str(config), env=env) as scene:
            scene.await_health(lambda h: _all(h, "live", len(servers)), "all sources to be live")
            time.sleep(LONG["settled_s"])
            since = time.monotonic()
            for server in servers.values():
                server.freeze()
            named = {
                name: scene.await_health(_not_live(name), f"{name} to be lost", since)[0]
                for name in servers
            }
            time.sleep(min(30.0, scale.pause_s / 2))  # the first attempts warm up
            captures = [one for name, one in scene.running.stages().items() if "capture" in name]
            before = [one.memory_full_info().uss for one in captures]
            time.sleep(max(0.0, since + scale.pause_s - time.monotonic()))
            after = [one.memory_full_info().uss for one in captures]
            revived = [
                stream.name
                for message, replay, came in scene.received.messages
                if isinstance(message, public.Health) and not replay and came > since + REPORTED_S
                for stream in message.streams
                if stream.state == "live"
            ]
            since = time.monotonic()
            for server in servers.values():
                server.thaw()
            back = {
                name: scene.await_health(lambda h, n=name: not _not_live(n)(h), name, since)[0]
                for name in servers
            }
            ordered = all(in_order(scene.received.fresh(public.Result, name)) for name in servers)
            scene.stop()
    grown = max(b - a for a, b in zip(before, after, strict=True)) / 2**20
    slowest = max(back, key=lambda name: back[name])
    return [
        Row(
            f"{', '.join(k.name for k in kinds)}: stopped for {scale.pause_s:g} s",
            "named within 3 s, never live meanwhile; live within 5 s of its return; memory flat; "
            "no message missing",
            f"named after {max(named.values()):.2f} s; {sorted(set(revived)) or 'none'} live "
            f"meanwhile; live after {back[slowest]:.2f} s at most ({slowest}); capture "
            f"{grown:+.2f} MiB at most; {'no' if ordered else 'SOME'} `seq` missing",
            max(named.values()) <= REPORTED_S
            and not revived
            and back[slowest] <= RETURN_S
            and grown < GROWN_MB
            and ordered,
        )
    ]


def _all(health: public.Health, state: str, count: int) -> bool:
    return [stream.state for stream in health.streams] == [state] * count


def _not_live(name: str) -> Callable[[public.Health], bool]:
    return lambda health: any(s.name == name and s.state != "live" for s in health.streams)


FAST_PPM = 100.0


def drift(scale: Scale) -> list[Row]:
    """A device that sends its sound 100 ppm too fast."""
    from websockets.sync.client import connect

    address = f"ws://127.0.0.1:{sound_servers.free_port()}/device"
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
