"""A process that analyses inputs for `infer --out`: JSON lines in, JSON lines out.

In: a `Setting`, then one `{"name": …, "known": […]}` per input. Out: `{"ready": true}`, then per
input `{"seconds": …, "share": …}` while it runs, and its outcome. `{"fatal": …}` ends the run.
A decoder that crashes, or a file that needs too much memory, ends this process and not the run.
"""

from __future__ import annotations

if __name__ == "__main__":
    from speech_emotion.common.linux.entry import prepare

    prepare()

import dataclasses
import json
import os
import signal
import sys
from typing import Any, BinaryIO

from speech_emotion.common.linux.parent_death import die_with_parent
from speech_emotion.common.linux.process_identity import restrict_file_access
from speech_emotion.infer.batch.setting import Setting


def main() -> int:
    """Serve until standard input ends."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program
    restrict_file_access()
    # What a library prints must not end up between the answers.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    lines = iter(sys.stdin.buffer.readline, b"")
    setting = Setting(**json.loads(next(lines)))
    if os.getppid() != setting.parent:
        return 1  # it ended before the kernel could tell

    from speech_emotion.common.errors import UserError
    from speech_emotion.infer.batch.analysis import PartWriter
    from speech_emotion.infer.batch.parts import OutputError

    try:
        writer = PartWriter(setting)
        _answer(answers, ready=True)
        for line in lines:
            job = json.loads(line)
            outcome = writer.process(
                job["name"],
                job["known"],
                lambda seconds, share: _answer(answers, seconds=seconds, share=share),
            )
            _answer(answers, outcome=dataclasses.asdict(outcome))
    except (UserError, OutputError) as error:
        _answer(answers, fatal=str(error), user=isinstance(error, UserError))
    except BrokenPipeError:
        pass  # the program has ended
    return 0


def _answer(file: BinaryIO, **values: Any) -> None:
    file.write(json.dumps(values).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
