"""The supervised `record` stage: writes the rings and the messages of all streams to disk.

It is a plain reader of the rings and a plain subscriber. A second thread writes, so that a disk
that stalls stops neither the heartbeat nor the receipt of messages. At full speed the source waits
for the recorder: `Recorded` gives it credit.
"""

from __future__ import annotations

if __name__ == "__main__":
    from speech_emotion.common.linux.entry import prepare

    prepare()

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import zmq

from speech_emotion.capture.recording.stream_recorder import StreamRecorder
from speech_emotion.common.ring.reader import RingReader
from speech_emotion.common.stage.heartbeat import HeartbeatSender
from speech_emotion.common.stage.jobs import RecordJob
from speech_emotion.common.stage.main import base_parser, run
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.common.stage.supervised import read_job
from speech_emotion.common.wire import codec, internal, public
from speech_emotion.common.wire.sockets import configure, connect, drain, send

log = logging.getLogger("record")

POLL_MS = 100
DRAIN_MS = 300
"""After a stop, recording ends when no message has come for this many milliseconds."""
FINISH_S = 5.0
"""Longest time in seconds that the end waits for a disk that stalls."""
WRITE_S = 0.05
"""Seconds between two writes of a stream without messages."""
MAX_WAITING = 20_000
"""Messages that wait for the writing thread; further ones are dropped and counted."""
CREDIT_S = 0.2
"""Seconds between two repetitions of an unchanged `Recorded`."""

Recorded = public.Result | public.Utterance | public.Info


class Writer:
    """The thread that writes all recordings.

    Args:
        recorders: stream → its recorder. Only the thread uses them.
    """

    def __init__(self, recorders: Mapping[str, StreamRecorder]) -> None:
        self.recorders = recorders
        self.dropped = 0
        self._waiting: deque[Recorded] = deque()
        self._news = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
        self._thread.start()

    def put(self, message: Recorded) -> None:
        """Hand over a message. Dropped results are counted by their `seq`, others in `dropped`."""
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += not isinstance(message, public.Result)
            return
        self._waiting.append(message)
        self._news.set()

    def finish(self) -> bool:
        """Write the rest and close the files; False if the disk stalls."""
        self._stopping = True
        self._news.set()
        self._thread.join(FINISH_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping:
            self._news.wait(WRITE_S)
            self._news.clear()
            self._write()
        self._write()
        for recorder in self.recorders.values():
            recorder.finish()

    def _write(self) -> None:
        for _ in range(len(self._waiting)):
            message = self._waiting.popleft()
            self.recorders[message.stream].message(message)
        for recorder in self.recorders.values():
            recorder.turn(time.monotonic())


def main(job: RecordJob) -> int:
    """Record the streams of a job until the process is stopped; return the exit code."""
    stop = StopRequest()
    context: zmq.Context[Any] = zmq.Context()
    hub = connect(context, job.hub, "hub")
    results: zmq.Socket[bytes] = context.socket(zmq.SUB)
    configure(results)
    results.setsockopt(zmq.RCVHWM, 0)
    results.setsockopt(zmq.SUBSCRIBE, b"")
    results.connect(job.results)
    heartbeat = HeartbeatSender(job.stage, hub)
    rings = {stream.name: RingReader.attach(stream.ring) for stream in job.streams}
    runs = {name: ring.run for name, ring in rings.items()}
    writer = Writer({name: StreamRecorder(job.folder / name, ring) for name, ring in rings.items()})
    credit = CreditSender(hub, writer.recorders, runs)
    heartbeat.state = "ready"
    heartbeat.beat(now=True)
    while not stop.requested:
        _take(results, POLL_MS, writer, heartbeat)
        credit.turn(time.monotonic())
        _count_losses(heartbeat, writer)
        heartbeat.beat()
    while _take(results, DRAIN_MS, writer, heartbeat):
        credit.turn(time.monotonic())
    if not writer.finish():
        log.error("the disk does not answer: the end of the recording was not written")
    _count_losses(heartbeat, writer)
    heartbeat.beat(now=True)
    context.destroy(linger=100)
    return 0


class CreditSender:
    """Tells the hub how far each stream is recorded: at full speed its source waits for that."""

    def __init__(
        self,
        hub: zmq.Socket[bytes],
        recorders: Mapping[str, StreamRecorder],
        runs: Mapping[str, str],
    ) -> None:
        self._hub = hub
        self._recorders = recorders
        self._runs = runs
        self._sent: dict[str, int | None] = {}
        self._due = 0.0

    def turn(self, now: float) -> None:
        """Send what has changed, and everything from time to time."""
        repeat = now >= self._due
        if repeat:
            self._due = now + CREDIT_S
        for name, recorder in self._recorders.items():
            # A recorder that cannot write must not stop the source.
            position = None if recorder.failing else recorder.position
            if repeat or self._sent.get(name, -1) != position:
                self._sent[name] = position
                send(self._hub, internal.Recorded(name, self._runs[name], position))


def _take(
    results: zmq.Socket[bytes], wait_ms: int, writer: Writer, heartbeat: HeartbeatSender
) -> bool:
    """Hand the waiting messages to the writer; False if none came in time."""
    if not results.poll(wait_ms):
        return False
    for frames in drain(results):
        try:
            message, replay = public.decode_public(*frames[:2])
        except (codec.ProtocolError, TypeError):
            heartbeat.counters["record_malformed"] += 1
            continue
        if not isinstance(message, Recorded) or message.stream not in writer.recorders:
            continue
        # After a restart replays are what was published meanwhile.
        if not replay or not isinstance(message, public.Info):
            writer.put(message)
            heartbeat.count += 1
    return True


def _count_losses(heartbeat: HeartbeatSender, writer: Writer) -> None:
    recorders = writer.recorders.values()
    messages = sum(recorder.lost_messages for recorder in recorders)
    heartbeat.counters["record_lost"] = sum(recorder.lost for recorder in recorders)
    heartbeat.counters["record_messages_lost"] = writer.dropped + messages


if __name__ == "__main__":
    parser = base_parser("capture.recording.recorder", __doc__ or "")
    run("record", parser, lambda _: main(read_job(RecordJob)))
