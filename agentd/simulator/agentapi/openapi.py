"""The OpenAPI document of the simulated AgentAPI, by version and mode."""

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from agentd.simulator.agentapi.server import SimulatedAgentApi

_PLAIN = Body(TEXT, "text/plain")
_PROBLEM = Body(
    record(
        title=TEXT,
        status=INTEGER,
        detail=TEXT,
        errors_=array(record(message=TEXT, location_=TEXT, value_={})),
        **{"$schema_": TEXT},
    ),
    "application/problem+json",
)


def document(agent: "SimulatedAgentApi") -> dict[str, Any]:
    """What this agent serves; `/internal/screen` is hidden in the real one's document, too."""
    return render("AgentAPI (simulated)", agent.version, _operations(agent), {})


def _operations(agent: "SimulatedAgentApi") -> list[Operation]:
    # Every route: 400 in plain text is the Host check, 405 has no body.
    def answers(*good: Body, **problems: tuple[Body, ...]) -> dict[int, tuple[Body, ...]]:
        told = {int(code.removeprefix("s")): bodies for code, bodies in problems.items()}
        return {200: good, 400: (_PLAIN, *told.pop(400, ())), 405: (), **told}

    status: dict[str, Schema] = {"$schema": TEXT, "status": words("running", "stable")}
    if agent.agent_type is not None:
        status["agent_type"] = TEXT
    if agent.has("transport"):
        status["transport"] = words("pty", "acp")
    message = record(id=INTEGER, content=TEXT, role=words("agent", "user", ""), time=TEXT)
    found = [
        Operation("GET", "/status", "Whether the agent works", answers(Body(record(**status)))),
        Operation(
            "GET",
            "/messages",
            "The whole conversation",
            answers(Body(record(**{"$schema": TEXT}, messages=array(message)))),
        ),
        Operation(
            "POST",
            "/message",
            "Send a message, or keys to the terminal",
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
        Operation("GET", "/events", "Follow messages and status", answers(STREAM)),
        Operation("GET", "/openapi.json", "This document", answers(Body({"type": "object"}))),
    ]
    if agent.has("upload"):
        form = record(file={"type": "string", "format": "binary"})
        found.append(
            Operation(
                "POST",
                "/upload",
                "Keep a file for the agent",
                answers(
                    Body(record(**{"$schema": TEXT}, ok={"type": "boolean"}, filePath=TEXT)),
                    s400=(_PROBLEM,),
                    s422=(_PROBLEM,),
                ),
                body=Body(form, "multipart/form-data"),
            )
        )
    return found
