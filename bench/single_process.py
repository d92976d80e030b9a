"""The rival: the single-process engine that preceded this pipeline, written anew for comparison.

    python -m bench.single_process --source file:talk.wav --results ipc:///tmp/rival

Built like the original: a sounddevice callback (or a thread that plays a file) puts blocks of
0.1 s into a queue.Queue; one loop polls it every 10 ms, keeps the last window in a rolling
buffer by np.concatenate, and once per hop passes the window through an RMS gate, librosa's three
calls, stacking, normalization and the TFLite interpreter. It publishes results as msgpack maps
on a ZeroMQ PUB socket, so that they can be measured like ours. It has no restart, no checkpoint
and no health.
"""

from __future__ import annotations

import argparse
import os
import queue
import threading
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is imported

import msgpack
import numpy as np
import zmq

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.levels import rms_dbfs
from speech_emotion.features.core import Samples, normalize
from speech_emotion.features.extractor import load_statistics
from speech_emotion.features.reference import reference_features
from speech_emotion.infer.decision import calibrate
from speech_emotion.infer.model import Model

BLOCK_S = 0.1
POLL_S = 0.01
GATE_DBFS = -40.0


def play_file(path: str, rate: int, block: int, blocks: queue.Queue[Samples], began: float) -> None:
    """Put a file's blocks into the queue, each at the time of its last sample."""
    import soundfile

    with soundfile.SoundFile(path) as file:
        assert file.samplerate == rate
        fed = 0
        while len(samples := file.read(block, dtype="float32", always_2d=True)):
            fed += len(samples)
            time.sleep(max(0.0, began + fed / rate - time.monotonic()))
            blocks.put(samples.mean(axis=1))


class Engine:
    """Rolling buffer, gate, features, model."""

    def __init__(self, bundle_path: Path, publish: zmq.Socket[bytes]) -> None:
        self.bundle = load_bundle(bundle_path)
        self.spec = self.bundle.spec
        self._mean, self._std = load_statistics(self.bundle)
        self._model = Model(self.bundle)
        self._publish = publish
        self._buffer: Samples = np.zeros(0, np.float32)
        self._received = 0
        self._seq = 0
        # The first call makes numba compile its functions, or load them from its cache.
        reference_features(np.zeros(self.spec.window, np.float32), self.spec)

    def feed(self, block: Samples, began: float) -> None:
        """Take a block, and process each window that it completes."""
        window, hop = self.spec.window, self.spec.hop
        self._received += len(block)
        self._buffer = np.concatenate([self._buffer, block])[-(window + len(block)) :]
        while (end := window + self._seq * hop) <= self._received:
            stop = len(self._buffer) - (self._received - end)
            self._process(self._buffer[stop - window : stop], began, end)

    def _process(self, samples: Samples, began: float, end: int) -> None:
        label, probability, level = None, None, rms_dbfs(samples)
        if level >= GATE_DBFS:
            features = reference_features(samples, self.spec)[: self.spec.n_frames]
            normalized = normalize(features, self._mean, self._std, self.spec.eps)
            probabilities = calibrate(self._model.predict(normalized), self.bundle)
            if probabilities is not None:
                top = int(probabilities.argmax())
                label, probability = self.bundle.labels[top], float(probabilities[top])
        message = {
            "seq": self._seq,
            "time": time.time() - time.monotonic() + began + end / self.spec.sample_rate,
            "state": "silence" if label is None else "speech",
            "emotion": label,
            "confidence": probability,
            "rms_db": level,
        }
        self._publish.send_multipart([b"result/rival", msgpack.packb(message)])
        self._seq += 1


def main() -> None:
    """Run until the file ends; with a microphone until a signal."""
    parser = argparse.ArgumentParser(prog="python -m bench.single_process", description=__doc__)
    parser.add_argument("--source", required=True, help="file:PATH or mic")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--results", required=True)
    parser.add_argument("--block-s", type=float, default=BLOCK_S)
    flags = parser.parse_args()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    publish = context.socket(zmq.PUB)
    publish.bind(flags.results)
    engine = Engine(flags.bundle, publish)
    blocks: queue.Queue[Samples] = queue.Queue()
    rate = engine.spec.sample_rate
    block = round(flags.block_s * rate)
    publish.send_multipart([b"ready", b""])
    began = time.monotonic()
    kind, _, path = flags.source.partition(":")
    if kind == "file":
        feeder = threading.Thread(target=play_file, args=(path, rate, block, blocks, began))
        feeder.daemon = True
        feeder.start()
    else:
        import sounddevice

        def callback(samples: Samples, _frames: int, _time: object, _status: object) -> None:
            blocks.put(samples[:, 0].copy())

        sounddevice.InputStream(
            samplerate=rate, channels=1, blocksize=block, callback=callback
        ).start()
        feeder = threading.current_thread()
    while True:
        try:
            while True:
                engine.feed(blocks.get_nowait(), began)
        except queue.Empty:
            if not feeder.is_alive():
                break
            time.sleep(POLL_S)
    context.destroy(linger=500)


if __name__ == "__main__":
    main()
