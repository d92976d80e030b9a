"""Inputs that are no sound, or hardly any: each is a row of a batch, and nothing else is lost.

The library gives the same messages of each, and the error as one line.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speech_emotion import Pipeline, UserError
from speech_emotion.infer.batch.table import messages_of
from tests.support.pipelines import BUNDLE, DEMO, PATIENCE_S, ROOT

pq = pytest.importorskip("pyarrow.parquet")

RATE = 16000
SAMPLES = soundfile.read(DEMO, frames=4 * RATE, start=3 * RATE, dtype="float32")[0]


def encoded(kind: str, subtype: str | None = None, samples: object = SAMPLES) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format=kind, subtype=subtype)
    return buffer.getvalue()


def riff(
    data: bytes, *, size: int | None = None, riff_size: int | None = None, **form: int
) -> bytes:
    """A WAV file with any header."""
    values = {"tag": 1, "channels": 1, "rate": RATE, "bytes": 2 * RATE, "align": 2, "bits": 16}
    fmt = struct.pack("<HHIIHH", *(values | form).values())
    size = len(data) if size is None else size
    riff_size = 36 + len(data) if riff_size is None else riff_size
    head = b"RIFF" + struct.pack("<I", riff_size) + b"WAVE"
    return head + b"fmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", size) + data


PCM = (SAMPLES * 30000).astype("<i2").tobytes()
FLAC, WAV, OGG, MP3 = (encoded(kind) for kind in ("FLAC", "WAV", "OGG", "MP3"))

CONTENTS: dict[str, tuple[bytes, str | None]] = {
    "empty.wav": (b"", "is empty"),
    "one byte.wav": (b"R", "cannot be read"),
    "text.wav": (b"This is not a sound file.\n" * 50, "cannot be read"),
    "zeros.wav": (bytes(5000), "cannot be read"),
    "noise.flac": (np.random.default_rng(1).bytes(9000), "cannot be read"),
    "picture.mp3": (b"\x89PNG\r\n\x1a\n" + bytes(4000), "cannot be read"),
    "page.ogg": (b"<html><body>404 Not Found</body></html>", "cannot be read"),
    "header only.wav": (WAV[:44], "damaged|no samples|missing"),
    "no frames.wav": (riff(b""), "no samples"),
    "cut.flac": (FLAC[: len(FLAC) // 2], "damaged after"),
    "cut.wav": (WAV[: len(WAV) // 2], "damaged after"),
    "cut.ogg": (OGG[: len(OGG) // 2], "damaged after"),
    "cut.aiff": (encoded("AIFF")[:30_000], "damaged after"),
    "cut in its header.flac": (FLAC[:60], "cannot be read|damaged|no samples"),
    "flac named.wav": (FLAC, None),
    "wav named.mp3": (WAV, None),
    "four GB.wav": (riff(PCM, size=0xFFFFFFF0, riff_size=0xFFFFFFFF), None),
    "three GB.wav": (riff(PCM, size=0xC0000001, riff_size=0xC0000025), None),
    "one GB.wav": (riff(PCM, size=1 << 30, riff_size=(1 << 30) + 36), "damaged after"),
    "no channel.wav": (riff(PCM, channels=0, align=0), "cannot be read"),
    "a thousand channels.wav": (riff(PCM, channels=1025, align=2050), "cannot be read"),
    "no rate.wav": (riff(PCM, rate=0), "cannot be read|sample rate"),
    "one hertz.wav": (riff(PCM, rate=1), "sample rate of 1 Hz"),
    "four gigahertz.wav": (riff(PCM, rate=4_000_000_000), "cannot be read|sample rate"),
    "eight channels.wav": (encoded("WAV", None, np.stack([SAMPLES] * 8, axis=1)), None),
    "nan.wav": (encoded("WAV", "FLOAT", np.full(RATE, np.nan)), None),
    "infinite.wav": (encoded("WAV", "DOUBLE", np.full(RATE, np.inf)), None),
    "enormous.wav": (encoded("WAV", "DOUBLE", np.full(RATE, 1e300)), None),
    "one sample.wav": (riff(PCM[:2]), None),
    "half a sample.wav": (riff(PCM[:1]), "no samples|cannot be read|damaged"),
    "phone.m4a": (b"\x00\x00\x00\x20ftypM4A " + bytes(3000), "cannot be read"),
    "damaged in the middle.flac": (
        FLAC[:20_000] + bytes(400) + FLAC[20_400:],
        "damaged after",
    ),
    "b\udce4r.wav": (WAV, None),
    "two\nlines.wav": (WAV, None),
    f"{'long' * 60}.wav": (WAV, None),
    "-rf.wav": (WAV, None),
}
"""Name → content, and what the error says; None: it is read."""


PIPE = "pipe.wav"
"""A batch, which reads an input twice, refuses it; the library waits for a writer, and its end."""


def special(folder: Path) -> dict[str, str]:
    """Inputs that are no plain files. Name → what the error says."""
    (folder / "nowhere.wav").symlink_to("gone.wav")
    (folder / "circle.wav").symlink_to("circle.wav")
    (folder / "zero.wav").symlink_to("/dev/zero")
    os.mkfifo(folder / PIPE)
    with socket.socket(socket.AF_UNIX) as unix:
        # A path of more than 107 bytes does not fit: bind from inside the folder.
        here = os.getcwd()
        os.chdir(folder)
        unix.bind("socket.wav")
        os.chdir(here)
    tape = folder / "tape"
    tape.mkdir()
    (tape / "tape.jsonl").write_text("no json\n")
    other = folder / "other tape"
    other.mkdir()
    (other / "tape.jsonl").write_text('{"rate": 44100}\n')
    soundfile.write(other / "audio.000000000000.flac", SAMPLES, 44100)
    return {
        "nowhere.wav": "No such file",
        "circle.wav": "Too many levels",
        "zero.wav": "neither a file nor",
        PIPE: "neither a file nor",
        "socket.wav": "neither a file nor",
        "tape": "is damaged",
        "other tape": "44100 Hz",
    }


def run(*words: object, limits: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*limits, sys.executable, "-m", "infer", "--bundle", str(BUNDLE), *map(str, words)],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        cwd=ROOT,
        timeout=PATIENCE_S,
    )


def of_library(pipeline: Pipeline, path: Path) -> tuple[list[object], str | None]:
    """The messages of an input, and the error at their end."""
    messages: list[object] = []
    try:
        messages.extend(pipeline(path))
    except UserError as error:
        return messages, str(error)
    return messages, None


def test_every_bad_input_is_a_row(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    expected: dict[str, str | None] = {}
    for name, (content, error) in CONTENTS.items():
        (folder / name).write_bytes(content)
        expected[name] = error
    expected |= special(folder)
    assert len(expected) >= 40
    manifest = tmp_path / "manifest.txt"
    manifest.write_text("in/was removed.wav\n")  # vanished after the list was made
    expected["was removed.wav"] = "No such file"
    out = tmp_path / "out.parquet"
    done = run(folder, "--manifest", manifest, "--out", out)
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    assert all(line.startswith("infer: ") for line in done.stderr.splitlines()), done.stderr
    table = pq.read_table(out).to_pylist()
    rows = {row["file"]: row for row in table if row["kind"] == "file"}
    assert len(rows) == len(expected)
    for name, error in expected.items():
        shown = name.replace("\udce4", "\\xe4").replace("\n", "\\n")
        (row,) = [row for file, row in rows.items() if file.endswith(f"/{shown}")]
        results = [r for r in table if r["kind"] == "result" and r["file"] == row["file"]]
        if error is None:
            assert row["error"] is None, row
            assert results, name
            continue
        assert row["error"] is not None, name
        assert any(words in row["error"] for words in error.split("|")), row["error"]
        assert row["error"].isprintable()
        assert bool(results) == (row["end"] > 0.5), name
    failed = sum(row["error"] is not None for row in rows.values())
    assert f"{len(rows)} files, {failed} with errors" in done.stderr.splitlines()[-1]
    again = run(folder, "--manifest", manifest, "--out", out, "--resume")
    assert again.returncode == 4  # resumed, it does not look better than it is
    assert pq.read_table(out).to_pylist() == table
    of_batch: dict[str, list[object]] = {}
    for file, message in messages_of(pq.read_table(out)):
        of_batch.setdefault(file, []).append(message)
    pipeline = Pipeline(BUNDLE)
    for name in expected.keys() - {PIPE}:
        messages, found = of_library(pipeline, folder / name)
        file = str(folder / name).replace("\udce4", "\\xe4").replace("\n", "\\n")
        assert messages == of_batch.get(file, []), name
        assert (found is None) == (rows[file]["error"] is None), name
        assert found is None or "\n" not in found.replace(str(folder / name), ""), found


def test_files_and_folders_without_permission_are_rows(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "closed").mkdir(parents=True)
    for path in (folder / "open.wav", folder / "secret.wav", folder / "closed" / "c.wav"):
        path.write_bytes(WAV)
    (folder / "secret.wav").chmod(0)
    (folder / "closed").chmod(0)
    out = tmp_path / "out"
    # root may read everything by these two capabilities.
    limits = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root needs setpriv (util-linux)")
    done = run(folder, "--out", out, limits=limits if os.geteuid() == 0 else [])
    (folder / "closed").chmod(0o700)
    assert done.returncode == 4, done.stderr
    found = {
        row["file"]: row["error"] for row in pq.read_table(out).to_pylist() if row["kind"] == "file"
    }
    assert found[str(folder / "open.wav")] is None
    assert "Permission denied" in found[str(folder / "secret.wav")]
    assert "Permission denied" in found[str(folder / "closed")]


def test_a_file_that_changes_while_it_is_read_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speech_emotion.infer.batch import analysis
    from speech_emotion.infer.batch.setting import Setting
    from speech_emotion.infer.offline.sound import open_sound

    path = tmp_path / "growing.wav"
    path.write_bytes(WAV)
    writer = analysis.PartWriter(Setting(str(BUNDLE), str(tmp_path / "out")))
    real: Callable[..., object] = open_sound

    def opened(*words: object) -> object:
        sound = real(*words)
        path.write_bytes(FLAC)
        return sound

    monkeypatch.setattr(analysis, "open_sound", opened)
    outcome = writer.process(str(path), [], lambda *_: None)
    assert outcome.error is not None
    assert "was changed while it was read" in outcome.error
    monkeypatch.undo()
    outcome = writer.process(str(path), [outcome.part], lambda *_: None)
    assert outcome.error is None
    assert len(list((tmp_path / "out").glob("??/*.parquet"))) == 1


def test_a_fault_of_ours_is_a_row_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speech_emotion.infer.batch import analysis
    from speech_emotion.infer.batch.setting import Setting

    path = tmp_path / "talk.wav"
    path.write_bytes(WAV)
    writer = analysis.PartWriter(Setting(str(BUNDLE), str(tmp_path / "out")))

    def broken(*_: object) -> object:
        raise ZeroDivisionError("a\nfault")

    monkeypatch.setattr(analysis, "open_sound", broken)
    outcome = writer.process(str(path), [], lambda *_: None)
    assert outcome.error == f"{path}: ZeroDivisionError: a\\nfault"
    assert "unread" in outcome.part
