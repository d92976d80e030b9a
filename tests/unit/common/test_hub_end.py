"""The end of the hub: the last results are still sent, for a limited time."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from speech_emotion.common.hub import hub as hub_module
from speech_emotion.common.wire import codec
from tests.support.hub_messages import OPEN, submit
from tests.support.hub_rig import Rig
from tests.support.pipelines import PATIENCE_MS, line_of, wait_until

READER = """
import sys, zmq
from speech_emotion.common.wire import public

socket = zmq.Context().socket(zmq.SUB)
socket.RCVTIMEO = int(sys.argv[2])
socket.subscribe("result/")
socket.connect(sys.argv[1])
while True:
    print(public.decode_public(*socket.recv_multipart())[0].seq, flush=True)
"""
UNREAD = 400
"""Results that a stopped reader has not got, 4 kB each: the kernel keeps an eighth of them for it
(net.core.wmem_default); the others wait in the hub."""


@pytest.fixture
def rig() -> Iterator[Rig]:
    one = Rig()
    yield one
    one.close()


@pytest.fixture
def reader(rig: Rig) -> Iterator[subprocess.Popen[str]]:
    """A subscriber that was stopped (SIGSTOP) after result 0; `UNREAD` were published since."""
    words = [sys.executable, "-c", READER, rig.results, str(PATIENCE_MS)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            rig.send(OPEN)
            rig.send(submit(0))
            assert line_of(process) == "0\n"  # it is subscribed
            process.send_signal(signal.SIGSTOP)
            status = psutil.Process(process.pid).status
            wait_until(lambda: status() == psutil.STATUS_STOPPED, "the stop")
            for seq in range(1, UNREAD + 1):
                message = submit(seq)
                assert message.result is not None
                result = dataclasses.replace(message.result, reason="x" * codec.MAX_TEXT)
                rig.send(dataclasses.replace(message, result=result))
                rig.answer()
            counted = rig.hub.snapshot
            wait_until(lambda: counted().counters["results_accepted"] == UNREAD + 1, "the results")
            yield process
        finally:
            process.kill()


def test_a_reader_that_was_stopped_until_the_end_has_begun_gets_the_last_result(
    rig: Rig, reader: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The limit is multiplied, for a machine that does not run the reader for a while.
    monkeypatch.setattr(hub_module, "LINGER_MS", 30 * hub_module.LINGER_MS)
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        end = other.submit(rig.hub.stop)
        wait_until(lambda: bool(rig.hub._public.closed), "the end to begin")
        reader.send_signal(signal.SIGCONT)
        seqs = [0]
        while seqs[-1] != UNREAD:
            seqs.append(int(line_of(reader)))
        end.result()
    assert list(dict.fromkeys(seqs)) == list(range(UNREAD + 1))  # 0 perhaps as a replay as well
    wait_until(lambda: not rig.hub.alive, "the end")


@pytest.mark.usefixtures("reader")
def test_a_reader_that_stays_stopped_does_not_keep_the_hub_from_its_end(rig: Rig) -> None:
    rig.hub.stop()
    wait_until(lambda: not rig.hub.alive, "the end")
