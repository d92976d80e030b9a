"""A user's mistake is one line that says what is wrong and how to mend it, exit 2, no remains."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from speech_emotion.common.wire import public
from tests.support.bundles import change, rehash
from tests.support.pipelines import (
    BUNDLE,
    DEMO,
    PATIENCE_S,
    ROOT,
    Running,
    check_beginning,
    fresh_endpoint,
    leftovers,
    nothing_left_but,
    offline,
)

Supervise = Callable[..., Running]


Clip = Callable[..., Path]


Change = Callable[[Path], None]


def refused(*command: str) -> str:
    """Run a command that must be refused; its one line."""
    before = leftovers()
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert done.stdout == ""
    nothing_left_but(before)
    return lines[0]


def supervisor(*flags: str, results: str | None = None) -> str:
    return refused("supervisor.py", "--results", results or fresh_endpoint(), *flags)


@pytest.mark.costly_cases
@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("resutls = 'tcp://127.0.0.1:5555'", ["resutls", "results"]),
        ("speed = 'fast'", ["speed", "'fast'", "'realtime'", "'max'"]),
        ("[ring]\nseconds = 1", ["ring.seconds", "1", "2.5"]),
        ("[ring]\nsecond = 30", ["ring.second", "seconds"]),
        ("[[stream]]\nname = 'Living Room'\nsource = 'file:x'", ["Living Room", "a-z"]),
        ("[[stream]]\nname = 'main'", ["stream.0.source", "missing"]),
        ("[[stream]]\ninput = 'mic'", ["stream.0.input is not a key", "source"]),
        ("speed = ", ["TOML"]),
        ("[[stream]]\nsource = 'file:a'\n[[stream]]\nsource = 'file:b'", ["main", "differ"]),
    ],
)
def test_configuration(tmp_path: Path, toml: str, words: list[str]) -> None:
    config = tmp_path / "config.toml"
    config.write_text(toml)
    line = supervisor("--config", str(config))
    assert str(config) in line
    assert all(word in line for word in words), line


def test_a_missing_configuration() -> None:
    assert "no such file" in supervisor("--config", "nowhere.toml")


def test_an_unknown_flag() -> None:
    line = supervisor("--sauce", "file:x")
    assert "--sauce" in line
    assert "--help" in line


@pytest.mark.parametrize("source", ["tape:x", "file:", "nonsense"])
def test_an_unknown_source(source: str) -> None:
    line = supervisor("--source", source)
    assert repr(source) in line
    assert "file:PATH" in line


@pytest.mark.parametrize("stages", [["supervisor.py"], ["-m", "capture"]])
def test_a_missing_audio_file(stages: list[str]) -> None:
    results = ["--results", fresh_endpoint()] if stages == ["supervisor.py"] else []
    line = refused(*stages, *results, "--source", "file:nowhere.wav")
    assert "nowhere.wav: no such file" in line


@pytest.mark.costly_cases
@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b"RIFFnonsense", "cannot be read"), (b"\x00" * 5000, "cannot be read")],
)
def test_an_audio_file_that_is_none(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "broken.wav"
    path.write_bytes(content)
    for command in (
        ("supervisor.py", "--results", fresh_endpoint(), "--source", f"file:{path}"),
        ("-m", "capture", "--source", f"file:{path}"),
        ("-m", "features", str(path)),
        ("-m", "infer", str(path)),
    ):
        line = refused(*command)
        assert str(path) in line
        assert words in line


def test_a_header_without_samples(tmp_path: Path) -> None:
    path = tmp_path / "header.wav"
    soundfile.write(path, [], 16000)
    assert "no samples" in supervisor("--source", f"file:{path}")


def test_a_damaged_audio_file_delivers_what_it_has(tmp_path: Path) -> None:
    whole = DEMO.read_bytes()
    path = tmp_path / "cut.flac"
    path.write_bytes(whole[: len(whole) // 3])
    done = subprocess.run(
        [
            *(sys.executable, "supervisor.py", "--results", fresh_endpoint()),
            *("--source", f"file:{path}", "--speed", "max"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if "damaged after" in line]
    assert len(errors) == 1
    assert "utterance" in done.stderr  # the results before the damage went out
    assert "Traceback" not in done.stderr


def test_a_channel_that_is_not_there(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f"[[stream]]\nsource = 'file:{DEMO}'\nchannel = 1")
    assert "no channel 1" in supervisor("--config", str(config))


def cut_model(folder: Path) -> None:
    model = folder / "model.tflite"
    model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    rehash(folder)


def other_bytes(folder: Path) -> None:
    model = folder / "model.tflite"
    model.write_bytes(model.read_bytes() + b"\x00")


def other_spec(folder: Path) -> None:
    change(folder, lambda table: table["features"].update(n_mels=table["features"]["n_mels"] + 1))


def other_layout(folder: Path) -> None:
    change(folder, lambda table: table["input"].update(layout="dims"))


def other_labels(folder: Path) -> None:
    change(folder, lambda table: table.update(labels=[*table["labels"], "bored"]))


def later_format(folder: Path) -> None:
    change(folder, lambda table: table.update(format=2))


def no_stats(folder: Path) -> None:
    (folder / "stats.npz").unlink()


@pytest.mark.costly_cases
@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (cut_model, ["model.tflite", "damaged"]),
        (other_bytes, ["model.tflite", "SHA-256"]),
        (other_spec, ["must have shape"]),
        (other_layout, ["must have shape"]),
        (other_labels, ["must have shape"]),
        (later_format, ["format", "2"]),
        (no_stats, ["stats.npz", "missing"]),
    ],
)
def test_a_broken_bundle(tmp_path: Path, break_it: Change, words: list[str]) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle)
    break_it(bundle)
    for command in (
        ("supervisor.py", "--results", fresh_endpoint(), "--source", f"file:{DEMO}"),
        ("-m", "infer", str(DEMO)),
    ):
        line = refused(*command, "--bundle", str(bundle))
        assert all(word in line for word in words), line


def test_a_missing_bundle() -> None:
    line = supervisor("--source", f"file:{DEMO}", "--bundle", "models/nowhere")
    assert "models/nowhere" in line


def test_a_busy_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        line = supervisor("--source", f"file:{DEMO}", results=endpoint)
        assert endpoint in line
        assert "in use" in line
        assert "in use" in refused("-m", "infer", "--results", endpoint)


@pytest.mark.costly_cases
@pytest.mark.parametrize(
    "endpoint", ["5555", "tcp://", "tcp://127.0.0.1", "tcp://x:99999", "udp:x"]
)
def test_a_malformed_endpoint(endpoint: str) -> None:
    line = supervisor("--source", f"file:{DEMO}", results=endpoint)
    assert repr(endpoint) in line


def test_a_profile_of_no_stage() -> None:
    assert "capture, features, infer" in supervisor("--profile", "listen=x.prof")


def test_too_little_shared_memory() -> None:
    small = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    mounted = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    if subprocess.run([*small, mounted, "sh", "true"], capture_output=True).returncode != 0:
        pytest.skip("needs a mount namespace, which this machine does not give")
    command = [sys.executable, "supervisor.py", "--results", fresh_endpoint()]
    done = subprocess.run(
        [*small, mounted, "sh", *command, "--source", f"file:{DEMO}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "/dev/shm" in line
    assert "MiB" in line


def test_a_bundle_damaged_meanwhile_does_not_reach_a_running_pipeline(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(BUNDLE, bundle)
    recording = clip(50.0)
    running = supervise(f"--source=file:{recording}", f"--bundle={bundle}")
    running.subscriber.wait_for(lambda received: len(received.fresh(public.Result)) >= 2)
    (bundle / "model.tflite").write_bytes(b"damaged")
    for stage in ("infer", "features"):
        running.stages()[stage].kill()
    code, stderr, received = running.stopped()
    assert code == 0, stderr
    check_beginning(received.stream(), offline(recording))
