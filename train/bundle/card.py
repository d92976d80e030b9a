"""The model card: description of a bundle, its figures, and the uses it must not be put to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SOURCES = {
    "RAVDESS": "RAVDESS (Livingstone and Russo, 2018, CC BY-NC-SA 4.0)",
    "NEMO": "nEMO (Christop, 2024, CC BY-NC-SA 4.0)",
    "EMOSPEECH": "Indian EmoSpeech Command Dataset (Banga et al., 2019, CC BY-NC-SA 4.0)",
    "CREMAD": "CREMA-D (Cao et al., 2014, ODbL 1.0 and DbCL 1.0)",
    "EMODB": "EMO-DB (Burkhardt et al., 2005, CC0)",
}
"""Corpus → how LICENSE names it."""
LICENCES = {
    "CC-BY-NC-SA-4.0": (
        "Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International\n"
        "https://creativecommons.org/licenses/by-nc-sa/4.0/legalcode\n\n"
        "You may use and change the model in this folder for purposes that are not commercial, if\n"
        "you name its sources and pass what you make of it on under the same licence.\n"
    ),
    "CC0-1.0": (
        "Creative Commons CC0 1.0 Universal\n"
        "https://creativecommons.org/publicdomain/zero/1.0/legalcode\n\n"
        "To the extent the law allows, all rights in the model in this folder are waived: use it\n"
        "for anything.\n"
    ),
}
"""SPDX name → text of LICENSE, for the shipped bundles."""


def licence_text(licence: str, corpora: Sequence[str], *, taught: bool = False) -> str:
    """The text of LICENSE of a bundle that was trained on these corpora.

    Args:
        licence: SPDX identifier.
        taught: a teacher on Whisper's layers gave targets.
    """
    lines = [f"- {SOURCES.get(name, name)}" for name in corpora]
    text = LICENCES.get(licence, licence + "\n") + "\nIt was trained on:\n\n" + "\n".join(lines)
    if taught:
        text += (
            "\n\nIts teacher, which is not in this folder, holds layers of Whisper base (Radford\n"
            "et al., 2022, MIT licence)."
        )
    return text + "\n"


PURPOSE = """\
## What it is for

It labels windows of speech with the names of acted emotions, in real time on a small computer.
It classifies how a voice *sounds*; it cannot know what a person feels. It was trained on actors
who read fixed sentences in a studio. Real, mixed, mild or foreign emotion is harder, and people
agree with each other on such labels less than half of the time (CREMA-D: 41 %).

**Not for** decisions about people: hiring, grading, policing, medical or insurance use, lie or
intent detection, or watching people who have not agreed. In the European Union emotion
recognition at work and in schools is forbidden (AI Act, Article 5(1)(f)).
"""


def model_card(
    name: str,
    labels: Sequence[str],
    *,
    licence: str,
    facts: Mapping[str, str],
    figures: str,
    command: str,
) -> str:
    """The text of MODEL_CARD.md.

    Args:
        licence: SPDX identifier.
        facts: short name → sentence: input, network, training data, ….
        figures: Markdown.
        command: command that made the figures.
    """
    parts = [
        f"# Model card: {name}",
        f"Labels: {', '.join(labels)}. Licence: {licence or 'not stated'}.",
        "\n".join(f"- **{key}:** {value}" for key, value in facts.items()),
        PURPOSE,
        "## Figures",
        "Per cent, of clips whose speakers the measured model was not trained on, by the gate, "
        "smoothing and aggregation that run live. Acted speech: expect less on your own. Made by:",
        f"    {command}",
        figures,
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def figures_text(figures: Mapping[str, Any]) -> str:
    """The figures of `crossval` as Markdown, the parts that exist."""
    parts = ["95 % bootstrap intervals over clips."]
    if "folds" in figures:
        parts += ["**New speakers, known corpora** (5 speaker-independent folds)"]
        parts += [_table(figures["folds"])]
    if "leave_one_corpus_out" in figures:
        result = figures["leave_one_corpus_out"]
        mean = sum(e["utterance"]["uar"] for e in result["corpora"].values())
        mean /= len(result["corpora"])
        parts += [
            f"**New corpora and languages** (leave one corpus out; mean UAR {100 * mean:.1f})",
            _table(result, overall=False),
        ]
    if "random_split" in figures:
        parts += [
            "**A random split** (the same speakers in training and test; too high, shown for "
            "comparison only)",
            _table(figures["random_split"], overall=False),
        ]
    if "robustness" in figures:
        rows = [
            f"| {name} | {100 * r['uar']:.1f} | {100 * (r['uar'] - r['clean']):+.1f} | "
            f"{100 * r['speech_lost']:.1f} |"
            for name, r in figures["robustness"].items()
        ]
        parts += [
            "**Robustness** (UAR over all corpora, the change against the clean clips, and the "
            "utterances rejected as not speech)",
            "\n".join(["| condition | UAR | change | no speech |", "|---|---|---|---|", *rows]),
        ]
    if "risk" in figures:
        risk = figures["risk"]
        parts += [
            f"**Abstention:** {100 * risk['full']:.1f} % of the utterances are wrong if all get a "
            f"label, {100 * risk['at_70']:.1f} % if the 70 % with the highest confidence do."
        ]
    if "false_events" in figures:
        events = figures["false_events"]
        kinds = ", ".join(f"{k} {n:.1f}" for k, n in events["by_kind"].items())
        text = (
            f"**False events** (mean of the folds' models): {events['per_hour']:.1f} an hour "
            f"(utterances labelled neither neutral nor uncertain) in {events['hours']:.1f} h of "
            f"noise, hum, clicks, tones, music, system sounds and silence; by kind: {kinds}."
        )
        if "without_head" in events:
            text += (
                f" Without the speech head: {events['without_head']:.1f}. The head rejects "
                f"{100 * events['speech_lost']:.1f} % of new speakers' utterances as not speech."
            )
        if "webrtc" in events:
            text += (
                " WebRTC's detector instead of it, its threshold set by the same rule: "
                f"{events['webrtc']:.1f} an hour, {100 * events['webrtc_speech_lost']:.1f} % lost."
            )
        parts += [text]
    return "\n\n".join(parts)


def _table(result: Mapping[str, Any], *, overall: bool = True) -> str:
    rows = [
        "| corpus | clips | UAR | accuracy | ECE | given a label |",
        "|---|---|---|---|---|---|",
    ]
    entries = list(result["corpora"].items())
    if overall:
        entries.append(("all", result["overall"]))
    for name, each in entries:
        u = each["utterance"]
        low, high = u["uar_ci"]
        rows.append(
            f"| {name} | {u['n']} | {100 * u['uar']:.1f} ({100 * low:.1f}–{100 * high:.1f}) | "
            f"{100 * u['accuracy']:.1f} | {100 * u['ece']:.1f} | {100 * u['coverage']:.0f} |"
        )
    return "\n".join(rows)
