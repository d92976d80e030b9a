"""The window grid, and the analysis of a window."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion.common.bundle.grid import WindowGrid, missing_samples
from speech_emotion.common.errors import UserError
from speech_emotion.features.extractor import load_statistics, windows_of
from tests.support.examples import examples
from tests.support.extractors import BOX, EXTRACTORS, GRID, SPEC, Samples, speech, without_time

grids = st.integers(1, 40).flatmap(
    lambda window: st.builds(WindowGrid, st.just(window), st.integers(1, window))
)


# The grid -------------------------------------------------------------------------------


@given(grids, st.integers(0, 300))
def test_a_window_is_complete_when_its_last_sample_has_arrived(
    grid: WindowGrid, position: int
) -> None:
    assert grid.complete(position) == sum(grid.end(k) <= position for k in range(301))


@given(grids, st.integers(0, 300))
def test_windows_of_a_recording_cover_it_without_padding(grid: WindowGrid, length: int) -> None:
    samples = np.arange(1, length + 1, dtype=np.float32)
    windows = list(windows_of(samples, grid))
    assert [k for k, _ in windows] == list(range(grid.total(length)))
    for k, window in windows:
        assert window.shape == (grid.window,)
        if length >= grid.window:
            assert window.tolist() == list(range(1 + k * grid.hop, 1 + k * grid.hop + grid.window))
    if 0 < length < grid.window:
        assert windows[0][1].tolist() == [*range(1, length + 1), *[0] * (grid.window - length)]


spans = st.lists(st.integers(0, 60), max_size=8, unique=True).map(
    lambda bounds: [list(pair) for pair in zip(*[iter(sorted(bounds))] * 2, strict=False)]
)


@given(spans, st.integers(0, 60), st.integers(0, 60))
def test_missing_samples_are_counted_one_by_one(gaps: list[list[int]], a: int, b: int) -> None:
    missing = {i for first, end in gaps for i in range(first, end)}
    assert missing_samples(gaps, a, b) == len(missing & set(range(a, b)))


@given(st.integers(1, 4000))
def test_a_tenth_may_be_missing(tenth: int) -> None:
    grid = WindowGrid(10 * tenth, tenth)
    assert not grid.is_gap(tenth)
    assert grid.is_gap(tenth + 1)


# The analysis ---------------------------------------------------------------------------


@examples(15)
@given(data=st.data())
def test_an_extractor_that_resumes_from_a_gate_decides_the_same(
    demo: tuple[Samples, int], data: st.DataObject
) -> None:
    windows = [window for _, window in windows_of(speech(demo, 20.0), GRID)]
    missing = data.draw(
        st.lists(
            st.sampled_from([0, 0, 0, SPEC.window // 20, SPEC.window // 2]),
            min_size=len(windows),
            max_size=len(windows),
        )
    )
    whole, cut = EXTRACTORS(), EXTRACTORS()
    kinds = set()
    for window, zeros in zip(windows, missing, strict=True):
        expected = whole.analyze(window, missing=zeros)
        assert without_time(cut.analyze(window, missing=zeros)) == without_time(expected)
        kinds.add(expected.kind)
        if data.draw(st.booleans()):
            cut = EXTRACTORS()
            cut.resume(msgpack.unpackb(msgpack.packb(expected.gate)))
    assert {"speech", "silence"} <= kinds


def test_a_window_with_a_gap_is_no_speech_and_resets_the_gate(
    demo: tuple[Samples, int],
) -> None:
    analyzer = EXTRACTORS()
    fresh = analyzer.skip()
    windows = [window for _, window in windows_of(speech(demo, 20.0), GRID)]
    analyses = [analyzer.analyze(window) for window in windows]
    loud = max(range(len(windows)), key=lambda k: analyses[k].rms_db)
    assert analyses[loud].kind == "speech"
    assert analyses[loud].gate != fresh
    features = analyses[loud].features
    assert features is not None
    assert features.shape == (SPEC.n_frames, SPEC.dims)
    assert analyzer.analyze(windows[loud], missing=SPEC.window // 10).kind == "speech"
    gap = analyzer.analyze(windows[loud], missing=SPEC.window // 10 + 1)
    assert (gap.kind, gap.features, gap.gate) == ("gap", None, fresh)
    assert gap.rms_db == analyses[loud].rms_db
    analyzer.resume(analyses[loud].gate)
    analyzer.resume([])
    assert analyzer.analyze(windows[0]).gate == analyses[0].gate


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"std": np.full(SPEC.dims, -1.0)}, "negative"),
        ({"mean": np.full(SPEC.dims, np.nan)}, "finite"),
        ({"mean": np.zeros(SPEC.dims + 1)}, "shape"),
        ({"std": None}, "shape"),
    ],
)
def test_statistics_that_do_not_match_the_spec_are_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    arrays = {"mean": np.zeros(SPEC.dims), "std": np.ones(SPEC.dims)} | change
    kept = {key: array for key, array in arrays.items() if array is not None}
    np.savez(tmp_path / "stats.npz", allow_pickle=False, **kept)
    with pytest.raises(UserError, match=words):
        load_statistics(dataclasses.replace(BOX, path=tmp_path))
