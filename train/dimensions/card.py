"""What a model card says about arousal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from speech_emotion.train.dimensions.figures import markdown

WHAT_IT_IS = """\
One linear output on the same statistics of the voice: how strongly emotion is heard in it, 0 (calm)
to 1 (as intense as actors play it). It was learned from intensity, not from the four labels, and
they do not use it: from the levels that actors were asked for (RAVDESS: normal 1/3, strong 2/3;
CREMA-D: low 1/3, medium 1/2, high 2/3) and from the ratings of CREMA-D's raters, who heard the voice
only (mean intensity times the share of raters who heard an emotion; a rater who chose neutral rated
how clearly neutral it was). A clip with both has the mean. RAVDESS's calm was left out.

**It is not** a measure of what a person feels, of stress, of health or of truth, and not loudness:
the model does not see the level. It says nothing about pleasant or unpleasant: strong joy and
strong anger have high values, and quiet despair a low one. Compare values within one microphone and
one voice: the table shows that the order of clips is kept in a corpus left out, while the
height of the values may shift with the recording."""


def section(rows: Sequence[Mapping[str, Any]], command: str) -> str:
    """A section of the card.

    Args:
        rows: of `figures.table`.
        command: command that made them.
    """
    parts = [
        "## Arousal",
        WHAT_IT_IS,
        "Concordance correlation coefficient (CCC) with the target, 95 % interval by a bootstrap over "
        "speakers, on clips whose speaker (5 folds) or whose corpus the head has not heard. *Within "
        "one emotion*: mean of the correlations of the clips of one acted emotion. *Higher level*: of "
        "two clips of one speaker with one emotion, lowest and highest level, how often the higher "
        "level has the higher value (chance: 50 %). Made by:",
        f"    {command}",
        markdown(rows),
    ]
    return "\n\n".join(parts)
