"""Numbers of a bundle's manifest: calibration, decision and its operating points."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from speech_emotion.common.errors import UserError

MAX_BIAS = 20.0
"""Largest constant that a decision adds to a label's log-probability."""
RUNTIMES = ("auto", "litert", "tflite", "onnx")
"""Values of `runtime`: the libraries that run a bundle's network; `auto` is the first that can."""
OPERATING_POINTS = ("low", "medium", "high")
"""Values of `sensitivity`; `medium` is the table [decision], the others are optional tables."""
OPERATING_POINT_KEYS = ("bias", "min_confidence", "min_utterance_confidence")


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


T = TypeVar("T", bound=_Dataclass)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Temperatures (Guo et al., 2017) that calibrate probabilities.

    Applied to the model's output per window, to the smoothed probabilities, and to the
    average over an utterance.

    Attributes:
        temperature: of a window whose distance is 1, or of all windows without distances.
        smoothed_temperature: of the exponential average over windows.
        utterance_temperature: of the mean over an utterance.
        distance: how the temperature of a window grows with its distance, see `growth`; only for
            models with `distance_output`.
    """

    temperature: float = 1.0
    smoothed_temperature: float = 1.0
    utterance_temperature: float = 1.0
    distance: float = 0.0

    def growth(self, distance: float) -> float:
        """The factor by which the temperature of a window grows with its distance."""
        return (1.0 + self.distance * max(0.0, distance)) / (1.0 + self.distance)


@dataclasses.dataclass(frozen=True)
class Decision:
    """Parameters of the decision from probabilities to a label.

    Attributes:
        smoothing: weight of the newest speech window in the exponential average.
        hysteresis: how far another label must lead before the published one changes.
        min_confidence: below it a window is `uncertain` (`low_margin`).
        min_utterance_confidence: the same for an utterance.
        min_speech: a window whose smoothed probability of speech is below it is `uncertain`
            (`not_speech`); only for models with `speech_output`.
        min_utterance_speech: the same for the average over an utterance.
        min_windows: speech windows an utterance needs before a label is given (`too_short`).
        too_quiet_dbfs: speech windows below it are `uncertain` (`too_quiet`).
        clipped_fraction: share of clipped samples from which a window is `clipped`.
        bias: constants added to the labels' log-probabilities for the choice of the label only,
            in label order; empty for none.
    """

    smoothing: float = 0.5
    hysteresis: float = 0.05
    min_confidence: float = 0.0
    min_utterance_confidence: float = 0.0
    min_speech: float = 0.0
    min_utterance_speech: float = 0.0
    min_windows: int = 1
    too_quiet_dbfs: float = -80.0
    clipped_fraction: float = 0.05
    bias: tuple[float, ...] = ()


RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.05, 100.0),
    "distance": (0.0, 1000.0),
    "smoothed_temperature": (0.05, 100.0),
    "utterance_temperature": (0.05, 100.0),
    "smoothing": (0.01, 1.0),
    "hysteresis": (0.0, 1.0),
    "min_confidence": (0.0, 1.0),
    "min_utterance_confidence": (0.0, 1.0),
    "min_speech": (0.0, 1.0),
    "min_utterance_speech": (0.0, 1.0),
    "min_windows": (1, 100),
    "too_quiet_dbfs": (-100.0, 0.0),
    "clipped_fraction": (0.0, 1.0),
}


def read_decision(table: object, name: str, labels: tuple[str, ...], where: str) -> Decision:
    if not isinstance(table, dict):
        raise UserError(f"{where}: {name} must be a table")
    bias = table.get("bias", [])
    if (
        not isinstance(bias, list)
        or len(bias) not in (0, len(labels))
        or not all(type(b) in (int, float) and abs(b) <= MAX_BIAS for b in bias)
    ):
        raise UserError(
            f"{where}: {name}.bias = {reprlib.repr(bias)} must be {len(labels)} numbers, one per "
            f"label, of -{MAX_BIAS:g} to {MAX_BIAS:g}"
        )
    others = {key: value for key, value in table.items() if key != "bias"}
    decision = read_numbers(Decision, others, name, where)
    return dataclasses.replace(decision, bias=tuple(float(b) for b in bias))


def read_operating_points(
    table: object, decision: Mapping[str, Any], labels: tuple[str, ...], where: str
) -> dict[str, Decision]:
    """Operating point → its decision: the table [decision] with the point's keys."""
    if not isinstance(table, dict):
        raise UserError(f"{where}: sensitivity must be a table")
    points = {}
    for name, values in table.items():
        if name not in OPERATING_POINTS or name == "medium":
            raise UserError(
                f"{where}: sensitivity.{name[:60]} is not a key; allowed: low, high "
                "(medium is the table decision)"
            )
        if not isinstance(values, dict):
            raise UserError(f"{where}: sensitivity.{name} must be a table")
        if unknown := sorted(set(values) - set(OPERATING_POINT_KEYS)):
            raise UserError(
                f"{where}: sensitivity.{name}.{unknown[0][:60]} is not a key; "
                f"allowed: {', '.join(OPERATING_POINT_KEYS)}"
            )
        points[name] = read_decision({**decision, **values}, f"sensitivity.{name}", labels, where)
    return points


def read_flag(table: Mapping[str, Any], key: str, where: str) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        raise UserError(f"{where}: {key} = {reprlib.repr(value)} must be true or false")
    return value


def read_numbers(
    cls: type[T],
    table: object,
    name: str,
    where: str,
    ranges: Mapping[str, tuple[float, float]] = RANGES,
    **fixed: Any,
) -> T:
    """A dataclass from a table of numbers.

    Args:
        ranges: the smallest and the largest value of each key; others of the class are no keys.
        fixed: values of other fields.

    Raises:
        UserError: a key is unknown or out of range.
    """
    if not isinstance(table, dict):
        raise UserError(f"{where}: {name} must be a table")
    defaults = {f.name: f.default for f in dataclasses.fields(cls) if f.name in ranges}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in defaults:
            raise UserError(
                f"{where}: {name}.{key[:60]} is not a key; allowed: {', '.join(defaults)}"
            )
        low, high = ranges[key]
        whole = isinstance(defaults[key], int)
        ok = type(value) is int or (type(value) is float and not whole)
        if not ok or not low <= value <= high:
            raise UserError(
                f"{where}: {name}.{key} = {reprlib.repr(value)} must be {low:g} to {high:g}"
            )
        values[key] = value if whole else float(value)
    return cls(**values, **fixed)


def read_vector(
    value: object, labels: int, name: str, limit: float, where: str
) -> tuple[float, ...]:
    """One number for each label, of -limit to limit.

    Raises:
        UserError: it is something else.
    """
    if (
        not isinstance(value, list)
        or len(value) != labels
        or not all(type(x) in (int, float) and abs(x) <= limit for x in value)
    ):
        raise UserError(
            f"{where}: {name} = {reprlib.repr(value)} must be one number for each of the "
            f"{labels} labels, of {-limit:g} to {limit:g}"
        )
    return tuple(float(x) for x in value)
