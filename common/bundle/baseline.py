"""The `[baseline]` table of a bundle, whose model has relative scores beside its usual outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from speech_emotion.common.bundle.parameters import read_flag, read_numbers, read_vector
from speech_emotion.common.errors import UserError

MAX_SCORE = 1000.0
"""Largest magnitude of a relative score in a manifest."""


@dataclasses.dataclass(frozen=True)
class Baseline:
    """How relative scores are used: `infer/baseline.py`. The defaults: docs/MODEL_BASELINE.md.

    Attributes:
        prior: mean of the relative scores over the training corpora, one per label.
        bias: added to the scores after the baseline was subtracted, one per label.
        prior_s: seconds of speech at which the stream's mean has half the weight against `prior`.
        trust: largest weight of the relative scores against the others.
        evidence_s: seconds of speech at which half of `trust` is reached.
        memory_s: speech loses its weight with this time constant, in seconds of later speech.
        variety: how much a spread of the scores counts against the share of one emotion in the
            one-sidedness of a stream.
        mixed, one_sided: one-sidedness up to which the relative scores keep their weight, and from
            which they have none.
        temperature: of the blended scores at full evidence; `calibration.temperature` without any.
    """

    prior: tuple[float, ...]
    bias: tuple[float, ...]
    prior_s: float = 10.0
    trust: float = 0.7
    evidence_s: float = 20.0
    memory_s: float = 600.0
    variety: float = 0.1
    mixed: float = 0.25
    one_sided: float = 0.4
    temperature: float = 0.75


RANGES: dict[str, tuple[float, float]] = {
    "prior_s": (0.0, 3600.0),
    "trust": (0.0, 1.0),
    "evidence_s": (0.5, 3600.0),
    "memory_s": (10.0, 36000.0),
    "variety": (0.0, 1.0),
    "mixed": (-5.0, 5.0),
    "one_sided": (-5.0, 5.0),
    "temperature": (0.05, 100.0),
}


def read_baseline(table: Mapping[str, Any], labels: int, where: str) -> Baseline | None:
    """The `[baseline]` of a manifest; None where its model has no relative scores.

    Args:
        labels: number of labels.
        where: the manifest in errors.

    Raises:
        UserError: a key is unknown, missing or out of range.
    """
    relative, values = read_flag(table, "relative_output", where), table.get("baseline")
    if relative != (values is not None):
        missing = "the table" if relative else "relative_output"
        raise UserError(
            f"{where}: relative_output = true and a [baseline] table belong together, "
            f"{missing} is missing"
        )
    if values is None:
        return None
    if not isinstance(values, dict):
        raise UserError(f"{where}: baseline must be a table")
    values = dict(values)
    vectors = {
        key: read_vector(values.pop(key, None), labels, f"baseline.{key}", MAX_SCORE, where)
        for key in ("prior", "bias")
    }
    found = read_numbers(Baseline, values, "baseline", where, RANGES, **vectors)
    if found.mixed >= found.one_sided:
        raise UserError(
            f"{where}: baseline.one_sided = {found.one_sided:g} must be more than "
            f"baseline.mixed = {found.mixed:g}"
        )
    return found
