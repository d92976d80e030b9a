"""`python -m infer FILE`: one line per result and utterance of a recording."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from speech_emotion.capture.recording.reader import TIMELINE
from speech_emotion.common.bundle.manifest import (
    load_bundle,
    warn_without_baseline,
    warn_without_operating_point,
)
from speech_emotion.common.errors import UserError
from speech_emotion.common.wire import public
from speech_emotion.features.extractor import load_extractors
from speech_emotion.infer.model import Model
from speech_emotion.infer.offline.analyzer import (
    DEFAULT_USE,
    Analyzer,
    BaselineUse,
    Message,
    analyse,
)
from speech_emotion.infer.offline.sound import open_sound

_encode = json.JSONEncoder(allow_nan=False).encode


def report(
    file: str,
    path: Path,
    runtime: str,
    *,
    as_json: bool,
    use: BaselineUse = DEFAULT_USE,
    sensitivity: str = "medium",
    channel: int | None = None,
    prosody: bool = False,
) -> int:
    """Print the messages, each as soon as it is known. Returns the exit code.

    Raises:
        UserError: the file or the bundle is missing or invalid, or it is a folder without a
            recording; after all output: the file is damaged from some sample on.
    """
    _check_folder(Path(file))
    bundle = load_bundle(path).at(sensitivity)
    if use.mode == "stream":
        warn_without_baseline(bundle)
    warn_without_operating_point(bundle, sensitivity)
    extractors = load_extractors(bundle, prosody=prosody)
    model = Model(bundle, runtime)
    sound = open_sound(file, bundle.spec.sample_rate, channel)
    analyzer = Analyzer(
        bundle, extractors(), model, sound.blocks.rate, channel=channel, gaps=sound.gaps, use=use
    )
    text_of = _json if as_json else _line
    try:
        for messages in analyse(sound, analyzer):
            sys.stdout.write("".join(f"{text_of(message)}\n" for message in messages))
    finally:
        sys.stdout.flush()
    return 0


def _check_folder(path: Path) -> None:
    if path.is_dir() and not any(any(path.glob(name)) for name in (TIMELINE, f"*/{TIMELINE}")):
        raise UserError(
            f"{path}: is a folder without a recording of --record; to analyse the sound files "
            "in it, add --out DIR or --out FILE.parquet"
        )


def _json(message: Message) -> str:
    kind = {"utterance": True} if isinstance(message, public.Utterance) else {}
    return _encode({**public.to_json_map(message), **kind})


def _line(message: Message) -> str:
    span = f"{message.start / message.rate:8.2f} to {message.end / message.rate:7.2f} s"
    if isinstance(message, public.Utterance):
        return f"{span}  = {message.emotion} {message.confidence:.0%} ({message.windows} windows)"
    if message.confidence is None:
        return f"{span}  {message.state:<10} {message.rms_db:6.1f} dBFS"
    doubt = f" ({message.reason})" if message.reason else ""
    level = f"{message.rms_db:6.1f} dBFS"
    return f"{span}  {message.emotion:<10} {level}  {message.confidence:.0%}{doubt}"
