"""The library: any source, type, rate and block size gives the messages of the command line."""

from __future__ import annotations

import doctest
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from speech_emotion import Pipeline, Result, UserError, Utterance
from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.linux.scheduling import ONE_BLAS_THREAD
from speech_emotion.infer.offline import pipeline as module
from tests.support.examples import examples
from tests.support.pipelines import BUNDLE, DEMO, ROOT, comparable, offline, offline_command

RELATIVE = ROOT / "tests" / "data" / "models" / "relative"
"""A bundle with a baseline."""
Clip = Callable[..., Path]
Demo = tuple[NDArray[np.float32], int]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(BUNDLE)


def maps(messages: Iterator[Any] | list[Any]) -> list[dict[str, Any]]:
    return [comparable(message) for message in messages]


def test_the_examples_in_the_docstrings(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    monkeypatch.chdir(ROOT)
    done = doctest.testmod(module)
    assert done.failed == 0
    assert done.attempted >= 15


def test_a_path_a_file_and_samples_give_what_the_command_prints(
    pipeline: Pipeline, demo: Demo
) -> None:
    expected = offline(DEMO)
    samples, rate = demo
    assert {row["kind"] for row in expected} == {"result", "utterance"}
    assert maps(pipeline(str(DEMO))) == expected
    assert maps(pipeline(DEMO)) == expected
    with DEMO.open("rb") as file:
        assert maps(pipeline(file)) == expected
    assert maps(pipeline(io.BytesIO(DEMO.read_bytes()))) == expected
    assert maps(pipeline(samples, rate=rate)) == expected
    assert maps(pipeline(samples[:, np.newaxis], rate=rate)) == expected


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 192000])
@pytest.mark.parametrize(
    ("dtype", "subtype"),
    [("int16", "PCM_16"), ("int32", "PCM_32"), ("float32", "FLOAT"), ("float64", "DOUBLE")],
)
def test_samples_of_every_type_and_rate_equal_their_file(
    pipeline: Pipeline, tmp_path: Path, demo: Demo, rate: int, dtype: str, subtype: str
) -> None:
    """At another rate the sound is only faster or slower; it is resampled all the same."""
    other = np.roll(demo[0], 777) * np.float32(0.7)
    both = np.stack([demo[0], other, demo[0] * np.float32(0.1)], axis=1)[: 6 * rate]
    if dtype.startswith("int"):
        both = np.round(both * (np.iinfo(dtype).max * 0.9)).astype(dtype)
    path = tmp_path / "three.wav"
    soundfile.write(path, both.astype(dtype), rate, subtype=subtype)
    of_samples = list(pipeline(both.astype(dtype), rate=rate))
    assert of_samples == list(pipeline(path))
    assert maps(of_samples) == offline(path)
    assert of_samples
    second = list(pipeline(path, channel=1))
    assert second == list(pipeline(np.ascontiguousarray(both[:, 1]).astype(dtype), rate=rate))
    assert second != of_samples


@examples(25)
@given(
    sizes=st.lists(st.integers(0, 30_000), min_size=1, max_size=20),
    rate=st.sampled_from([11025, 16000, 48000]),
)
def test_blocks_of_any_size_give_the_same_messages(sizes: list[int], rate: int) -> None:
    pipeline = SHARED
    samples = soundfile.read(DEMO, dtype="float32")[0][: 4 * 16000]
    stream = pipeline.stream(rate)
    got, at, turn = [], 0, 0
    while at < len(samples):
        size = sizes[turn % len(sizes)] if any(sizes) else 4000
        got += stream.feed(samples[at : at + size])
        at, turn = at + size, turn + 1
    assert got + stream.finish() == list(pipeline(samples, rate=rate))


SHARED = Pipeline(BUNDLE)


def test_streams_by_turns_do_not_disturb_each_other(pipeline: Pipeline, demo: Demo) -> None:
    samples, rate = demo
    other = samples[::-1].copy()
    streams = pipeline.stream(rate, name="left"), pipeline.stream(rate, name="right")
    got: tuple[list[Any], list[Any]] = ([], [])
    for at in range(0, len(samples), 5000):
        for stream, block, rows in zip(streams, (samples, other), got, strict=True):
            rows += stream.feed(block[at : at + 5000])
    for stream, rows in zip(streams, got, strict=True):
        rows += stream.finish()
    assert {row.stream for row in got[0]} == {"left"}
    for rows, whole in zip(got, (samples, other), strict=True):
        expected = maps(pipeline(whole, rate=rate))
        assert maps(rows) == [{**row, "stream": rows[0].stream} for row in expected]


def test_results_come_with_the_sound_and_not_at_its_end(pipeline: Pipeline, demo: Demo) -> None:
    samples, rate = demo
    stream = pipeline.stream(rate)
    spec = load_bundle(BUNDLE).spec
    assert stream.feed(samples[: spec.window - 1]) == []
    (first,) = stream.feed(samples[spec.window - 1 : spec.window])
    assert isinstance(first, Result)
    assert (first.seq, first.start, first.end) == (0, 0, spec.window)
    messages = pipeline(DEMO)
    assert next(messages).seq == 0  # before the file was read to its end


def test_more_threads_in_the_program_change_no_bit() -> None:
    """A program that has loaded numpy with its usual threads gets the bits of the command."""
    code = (
        "import numpy, os, threadpoolctl\n"
        "threads = lambda: max(pool['num_threads'] for pool in threadpoolctl.threadpool_info())\n"
        "before = threads()\n"
        "assert before == min(4, len(os.sched_getaffinity(0))), before\n"
        "from speech_emotion import Pipeline\n"
        "from speech_emotion.features.extractor import FeatureExtractor\n"
        "analyze, inside = FeatureExtractor.analyze, set()\n"
        "def noted(*a, **k): inside.add(threads()); return analyze(*a, **k)\n"
        "FeatureExtractor.analyze = noted\n"
        "from tests.support.pipelines import comparable, DEMO\n"
        f"rows = [comparable(m) for m in Pipeline({str(BUNDLE)!r})(DEMO)]\n"
        "assert inside == {1}, inside  # the last bits of a large product depend on it\n"
        "assert threads() == before, threads()\n"
        "import json; print(json.dumps(rows))"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ONE_BLAS_THREAD}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, "OPENBLAS_NUM_THREADS": "4"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == offline(DEMO)


def test_a_file_that_breaks_off_gives_its_messages_before_the_error(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    whole = DEMO.read_bytes()
    path = tmp_path / "broken.flac"
    path.write_bytes(whole[: len(whole) // 3])
    got: list[Any] = []
    with pytest.raises(UserError, match="damaged after"):
        got.extend(pipeline(path))
    assert len(got) > 20
    assert isinstance(got[-1], Utterance)


@pytest.mark.parametrize(
    "flags", [{}, {"baseline": "off"}, {"baseline": "stream", "sensitivity": "high"}]
)
def test_baseline_and_sensitivity_are_those_of_the_command(flags: dict[str, str]) -> None:
    clip = ROOT / "tests" / "data" / "speech_03a01Wa.flac"
    words = [word for key, value in flags.items() for word in (f"--{key}", value)]
    pipeline = Pipeline(RELATIVE, **flags)  # type: ignore[arg-type]
    assert maps(pipeline(clip)) == offline_command(clip, RELATIVE, *words)


def test_a_stream_forgets_its_baseline_as_the_command_does() -> None:
    samples, rate = soundfile.read(DEMO, dtype="float32", frames=8 * 16000, start=3 * 16000)
    spec = load_bundle(RELATIVE).spec
    stream = Pipeline(RELATIVE).stream(rate)
    at = spec.grid.end(5)
    got = stream.feed(samples[:at])
    stream.forget_baseline()
    got += stream.feed(samples[at:]) + stream.finish()
    forgotten = [m.seq for m in got if isinstance(m, Result) and m.baseline_forgotten]
    assert forgotten == [6]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.wav"
        soundfile.write(path, samples, rate, subtype="FLOAT")
        assert maps(got) == offline_command(path, RELATIVE, "--forget-at", "6")


def test_a_source_shorter_than_a_window_gives_one(pipeline: Pipeline) -> None:
    (only,) = pipeline(np.zeros(10, np.float32), rate=16000)
    assert isinstance(only, Result)
    assert only.state == "silence"
    assert only.end == load_bundle(BUNDLE).spec.window


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_mistakes_are_one_line_and_at_once(pipeline: Pipeline, tmp_path: Path) -> None:
    silence = np.zeros(16000, np.float32)
    assert "no such bundle" in refusal(lambda: Pipeline(tmp_path / "none"))
    assert "no such file" in refusal(lambda: pipeline("nowhere.wav"))
    assert "need their sample rate" in refusal(lambda: pipeline(silence))
    assert "belongs to samples" in refusal(lambda: pipeline(DEMO, rate=16000))
    assert "no channel 1" in refusal(lambda: pipeline(DEMO, channel=1))
    assert "no channel 1" in refusal(lambda: pipeline(silence, rate=16000, channel=1))
    assert "no channel -1" in refusal(lambda: pipeline(silence, rate=16000, channel=-1))
    assert "1000 to" in refusal(lambda: pipeline(silence, rate=10))
    assert "1000 to" in refusal(lambda: pipeline.stream(16000.5))  # type: ignore[arg-type]
    assert "uint8" in refusal(lambda: pipeline(silence.astype(np.uint8), rate=16000))
    assert "shape (1, 2, 3)" in refusal(lambda: pipeline(np.zeros((1, 2, 3)), rate=16000))
    assert "no samples" in refusal(lambda: pipeline(silence[:0], rate=16000))
    assert "cannot be read" in refusal(lambda: pipeline(io.BytesIO(b"no sound at all")))
    assert "is empty" in refusal(lambda: pipeline(io.BytesIO(b"")))
    assert "sensitivity 'max'" in refusal(lambda: Pipeline(BUNDLE, sensitivity="max"))
    assert "'always' is not known" in refusal(lambda: Pipeline(BUNDLE, baseline="always"))
    stream = pipeline.stream(16000)
    stream.finish()
    assert "is finished" in refusal(lambda: stream.feed(silence))
    assert "is finished" in refusal(stream.finish)


def test_values_that_are_no_numbers_are_silence_and_full_scale(pipeline: Pipeline) -> None:
    wild = np.full(20_000, np.nan, np.float64)
    wild[5000:] = np.inf
    wild[10_000:] = 1e300
    assert [m.state for m in pipeline(wild, rate=16000) if isinstance(m, Result)]


def test_an_open_file_is_not_closed_and_leaves_no_file(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    descriptors = len(os.listdir("/proc/self/fd"))
    with DEMO.open("rb") as file:
        list(pipeline(file))
        assert not file.closed
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert os.listdir(tmp_path) == []
