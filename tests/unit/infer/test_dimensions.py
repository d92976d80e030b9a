"""Dimensions of emotion: from the model's output to messages, tables and the history."""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3
from pathlib import Path

import msgpack
import numpy as np
import pytest
import soundfile as sf

from speech_emotion import Pipeline, Result, Utterance
from speech_emotion.commands.export.source import tracks
from speech_emotion.common.bundle.manifest import Bundle, load_bundle
from speech_emotion.common.errors import UserError
from speech_emotion.common.wire import public
from speech_emotion.dashboard.history.reader import HistoryReader
from speech_emotion.dashboard.history.rows import HistoryRows
from speech_emotion.dashboard.history.writer import HistoryWriter
from speech_emotion.infer.batch import table
from speech_emotion.infer.decision import State, calibrate, decide, dimensions_of, finish
from tests.support.bundles import change
from tests.support.history import T0, make_result, make_utterance
from tests.support.pipelines import BUNDLE, DEMO, ROOT
from tests.unit.infer.test_decision import bundle, window

NAMES = ("arousal", "valence")


def with_dimensions(labels: bool = True) -> Bundle:
    made = dataclasses.replace(bundle(), dimensions=NAMES)
    return made if labels else dataclasses.replace(made, labels=())


def run(using: Bundle, *outputs: list[float]) -> list[Result | Utterance]:
    state = State()
    messages: list[Result | Utterance] = []
    for seq, values in enumerate(outputs):
        output = np.array(values, np.float32)
        result, ended, state = decide(
            *(state, window(seq), calibrate(output, using), using),
            dimensions=dimensions_of(output, using),
        )
        # A restarted stage continues from the checkpoint.
        state = State.from_map(msgpack.unpackb(msgpack.packb(state.to_map())))
        messages += [result, *ended]
    return [*messages, *finish(state, window(len(outputs), "end"), using)]


def test_a_window_has_its_values_and_an_utterance_their_mean() -> None:
    using = with_dimensions()
    assert using.outputs == 5
    first, second, utterance = run(using, [0.8, 0.1, 0.1, 0.25, 1.5], [0.8, 0.1, 0.1, 0.75, -1.0])
    assert first.dimensions == {"arousal": 0.25, "valence": 1.0}  # limited to 0 to 1
    assert second.dimensions == {"arousal": 0.75, "valence": 0.0}
    assert utterance.dimensions == {"arousal": 0.5, "valence": 0.5}
    plain = [dataclasses.replace(m, dimensions=None) for m in (first, second, utterance)]
    assert plain == run(bundle(), [0.8, 0.1, 0.1], [0.8, 0.1, 0.1])
    (broken, *rest) = run(using, [0.8, 0.1, 0.1, 0.5, np.nan])
    assert (broken.reason, broken.dimensions, rest) == ("model_error", None, [])


def test_a_bundle_with_dimensions_only_gives_no_label() -> None:
    result, utterance = run(with_dimensions(labels=False), [0.25, 0.5])
    assert isinstance(result, Result)
    assert (result.emotion, result.reason, result.confidence) == ("uncertain", "no_labels", None)
    assert (result.probabilities, result.smoothed) == ({}, {})
    assert (utterance.emotion, utterance.reason) == ("uncertain", "no_labels")
    assert result.dimensions == utterance.dimensions == {"arousal": 0.25, "valence": 0.5}


def test_the_key_is_absent_where_there_are_none() -> None:
    for message in run(bundle(), [0.8, 0.1, 0.1]):
        assert "dimensions" not in public.to_json_map(message)
        assert public.decode_public(*public.encode_public(message)) == (message, False)
    for message in run(with_dimensions(), [0.8, 0.1, 0.1, 0.25, 0.5]):
        assert public.to_json_map(message)["dimensions"] == {"arousal": 0.25, "valence": 0.5}
        assert public.decode_public(*public.encode_public(message)) == (message, False)


@pytest.mark.parametrize("wrong", [["pleasure"], ["arousal", "arousal"], "arousal", [1]])
def test_a_manifest_names_known_dimensions_once(tmp_path: Path, wrong: object) -> None:
    folder = shutil.copytree(BUNDLE, tmp_path / "copy")
    change(folder, lambda manifest: manifest.update(dimensions=wrong))
    with pytest.raises(UserError, match=r"dimensions = .* must be a list of arousal, valence"):
        load_bundle(folder)


def test_without_labels_there_is_no_baseline(tmp_path: Path) -> None:
    folder = shutil.copytree(BUNDLE, tmp_path / "copy")
    only: dict[str, object] = {"labels": [], "dimensions": ["arousal"]}
    change(folder, lambda manifest: manifest.update(only))
    assert load_bundle(folder).outputs == 2
    only["relative_output"] = True
    change(folder, lambda manifest: manifest.update(only))
    with pytest.raises(UserError, match="relative_output needs labels"):
        load_bundle(folder)


def test_a_table_gives_the_messages_back() -> None:
    pa = pytest.importorskip("pyarrow")
    for using in (with_dimensions(), with_dimensions(labels=False)):
        rows = [[0.25, 0.5]] if not using.labels else [[0.8, 0.1, 0.1, 0.25, 0.5]]
        messages = [dataclasses.replace(m, run="offline") for m in run(using, *rows)]
        schema = table.schema_of(using.labels, using.id, dimensions=using.dimensions)
        found = pa.Table.from_pylist([{"file": "a", **table.row_of(m)} for m in messages], schema)
        assert found["arousal"].to_pylist() == [0.25, 0.25]
        assert [m for _, m in table.messages_of(found)] == messages


def test_the_history_keeps_them(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    HistoryWriter(path).close()
    old = sqlite3.connect(path)
    for name in ("result", "utterance"):  # a file of an earlier version
        old.execute(f"ALTER TABLE {name} DROP COLUMN dimensions")
    with HistoryReader(path) as reader:
        assert reader.windows("main", T0, T0 + 9.0, 10)["rows"] == []
    old.close()
    writer = HistoryWriter(path)
    plain = [make_result(seq, speech=seq < 4) for seq in range(6)]
    results = [
        dataclasses.replace(m, dimensions={"arousal": 0.1 * m.seq} if m.seq < 4 else None)
        for m in plain
    ]
    utterance = dataclasses.replace(make_utterance(1), dimensions={"arousal": 0.123456})
    writer.write([*((m, T0) for m in results), (utterance, T0)])
    writer.close()
    with HistoryReader(path) as reader:
        every = reader.windows("main", T0, T0 + 3.0, 10)["rows"]
        assert [row[10] for row in every[:5]] == [{"arousal": 0.1 * k} for k in (0, 1)] + [
            {"arousal": 0.2},
            {"arousal": 0.3},
            None,
        ]
        steps = reader.windows("main", T0, T0 + 3.0, 3)["rows"]
        means = [row[10] and row[10]["arousal"] for row in steps]
        assert means == [0.0, 0.15, 0.3, None]  # of windows 0, 1 and 2, 3 and 4, 5
    with HistoryRows(path, "utterance", "main", 0.0, 2 * T0) as rows:
        assert [row["dimensions"] for _, row in rows] == [{"arousal": 0.1235}]
    for track in tracks(str(path)):
        assert track.dimensions == ("arousal",)
        spoken = [m for m in track.messages if isinstance(m, Utterance)]
        assert [m.dimensions for m in spoken] == [{"arousal": 0.1235}]


@pytest.mark.parametrize("name", ["default", "open"])
def test_a_shipped_bundle_gives_arousal_and_a_frame_has_its_column(name: str) -> None:
    pytest.importorskip("pandas")
    pipeline = Pipeline(ROOT / "models" / name)
    with sf.SoundFile(DEMO) as file:
        samples, rate = file.read(80000, dtype="float32"), file.samplerate
    windows = [m for m in pipeline(samples, rate=rate) if isinstance(m, Result)]
    column = pipeline.to_frame(samples, rate=rate)["arousal"]
    heard = [(m.dimensions or {}).get("arousal", np.nan) for m in windows]
    np.testing.assert_array_equal(column, heard)
    assert any(0.0 < value < 1.0 for value in heard)
    spoken = pipeline.to_frame(samples, rate=rate, utterances=True)["arousal"]
    assert spoken.between(0.0, 1.0).all()
