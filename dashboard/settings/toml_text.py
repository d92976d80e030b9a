"""Change values in the text of a TOML file; comments, order and all other keys stay."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, MutableMapping
from typing import Any

import tomlkit
import tomlkit.exceptions
from tomlkit.items import AoT, Table

from speech_emotion.common.errors import UserError

NAME = "name"
"""Key that rows of one array have to tell them apart, where they have it."""
ODD = (AttributeError, KeyError, RecursionError, TypeError, ValueError)
"""What values raise that no configuration has, such as a table in place of a number."""
Row = dict[str, Any]


def changed(text: str, changes: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """The text with other values.

    Args:
        changes: key such as `history.days` → its value; None: the key is removed. Rows are a list
            of tables.
        defaults: key of a row such as `alerts.threshold` → its default, which is not written where
            it was not written before.

    Raises:
        UserError: the text is no TOML, or its form cannot be changed here.
    """
    try:
        wanted: Row = tomllib.loads(text)
        document = tomlkit.parse(text)
        for key, given in changes.items():
            value = _merged(_found(wanted, key), given, key, defaults)
            _set(wanted, key, value, dict)
            _set(document, key, value, tomlkit.table)
        result = document.as_string()
        same = tomllib.loads(result) == wanted and bool(result.encode()) == bool(result)
    except (tomlkit.exceptions.TOMLKitError, *ODD) as error:
        raise UserError(f"{', '.join(changes)}: cannot be changed here ({error})") from None
    if not same:  # such as a table in several places
        raise UserError(f"{', '.join(changes)}: cannot be changed here; edit the file")
    return result


def _found(table: Mapping[str, Any], key: str) -> Any:
    name, _, rest = key.partition(".")
    value = table.get(name)
    return _found(value, rest) if rest and isinstance(value, dict) else None if rest else value


def _merged(old: Any, given: Any, key: str, defaults: Mapping[str, Any]) -> Any:
    """The value to write; rows in the order of the file, and without what need not be written."""
    if not _is_rows(given):
        if [old] == given:  # a list of one may stand without brackets
            return old
        return None if given == [] else given
    before = old if _is_rows(old) else []
    pairs = _pairs(before, given)
    taken = [id(row) for row in pairs.values()]
    rows = [(before[number], pairs[number]) for number in sorted(pairs)]
    rows += [({}, row) for row in given if id(row) not in taken]
    merged = []
    for was, row in rows:
        whole = {
            name: _merged(was.get(name), value, f"{key}.{name}", defaults)
            for name, value in row.items()
            if name in was or value != defaults.get(f"{key}.{name}")
        }
        merged.append({name: value for name, value in whole.items() if value is not None})
    return merged


def _pairs(old: list[Row], given: list[Row]) -> dict[int, Row]:
    """Number of an old row → the row that it becomes: an equal one, of its name, or the next."""
    pairs: dict[int, Row] = {}
    left = list(given)
    for same in (
        lambda one, other: one == other,
        lambda one, other: NAME in one and one[NAME] == other.get(NAME),
        lambda _, __: True,
    ):
        for number, row in enumerate(old):
            found = next((one for one in left if number not in pairs and same(row, one)), None)
            if found is not None:
                pairs[number] = found
                left = [one for one in left if one is not found]
    return pairs


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _set(table: MutableMapping[str, Any], key: str, value: Any, make: Any) -> None:
    """Set a value in a table of either library; `make` makes a new table."""
    name, _, rest = key.partition(".")
    if rest:
        if name not in table:
            if value is None:
                return
            table[name] = make()
        _set(table[name], rest, value, make)
    elif value is None:
        table.pop(name, None)
    elif isinstance(table.get(name), AoT) and _is_rows(value):
        _set_rows(table[name], value)
    elif _is_rows(value) and isinstance(table, Table | tomlkit.TOMLDocument) and name not in table:
        table[name] = rows = tomlkit.aot()
        _set_rows(rows, value)
    elif name not in table or table[name] != value:
        table[name] = value


def _set_rows(rows: AoT, wanted: list[Row]) -> None:
    """Change rows in place: those that stay keep their comments."""
    old: list[Row] = [row.unwrap() for row in rows]
    pairs = _pairs(old, wanted)
    for number in range(len(old) - 1, -1, -1):
        if number not in pairs:
            del rows[number]
            continue
        table, row = rows[number], pairs[number]
        for key in [key for key in table if key not in row]:
            table.remove(key)
        for key, value in row.items():
            if old[number].get(key) != value:
                _set(table, key, value, tomlkit.table)
    taken = [id(row) for row in pairs.values()]
    for row in wanted:
        if id(row) not in taken:
            table = tomlkit.table()
            if rows and not rows[-1].as_string().endswith("\n\n"):
                table.trivia.indent = "\n"
            inner = [key for key, value in row.items() if _is_rows(value)]
            for key in [key for key in row if key not in inner]:
                _set(table, key, row[key], tomlkit.table)
            table.add(tomlkit.nl())
            for key in inner:
                _set(table, key, row[key], tomlkit.table)
            rows.append(table)
