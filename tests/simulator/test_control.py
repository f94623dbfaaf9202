"""The `/_sim/` control endpoint of both peers."""

import asyncio
import json

import pytest

from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.simulator.agentapi.control import AgentControl
from agentd.simulator.coderd import SimulatedCoderd
from agentd.simulator.coderd.control import CoderdControl


@pytest.fixture
async def coderd():
    async with SimulatedCoderd() as server:
        CoderdControl(server).mount()
        yield server


@pytest.fixture
def command(ask):
    async def one(peer, name, **fields):
        answer = await ask("POST", f"{peer.url}/_sim/{name}", data=json.dumps(fields) if fields else None)
        return answer.status, json.loads(answer.body)

    return one


async def test_commands_run_a_claim_and_the_later_builds(coderd, command, ask):
    ws = coderd.add_prebuild()
    assert (await command(coderd, "claim-start", owner="me"))[0] == 200
    assert ws.owner_id == "me"
    assert (await command(coderd, "claim-finish"))[1]["result"] == {"streams": 0}
    assert (await command(coderd, "stop-start"))[0] == 200
    assert (await command(coderd, "stop-finish"))[0] == 200
    assert (await command(coderd, "start"))[1]["result"] == {"token": ws.token}
    assert (await command(coderd, "delete"))[0] == 200
    state = json.loads((await ask("GET", coderd.url + "/_sim/state")).body)
    assert state["workspaces"][0]["builds"] == [
        "1 start create succeeded",
        "2 start claim succeeded",
        "3 stop none succeeded",
        "4 start none succeeded",
        "5 delete none running",
    ]
    assert state["requests"] == 0


async def test_commands_fail_a_claim_inject_faults_and_advance_the_clock(coderd, command, ask):
    ws = coderd.add_prebuild()
    await command(coderd, "claim-start")
    await command(coderd, "claim-fail", error="broke", agents_recorded=True)
    assert (ws.latest.error, len(ws.latest.agents)) == ("broke", 1)
    await command(coderd, "fail-next", route="buildinfo", status=503)
    assert (await ask("GET", coderd.url + "/api/v2/buildinfo")).status == 503
    await command(coderd, "fault", route="buildinfo", kind="html_502", times=2)
    assert (await ask("GET", coderd.url + "/api/v2/buildinfo")).status == 502
    await command(coderd, "clear-faults")
    assert (await ask("GET", coderd.url + "/api/v2/buildinfo")).status == 200
    before = coderd.now()
    await command(coderd, "advance-clock", seconds=3600)
    assert coderd.now() - before >= 3600


async def test_commands_publish_events_and_drop_streams(coderd, command, wire):
    ws = coderd.add_prebuild()
    stream = await wire(
        coderd.port, "GET", "/api/v2/workspaceagents/me/reinit", {"Coder-Session-Token": ws.token}
    )
    await coderd.until(lambda: coderd.open_streams(ws) == 1)
    await command(coderd, "publish", event={"reason": "x"})
    assert b'{"reason":"x"}' in await stream.until(b"}")
    await command(coderd, "publish", raw=": hi\n")
    await stream.until(b": hi\n")
    await command(coderd, "drop", how="eof")
    await stream.until(b"0\r\n\r\n")
    assert (await command(coderd, "drop", how="gently"))[0] == 400
    assert (await command(coderd, "drop", how="cut"))[0] == 200


async def test_the_command_restart_stops_and_starts_the_server(coderd, command, ask):
    assert (await command(coderd, "restart", seconds=0))[1]["result"] == {"away_s": 0}
    first_life = coderd._listener._runner
    while coderd._listener._runner in (first_life, None):
        await asyncio.sleep(0)
    assert (await ask("GET", coderd.url + "/api/v2/buildinfo")).status == 200


@pytest.mark.parametrize(
    ("name", "fields", "status", "message"),
    [
        ("claim-start", {}, 400, "there is no workspace"),
        ("claim-start", {"workspace": "x"}, 400, "no workspace 'x'"),
        ("fail-next", {"route": "nope", "status": 500}, 400, "no such route"),
        ("advance-clock", {}, 400, "seconds"),
        ("nope", {}, 404, "no command 'nope'"),
    ],
)
async def test_an_impossible_command_answers_with_the_reason(coderd, command, name, fields, status, message):
    got, body = await command(coderd, name, **fields)

    assert got == status
    assert message in body["message"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),
    ],
)
async def test_requests_of_other_sites_are_refused(coderd, ask, headers, status):
    assert (await ask("GET", coderd.url + "/_sim/state", headers=headers)).status == status


async def test_the_control_endpoint_is_absent_unless_it_is_mounted(ask):
    async with SimulatedCoderd() as coderd:
        assert "html" in (await ask("GET", coderd.url + "/_sim/state")).headers["Content-Type"]


async def test_a_malformed_body_and_a_wrong_method_are_refused(coderd, ask):
    assert (await ask("POST", coderd.url + "/_sim/claim-start", data="[]")).status == 400
    assert (await ask("POST", coderd.url + "/_sim/claim-start", data="{")).status == 400
    assert (await ask("GET", coderd.url + "/_sim/claim-start")).status == 405


async def test_commands_change_the_agent(command, ask):
    async with SimulatedAgentApi() as agent:
        AgentControl(agent).mount()
        await command(agent, "status", status="running")
        assert agent.conversation.status == "running"
        assert (await command(agent, "status", status="asleep"))[0] == 400
        assert (await command(agent, "message", content="hello"))[1]["result"]["id"] == 1
        await command(agent, "rewrite", content="hello!")
        await command(agent, "error", message="oops")
        await command(agent, "hang")
        await command(agent, "release")
        await command(agent, "bogus-tail")
        assert json.loads((await ask("GET", agent.url + "/messages")).body)["messages"][-1]["role"] == ""
        await command(agent, "collide-ids")
        await command(agent, "fault", kind="null", route="messages")
        assert (await ask("GET", agent.url + "/messages")).text == '{"messages":null}\n'
        await command(agent, "clear-faults")
        state = json.loads((await ask("GET", agent.url + "/_sim/state")).body)
        assert (state["status"], state["newest"][-1]["content"]) == ("running", "hello!")
