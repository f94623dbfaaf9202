"""Builds the OpenAPI documents of the two peers from tables of operations and their answers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

Schema: TypeAlias = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
INTEGER: Final[Schema] = {"type": "integer", "format": "int64"}


@dataclass(frozen=True, slots=True)
class Body:
    """The content of a request or an answer."""

    schema: Schema
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Operation:
    """One request and its answers: status → the possible bodies, one for each content type."""

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
    """The schema of an object with these fields.

    A field whose name ends in `_` is optional, without the `_`.
    """
    return {
        "type": "object",
        "properties": {name.removesuffix("_"): schema for name, schema in fields.items()},
        "required": [name for name in fields if not name.endswith("_")],
    }


STREAM: Final = Body(record(event=TEXT, data_=TEXT), "text/event-stream")
"""Server-sent events. A ping has no data."""


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


_REASONS: Final = {
    200: "Success",
    202: "Accepted",
    204: "Success, no content",
    400: "The request is invalid",
    401: "Not authorized",
    404: "The resource or the route does not exist",
    405: "The method is not allowed",
    409: "Not possible in the current state",
    413: "The body is too large",
    415: "The body is not JSON",
    422: "The body does not match the schema",
    429: "Too many requests; see Retry-After",
    500: "The server failed",
    502: "The agent failed",
}
