"""A model of another framework: PyTorch, ONNX and raw samples, live, offline and in a batch."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speech_emotion import Pipeline
from speech_emotion.common.wire import public
from tests.support.pipelines import DEMO, PATIENCE_S, ROOT, Running, command, comparable, offline

pytest.importorskip("onnxruntime")

WAVEFORM = ROOT / "tests" / "data" / "models" / "waveform"
EXAMPLE = ROOT / "examples" / "pytorch_model.py"
SPEC = ROOT / "examples" / "pytorch_model.toml"
LABELS = "angry,happy,neutral,sad"


def test_live_equals_offline_in_blocks_and_in_a_batch(
    supervise: Callable[..., Running], clip: Callable[..., Path], tmp_path: Path
) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    from speech_emotion.infer.batch.table import messages_of

    path = clip(25.0, repeat=3)
    expected = offline(path, WAVEFORM)
    assert {row["emotion"] for row in expected} & set(LABELS.split(","))
    running = supervise(f"--source=file:{path}", "--speed=max", f"--bundle={WAVEFORM}")
    running.subscriber.wait_for(lambda received: bool(received.fresh(public.Result)))
    running.kill_stage("infer")
    code, stderr, received = running.ended()
    assert code == 0, stderr
    assert received.stream() == expected
    out = tmp_path / "table.parquet"
    done = subprocess.run(
        [sys.executable, "-m", "infer", path, "--bundle", WAVEFORM, "--out", out, "--jobs", "2"],
        cwd=ROOT,
        timeout=PATIENCE_S,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [comparable(message) for _, message in messages_of(pq.read_table(out))] == expected
    samples, rate = soundfile.read(path, dtype="float32")
    stream = Pipeline(WAVEFORM).stream(rate)
    rng, at, rows = np.random.default_rng(0), 0, []
    while at < len(samples):
        size = int(rng.integers(1, 9000))
        rows += stream.feed(samples[at : at + size])
        at += size
    rows += stream.finish()
    assert [comparable(message) for message in rows] == expected


def test_the_session_has_one_thread() -> None:
    code = (
        "import os\n"
        "from pathlib import Path\n"
        "from speech_emotion.common.bundle.manifest import load_bundle\n"
        "from speech_emotion.infer.model import Model\n"
        "import numpy, onnxruntime\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        f"bundle = load_bundle(Path({str(WAVEFORM)!r}))\n"
        "model = Model(bundle)\n"
        "model.predict(numpy.ones((bundle.spec.window, 1), numpy.float32))\n"
        "print(len(os.listdir('/proc/self/task')) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize("runtime", ["litert", "tflite"])
def test_a_runtime_that_cannot_run_the_file_is_refused(runtime: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infer", DEMO, "--bundle", WAVEFORM, "--runtime", runtime],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"infer: runtime `{runtime}` cannot run model.onnx: choose auto or onnx"
    ]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch")
@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="needs onnxscript")
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_a_pytorch_user_gets_a_bundle(tmp_path: Path, suffix: str) -> None:
    import torch

    model = tmp_path / f"model.{suffix}"
    subprocess.run([sys.executable, EXAMPLE, model], check=True, cwd=ROOT, timeout=200)
    out = tmp_path / "mine"
    words = ("--model", model, "--spec", SPEC, "--labels", LABELS, "--out", out)
    made = command("train", "bundle", *words)
    assert made.returncode == 0, made.stderr
    assert "input 1,samples, output logits" in made.stdout
    spec = importlib.util.spec_from_file_location("pytorch_model", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    torch.manual_seed(1)
    network = example.SoundNetwork().eval()
    with np.load(out / "golden.npz") as golden, torch.no_grad():
        wanted = network(torch.from_numpy(golden["audio"])[None, None]).numpy()[0]
        assert golden["probabilities"] == pytest.approx(wanted, abs=1e-4)
    messages = list(Pipeline(out)(DEMO))
    assert {m.emotion for m in messages if isinstance(m, public.Utterance)}
