"""What a model card says about arousal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from speech_emotion.train.dimensions.figures import markdown

WHAT_IT_IS = """\
One linear output on the same statistics of the voice: how strongly emotion is heard in it, 0 (calm)
to 1 (as intense as actors play it). It was learned from intensity, not from the labels:"""
LEARNED_FROM = {
    "CREMAD": """\
- CREMA-D: the level that the actor was asked for (low 1/3, medium 1/2, high 2/3), and the ratings
  of the raters, who heard the voice only (mean intensity times the share of raters who heard an
  emotion; a rater who chose neutral rated how clearly neutral the voice was). A clip with both has
  the mean of both""",
    "RAVDESS": """\
- RAVDESS, without calm: the level that the actor was asked for (normal 1/3, strong 2/3)""",
}
UNHEARD = """\
Not trained on, for evaluation only: {names}. The values there are those of this very output. Its
ridge was chosen by figures of CREMA-D and RAVDESS, so that they may be slightly too good."""
WHAT_IT_IS_NOT = """\
**It is not** a measure of what a person feels, of stress, of health or of truth, and not loudness:
the model does not see the level. It says nothing about pleasant or unpleasant: strong joy and
strong anger have high values, and quiet despair a low one. Compare values of one voice and one
microphone: with another one the height of all values may shift."""
SHIFT = "In {corpus}, left out, the mean value is {mean:.2f}; the mean target is {target_mean:.2f}."
CCC_TEXT = """\
CCC: concordance correlation coefficient with the target, with its 95 % interval by a bootstrap over
speakers, on clips whose speaker (5 folds) or whose corpus the head has not heard. *Within one
emotion*: mean of the correlations of the clips of one acted emotion. *Higher level*: of two clips
of one speaker with one emotion, of the lowest and the highest level, how often the higher level has
the higher value (chance: 50 %). Made by:"""


def section(rows: Sequence[Mapping[str, Any]], corpora: Sequence[str], command: str) -> str:
    """A section of the card.

    Args:
        rows: of `figures.table`.
        corpora: those that the output was trained on.
        command: command that made them.
    """
    unheard = sorted({row["corpus"] for row in rows} - set(corpora))
    shifts = [SHIFT.format_map(row) for row in rows if row["held_out"] == "corpus"]
    parts = [
        "## Arousal",
        WHAT_IT_IS,
        "\n".join(LEARNED_FROM[corpus] for corpus in corpora),
        *([UNHEARD.format(names=", ".join(unheard))] if unheard else []),
        WHAT_IT_IS_NOT,
        *(["\n".join(shifts)] if shifts else []),
        CCC_TEXT,
        f"    {command}",
        markdown(rows),
    ]
    return "\n\n".join(parts)
