"""Mute: with real processes, a microphone that plays on, and the ring itself."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from speech_emotion.common.ring.reader import RingReader
from speech_emotion.common.wire import public
from tests.support.pipelines import (
    PATIENCE_S,
    Running,
    command,
    comparable,
    offline,
    wait_until,
)
from tests.support.pulse import VirtualMicrophone, installed
from tests.support.watched import drift_s

Supervise = Callable[..., Running]
Clip = Callable[..., Path]

needs_pulse = pytest.mark.skipif(
    not installed(), reason="needs PulseAudio: deploy/setup.sh dev installs it"
)


def mute(running: Running, *words: str) -> subprocess.CompletedProcess[str]:
    return command(*words, "--pid", str(running.process.pid))


def ring_of(running: Running) -> RingReader:
    """The ring of the pipeline's one stream."""
    (path,) = Path("/dev/shm").glob(f"sep.{running.process.pid}.*")
    return RingReader.attach(path.name)


def samples(ring: RingReader, start: int, end: int) -> NDArray[np.float32]:
    out = np.empty(end - start, np.float32)
    assert ring.read(start, out, ring.index)
    return out


def states(running: Running) -> list[str]:
    return [health.streams[0].state for health in running.received.fresh(public.Health)]


def wait_for_state(running: Running, state: str) -> None:
    before = len(states(running))
    wait_until(lambda: state in states(running)[before:], f"the state {state}")


def speaks(running: Running) -> bool:
    """Whether a result that came just now is of speech."""
    return any(r.state == "speech" for r in running.received.fresh(public.Result)[-2:])


def spoken(running: Running) -> list[str]:
    """The states of all results."""
    return [result.state for result in running.received.fresh(public.Result)]


def ended_well(running: Running) -> None:
    running.process.send_signal(signal.SIGTERM)
    code, stderr, received = running.ended()
    assert code == 0, stderr
    sequence = 0
    for result in received.fresh(public.Result):
        assert result.seq == sequence
        sequence = result.next_seq


@pytest.fixture
def state(tmp_path: Path) -> dict[str, str]:
    return {"SEP_MUTE__STATE": str(tmp_path / "mute.json")}


@pytest.fixture
def speaking(clip: Clip) -> Iterator[VirtualMicrophone]:
    """A microphone that hears speech without a pause."""
    with VirtualMicrophone() as microphone:
        spoken = microphone.play(clip(6.0, repeat=30))
        yield microphone
        spoken.kill()
        spoken.wait()


def recorders_of(microphone: VirtualMicrophone) -> int:
    """How many programs have the microphone open."""
    return len(microphone.pactl("list", "short", "source-outputs").stdout.splitlines())


@needs_pulse
@pytest.mark.costly_cases
@pytest.mark.parametrize("close", ["true", "false"])
def test_while_muted_no_sound_is_taken(
    supervise: Supervise,
    speaking: VirtualMicrophone,
    state: dict[str, str],
    tmp_path: Path,
    close: str,
) -> None:
    settings = {**speaking.env, **state, "SEP_MUTE__CLOSE_DEVICE": close}
    recordings = tmp_path / "recordings"
    running = supervise("--source=mic", f"--record={recordings}", env=settings)
    wait_until(lambda: speaks(running), "speech")
    done = mute(running, "mute")
    assert (done.returncode, done.stdout) == (0, "muted by hand; no sound is taken\n")
    with ring_of(running) as ring:
        begin = ring.index
        heard = len(running.received.fresh(public.Result))
        assert samples(ring, begin - 8000, begin).any() or ring.gaps()
        wait_until(lambda: ring.index > begin + 3 * 16000, "three muted seconds")
        end = ring.index
        assert not samples(ring, begin, end).any()
        assert ring.gaps()[-1][0] <= begin
        assert ring.gaps()[-1][1] >= end
        assert recorders_of(speaking) == (0 if close == "true" else 1)

        def newest() -> public.Health:
            return running.received.fresh(public.Health)[-1]  # type: ignore[no-any-return]

        counted = "capture_muted_samples"
        wait_until(lambda: newest().counters.get(counted, 0) >= end - begin, "the counter")
        health = newest()
        assert (health.state, health.streams[0].state) == ("ok", "muted")
        assert health.mute == public.Mute(["hand"], None, "muted by hand")
        assert health.streams[0].level_db is None

        # Windows that are complete later hold no sound, and nothing was computed from them.
        def muted() -> list[public.Result]:
            return [r for r in running.received.fresh(public.Result)[heard:] if r.start >= begin]

        wait_until(lambda: len(muted()) >= 2, "results of muted windows")
        for result in muted():
            assert (result.state, result.rms_db, result.lost) == ("gap", -100.0, 16000)
            assert (result.probabilities, result.smoothed, result.emotion) == (None, None, None)
        done = mute(running, "unmute")
        assert (done.returncode, done.stdout) == (0, "unmuted: sound is taken\n")
        wait_until(lambda: speaks(running), "speech after the mute")
        assert samples(ring, ring.index - 16000, ring.index).any()
    # Samples and seconds agree, and what was recorded is all that was heard.
    assert abs(drift_s(running.received.fresh(public.Result))) < 0.1
    ended_well(running)
    live = running.received.stream()
    assert [row["state"] for row in live if row["kind"] == "result"].count("gap") >= 4
    assert live == offline(recordings / "main")


def test_a_file_goes_on_while_muted(
    supervise: Supervise, clip: Clip, state: dict[str, str], tmp_path: Path
) -> None:
    running = supervise(
        f"--source=file:{clip(5.0, repeat=30)}", f"--record={tmp_path / 'rec'}", env=state
    )
    wait_until(lambda: speaks(running), "speech")
    began = time.monotonic()
    assert mute(running, "mute", "--for", "4s").returncode == 0
    wait_until(lambda: "gap" in spoken(running), "a muted window")
    wait_until(lambda: spoken(running)[-1] == "speech", "speech after the end of the mute")
    passed = time.monotonic() - began
    code, stderr, received = running.stopped()
    assert code == 0, stderr
    results = received.fresh(public.Result)
    assert [result.seq for result in results] == list(range(len(results)))
    assert 3 <= spoken(running).count("gap") <= passed / 0.5 + 1
    assert received.stream() == offline(tmp_path / "rec" / "main")


@needs_pulse
def test_it_survives_a_restart_and_a_killed_capture(
    supervise: Supervise, speaking: VirtualMicrophone, state: dict[str, str]
) -> None:
    settings = {**speaking.env, **state}
    first = supervise("--source=mic", env=settings)
    first.subscriber.wait_for(lambda r: bool(r.fresh(public.Result)))
    assert mute(first, "mute", "--for", "1h").returncode == 0
    first.stages()["capture"].kill()
    wait_for_state(first, "muted")
    assert recorders_of(speaking) == 0
    first.end()
    second = supervise("--source=mic", env=settings)
    second.subscriber.wait_for(lambda r: len(r.fresh(public.Result)) >= 3)
    assert all(result.state == "gap" for result in second.received.fresh(public.Result))
    assert recorders_of(speaking) == 0
    mute_now = second.received.fresh(public.Health)[-1].mute
    assert mute_now is not None
    assert mute_now.by == ["hand"]
    assert mute_now.until is not None
    assert abs(mute_now.until - time.time() - 3600.0) < PATIENCE_S
    assert mute(second, "unmute").returncode == 0
    wait_until(lambda: speaks(second), "speech")
    ended_well(second)
    assert not Path(state["SEP_MUTE__STATE"]).exists()


@needs_pulse
def test_the_switch_cannot_be_overruled(
    supervise: Supervise, speaking: VirtualMicrophone, state: dict[str, str], tmp_path: Path
) -> None:
    switch = tmp_path / "value"
    switch.write_text("0\n")
    settings = {**speaking.env, **state, "SEP_MUTE__SWITCH": str(switch)}
    running = supervise("--source=mic", env=settings)
    wait_until(lambda: speaks(running), "speech")
    # Capture reads the switch itself: a supervisor that hangs does not matter.
    with ring_of(running) as ring:
        supervisor = psutil.Process(running.process.pid)
        supervisor.suspend()
        before = ring.index
        switch.write_text("1\n")

        def muted_second() -> bool:
            """Losses of a busy machine are shorter: the source would be lost."""
            gaps = ring.gaps()
            return bool(gaps) and gaps[-1][1] - max(gaps[-1][0], before) > 16000

        wait_until(muted_second, "a muted second")
        begin = ring.gaps()[-1][0]
        assert not samples(ring, begin, ring.index).any()
        supervisor.resume()
    wait_for_state(running, "muted")
    done = mute(running, "unmute")
    assert (done.returncode, done.stdout) == (1, "still muted: muted by the switch\n")
    switch.write_text("0\n")
    wait_until(lambda: speaks(running), "speech")
    switch.unlink()  # a switch that cannot be read mutes
    wait_for_state(running, "muted")
    ended_well(running)


def test_quiet_hours_mute_from_the_first_sample(
    supervise: Supervise, clip: Clip, state: dict[str, str]
) -> None:
    hours = [{"begin": "00:00", "end": "12:00"}, {"begin": "12:00", "end": "00:00"}]
    settings = {**state, "SEP_MUTE__QUIET_HOURS": json.dumps(hours)}
    code, stderr, received = supervise(f"--source=file:{clip(4.0)}", env=settings).ended()
    assert code == 0, stderr
    results = received.fresh(public.Result)
    assert results
    assert all(result.state == "gap" for result in results)
    assert received.fresh(public.Utterance) == []
    assert [comparable(result)["lost"] for result in results] == [16000] * len(results)


def test_without_a_pipeline_it_is_one_line() -> None:
    for words in (("mute",), ("unmute",), ("mute", "--for", "3 days")):
        done = command(*words, "--pid", "1")
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
