"""OpenAPI documents of the two peers, written as tables: what can be asked, and every answer there is to it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]

TEXT: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer", "format": "int64"}
NOTHING = None
"""An answer without a body."""


@dataclass(frozen=True, slots=True)
class Body:
    """The content of a request or of an answer."""

    schema: Schema
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Operation:
    """One request and its answers: status → bodies (several: by content type)."""

    method: str
    path: str
    summary: str
    answers: Mapping[int, tuple[Body, ...]]
    parameters: tuple[Schema, ...] = ()
    body: Body | None = None
    security: str = ""
    body_required: bool = True
    extra: Mapping[str, Any] = field(default_factory=dict)


def record(**fields: Schema) -> Schema:
    """An object with these fields; a name ending in `_` is optional (without the `_`)."""
    return {
        "type": "object",
        "properties": {name.removesuffix("_"): schema for name, schema in fields.items()},
        "required": [name for name in fields if not name.endswith("_")],
    }


STREAM = Body(record(event=TEXT, data_=TEXT), "text/event-stream")
"""Server-sent events; a ping has no data."""


def array(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def words(*known: str) -> Schema:
    return {"type": "string", "enum": list(known)}


def in_path(name: str, example: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": TEXT, "example": example}


def in_query(name: str, schema: Schema, *, required: bool = False) -> Schema:
    return {"name": name, "in": "query", "required": required, "schema": schema}


def document(
    title: str, version: str, operations: Iterable[Operation], security: Mapping[str, Schema]
) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {"securitySchemes": dict(security)},
    }


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.summary,
        "responses": {
            str(status): _answer(status, bodies) for status, bodies in sorted(operation.answers.items())
        },
    }
    if operation.parameters:
        described["parameters"] = list(operation.parameters)
    if operation.body is not None:
        described["requestBody"] = {
            "required": operation.body_required,
            "content": {operation.body.content_type: {"schema": operation.body.schema}},
        }
    if operation.security:
        described["security"] = [{operation.security: []}]
    return described | dict(operation.extra)


def _answer(status: int, bodies: tuple[Body, ...]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": _REASONS.get(status, str(status))}
    if bodies:
        answer["content"] = {body.content_type: {"schema": body.schema} for body in bodies}
    return answer


_REASONS = {
    200: "Done",
    202: "Begun",
    204: "Done, nothing to say",
    400: "The request is wrong",
    401: "Not authorized (now)",
    404: "No such thing, or no such route on this server",
    405: "Wrong method",
    409: "Not in this state",
    413: "Too large",
    415: "Not JSON",
    422: "Not as the schema wants it",
    429: "Too many requests; see Retry-After",
    500: "The server could not",
    502: "The agent could not",
}
