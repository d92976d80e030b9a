"""Filter banks that do not match the feature spec."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from speech_emotion.common.bundle.spec import FeatureSpec
from speech_emotion.common.errors import UserError
from speech_emotion.features.core import Banks

ORIGINAL = FeatureSpec()


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("mel", None),
        ("mel", np.zeros((16, 1025), np.float32)),
        ("chroma", np.zeros((1, 12, 1025), np.float32)),
        ("mfcc_mel", np.zeros((128, 1025))),
        ("window", np.full(2048, np.nan)),
    ],
    ids=["missing", "bands", "tunings", "type", "values"],
)
def test_banks_that_do_not_match_the_spec_are_one_clear_line(
    name: str, changed: NDArray[np.generic] | None
) -> None:
    arrays = Banks.from_librosa(ORIGINAL).to_arrays()
    if changed is None:
        del arrays[name]
    else:
        arrays[name] = changed
    with pytest.raises(UserError, match=rf"^banks\.npz: .*\b{name}\b.*; rebuild the bundle$"):
        Banks.from_arrays(ORIGINAL, arrays)
