"""Where an alert is sent: the syntax of an address, and how to show it without credentials."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shlex
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from speech_emotion.common.errors import UserError
from speech_emotion.common.wire.endpoint import check_host_name

ADDRESSES = (
    "https://HOST/PATH (a webhook; or http), ntfy+https://HOST/TOPIC (or ntfy+http), "
    "smtps://HOST/RECIPIENT (or smtp), mqtts://HOST/TOPIC (or mqtt), command:PROGRAM ARGUMENTS"
)
PORTS = {
    "http": 80,
    "https": 443,
    "ntfy+http": 80,
    "ntfy+https": 443,
    "smtp": 587,
    "smtps": 465,
    "mqtt": 1883,
    "mqtts": 8883,
}
"""Scheme of a URL → its usual port."""
KINDS = {"http": "webhook", "https": "webhook", "smtps": "smtp", "mqtts": "mqtt"}
HIDDEN = "***"
SHORTEST = 4
"""Shortest secret that is replaced in a text: a shorter one is a part of many words."""

SHORTEST_TOKEN = 8
"""The same for a part of an argument."""

_TOPIC = r"[-_A-Za-z0-9]{1,64}|\*{3}"
_MAILBOX = r"[^\s@<>,;:\"()\[\]\\]+@[^\s@<>,;:\"()\[\]\\]+"


@dataclasses.dataclass(frozen=True)
class AlertAddress:
    """An address in its parts.

    Attributes:
        kind: `webhook`, `ntfy`, `smtp`, `mqtt` or `command`.
        key: short text that names it, without secrets; the same for another password.
        shown: how people see it: without user name, password, token and secret path.
        tls: whether the connection is encrypted from its start.
        host, port: the server.
        user, password: credentials; None where it has none.
        target: path and query of a webhook, topic, or recipient.
        sender: sender of an e-mail.
        words: program and arguments of a command.
        secrets: what may not be seen, the longest first.
    """

    kind: str
    key: str
    shown: str
    tls: bool = False
    host: str = ""
    port: int = 0
    user: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    target: str = dataclasses.field(default="", repr=False)
    sender: str = ""
    words: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    secrets: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    @property
    def netloc(self) -> str:
        """Host and port, as in a URL."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def without_secrets(self, text: str) -> str:
        """A text of another program, such as an error, without the secrets of this address."""
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        return text


def shown_address(text: str) -> str:
    """An address for people; of one that is malformed only its beginning."""
    try:
        return parse_address(text).shown
    except UserError:
        return f"{text.partition(':')[0][:20]}:{HIDDEN}"


def check_address(text: str) -> str:
    """`text` itself; raises UserError where it is no address. The error has no secret."""
    parse_address(text)
    return text


def parse_address(text: str) -> AlertAddress:
    """The parts of an address.

    Raises:
        UserError: it is none; the text of the error has no secret.
    """
    scheme, _, rest = text.partition(":")
    if scheme == "command":
        return _command(rest)
    if scheme not in PORTS:
        raise UserError(f"address {scheme[:20]!r}:… is not known; allowed: {ADDRESSES}")
    if not text.isprintable() or re.search(r"\s", text):
        raise UserError(f"an address of {scheme} holds no spaces; write %20")
    try:
        parts = urlsplit(text)
        complete = bool(parts.hostname) and parts.port != 0 and "#" not in text
    except ValueError:
        complete = False
    if not complete:
        raise UserError(
            f"an address of {scheme} must be {scheme}://HOST[:PORT]/…; write # as %23, and in a "
            "user name or password / as %2F and @ as %40"
        )
    check_host_name(parts.hostname or "")
    return _of_url(scheme, parts)


def _command(text: str) -> AlertAddress:
    try:
        words = tuple(shlex.split(text))
    except ValueError:
        raise UserError("command: a quotation mark is not closed") from None
    if not words:
        raise UserError("command: the program is missing")
    shown = f"command:{shlex.quote(words[0])}" + (f" {HIDDEN}" if len(words) > 1 else "")
    key = _key(f"command:{text}")
    # A token may be a part of an argument: `--token=…`, or a script of a shell.
    tokens = {part for word in words[1:] for part in re.split(r"[\s'\"=;:]+", word)}
    secrets = _secrets((*words[1:], *(token for token in tokens if len(token) >= SHORTEST_TOKEN)))
    return AlertAddress("command", key, shown, words=words, secrets=secrets)


def _of_url(scheme: str, parts: SplitResult) -> AlertAddress:
    host, port = parts.hostname or "", parts.port or PORTS[scheme]
    name = f"[{host}]" if ":" in host else host
    place = f"{scheme}://{name}" + (f":{port}" if port != PORTS[scheme] else "")
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    user = unquote(parts.username) if parts.username is not None else None
    password = unquote(parts.password) if parts.password is not None else None
    kind = KINDS.get(scheme, scheme.partition("+")[0])
    # The path of a webhook and the topic of ntfy work as passwords.
    target, shown, hidden = path or "/", place, [path.lstrip("/")]
    sender = ""
    match kind:
        case "webhook":
            shown += f"/{HIDDEN}" if path.strip("/") else ""
        case "ntfy":
            target = parts.path.strip("/")
            if not re.fullmatch(_TOPIC, target):
                raise UserError(f"{place}: the topic must be 1 to 64 of a-z, A-Z, 0-9, _ and -")
            shown += f"/{HIDDEN}"
        case "smtp":
            target, hidden = unquote(parts.path.strip("/")), []
            sender = parse_qs(parts.query).get("from", [user or target])[0]
            sender = sender if "@" in sender else target
            for mailbox in (target, sender):
                if not re.fullmatch(_MAILBOX, mailbox) or not mailbox.isascii():
                    raise UserError(
                        f"{place}: must be {scheme}://HOST/RECIPIENT[?from=SENDER] with two "
                        "e-mail addresses"
                    )
            shown += f"/{target}" + (f"?from={sender}" if sender != target else "")
        case "mqtt":
            target, hidden = unquote(parts.path.removeprefix("/")), []
            if not target or re.search(r"[+#\0]", target) or len(target.encode()) > 1000:
                raise UserError(f"{place}: must be {scheme}://HOST/TOPIC, without + and #")
            shown += f"/{target}"
    return AlertAddress(
        kind=kind,
        key=_key(f"{place}{path}"),
        shown=shown,
        tls=scheme.endswith("s"),
        host=host,
        port=port,
        user=user,
        password=password,
        target=target,
        sender=sender,
        secrets=_secrets((*hidden, *((password,) if password else ()))),
    )


def _key(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _secrets(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({w for w in words if len(w) >= SHORTEST}, key=len, reverse=True))
