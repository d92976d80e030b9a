"""The supervised `alerts` stage: judges the rules of `[[alerts]]` and delivers their alerts."""

from __future__ import annotations

if __name__ == "__main__":
    from speech_emotion.common.linux.entry import prepare

    prepare()

from speech_emotion.alerts.service import main
from speech_emotion.common.stage.jobs import AlertsJob
from speech_emotion.common.stage.main import base_parser, run
from speech_emotion.common.stage.supervised import read_job

if __name__ == "__main__":
    run("alerts", base_parser("alerts", __doc__ or ""), lambda _: main(read_job(AlertsJob)))
