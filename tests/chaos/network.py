"""Servers of sound that are killed, stopped, cut off, slow or late, and come back."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

from speech_emotion.capture.recording.reader import RecordingFile, open_recording
from speech_emotion.common.wire import public
from tests.chaos.scene import RETURN_S, Row, Scale, Scene, folder, in_order, source_fault
from tests.support import sound_servers
from tests.support.sound_servers import Cable, Server, Sound, noise

CYCLES = 200
GROWN_MB = 2.0
"""Largest growth of capture over all cycles."""
Do = Callable[[], object]
LONG = {"settled_s": 6.0, "absent_s": 6.0}
"""A settled connection, and an absence of several attempts."""


def port_of(server: Server) -> int:
    return int(server.url.rpartition(":")[2].partition("/")[0])


def network_faults(_scale: Scale) -> list[Row]:
    """Each fault of an RTSP server."""
    rows = []
    with folder() as here:
        sound = noise(here, 16000)
        with sound_servers.rtsp(sound) as server:
            cable = Cable(port_of(server))
            with Scene(f"--source=rtsp://127.0.0.1:{cable.port}/sound") as scene:
                scene.await_results(4)
                faults: list[tuple[str, Do, Do]] = [
                    ("RTSP server killed", server.kill, server.start),
                    ("RTSP server stopped (SIGSTOP)", server.freeze, server.thaw),
                    ("network to it cut without a word", cable.pull, cable.plug),
                ]
                rows += [source_fault(scene, *fault, **LONG) for fault in faults]
                rows.append(_jitter(scene, cable))
                ordered = in_order(scene.stop().fresh(public.Result))
            cable.close()
        if not ordered:
            rows.append(Row("after them", "no message missing", "MESSAGES MISSING", False))
        rows.append(_late(here))
    return rows


def network_kinds(_scale: Scale) -> list[Row]:
    """A killed server of every other kind."""
    with folder() as here:
        return [_killed(here, name) for name in ("RTMP", "SRT", "UDP", "Icecast")]


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


def _jitter(scene: Scene, cable: Cable) -> Row:
    """Every packet delayed by up to 200 ms, for 20 s."""
    lost = _stream(scene).lost
    since, cable.jitter_s = time.monotonic(), 0.2
    time.sleep(20.0)
    cable.jitter_s = 0.0
    states = {
        message.streams[0].state
        for message, replay, came in scene.received.messages
        if isinstance(message, public.Health) and not replay and came >= since
    }
    lost = _stream(scene).lost - lost
    return Row(
        "200 ms of jitter for 20 s",
        "live all the time, no gap",
        f"{', '.join(f'`{state}`' for state in sorted(states))}; {lost} samples missing",
        states == {"live"} and lost == 0,
    )


def _late(here: Path) -> Row:
    server = sound_servers.rtsp(noise(here, 16000))
    with Scene(f"--source={server.url}") as scene:
        since = time.monotonic()
        _, health = scene.await_health(
            lambda h: h.streams[0].reason is not None, "the absence", since
        )
        reason = health.streams[0].reason
        time.sleep(5.0)
        with server:
            since = time.monotonic()
            back, _ = scene.await_health(lambda h: h.streams[0].state == "live", "live", since)
            scene.stop()
    return Row(
        "RTSP server starts 5 s after the pipeline",
        "waited for; live within 5 s",
        f"waits ({reason}); live after {back:.2f} s",
        back <= RETURN_S,
    )


def _killed(here: Path, name: str) -> Row:
    with tempfile.TemporaryDirectory(prefix="sep-icecast-") as folder_of_icecast:
        servers: dict[str, Callable[[], Server]] = {
            "RTMP": lambda: sound_servers.rtmp(noise(here, 22050)),
            "SRT": lambda: sound_servers.srt(noise(here, 48000, 2)),
            "UDP": lambda: sound_servers.udp(noise(here, 48000, 2)),
            "Icecast": lambda: sound_servers.icecast(noise(here, 16000), Path(folder_of_icecast)),
        }
        with servers[name]() as server, Scene(f"--source={server.url}") as scene:
            scene.await_results(4)
            row = source_fault(scene, f"{name} server killed", server.kill, server.start, **LONG)
            scene.stop()
    return row


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


def _stream(scene: Scene) -> public.StreamHealth:
    health = scene.health()
    assert health is not None
    return health.streams[0]
