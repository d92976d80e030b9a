"""Messages as a pandas table with the index that audformat uses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from speech_emotion.common.errors import UserError, needs_extra
from speech_emotion.common.wire import public
from speech_emotion.infer.offline.analyzer import Message

if TYPE_CHECKING:
    import pandas as pd

WINDOW_COLUMNS = ("state", "emotion", "confidence", "reason", "rms_db")
UTTERANCE_COLUMNS = ("emotion", "confidence", "reason", "windows")
PROSODY_COLUMNS = tuple(field.name for field in dataclasses.fields(public.Prosody))
"""Further columns of utterances, where one of them has its prosody."""


def frame_of(
    files: Iterable[tuple[str, Iterable[Message]]],
    labels: tuple[str, ...],
    *,
    utterances: bool,
    prosody: bool = False,
    dimensions: tuple[str, ...] = (),
) -> pd.DataFrame:
    """One row per window or per utterance, with the index `file, start, end` (timedelta).

    Args:
        files: name and messages of each file.
        labels: each becomes a column `p_LABEL`, the probability that `confidence` is of.
        prosody: add the prosody of utterances, `PROSODY_COLUMNS`.
        dimensions: each becomes a column of its name.

    Raises:
        UserError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise UserError(f"a table {needs_extra('archive')}") from None
    kind = public.Utterance if utterances else public.Result
    names = UTTERANCE_COLUMNS if utterances else WINDOW_COLUMNS
    index: list[tuple[str, float, float]] = []
    columns: dict[str, list[Any]] = {name: [] for name in names}
    columns |= {f"p_{label}": [] for label in labels}
    measured = PROSODY_COLUMNS if utterances and prosody else ()
    columns |= {name: [] for name in (*measured, *dimensions)}
    for file, messages in files:
        for message in messages:
            if not isinstance(message, kind):
                continue
            index.append((file, message.start / message.rate, message.end / message.rate))
            for name in names:
                columns[name].append(getattr(message, name))
            shown = probabilities_of(message) or {}
            for label in labels:
                columns[f"p_{label}"].append(shown.get(label))
            for name in measured:
                columns[name].append(getattr(getattr(message, "prosody", None), name, None))
            for name in dimensions:
                columns[name].append((message.dimensions or {}).get(name))
    start, end = (pd.to_timedelta([row[at] for row in index], unit="s") for at in (1, 2))
    files_of = pd.Index([row[0] for row in index], dtype="string")
    frame = pd.DataFrame(
        columns, index=pd.MultiIndex.from_arrays([files_of, start, end], names=INDEX)
    )
    floats = [name for name in columns if name in ("confidence", "rms_db") or name[:2] == "p_"]
    floats += [name for name in (*measured, *dimensions) if name != "pauses"]
    texts = [name for name in columns if name in ("state", "emotion", "reason")]
    types = dict.fromkeys(floats, "float64") | dict.fromkeys(texts, "string")
    if utterances:
        types["windows"] = "int64"
    if measured:
        types["pauses"] = "Int64"
    return frame.astype(types)


INDEX = ["file", "start", "end"]
"""Names of the levels of the index."""


def probabilities_of(message: Message) -> dict[str, float] | None:
    """Label → the probability that `emotion` and `confidence` are chosen by."""
    return message.probabilities if isinstance(message, public.Utterance) else message.smoothed
