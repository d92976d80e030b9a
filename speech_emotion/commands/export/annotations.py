"""Tiers as files of annotation programs: Praat, ELAN, Audacity, and as subtitles."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import PurePath
from xml.etree import ElementTree

from speech_emotion.commands.export.tiers import Span, Tiers

MIME = {".wav": "audio/x-wav", ".mp3": "audio/mpeg", ".ogg": "audio/ogg", ".flac": "audio/flac"}
XSI = "http://www.w3.org/2001/XMLSchema-instance"
EAF = "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"


def textgrid(tiers: Tiers, _name: str) -> str:
    """A Praat TextGrid in the long text format; intervals without a label have an empty text."""
    length = _number(tiers.length)
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {length}",
        "tiers? <exists>",
        f"size = {len(tiers.tiers)}",
        "item []:",
    ]
    for number, (name, spans) in enumerate(tiers.tiers.items(), 1):
        whole = _filled(spans, tiers.length)
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{name}"',
            "        xmin = 0",
            f"        xmax = {length}",
            f"        intervals: size = {len(whole)}",
        ]
        for k, span in enumerate(whole, 1):
            text = span.text.replace('"', '""')
            lines += [
                f"        intervals [{k}]:",
                f"            xmin = {_number(span.start)}",
                f"            xmax = {_number(span.end)}",
                f'            text = "{text}"',
            ]
    return "\n".join(lines) + "\n"


def elan(tiers: Tiers, name: str) -> str:
    """An ELAN document (EAF 3.0) with the recording as its media file."""
    ElementTree.register_namespace("xsi", XSI)
    date = dt.datetime(1970, 1, 1, tzinfo=dt.UTC).isoformat()  # the same bytes every time
    root = ElementTree.Element(
        "ANNOTATION_DOCUMENT",
        {
            "AUTHOR": "",
            "DATE": date,
            "FORMAT": "3.0",
            "VERSION": "3.0",
            f"{{{XSI}}}noNamespaceSchemaLocation": EAF,
        },
    )
    header = ElementTree.SubElement(
        root, "HEADER", {"MEDIA_FILE": "", "TIME_UNITS": "milliseconds"}
    )
    path = PurePath(name)
    media = {"MIME_TYPE": MIME.get(path.suffix.lower(), "unknown")}
    if path.is_absolute():
        media["MEDIA_URL"] = path.as_uri()
    else:
        media |= {"MEDIA_URL": "", "RELATIVE_MEDIA_URL": name}
    ElementTree.SubElement(header, "MEDIA_DESCRIPTOR", media)
    order = ElementTree.SubElement(root, "TIME_ORDER")
    slots = annotations = 0
    for tier, spans in tiers.tiers.items():
        element = ElementTree.Element(
            "TIER", {"LINGUISTIC_TYPE_REF": "default-lt", "TIER_ID": tier}
        )
        for span in spans:
            references = {}
            for number, at in enumerate((span.start, span.end), 1):
                slots += 1
                slot = {"TIME_SLOT_ID": f"ts{slots}", "TIME_VALUE": str(round(at * 1000))}
                ElementTree.SubElement(order, "TIME_SLOT", slot)
                references[f"TIME_SLOT_REF{number}"] = f"ts{slots}"
            annotations += 1
            annotation = ElementTree.SubElement(element, "ANNOTATION")
            aligned = ElementTree.SubElement(
                annotation,
                "ALIGNABLE_ANNOTATION",
                {"ANNOTATION_ID": f"a{annotations}", **references},
            )
            ElementTree.SubElement(aligned, "ANNOTATION_VALUE").text = span.text
        root.append(element)
    ElementTree.SubElement(
        root,
        "LINGUISTIC_TYPE",
        {
            "GRAPHIC_REFERENCES": "false",
            "LINGUISTIC_TYPE_ID": "default-lt",
            "TIME_ALIGNABLE": "true",
        },
    )
    ElementTree.indent(root)
    body = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def audacity(tiers: Tiers, _name: str) -> str:
    """A label track of Audacity: start, end and text, divided by tabs."""
    spans = sorted(
        (span for tier in tiers.tiers.values() for span in tier), key=lambda span: span.start
    )
    return "".join(
        f"{span.start:.6f}\t{span.end:.6f}\t{span.text.replace(chr(9), ' ')}\n" for span in spans
    )


def vtt(tiers: Tiers, _name: str) -> str:
    """Subtitles for a player in a browser (WebVTT)."""
    cues = ["WEBVTT\n"]
    for tier in tiers.tiers.values():
        for span in tier:
            text = span.text.replace("&", "&amp;").replace("<", "&lt;").replace("-->", "→")
            cues.append(f"{_clock(span.start)} --> {_clock(span.end)}\n{text}\n")
    return "\n".join(cues)


WRITERS: dict[str, tuple[str, Callable[[Tiers, str], str]]] = {
    "textgrid": (".TextGrid", textgrid),
    "elan": (".eaf", elan),
    "audacity": (".txt", audacity),
    "vtt": (".vtt", vtt),
}
"""Format → suffix of its files, and what writes one."""
BOTH_TIERS = ("textgrid", "elan")
"""Formats with both tiers at once; the others have one, of utterances by default."""


def _filled(spans: list[Span], length: float) -> list[Span]:
    """The spans, with empty ones between: the intervals of Praat cover the whole time."""
    whole: list[Span] = []
    at = 0.0
    for span in spans:
        if span.start > at:
            whole.append(Span(at, span.start, ""))
        whole.append(span)
        at = span.end
    if at < length or not whole:
        whole.append(Span(at, length, ""))
    return whole


def _number(seconds: float) -> str:
    return f"{seconds:.9f}".rstrip("0").rstrip(".")


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"
