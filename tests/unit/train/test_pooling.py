"""Frames of the encoder, their poolings, and the comparison on corpora left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from speech_emotion.train.data.clips import Clip
from speech_emotion.train.evaluation.pooling import compare, frames_of, markdown, part_of, pool
from speech_emotion.train.model.whisper.graph import frames_graph, pooled_graph
from speech_emotion.train.model.whisper.heads import LABELS, HeadTrainingSet
from speech_emotion.train.model.whisper.window_statistics import WindowStatistics
from tests.unit.train.test_whisper import BANDS, FRAMES, tiny_encoder

STEPS, COLUMNS, WINDOWS = 12, 4, 64


def windows(corpora: int = 3) -> tuple[list[Clip], WindowStatistics]:
    """Clips whose label is in one step at random; the others are as loud and say nothing."""
    rng = np.random.default_rng(0)
    clips, rows = [], []
    for k in range(corpora * WINDOWS):
        label, corpus = k % len(LABELS), f"C{k // WINDOWS}"
        clips.append(Clip(Path(f"{k}.wav"), corpus, f"{corpus}_{k % 8}", "", LABELS[label], f"{k}"))
        x = np.zeros((STEPS, COLUMNS + 2), np.float32)
        x[:, :COLUMNS] = rng.standard_normal((STEPS, COLUMNS))
        at = rng.integers(STEPS)
        x[at, :COLUMNS] = 2.5 * np.eye(COLUMNS)[label]
        x[:, COLUMNS] = 0.3 * rng.standard_normal(STEPS)
        x[at, COLUMNS] += 6.0
        x[:, -1] = 1.0 / STEPS
        rows.append(x.ravel())
    n = len(clips)
    return clips, WindowStatistics(
        np.array(rows, np.float16), np.arange(n, dtype=np.int32), np.zeros(n, np.float32)
    )


def test_a_part_has_so_many_clips_of_each_corpus() -> None:
    clips, _ = windows()
    part = part_of(clips, 10, 0)
    assert [c.name for c in part] == sorted((c.name for c in part), key=int)
    assert [sum(c.corpus == f"C{k}" for c in part) for k in range(3)] == [10, 10, 10]
    assert part == part_of(clips, 10, 0)
    assert part_of(clips, 1000, 0) == clips


def test_the_mean_of_the_steps_is_that_of_the_frames() -> None:
    pytest.importorskip("tensorflow")
    weights = tiny_encoder()
    rng = np.random.default_rng(1)
    x: NDArray[np.float32] = rng.uniform(-1.0, 1.0, (2 * FRAMES, BANDS)).astype(np.float32)
    graph = frames_graph(weights, 2 * FRAMES, BANDS, layers=(1, 2), step=3)
    rows = np.asarray(graph(x[np.newaxis]))
    found = frames_of(
        WindowStatistics(rows.astype(np.float16), np.zeros(1, np.int32), np.zeros(1, np.float32)),
        FRAMES // 3,
    )
    pooled = pool(found, found.weight)[0]
    wanted = pooled_graph(weights, 2 * FRAMES, BANDS, ("mean1", "mean2"))(x[np.newaxis])
    np.testing.assert_allclose(pooled[: len(pooled) // 2], np.asarray(wanted)[0], atol=2e-2)


def test_attention_finds_the_step_that_has_the_label() -> None:
    pytest.importorskip("tensorflow")
    clips, rows = windows()
    known = HeadTrainingSet(clips, [], rows.x[:0], {})
    found = compare(known, frames_of(rows, STEPS), hidden=8, steps=300, seeds=[0])
    means = {pooling: np.mean(list(heads["linear"].values())) for pooling, heads in found.items()}
    assert means["attentive"] > means["plain"] + 0.1
    table = markdown(found)
    assert "| pooling | head | C0 | C1 | C2 | mean (of each seed) |" in table
    assert f"| {100 * means['attentive']:.1f} ({100 * means['attentive']:.1f}) |" in table
