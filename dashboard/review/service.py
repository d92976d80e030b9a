"""The supervised stage `review`: keeps the sound of some utterances until a person has judged them.

It copies the sound of an utterance from the ring when the page asks for it, or when a queue of the
most uncertain ones is configured. While the pipeline is muted it copies nothing.
"""

from __future__ import annotations

if __name__ == "__main__":
    from speech_emotion.common.linux.entry import prepare

    prepare()

import collections
import contextlib
import io
import logging
import sqlite3
import time
import wave
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import zmq

from speech_emotion.common.privacy.mute_register import MuteRegister, switch_engaged
from speech_emotion.common.ring.reader import RingReader
from speech_emotion.common.stage.heartbeat import HeartbeatSender
from speech_emotion.common.stage.jobs import MuteOptions, ReviewJob
from speech_emotion.common.stage.main import base_parser, run
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.common.stage.supervised import read_job
from speech_emotion.common.wire.public import Utterance
from speech_emotion.common.wire.sockets import connect
from speech_emotion.dashboard.history.purge_clock import PurgeClock
from speech_emotion.dashboard.live.feed import subscribe
from speech_emotion.dashboard.review.store import LONGEST_S, ReviewStore, Sound, doubt

log = logging.getLogger("review")

POLL_S = 0.1
ASK_EVERY_S = 0.4
EARLY_S = 10.0
"""Longest time that a request waits for its utterance, which the page can receive before."""
PURGE_EVERY_S = 30.0
RECENT = 200
"""Utterances that can still be asked for; for most the ring has overwritten the sound."""
NO_SPEECH = ("not_speech", "too_quiet", "clipped")
"""Reasons of `uncertain` with which an utterance does not take part in the queue."""


class ReviewService:
    """Decides what is kept, and keeps it.

    Args:
        store: the file.
        rings: stream → its ring.
        muted: whether no sound may be taken now.
        queue: number of utterances that are kept without being asked for.
        keep_s: seconds after which sound is deleted.

    Attributes:
        missed: utterances that were asked for and whose sound was gone, or muted, or had no place.
        failed: calls that failed because the file could not be read or written.
    """

    def __init__(
        self,
        store: ReviewStore,
        rings: Mapping[str, RingReader],
        muted: Callable[[], bool],
        *,
        queue: int,
        keep_s: float,
    ) -> None:
        self.missed = 0
        self.failed = 0
        self._store = store
        self._rings = rings
        self._muted = muted
        self._queue = queue
        self._keep_s = keep_s
        self._recent: collections.OrderedDict[tuple[str, str, int], Utterance]
        self._recent = collections.OrderedDict()
        self._wanted: dict[tuple[str, str, int], float] = {}
        """Asked for and not answered; until when the utterance may come (CLOCK_MONOTONIC)."""
        self._clock: PurgeClock | None = None
        self._ask_due = self._purge_due = 0.0

    def add_utterance(self, one: Utterance) -> None:
        """Take note of an utterance that has ended; keep it if the queue has a place for it."""
        self._recent[one.stream, one.run, one.seq] = one
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        if self._queue and one.reason not in NO_SPEECH:
            self._try(lambda: self._enqueue(one))

    def turn(self, now: float) -> None:
        """Keep what was asked for, and delete what is old.

        Args:
            now: CLOCK_MONOTONIC in seconds.
        """
        if now >= self._ask_due:
            self._ask_due = now + ASK_EVERY_S
            self._try(lambda: self._answer(now))
        if now >= self._purge_due:
            self._purge_due = now + min(PURGE_EVERY_S, self._keep_s / 10.0)
            self._try(self.purge)

    def purge(self) -> None:
        """Delete what is old."""
        boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._clock = self._store.purge(self._keep_s, time.time(), boot, self._clock)

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (sqlite3.Error, OSError) as error:
            self.failed += 1
            if self.failed == 1:
                log.error("cannot use the review file, trying again: %s", error)

    def _enqueue(self, one: Utterance) -> None:
        if doubt(one) > self._store.doubt_threshold(self._queue):
            self._keep(one, asked=False)

    def _answer(self, now: float) -> None:
        for key in self._store.take_wanted():
            self._wanted.setdefault(key, now + EARLY_S)
        for key, until in [*self._wanted.items()]:
            one = self._recent.get(key)
            if one is None and now < until:
                continue
            del self._wanted[key]
            if one is None or not self._keep(one, asked=True):
                self.missed += 1

    def _keep(self, one: Utterance, *, asked: bool) -> bool:
        sound = self._sound(one)
        if sound is None:
            return False
        if self._clock is None:
            self.purge()
        assert self._clock is not None
        at = self._clock.trusted
        return self._store.keep(one, sound, at, asked=asked, queue=self._queue)

    def _sound(self, one: Utterance) -> Sound | None:
        """The last `LONGEST_S` of an utterance; None while muted, or if the ring has lost it."""
        ring = self._rings.get(one.stream)
        if ring is None or ring.run != one.run or self._muted():
            return None
        start = max(one.start, one.end - round(LONGEST_S * ring.sample_rate))
        samples = np.empty(one.end - start, np.float32)
        # A mute overwrites the ring with zeros.
        if not ring.read(start, samples, one.end) or not samples.any() or self._muted():
            return None
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(ring.sample_rate)
            out.writeframes(np.clip(samples * 32768.0, -32768.0, 32767.0).astype("<i2").tobytes())
        return Sound(file.getvalue(), len(samples) / ring.sample_rate)


def mute_reader(options: MuteOptions | None, stack: contextlib.ExitStack) -> Callable[[], bool]:
    """Whether no sound may be taken now, as capture decides it.

    Args:
        stack: closes the register.
    """
    if options is None:
        return lambda: False
    register = stack.enter_context(MuteRegister(options.register))
    switch, value = options.switch, options.switch_muted
    if switch is None:
        return lambda: register.muted
    return lambda: register.muted or switch_engaged(switch, value)[0]


def main(job: ReviewJob) -> int:
    """Keep utterances until the process is stopped; return the exit code."""
    stop = StopRequest()
    store = ReviewStore(job.file, round(job.max_mb * 1e6))
    store.create()
    context: zmq.Context[Any] = zmq.Context()
    heartbeat = HeartbeatSender(job.stage, connect(context, job.hub, "hub"))
    with contextlib.ExitStack() as stack:
        stack.callback(context.destroy, linger=100)
        rings = {
            stream.name: stack.enter_context(RingReader.attach(stream.ring))
            for stream in job.streams
        }
        muted = mute_reader(job.mute, stack)
        service = ReviewService(store, rings, muted, queue=job.queue, keep_s=job.hours * 3600.0)
        service.purge()
        log.warning(
            "keeping the SOUND of utterances in %s for %g h: %s",
            *(job.file, job.hours),
            f"the {job.queue} most uncertain" if job.queue else "on request",
        )
        results = stack.enter_context(subscribe(job.results))
        heartbeat.state = "ready"
        heartbeat.beat(now=True)
        while not stop.requested:
            event = results.receive(POLL_S)
            if event is not None and not event.replay and isinstance(event.message, Utterance):
                service.add_utterance(event.message)
                heartbeat.count += 1
            service.turn(time.monotonic())
            heartbeat.counters["review_missed"] = service.missed
            heartbeat.counters["review_failed"] = service.failed
            heartbeat.counters["review_malformed"] = results.malformed
            heartbeat.beat()
    return 0


if __name__ == "__main__":
    run(
        "review",
        base_parser("review", __doc__ or "", "dashboard.review.service"),
        lambda _: main(read_job(ReviewJob)),
    )
