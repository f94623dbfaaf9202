"""What was measured at real servers: the headers of every answer, and what differs between versions.

The versions are those that were run; v2.31.1 is the first version with two of the differences.
"""

import json
import re

import pytest

from agentd.simulator.coderd import SimulatedCoderd
from agentd.simulator.coderd.workspaces import Job

TASK = "44444444-4444-4444-8444-444444444444"
ME = "/api/v2/workspaceagents/me"
SNAPSHOT = '{"messages":[{"id":0,"content":"hi","role":"agent","time":"2026-03-02T09:00:00Z"}]}'
SERVERS = {
    "v2.29.0": {"era": "E1", "build_version": "v2.29.0"},
    "v2.30.0": {"era": "E1", "build_version": "v2.30.0"},
    "v2.31.0": {"era": "E1", "build_version": "v2.31.0"},
    "v2.31.1": {"era": "E1", "build_version": "v2.31.1"},
    "v2.31.3": {"era": "E1", "build_version": "v2.31.3"},
    "v2.36.0": {"era": "E3"},
}


async def uploaded(ask, coderd, ws):
    return (
        await ask(
            "POST",
            f"{coderd.url}{ME}/tasks/{TASK}/log-snapshot?format=agentapi",
            token=ws.token,
            data=SNAPSHOT,
        )
    ).status


async def logs_of_a_paused_task(ask, coderd, ws):
    coderd.stop_start(ws)
    coderd.stop_finish(ws)
    return (await ask("GET", f"{coderd.url}/api/v2/tasks/me/{TASK}/logs", token=coderd.user_token)).status


async def upper_case_state(ask, coderd, ws):
    report = json.dumps({"app_slug": "agentapi", "state": "Working", "message": ""})
    return (await ask("PATCH", f"{coderd.url}{ME}/app-status", token=ws.token, data=report)).status


async def refusal_of_a_bad_slug_and_state(ask, coderd, ws):
    report = json.dumps({"app_slug": "x", "state": "Foo", "message": ""})
    answer = await ask("PATCH", f"{coderd.url}{ME}/app-status", token=ws.token, data=report)
    return json.loads(answer.text)["detail"]


async def token_during_a_pending_stop(ask, coderd, ws):
    coderd.stop_start(ws, job=Job.PENDING)
    report = json.dumps({"app_slug": "agentapi", "state": "idle", "message": ""})
    return (await ask("PATCH", f"{coderd.url}{ME}/app-status", token=ws.token, data=report)).status


async def deadline_bumps_of_work(ask, coderd, ws):
    report = json.dumps({"app_slug": "agentapi", "state": "working", "message": ""})
    await ask("PATCH", f"{coderd.url}{ME}/app-status", token=ws.token, data=report)
    return len(ws.deadline_bumps)


BY_STATE, BY_SLUG = "Invalid state: Foo", 'No app found with slug "x"'
FACTS = {
    uploaded: (404, 204, 204, 204, 204, 204),
    logs_of_a_paused_task: (409, 409, 409, 200, 200, 200),
    upper_case_state: (400, 400, 400, 200, 200, 200),
    refusal_of_a_bad_slug_and_state: (BY_SLUG, BY_SLUG, BY_SLUG, BY_STATE, BY_STATE, BY_STATE),
    token_during_a_pending_stop: (401, 200, 200, 200, 200, 200),
    deadline_bumps_of_work: (0, 1, 1, 1, 1, 1),
}


@pytest.mark.parametrize(
    ("version", "fact", "expected"),
    [
        pytest.param(version, fact, expected, id=f"{version} {fact.__name__}")
        for fact, row in FACTS.items()
        for version, expected in zip(SERVERS, row, strict=True)
    ],
)
async def test_a_version_answers_as_measured(ask, version, fact, expected):
    async with SimulatedCoderd(**SERVERS[version]) as coderd:
        ws = coderd.add_workspace()
        coderd.add_task(ws, TASK)
        assert await fact(ask, coderd, ws) == expected


@pytest.mark.parametrize(
    "path",
    ["/", "/api/v2/buildinfo", "/api/v2/nothing", f"{ME}/reinit?wait=true", f"/api/v2/tasks/me/{TASK}"],
)
async def test_every_answer_sets_the_csrf_cookie_and_names_what_it_varies_by(ask, path):
    async with SimulatedCoderd() as coderd:
        answer = await ask("GET", coderd.url + path, token=coderd.add_workspace().token)
        again = await ask("GET", coderd.url + path, headers={"Cookie": "csrf_token=known"})

    assert re.fullmatch(
        r"csrf_token=[A-Za-z0-9+/]{43}=; Path=/; HttpOnly; SameSite=Lax", answer.headers["Set-Cookie"]
    )
    assert answer.headers["Vary"] == "Origin, Cookie"
    assert "Set-Cookie" not in again.headers


async def test_a_stream_sets_the_csrf_cookie(wire):
    async with SimulatedCoderd(flush="eager") as coderd:
        token = coderd.add_prebuild().token
        stream = await wire(coderd.port, "GET", f"{ME}/reinit?wait=true", {"Coder-Session-Token": token})
        head = await stream.head()
    assert "\r\nSet-Cookie: csrf_token=" in head
    assert "\r\nVary: Origin, Cookie\r\n" in head


@pytest.mark.parametrize("era", ["E1", "E2", "E3"])
async def test_the_connection_stays_open_after_an_oversize_snapshot(ask, era):
    async with SimulatedCoderd(era=era) as coderd:
        ws = coderd.add_workspace()
        coderd.add_task(ws, TASK)
        answer = await ask(
            "POST",
            f"{coderd.url}{ME}/tasks/{TASK}/log-snapshot?format=agentapi",
            token=ws.token,
            data=json.dumps({"messages": [{"content": "x" * 65_536}]}),
        )
    assert answer.status == 400
    assert "Connection" not in answer.headers


async def test_an_unauthenticated_user_is_told_how_to_authenticate(ask):
    async with SimulatedCoderd() as coderd:
        answer = await ask("GET", f"{coderd.url}/api/v2/tasks")
        agent = await ask("GET", f"{coderd.url}{ME}/reinit")
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == (
        'Bearer realm="coder", error="invalid_token", error_description="The access token has expired",'
        f' resource_metadata="{coderd.url}/.well-known/oauth-protected-resource"'
    )
    assert "WWW-Authenticate" not in agent.headers  # only user routes have it


async def test_the_build_information_has_ten_fields(ask):
    async with SimulatedCoderd() as coderd:
        info = json.loads((await ask("GET", f"{coderd.url}/api/v2/buildinfo")).text)
    assert list(info) == [
        "external_url", "version", "dashboard_url", "telemetry", "workspace_proxy", "agent_api_version",
        "provisioner_api_version", "upgrade_message", "deployment_id", "webpush_public_key",
    ]  # fmt: skip
    assert (info["version"], info["dashboard_url"]) == ("v2.36.0", coderd.url)
