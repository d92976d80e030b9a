"""A report as one HTML file without any other: styles, script and drawings are inside."""

from __future__ import annotations

import html
import itertools
import os
from pathlib import Path

from speech_emotion.commands.report.summary import GAP, SILENCE, Recording, Total
from speech_emotion.infer.batch.progress import duration
from speech_emotion.infer.decision import UNCERTAIN

HERE = Path(__file__).parent
COLOURS = {
    "angry": "vermilion",
    "anger": "vermilion",
    "happy": "orange",
    "happiness": "orange",
    "neutral": "green",
    "calm": "green",
    "sad": "blue",
    "sadness": "blue",
    "fear": "purple",
    "surprise": "sky",
    "disgust": "yellow",
}
"""Label → colour of the palette of Okabe and Ito, which any colour vision tells apart."""
OTHERS = ("sky", "yellow", "purple", "orange", "blue", "green", "vermilion")
REASONS = {
    "low_margin": "no label is likely enough",
    "too_short": "too few windows",
    "not_speech": "probably no speech",
    "too_quiet": "too quiet",
    "clipped": "clipped",
    "model_error": "the model gave no number",
}
SHOWN = 1000
"""Recordings with a row; all count in the figures."""


def render(total: Total, source: str) -> str:
    """The page."""
    colours = _colours(total.labels)
    shown = total.recordings[:SHOWN]
    folder = _folder([one.name for one in total.recordings])
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width, initial-scale=1'>",
        f"<title>Speech emotion: {html.escape(source)}</title>",
        f"<style>{(HERE / 'page.css').read_text()}</style>",
        f"<h1>{html.escape(Path(source).name)}</h1>",
        f"<p class=muted>Computed by {html.escape(', '.join(total.bundles) or 'no bundle')}. "
        "Labels describe how speech sounds, not what a person feels.</p>",
        _figures(total),
        "<div class=columns>",
        _distribution(total, colours),
        _uncertain(total),
        "</div>",
        _table(shown, total, colours, folder),
        f"<script>{(HERE / 'page.js').read_text()}</script></html>\n",
    ]
    return "\n".join(parts)


def _colours(labels: tuple[str, ...]) -> dict[str, str]:
    spare = itertools.cycle(OTHERS)
    return {
        label: "var(--e-grey)"
        if label == UNCERTAIN
        else f"var(--e-{COLOURS.get(label) or next(spare)})"
        for label in labels
    }


def _figures(total: Total) -> str:
    speech = sum(total.emotions.values())
    errors = sum(one.error is not None for one in total.recordings)
    poor = sum(bool(one.findings) for one in total.recordings)
    figures = [
        (str(len(total.recordings)), "recordings"),
        (
            duration(total.seconds),
            "of sound (h:mm:ss)" if total.seconds >= 3600 else "of sound (m:ss)",
        ),
        (_percent(speech, total.seconds), "of it speech"),
        (_percent(total.emotions.get(UNCERTAIN, 0.0), speech), "of the speech uncertain"),
        (str(poor), "with poor sound"),
        (str(errors), "not read to the end"),
    ]
    cells = "".join(
        f"<div><b>{value}</b><span class=muted>{what}</span></div>" for value, what in figures
    )
    return f"<section class='card figures'>{cells}</section>"


def _distribution(total: Total, colours: dict[str, str]) -> str:
    emotions = total.emotions
    speech = sum(emotions.values())
    rows = "".join(
        _bar(label, emotions.get(label, 0.0), speech, colours[label]) for label in total.labels
    )
    return f"<section class=card><h2>Share of the speech</h2><div class=bars>{rows}</div></section>"


def _uncertain(total: Total) -> str:
    reasons = total.reasons
    whole = sum(reasons.values())
    rows = "".join(
        _bar(REASONS.get(reason, reason), seconds, whole, "var(--e-grey)")
        for reason, seconds in sorted(reasons.items(), key=lambda item: -item[1])
    )
    body = f"<div class=bars>{rows}</div>" if rows else "<p class=muted>Nothing is uncertain.</p>"
    return f"<section class=card><h2>Why uncertain</h2>{body}</section>"


def _bar(name: str, seconds: float, whole: float, colour: str) -> str:
    width = 100.0 * seconds / whole if whole else 0.0
    fill = f"<i style='width:{width:.2f}%;background:{colour}'></i>" if seconds else ""
    text = f"{_percent(seconds, whole)} · {duration(seconds)}"
    return (
        f"<span>{html.escape(name)}</span><div class=bar>{fill}</div>"
        f"<span class=muted>{text}</span>"
    )


def _table(shown: list[Recording], total: Total, colours: dict[str, str], folder: str) -> str:
    key = "".join(
        f"<span><i style='background:{colour}'></i>{html.escape(label)}</span>"
        for label, colour in colours.items()
    )
    key += "<span><i style='background:var(--quiet)'></i>no speech</span>"
    if any(GAP in one.timeline for one in shown):
        key += "<span><i style='background:var(--bad)'></i>missing sound</span>"
    heads = (
        ("Recording", ""),
        ("Timeline", ""),
        ("Length", "number"),
        ("Speech", "number"),
        ("Mostly", ""),
        ("Uncertain", "number"),
        ("Level, dBFS", "number"),
        ("Remarks", ""),
    )
    head = "".join(
        f"<th class='{kind}'>{name if name == 'Timeline' else f'<button>{name}</button>'}</th>"
        for name, kind in heads
    )
    rows = "".join(_row(one, colours, folder) for one in shown)
    where = f" in {html.escape(folder.rstrip('/'))}" if folder else ""
    more = len(total.recordings) - len(shown)
    rest = f"<p class=muted>{more} further recordings count above.</p>" if more else ""
    return (
        f"<section class=card><h2>Recordings{where}</h2><div class=key>{key}</div>"
        f"<div class=scroll><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>{rest}</section>"
    )


def _row(one: Recording, colours: dict[str, str], folder: str) -> str:
    speech = one.speech_s
    uncertain = one.emotions.get(UNCERTAIN, 0.0)
    top = one.top
    dot = f"<i class=dot style='background:{colours[top]}'></i>{html.escape(top)}" if top else "–"
    error = (one.error or "").removeprefix(f"{one.name}: ")
    notes = [f"<span class=bad>{html.escape(error)}</span>"] if error else []
    notes += [f"<span class=warn>{html.escape(text)}</span>" for text in one.findings]
    name, short = html.escape(one.name), one.name.removeprefix(folder)
    level = "–" if one.rms_db is None else f"{one.rms_db:.0f}".replace("-", "−")
    cells = (
        f"<td class=name title='{name}'><bdi>{html.escape(short)}</bdi></td>",
        f"<td class=line>{_strip(one, colours)}</td>",
        _number(duration(one.seconds), one.seconds),
        _number(_percent(speech, one.seconds), _share(speech, one.seconds)),
        f"<td>{dot}</td>",
        _number(_percent(uncertain, speech), _share(uncertain, speech)),
        _number(level, -(one.rms_db or 0.0)),
        f"<td class=note>{'<br>'.join(notes)}</td>",
    )
    return f"<tr>{''.join(cells)}</tr>"


def _number(text: str, order: float) -> str:
    return f"<td class=number data-sort='{order:.4f}'>{text}</td>"


def _folder(names: list[str]) -> str:
    """The folder that all names are in, with a slash; empty: there is none."""
    folder = os.path.commonpath([os.path.dirname(name) for name in names]) if names else ""
    return f"{folder}/" if folder and all(name.startswith(f"{folder}/") for name in names) else ""


def _strip(one: Recording, colours: dict[str, str]) -> str:
    """The timeline as a drawing; each stretch says what and when it is."""
    count = len(one.timeline)
    if not count:
        return ""
    shapes, at = [], 0
    for state, group in itertools.groupby(one.timeline):
        length = len(list(group))
        if state != SILENCE:
            fill = "var(--bad)" if state == GAP else colours.get(state, "var(--e-grey)")
            begin, end = (one.seconds * k / count for k in (at, at + length))
            shapes.append(
                f"<rect x='{at}' width='{length}' height='1' fill='{fill}'>"
                f"<title>{html.escape(state)}, {duration(begin)} to {duration(end)}</title></rect>"
            )
        at += length
    return (
        f"<svg viewBox='0 0 {count} 1' preserveAspectRatio=none role=img "
        f"aria-label='timeline of {html.escape(one.name)}'>{''.join(shapes)}</svg>"
    )


def _share(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole else 0.0


def _percent(part: float, whole: float) -> str:
    share = 100.0 * _share(part, whole)
    return f"{share:.1f} %" if 0.0 < share < 10.0 else f"{share:.0f} %"
