"""The HTTP contract of coderd as a table: a state, a request, and the exact status and body of its answer.

A body is compact JSON, HTML-escaped, with one newline at the end. None stands for an empty body.
"""

from dataclasses import dataclass

import pytest

from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.simulator.coderd import SimulatedCoderd
from agentd.simulator.coderd.workspaces import Job

NOON = 1_772_442_000.0  # 2026-03-02T09:00:00Z
TASK = "44444444-4444-4444-8444-444444444444"
BARE = "55555555-5555-4555-8555-555555555555"
FOREIGN = "66666666-6666-4666-8666-666666666666"
TOKEN = "33333333-3333-4333-8333-333333333333"
WORKSPACE = "11111111-1111-4111-8111-111111111111"
ME = "/api/v2/workspaceagents/me"
LOG = f"{ME}/tasks/{TASK}/log-snapshot"
OF_TASK = f"/api/v2/tasks/me/{TASK}"
OF_BARE = f"/api/v2/tasks/me/{BARE}"
EXECUTION = "/api/v1/executions/exec_1"
EVENTS = "/api/v1/workflow/executions/events"

GOOD = '{"messages":[{"id":0,"content":"hi","role":"agent","time":"2026-03-02T09:00:00Z"}]}'
NOT_FOUND = '{"message":"Resource not found or you do not have access to this resource"}\n'
NO_ROUTE = '{"message":"Route not found."}\n'
NOT_AUTHORIZED = (
    '{"message":"Workspace agent not authorized.","detail":"The agent cannot authenticate until the workspace provision'
    ' job has been completed. If the job is no longer running, this agent is invalid."}\n'
)
NOT_WAITING = '{"message":"Workspace is not a prebuilt workspace waiting to be claimed.","detail":"%s"}\n'
RESUMING = (
    '{"message":"Task is %s.","detail":"The task is resuming. Wait for the task to become active before sending'
    ' messages."}\n'
)
TOO_LONG = "Message must be less than 160 characters."
BUSY_BUILD = (
    '{"message":"A workspace build is already active.","detail":"A workspace build is already active."}\n'
)
BAD_JSON = '{"message":"Request body must be valid JSON.","detail":"%s"}\n'


@dataclass(frozen=True)
class Row:
    given: str
    method: str
    path: str
    status: int
    body: str | None
    sent: str | None = None
    by: str = "agent"
    """`agent`, `user`, `anonymous`, or a token."""
    era: str = "E3"

    def __str__(self):
        what = f"{self.given}: {self.method} {self.path.rpartition('/')[2]} {self.sent or ''}"
        return f"{self.era} {what[:90]} -> {self.status}"


def status_body(slug="agentapi", state="idle", message="done"):
    return f'{{"app_slug":"{slug}","state":"{state}","message":"{message}"}}'


# The states: operations before the request, on the server and its regular workspace with the task TASK.
GIVEN = {
    "regular": lambda coderd, ws: None,
    "paused": lambda coderd, ws: (coderd.stop_start(ws), coderd.stop_finish(ws)),
    "pausing": lambda coderd, ws: coderd.stop_start(ws),
    "pause failed": lambda coderd, ws: (coderd.stop_start(ws), coderd.stop_finish(ws, error="stuck")),
    "resume pending": lambda coderd, ws: (
        coderd.stop_start(ws),
        coderd.stop_finish(ws),
        coderd.start_build(ws, job=Job.PENDING),
    ),
    "resume running": lambda coderd, ws: (
        coderd.stop_start(ws),
        coderd.stop_finish(ws),
        coderd.start_build(ws, job=Job.RUNNING),
    ),
    "agent starting": lambda coderd, ws: coderd.set_agent(ws, lifecycle="starting"),
    "agent off": lambda coderd, ws: coderd.set_agent(ws, lifecycle="off"),
    "agent not connected": lambda coderd, ws: coderd.set_agent(ws, connected=False),
    "app unhealthy": lambda coderd, ws: coderd.set_agent(ws, app_health="unhealthy"),
    "deleting": lambda coderd, ws: coderd.delete_build(ws),
    "no app URL": lambda coderd, ws: setattr(coderd.tasks[TASK], "app_url", ""),
    "an https app": lambda coderd, ws: setattr(coderd.tasks[TASK], "app_url", "https://127.0.0.1:1"),
    "no such app": lambda coderd, ws: setattr(coderd.tasks[TASK], "app_slug", "other"),
    "a bad role stored": lambda coderd, ws: (
        coderd.snapshots.__setitem__(TASK, stored("wizard")),
        coderd.stop_start(ws),
        coderd.stop_finish(ws),
    ),
    "another format stored": lambda coderd, ws: (
        coderd.snapshots.__setitem__(TASK, stored("agent", kind="x")),
        coderd.stop_start(ws),
        coderd.stop_finish(ws),
    ),
    "a snapshot, paused": lambda coderd, ws: (
        coderd.snapshots.__setitem__(TASK, stored("agent")),
        coderd.stop_start(ws),
        coderd.stop_finish(ws),
    ),
}


def stored(role, kind="agentapi"):
    from agentd.simulator.coderd.records import StoredSnapshot  # noqa: PLC0415 - only these rows need it

    message = {"content": "<hi>", "id": 7, "role": role, "time": "2026-03-02T08:00:00Z"}
    return StoredSnapshot({"format": kind, "data": {"messages": [message]}}, b"", NOON)


AUTH = [
    Row("regular", "GET", f"{ME}/reinit", 401, '{"message":"Cookie \\"coder_session_token\\" must be provided."}\n', by="anonymous"),
    Row(
        "regular", "GET", f"{ME}/reinit", 401,
        '{"message":"Workspace agent token invalid.","detail":"An agent token must be a valid UUIDv4. (len 5)"}\n', by="12345",
    ),
    Row("regular", "GET", f"{ME}/reinit", 401, NOT_AUTHORIZED, by=FOREIGN),
    Row("regular", "GET", f"{ME}/nothing", 401, NOT_AUTHORIZED, by=FOREIGN),
    Row("regular", "GET", f"{ME}/nothing", 404, NO_ROUTE),
    Row("regular", "GET", "/api/v2/nothing", 404, NO_ROUTE, by="anonymous"),
    Row("regular", "POST", f"{ME}/reinit", 405, None),
    Row("deleting", "GET", f"{ME}/reinit", 401, NOT_AUTHORIZED),
    Row("paused", "GET", f"{ME}/reinit", 401, NOT_AUTHORIZED),
    Row("pausing", "GET", f"{ME}/reinit?wait=true", 409, NOT_WAITING % "This endpoint is only for agents running in prebuilt workspaces."),
    Row("regular", "GET", f"{ME}/reinit?wait=1", 409, NOT_WAITING % "This endpoint is only for agents running in prebuilt workspaces."),
    Row(
        "regular", "GET", OF_TASK, 401,
        '{"message":"You are signed out or your session has expired. Please sign in again to continue.",'
        '"detail":"Cookie \\"coder_session_token\\" or query parameter must be provided."}\n', by="anonymous",
    ),
]  # fmt: skip

UPLOADS = [
    Row("regular", "POST", f"{LOG}?format=agentapi", 204, None, GOOD),
    Row("regular", "POST", f"{LOG}?format=agentapi", 204, None, '{"messages":[]} trailing'),
    Row("pausing", "POST", f"{LOG}?format=agentapi", 204, None, GOOD),
    Row("regular", "POST", f"{ME}/tasks/not-a-uuid/log-snapshot?format=agentapi", 400, '{"message":"Invalid task ID format.","detail":"invalid UUID length: 10"}\n', GOOD),
    Row(
        "regular", "POST", f"{LOG}?x=1", 400,
        '{"message":"Invalid query parameters.","validations":[{"field":"format","detail":"Query param \\"format\\" is required'
        ' and cannot be empty"},{"field":"x","detail":"\\"x\\" is not a valid query param"}]}\n', GOOD,
    ),
    Row("regular", "POST", f"{LOG}?format=unknown", 400, '{"message":"Invalid format parameter.","detail":"Only \\"agentapi\\" format is currently supported, got \\"unknown\\"."}\n', GOOD),
    Row("regular", "POST", f"{ME}/tasks/{FOREIGN}/log-snapshot?format=agentapi", 404, NOT_FOUND, GOOD),
    Row("regular", "POST", f"{LOG}?format=agentapi", 400, '{"message":"Failed to decode request payload.","detail":"http: request body too large"}\n', '{"messages":[{"content":"' + "x" * 65_536 + '"}]}'),
    Row("regular", "POST", f"{LOG}?format=agentapi", 413, '{"message":"Request body too large.","detail":"Maximum request body size is 65536 bytes."}\n', '{"messages":[{"content":"' + "x" * 65_536 + '"}]}', era="E4"),
    Row("regular", "POST", f"{LOG}?format=agentapi", 404, NO_ROUTE, GOOD, era="E5"),
    Row("regular", "POST", f"{LOG}?format=agentapi", 400, '{"message":"Failed to decode request payload.","detail":"unexpected EOF"}\n', '{"messages":['),
    Row("regular", "POST", f"{LOG}?format=agentapi", 400, BAD_JSON % "unexpected EOF", '{"messages":[', era="E4"),
    Row("regular", "POST", f"{LOG}?format=agentapi", 400, '{"message":"Invalid agentapi payload structure.","detail":"Missing required \\"messages\\" field."}\n', "{}"),
    Row("regular", "POST", f"{LOG}?format=agentapi", 500, '{"message":"Internal error storing snapshot.","detail":"pq: unsupported Unicode escape sequence"}\n', '{"messages":[{"content":"\\u0000"}]}'),
]  # fmt: skip

REPORTS = [
    Row("regular", "PATCH", f"{ME}/app-status", 200, "null\n", status_body()),
    Row("regular", "PATCH", f"{ME}/app-status", 200, "null\n", status_body(state="IDLE", message="x" * 160)),
    Row("regular", "PATCH", f"{ME}/app-status", 400, BAD_JSON % "EOF", ""),
    Row("regular", "PATCH", f"{ME}/app-status", 400, '{"message":"Failed to parse request.","detail":"Invalid state: foo"}\n', status_body(state="foo")),
    Row(
        "regular", "PATCH", f"{ME}/app-status", 400,
        f'{{"message":"Message is too long.","detail":"{TOO_LONG}","validations":[{{"field":"message","detail":"{TOO_LONG}"}}]}}\n',
        status_body(message="é" * 80 + "x"),
    ),
    Row("regular", "PATCH", f"{ME}/app-status", 400, '{"message":"Failed to get workspace app.","detail":"No app found with slug \\"x\\""}\n', status_body(slug="x")),
]  # fmt: skip

LOGS = [
    Row("regular", "GET", f"{OF_TASK}/logs", 200, '{"logs":[{"id":0,"content":"","type":"output","time":"2026-03-02T09:00:00Z"}]}\n', by="user"),
    Row("paused", "GET", f"{OF_TASK}/logs", 200, '{"logs":[],"snapshot":true}\n', by="user"),
    Row("resume pending", "GET", f"{OF_TASK}/logs", 200, '{"logs":[],"snapshot":true}\n', by="user"),
    Row("resume running", "GET", f"{OF_TASK}/logs", 200, '{"logs":[],"snapshot":true}\n', by="user"),
    Row("agent starting", "GET", f"{OF_TASK}/logs", 200, '{"logs":[],"snapshot":true}\n', by="user"),
    Row(
        "a snapshot, paused", "GET", f"{OF_TASK}/logs", 200,
        '{"logs":[{"id":7,"content":"\\u003chi\\u003e","type":"output","time":"2026-03-02T08:00:00Z"}],"snapshot":true,'
        '"snapshot_at":"2026-03-02T09:00:00Z"}\n', by="user",
    ),
    Row("pausing", "GET", f"{OF_TASK}/logs", 409, '{"message":"Cannot fetch logs for task in current state.","detail":"Task status is \\"unknown\\"."}\n', by="user"),
    Row("pause failed", "GET", f"{OF_TASK}/logs", 409, '{"message":"Cannot fetch logs for task in current state.","detail":"Task status is \\"error\\"."}\n', by="user"),
    Row("app unhealthy", "GET", f"{OF_TASK}/logs", 409, '{"message":"Cannot fetch logs for task in current state.","detail":"Task status is \\"error\\"."}\n', by="user"),
    Row("a bad role stored", "GET", f"{OF_TASK}/logs", 500, '{"message":"Invalid snapshot data.","detail":"invalid agentapi message role \\"wizard\\""}\n', by="user"),
    Row("another format stored", "GET", f"{OF_TASK}/logs", 500, '{"message":"Unsupported task snapshot format.","detail":"Expected format \\"agentapi\\", got \\"x\\"."}\n', by="user"),
    Row("agent not connected", "GET", f"{OF_TASK}/logs", 502, '{"message":"Failed to reach task app endpoint.","detail":"agent is not connected"}\n', by="user"),
    Row("no app URL", "GET", f"{OF_TASK}/logs", 500, '{"message":"Task app URL is not configured."}\n', by="user"),
    Row("regular", "GET", f"{OF_BARE}/logs", 200, '{"logs":[],"snapshot":true}\n', by="user"),
    Row("regular", "GET", "/api/v2/tasks/me/unknown/logs", 404, NOT_FOUND, by="user"),
    Row("deleting", "GET", f"{OF_TASK}/logs", 404, NOT_FOUND, by="user"),
]  # fmt: skip

INPUT = '{"input":"go on"}'
SENDS = [
    Row("regular", "POST", f"{OF_TASK}/send", 204, None, INPUT, by="user"),
    Row("regular", "POST", f"{OF_TASK}/send", 400, '{"message":"Task input is required."}\n', "{}", by="user"),
    Row("regular", "POST", f"{OF_TASK}/send", 400, BAD_JSON % "EOF", "", by="user"),
    Row("regular", "POST", f"{OF_TASK}/send", 400, BAD_JSON % "json: cannot unmarshal number into Go struct field TaskSendRequest.input of type string", '{"input":1}', by="user"),
    Row("resume pending", "POST", f"{OF_TASK}/send", 409, RESUMING % "pending", INPUT, by="user"),
    Row("regular", "POST", f"{OF_BARE}/send", 409, RESUMING % "pending", INPUT, by="user"),
    Row("agent starting", "POST", f"{OF_TASK}/send", 409, RESUMING % "initializing", INPUT, by="user"),
    Row("resume running", "POST", f"{OF_TASK}/send", 409, RESUMING % "initializing", INPUT, by="user"),
    Row("paused", "POST", f"{OF_TASK}/send", 409, '{"message":"Task is paused.","detail":"Resume the task to send messages."}\n', INPUT, by="user"),
    Row("pausing", "POST", f"{OF_TASK}/send", 400, '{"message":"Task must be active.","detail":"Task status is \\"unknown\\", it must be \\"active\\" to interact with the task."}\n', INPUT, by="user"),
    Row("agent off", "POST", f"{OF_TASK}/send", 400, '{"message":"Task must be active.","detail":"Task status is \\"unknown\\", it must be \\"active\\" to interact with the task."}\n', INPUT, by="user"),
    Row("app unhealthy", "POST", f"{OF_TASK}/send", 400, '{"message":"Task must be active.","detail":"Task status is \\"error\\", it must be \\"active\\" to interact with the task."}\n', INPUT, by="user"),
    Row("no such app", "POST", f"{OF_TASK}/send", 400, '{"message":"Task does not have a workspace app."}\n', INPUT, by="user"),
    Row("no app URL", "POST", f"{OF_TASK}/send", 500, '{"message":"Task app URL is not configured."}\n', INPUT, by="user"),
    Row("an https app", "POST", f"{OF_TASK}/send", 400, '{"message":"Only http scheme is supported for direct agent-dial."}\n', INPUT, by="user"),
    Row("agent not connected", "POST", f"{OF_TASK}/send", 502, '{"message":"Failed to reach task app endpoint.","detail":"agent is not connected"}\n', INPUT, by="user"),
    Row("agent runs", "POST", f"{OF_TASK}/send", 409, '{"message":"Task app is not ready to accept input.","detail":"Status: running"}\n', INPUT, by="user"),
    Row("agent runs", "POST", f"{OF_TASK}/send", 502, '{"message":"Task app is not ready to accept input.","detail":"Status: running"}\n', INPUT, by="user", era="E1"),
    Row("agent gone", "POST", f"{OF_TASK}/send", 502, '{"message":"Failed to get status from task app."}\n', INPUT, by="user"),
    Row("agent refuses", "POST", f"{OF_TASK}/send", 502, '{"message":"Task app rejected the message."}\n', INPUT, by="user"),
]  # fmt: skip

CHANGES = [
    Row("paused", "PATCH", f"{OF_TASK}/input", 204, None, INPUT, by="user"),
    Row("paused", "PATCH", f"{OF_TASK}/input", 400, '{"message":"Task input is required."}\n', '{"input":""}', by="user"),
    Row(
        "regular", "PATCH", f"{OF_TASK}/input", 409,
        '{"message":"Unable to update task input, task must be paused.","detail":"Please stop the task\'s workspace before'
        ' updating the input."}\n', INPUT, by="user",
    ),
    Row("pausing", "POST", f"{OF_TASK}/pause", 409, BUSY_BUILD, by="user"),
    Row("regular", "POST", f"{OF_BARE}/pause", 500, '{"message":"Task does not have a workspace."}\n', by="user"),
    Row("regular", "POST", f"{OF_TASK}/resume", 409, '{"message":"Task workspace is already running.","detail":"Workspace status is \\"running\\"."}\n', by="user"),
    Row("pausing", "POST", f"{OF_TASK}/resume", 409, BUSY_BUILD, by="user"),
    Row("regular", "DELETE", OF_TASK, 202, None, by="user"),
    Row("pausing", "DELETE", OF_TASK, 409, BUSY_BUILD, by="user"),
    Row("resume pending", "DELETE", OF_TASK, 409, BUSY_BUILD, by="user"),
    Row("resume running", "POST", f"{OF_TASK}/pause", 409, BUSY_BUILD, by="user"),
    Row("resume pending", "POST", f"{OF_TASK}/resume", 409, BUSY_BUILD, by="user"),
    Row("regular", "DELETE", OF_BARE, 202, None, by="user"),
    Row("regular", "DELETE", "/api/v2/tasks/me/unknown", 404, NOT_FOUND, by="user"),
    Row("regular", "GET", f"/api/experimental/tasks/me/{FOREIGN}", 404, NOT_FOUND, by="user"),
    Row("regular", "GET", OF_TASK, 404, NO_ROUTE, by="user", era="E5"),
]  # fmt: skip

DONE = '{"execution_id":"exec_1","run_id":"exec_1","status":"succeeded","started_at":"2026-03-02T09:00:00Z","completed_at":"2026-03-02T09:00:00Z","duration_ms":0}'
CONFLICT = '{"error":"failed to update execution: terminal execution state conflict: execution exec_1 is already succeeded"}'
EXECUTIONS = [
    Row("regular", "POST", EVENTS, 200, '{"created":true,"success":true}', '{"execution_id":"exec_1","status":"running"}', by="anonymous"),
    Row("execution done", "POST", EVENTS, 200, '{"success":true,"updated":true}', '{"execution_id":"exec_1","status":"running"}', by="anonymous"),
    Row("execution done", "GET", EXECUTION, 200, DONE, by="anonymous"),
    Row("execution done, then a late event", "GET", EXECUTION, 200, DONE, by="anonymous"),
    Row("execution done", "POST", f"{EXECUTION}/status", 409, CONFLICT, '{"status":"running"}', by="anonymous"),
    Row("execution done", "PUT", f"{EXECUTION}/status", 409, CONFLICT, '{"status":"failed","error":"late"}', by="anonymous"),
    Row("execution done", "POST", f"{EXECUTION}/status", 200, DONE, '{"status":"succeeded","error":"again"}', by="anonymous"),
    Row("execution done", "POST", f"{EXECUTION}/status", 200, DONE, '{"status":"Completed"}', by="anonymous"),
    Row("regular", "POST", f"{EXECUTION}/status", 404, '{"error":"execution not found"}', '{"status":"running"}', by="anonymous"),
    Row("regular", "GET", EXECUTION, 404, '{"error":"execution not found"}', by="anonymous"),
    Row("regular", "POST", f"{EXECUTION}/status", 400, '{"error":"unsupported status \'asleep\'"}', '{"status":"asleep"}', by="anonymous"),
    Row("regular", "POST", f"{EXECUTION}/status", 400, '{"error":"invalid request body: EOF"}', "", by="anonymous"),
    Row("regular", "POST", EVENTS, 400, '{"error":"invalid payload: json: cannot unmarshal number into Go struct field request.status of type string"}', '{"execution_id":"e","status":1}', by="anonymous"),
    Row("regular", "DELETE", EXECUTION, 405, None, by="anonymous"),
]  # fmt: skip


async def prepare(row, coderd, agent, ask):
    """Add a workspace and two tasks, then bring the server into the state `row.given`."""
    ws = coderd.add_workspace(token=TOKEN, workspace_id=WORKSPACE)
    coderd.add_task(ws, TASK, app_url=agent.url)
    coderd.add_task(None, BARE)
    match row.given:
        case "agent runs":
            agent.set_status("running")
        case "agent gone":
            await agent.stop()
        case "agent refuses":
            agent.fault("html_502", route="message")
        case "execution done" | "execution done, then a late event":
            await ask("POST", coderd.url + EVENTS, data='{"execution_id":"exec_1","status":"succeeded"}')
            if "late" in row.given:
                await ask("POST", coderd.url + EVENTS, data='{"execution_id":"exec_1","status":"running"}')
        case _:
            GIVEN[row.given](coderd, ws)


@pytest.mark.parametrize("row", [*AUTH, *UPLOADS, *REPORTS, *LOGS, *SENDS, *CHANGES, *EXECUTIONS], ids=str)
async def test_the_answer_has_this_status_and_body(row, ask):
    async with (
        SimulatedAgentApi(now=lambda: NOON) as agent,
        SimulatedCoderd(era=row.era, now=lambda: NOON) as coderd,
    ):
        await prepare(row, coderd, agent, ask)
        token = {"agent": TOKEN, "user": coderd.user_token, "anonymous": None}.get(row.by, row.by)
        answer = await ask(row.method, coderd.url + row.path, token=token, data=row.sent)

    assert (answer.status, answer.text) == (row.status, row.body or "")
    if row.body is None:
        assert "Content-Type" not in answer.headers
    else:
        assert answer.headers["Content-Type"] == "application/json; charset=utf-8"


BEGUN = '{"workspace_build":{"workspace_id":"%s","build_number":%d,"transition":"%s","initiator_id":"%s","job":{"status":"pending"},"reason":"%s","status":"pending"}}\n'


@pytest.mark.parametrize(
    ("given", "action", "hold", "build", "then"),
    [
        ("regular", "pause", False, (2, "stop", "task_manual_pause"), "running"),
        ("regular", "pause", True, (2, "stop", "task_manual_pause"), "pending"),
        ("paused", "resume", False, (3, "start", "task_resume"), "succeeded"),
        ("paused", "resume", True, (3, "start", "task_resume"), "pending"),
    ],
)
async def test_pause_and_resume_begin_a_pending_build_and_notify_the_user(
    ask, given, action, hold, build, then
):
    async with SimulatedCoderd(now=lambda: NOON, hold_builds=hold) as coderd:
        ws = coderd.add_workspace(workspace_id=WORKSPACE)
        coderd.add_task(ws, TASK)
        GIVEN[given](coderd, ws)
        number, transition, reason = build
        answer = await ask("POST", f"{coderd.url}{OF_TASK}/{action}", token=coderd.user_token)
        assert (answer.status, answer.text) == (
            202,
            BEGUN % (WORKSPACE, number, transition, coderd.user_id, reason),
        )
        assert ws.latest.job == then
        notification = coderd.notifications[-1]
        assert notification.template == f"Task {action.capitalize()}d"
        assert dict(notification.labels)["task_id"] == TASK
        assert dict(notification.labels).get("pause_reason") == ("manual" if action == "pause" else None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("resume running", "Workspace is starting"),
        ("agent starting", "Agent is starting"),
    ],
)
async def test_a_task_has_a_reason_for_waiting_and_its_prompt_as_name(ask, given, message):
    async with SimulatedCoderd(now=lambda: NOON) as coderd:
        ws = coderd.add_workspace()
        coderd.add_task(ws, TASK, initial_prompt="Fix the build")
        GIVEN[given](coderd, ws)
        answer = await ask("GET", coderd.url + "/api/v2/tasks", token=coderd.user_token)
    assert f'"message":"{message}"' in answer.text
    assert '"display_name":"Fix the build"' in answer.text
    assert answer.text.endswith('],"count":1}\n')
