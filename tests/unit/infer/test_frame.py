"""Tables with the index of audformat."""

from __future__ import annotations

import numpy as np
import pytest

from speech_emotion import Pipeline, Result, Utterance
from tests.support.pipelines import BUNDLE, DEMO, ROOT

pd = pytest.importorskip("pandas")


def test_the_rows_are_the_messages() -> None:
    pipeline = Pipeline(BUNDLE)
    messages = list(pipeline(DEMO))
    windows = [m for m in messages if isinstance(m, Result)]
    utterances = [m for m in messages if isinstance(m, Utterance)]
    table = pipeline.to_frame(DEMO)
    assert len(table) == len(windows)
    assert table.index.names == ["file", "start", "end"]
    files, starts, ends = (table.index.get_level_values(n) for n in range(3))
    assert set(files) == {str(DEMO)}
    assert starts.dtype.kind == ends.dtype.kind == "m"
    assert [round(s.total_seconds() * 16000) for s in starts] == [m.start for m in windows]
    assert [round(s.total_seconds() * 16000) for s in ends] == [m.end for m in windows]
    assert table["rms_db"].tolist() == [m.rms_db for m in windows]
    assert table["state"].tolist() == [m.state for m in windows]
    assert [None if pd.isna(e) else e for e in table["emotion"]] == [m.emotion for m in windows]
    for label in pipeline.labels:
        expected = [np.nan if m.smoothed is None else m.smoothed[label] for m in windows]
        np.testing.assert_array_equal(table[f"p_{label}"], expected)
    table = pipeline.to_frame(DEMO, utterances=True)
    assert table["confidence"].tolist() == [m.confidence for m in utterances]
    assert table["windows"].tolist() == [m.windows for m in utterances]
    assert table["p_sad"].tolist() == [m.probabilities["sad"] for m in utterances]


def test_several_files_and_samples() -> None:
    pipeline = Pipeline(BUNDLE)
    clips = sorted((ROOT / "tests" / "data").glob("*.flac"))
    assert len(clips) >= 3
    table = pipeline.to_frame(clips)
    assert list(dict.fromkeys(table.index.get_level_values("file"))) == [str(p) for p in clips]
    assert not table.index.duplicated().any()
    silent = pipeline.to_frame(np.zeros(16000, np.int16), rate=16000)
    assert silent["state"].tolist() == ["silence"]
    empty = pipeline.to_frame(np.zeros(16000, np.int16), rate=16000, utterances=True)
    assert len(empty) == 0
    assert empty.index.names == ["file", "start", "end"]
    assert list(empty.dtypes) == list(pipeline.to_frame(DEMO, utterances=True).dtypes)


def test_audformat_takes_the_index() -> None:
    audformat = pytest.importorskip("audformat")
    table = Pipeline(BUNDLE).to_frame(DEMO, utterances=True)
    assert audformat.is_segmented_index(table.index)
    audformat.assert_index(table.index)
