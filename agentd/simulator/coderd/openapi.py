"""The OpenAPI document of the simulated coderd, served at `/_sim/openapi.json`.

The real coderd has no such route.
"""

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
    in_query,
    nullable,
    record,
    words,
)
from agentd.simulator.openapi import (
    document as render,
)

_JSON: Final = "application/json; charset=utf-8"
_SAMPLE_ID: Final = "44444444-4444-4444-8444-444444444444"
_ERROR: Final = Body(
    record(message=TEXT, detail_=TEXT, validations_=array(record(field=TEXT, detail=TEXT))), _JSON
)
_REFUSAL: Final = Body(record(error=TEXT), _JSON)
_LOG: Final = record(id=INTEGER, content=TEXT, type=words("input", "output"), time=TEXT)
_STATE: Final = record(
    timestamp=TEXT, state=words("working", "idle", "complete", "failed"), message=TEXT, uri=TEXT
)
_TASK: Final = record(
    id=TEXT,
    organization_id=TEXT,
    owner_id=TEXT,
    owner_name=TEXT,
    name=TEXT,
    display_name=TEXT,
    template_id=TEXT,
    template_version_id=TEXT,
    template_name=TEXT,
    template_display_name=TEXT,
    template_icon=TEXT,
    workspace_id=nullable(TEXT),
    workspace_name=TEXT,
    workspace_status_=TEXT,
    workspace_build_number_=INTEGER,
    workspace_agent_id=nullable(TEXT),
    workspace_agent_lifecycle=nullable(TEXT),
    workspace_agent_health=nullable({"type": "object"}),
    workspace_app_id=nullable(TEXT),
    initial_prompt=TEXT,
    status=words("pending", "initializing", "active", "paused", "unknown", "error"),
    current_state=nullable(_STATE),
    created_at=TEXT,
    updated_at=TEXT,
)
_BUILD: Final = Body(
    record(workspace_build=record(build_number=INTEGER, transition=TEXT, reason=TEXT, status=TEXT)), _JSON
)
_EXECUTION: Final = Body(
    record(
        execution_id=TEXT,
        run_id=TEXT,
        status=TEXT,
        result_={},
        error_=TEXT,
        started_at=TEXT,
        completed_at_=TEXT,
        duration_ms_=INTEGER,
    ),
    _JSON,
)
_INPUT: Final = Body(record(input=TEXT))
_ME: Final = "/api/v2/workspaceagents/me"
_ANY_TASK: Final = "/api/v2/tasks/{user}/{task}"
_OF_TASK: Final = (in_path("user", "me"), in_path("task", _SAMPLE_ID))
_SECURITY: Final[dict[str, Schema]] = {
    "agent": {"type": "apiKey", "in": "header", "name": "Coder-Session-Token"},
    "user": {"type": "apiKey", "in": "header", "name": "Coder-Session-Token"},
}


def document(version: str) -> dict[str, Any]:
    """The document of every era: all requests, and all possible answers."""
    return render("coderd (simulated)", version, [*_agent(), *_tasks(), *_public()], _SECURITY)


def _answers(good: int, *bodies: Body, also: tuple[int, ...] = ()) -> dict[int, tuple[Body, ...]]:
    """`good`, the errors in `also`, and the answers of every route: 401, 404, 405 (no body), 429."""
    return {
        good: bodies,
        **dict.fromkeys((401, 404, 429, *also), (_ERROR,)),
        405: (),
    }


def _agent() -> list[Operation]:
    message = record(id_=INTEGER, content_=TEXT, role_=words("agent", "user"), time_=TEXT)
    return [
        Operation(
            "GET",
            f"{_ME}/reinit",
            "Stream the claim of the workspace",
            _answers(200, STREAM, also=(409, 500)),
            parameters=(in_query("wait", {"type": "boolean"}),),
            security="agent",
        ),
        Operation(
            "POST",
            f"{_ME}/tasks/{{task}}/log-snapshot",
            "Store the end of a task's conversation",
            _answers(204, also=(400, 413, 500)),
            parameters=(
                in_path("task", _SAMPLE_ID),
                in_query("format", words("agentapi"), required=True),
            ),
            body=Body(record(messages=array(message))),
            security="agent",
        ),
        Operation(
            "PATCH",
            f"{_ME}/app-status",
            "Report the agent's status",
            _answers(200, Body({"type": "null"}, _JSON), also=(400, 413)),
            body=Body(
                record(
                    app_slug=TEXT,
                    state=words("working", "idle", "complete", "failure"),
                    message=TEXT,
                    uri_=TEXT,
                )
            ),
            security="agent",
        ),
    ]


def _tasks() -> list[Operation]:
    def one(
        method: str, what: str, summary: str, answers: dict[int, tuple[Body, ...]], body: Body | None = None
    ) -> Operation:
        return Operation(method, _ANY_TASK + what, summary, answers, _OF_TASK, body, "user")

    logs = Body(record(logs=array(_LOG), snapshot_={"type": "boolean"}, snapshot_at_=TEXT), _JSON)
    tasks = Body(record(tasks=array(_TASK), count=INTEGER), _JSON)
    return [
        Operation("GET", "/api/v2/tasks", "All tasks", _answers(200, tasks), security="user"),
        one("GET", "", "One task", _answers(200, Body(_TASK, _JSON))),
        one("DELETE", "", "Delete the task and its snapshot", _answers(202, also=(409,))),
        one("GET", "/logs", "The task's conversation", _answers(200, logs, also=(400, 409, 500, 502))),
        one("POST", "/send", "Send input to the task", _answers(204, also=(400, 409, 413, 500, 502)), _INPUT),
        one("PATCH", "/input", "Replace the task's prompt", _answers(204, also=(400, 409, 413)), _INPUT),
        one("POST", "/pause", "Stop the task's workspace", _answers(202, _BUILD, also=(409, 413, 500))),
        one("POST", "/resume", "Start the task's workspace", _answers(202, _BUILD, also=(409, 413, 500))),
    ]


def _public() -> list[Operation]:
    """The routes without a coder token."""
    token = Body(record(session_token=TEXT), _JSON)
    identity_documents = {
        "aws": record(signature=TEXT, document=TEXT, agent_name_=TEXT),
        "azure": record(signature=TEXT, encoding=TEXT, agent_name_=TEXT),
        "google": record(json_web_token=TEXT, agent_name_=TEXT),
    }
    identities = [
        Operation(
            "POST",
            f"/api/v2/workspaceagents/{cloud}-instance-identity",
            f"Exchange an instance identity of {cloud} for an agent token",
            _answers(200, token, also=(400, 409, 413)),
            body=Body(document),
        )
        for cloud, document in identity_documents.items()
    ]
    flag: Schema = {"type": "boolean"}
    build = Body(
        record(
            external_url=TEXT,
            version=TEXT,
            dashboard_url=TEXT,
            telemetry=flag,
            workspace_proxy=flag,
            agent_api_version=TEXT,
            provisioner_api_version=TEXT,
            upgrade_message=TEXT,
            deployment_id=TEXT,
            webpush_public_key_=TEXT,
        ),
        _JSON,
    )
    return [
        Operation("GET", "/api/v2/buildinfo", "The release of the server", _answers(200, build)),
        *identities,
        *_executions(),
    ]


def _executions() -> list[Operation]:
    of_one = (in_path("execution", "exec_1"),)
    refusals = {400: (_REFUSAL,), 404: (_REFUSAL, Body(TEXT, "text/plain; charset=utf-8")), 405: ()}
    status = words("pending", "queued", "waiting", "running", "succeeded", "failed", "cancelled", "timeout")
    report = record(status=status, result_={}, error_=TEXT, duration_ms_=INTEGER)
    event = record(
        execution_id=TEXT, run_id_=TEXT, status=status, result_={}, error_=TEXT, duration_ms_=INTEGER
    )
    accepted = Body(
        record(success={"type": "boolean"}, created_={"type": "boolean"}, updated_={"type": "boolean"}), _JSON
    )
    one = "/api/v1/executions/{execution}"
    return [
        Operation("GET", one, "One execution", {200: (_EXECUTION,), **refusals}, of_one),
        *(
            Operation(
                method,
                f"{one}/status",
                "Set the status of an execution",
                {200: (_EXECUTION,), 409: (_REFUSAL,), **refusals},
                of_one,
                Body(report),
            )
            for method in ("POST", "PUT")
        ),
        Operation(
            "POST",
            "/api/v1/workflow/executions/events",
            "Report an event of an execution; late events are ignored",
            {200: (accepted,), **refusals},
            body=Body(event),
        ),
    ]
