"""The OpenAPI document of the simulated AgentAPI."""

from collections.abc import Collection
from typing import Any, Final

from agentd.simulator.openapi import (
    INTEGER,
    STREAM,
    TEXT,
    Body,
    Operation,
    Schema,
    array,
    in_path,
    nullable,
    record,
    words,
)
from agentd.simulator.openapi import (
    document as render,
)

_PLAIN: Final = Body(TEXT, "text/plain")
_PROBLEM: Final = Body(
    record(
        title=TEXT,
        status=INTEGER,
        detail=TEXT,
        errors_=array(record(message_=TEXT, location_=TEXT, value_={})),
        **{"$schema_": TEXT},
    ),
    "application/problem+json",
)


_SEND: Final = record(content=TEXT, type=words("user", "raw")) | {"additionalProperties": False}
_OK: Final = record(**{"$schema": TEXT}, ok={"type": "boolean"})
_UPLOADED: Final = record(**{"$schema": TEXT}, ok={"type": "boolean"}, filePath=TEXT)


def document(version: str, features: Collection[str]) -> dict[str, Any]:
    """The document of an AgentAPI with `features`. Like the real one, it omits `/internal/screen`."""
    return render("AgentAPI (simulated)", version, _operations(features), {})


def schemas(features: Collection[str]) -> dict[str, Schema]:
    """The schemas that `$schema` and `Link` of an answer name, by that name."""
    found = {
        "ErrorModel": _PROBLEM.schema,
        "MessageRequestBody": _SEND,
        "MessageResponseBody": _OK,
        "MessagesResponseBody": record(**{"$schema": TEXT}, messages=array(_message())),
        "StatusResponseBody": _status(features),
    }
    return found | ({"UploadResponseBody": _UPLOADED} if "upload" in features else {})


def _message() -> Schema:
    return record(id=INTEGER, content=TEXT, role=words("agent", "user", ""), time=TEXT)


def _status(features: Collection[str]) -> Schema:
    status: dict[str, Schema] = {"$schema": TEXT, "status": words("running", "stable")}
    if "agent_type" in features:
        status["agent_type"] = TEXT
    if "transport" in features:
        status["transport"] = words("pty", "acp")
    return record(**status)


def _operations(features: Collection[str]) -> list[Operation]:
    # Every route can answer 400 in plain text (the Host check) and 405 without a body.
    def answers(*good: Body, **problems: tuple[Body, ...]) -> dict[int, tuple[Body, ...]]:
        by_status = {int(code.removeprefix("s")): bodies for code, bodies in problems.items()}
        return {200: good, 400: (_PLAIN, *by_status.pop(400, ())), 405: (), **by_status}

    found = [
        Operation("GET", "/status", "The agent's status", answers(Body(_status(features)))),
        Operation(
            "GET",
            "/messages",
            "The whole conversation",
            answers(Body(record(**{"$schema": TEXT}, messages=array(_message())))),
        ),
        Operation(
            "POST",
            "/message",
            "Send a message to the agent, or keys to its terminal",
            answers(
                Body(_OK),
                s400=(_PROBLEM,),
                s413=(_PROBLEM,),
                s415=(_PROBLEM,),
                s422=(_PROBLEM,),
                s500=(_PROBLEM,),
            ),
            body=Body(_SEND),
        ),
        Operation("GET", "/events", "Subscribe to messages and status", answers(STREAM)),
        *(
            Operation(
                "GET",
                f"/openapi.{kind}",
                "This document",
                answers(Body({"type": "object"}, f"application/vnd.oai.openapi+{kind}")),
            )
            for kind in ("json", "yaml")
        ),
        Operation(
            "GET",
            "/schemas/{name}",
            "One schema of this document",
            answers(Body(nullable({"type": "object"}))),
            parameters=(in_path("name", "StatusResponseBody.json"),),
        ),
    ]
    if "upload" in features:
        form = record(file={"type": "string", "format": "binary"})
        found.append(
            Operation(
                "POST",
                "/upload",
                "Upload a file for the agent",
                answers(
                    Body(_UPLOADED),
                    s400=(_PROBLEM,),
                    s422=(_PROBLEM,),
                ),
                body=Body(form, "multipart/form-data"),
            )
        )
    return found
