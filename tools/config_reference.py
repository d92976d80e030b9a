"""docs/CONFIGURATION.md, made from the configuration's own types.

python -m tools.config_reference > docs/CONFIGURATION.md
"""

from __future__ import annotations

import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import annotated_types as at
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from speech_emotion.common.config.model import ENV_PREFIX, Config
from speech_emotion.common.paths import DEFAULT_BUNDLE

HEAD = """\
# Configuration

<!-- Made by `python -m tools.config_reference > docs/CONFIGURATION.md`; do not edit. -->

Every key has a default; `speech-emotion run` needs no file. Precedence: the file of
`--config FILE`, environment variables, flags (`speech-emotion run --help`); later wins. A mistake
is one line that names the key, the value and what is allowed, and exit code 2.

```sh
.venv/bin/speech-emotion run --print-config                     # the effective configuration
.venv/bin/speech-emotion run --config examples/box.toml --print-config
SEP_RING__SECONDS=60 .venv/bin/speech-emotion run --print-config
```

The same as a file ([examples/box.toml](../examples/box.toml)):

```toml
{example}```
"""


def page() -> str:
    """The whole page as Markdown."""
    example = (Path(__file__).resolve().parent.parent / "examples" / "box.toml").read_text()
    tables = {name: model for name, f in Config.model_fields.items() if (model := _model(f))}
    parts = [HEAD.format(example=example)]
    plain = {n: f for n, f in Config.model_fields.items() if n not in tables}
    parts.append("## Keys outside a table\n\n" + _rows(plain, ""))
    for name, model in tables.items():
        many = get_origin(Config.model_fields[name].annotation) is tuple
        title = f"`[[{name}]]`" if many else f"`[{name}]`"
        text = f"## {title}\n\n"
        if many:
            text += f"{_sentence(Config.model_fields[name])} In the environment, all rows as JSON: "
            text += f"`{ENV_PREFIX}{name.upper()}`.\n\n"
        parts.append(text + _rows(model.model_fields, "" if many else f"{name}__", env=not many))
        for key, field in model.model_fields.items():
            if (row := _model(field)) is not None:
                parts.append(f"## `[[{name}.{key}]]`\n\n" + _rows(row.model_fields, "", env=False))
    return "\n".join(parts)


def _rows(fields: dict[str, FieldInfo], prefix: str, *, env: bool = True) -> str:
    head = ["key", "value", "default", "meaning", *(["environment variable"] if env else [])]
    lines = [head, ["---"] * len(head)]
    for name, field in fields.items():
        row = [f"`{name}`", _value(field), _default(field), field.description or ""]
        lines.append([*row, *([f"`{ENV_PREFIX}{(prefix + name).upper()}`"] if env else [])])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _model(field: FieldInfo) -> type[BaseModel] | None:
    """The table's model of a field that is one, or is rows of one."""
    hint = field.annotation
    candidates = get_args(hint) if get_origin(hint) is tuple else (hint,)
    for one in candidates:
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def _sentence(field: FieldInfo) -> str:
    text = field.description or ""
    return f"{text[:1].upper()}{text[1:]}."


def _value(field: FieldInfo) -> str:
    return _kind(field.annotation, _range(field.metadata)).replace("|", "\\|")


def _kind(hint: Any, bounds: str) -> str:
    """A type in a user's words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(f'`"{one}"`' for one in arguments)
    if origin is typing.Annotated:
        return _kind(arguments[0], _range(arguments[1:]))
    if origin is tuple and isinstance(arguments[0], type) and issubclass(arguments[0], BaseModel):
        return "rows"
    if origin is tuple:
        return f"list of {_kind(arguments[0], bounds)}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(one, bounds) for one in arguments if one is not type(None))
    words = {bool: "`true`, `false`", int: "whole number", float: "number", str: "text"}
    word = "path" if hint is Path else words.get(hint, getattr(hint, "__name__", str(hint)))
    return f"{word}{bounds}"


def _range(metadata: typing.Iterable[Any]) -> str:
    least = most = ""
    for one in metadata:
        match one:
            case at.Ge(low):
                least = f"{low:g}"
            case at.Gt(low):
                least = f"more than {low:g}"
            case at.Le(high):
                most = f"{high:g}"
        for inner in getattr(one, "metadata", ()):
            if text := _range([inner]):
                return text
    if least and most:
        return f", {least} to {most}"
    if least.startswith("more"):
        return f", {least}"
    return f", at least {least}" if least else f", at most {most}" if most else ""


def _default(field: FieldInfo) -> str:
    value = field.default
    if field.is_required():
        return "needed"
    if value is None:
        return "unset"
    if value == DEFAULT_BUNDLE:
        return '`"models/default"`'
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str | Path) else f"`{value:g}`"


if __name__ == "__main__":
    sys.stdout.write(page())
