"""Each stage without a supervisor: offline, and all three started by hand as a pipeline."""

from __future__ import annotations

import itertools
import json
import pstats
import random
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speech_emotion.capture.offline import read_recording
from speech_emotion.capture.ring_feeder import StreamFormat
from speech_emotion.capture.service import CaptureService
from speech_emotion.capture.sources.file import FileStream
from speech_emotion.capture.stream import StreamJob
from speech_emotion.common.bundle.grid import WindowGrid
from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.linux.eventfd import Wakeup
from speech_emotion.common.ring.segment import create_ring
from speech_emotion.common.wire import codec, public
from speech_emotion.infer.session import IN_FLIGHT
from tests.support.pipelines import (
    BUNDLE,
    DEMO,
    PATIENCE_S,
    ROOT,
    Subscriber,
    comparable,
    fresh_endpoint,
    leftovers,
    nothing_left_but,
    offline,
)

Clip = Callable[..., Path]

ORIGINAL_SPEC = """
[features]
sample_rate = 16000
window_s = 1.0
hop_s = 0.5
n_fft = 2048
hop_length = 512
n_mfcc = 128
n_mels = 15
mel = "db_max"
chroma_tuning = "estimate"
gate = "fixed"
gate_dbfs = -40.0
eps = 1e-8
frames = 0
"""


def module(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    return process.returncode, stdout, stderr


class NeverStop:
    requested = False

    def __init__(self) -> None:
        self._wakeup = Wakeup()

    def fileno(self) -> int:
        return self._wakeup.fileno()


@pytest.fixture
def by_hand() -> Iterator[tuple[str, str, Subscriber]]:
    """features and infer started by hand. Yields their endpoints and a subscriber."""
    before = leftovers()
    hub, features, results = fresh_endpoint(), fresh_endpoint(), fresh_endpoint()
    subscriber = Subscriber(results)
    stages = [
        module("features", "--bind", features, "--hub", hub, "--bundle", str(BUNDLE)),
        module(
            *("infer", "--hub", hub, "--features", features, "--results", results),
            *("--bundle", str(BUNDLE)),
        ),
    ]
    # infer publishes, so it must not have a result before the subscriber is connected.
    subscriber.wait_for(lambda received: bool(received.messages))
    yield hub, features, subscriber
    for stage in stages:
        stage.terminate()
        assert finished(stage)[0] == 0
    subscriber.finish()
    nothing_left_but(before)


def test_three_stages_by_hand_equal_offline(
    by_hand: tuple[str, str, Subscriber], clip: Clip
) -> None:
    hub, features, subscriber = by_hand
    path = clip(6.0)
    capture = module(
        *("capture", f"--source=file:{path}", "--speed=max", "--hub", hub, "--features", features),
        *("--bundle", str(BUNDLE)),
    )
    code, _, stderr = finished(capture)
    assert code == 0, stderr
    expected = offline(path)
    subscriber.wait_for(lambda received: len(received.stream()) >= len(expected))
    assert subscriber.received.stream() == expected


def test_a_killed_infer_that_is_started_again_continues_the_stream(clip: Clip) -> None:
    before = leftovers()
    hub, features, results = fresh_endpoint(), fresh_endpoint(), fresh_endpoint()
    bundle = ("--bundle", str(BUNDLE))
    infer = ("infer", "--hub", hub, "--features", features, "--results", results, *bundle)
    subscriber = Subscriber(results)
    path = clip(15.0)
    feature_stage = module("features", "--bind", features, "--hub", hub, *bundle)
    holds_hub = module(*infer)
    subscriber.wait_for(lambda received: bool(received.messages))
    capture = module(
        *("capture", f"--source=file:{path}", "--hub", hub, "--features", features, *bundle)
    )
    subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 3)
    capture.send_signal(signal.SIGSTOP)  # no result before the subscriber is connected again
    holds_hub.kill()
    holds_hub.communicate()
    again = module(*infer)
    subscriber.wait_for(
        lambda received: any(
            row.pid == again.pid
            for health in received.fresh(public.Health)
            for row in health.stages
        )
    )
    capture.send_signal(signal.SIGCONT)
    code, _, stderr = finished(capture)
    assert code == 0, stderr
    for stage in (feature_stage, again):
        stage.terminate()
        assert finished(stage)[0] == 0
    received = subscriber.finish(ended=True)
    # Smoothing restarts with the hub. No window is lost; those that features did not yet know to
    # be accepted are published again: what the killed hub had accepted is gone with it.
    seen: list[public.Result] = []
    repeated = 0
    for one in received.fresh(public.Result):
        repeated += (known := any(one.seq == other.seq for other in seen))
        seen += [] if known else [one]
    assert repeated <= IN_FLIGHT
    expected = [row for row in offline(path) if row["kind"] == "result"]
    assert [one.seq for one in seen] == [row["seq"] for row in expected]
    assert [one.rms_db for one in seen] == [row["rms_db"] for row in expected]
    assert len({one.run for one in seen}) == 1
    nothing_left_but(before)


@pytest.mark.parametrize("seed", [1, 2])
def test_blocks_of_random_sizes_equal_offline(
    by_hand: tuple[str, str, Subscriber], clip: Clip, seed: int
) -> None:
    hub, features, subscriber = by_hand
    path = clip(25.0)
    spec = load_bundle(BUNDLE).spec
    form = StreamFormat(spec.sample_rate, WindowGrid(spec.window, spec.hop))
    chance = random.Random(seed)
    sizes = (chance.choice((1, 7, 160, chance.randrange(1, 5000))) for _ in itertools.count())
    ring = create_ring(
        "main", sample_rate=form.rate, capacity=30 * form.rate, run=secrets.token_hex(8)
    )
    with ring:
        job = StreamJob("main", f"file:{path}", ring.name)
        service = CaptureService(
            lambda send: [FileStream(job, form, sizes, send, realtime=False)],
            form,
            features=features,
            hub=hub,
        )
        thread = threading.Thread(target=service.run, args=(NeverStop(),), daemon=True)
        thread.start()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    expected = offline(path)
    subscriber.wait_for(lambda received: len(received.stream()) >= len(expected))
    assert subscriber.received.stream() == expected


def test_capture_alone_ends_with_its_file_and_leaves_no_segment(clip: Clip) -> None:
    before = leftovers()
    code, _, stderr = finished(module("capture", f"--source=file:{clip(1.0)}"))
    assert code == 0, stderr
    nothing_left_but(before)


def test_features_offline_writes_every_window(clip: Clip, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    path = clip(9.0)
    process = module("features", str(path), "--bundle", str(BUNDLE), "--out", str(out), "--timings")
    code, stdout, stderr = finished(process)
    assert code == 0, stderr
    assert "p99" in stdout
    spec = load_bundle(BUNDLE).spec
    arrays = np.load(out)
    results = [row for row in offline(path) if row["kind"] == "result"]
    assert arrays["features"].shape == (len(results), spec.n_frames, spec.dims)
    assert arrays["normalized"].shape == arrays["features"].shape
    assert arrays["start"].tolist() == [row["start"] for row in results]
    assert arrays["rms_db"].tolist() == [row["rms_db"] for row in results]
    assert arrays["speech"].tolist() == [row["state"] == "speech" for row in results]
    assert 0 < arrays["speech"].sum() < len(results)


def test_features_offline_accepts_the_original_spec(clip: Clip, tmp_path: Path) -> None:
    spec, out = tmp_path / "original.toml", tmp_path / "out.npz"
    spec.write_text(ORIGINAL_SPEC)
    code, _, stderr = finished(
        module("features", str(clip(2.0)), "--spec", str(spec), "--out", str(out))
    )
    assert code == 0, stderr
    arrays = np.load(out)
    assert arrays["features"].shape == (3, 32, 155)
    assert "normalized" not in arrays


def test_a_file_that_breaks_off_gives_all_results_up_to_the_break(tmp_path: Path) -> None:
    whole = DEMO.read_bytes()
    broken, readable, out = (tmp_path / name for name in ("broken.flac", "readable.wav", "out.npz"))
    broken.write_bytes(whole[: len(whole) // 3])
    rate = load_bundle(BUNDLE).spec.sample_rate
    samples = read_recording(str(broken), rate).samples
    soundfile.write(readable, samples, rate, subtype="PCM_24")
    code, stdout, stderr = finished(module("infer", str(broken), "--json"))
    assert code == 2
    (line,) = stderr.splitlines()
    assert "damaged after" in line
    _, expected, _ = finished(module("infer", str(readable), "--json"))
    assert stdout == expected
    results = sum("utterance" not in json.loads(line) for line in stdout.splitlines())
    assert results > 20
    code, _, stderr = finished(module("features", str(broken), "--out", str(out)))
    assert code == 2
    (line,) = stderr.splitlines()
    assert "damaged after" in line
    assert len(np.load(out)["start"]) == results


@pytest.mark.parametrize("stage", ["features", "infer"])
def test_a_stage_on_a_file_is_profiled(clip: Clip, tmp_path: Path, stage: str) -> None:
    out = tmp_path / "stage.prof"
    code, _, stderr = finished(module(stage, str(clip(4.0)), "--profile", str(out)))
    assert code == 0, stderr
    functions = {name for _, _, name in pstats.Stats(str(out)).stats}  # type: ignore[attr-defined]
    assert {"features": "extract", "infer": "predict"}[stage] in functions


def test_json_lines_are_the_messages_of_the_protocol(clip: Clip) -> None:
    path = clip(9.0)
    code, stdout, stderr = finished(module("infer", str(path), "--json", "--bundle", str(BUNDLE)))
    assert code == 0, stderr
    kinds, messages = set(), []
    for line in stdout.splitlines():
        table = json.loads(line)
        kind = public.Utterance if table.pop("utterance", False) else public.Result
        kinds.add(kind)
        topic = f"{kind.topic}/{table['stream']}".encode()
        message, replay = public.decode_public(topic, codec._pack(table))
        assert isinstance(message, kind)
        assert not replay
        messages.append(comparable(message))
    assert kinds == {public.Result, public.Utterance}
    assert messages == offline(path)  # what the other tests compare live results with
