"""One subscriber to many boxes, through ZeroMQ's own forwarder, with keys between."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from speech_emotion.common.client.results import Results
from speech_emotion.common.wire import public
from tests.support.key_files import KeyFolder
from tests.support.pipelines import PATIENCE_S, ROOT, Running
from tools.ports import free_port

Supervise = Callable[..., Running]
Clip = Callable[..., Path]


def test_one_subscriber_to_two_boxes_through_a_forwarder(
    supervise: Supervise, clip: Clip, tmp_path: Path
) -> None:
    curve = KeyFolder(tmp_path / "keys")
    boxes = {}
    for name in ("kitchen", "hall"):
        config = tmp_path / f"{name}.toml"
        config.write_text(f"[[stream]]\nname = '{name}'\nsource = 'file:{clip(50.0, repeat=4)}'\n")
        endpoint = f"tcp://127.0.0.1:{free_port()}"
        flags = [f"--config={config}", f"--results={endpoint}"]
        boxes[endpoint] = supervise(*flags, env=curve.env)
    listen = f"tcp://127.0.0.1:{free_port()}"
    command = [sys.executable, str(ROOT / "examples" / "forward.py"), "--listen", listen]
    command += ["--secret", str(curve.folder / "friend.key_secret")]
    command += [f"{endpoint}={curve.folder / 'box.key'}" for endpoint in boxes]
    with subprocess.Popen(command) as forward:
        try:
            with Results(listen, timeout=PATIENCE_S) as both:
                streams = set()
                for result in both:
                    streams.add(result.stream)
                    if streams == {"kitchen", "hall"}:
                        break
                for _ in zip(both, range(6), strict=False):
                    pass
                assert both.lost.total() == 0
                # A late subscriber gets the last values as well.
                with Results(listen, "hall", timeout=PATIENCE_S) as late:
                    event = late.receive(PATIENCE_S)
                    while event is not None and not isinstance(event.message, public.Info):
                        event = late.receive(PATIENCE_S)
                    assert event is not None
                    assert event.replay
                    next(iter(late))
        finally:
            forward.kill()
    for box in boxes.values():
        box.process.terminate()
        code, stderr, _ = box.ended()
        assert code == 0, stderr


def test_a_file_at_the_listening_path_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("keep")
    done = subprocess.run(
        [sys.executable, "examples/forward.py", "--listen", f"ipc://{path}", "tcp://127.0.0.1:1"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2
    assert "is no socket" in done.stderr
    assert path.read_text() == "keep"
