"""The buttons of the page: each step a peer can take and each fault it can play, by the commands of its `/_sim/` door."""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Peer: TypeAlias = Literal["coderd", "agentapi"]


@dataclass(frozen=True, slots=True)
class Button:
    """`POST /_sim/<command>` with `fields`, and with what stands in the inputs of its group."""

    label: str
    command: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Input:
    """What a person chooses or writes before pressing; `choices` empty: free text, or a number if `start` is one."""

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


_EXCHANGE = _faults(
    slow="10 s late",
    no_headers="no answer at all",
    eof="cut, no answer",
    reset_before_body="reset before the body",
    reset_after_body="reset after it acted",
    html_502="nginx's HTML 502",
    redirect="redirect",
    header_flood="headers without end",
)
_TIMES = Input("times", "how often", 1)

GROUPS: tuple[Group, ...] = (
    Group(
        "coderd",
        "Claim",
        (
            Button("A user claims it", "claim-start"),
            Button("The claim is built", "claim-finish"),
            Button("Built, the event is lost", "claim-finish", {"publish": False}),
            Button("The build fails (401)", "claim-fail"),
            Button("Fails with agents (409)", "claim-fail", {"agents_recorded": True}),
        ),
    ),
    Group(
        "coderd",
        "Builds",
        (
            Button("Stop begins", "stop-start"),
            Button("Stop ends (401)", "stop-finish"),
            Button("Start again, new token", "start"),
            Button("Start, left pending", "start", {"job": "pending"}),
            Button("Its job runs", "run-job"),
            Button("Its job succeeds", "start-finish"),
            Button("Its job fails", "start-finish", {"error": "terraform apply failed"}),
            Button("Delete the workspace", "delete"),
        ),
    ),
    Group(
        "coderd",
        "Connections",
        (
            Button("Drop: in order (eof)", "drop", {"how": "eof"}),
            Button("Drop: cut", "drop", {"how": "cut"}),
            Button("Drop: reset", "drop", {"how": "reset"}),
            Button("Drop: half open", "drop", {"how": "half_open"}),
            Button("Restart, away for 3 s", "restart", {"seconds": 3}),
            Button("Outage begins", "away"),
            Button("Outage ends", "back"),
        ),
    ),
    Group(
        "coderd",
        "The next claim stream",
        _faults(
            stall="says nothing (stall)",
            eof_after_event="ends after the event",
            duplicate="says it twice",
            big_line="a line of 1 MB",
            endless_comment="a comment without end",
            trickle="drips",
            wrong_content_type="is HTML",
            gzip="a gzip bomb",
        ),
        (Input("route", "route", "reinit", ("reinit",)), _TIMES),
    ),
    Group(
        "coderd",
        "The next answer",
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
        "What else happens",
        (
            Button("Unknown event", "publish", {"event": {"reason": "something_new"}}),
            Button("Broken event", "publish", {"raw": "event: data\ndata: {not json\n\n"}),
            Button("Agent not connected", "agent", {"connected": False}),
            Button("Agent connected", "agent", {"connected": True}),
            Button("App unhealthy", "agent", {"app_health": "unhealthy"}),
            Button("App healthy", "agent", {"app_health": "healthy"}),
            Button("Clock: one minute on", "advance-clock", {"seconds": 60}),
            Button("Clock: one hour on", "advance-clock", {"seconds": 3600}),
            Button("Forget waiting faults", "clear-faults"),
        ),
    ),
    Group(
        "agentapi",
        "Status",
        (
            Button("Running", "status", {"status": "running"}),
            Button("Stable", "status", {"status": "stable"}),
            Button("Its prompt fails (ACP)", "fail-turn", {"error": "the model is overloaded"}),
        ),
    ),
    Group(
        "agentapi",
        "Conversation",
        (
            Button("The user says it", "message", {"role": "user"}),
            Button("The agent says it", "message", {"role": "agent"}),
            Button("Rewrite the last message", "rewrite"),
        ),
        (Input("content", "text", "Fixed the import and ran the tests: all green."),),
    ),
    Group(
        "agentapi",
        "Process",
        (
            Button("Hang in a send", "hang"),
            Button("Release", "release"),
            Button("Outage begins", "away"),
            Button("Outage ends", "back"),
            Button("Restart, all forgotten", "restart"),
            Button("Start over", "load", {"messages": []}),
            Button("Warn", "error", {"message": "slow network", "level": "warning"}),
            Button("Complain", "error", {"message": "the model is overloaded", "level": "error"}),
        ),
    ),
    Group(
        "agentapi",
        "The next answer",
        (
            *_faults(
                html="HTML, 200",
                malformed="broken JSON",
                empty="an empty body",
                null="no list (null)",
                endless="messages without end",
                endless_string="a message without end",
                cut_body="cut in the list",
                refuse_host="Host refused",
            ),
            *_EXCHANGE,
            Button("500", "fault", {"kind": "respond", "status": 500, "body": "{}"}),
            Button("Ends with a bogus entry", "bogus-tail"),
            Button("All ids collide", "collide-ids"),
            Button("Forget waiting faults", "clear-faults"),
        ),
        (Input("route", "route", "status", ("status", "messages", "message", "events", "*")), _TIMES),
    ),
)
