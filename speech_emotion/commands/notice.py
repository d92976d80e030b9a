"""`speech-emotion notice`: a sign for the door, made from the configuration.

The law of the European Union wants people to be told that a program infers emotions from their
voices. The sign says what this configuration hears, keeps and shares; the browser prints it on A4.
"""

from __future__ import annotations

import datetime
import html
import locale
import math
import os
import string
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speech_emotion.common.bundle.manifest import load_bundle
from speech_emotion.common.config.load import load_config
from speech_emotion.common.config.model import Config
from speech_emotion.common.config.privacy import QuietHoursConfig
from speech_emotion.common.errors import EXIT_OK, UserError
from speech_emotion.common.privacy.quiet_hours import DAYS
from speech_emotion.common.security.exposure import split_listen
from speech_emotion.common.wire.endpoint import is_loopback, on_loopback

FOLDER = Path(__file__).parent
LANGUAGES = ("en", "de", "fr", "es", "it", "pl")
ICON = """\
<svg viewBox="0 0 100 100" role="img" aria-hidden="true"><rect x="2" y="2" width="96" height="96" \
rx="14" fill="#111"/><g fill="none" stroke="#fff" stroke-width="6" stroke-linecap="round">\
<path d="M22 49v3a13 13 0 0 0 26 0v-3"/><path d="M35 66v12M26 80h18"/><path d="M61 34q9 14 0 30"/>\
<path d="M72 26q15 22 0 46"/></g><rect x="27.5" y="20" width="15" height="38" rx="7.5" \
fill="#fff"/></svg>"""


def main(words: list[str]) -> int:
    """Run `speech-emotion notice`; returns the exit code.

    Raises:
        UserError: the configuration has a mistake, or the file cannot be written.
    """
    from speech_emotion.common.stage.main import Parser

    flags = Parser(
        prog="speech-emotion notice",
        description="Print a sign for the door as HTML, from the configuration; print it from a "
        "browser, also as PDF.",
    )
    flags.add_argument(
        "--lang", action="append", choices=LANGUAGES, help="may be repeated: one page for each"
    )
    flags.add_argument("--config", type=Path, metavar="FILE", help="TOML file of the pipeline")
    flags.add_argument("--out", type=Path, metavar="FILE", help="write this file; default: stdout")
    for name in ("controller", "contact", "purpose", "place"):
        flags.add_argument(f"--{name}", metavar="TEXT", help=f"instead of notice.{name}")
    arguments = flags.parse_args(words)
    config = load_config(arguments.config, {})
    given = {name: getattr(arguments, name) for name in type(config.notice).model_fields}
    notice = config.notice.model_copy(update={k: v for k, v in given.items() if v is not None})
    config = config.model_copy(update={"notice": notice})
    labels = load_bundle(config.bundle).labels
    page = sign(config, labels, arguments.lang or [own_language()], datetime.date.today())
    if arguments.out is None:
        print(page, end="")
        return EXIT_OK
    try:
        arguments.out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{arguments.out}: cannot be written ({error.strerror})") from None
    print(f"{arguments.out}: open it in a browser and print it on A4")
    return EXIT_OK


def own_language() -> str:
    """The user's language, if there is a sign in it; else English."""
    name = os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG") or ""
    code = locale.normalize(name).partition("_")[0].lower()
    return code if code in LANGUAGES else "en"


def read_texts(language: str) -> dict[str, Any]:
    """The texts of a language."""
    return tomllib.loads((FOLDER / "notice_texts" / f"{language}.toml").read_text("utf-8"))


def sign(
    config: Config, labels: tuple[str, ...] | list[str], languages: list[str], today: datetime.date
) -> str:
    """The HTML document: one page for each language.

    Args:
        labels: what the bundle may say.
        today: the date on the sign.
    """
    pages = "".join(_page(config, labels, language, today) for language in languages)
    title = html.escape(read_texts(languages[0])["title"])
    return (
        f'<!doctype html>\n<html lang="{languages[0]}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{(FOLDER / 'notice.css').read_text()}</style>\n"
        f"</head>\n<body>\n{pages}</body>\n</html>\n"
    )


def _page(
    config: Config, labels: tuple[str, ...] | list[str], language: str, today: datetime.date
) -> str:
    texts = read_texts(language)
    notice = config.notice
    lead = texts["lead"] if notice.place is None else _fill(texts["lead_place"], place=notice.place)
    recorded = config.record is not None or config.review.file is not None
    badge = f'<p class="badge">{html.escape(texts["recorded_badge"])}</p>' if recorded else ""
    rows = [
        (texts["heard"], _paragraphs([_heard(texts, labels)])),
        (texts["kept"], _paragraphs(_kept(config, texts, language))),
        (texts["shared"], _paragraphs(_shared(config, texts))),
        (texts["purpose"], _given(texts, notice.purpose)),
        (texts["off"], _paragraphs(_off(config, texts))),
        (texts["who"], _given(texts, notice.controller, notice.contact)),
    ]
    table = "".join(f"<dt>{html.escape(name)}</dt><dd>{content}</dd>\n" for name, content in rows)
    printed = _fill(texts["printed"], date=f"{today:%Y-%m-%d}")
    foot = " ".join(html.escape(text) for text in (texts["rights"], texts["law"], printed))
    return (
        f'<section lang="{language}">\n<header>{ICON}<div><h1>{html.escape(texts["title"])}</h1>'
        f'<p class="lead">{html.escape(lead)}</p>{badge}</div></header>\n'
        f"<dl>\n{table}</dl>\n<footer><p>{foot}</p></footer>\n</section>\n"
    )


def _heard(texts: dict[str, Any], labels: tuple[str, ...] | list[str]) -> str:
    words = [str(texts["labels"].get(label, label)) for label in labels]
    if not words:
        return str(texts["heard_text_unlabelled"])
    return _fill(texts["heard_text"], labels=", ".join(words))


def _kept(config: Config, texts: dict[str, Any], language: str) -> Iterator[str]:
    if config.record is not None:
        yield texts["sound_recorded"]
    elif config.review.file is not None:
        hours = _counted(texts, "hours", math.ceil(config.review.hours), language)
        yield _fill(texts["sound_review"], hours=hours)
    else:
        seconds = _counted(texts, "seconds", math.ceil(config.ring.seconds), language)
        yield _fill(texts["sound_memory"], seconds=seconds)
    if config.history.file is not None:
        days = _counted(texts, "days", math.ceil(config.history.days), language)
        yield _fill(texts["results_kept"], days=days)
    else:
        yield texts["results_not_kept"]
    if config.audit.file is not None:
        yield texts["audit_kept"]


def _shared(config: Config, texts: dict[str, Any]) -> Iterator[str]:
    inside = on_loopback(config.results)
    listen, base_url = config.dashboard.listen, config.dashboard.base_url
    page = listen is not None and (base_url is not None or not is_loopback(split_listen(listen)[0]))
    if not inside:
        yield texts["shared_network"] if config.curve.lock is not None else texts["shared_open"]
    if page:
        yield texts["page_network"]
    if config.infer_host.wanted is not None:
        yield texts["shared_infer"]
    elif inside and not page:
        yield texts["shared_here"]


def _off(config: Config, texts: dict[str, Any]) -> Iterator[str]:
    yield texts["off_hand"]
    if config.mute.switch is not None:
        yield texts["off_switch"]
    if config.light.led is not None or config.light.command is not None:
        yield texts["off_light"]
    if config.mute.quiet_hours:
        hours = "; ".join(_hours(row, texts) for row in config.mute.quiet_hours)
        yield _fill(texts["off_hours"], hours=hours)


def _hours(row: QuietHoursConfig, texts: dict[str, Any]) -> str:
    days = [texts["days"][DAYS.index(day)] for day in DAYS if day in row.days]
    when = texts["every_day"] if len(days) == len(DAYS) else ", ".join(days)
    return f"{row.begin}\N{EN DASH}{row.end} ({when})"


def _given(texts: dict[str, Any], *values: str | None) -> str:
    """What the operator has configured; dotted lines to fill in by hand where it is missing."""
    if not any(values):
        blank = '<span class="fill"></span>'
        return f'<span class="fill">{html.escape(texts["fill"])}</span>{blank}'
    return _paragraphs(value for value in values if value)


def _paragraphs(texts: Any) -> str:
    return "".join(f"<p>{html.escape(text)}</p>" for text in texts)


def _counted(texts: dict[str, Any], unit: str, number: int, language: str) -> str:
    """A number with its unit in the form that the language wants."""
    form = "one" if number == 1 else "many"
    if language == "pl" and 2 <= number % 10 <= 4 and not 12 <= number % 100 <= 14:
        form = "few"
    return f"{number}\N{NO-BREAK SPACE}{texts[f'{unit}_{form}']}"


def _fill(text: str, **values: str) -> str:
    """A text with its fields filled in; braces in a value stay as they are."""
    return string.Formatter().vformat(text, (), values)
