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
        errors_=array(record(message=TEXT, location_=TEXT, value_={})),
        **{"$schema_": TEXT},
    ),
    "application/problem+json",
)


def document(version: str, features: Collection[str]) -> dict[str, Any]:
    """The document of an AgentAPI with `features`. Like the real one, it omits `/internal/screen`."""
    return render("AgentAPI (simulated)", version, _operations(features), {})


def _operations(features: Collection[str]) -> list[Operation]:
    # Every route can answer 400 in plain text (the Host check) and 405 without a body.
    def answers(*good: Body, **problems: tuple[Body, ...]) -> dict[int, tuple[Body, ...]]:
        by_status = {int(code.removeprefix("s")): bodies for code, bodies in problems.items()}
        return {200: good, 400: (_PLAIN, *by_status.pop(400, ())), 405: (), **by_status}

    status: dict[str, Schema] = {"$schema": TEXT, "status": words("running", "stable")}
    if "agent_type" in features:
        status["agent_type"] = TEXT
    if "transport" in features:
        status["transport"] = words("pty", "acp")
    message = record(id=INTEGER, content=TEXT, role=words("agent", "user", ""), time=TEXT)
    found = [
        Operation("GET", "/status", "The agent's status", answers(Body(record(**status)))),
        Operation(
            "GET",
            "/messages",
            "The whole conversation",
            answers(Body(record(**{"$schema": TEXT}, messages=array(message)))),
        ),
        Operation(
            "POST",
            "/message",
            "Send a message to the agent, or keys to its terminal",
            answers(
                Body(record(**{"$schema": TEXT}, ok={"type": "boolean"})),
                s400=(_PROBLEM,),
                s413=(_PROBLEM,),
                s415=(_PROBLEM,),
                s422=(_PROBLEM,),
                s500=(_PROBLEM,),
            ),
            body=Body(record(content=TEXT, type=words("user", "raw")) | {"additionalProperties": False}),
        ),
        Operation("GET", "/events", "Subscribe to messages and status", answers(STREAM)),
        Operation("GET", "/openapi.json", "This document", answers(Body({"type": "object"}))),
    ]
    if "upload" in features:
        form = record(file={"type": "string", "format": "binary"})
        found.append(
            Operation(
                "POST",
                "/upload",
                "Upload a file for the agent",
                answers(
                    Body(record(**{"$schema": TEXT}, ok={"type": "boolean"}, filePath=TEXT)),
                    s400=(_PROBLEM,),
                    s422=(_PROBLEM,),
                ),
                body=Body(form, "multipart/form-data"),
            )
        )
    return found
