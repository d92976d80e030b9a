"""One input of a batch to its part. Errors of the input become a row, never an exception."""

from __future__ import annotations

import dataclasses
import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from speech_emotion.common.errors import UserError, printable
from speech_emotion.features.extractor import load_extractors
from speech_emotion.infer.batch.parts import (
    UNREAD,
    Draft,
    OutputError,
    content_key,
    is_complete,
    name_hash,
    part_path,
)
from speech_emotion.infer.batch.quality import Quality
from speech_emotion.infer.batch.setting import Setting
from speech_emotion.infer.batch.table import VERSION, TableWriter, schema_of
from speech_emotion.infer.model import Model
from speech_emotion.infer.offline.analyzer import Analyzer, BaselineUse, analyse
from speech_emotion.infer.offline.sound import Sound, open_sound

REPORT_S = 0.5
"""Seconds between two reports of progress."""

EARLIER = "its part of an earlier run has the reason"

Progress = Callable[[float, float], None]
"""Takes the seconds of sound analysed, and their share of the input, 0 to 1."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of an input.

    Attributes:
        part: path of its part, relative to the folder.
        error: why it has no results, or not to its end.
        seconds: length of its sound.
        skipped: an earlier run had done it.
    """

    part: str
    error: str | None
    seconds: float
    skipped: bool = False


class PartWriter:
    """Analyses inputs, one after the other.

    Raises:
        UserError: the bundle or the model cannot be used, or pyarrow is not installed.
    """

    def __init__(self, setting: Setting) -> None:
        self._bundle = bundle = setting.load()
        self._extractors = load_extractors(bundle, prosody=setting.prosody)
        self._model = Model(bundle, setting.runtime)
        self._folder = Path(setting.folder)
        self._channel = setting.channel
        self._use = BaselineUse(setting.baseline)
        self._schema = schema_of(
            bundle.labels, bundle.id, prosody=setting.prosody, dimensions=bundle.dimensions
        )
        self._salt = setting.salt(bundle, VERSION)

    def process(self, name: str, known: Iterable[str], progress: Progress) -> Outcome:
        """Write the part of an input, unless it is there.

        Args:
            known: parts that an input of this name has; those of another content are removed.

        Raises:
            OutputError: the part cannot be written.
        """
        try:
            before = _state_of(name)
            key = content_key(name, self._salt)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            return self.fail(name, known, f"{name}: cannot be read ({reason})")
        for error_part in (False, True):
            part = str(part_path(name, key, error=error_part))
            if part in known and is_complete(self._folder / part):
                _remove(self._folder, set(known) - {part})
                return Outcome(part, EARLIER if error_part else None, 0.0, skipped=True)
        with self._draft(name) as draft:
            table = TableWriter(draft.file, self._schema, printable(name))
            row, wrong, fault = self._rows(name, table, progress)
            if not fault and _state_of(name, missing=()) != before:
                wrong, fault = f"{name}: was changed while it was read", True
            return self._publish(draft, table, name, UNREAD if fault else key, known, row, wrong)

    def fail(self, name: str, known: Iterable[str], reason: str) -> Outcome:
        """Write the part of an input without a result; the next run tries the input again.

        Raises:
            OutputError: the part cannot be written.
        """
        with self._draft(name) as draft:
            table = TableWriter(draft.file, self._schema, printable(name))
            return self._publish(draft, table, name, UNREAD, known, {"end": 0.0}, reason)

    def _draft(self, name: str) -> Draft:
        path = self._folder / part_path(name, UNREAD, error=False)
        return Draft(path.parent, name_hash(name))

    def _rows(
        self, name: str, table: TableWriter, progress: Progress
    ) -> tuple[dict[str, Any], str | None, bool]:
        """Add the messages; the row `file`, the error, and whether it is a fault of ours."""
        spec = self._bundle.spec
        quality = Quality(spec.sample_rate)
        row: dict[str, Any] = {"end": 0.0}
        wrong, fault = None, False
        try:
            sound = open_sound(name, spec.sample_rate, self._channel)
            row |= {"source_rate": sound.blocks.rate, "channels": sound.blocks.channels}
            analyzer = Analyzer(
                self._bundle,
                self._extractors(),
                self._model,
                sound.blocks.rate,
                channel=self._channel,
                gaps=sound.gaps,
                use=self._use,
                observe=quality.add,
            )
            report = _Reporter(sound, spec.sample_rate, progress)
            for messages in analyse(sound, analyzer):
                for message in messages:
                    table.add(message)
                report(analyzer.position)
            row["end"] = analyzer.position / spec.sample_rate
        except UserError as caught:
            wrong = str(caught)
        except OutputError:
            raise
        except Exception as caught:  # one input must not end the run
            wrong, fault = printable(f"{name}: {type(caught).__name__}: {caught}"), True
        if quality.samples:
            row["end"] = quality.samples / spec.sample_rate
            row |= {
                "rms_db": quality.rms_db,
                "peak_db": quality.peak_db,
                "clipped": quality.clipped,
                "snr_db": quality.snr_db,
            }
        return row, wrong, fault

    def _publish(
        self,
        draft: Draft,
        table: TableWriter,
        name: str,
        key: str,
        known: Iterable[str],
        row: dict[str, Any],
        error: str | None,
    ) -> Outcome:
        table.end(rate=self._bundle.spec.sample_rate, error=error, **row)
        part = part_path(name, key, error=error is not None)
        draft.publish(part.name)
        _remove(self._folder, set(known) - {str(part)})
        return Outcome(str(part), error, row["end"])


class _Reporter:
    """Calls `progress` at most every `REPORT_S`."""

    def __init__(self, sound: Sound, rate: int, progress: Progress) -> None:
        self._rate = rate
        self._length = (sound.frames or 0) / sound.blocks.rate
        self._progress = progress
        self._due = time.monotonic() + REPORT_S

    def __call__(self, position: int) -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + REPORT_S
            seconds = position / self._rate
            self._progress(seconds, seconds / self._length if self._length else 0.0)


def _state_of(name: str, missing: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """What changes when a file is written again.

    Args:
        missing: the state of a file that is not there; None: raise.

    Raises:
        OSError: the file is not there, or no file.
    """
    try:
        found = os.stat(name)
    except OSError:
        if missing is None:
            raise
        return missing
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise OSError(0, "is neither a file nor a recording")
    return found.st_ino, found.st_size, found.st_mtime_ns


def _remove(folder: Path, parts: Iterable[str]) -> None:
    for part in parts:
        (folder / part).unlink(missing_ok=True)
