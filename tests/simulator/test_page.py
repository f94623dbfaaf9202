"""The simulator's page: its routes, its access control, and a button for each command and fault."""

import json

import aiohttp
import pytest

from agentd import ui
from agentd.simulator import faults
from agentd.simulator.agentapi import SimulatedAgentApi, response_faults
from agentd.simulator.agentapi.control import AgentControl
from agentd.simulator.coderd import SimulatedCoderd
from agentd.simulator.coderd.control import CoderdControl
from agentd.simulator.coderd.router import ROUTE_NAMES
from agentd.simulator.page import FILES, Page
from agentd.simulator.page_controls import GROUPS

HEADER = {"X-Agentd": "page"}


@pytest.fixture
async def peers():
    async with SimulatedCoderd() as coderd, SimulatedAgentApi() as agent:
        coderd.add_task(coderd.add_prebuild())
        yield coderd, agent


@pytest.fixture
async def page(peers):
    coderd, agent = peers
    async with Page(
        coderd=coderd, agent=agent, proxies=("Coder.Example.com",), links={"other": "/x"}
    ) as page:
        yield page


@pytest.fixture
async def http(page):
    async with aiohttp.ClientSession(page.url) as session:
        yield session


def buttons(peer):
    return [(group, button) for group in GROUPS if group.peer == peer for button in group.buttons]


@pytest.mark.parametrize(("peer", "control"), [("coderd", CoderdControl), ("agentapi", AgentControl)])
def test_every_command_has_a_button(peer, control):
    assert {button.command for _, button in buttons(peer)} == set(control.COMMANDS)


@pytest.mark.parametrize(
    ("peer", "kinds"),
    [("coderd", faults.EXCHANGE | faults.STREAM), ("agentapi", faults.EXCHANGE | response_faults.KINDS)],
)
def test_every_fault_has_a_button(peer, kinds):
    kinds_with_a_button = {
        button.fields.get("kind") or "respond"
        for _, button in buttons(peer)
        if button.command in ("fault", "fail-next")
    }
    assert kinds_with_a_button == kinds


def test_the_selectable_routes_exist():
    for group in GROUPS:
        for field in group.inputs:
            if group.peer == "coderd" and field.name == "route":
                assert set(field.choices) <= ROUTE_NAMES | {"*"}


@pytest.mark.parametrize(("group", "button"), [*buttons("coderd"), *buttons("agentapi")],
                         ids=lambda one: getattr(one, "title", None) or getattr(one, "label", None))  # fmt: skip
async def test_every_button_runs_its_command_or_shows_the_reason(http, group, button):
    fields = button.fields | {field.name: field.start for field in group.inputs}
    async with http.post(f"do/{group.peer}/{button.command}", json=fields, headers=HEADER) as answer:
        answered = await answer.json()
        assert answer.status in (200, 400)
        assert answered["done"] == button.command if answer.status == 200 else " " in answered["message"]


async def test_commands_of_the_page_change_the_state(http, page):
    page.show("The demo starts.", "good")
    for name in ("claim-start", "claim-finish"):
        async with http.post(f"do/coderd/{name}", headers=HEADER) as answer:
            assert answer.status == 200
    async with http.get("state") as answer:
        state = await answer.json()
    assert state["peers"]["coderd"]["workspaces"][0]["builds"][-1] == "2 start claim succeeded"
    assert (state["steps"][0]["text"], state["steps"][0]["tone"]) == ("The demo starts.", "good")
    assert state["links"] == {"other": "/x"}


async def test_the_page_survives_an_outage_of_a_peer(http, peers):
    coderd, agent = peers
    for name, peer in (("coderd", coderd), ("agentapi", agent)):
        async with http.post(f"do/{name}/away", headers=HEADER) as answer:
            assert answer.status == 200
        while peer.listening:
            async with http.get("state") as answer:
                await answer.read()
        async with http.post(f"do/{name}/away", headers=HEADER) as answer:
            assert (answer.status, "stopped" in (await answer.json())["message"]) == (400, True)
        async with http.post(f"do/{name}/back", headers=HEADER) as answer:
            assert (answer.status, peer.listening) == (200, True)
        async with http.post(f"do/{name}/back", headers=HEADER) as answer:
            assert (answer.status, "already" in (await answer.json())["message"]) == (400, True)


async def test_the_state_has_the_waiting_faults(http):
    fields = {"route": "log-snapshot", "kind": "html_502", "times": 2}
    async with http.post("do/coderd/fault", json=fields, headers=HEADER):
        pass
    async with http.get("state") as answer:
        waiting = (await answer.json())["peers"]["coderd"]["waiting_faults"]
    assert waiting == {"log-snapshot": ["html_502", "html_502"]}


async def test_equal_requests_are_one_row_with_a_count(http, peers, ask):
    coderd, _ = peers
    for path in ("/api/v2/buildinfo", "/api/v2/buildinfo", "/api/v2/nowhere"):
        await ask("GET", coderd.url + path)
    async with http.get("state") as answer:
        recent = (await answer.json())["peers"]["coderd"]["recent"]
    assert [(one["path"], one["status"], one["times"]) for one in recent] == [
        ("/api/v2/nowhere", 404, 1),
        ("/api/v2/buildinfo", 200, 2),
    ]


async def test_the_stored_bytes_are_served_unchanged(http, peers):
    coderd, _ = peers
    ws, task_id = coderd.workspaces[0], next(iter(coderd.tasks))
    body = '{"messages":[{"id":0,"content":"schön","role":"agent","time":"2026-03-02T09:00:00Z"}]}'.encode()
    url = f"{coderd.url}/api/v2/workspaceagents/me/tasks/{task_id}/log-snapshot?format=agentapi"
    async with http.post(url, data=body, headers={"Coder-Session-Token": ws.token}) as answer:
        assert answer.status == 204
    async with http.get(f"snapshot/{task_id}") as answer:
        assert await answer.read() == body
    async with http.get("snapshot/other") as answer:
        assert answer.status == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (HEADER, 200),
        ({}, 403),
        ({"Content-Type": "text/plain"}, 403),
        (HEADER | {"Origin": "https://evil.example.com"}, 403),
        (HEADER | {"Origin": "null"}, 403),
        (HEADER | {"Host": "evil.example.com"}, 403),
        (HEADER | {"Sec-Fetch-Site": "cross-site"}, 403),
        (HEADER | {"Host": "coder.example.com", "Origin": "https://coder.example.com"}, 200),
        (HEADER | {"Host": "coder.example.com", "Origin": "https://evil.example.com"}, 403),
    ],
)
async def test_only_requests_of_the_page_run_commands(http, headers, status):
    async with http.post("do/coderd/clear-faults", data=b"{}", headers=headers) as answer:
        assert answer.status == status


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "do/coderd/nothing", "{}", 404),
        ("POST", "do/unknown/claim-start", "{}", 404),
        ("POST", "state", "{}", 404),
        ("POST", "do/coderd/claim-start", "[]", 400),
        ("POST", "do/coderd/claim-start", "{", 400),
        ("PUT", "do/coderd/claim-start", "{}", 405),
        ("GET", "nowhere", None, 404),
    ],
)
async def test_an_invalid_request_is_answered_with_a_message(http, method, path, body, status):
    async with http.request(method, path, data=body, headers=HEADER) as answer:
        assert answer.status == status
        assert json.loads(await answer.read())["message"]


@pytest.mark.parametrize("path", FILES)
async def test_the_files_of_the_page_have_a_strict_content_security_policy(http, path):
    async with http.get(path) as answer:
        assert answer.status == 200
        assert await answer.read() == (ui.FOLDER / FILES[path][0]).read_bytes()
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
