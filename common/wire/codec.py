"""Encode and decode messages: one msgpack map of plain types, each checked and bounded.

Decoders accept any bytes and raise `ProtocolError` for everything that is not a message.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
import zlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin

import msgpack

VERSION = 1
"""Version of the public protocol; a decoder refuses a higher one."""


MAX_FRAME = 4 << 20
"""Longest frame in bytes that a decoder accepts, and the limit of every socket."""


CRC_BYTES = 4
"""Length of the CRC-32. Without it a flipped bit in a number would be another valid number."""


MAX_ITEMS = 4096
"""Most items of a list or map."""


MAX_TEXT = 4096
"""Longest text in bytes of UTF-8."""


MAX_INT = 2**53
"""Largest magnitude of an integer: JSON readers hold it exactly, and sums do not overflow."""


M = TypeVar("M", bound="Message")


Check = Callable[[Any], Any]


class ProtocolError(ValueError):
    """The bytes are not a message of this protocol version."""


@dataclasses.dataclass(frozen=True)
class Message:
    """Base of all messages; subclasses are dataclasses with fields of plain types.

    Attributes:
        absent: fields that are left out of the map where they are None.
    """

    absent: ClassVar[frozenset[str]] = frozenset()


def framed(body: bytes) -> bytes:
    """A frame: the CRC-32 of a packed map (little-endian), then the map."""
    return zlib.crc32(body).to_bytes(CRC_BYTES, "little") + body


def _plain(message: Message) -> dict[str, Any]:
    # dataclasses.asdict copies deeply and takes longer than the rest of the encoding.
    plain: dict[str, Any] = {}
    for name in _checks(type(message)):
        value = getattr(message, name)
        if value is None and name in message.absent:
            continue
        if isinstance(value, Message):
            value = _plain(value)
        elif type(value) is list and value and isinstance(value[0], Message):
            value = [_plain(item) for item in value]
        plain[name] = value
    return plain


def _pack(table: Mapping[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(table, use_bin_type=True)
    return packed


def _unpack(frame: bytes | memoryview) -> dict[str, Any]:
    if len(frame) > MAX_FRAME:
        raise ProtocolError(f"frame of {len(frame)} bytes; the limit is {MAX_FRAME}")
    try:
        table = msgpack.unpackb(
            frame,
            raw=False,
            strict_map_key=True,
            max_str_len=MAX_TEXT,
            max_bin_len=MAX_FRAME,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError(f"not msgpack within bounds ({type(error).__name__})") from None
    if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
        raise ProtocolError("not a map with text keys")
    return table


def _build(cls: type[M], table: Mapping[str, Any]) -> M:
    values = {}
    for name, (check, unchecked) in _checks(cls).items():
        value = table.get(name, _ABSENT)
        if type(value) is unchecked:
            values[name] = value
            continue
        if value is _ABSENT:
            if hasattr(cls, name):  # has a default: a key added after version 1
                continue
            raise ProtocolError(f"{cls.__name__} without {name}")
        try:
            values[name] = check(value)
        except ProtocolError as error:
            raise ProtocolError(f"{cls.__name__}.{name}: {error}") from None
    return cls(**values)


_ABSENT = object()
_UNCHECKED = (str, bool, bytes)
"""Types that need no check beyond their own: msgpack bounds the length of texts and bytes."""
_CHECKS: dict[type[Message], dict[str, tuple[Check, type | None]]] = {}


def _checks(cls: type[Message]) -> dict[str, tuple[Check, type | None]]:
    """The check of each field, and the type of values that need none."""
    if cls not in _CHECKS:
        hints = typing.get_type_hints(cls)
        _CHECKS[cls] = {
            f.name: (_check_for(hints[f.name]), _unchecked_type(hints[f.name]))
            for f in dataclasses.fields(cls)
        }
    return _CHECKS[cls]


def _unchecked_type(hint: Any) -> type | None:
    optional = get_origin(hint) in (Union, types.UnionType)
    return next((t for t in _UNCHECKED if t in (get_args(hint) if optional else (hint,))), None)


def _check_for(hint: Any) -> Check:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        (inner,) = (_check_for(arg) for arg in get_args(hint) if arg is not type(None))
        return lambda value: None if value is None else inner(value)
    if origin is list:
        item = _check_for(get_args(hint)[0])
        return lambda value: [item(x) for x in _typed(value, list)]
    if origin is dict:
        if get_args(hint)[1] is Any:
            return lambda value: _typed(value, dict)
        item = _check_for(get_args(hint)[1])
        return lambda value: {_typed(k, str): item(x) for k, x in _typed(value, dict).items()}
    if isinstance(hint, type) and issubclass(hint, Message):
        return lambda value: _build(hint, _typed(value, dict))
    if hint is float:
        return _finite
    if hint is int:
        return _whole
    return lambda value: _typed(value, hint)


def _typed(value: Any, expected: type) -> Any:
    if type(value) is not expected:
        raise ProtocolError(f"{type(value).__name__} where {expected.__name__} belongs")
    return value


def _whole(value: Any) -> int:
    number: int = _typed(value, int)
    if abs(number) > MAX_INT:
        raise ProtocolError("an integer beyond 2**53")
    return number


def _finite(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ProtocolError("not a finite number")
    return float(value)
