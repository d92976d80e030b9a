"""What a model card says about arousal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from speech_emotion.train.dimensions.figures import markdown

WHAT_IT_IS = """\
One linear output on the same statistics of the voice: how strongly emotion is heard in it, 0 (calm)
to 1 (as intense as actors play it). It was learned from intensity, not from the labels: from the
levels that actors were asked for (RAVDESS without calm: normal 1/3, strong 2/3; CREMA-D: low 1/3,
medium 1/2, high 2/3) and from the ratings of CREMA-D's raters, who heard the voice only (mean
intensity times the share of raters who heard an emotion; a rater who chose neutral rated how
clearly neutral the voice was). A clip with both has the mean of both.

**It is not** a measure of what a person feels, of stress, of health or of truth, and not loudness:
the model does not see the level. It says nothing about pleasant or unpleasant: strong joy and
strong anger have high values, and quiet despair a low one. Compare values of one voice and one
microphone: in a corpus left out the order of the clips is kept, and the height of all values may
shift with the recording (CREMA-D, left out, gets too high values)."""
CCC_TEXT = """\
CCC: concordance correlation coefficient with the target, with its 95 % interval by a bootstrap over
speakers, on clips whose speaker (5 folds) or whose corpus the head has not heard. *Within one
emotion*: mean of the correlations of the clips of one acted emotion. *Higher level*: of two clips
of one speaker with one emotion, of the lowest and the highest level, how often the higher level has
the higher value (chance: 50 %). Made by:"""


def section(rows: Sequence[Mapping[str, Any]], command: str) -> str:
    """A section of the card.

    Args:
        rows: of `figures.table`.
        command: command that made them.
    """
    parts = [
        "## Arousal",
        WHAT_IT_IS,
        CCC_TEXT,
        f"    {command}",
        markdown(rows),
    ]
    return "\n\n".join(parts)
