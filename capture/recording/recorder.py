"""The supervised `record` stage: writes the rings and the messages of all streams to disk.

It is a plain reader of the rings and a plain subscriber, so that it can neither delay nor
change what it records.
"""

from __future__ import annotations

if __name__ == "__main__":
    from speech_emotion.common.linux.entry import prepare

    prepare()

import json
import logging
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import zmq

from speech_emotion.capture.recording.reader import AUDIO, MESSAGES, TIMELINE
from speech_emotion.capture.samples import FULL_SCALE, Samples
from speech_emotion.common.errors import UserError
from speech_emotion.common.ring.reader import RingReader
from speech_emotion.common.stage.heartbeat import HeartbeatSender
from speech_emotion.common.stage.jobs import RecordJob
from speech_emotion.common.stage.main import base_parser, run
from speech_emotion.common.stage.signals import StopRequest
from speech_emotion.common.stage.supervised import read_job
from speech_emotion.common.wire import codec, public
from speech_emotion.common.wire.sockets import configure, connect

log = logging.getLogger("record")

POLL_MS = 100
CHUNK = 1 << 14
"""Samples that are read from the ring and written at once."""
DRAIN_MS = 300
"""After a stop, recording ends when no message has come for this many milliseconds."""


class StreamRecorder:
    """Writes the folder of one stream.

    Args:
        folder: folder to create; where it exists, `folder.2`, `folder.3`, … is created instead.
        ring: attached reader of the stream's ring.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder: Path, ring: RingReader) -> None:
        import soundfile

        self._ring = ring
        self._written = 0
        self._declared = 0
        self._anchor = (0, 0.0, 0.0)
        self._buffer: Samples = np.zeros(CHUNK, np.float32)
        try:
            folder = _first_unused(folder)
            folder.mkdir(parents=True)
            self._audio = soundfile.SoundFile(
                folder / AUDIO, "w", ring.sample_rate, 1, subtype="PCM_24"
            )
            self._timeline: TextIO = (folder / TIMELINE).open("w")
            self._messages: TextIO = (folder / MESSAGES).open("w")
        except (OSError, soundfile.LibsndfileError) as error:
            raise UserError(f"{folder}: cannot be written ({error})") from None
        _write_line(self._timeline, {"rate": ring.sample_rate, "run": ring.run})
        log.warning("RECORDING sound and messages to %s", folder)

    def message(self, message: public.Result | public.Utterance | public.Info) -> None:
        """Write a published message, and after a result the samples up to its end."""
        _write_line(self._messages, {"topic": message.topic, **public.to_json_map(message)})
        if isinstance(message, public.Result):
            self.advance(message.end)

    def advance(self, position: int) -> None:
        """Write the samples below `position`, an announced absolute index."""
        while self._written < position:
            samples = self._buffer[: min(CHUNK, position - self._written)]
            if not self._ring.read(self._written, samples, position):
                # The ring has overwritten them: write silence and declare a gap.
                samples[:] = 0.0
                self._declare(self._written, self._written + len(samples))
            steps = (samples * np.float32(FULL_SCALE)).astype(np.int32)
            self._audio.write(steps << 8)
            self._written += len(samples)
        for start, end in self._ring.gaps():
            if end <= self._written:
                self._declare(start, end)
        if self._ring.anchor != self._anchor:
            self._anchor = self._ring.anchor
            _write_line(self._timeline, {"anchor": self._anchor})

    def finish(self) -> None:
        """Write the remaining samples of the ring and close the files."""
        self.advance(self._ring.index)
        self._ring.close()
        for file in (self._audio, self._timeline, self._messages):
            file.close()

    def _declare(self, start: int, end: int) -> None:
        start = max(start, self._declared)
        if start < end:
            self._declared = end
            _write_line(self._timeline, {"gap": [start, end]})


def _first_unused(folder: Path) -> Path:
    """The folder, or the first of `folder.2`, `folder.3`, … that does not exist."""
    number, unused = 1, folder
    while unused.exists():
        number += 1
        unused = folder.with_name(f"{folder.name}.{number}")
    return unused


def _write_line(file: TextIO, table: dict[str, Any]) -> None:
    print(json.dumps(table), file=file, flush=True)


def main(job: RecordJob) -> int:
    """Record the streams of a job until the process is stopped."""
    stop = StopRequest()
    context: zmq.Context[Any] = zmq.Context()
    hub = connect(context, job.hub, "hub")
    results: zmq.Socket[bytes] = context.socket(zmq.SUB)
    configure(results)
    results.setsockopt(zmq.RCVHWM, 0)
    results.setsockopt(zmq.SUBSCRIBE, b"")
    results.connect(job.results)
    heartbeat = HeartbeatSender(job.stage, hub)
    recorders = {
        stream.name: StreamRecorder(job.folder / stream.name, RingReader.attach(stream.ring))
        for stream in job.streams
    }
    heartbeat.state = "ready"
    heartbeat.beat(now=True)
    while not stop.requested:
        if results.poll(POLL_MS):
            _record_message(results, recorders, heartbeat)
        heartbeat.beat()
    while results.poll(DRAIN_MS):
        _record_message(results, recorders, heartbeat)
    for recorder in recorders.values():
        recorder.finish()
    context.destroy(linger=0)
    return 0


def _record_message(
    results: zmq.Socket[bytes], recorders: dict[str, StreamRecorder], heartbeat: HeartbeatSender
) -> None:
    try:
        message, replay = public.decode_public(*results.recv_multipart()[:2])
    except (codec.ProtocolError, TypeError):
        heartbeat.counters["record_malformed"] += 1
        return
    if replay or not isinstance(message, public.Result | public.Utterance | public.Info):
        return
    if message.stream in recorders:
        recorders[message.stream].message(message)
        heartbeat.count += 1


if __name__ == "__main__":
    options = base_parser("capture.recording.recorder", __doc__ or "").parse_args()
    run("record", lambda: main(read_job(RecordJob)), options.profile)
