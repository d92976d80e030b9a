"""The supervised `fleet` stage: publishes what the pipeline publishes to a server of NATS."""

from __future__ import annotations

if __name__ == "__main__":
    from speech_emotion.common.linux.entry import prepare

    prepare()

from speech_emotion.common.stage.jobs import FleetJob
from speech_emotion.common.stage.main import base_parser, run
from speech_emotion.common.stage.supervised import read_job
from speech_emotion.fleet.service import main

if __name__ == "__main__":
    run("fleet", base_parser("fleet", __doc__ or ""), lambda _: main(read_job(FleetJob)))
