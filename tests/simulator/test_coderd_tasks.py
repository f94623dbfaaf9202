"""The task routes of the simulated coderd, which users call."""

import json

import pytest

from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.simulator.coderd import SimulatedCoderd
from agentd.simulator.coderd.workspaces import Job

TASK = "44444444-4444-4444-8444-444444444444"


@pytest.fixture
async def coderd():
    async with SimulatedCoderd() as server:
        yield server


@pytest.fixture
def of_task(coderd, ask):
    async def one(method, what="", **given):
        return await ask(
            method, f"{coderd.url}/api/v2/tasks/me/{TASK}{what}", token=coderd.user_token, **given
        )

    return one


STATUSES = [
    # what operations, lifecycle, app health, status
    (lambda coderd, ws: None, "ready", "healthy", "active"),
    (lambda coderd, ws: None, "start_error", "disabled", "active"),
    (lambda coderd, ws: None, "starting", "healthy", "initializing"),
    (lambda coderd, ws: None, "shutting_down", "healthy", "unknown"),
    (lambda coderd, ws: None, "ready", "initializing", "initializing"),
    (lambda coderd, ws: None, "ready", "unhealthy", "error"),
    (lambda coderd, ws: coderd.claim_start(ws), "ready", "healthy", "active"),
    (lambda coderd, ws: coderd.claim_start(ws, job=Job.PENDING), "ready", "healthy", "pending"),
    (lambda coderd, ws: (coderd.claim_start(ws), coderd.claim_fail(ws)), "ready", "healthy", "error"),
    (lambda coderd, ws: coderd.stop_start(ws), "ready", "healthy", "unknown"),
    (lambda coderd, ws: (coderd.stop_start(ws), coderd.stop_finish(ws)), "off", "healthy", "paused"),
]


@pytest.mark.parametrize(("operations", "lifecycle", "health", "status"), STATUSES)
async def test_the_status_follows_from_build_agent_and_app(
    coderd, of_task, operations, lifecycle, health, status
):
    ws = coderd.add_prebuild()
    coderd.add_task(ws, TASK)
    operations(coderd, ws)
    ws.agent_lifecycle, ws.app_health = lifecycle, health

    task = json.loads((await of_task("GET")).body)
    assert task["status"] == status
    logs = await of_task("GET", "/logs")
    assert logs.status == {"error": 409, "unknown": 409, "active": 500}.get(status, 200)
    if logs.status == 200:
        assert logs.text == '{"logs":[],"snapshot":true}\n'
    sent = await of_task("POST", "/send", data='{"input":"go"}')
    expected = {"active": 500, "error": 400, "unknown": 400}.get(status, 409)
    assert sent.status == expected


async def test_live_logs_and_input_use_the_agent(coderd, of_task):
    async with SimulatedAgentApi(now=lambda: 1_772_442_000.0) as agent:
        coderd.add_task(coderd.add_workspace(), TASK, app_url=agent.url)
        agent.add_message("user", "hello")
        assert (await of_task("GET", "/logs")).text == (
            '{"logs":[{"id":0,"content":"","type":"output","time":"2026-03-02T09:00:00Z"},'
            '{"id":1,"content":"hello","type":"input","time":"2026-03-02T09:00:00Z"}]}\n'
        )
        assert (
            await of_task("POST", "/send", data='{"input":""}')
        ).text == '{"message":"Task input is required."}\n'
        assert (await of_task("POST", "/send", data='{"input":"go"}')).status == 204
        assert agent.received == [{"content": "go", "type": "user"}]
        busy = await of_task("POST", "/send", data='{"input":"again"}')
        assert (busy.status, busy.text) == (
            409,
            '{"message":"Task app is not ready to accept input.","detail":"Status: running"}\n',
        )
        await agent.stop()
        assert (await of_task("POST", "/send", data='{"input":"again"}')).status == 502


async def test_pause_resume_input_and_delete(coderd, of_task):
    ws = coderd.add_workspace()
    coderd.add_task(ws, TASK)
    token = ws.token
    assert (await of_task("POST", "/resume")).text == (
        '{"message":"Task workspace is already running.","detail":"Workspace status is \\"running\\"."}\n'
    )
    assert (await of_task("PATCH", "/input", data='{"input":"x"}')).status == 409
    paused = await of_task("POST", "/pause")
    assert (paused.status, json.loads(paused.body)["workspace_build"]["reason"]) == (202, "task_manual_pause")
    assert (await of_task("POST", "/pause")).status == 409
    coderd.stop_finish(ws)
    assert (await of_task("PATCH", "/input", data='{"input":"x"}')).status == 204
    resumed = await of_task("POST", "/resume")
    assert json.loads(resumed.body)["workspace_build"]["reason"] == "task_resume"
    assert ws.token != token
    assert (await of_task("DELETE")).status == 202
    assert (await of_task("GET")).status == 404


async def test_an_initializing_task_has_a_reason_and_an_active_one_the_reported_state(coderd, of_task, ask):
    ws = coderd.add_workspace()
    coderd.add_task(ws, TASK)
    ws.agent_lifecycle = "starting"
    state = json.loads((await of_task("GET")).body)["current_state"]
    assert (state["state"], state["message"]) == ("working", "Agent is starting")
    ws.agent_lifecycle = "ready"
    await ask(
        "PATCH",
        f"{coderd.url}/api/v2/workspaceagents/me/app-status",
        token=ws.token,
        data='{"app_slug":"agentapi","state":"failure","message":"broken"}',
    )
    state = json.loads((await of_task("GET")).body)["current_state"]
    assert (state["state"], state["message"]) == ("failed", "broken")
    listing = await ask("GET", f"{coderd.url}/api/v2/tasks", token=coderd.user_token)
    assert [task["id"] for task in json.loads(listing.body)["tasks"]] == [TASK]


async def test_a_task_is_found_by_name_and_an_unknown_one_is_a_404(coderd, ask):
    coderd.add_task(coderd.add_workspace(), TASK)
    base = f"{coderd.url}/api/v2/tasks/me/"

    assert (await ask("GET", base + "task-44444444", token=coderd.user_token)).status == 200
    assert (await ask("GET", base + "nope", token=coderd.user_token)).text == (
        '{"message":"Resource not found or you do not have access to this resource"}\n'
    )
