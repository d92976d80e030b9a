"""Raw samples on standard input give the same results as a file of them."""

from __future__ import annotations

import dataclasses
import io
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import soundfile
import soxr

from speech_emotion.capture.sources.stdin import QUIET_S
from speech_emotion.common.wire import public
from tests.support.pipelines import (
    BUNDLE,
    PATIENCE_S,
    ROOT,
    Running,
    Subscriber,
    fresh_endpoint,
    leftovers,
    nothing_left_but,
    offline,
    wait_until,
)
from tests.support.watched import Watched

Clip = Callable[..., Path]


def piped(
    source: str, content: bytes, *flags: str, seed: int = 0, env: dict[str, str] | None = None
) -> Subscriber:
    """A pipeline fed through a pipe in pieces of random sizes."""
    before = leftovers()
    endpoint = fresh_endpoint()
    subscriber = Subscriber(endpoint)
    process = subprocess.Popen(
        [sys.executable, "supervisor.py", "--results", endpoint, "--source", source, *flags],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "SEP_BUNDLE": str(BUNDLE), **(env or {})},
    )
    assert process.stdin is not None
    chance, sent = random.Random(seed), 0
    while sent < len(content):
        size = chance.choice((1, 3, 999, 40_000))
        process.stdin.write(content[sent : sent + size])
        process.stdin.flush()
        sent += size
    process.stdin.close()
    assert process.stderr is not None
    assert process.wait(PATIENCE_S) == 0, process.stderr.read()
    process.stderr.close()
    nothing_left_but(before)
    return subscriber


@pytest.mark.costly_cases
@pytest.mark.parametrize("speed", ["realtime", "max"])
def test_a_pipe_equals_its_file(clip: Clip, speed: str) -> None:
    ring_s = 10.0
    path = clip(1.5 * ring_s)  # longer than the ring: the writer has to wait
    samples, rate = soundfile.read(path, dtype="int16")
    subscriber = piped(
        f"stdin:{rate}",
        samples.tobytes(),
        f"--speed={speed}",
        env={"SEP_RING__SECONDS": str(ring_s)},
    )
    assert subscriber.finish().stream() == offline(path)


def test_rate_and_channels_come_from_the_source_text(clip: Clip, tmp_path: Path) -> None:
    samples, _ = soundfile.read(clip(9.0), dtype="int16")
    stereo = np.stack([samples, samples[::-1]], axis=1)
    path = tmp_path / "stereo.wav"
    soundfile.write(path, stereo, 24000)
    # An incomplete sample at the end is discarded.
    subscriber = piped("stdin:24000:2", stereo.tobytes() + b"\x01", "--speed=max")
    assert subscriber.finish().stream() == offline(path)


def run_with(source: str, *flags: str, program: str = "supervisor", **streams: object) -> Ended:
    """Run a pipeline to its end with some standard input."""
    before = leftovers()
    command = {
        "supervisor": ["supervisor.py", "--results", fresh_endpoint()],
        "capture": ["-m", "capture"],
    }[program]
    ended = subprocess.run(
        [sys.executable, *command, "--source", source, *flags],
        capture_output=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
        **streams,  # type: ignore[call-overload]
    )
    nothing_left_but(before)
    return Ended(ended.returncode, ended.stderr.decode())


@dataclasses.dataclass(frozen=True)
class Ended:
    """Exit code and stderr of a program."""

    code: int
    stderr: str

    def check_refused(self, *words: str) -> None:
        assert self.code == 2, self.stderr
        (line,) = self.stderr.splitlines()
        assert all(word in line for word in words), line


@pytest.mark.parametrize("program", ["supervisor", "capture"])
@pytest.mark.parametrize(("file", "word"), [("/dev/null", "device"), ("/dev/zero", "device")])
def test_standard_input_that_gives_no_sound_is_refused(program: str, file: str, word: str) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        run_with("stdin:16000", program=program, stdin=descriptor).check_refused(word)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("program", ["supervisor", "capture"])
def test_a_closed_standard_input_is_refused(program: str) -> None:
    ended = run_with("stdin:16000", program=program, preexec_fn=lambda: os.close(0))
    ended.check_refused("closed", "arecord")


@pytest.mark.costly_cases
@pytest.mark.parametrize("program", ["supervisor", "capture"])
@pytest.mark.parametrize("content", [b"", b"\x01"])
def test_a_pipe_that_ends_without_a_sample_is_a_failure(program: str, content: bytes) -> None:
    ended = run_with("stdin:16000", program=program, input=content)
    assert ended.code == 2, ended.stderr
    assert "ended without a sample" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


@pytest.mark.costly_cases
@pytest.mark.parametrize(("rate", "channels", "subtype"), [(44100, 2, "PCM_24"), (16000, 1, None)])
def test_a_wav_in_a_pipe_is_read_as_what_it_is(
    clip: Clip, tmp_path: Path, rate: int, channels: int, subtype: str | None
) -> None:
    samples, own = soundfile.read(clip(9.0), dtype="float32")
    samples = soxr.resample(samples, own, rate)
    path = tmp_path / "sound.wav"
    soundfile.write(path, np.stack([samples] * channels, axis=1) * 0.9, rate, subtype)
    # The source's text names another rate, as README's arecord line may.
    subscriber = piped("stdin:16000", path.read_bytes(), "--speed=max")
    assert subscriber.finish().stream() == offline(path)


def test_another_sound_file_in_a_pipe_is_refused_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "talk.flac"
    soundfile.write(path, np.zeros(16000), 16000)
    ended = run_with("stdin:16000", input=path.read_bytes())
    assert ended.code == 2
    line = ended.stderr.splitlines()[-1]
    assert "FLAC" in line
    assert "ffmpeg" in line


@pytest.fixture
def pipe_into() -> Iterator[Callable[..., tuple[Running, BinaryIO]]]:
    """A pipeline that reads a pipe, and the end to write to."""
    before, opened = leftovers(), []

    def start(source: str, *flags: str) -> tuple[Running, BinaryIO]:
        reader, writer = os.pipe()
        running = Running("--source", source, *flags, stdin=reader)
        os.close(reader)
        opened.append((running, os.fdopen(writer, "wb", buffering=0)))
        return opened[-1]

    yield start
    for running, writer in opened:
        running.process.terminate()
        code, stderr, _ = running.ended()
        writer.close()
        assert code == 0, stderr
    nothing_left_but(before)


PipeInto = Callable[..., tuple[Running, BinaryIO]]


@pytest.mark.costly_cases
@pytest.mark.parametrize("speed", ["realtime", "max"])
def test_a_pipe_that_gives_nothing_from_the_start_is_silent(
    pipe_into: PipeInto, speed: str
) -> None:
    running, _ = pipe_into("stdin:16000", f"--speed={speed}")
    row = Watched(running).wait_for("silent_input", word="no samples")
    assert row.state_s >= QUIET_S  # since the start


@pytest.mark.costly_cases
@pytest.mark.parametrize(
    ("make", "state", "words"),
    [
        (lambda x: (x * 2**31).astype("<i4").tobytes(), "stuck", "sample format"),
        (lambda x: x.astype("<f4").tobytes(), "stuck", "sample format"),
        (lambda x: bytes(2 * len(x)), "silent_input", "digital silence"),
    ],
)
def test_a_pipe_without_sound_is_reported(
    pipe_into: PipeInto, make: Callable[[np.ndarray], bytes], state: str, words: str
) -> None:
    running, writer = pipe_into("stdin:16000")
    noise = np.random.default_rng(0).normal(0.0, 0.01, 16000)
    content = make(noise)
    write_until(running, writer, content[: len(content) // 10 // 4 * 4], state, words)


def write_until(running: Running, writer: BinaryIO, content: bytes, state: str, words: str) -> None:
    """Write content every 0.1 s until a state is reported with words of its reason."""
    seen, deadline = Watched(running), time.monotonic() + PATIENCE_S
    while seen.find(state, word=words) is None:
        assert time.monotonic() < deadline, seen.rows()[-1:]
        writer.write(content)
        time.sleep(0.1)


def test_an_inverted_side_is_reported(pipe_into: PipeInto) -> None:
    running, writer = pipe_into("stdin:16000:2")
    noise = (np.random.default_rng(0).normal(0.0, 0.1, 1600) * 32767).astype("<i2")
    content = np.stack([noise, -noise], axis=1).tobytes()
    write_until(running, writer, content, "cancelled", "inverted")


def test_a_restarted_capture_still_knows_the_format_of_the_header(
    pipe_into: PipeInto, clip: Clip
) -> None:
    samples, rate = soundfile.read(clip(9.0), dtype="float32")
    buffer = io.BytesIO()
    soundfile.write(buffer, soxr.resample(samples, rate, 48000), 48000, "FLOAT", format="WAV")
    content = buffer.getvalue()
    running, writer = pipe_into("stdin:16000")
    sent = 0

    def send(until: Callable[[], bool]) -> None:
        nonlocal sent
        deadline = time.monotonic() + PATIENCE_S
        while not until():
            assert time.monotonic() < deadline
            writer.write(content[sent : sent + 19200])  # a tenth of a second
            sent += 19200
            time.sleep(0.1)

    send(lambda: len(running.received.fresh(public.Result)) >= 3)
    running.stages()["capture"].kill()
    before = len(running.received.fresh(public.Result))
    send(lambda: len(running.received.fresh(public.Result)) >= before + 6)

    def live_again() -> bool:
        return any(
            health.streams[0].state == "live"
            for health in running.received.fresh(public.Health)
            for stage in health.stages
            if (stage.name, stage.state) == ("capture", "ready") and stage.restarts
        )

    wait_until(live_again, "the restarted capture to be live")
