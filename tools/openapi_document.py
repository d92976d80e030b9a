"""dashboard/api/openapi.json and the tables of docs/API_HTTP.md, made from the declared operations.

python -m tools.openapi_document prints the document, with --tables the tables.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
from typing import Any

from pydantic import TypeAdapter

from speech_emotion.common.wire import public
from speech_emotion.common.wire.codec import VERSION
from speech_emotion.dashboard import messages
from speech_emotion.dashboard.api.declared import Operation, Parameter
from speech_emotion.dashboard.api.operations import BASE, JSON, OPERATIONS

REFUSALS = {
    400: "a parameter or the body is malformed",
    401: "the token or key is missing or wrong",
    403: "the request comes from another origin or site, or the key can only read",
}
BODY_REFUSALS = {413: "the body is too long", 415: "the body is not application/json"}
EVENTS: dict[str, type] = {
    "state": messages.State,
    "result": public.Result,
    "utterance": public.Utterance,
    "info": public.Info,
    "health": public.Health,
    "status": messages.Statuses,
    "gap": messages.Gap,
}
"""Kind of an event → what its data is."""
Schema = dict[str, Any]


def document() -> Schema:
    """The OpenAPI document."""
    paths: dict[str, Schema] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Speech emotion",
            "version": "1",
            "description": "The HTTP interface of the live page; see docs/API_HTTP.md.",
        },
        "servers": [{"url": "."}],
        "security": [{}, {"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "the token of the page, or a key of `speech-emotion api-key`",
                }
            },
            "schemas": schemas(),
        },
    }


def described(operation: Operation) -> Schema:
    """One operation."""
    parameters = [described_parameter(one) for one in operation.parameters]
    if operation.events:
        parameters.append(
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "id of the last event that the client has",
                "schema": {"type": "string"},
            }
        )
    answer: Schema = {"description": operation.summary}
    answer["content"] = {
        media: {"schema": {"type": "object"} if kind is None and media == JSON else of(kind)}
        for media, kind in operation.answers.items()
    }
    refusals = {**REFUSALS, **(BODY_REFUSALS if operation.body else {}), **operation.refusals}
    table: Schema = {
        "operationId": operation.name if not operation.events else operation.path.strip("/"),
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {
            "200": answer,
            **{
                str(status): {
                    "description": text,
                    "content": {JSON: {"schema": of(messages.Error)}},
                }
                for status, text in sorted(refusals.items())
            },
        },
    }
    if operation.events:
        table["x-events"] = {kind: of(EVENTS[kind]) for kind in operation.events}
    if operation.body is not None:
        table["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": of(operation.body)}},
        }
    return table


def described_parameter(parameter: Parameter) -> Schema:
    return {
        "name": parameter.name,
        "in": "query",
        "description": parameter.text,
        "required": parameter.required,
        "schema": dict(parameter.schema),
    }


def of(kind: type | None) -> Schema:
    """A reference to the schema of a class; None is text."""
    if kind is None:
        return {"type": "string"}
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def schemas() -> dict[str, Schema]:
    """The schema of every class that is sent or received, by its name."""
    used = {kind for one in OPERATIONS for kind in one.answers.values() if kind is not None}
    used |= {*EVENTS.values(), messages.Error}
    bodies = {one.body for one in OPERATIONS if one.body is not None}
    inputs: list[Any] = [
        *((kind.__name__, "serialization", TypeAdapter(kind)) for kind in used),
        *((kind.__name__, "validation", TypeAdapter(kind)) for kind in bodies),
    ]
    _, found = TypeAdapter.json_schemas(inputs, ref_template="#/components/schemas/{model}")
    classes = {
        name: value
        for module in (messages, public)
        for name, value in vars(module).items()
        if dataclasses.is_dataclass(value)
    }
    return {
        name: finished(schema, classes[name], name in {one.__name__ for one in bodies})
        for name, schema in sorted(found["$defs"].items())
    }


def finished(schema: Schema, kind: Any, closed: bool) -> Schema:
    """A schema with the sentences of the class's docstring."""
    text = inspect.getdoc(kind) or ""
    schema["description"] = text.partition("\n\n")[0].replace("\n", " ")
    sentences = attributes(text)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name, own in schema["properties"].items():
        own.pop("title", None)
        own.update(fields[name].metadata.get("schema", {}))
        if name in sentences:
            own["description"] = sentences[name]
    if kind in public.PUBLIC.values():
        schema["properties"]["v"] = {"const": VERSION, "description": "version of the protocol"}
        schema["required"].append("v")
        schema["properties"]["replay"] = {
            "type": "boolean",
            "description": "the last message of its kind from before the server started",
        }
    if closed:
        schema["additionalProperties"] = False
    return schema


def attributes(text: str) -> dict[str, str]:
    """The sentences of the block `Attributes:` of a docstring, by name."""
    block = re.search(r"Attributes:\n((?: {4}.*\n?|\n)+)", text)
    found: dict[str, str] = {}
    if block is None:
        return found
    entries = re.split(r"\n(?=    \S)", "\n" + block[1].rstrip())
    for entry in entries:
        names, _, sentence = " ".join(entry.split()).partition(": ")
        found.update(dict.fromkeys(names.split(", "), sentence))
    return found


def page() -> str:
    """The file that the server serves."""
    return json.dumps(document(), indent=1) + "\n"


def tables() -> str:
    """The tables of docs/API_HTTP.md."""
    lines = ["| request | answer |", "|---|---|"]
    for one in OPERATIONS:
        kinds = ", ".join(f"`{media}`" for media in one.answers)
        lines.append(f"| `{one.method} {BASE}{one.path}` | {one.summary} {kinds} |")
    lines += ["", "| parameter | of | meaning |", "|---|---|---|"]
    places: dict[tuple[str, str], list[str]] = {}
    for one in OPERATIONS:
        for parameter in one.parameters:
            places.setdefault((parameter.name, parameter.text), []).append(one.path)
    for (name, text), paths in places.items():
        of_these = ", ".join(f"`{path}`" for path in paths)
        lines.append(f"| `{name}` | {of_these} | {text} |")
    lines += ["", "| status | when |", "|---|---|"]
    statuses: dict[int, list[str]] = {status: [text] for status, text in REFUSALS.items()}
    for one in OPERATIONS:
        for status, text in {**one.refusals, **(BODY_REFUSALS if one.body else {})}.items():
            if text not in statuses.setdefault(status, []):
                statuses[status].append(text)
    for status, texts in sorted(statuses.items()):
        lines.append(f"| {status} | {'; '.join(texts)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(tables() if "--tables" in sys.argv else page())
