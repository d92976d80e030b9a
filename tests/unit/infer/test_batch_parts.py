"""Inputs, parts, table, quality and progress of a batch."""

from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speech_emotion import Pipeline, UserError
from speech_emotion.infer.batch import inputs, parts, table
from speech_emotion.infer.batch.progress import Progress, duration
from speech_emotion.infer.batch.quality import Quality
from tests.support.pipelines import BUNDLE, DEMO

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def refusal(call: Any) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.wav", "a.FLAC", "inner/c.mp3", "inner/d.txt", "inner/deep/e.m4a", ".f.wav"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    recording = tmp_path / "inner" / "tape"
    recording.mkdir()
    (recording / "tape.jsonl").touch()
    (recording / "audio.000000000000.flac").touch()
    return tmp_path


def test_folders_patterns_and_files_in_order(tree: Path) -> None:
    found = inputs.collect([str(tree)], None)
    names = ["a.FLAC", "b.wav", "inner/c.mp3", "inner/deep/e.m4a", "inner/tape"]
    assert found.names == [str(tree / name) for name in names]
    assert found.ignored == Counter({".txt": 1})
    # A file that is named may have any name; the same file is one input.
    found = inputs.collect([str(tree / "inner" / "d.txt"), str(tree / "*.wav"), str(tree)], None)
    assert found.names[:2] == [str(tree / "inner" / "d.txt"), str(tree / "b.wav")]
    assert len(found.names) == 6
    deep = inputs.collect([str(tree / "**" / "*.m4a")], None)
    assert deep.names == [str(tree / "inner/deep/e.m4a")]


def test_paths_that_hold_nothing_are_one_line(tree: Path) -> None:
    (tree / "empty").mkdir()
    assert "no such file" in refusal(lambda: inputs.collect([str(tree / "x.wav")], None))
    assert "no sound files" in refusal(lambda: inputs.collect([str(tree / "*.xyz")], None))
    assert "no sound files" in refusal(lambda: inputs.collect([str(tree / "empty")], None))
    assert "nothing to analyse" in refusal(lambda: inputs.collect([], None))
    assert "is not a file name" in refusal(lambda: inputs.collect(["a\0b"], None))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("list.txt", b"a.wav\nsub/b c.wav\n\n", ["a.wav", "sub/b c.wav"]),
        ("list.txt", b"\xef\xbb\xbfa.wav\r\nb.wav\r\n", ["a.wav", "b.wav"]),
        ("list", b"a\nb.wav\0c.wav\0", ["a\nb.wav", "c.wav"]),
        ("list.csv", b'speaker,path\n1,a.wav\n2,"b,c.wav"\n', ["a.wav", "b,c.wav"]),
        ("list.csv", b"path,file\nx,a.wav\n", ["a.wav"]),
        ("list.tsv", b"file\tn\na.wav\t1\n", ["a.wav"]),
    ],
)
def test_manifests(tmp_path: Path, name: str, content: bytes, expected: list[str]) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert inputs.collect([], str(path)).names == [str(tmp_path / one) for one in expected]


def test_a_manifest_keeps_names_that_are_not_utf8_and_absolute_ones(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(b"b\xe4r.wav\n/abs.wav\n")
    assert inputs.collect([], str(path)).names == [
        os.fsdecode(os.fsencode(tmp_path) + b"/b\xe4r.wav"),
        "/abs.wav",
    ]


def test_bad_manifests_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    assert "cannot be read" in refusal(lambda: inputs.collect([], str(path)))
    path.write_text("name\nx\n")
    assert "no column file or path" in refusal(lambda: inputs.collect([], str(path)))
    path.write_text("")
    assert "no column" in refusal(lambda: inputs.collect([], str(path)))
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    assert "names no file" in refusal(lambda: inputs.collect([], str(empty)))


def test_shards_divide_the_inputs() -> None:
    names = [f"{k}.wav" for k in range(10)]
    for count in (1, 3, 10, 11):
        shards = [inputs.shard_of(names, f"{k}/{count}") for k in range(1, count + 1)]
        assert sorted(name for shard in shards for name in shard) == sorted(names)
        assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert inputs.shard_of(names, None) == names
    for wrong in ("0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3"):
        assert "must be I/N" in refusal(lambda wrong=wrong: inputs.shard_of(names, wrong))


def test_rows_are_the_messages_to_the_last_bit() -> None:
    pipeline = Pipeline(BUNDLE)
    messages = list(pipeline(DEMO))
    schema = table.schema_of(pipeline.labels, pipeline.bundle)
    file = io.BytesIO()
    writer = table.TableWriter(file, schema, "talk")
    for _ in range(400):  # more rows than are held
        for message in messages:
            writer.add(message)
    writer.end(end=55.0, error=None)
    file.seek(0)
    read = pq.read_table(file)
    rows = list(table.messages_of(read))
    assert [name for name, _ in rows] == ["talk"] * 400 * len(messages)
    assert [message for _, message in rows] == messages * 400
    last = read.slice(len(read) - 1).to_pylist()[0]
    assert (last["kind"], last["end"], last["error"]) == ("file", 55.0, None)
    assert table.about(read.schema) == (pipeline.bundle, pipeline.labels)


def test_a_table_of_another_program_is_refused() -> None:
    assert "another program" in refusal(lambda: table.about(pa.schema([("a", "int64")])))
    other = pa.schema(
        [("a", "int64")], {b"speech_emotion": b'{"version": 9, "bundle": "", "labels": []}'}
    )
    assert "version 9" in refusal(lambda: table.about(other))


def test_quality_does_not_depend_on_blocks() -> None:
    rng = np.random.default_rng(0)
    samples = (rng.standard_normal(16000 * 4) * 0.001).astype(np.float32)
    samples[16000:32000] = (0.5 * np.sin(np.arange(16000) * 0.3)).astype(np.float32)
    samples[100:140] = 1.0
    whole, pieces = Quality(16000), Quality(16000)
    whole.add(samples)
    for start in range(0, len(samples), 777):
        pieces.add(samples[start : start + 777])
    for quality in (whole, pieces):
        assert quality.samples == len(samples)
        assert quality.peak_db == 0.0
        assert quality.clipped == 40 / len(samples)
        assert quality.snr_db == pytest.approx(51.0, abs=2.0)  # -9 to -60 dBFS
        assert quality.rms_db == pytest.approx(-15.0, abs=0.2)
    assert whole.snr_db == pieces.snr_db
    silent = Quality(16000)
    assert (silent.rms_db, silent.peak_db, silent.clipped, silent.snr_db) == (-100, -100, 0, None)
    silent.add(np.zeros(16000, np.float32))
    assert (silent.rms_db, silent.peak_db, silent.snr_db) == (-100, -100, 0)


def test_a_draft_that_is_not_published_leaves_nothing(tmp_path: Path) -> None:
    with parts.Draft(tmp_path / "ab", "part") as draft:
        draft.file.write(b"half")
    assert list((tmp_path / "ab").iterdir()) == []
    with parts.Draft(tmp_path / "ab", "part") as draft:
        draft.file.write(b"all")
        assert [p.name[0] for p in (tmp_path / "ab").iterdir()] == ["."]
        draft.publish("part.parquet")
    assert [p.read_bytes() for p in (tmp_path / "ab").iterdir()] == [b"all"]


def test_unfinished_files_of_ended_processes_are_removed(tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    with parts.Draft(tmp_path / "ab", "mine") as draft:
        (own,) = (tmp_path / "ab").iterdir()
        host, pid, started, _ = own.name.rsplit(".", 4)[1:]
        ended = own.with_name(own.name.replace(f"{pid}.{started}", f"{pid}.1"))
        other = own.with_name(ended.name.replace(host, f"{host}-2"))
        ended.touch()
        other.touch()
        parts.remove_unfinished(tmp_path)
        assert set((tmp_path / "ab").iterdir()) == {own, other}
        draft.publish("x")


def test_folders_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    def opened(folder: Path, bundle: str = "b@1", resume: bool = False) -> None:
        parts.open_folder(folder, {"bundle": bundle}, resume=resume)

    opened(tmp_path / "new")
    opened(tmp_path / "new")  # no part yet
    (tmp_path / "new" / "ab").mkdir()
    (tmp_path / "new" / "ab" / "x.parquet").touch()
    assert "--resume" in refusal(lambda: opened(tmp_path / "new"))
    opened(tmp_path / "new", resume=True)
    assert "of bundle b@1, not c@1" in refusal(lambda: opened(tmp_path / "new", "c@1", True))
    # Another shard, on another machine, is about to write the index.
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / f".{parts.INDEX}.other.1.2{parts.TEMPORARY}").touch()
    opened(tmp_path / "shared")
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "song.mp3").touch()
    assert "not empty" in refusal(lambda: opened(tmp_path / "music"))
    (tmp_path / "new" / parts.INDEX).write_text("{")
    assert "is damaged" in refusal(lambda: opened(tmp_path / "new", resume=True))
    (tmp_path / "new" / parts.INDEX).write_text("[]")
    assert "is damaged" in refusal(lambda: opened(tmp_path / "new", resume=True))
    (tmp_path / "file").touch()
    assert "cannot be written" in refusal(lambda: opened(tmp_path / "file"))
    assert "cannot be written" in refusal(lambda: opened(tmp_path / "file" / "below"))


def test_a_key_follows_the_content_and_what_decides_the_results(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one.wav", "same.wav", "other.wav"))
    one.write_bytes(b"sound")
    same.write_bytes(b"sound")
    other.write_bytes(b"sounds")
    keys = {name: parts.content_key(str(tmp_path / name), "a") for name in ("one.wav", "same.wav")}
    assert len(set(keys.values())) == 1
    assert parts.content_key(str(other), "a") != keys["one.wav"]
    assert parts.content_key(str(one), "b") != keys["one.wav"]
    recording = tmp_path / "tape"
    recording.mkdir()
    (recording / "tape.jsonl").write_text("{}")
    soundfile.write(recording / "audio.000000000000.flac", np.zeros(10), 16000)
    first = parts.content_key(str(recording), "a")
    (recording / "messages.jsonl").write_text("{}")  # no sound
    assert parts.content_key(str(recording), "a") == first
    soundfile.write(recording / "audio.000000000010.flac", np.zeros(10), 16000)
    assert parts.content_key(str(recording), "a") != first


def test_progress_without_a_terminal() -> None:
    out, now = io.StringIO(), [0.0]
    progress = Progress(4, 1000, out, lambda: now[0])
    with progress:
        progress.end(0, 0.0, 400, None, skipped=True)
        now[0] = 5.0
        progress.advance(1, 30.0, 0.5, 200)
        assert out.getvalue() == ""
        now[0] = 10.0
        progress.end(1, 60.0, 200, None, skipped=False)
        assert out.getvalue() == "infer: 2 of 4 files, 6 times real time, 0:20 left\n"
        now[0] = 12.0
        progress.end(2, 0.0, 200, "x\x1b.wav: is empty", skipped=False)
        assert out.getvalue().splitlines()[-1] == "infer: x\\x1b.wav: is empty"
        now[0] = 20.0
        progress.end(3, 60.0, 200, None, skipped=False)
    assert "4 of 4 files, 1 with errors, 6 times real time, 0:00 left" in out.getvalue()
    assert progress.summary("out") == (
        "infer: 4 files, 1 already done, 1 with errors; "
        "2:00 of sound in 0:20, 6 times real time; out"
    )
    for k in range(40):
        progress.end(k, 0.0, 0, f"{k}: is empty", skipped=False)
    assert out.getvalue().count("is empty") == 20
    assert "further errors" in out.getvalue()


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 59.6, 3599, 3600, 360_000)] == [
        *("0:00", "1:00", "59:59", "1:00:00", "100:00:00")
    ]
