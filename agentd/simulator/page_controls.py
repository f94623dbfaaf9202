"""The buttons of the page: one or more for each command and each fault of the peers' control endpoints."""

from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

Peer: TypeAlias = Literal["coderd", "agentapi"]


@dataclass(frozen=True, slots=True)
class Button:
    """Runs `command` with `fields` and the values of the group's inputs."""

    label: str
    command: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Input:
    """A field of a group. Without `choices` it is free text, or a number if `start` is a number."""

    name: str
    label: str
    start: str | int
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    peer: Peer
    title: str
    buttons: tuple[Button, ...]
    inputs: tuple[Input, ...] = ()


def _refusals(*statuses: int) -> tuple[Button, ...]:
    return tuple(
        Button(str(status), "fail-next", {"status": status, "body": f'{{"message":"Simulated {status}."}}\n'})
        for status in statuses
    )


def _faults(**labels: str) -> tuple[Button, ...]:
    more: dict[str, dict[str, Any]] = {"slow": {"seconds": 10}, "redirect": {"location": "/elsewhere"}}
    return tuple(
        Button(label, "fault", {"kind": kind, **more.get(kind, {})}) for kind, label in labels.items()
    )


_EXCHANGE: Final = _faults(
    slow="10 s delay",
    no_headers="no response",
    eof="connection closed, no response",
    reset_before_body="reset before the body is read",
    reset_after_body="reset after the request is processed",
    html_502="nginx HTML 502",
    redirect="redirect",
    header_flood="endless headers",
)
_TIMES: Final = Input("times", "number of requests", 1)

GROUPS: Final[tuple[Group, ...]] = (
    Group(
        "coderd",
        "Claim",
        (
            Button("Start the claim", "claim-start"),
            Button("Finish the claim", "claim-finish"),
            Button("Finish the claim, lose the event", "claim-finish", {"publish": False}),
            Button("Fail the claim (401)", "claim-fail"),
            Button("Fail the claim, agents recorded (409)", "claim-fail", {"agents_recorded": True}),
        ),
    ),
    Group(
        "coderd",
        "Builds",
        (
            Button("Begin a stop build", "stop-start"),
            Button("Finish the stop build (401)", "stop-finish"),
            Button("Start build, new token", "start"),
            Button("Start build, job pending", "start", {"job": "pending"}),
            Button("Run the pending job", "run-job"),
            Button("Finish the start build", "start-finish"),
            Button("Fail the start build", "start-finish", {"error": "terraform apply failed"}),
            Button("Delete the workspace", "delete"),
        ),
    ),
    Group(
        "coderd",
        "Connections",
        (
            Button("Drop: end of stream", "drop", {"how": "eof"}),
            Button("Drop: cut", "drop", {"how": "cut"}),
            Button("Drop: reset", "drop", {"how": "reset"}),
            Button("Drop: half-open", "drop", {"how": "half_open"}),
            Button("Restart, 3 s outage", "restart", {"seconds": 3}),
            Button("Start an outage", "away"),
            Button("End the outage", "back"),
        ),
    ),
    Group(
        "coderd",
        "Fault of the next claim stream",
        _faults(
            stall="headers only (stall)",
            eof_after_event="ends after an event",
            duplicate="each event twice",
            big_line="line of 1 MB",
            endless_comment="endless comment",
            trickle="single bytes, no line end",
            wrong_content_type="content type HTML",
            gzip="gzip bomb",
        ),
        (Input("route", "route", "reinit", ("reinit",)), _TIMES),
    ),
    Group(
        "coderd",
        "Fault of the next request",
        (*_refusals(401, 404, 409, 413, 429, 500, 503), *_EXCHANGE),
        (
            Input(
                "route",
                "route",
                "log-snapshot",
                (
                    "log-snapshot",
                    "reinit",
                    "app-status",
                    "buildinfo",
                    "identity",
                    "task-logs",
                    "task-send",
                    "*",
                ),
            ),
            _TIMES,
        ),
    ),
    Group(
        "coderd",
        "Other",
        (
            Button("Send an unknown event", "publish", {"event": {"reason": "something_new"}}),
            Button("Send a malformed event", "publish", {"raw": "event: data\ndata: {not json\n\n"}),
            Button("Agent not connected", "agent", {"connected": False}),
            Button("Agent connected", "agent", {"connected": True}),
            Button("App unhealthy", "agent", {"app_health": "unhealthy"}),
            Button("App healthy", "agent", {"app_health": "healthy"}),
            Button("Clock: one minute forward", "advance-clock", {"seconds": 60}),
            Button("Clock: one hour forward", "advance-clock", {"seconds": 3600}),
            Button("Clear waiting faults", "clear-faults"),
        ),
    ),
    Group(
        "agentapi",
        "Status",
        (
            Button("Running", "status", {"status": "running"}),
            Button("Stable", "status", {"status": "stable"}),
            Button("Fail the prompt (ACP)", "fail-turn", {"error": "the model is overloaded"}),
        ),
    ),
    Group(
        "agentapi",
        "Conversation",
        (
            Button("Add as user message", "message", {"role": "user"}),
            Button("Add as agent message", "message", {"role": "agent"}),
            Button("Rewrite the last message", "rewrite"),
        ),
        (Input("content", "text", "Fixed the import and ran the tests: all green."),),
    ),
    Group(
        "agentapi",
        "Process",
        (
            Button("Hold the send lock", "hang"),
            Button("Release the send lock", "release"),
            Button("Start an outage", "away"),
            Button("End the outage", "back"),
            Button("Restart, lose the conversation", "restart"),
            Button("Clear the conversation", "load", {"messages": []}),
            Button("Report a warning", "error", {"message": "slow network", "level": "warning"}),
            Button("Report an error", "error", {"message": "the model is overloaded", "level": "error"}),
        ),
    ),
    Group(
        "agentapi",
        "Fault of the next request",
        (
            *_faults(
                html="HTML, 200",
                malformed="malformed JSON",
                empty="empty body",
                null="null instead of a list",
                endless="endless messages",
                endless_string="endless message",
                cut_body="cut inside the list",
                refuse_host="Host refused",
            ),
            *_EXCHANGE,
            Button("500", "fault", {"kind": "respond", "status": 500, "body": "{}"}),
            Button("Append a bogus message", "bogus-tail"),
            Button("Make message ids collide", "collide-ids"),
            Button("Clear waiting faults", "clear-faults"),
        ),
        (Input("route", "route", "status", ("status", "messages", "message", "events", "*")), _TIMES),
    ),
)
