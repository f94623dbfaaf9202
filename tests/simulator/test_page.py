"""The simulator's page: who may press, and that nothing is without a button."""

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

PRESS = {"X-Agentd": "page"}


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


@pytest.mark.parametrize(("peer", "admin"), [("coderd", CoderdControl), ("agentapi", AgentControl)])
def test_every_step_has_a_button(peer, admin):
    assert {button.command for _, button in buttons(peer)} == set(admin.COMMANDS)


@pytest.mark.parametrize(
    ("peer", "kinds"),
    [("coderd", faults.EXCHANGE | faults.STREAM), ("agentapi", faults.EXCHANGE | response_faults.KINDS)],
)
def test_every_fault_has_a_button(peer, kinds):
    pressed = {
        button.fields.get("kind") or "respond"
        for _, button in buttons(peer)
        if button.command in ("fault", "fail-next")
    }
    assert pressed == kinds


def test_the_routes_to_choose_from_are_routes():
    for group in GROUPS:
        for field in group.inputs:
            if group.peer == "coderd" and field.name == "route":
                assert set(field.choices) <= ROUTE_NAMES | {"*"}


@pytest.mark.parametrize(("group", "button"), [*buttons("coderd"), *buttons("agentapi")],
                         ids=lambda one: getattr(one, "title", None) or getattr(one, "label", None))  # fmt: skip
async def test_every_button_does_something_or_says_why_not(http, group, button):
    fields = button.fields | {field.name: field.start for field in group.inputs}
    async with http.post(f"do/{group.peer}/{button.command}", json=fields, headers=PRESS) as answer:
        said = await answer.json()
        assert answer.status in (200, 400)
        assert said["done"] == button.command if answer.status == 200 else " " in said["message"]


async def test_a_claim_is_pressed_and_seen(http, page):
    page.show("Here we go.", "good")
    for name in ("claim-start", "claim-finish"):
        async with http.post(f"do/coderd/{name}", headers=PRESS) as answer:
            assert answer.status == 200
    async with http.get("state") as answer:
        state = await answer.json()
    assert state["peers"]["coderd"]["workspaces"][0]["builds"][-1] == "2 start claim succeeded"
    assert (state["steps"][0]["text"], state["steps"][0]["tone"]) == ("Here we go.", "good")
    assert state["links"] == {"other": "/x"}


async def test_an_outage_leaves_the_page_and_ends_when_it_is_told(http, peers):
    coderd, agent = peers
    for name, peer in (("coderd", coderd), ("agentapi", agent)):
        async with http.post(f"do/{name}/away", headers=PRESS) as answer:
            assert answer.status == 200
        while peer.listening:
            async with http.get("state") as answer:
                await answer.read()
        async with http.post(f"do/{name}/away", headers=PRESS) as answer:
            assert (answer.status, "stopped" in (await answer.json())["message"]) == (400, True)
        async with http.post(f"do/{name}/back", headers=PRESS) as answer:
            assert (answer.status, peer.listening) == (200, True)
        async with http.post(f"do/{name}/back", headers=PRESS) as answer:
            assert (answer.status, "already" in (await answer.json())["message"]) == (400, True)


async def test_faults_that_wait_are_shown(http):
    fields = {"route": "log-snapshot", "kind": "html_502", "times": 2}
    async with http.post("do/coderd/fault", json=fields, headers=PRESS):
        pass
    async with http.get("state") as answer:
        waiting = (await answer.json())["peers"]["coderd"]["waiting_faults"]
    assert waiting == {"log-snapshot": ["html_502", "html_502"]}


async def test_runs_of_equal_requests_are_told_as_one(http, peers, ask):
    coderd, _ = peers
    for path in ("/api/v2/buildinfo", "/api/v2/buildinfo", "/api/v2/nowhere"):
        await ask("GET", coderd.url + path)
    async with http.get("state") as answer:
        recent = (await answer.json())["peers"]["coderd"]["recent"]
    assert [(one["path"], one["status"], one["times"]) for one in recent] == [
        ("/api/v2/nowhere", 404, 1),
        ("/api/v2/buildinfo", 200, 2),
    ]


async def test_the_stored_bytes_are_given_exactly(http, peers):
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
        (PRESS, 200),
        ({}, 403),
        ({"Content-Type": "text/plain"}, 403),
        (PRESS | {"Origin": "https://evil.example.com"}, 403),
        (PRESS | {"Origin": "null"}, 403),
        (PRESS | {"Host": "evil.example.com"}, 403),
        (PRESS | {"Sec-Fetch-Site": "cross-site"}, 403),
        (PRESS | {"Host": "coder.example.com", "Origin": "https://coder.example.com"}, 200),
        (PRESS | {"Host": "coder.example.com", "Origin": "https://evil.example.com"}, 403),
    ],
)
async def test_only_the_page_itself_may_press(http, headers, status):
    async with http.post("do/coderd/clear-faults", data=b"{}", headers=headers) as answer:
        assert answer.status == status


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "do/coderd/nothing", "{}", 404),
        ("POST", "do/nobody/claim-start", "{}", 404),
        ("POST", "state", "{}", 404),
        ("POST", "do/coderd/claim-start", "[]", 400),
        ("POST", "do/coderd/claim-start", "{", 400),
        ("PUT", "do/coderd/claim-start", "{}", 405),
        ("GET", "nowhere", None, 404),
    ],
)
async def test_what_is_no_press_is_told_so(http, method, path, body, status):
    async with http.request(method, path, data=body, headers=PRESS) as answer:
        assert answer.status == status
        assert json.loads(await answer.read())["message"]


@pytest.mark.parametrize("path", FILES)
async def test_what_it_is_made_of_is_served_with_a_strict_policy(http, path):
    async with http.get(path) as answer:
        assert answer.status == 200
        assert await answer.read() == (ui.FOLDER / FILES[path][0]).read_bytes()
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
