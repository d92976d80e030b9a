"""Sends results to Lab Streaming Layer, with the time at which the sound was captured.

    python examples/lsl_outlet.py

For each stream of the pipeline two LSL streams: `STREAM windows` (type `Emotion`) has a sample per
window with the smoothed probability of each label, the confidence and the level in dBFS; channels
without a value are NaN. `STREAM utterances` (type `Markers`) has the label of each utterance.

A stamp is the time of the end of the window or utterance on this machine's LSL clock. It comes from
the clock of the capture stage: neither the delay of the pipeline nor that of the network moves it.
The pipeline must run on this machine, or its clock must be synchronized with this one.
"""

import argparse
import contextlib
import math
import sys
import time

try:
    import pylsl

    from speech_emotion import Info, Result, Results, Utterance
except ModuleNotFoundError as error:
    print(
        f"lsl_outlet: {error.name} is missing; pip install -e '.[examples]'",
        file=sys.stderr,
    )
    sys.exit(2)
except (OSError, RuntimeError) as error:  # pylsl without its library
    print(f"lsl_outlet: liblsl is missing; pip install pylsl ({error})", file=sys.stderr)
    sys.exit(2)


class Outlets:
    """The two LSL streams of one stream of the pipeline."""

    def __init__(self, info: Info) -> None:
        self.labels = info.labels
        channels = [*info.labels, "confidence", "level"]
        windows = pylsl.StreamInfo(
            f"{info.stream} windows",
            "Emotion",
            len(channels),
            pylsl.IRREGULAR_RATE,
            pylsl.cf_float32,
            f"speech-emotion/{info.stream}/windows",
        )
        windows.set_channel_labels(channels)
        utterances = pylsl.StreamInfo(
            f"{info.stream} utterances",
            "Markers",
            1,
            pylsl.IRREGULAR_RATE,
            pylsl.cf_string,
            f"speech-emotion/{info.stream}/utterances",
        )
        self._windows = pylsl.StreamOutlet(windows)
        self._utterances = pylsl.StreamOutlet(utterances)

    def send(self, message: Result | Utterance) -> None:
        """Send a result or utterance; one without a time (a file at full speed) has no stamp."""
        if message.time is None:
            return
        stamp = message.time + clock_offset()
        if isinstance(message, Utterance):
            self._utterances.push_sample([message.emotion], stamp)
            return
        smoothed = message.smoothed or {}
        confidence = math.nan if message.confidence is None else message.confidence
        row = [smoothed.get(label, math.nan) for label in self.labels]
        self._windows.push_sample([*row, confidence, message.rms_db], stamp)


def clock_offset() -> float:
    """LSL's clock minus unix time: the quickest of some readings, as one can be interrupted."""
    readings = []
    for _ in range(5):
        before = pylsl.local_clock()
        unix = time.time()
        after = pylsl.local_clock()
        readings.append((after - before, (before + after) / 2.0 - unix))
    return min(readings)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoint", default="tcp://127.0.0.1:5555", help="default: %(default)s")
    parser.add_argument("--stream", help="name of one stream; default: all")
    options = parser.parse_args()
    outlets: dict[str, Outlets] = {}
    with Results(options.endpoint, options.stream) as results:
        for event in results.events():
            match event.message:
                case Info() as info:  # a new bundle can have other labels
                    if info.stream not in outlets or outlets[info.stream].labels != info.labels:
                        outlets[info.stream] = Outlets(info)
                        print(f"{info.stream}: LSL streams are open", flush=True)
                case (Result() | Utterance()) as message if not event.replay:
                    if message.stream in outlets:
                        outlets[message.stream].send(message)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
