"""Reporting a status, and what the user is sent for it: contract section 6."""

import json

import pytest

from agentd.simulator.coderd import SimulatedCoderd

TOKEN = "33333333-3333-4333-8333-333333333333"
PATH = "/api/v2/workspaceagents/me/app-status"
LONG = (
    '{"message":"Message is too long.","detail":"Message must be less than 160 characters.","validations":'
    '[{"field":"message","detail":"Message must be less than 160 characters."}]}\n'
)


@pytest.fixture
def report(ask):
    async def one(coderd, state, message="m", slug="agentapi", **fields):
        body = {"app_slug": slug, "state": state, "message": message, "uri": ""} | fields
        return await ask("PATCH", coderd.url + PATH, token=TOKEN, data=json.dumps(body))

    return one


@pytest.mark.parametrize(
    ("fields", "status", "answer"),
    [
        ({"state": "working"}, 200, "null\n"),
        ({"state": "WORKING"}, 200, "null\n"),
        ({"state": "foo"}, 400, '{"message":"Failed to parse request.","detail":"Invalid state: foo"}\n'),
        ({"state": "idle", "message": "é" * 80}, 200, "null\n"),
        ({"state": "idle", "message": "é" * 80 + "x"}, 400, LONG),
        ({"state": "idle", "slug": "x"}, 400,
         '{"message":"Failed to get workspace app.","detail":"No app found with slug \\"x\\""}\n'),
        # The checks in order: state, length, app.
        ({"state": "foo", "slug": "x", "message": "m" * 161}, 400,
         '{"message":"Failed to parse request.","detail":"Invalid state: foo"}\n'),
        ({"state": "idle", "slug": "x", "message": "m" * 161}, 400, LONG),
    ],
)  # fmt: skip
async def test_every_answer_is_the_contract_s(report, fields, status, answer):
    async with SimulatedCoderd() as coderd:
        ws = coderd.add_workspace(token=TOKEN)
        got = await report(coderd, **fields)

        assert (got.status, got.text) == (status, answer)
        assert len(coderd.app_statuses[ws.id]) == (status == 200)


async def test_old_servers_look_for_the_app_first_and_mind_the_case(report):
    async with SimulatedCoderd(era="E1", build_version="v2.30.4") as coderd:
        coderd.add_workspace(token=TOKEN)
        assert "No app found" in (await report(coderd, "foo", slug="x")).text
        got = await report(coderd, "WORKING")
        assert got.text == (
            '{"message":"Invalid state provided.","detail":"invalid state: \\"WORKING\\"","validations":'
            '[{"field":"state","detail":"invalid state: \\"WORKING\\""}]}\n'
        )


async def test_messages_are_sanitised_and_every_call_is_a_row(report):
    async with SimulatedCoderd() as coderd:
        ws = coderd.add_workspace(token=TOKEN)
        for _ in range(2):
            await report(coderd, "idle", message=" <b>done</b>\n\n\x1b[31mnow\x1b[0m\x07 ")

        assert [row.message for row in coderd.app_statuses[ws.id]] == ["done now"] * 2


async def test_a_user_is_told_of_transitions_only_and_once_a_minute(report):
    now = [1_772_442_000.0]
    async with SimulatedCoderd(now=lambda: now[0]) as coderd:
        ws = coderd.add_workspace(token=TOKEN)
        task = coderd.add_task(ws)

        async def told(state):
            before = len(coderd.notifications)
            await report(coderd, state)
            return [one.template for one in coderd.notifications[before:]]

        assert await told("working") == []  # the first working is no news
        assert await told("idle") == ["Task Idle"]
        assert await told("idle") == []
        assert await told("working") == ["Task Working"]
        assert await told("idle") == []  # the same content in the same minute
        coderd.advance_clock(60)
        assert await told("idle") == []  # no transition
        assert await told("working") == ["Task Working"]
        assert await told("failure") == ["Task Failed"]
        ws.agent_lifecycle = "start_error"
        assert await told("complete") == []
        assert {one.task_id for one in coderd.notifications} == {task}


async def test_working_and_leaving_it_push_the_deadline(report):
    async with SimulatedCoderd() as coderd:
        ws = coderd.add_workspace(token=TOKEN)
        for state, bumps in (("idle", 0), ("working", 1), ("working", 2), ("idle", 3), ("idle", 3)):
            await report(coderd, state)
            assert len(ws.deadline_bumps) == bumps


async def test_app_status_stays_when_tasks_are_gone(report):
    async with SimulatedCoderd(era="E5") as coderd:
        coderd.add_workspace(token=TOKEN)

        assert (await report(coderd, "working")).status == 200


@pytest.mark.parametrize("body", [b"nope", b"[]", b'{"state":1}'])
async def test_what_is_no_request_is_a_400(ask, body):
    async with SimulatedCoderd() as coderd:
        coderd.add_workspace(token=TOKEN)
        got = await ask("PATCH", coderd.url + PATH, token=TOKEN, data=body)

        assert (got.status, json.loads(got.body)["message"]) == (400, "Request body must be valid JSON.")
