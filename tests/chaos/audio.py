"""Microphones that are lost, silent, stuck, or replaced by another."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import soundfile

from speech_emotion.common.wire import public
from tests.chaos.scene import (
    RATE,
    Row,
    Scale,
    Scene,
    folder,
    in_order,
    loaded_cores,
    microphone,
    noise,
    source_fault,
)
from tests.support.pulse import VirtualMicrophone

OTHER = "other"


class Room:
    """The virtual microphone, what is played to it, and what can be done to it."""

    def __init__(self, mic: VirtualMicrophone, here: Path) -> None:
        self.mic = mic
        self._noise, _ = noise(here, 300.0)
        self._stuck = here / "stuck.wav"
        soundfile.write(self._stuck, np.full(300 * RATE, 8000, np.int16), RATE)
        self._player: subprocess.Popen[bytes] | None = None

    def play(self, path: Path | None = None) -> None:
        self.pa55()
        self._player = self.mic.play(path or self._noise)

    def pa55(self) -> None:
        if self._player is not None:
            self._player.kill()
            self._player.wait()
            self._player = None

    def suspend(self) -> None:
        self.mic.pactl("suspend-sink", "virtmic", "1")

    def resume(self) -> None:
        self.mic.pactl("suspend-sink", "virtmic", "0")

    def unload(self) -> None:
        rows = self.mic.pactl("list", "short", "modules").stdout.splitlines()
        (module,) = [row.split()[0] for row in rows if "sink_name=virtmic" in row]
        self.mic.pactl("unload-module", module)

    def load(self, name: str = "virtmic") -> None:
        form = f"rate={self.mic.rate} channels={self.mic.channels} format=s16le"
        self.mic.pactl("load-module", "module-null-sink", f"sink_name={name}", *form.split())

    def reload(self) -> None:
        self.load()
        self.play()

    def kill(self) -> None:
        self.pa55()
        self.mic.kill()

    def start(self) -> None:
        self.mic.start()
        self.play()

    def replace(self) -> None:
        self.load(OTHER)
        self.unload()

    def stick(self) -> None:
        self.play(self._stuck)


def audio_faults(_scale: Scale) -> list[Row]:
    """Each fault of a microphone, and its return."""
    with folder() as here, microphone() as mic:
        room = Room(mic, here)
        faults: list[tuple[str, Callable[[], None], Callable[[], None]]] = [
            ("digital silence", room.pa55, room.play),
            ("a stuck value", room.stick, room.play),
            ("source suspended", room.suspend, room.resume),
            ("source unloaded", room.unload, room.reload),
            ("audio daemon killed", room.kill, room.start),
            ("source replaced by another", room.replace, room.reload),
        ]
        room.play()
        with Scene("--source=mic", microphone=mic) as scene:
            scene.await_results(2)
            rows = [source_fault(scene, *fault, settled_s=2.0, absent_s=4.0) for fault in faults]
            ordered = in_order(scene.stop().fresh(public.Result))
        room.pa55()
    if not ordered:
        rows.append(Row("after them", "no message missing", "MESSAGES MISSING", False))
    return rows


def away(scale: Scale) -> list[Row]:
    """A microphone that is away for longer than the ring holds."""
    with folder() as here, microphone() as mic:
        room = Room(mic, here)
        room.play()
        with Scene("--source=mic", microphone=mic, env={"SEP_RING__SECONDS": "5"}) as scene:
            scene.await_results(6)
            before = memory(scene)
            last = scene.results()[-1]
            room.kill()
            time.sleep(scale.away_s)
            room.start()
            scene.await_health(lambda h: h.state == "ok", "all to be well")
            scene.await_results(len(scene.results()) + 6)
            grown = memory(scene) - before
            results = scene.stop().fresh(public.Result)
        room.pa55()
    long_ones = [r for r in results if r.seq > last.seq and r.skipped]
    covered = long_ones[0].lost / RATE if long_ones else 0.0
    held = len(long_ones) == 1 and in_order(results) and abs(covered - scale.away_s) < 5.0
    return [
        Row(
            f"microphone away for {scale.away_s:g} s, ring of 5 s",
            "one gap message, `seq` goes on, memory flat",
            f"{len(long_ones)} long gap message of {covered:.1f} s; "
            f"{'no' if in_order(results) else 'SOME'} `seq` missing; "
            f"supervisor, features and infer {grown:+.1f} MiB",
            held and grown < 4.0,
        )
    ]


def memory(scene: Scene) -> float:
    """Resident MiB of the processes that a lost microphone must not touch."""
    stages = scene.running.stages()
    processes = [psutil.Process(scene.running.process.pid), stages["features"], stages["infer"]]
    return sum(process.memory_info().rss for process in processes) / 2**20


def load(scale: Scale) -> list[Row]:
    """Other programs that want every core."""
    with folder() as here, microphone() as mic:
        path, _ = noise(here, scale.load_s + 60.0)
        player = mic.play(path)
        with Scene("--source=mic", microphone=mic) as scene:
            scene.await_results()
            with loaded_cores():
                time.sleep(scale.load_s)
            received = scene.stop()
        player.kill()
        player.wait()
    health = received.fresh(public.Health)[-1]
    (stream,) = health.streams
    results = received.fresh(public.Result)
    restarts = sum(stage.restarts for stage in health.stages)
    xruns = health.counters.get("capture_xruns", 0)
    whole = in_order(results) and not any(r.lost for r in results) and not restarts
    return [
        Row(
            f"every core fully loaded for {scale.load_s:g} s, live",
            "0 samples lost",
            f"{stream.position} samples, {stream.lost} lost, {stream.gaps} gaps, {xruns} xruns, "
            f"{restarts} restarts",
            whole and not stream.lost and not stream.gaps,
        )
    ]
