"""What the stage `review` keeps, what it does not keep, when it deletes, and what a label is."""

from __future__ import annotations

import dataclasses
import io
import json
import sqlite3
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from speech_emotion.common.errors import UserError
from speech_emotion.common.ring.reader import RingReader
from speech_emotion.common.ring.writer import RingWriter
from speech_emotion.common.wire.public import Utterance
from speech_emotion.dashboard.history.purge_clock import PurgeClock
from speech_emotion.dashboard.review.labels import LabelCounts, append_label
from speech_emotion.dashboard.review.service import EARLY_S, ReviewService
from speech_emotion.dashboard.review.store import (
    LONGEST_S,
    MAX_REQUESTED,
    MAX_WAITING_REQUESTS,
    ReviewStore,
    Sound,
)
from speech_emotion.train.personal.labels import read_labels
from tests.support.rings import RUN, ring

RATE = 100
DAY_S = 86400.0


def utterance(seq: int, sure: float = 0.5, **other: object) -> Utterance:
    """One of 2 s that ends at sample 100 * seq + 200."""
    plain = Utterance(
        stream="main",
        run=RUN,
        seq=seq,
        start=RATE * seq,
        end=RATE * seq + 200,
        rate=RATE,
        time=1000.0 + seq,
        emotion="sad",
        confidence=sure,
        probabilities={"angry": 1.0 - sure, "sad": sure},
        reason=None,
        windows=3,
        bundle="small@12345678",
    )
    return dataclasses.replace(plain, **other)  # type: ignore[arg-type]


class Scene:
    """A ring with a counting signal, a file, and a service between them."""

    def __init__(self, folder: Path, writer: RingWriter, reader: RingReader) -> None:
        self.path = folder / "review.sqlite"
        self.store = ReviewStore(self.path)
        self.store.create()
        self.writer, self.reader = writer, reader
        self.muted = False
        self.signal = np.linspace(-0.5, 0.5, 2000, dtype=np.float32)
        writer.write(self.signal)

    def service(self, queue: int = 0) -> ReviewService:
        return ReviewService(
            self.store, {"main": self.reader}, lambda: self.muted, queue=queue, keep_s=3600.0
        )

    def kept(self) -> list[int]:
        return [one.seq for one in self.store.list()]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with (
        ring(rate=RATE, capacity=3000) as owner,
        RingWriter.attach(owner.name) as writer,
        RingReader.attach(owner.name) as reader,
    ):
        yield Scene(tmp_path, writer, reader)


def test_nothing_is_kept_unless_a_person_asks(scene: Scene) -> None:
    service = scene.service()
    for seq in range(5):
        service.add_utterance(utterance(seq))
    service.turn(0.0)
    assert scene.kept() == []
    assert scene.store.want("main", RUN, 3)
    service.turn(1.0)
    assert scene.kept() == [3]
    assert service.missed == 0
    (one,) = scene.store.list()
    sound = scene.store.sound(one.id)
    assert sound is not None
    with wave.open(io.BytesIO(sound)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        samples = np.frombuffer(file.readframes(10_000), "<i2")
    assert samples / 32768.0 == pytest.approx(scene.signal[300:500], abs=1e-4)
    assert (one.seconds, one.probabilities) == (2.0, {"angry": 0.5, "sad": 0.5})
    assert one.asked


def test_the_queue_keeps_the_most_uncertain_and_shows_them_first(scene: Scene) -> None:
    service = scene.service(queue=3)
    for seq, sure in enumerate((0.9, 0.6, 0.99, 0.55, 0.8, 0.7)):
        service.add_utterance(utterance(seq, sure))
    service.add_utterance(utterance(6, 0.5, reason="not_speech"))
    assert scene.kept() == [3, 1, 5]
    scene.store.want("main", RUN, 2)
    service.turn(0.0)
    assert scene.kept() == [2, 3, 1, 5]  # what a person asked for is no part of the queue
    service.add_utterance(utterance(7, 0.51))
    assert scene.kept() == [2, 7, 3, 1]


def test_muted_nothing_is_kept(scene: Scene) -> None:
    service = scene.service(queue=3)
    scene.muted = True
    service.add_utterance(utterance(0))
    scene.store.want("main", RUN, 0)
    service.turn(0.0)
    assert (scene.kept(), service.missed) == ([], 1)


def test_sound_that_is_gone_is_counted_and_never_mixed_up(scene: Scene) -> None:
    service = scene.service()
    service.add_utterance(utterance(0))
    service.add_utterance(utterance(5, run="another"))
    scene.writer.write(np.ones(2500, np.float32))  # overwrites its beginning
    for key in (("main", RUN, 0), ("main", "another", 5), ("hall", RUN, 1), ("main", RUN, 99)):
        scene.store.want(*key)
    service.turn(0.0)
    assert (scene.kept(), service.missed) == ([], 2)
    service.turn(EARLY_S)
    assert (scene.kept(), service.missed) == ([], 4)


def test_a_request_may_come_before_its_utterance(scene: Scene) -> None:
    """The page and the stage receive it at different times."""
    service = scene.service()
    scene.store.want("main", RUN, 3)
    service.turn(0.0)
    service.add_utterance(utterance(3))
    service.turn(EARLY_S / 2.0)
    assert (scene.kept(), service.missed) == ([3], 0)


def test_old_sound_is_deleted_and_a_clock_that_jumps_deletes_nothing(scene: Scene) -> None:
    store = scene.store
    clock = store.purge(DAY_S, 1e9, 50.0, None)
    store.keep(utterance(0), Sound(b"sound-0", 1.0), 1e9, asked=True, queue=0)
    clock = store.purge(DAY_S, 1e9 + 30 * DAY_S, 60.0, clock)  # a wrong time server
    assert scene.kept() == [0]
    clock = store.purge(DAY_S, 1e9 + 3600.0, 3650.0, clock)  # it is right again
    store.keep(utterance(1), Sound(b"sound-1", 1.0), clock.trusted, asked=True, queue=0)
    for hour in range(2, 25):
        clock = store.purge(DAY_S, 1e9 + 3600.0 * hour + 100.0, 100.0 + 3600.0 * hour, clock)
    assert scene.kept() == [1]
    content = scene.path.read_bytes()
    assert b"sound-1" in content
    assert b"sound-0" not in content
    again = store.purge(DAY_S, 1e9 + 26 * 3600.0, 1.0, None)  # after a restart of the box
    assert isinstance(again, PurgeClock)
    assert scene.kept() == []
    assert b"sound-1" not in scene.path.read_bytes()


def test_the_limits_of_what_a_person_may_ask_for(scene: Scene) -> None:
    assert [scene.store.want("main", RUN, k) for k in range(MAX_WAITING_REQUESTS + 1)][-2:] == [
        True,
        False,
    ]
    assert len(scene.store.take_wanted()) == MAX_WAITING_REQUESTS
    kept = [
        scene.store.keep(utterance(k), Sound(b"", 0.0), 0.0, asked=True, queue=0)
        for k in range(MAX_REQUESTED + 1)
    ]
    assert kept == [True] * MAX_REQUESTED + [False]


def test_sound_is_bounded_in_bytes(tmp_path: Path) -> None:
    store = ReviewStore(tmp_path / "review.sqlite", most_bytes=1000)
    store.create()

    def keep(seq: int, sure: float, *, asked: bool) -> bool:
        sound = Sound(bytes(300), 1.0)
        return store.keep(utterance(seq, sure), sound, 0.0, asked=asked, queue=100)

    assert [keep(seq, 0.9 - 0.1 * seq, asked=False) for seq in range(4)] == [True] * 4
    assert [one.seq for one in store.list()] == [3, 2, 1]
    assert not keep(4, 0.95, asked=False)
    assert keep(5, 0.95, asked=True)  # a person goes before the queue
    assert [one.seq for one in store.list()] == [5, 3, 2]
    assert keep(3, 0.6, asked=True)
    assert keep(6, 0.9, asked=True)
    assert not keep(7, 0.5, asked=True)
    assert [one.seq for one in store.list()] == [6, 5, 3]


def test_of_a_long_utterance_the_end_is_kept(tmp_path: Path) -> None:
    seconds = int(LONGEST_S) + 8
    with (
        ring(rate=RATE, capacity=3000) as owner,
        RingWriter.attach(owner.name) as writer,
        RingReader.attach(owner.name) as reader,
    ):
        scene = Scene(tmp_path, writer, reader)
        writer.write(np.full(RATE * seconds - 2000, 0.25, np.float32))
        service = scene.service(queue=1)
        service.add_utterance(utterance(0, end=RATE * seconds))
    (one,) = scene.store.list()
    assert one.seconds == LONGEST_S


def test_what_a_mute_has_overwritten_is_not_kept(tmp_path: Path) -> None:
    with (
        ring(rate=RATE, capacity=3000) as owner,
        RingWriter.attach(owner.name) as writer,
        RingReader.attach(owner.name) as reader,
    ):
        writer.write(np.zeros(1000, np.float32))
        scene = Scene(tmp_path, writer, reader)
        scene.service(queue=3).add_utterance(utterance(3))
    assert scene.kept() == []


def test_a_label_is_a_line_that_training_reads(scene: Scene, tmp_path: Path) -> None:
    service, labels = scene.service(queue=5), tmp_path / "labels.jsonl"
    for seq in range(3):
        service.add_utterance(utterance(seq))
    first, second, third = scene.store.list()
    append_label(labels, first, "angry")
    with labels.open("ab") as file:  # a crash in the middle of a line
        file.write(b'{"stream": "main", "pro')
    append_label(labels, second, "sad")
    with labels.open("rb+") as file:  # an editor that writes no last line break
        file.truncate(labels.stat().st_size - 1)
    append_label(labels, third, "sad")
    append_label(labels, first, "sad")
    assert len(labels.read_text().splitlines()) == 4
    assert labels.stat().st_mode & 0o077 == 0
    table = json.loads(labels.read_text().splitlines()[0])
    assert (table["label"], table["seq"], "sound" in table) == ("angry", first.seq, False)
    read = read_labels(labels, ("angry", "sad"))
    assert [(one.truth, one.bundle) for one in read] == [(1, "small@12345678")] * 3
    with pytest.raises(UserError, match="labels cannot be written"):
        append_label(tmp_path / "no" / "labels", first, "sad")


def test_labels_are_counted_once_for_each_utterance(scene: Scene, tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    counts = LabelCounts(labels)
    assert counts.read() == {}
    service = scene.service(queue=5)
    for seq in range(3):
        service.add_utterance(utterance(seq))
    first, second, third = scene.store.list()
    for one, label in ((first, "angry"), (second, "sad"), (third, "sad"), (first, "sad")):
        append_label(labels, one, label)
    assert counts.read() == {"sad": 3}
    with labels.open("a") as file:
        file.write('{"clip": "a.wav", "label": "angry"}\n{"clip": "b.wav", "label": "angry"}\n{\n')
    assert counts.read() == {"angry": 2, "sad": 3}


def test_a_file_that_breaks_is_counted_and_a_foreign_one_refused(
    scene: Scene, tmp_path: Path
) -> None:
    service = scene.service(queue=1)
    scene.path.unlink()
    service.add_utterance(utterance(0))
    service.turn(0.0)
    assert service.failed == 3
    foreign = tmp_path / "foreign.sqlite"
    db = sqlite3.connect(foreign)
    db.execute("CREATE TABLE mine (x)")
    db.close()
    with pytest.raises(UserError, match="is not a review file"):
        ReviewStore(foreign).create()


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*/none"):
        ReviewStore(tmp_path / "none" / "review.sqlite").create()


def test_a_file_that_cannot_be_completed_is_never_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "review.sqlite"
    with monkeypatch.context() as context:
        context.setattr("speech_emotion.dashboard.review.store.TABLES", "CREATE nonsense;")
        with pytest.raises(UserError, match="cannot be used for the review"):
            ReviewStore(path).create()
    assert list(tmp_path.iterdir()) == []
    ReviewStore(path).create()
    assert ReviewStore(path).list() == []
