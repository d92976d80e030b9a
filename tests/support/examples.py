"""How many examples Hypothesis tries."""

from __future__ import annotations

from hypothesis import settings

USUAL = 100


def examples(count: int) -> settings:
    """`count` examples; with the profile `quick`, in proportion to its number."""
    return settings(max_examples=max(1, count * settings().max_examples // USUAL))
