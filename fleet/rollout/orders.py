"""Orders of the centre to a box and reports of a box: names, contents, signatures. Pure.

An order is a value of a key-value bucket on the centre. It is signed with an Ed25519 key whose
public half is in the configuration of the box, so that neither the server of the centre nor another
box can give one. A report is the newest message of a subject of the box (docs/FLEET.md).
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import re
from typing import Any

from speech_emotion.common.wire.states import REFUSED, ROLLED_BACK
from speech_emotion.fleet.streams import CENTRE

BUCKET, OBJECTS = "SEP-ROLLOUT", "SEP-BUNDLES"
ORDERS_STREAM, OBJECTS_STREAM = f"KV_{BUCKET}", f"OBJ_{OBJECTS}"
"""What NATS calls the streams of a key-value bucket and of an object store."""
USE, BACK, NONE = ACTIONS = ("use", "back", "none")
"""Use a bundle; use the one before it again; do nothing, because the roll-out was stopped."""
READY, TESTING, TAKEN, TAKEN_BACK, WITHDRAWN, OFF = (
    *("ready", "testing", "taken", "taken back", "withdrawn", "off"),
)
FAILED = (REFUSED, ROLLED_BACK)
"""States of a report that stop a roll-out."""
REASON = 300
"""Longest reason in characters."""
PURPOSE = b"speech-emotion order 1\n"
"""Begins what is signed, so that a signature serves no other purpose."""
BUNDLE = re.compile(r"[a-z0-9_-]{1,40}@[0-9a-f]{8}")
DIGEST = re.compile(r"[0-9a-f]{64}")
OBJECT = re.compile(r"[A-Za-z0-9]{1,40}")


class OrderError(Exception):
    """An order that a box does not carry out: why."""


@dataclasses.dataclass(frozen=True)
class Order:
    """What a box has to do.

    Attributes:
        number: of the roll-out; a box carries out greater ones than before only.
        site, box: the box.
        action: one of `ACTIONS`.
        bundle: id of the bundle.
        digest: SHA-256 of its manifest in hex.
        object: name that the object store gave to its chunks.
        size: bytes of its archive.
        sha256: of its archive, in hex.
        watch_s: seconds for which the box observes the pipeline with the bundle.
        max_ms: greatest median latency of results in milliseconds.
    """

    number: int
    site: str
    box: str
    action: str
    bundle: str
    digest: str
    object: str
    size: int
    sha256: str
    watch_s: float
    max_ms: float


@dataclasses.dataclass(frozen=True)
class Report:
    """What a box has done.

    Attributes:
        number: of the roll-out; 0: it has had none.
        state: `ready` (no order yet), `testing`, `taken`, `refused`, `rolled back`, `taken back`,
            `withdrawn`, or `off`: it takes no bundles.
        bundle: id of the bundle of the order; empty before one.
        reason: why it was refused or rolled back.
    """

    number: int = 0
    state: str = READY
    bundle: str = ""
    reason: str = ""

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> Report:
        """The report in an event; raises ValueError, KeyError for another message."""
        return cls(
            *(int(table["number"]), str(table["state"]), str(table["bundle"])),
            str(table["reason"])[:REASON],
        )


def key_of(site: str, box: str) -> str:
    """Key of the orders of a box in the bucket."""
    return f"box.{site}.{box}"


def order_subject(site: str, box: str) -> str:
    """Subject of that key."""
    return f"$KV.{BUCKET}.{key_of(site, box)}"


def chunk_subject(object: str) -> str:
    """Subject of the chunks of an object."""
    return f"$O.{OBJECTS}.C.{object}"


def box_requests(site: str, box: str, *, leaf: bool) -> list[str]:
    """What a box may ask the centre for: its own order, and chunks of bundles.

    Args:
        leaf: it asks through a server of its own. The centre judges a request of a client after it
            has replaced the domain, that of a leaf node before.
    """
    get = f"$JS.{CENTRE}.API.DIRECT.GET" if leaf else "$JS.API.DIRECT.GET"
    return [f"{get}.{ORDERS_STREAM}.{order_subject(site, box)}", f"{get}.{OBJECTS_STREAM}"]


def signed(order: Order, seed: bytes) -> bytes:
    """An order as it is sent.

    Args:
        seed: 32 bytes of an Ed25519 key.
    """
    import nacl.signing

    text = json.dumps(dataclasses.asdict(order))
    signature = nacl.signing.SigningKey(seed).sign(PURPOSE + text.encode()).signature
    table = {"order": text, "signature": base64.b64encode(signature).decode()}
    return json.dumps(table).encode()


def opened(body: bytes, public_key: str, site: str, box: str) -> Order:
    """The order that a box has received.

    Args:
        public_key: NKey that must have signed it.

    Raises:
        OrderError: it is damaged, for another box, or not signed by that key.
    """
    import nacl.exceptions
    import nacl.signing

    try:
        table = json.loads(body)
        text, signature = str(table["order"]).encode(), base64.b64decode(table["signature"])
        nacl.signing.VerifyKey(_raw_key(public_key)).verify(PURPOSE + text, signature)
        order = _order(json.loads(text))
    except nacl.exceptions.BadSignatureError:
        raise OrderError("the order is not signed by the key `nats.rollout` of this box") from None
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        raise OrderError("the order is damaged, or of another version") from None
    if (order.site, order.box) != (site, box):
        raise OrderError(f"the order is for {order.site} {order.box}")
    return order


def number_of(body: bytes) -> int:
    """The number of an order that cannot be trusted; 0 where it has none."""
    try:
        number = json.loads(json.loads(body)["order"])["number"]
    except (ValueError, KeyError, TypeError):
        return 0
    return number if type(number) is int and 0 < number < 1 << 53 else 0


def _order(table: dict[str, Any]) -> Order:
    known = {field.name: field.type for field in dataclasses.fields(Order)}
    kinds: dict[str, Any] = {"int": int, "str": str, "float": (int, float)}
    order = Order(**{name: table[name] for name in known})  # further keys are of later versions
    good = (
        all(isinstance(getattr(order, name), kinds[str(kind)]) for name, kind in known.items())
        and order.number > 0
        and order.action in ACTIONS
        and BUNDLE.fullmatch(order.bundle)
        and DIGEST.fullmatch(order.digest)
        and DIGEST.fullmatch(order.sha256)
        and OBJECT.fullmatch(order.object)
    )
    if not good:
        raise ValueError
    return order


def _raw_key(key: str) -> bytes:
    """The 32 bytes of a public NKey: a prefix is before them, a checksum after them."""
    return base64.b32decode(key.encode())[1:33]
