"""What goes into the audit log, and in which words."""

from __future__ import annotations

import json
import os
from typing import Any

from pydantic import BaseModel

from speech_emotion import __version__
from speech_emotion.common.alert_address import shown_address
from speech_emotion.common.config.model import Config
from speech_emotion.common.config.privacy import AuditConfig
from speech_emotion.common.source_address import shown
from speech_emotion.common.wire.control_messages import LogIn, ReviewAct, SetMute, Swapped
from speech_emotion.supervision.privacy.audit_writer import AuditWriter

SETTING = 1000
"""Most characters of a setting's value in a record."""


def open_audit(config: AuditConfig) -> AuditWriter:
    """The configured audit log.

    Raises:
        UserError: it cannot be opened.
    """
    return AuditWriter(config.file, max_bytes=round(config.max_mb * 1e6), keep=config.keep)


def note_start(audit: AuditWriter, config: Config, bundle: str) -> None:
    """The pipeline starts: what is heard, and what is kept."""
    history = config.history
    audit.note(
        "start",
        version=__version__,
        pid=os.getpid(),
        bundle=bundle,
        sources={stream.name: shown(stream.source) for stream in config.stream},
        results=config.results,
        record=str(config.record) if config.record is not None else None,
        history=str(history.file) if history.file is not None else None,
        history_days=history.days if history.file is not None else None,
        review=str(config.review.file) if config.review.file is not None else None,
        review_hours=config.review.hours if config.review.file is not None else None,
        page=config.dashboard.listen,
        nats=config.nats.url,
        alerts={row.name: list(map(shown_address, row.to)) for row in config.alerts},
    )


def note_request(audit: AuditWriter, request: SetMute) -> None:
    """A person or program asks to mute or to unmute."""
    event = "mute asked" if request.muted else "unmute asked"
    audit.note_bounded(event, by=request.by, seconds=request.seconds)


def note_swap(audit: AuditWriter, outcome: Swapped, by: str) -> None:
    """A swap of bundles has ended.

    Args:
        by: who asked for it; empty: a person on this machine.
    """
    details = {"by": by[:100]} if by else {}
    audit.note("swap", done=outcome.code == 0, text=outcome.text, **details)


def note_log_in(audit: AuditWriter, message: LogIn) -> None:
    """The page received a token or a key."""
    address = message.address[:100]
    if message.key is None:
        event = "page opened" if message.accepted else "page refused"
        audit.note_bounded(event, address=address)
        return
    event = "api key used" if message.accepted else "api key refused"
    name, asked = message.key[:64] or None, (message.asked or "")[:100]
    audit.note_bounded(event, name=name, asked=asked, address=address)


def note_review(audit: AuditWriter, message: ReviewAct) -> None:
    """A person asked for sound, listened to it, gave a label, or had the bundle adapted."""
    told = {"stream": message.stream, "label": message.label}
    details = {name: value for name, value in told.items() if value is not None}
    audit.note_bounded(message.act, **details, address=message.address[:100])


def note_setting(audit: AuditWriter, by: str, key: str, before: Any, after: Any) -> None:
    """A setting was changed.

    Args:
        before, after: its values without secrets; None: it is unset.
    """
    old, new = (json.dumps(value, default=_plain)[:SETTING] for value in (before, after))
    audit.note("setting", key=key[:100], before=old, after=new, by=by)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


def note_key(
    audit: AuditWriter, domain: str, address: str, name: str | None, key: str | None
) -> None:
    """A client showed a key at an endpoint.

    Args:
        name: name of the allowed key; None: it was refused.
        key: the public key in Z85; None: the client has none.
    """
    event = "key allowed" if name is not None else "key refused"
    audit.note_bounded(event, endpoint=domain, address=address[:100], name=name, key=key)
