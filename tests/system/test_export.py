"""`speech-emotion export`: what other programs read is what the pipeline said."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from speech_emotion import Pipeline, Result, Utterance
from speech_emotion.infer.batch.table import messages_of
from tests.support.pipelines import BUNDLE, DEMO, PATIENCE_S, ROOT, Running, command

pq = pytest.importorskip("pyarrow.parquet")

CLIPS = sorted((ROOT / "tests" / "data").glob("*.flac"))
FILES = (DEMO, *CLIPS)


def export(source: Path, name: str, *words: object) -> str:
    done = command("export", source, "--format", name, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


pytestmark = pytest.mark.xdist_group("export")


@pytest.fixture(scope="module")
def expected() -> dict[str, list[Any]]:
    """The messages of each file, by its name in the table."""
    pipeline = Pipeline(BUNDLE)
    return {str(path.relative_to(ROOT)): list(pipeline(path)) for path in FILES}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, expected: dict[str, list[Any]]) -> Path:
    out = tmp_path_factory.mktemp("export") / "results.parquet"
    done = command("infer", *expected, "--out", out, "--bundle", BUNDLE)
    assert done.returncode == 0, done.stderr
    return out


def utterances(messages: list[Any]) -> list[Utterance]:
    return [m for m in messages if isinstance(m, Utterance)]


def spans(messages: list[Any]) -> list[tuple[float, float, str]]:
    return [
        (
            u.start / u.rate,
            u.end / u.rate,
            f"{u.emotion} {u.confidence:.2f}" + (f" ({u.reason})" if u.reason else ""),
        )
        for u in utterances(messages)
    ]


@pytest.fixture(scope="module")
def lengths() -> dict[str, float]:
    return {
        str(path.relative_to(ROOT)): soundfile.info(path).frames / soundfile.info(path).samplerate
        for path in FILES
    }


def inside(found: list[tuple[float, float, str]], length: float) -> list[tuple[float, float, str]]:
    """Spans as a tier has them: inside the recording and without overlap."""
    clipped = [(start, min(end, length), text) for start, end, text in found]
    followers = [*(start for start, _, _ in clipped[1:]), length]
    return [(s, min(e, n), t) for (s, e, t), n in zip(clipped, followers, strict=True)]


def same_spans(found: list[Any], wanted: list[Any], tolerance: float) -> bool:
    return len(found) == len(wanted) and all(
        abs(a[0] - b[0]) <= tolerance and abs(a[1] - b[1]) <= tolerance and a[2] == b[2]
        for a, b in zip(found, wanted, strict=True)
    )


def test_parquet_and_back(table: Path, tmp_path: Path, expected: dict[str, list[Any]]) -> None:
    one = tmp_path / "one.parquet"
    export(table, "parquet", "--out", one)
    assert pq.read_table(one).equals(pq.read_table(table))
    # The folder of parts becomes one file, in the order of the names.
    export(Path(f"{table}.parts"), "parquet", "--out", tmp_path / "joined.parquet")
    joined: dict[str, list[Any]] = {}
    for name, message in messages_of(pq.read_table(tmp_path / "joined.parquet")):
        joined.setdefault(name, []).append(message)
    assert joined == expected
    assert list(joined) == sorted(joined)


def test_csv_and_json(table: Path, tmp_path: Path, expected: dict[str, list[Any]]) -> None:
    rows = list(csv.DictReader(io.StringIO(export(table, "csv"))))
    wanted = [(name, m) for name, messages in expected.items() for m in messages]
    assert [(row["file"], row["kind"], row["seq"]) for row in rows] == [
        (name, m.topic, str(m.seq)) for name, m in wanted
    ]
    for row, (_, message) in zip(rows, wanted, strict=True):
        assert row["emotion"] == (message.emotion or "")
        assert float(row["start"]) == message.start / message.rate
        shown = message.smoothed if isinstance(message, Result) else message.probabilities
        assert row["p_sad"] == ("" if shown is None else repr(shown["sad"]))
    path = tmp_path / "r.json"
    export(table, "json", "--out", path, "--rows", "utterances")
    found = json.loads(path.read_text())
    assert {row["kind"] for row in found} == {"utterance"}
    assert [row["probabilities"] for row in found] == [
        m.probabilities for _, m in wanted if isinstance(m, Utterance)
    ]


def test_textgrids_in_praatio_and_praat(
    table: Path, tmp_path: Path, expected: dict[str, list[Any]], lengths: dict[str, float]
) -> None:
    textgrid = pytest.importorskip("praatio.textgrid")
    export(table, "textgrid", "--out", tmp_path)
    for name, messages in expected.items():
        path = tmp_path / Path(name).with_suffix(".TextGrid")
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
        assert grid.tierNames == ("utterances", "windows")
        assert grid.maxTimestamp == pytest.approx(lengths[name])
        found = [tuple(entry) for entry in grid.getTier("utterances").entries]
        assert same_spans(found, inside(spans(messages), lengths[name]), 1e-6)
        runs = [tuple(entry) for entry in grid.getTier("windows").entries]
        assert runs[0][0] == 0.0
        assert all(a[1] == b[0] and a[2] != b[2] for a, b in itertools.pairwise(runs))
    if shutil.which("praat") is None:
        pytest.skip("needs praat: deploy/setup.sh dev installs it")
    script = tmp_path / "list.praat"
    demo = tmp_path / "examples" / "demo.TextGrid"
    script.write_text(
        f'Read from file: "{demo}"\n'
        "n = Get number of intervals: 1\n"
        "for i to n\n"
        "  text$ = Get label of interval: 1, i\n"
        "  start = Get start time of interval: 1, i\n"
        "  end = Get end time of interval: 1, i\n"
        '  if text$ <> ""\n'
        "    appendInfoLine: start, tab$, end, tab$, text$\n"
        "  endif\n"
        "endfor\n"
    )
    done = subprocess.run(
        ["praat", "--run", str(script)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    read = [line.split("\t") for line in done.stdout.splitlines()]
    name = "examples/demo.flac"
    wanted = inside(spans(expected[name]), lengths[name])
    assert same_spans([(float(s), float(e), t) for s, e, t in read], wanted, 1e-6)


def test_elan_documents_in_pympi(
    table: Path, tmp_path: Path, expected: dict[str, list[Any]], lengths: dict[str, float]
) -> None:
    elan = pytest.importorskip("pympi.Elan")
    export(table, "elan", "--out", tmp_path)
    for name, messages in expected.items():
        document = elan.Eaf(str(tmp_path / Path(name).with_suffix(".eaf")))
        assert set(document.get_tier_names()) == {"utterances", "windows"}
        found = [
            (start / 1000, end / 1000, text)
            for start, end, text in sorted(document.get_annotation_data_for_tier("utterances"))
        ]
        assert same_spans(found, inside(spans(messages), lengths[name]), 0.0006)
        (media,) = document.media_descriptors
        assert media["RELATIVE_MEDIA_URL"] == name


def test_labels_of_audacity_and_subtitles(
    table: Path, tmp_path: Path, expected: dict[str, list[Any]], lengths: dict[str, float]
) -> None:
    export(table, "audacity", "--out", tmp_path / "audacity")
    export(table, "vtt", "--out", tmp_path / "vtt")
    for name, messages in expected.items():
        wanted = inside(spans(messages), lengths[name])
        lines = (tmp_path / "audacity" / Path(name).with_suffix(".txt")).read_text().splitlines()
        found = [line.split("\t") for line in lines]
        assert same_spans([(float(s), float(e), t) for s, e, t in found], wanted, 1e-5)
        text = (tmp_path / "vtt" / Path(name).with_suffix(".vtt")).read_text()
        head, *cues = text.split("\n\n")
        assert head == "WEBVTT"
        for cue, (start, _, label) in zip(cues, wanted, strict=True):
            times, shown = cue.strip().split("\n")
            hours, minutes, seconds = times.split(" --> ")[0].split(":")
            at = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
            assert at == pytest.approx(start, abs=0.0006)
            assert shown == label


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # audformat 1.4 with pandas 3.1
def test_a_database_of_audformat(
    table: Path, tmp_path: Path, expected: dict[str, list[Any]]
) -> None:
    audformat = pytest.importorskip("audformat")
    export(table, "audformat", "--out", tmp_path / "db")
    database = audformat.Database.load(str(tmp_path / "db"))
    assert list(database) == ["utterances", "windows"]
    frame = database["utterances"].get()
    wanted = [(name, u) for name, messages in expected.items() for u in utterances(messages)]
    assert list(frame.index.get_level_values("file")) == [name for name, _ in wanted]
    starts = frame.index.get_level_values("start").total_seconds()
    assert [round(s * 16000) for s in starts] == [u.start for _, u in wanted]
    assert frame["emotion"].tolist() == [u.emotion for _, u in wanted]
    assert frame["confidence"].tolist() == pytest.approx([u.confidence for _, u in wanted])
    windows = database["windows"].get()
    results = [m for messages in expected.values() for m in messages if isinstance(m, Result)]
    assert len(windows) == len(results)
    assert windows["rms_db"].tolist() == pytest.approx([m.rms_db for m in results])


def test_recordings_and_histories_are_sources_too(
    supervise: Callable[..., Running], tmp_path: Path
) -> None:
    running = supervise(
        *("--source", f"file:{DEMO}", "--speed", "max"),
        *("--record", str(tmp_path / "tape"), "--history", str(tmp_path / "h.sqlite")),
    )
    code, stderr, received = running.ended()
    assert code == 0, stderr
    live = received.stream()
    rows = json.loads(export(tmp_path / "tape", "json"))
    names = {row.pop("file") for row in rows}
    assert names == {str(tmp_path / "tape" / "main")}
    kept = [
        {k: v for k, v in row.items() if k in live[0]} for row in rows if row["kind"] == "result"
    ]
    assert kept == [row for row in live if row["kind"] == "result"]
    # The history has rounded numbers, and no probabilities of single windows.
    rows = json.loads(export(tmp_path / "h.sqlite", "json"))
    # Its process connects when the file is under way: it has the later part.
    keys = ("kind", "seq", "emotion", "start", "end")
    said = [[row[key] for key in keys] for row in sorted(live, key=end_of)]
    stored = [[row[key] for key in keys] for row in rows]
    assert len(stored) > 5
    assert stored == said[-len(stored) :]
    assert rows[0]["file"] == "main"
    for source in (tmp_path / "tape", tmp_path / "h.sqlite"):
        for name in ("parquet", "csv", "textgrid", "elan", "audacity", "vtt", "audformat"):
            words = ["--root", tmp_path] if source.is_dir() and name == "audformat" else []
            export(source, name, "--out", tmp_path / "out" / source.name / name, *words)
    text = pq.read_table(tmp_path / "out" / "h.sqlite" / "parquet").to_pylist()
    assert len(text) == len(stored)
    assert all(row["time"] is not None for row in text)


def end_of(row: dict[str, Any]) -> tuple[int, str]:
    return row["end"], row["kind"]


@pytest.mark.costly_cases
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "--format", "csv"], "nowhere: no such file"),
        (["README.md", "--format", "csv"], "is no Parquet table, no history and no recording"),
        (["docs", "--format", "csv"], "neither an output of infer --out nor a recording"),
        (["README.md", "--format", "elan"], "--format elan needs --out"),
        (["README.md", "--format", "word"], "invalid choice"),
        (["README.md"], "--format"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str) -> None:
    done = command("export", *words)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert said in line


def test_files_that_exist_are_kept(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    out.write_text("precious")
    done = command("export", table, "--format", "csv", "--out", out)
    assert done.returncode == 2
    assert "--force writes over it" in done.stderr
    assert out.read_text() == "precious"
    export(table, "csv", "--out", out, "--force")
    assert out.read_text().startswith("file,kind,")
    damaged = tmp_path / "cut.parquet"
    damaged.write_bytes(table.read_bytes()[:2000])
    done = command("export", damaged, "--format", "csv")
    assert done.returncode == 2
    assert "is damaged" in done.stderr
    other = tmp_path / "other.parquet"
    pa = pytest.importorskip("pyarrow")
    pq.write_table(pa.table({"a": [1]}), other)
    done = command("export", other, "--format", "csv")
    assert done.returncode == 2
    assert "another program" in done.stderr


def test_names_never_leave_the_output_folder(tmp_path: Path) -> None:
    sound = tmp_path / "in" / "talk.wav"
    sound.parent.mkdir()
    for path in (sound, sound.with_suffix(".flac")):
        soundfile.write(path, soundfile.read(CLIPS[0])[0], 16000)
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    name = os.path.relpath(sound.parent, ROOT)
    assert name.startswith("..")
    out = tmp_path / "r.parquet"
    assert command("infer", name, "--out", out, "--bundle", BUNDLE).returncode == 0
    export(out, "vtt", "--out", deep / "vtt")
    found = sorted(p.name for p in (deep / "vtt").rglob("*.vtt"))
    assert found == ["talk.vtt", "talk.wav.vtt"]
    assert {p.name for p in tmp_path.iterdir()} == {"in", "a", "r.parquet", "r.parquet.parts"}
    export(out, "vtt", "--out", deep / "flat", "--root", tmp_path / "in")
    assert sorted(p.name for p in (deep / "flat").iterdir()) == found
    done = command("export", out, "--format", "audformat", "--out", deep / "db", "--root", deep)
    assert done.returncode == 2
    assert "lies outside --root" in done.stderr
