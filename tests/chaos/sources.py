"""Every fault of every kind of source, with real servers at the other end of a wire that is cut.

The servers run in a network namespace (tests/support/network_namespace.py), which needs root;
without it they run on loopback, and nothing is cut or delayed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speech_emotion.common.wire import public
from tests.chaos.scene import (
    REPORTED_S,
    RETURN_S,
    Row,
    Scale,
    Scene,
    folder,
    in_order,
    source_fault,
)
from tests.support import network_namespace, sound_senders, sound_servers
from tests.support.network_namespace import NetworkNamespace, Site
from tests.support.sound_servers import PASSWORD, Server, Sound, noise, silence

LONG: dict[str, Any] = {"settled_s": 6.0, "absent_s": 6.0}
"""A settled connection, and an absence of several attempts."""
JITTER_S = 0.2
WRONG_TOKEN = "another-token-of-a-device"
GARBAGE = str(Path(sound_servers.__file__).with_name("garbage.py"))
Make = Callable[[Sound, Site], Server]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of source.

    Attributes:
        name: for the table.
        make: makes its server or sender.
        garbage: how random bytes reach it (tests/support/garbage.py); None: any bytes are sound.
        segment_s: its server keeps sound in segments of so many seconds: until the next one is due,
            nothing is missing.
        guarded: makes a server that asks for `PASSWORD`, or a device that has another token; None:
            it knows no passwords, or ffmpeg's server knows none.
    """

    name: str
    make: Make
    rate: int = 16000
    channels: int = 1
    garbage: str | None = "serve"
    segment_s: float = 0.0
    guarded: Make | None = None


def _in_folder(make: Callable[[Sound, Path, Site], Server]) -> Make:
    """A server that needs a folder of its own, which goes with the process."""

    def made(sound: Sound, site: Site) -> Server:
        place = tempfile.mkdtemp(prefix="sep-server-", dir=sound.path.parent)
        for parent in sound.path.parents[:2]:
            parent.chmod(0o755)  # Icecast becomes another user
        return make(sound, Path(place), site)

    return made


KINDS = {
    "rtsp": Kind(
        "RTSP",
        lambda sound, site: sound_servers.rtsp(sound, site=site),
        guarded=lambda sound, site: sound_servers.rtsp(sound, password=PASSWORD, site=site),
    ),
    "rtmp": Kind("RTMP", lambda sound, site: sound_servers.rtmp(sound, site=site), 22050),
    "srt": Kind(
        "SRT",
        lambda sound, site: sound_servers.srt(sound, site=site),
        *(48000, 2),
        garbage="answer",
        guarded=lambda sound, site: sound_servers.srt(sound, password=PASSWORD, site=site),
    ),
    "udp": Kind(
        "UDP (MPEG-TS)",
        lambda sound, site: sound_servers.udp(sound, site=site),
        *(48000, 2),
        garbage="send",
    ),
    "icecast": Kind(
        "Icecast",
        _in_folder(lambda sound, at, site: sound_servers.icecast(sound, at, site=site)),
        guarded=_in_folder(
            lambda sound, at, site: sound_servers.icecast(sound, at, site=site, password=PASSWORD)
        ),
    ),
    "hls": Kind(
        "HLS",
        _in_folder(lambda sound, at, site: sound_senders.hls(sound, at, site=site)),
        segment_s=1.0,
    ),
    "websocket": Kind(
        "WebSocket",
        lambda sound, site: sound_senders.websocket(sound, site=site),
        garbage="push",
        guarded=lambda sound, site: sound_senders.websocket(sound, site=site, token=WRONG_TOKEN),
    ),
    "rtp": Kind("RTP", lambda sound, site: sound_senders.rtp(sound, site=site), garbage=None),
    "datagrams": Kind(
        "datagrams", lambda sound, site: sound_senders.datagrams(sound, site=site), garbage=None
    ),
    "wyoming": Kind("Wyoming", lambda sound, site: sound_senders.wyoming(sound, site=site)),
}


class Place:
    """A kind of source in a scene, its server and what connects both."""

    def __init__(self, kind: Kind, here: Path, wire: NetworkNamespace | None) -> None:
        self.kind, self.wire = kind, wire
        self.site = wire.site if wire is not None else network_namespace.LOCAL
        self.noise = noise(here, kind.rate, kind.channels)
        self.zeros = silence(here, kind.rate, kind.channels)
        (here / "played").mkdir()
        self.played = dataclasses.replace(
            self.noise, path=here / "played" / "sound.wav", raw=here / "played" / "sound.raw"
        )
        self.play(self.noise)
        self.server = kind.make(self.played, self.site)

    def play(self, sound: Sound) -> None:
        """What the server plays from its next start on."""
        for given, target in ((sound.path, self.played.path), (sound.raw, self.played.raw)):
            shutil.copy(given, target)

    @property
    def reported_s(self) -> float:
        return REPORTED_S + self.kind.segment_s


def matrix(name: str) -> Callable[[Scale], list[Row]]:
    """The part that measures every fault of a kind."""
    return lambda _scale: _faults(KINDS[name])


def _faults(kind: Kind) -> list[Row]:
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(folder())
        wire = stack.enter_context(NetworkNamespace()) if network_namespace.possible() else None
        place = Place(kind, here, wire)
        stack.callback(place.server.close)
        source = place.server.url
        env = {"SEP_LISTEN__TOKEN": sound_senders.TOKEN}
        rows = [_wrong_password(place, here)] if kind.guarded is not None else []
        with Scene(f"--source={source}", env=env) as scene:
            rows.append(_late(scene, place))
            faults = [
                ("killed", place.server.kill, place.server.start),
                ("stopped (SIGSTOP)", place.server.freeze, place.server.thaw),
            ]
            if wire is not None:
                faults.append(("network cut", wire.pull, wire.plug))
            for what, break_it, mend_it in faults:
                row = source_fault(
                    *(scene, f"{kind.name}: {what}", break_it, mend_it),
                    **LONG,
                    reported_s=place.reported_s,
                    named=is_named,
                )
                rows.append(row)
            if wire is not None:
                rows.append(_jitter(scene, place, wire))
            rows.append(_silence(scene, place))
            if kind.garbage is not None:
                rows.append(_garbage(scene, place, kind.garbage))
            ordered = in_order(scene.stop().fresh(public.Result))
    rows.append(
        Row(
            f"{kind.name}: after them",
            "no message missing",
            f"{'no' if ordered else 'SOME'} `seq` missing",
            ordered,
            figures="none" if ordered else "some",
        )
    )
    return rows


def is_named(stream: public.StreamHealth) -> bool:
    """Whether a fault of a server is reported, of segments also while the rest is still heard."""
    return stream.state != "live" or "sends nothing more" in (stream.reason or "")


def state_is(*states: str) -> Callable[[public.Health], bool]:
    """Whether the source is in one of some states."""
    return lambda health: bool(health.streams) and health.streams[0].state in states


def _capture_runs(health: public.Health) -> bool:
    return any(stage.name == "capture" and stage.state == "ready" for stage in health.stages)


def _started(scene: Scene, place: Place) -> float:
    """Start the server. Returns the seconds until the source is live."""
    since = time.monotonic()
    place.server.start()
    return scene.await_health(state_is("live"), "live", since)[0]


def _late(scene: Scene, place: Place) -> Row:
    since = time.monotonic()
    waited, health = scene.await_health(
        lambda h: bool(h.streams) and h.streams[0].reason is not None, "the absence", since
    )
    time.sleep(5.0)
    back = _started(scene, place)
    return Row(
        f"{place.kind.name}: starts 5 s after the pipeline",
        f"waited for; live within {RETURN_S:g} s",
        f"waits after {waited:.2f} s ({health.streams[0].reason}); "
        f"live {back:.2f} s after its start",
        back <= RETURN_S,
        figures=f"{back:.2f}",
    )


def _jitter(scene: Scene, place: Place, wire: NetworkNamespace) -> Row:
    """Every packet delayed by up to 200 ms, for 20 s."""
    scene.await_health(state_is("live"), "live")
    time.sleep(LONG["settled_s"])
    lost, since = _stream(scene).lost, time.monotonic()
    wire.jitter_s = JITTER_S
    time.sleep(20.0)
    wire.jitter_s = 0.0
    states = {
        message.streams[0].state
        for message, replay, came in scene.received.messages
        if isinstance(message, public.Health) and not replay and came >= since
    }
    lost = _stream(scene).lost - lost
    return Row(
        f"{place.kind.name}: 200 ms of jitter for 20 s",
        "live all the time, no gap",
        f"{', '.join(f'`{state}`' for state in sorted(states))}; {lost} samples missing",
        states == {"live"} and lost == 0,
        figures=f"{lost}",
    )


def _silence(scene: Scene, place: Place) -> Row:
    """The server comes back with nothing but zeros, and then with sound."""
    place.server.kill()
    scene.await_health(lambda h: not state_is("live")(h), "the loss")
    place.play(place.zeros)
    place.server.start()
    since = time.monotonic()
    heard, _ = scene.await_health(state_is("live"), "zeros", since)
    named, _ = scene.await_health(state_is("silent_input"), "the silence", since)
    place.server.kill()
    place.play(place.noise)
    scene.await_health(lambda h: not state_is("silent_input")(h), "the loss")
    back = _started(scene, place)
    return Row(
        f"{place.kind.name}: nothing but zeros",
        f"`silent_input` within {REPORTED_S:g} s; live within {RETURN_S:g} s of its return",
        f"`silent_input` after {named - heard:.2f} s; live {back:.2f} s after its return",
        named - heard <= REPORTED_S and back <= RETURN_S,
        figures=f"{named - heard:.2f} / {back:.2f}",
    )


def _garbage(scene: Scene, place: Place, how: str) -> Row:
    """Random bytes in place of the server for 10 s."""
    scene.await_health(state_is("live"), "live")
    place.server.kill()
    scene.await_health(lambda h: not state_is("live")(h), "the loss")
    address = place.server.url.partition("://")[2].partition("/")[0] or place.server.url[8:]
    host, _, port = address.rpartition(":")
    words = [sys.executable, GARBAGE, how, host, port]
    listens = int(port) if how == "serve" else None
    with Server("", lambda: [words], listens, place.site):
        since = time.monotonic()
        time.sleep(10.0)
        states = {
            message.streams[0].state
            for message, replay, came in scene.received.messages
            if isinstance(message, public.Health) and not replay and came >= since
        }
        reason = _stream(scene).reason
    back = _started(scene, place)
    return Row(
        f"{place.kind.name}: random bytes",
        f"never live, with a reason; live within {RETURN_S:g} s of its return",
        f"{', '.join(f'`{state}`' for state in sorted(states))} ({reason}); "
        f"live {back:.2f} s after its return",
        "live" not in states and reason is not None and back <= RETURN_S,
        figures=f"{back:.2f}",
    )


def _wrong_password(place: Place, here: Path) -> Row:
    """A server refuses the pipeline, or the pipeline a device."""
    assert place.kind.guarded is not None
    sound = noise(here, place.kind.rate, place.kind.channels)
    server = place.kind.guarded(sound, place.site)
    source = server.url.replace(PASSWORD, "wrong-password")
    env = {"SEP_LISTEN__TOKEN": sound_senders.TOKEN}
    with server, Scene(f"--source={source}", env=env) as scene:
        scene.await_health(_capture_runs, "capture to run")
        named, health = scene.await_health(state_is("lost"), "the refusal")
        time.sleep(3.0)
        scene.running.process.terminate()
        states = {
            message.streams[0].state
            for message, _, _ in scene.end().messages
            if isinstance(message, public.Health) and message.streams
        }
    return Row(
        f"{place.kind.name}: wrong password",
        f"named within {REPORTED_S:g} s, never live",
        f"`lost` after {named:.2f} s ({health.streams[0].reason})",
        named <= REPORTED_S and "live" not in states,
        figures=f"{named:.2f}",
    )


def _stream(scene: Scene) -> public.StreamHealth:
    health = scene.health()
    assert health is not None
    return health.streams[0]
