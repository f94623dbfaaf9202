"""Status reports to the simulated coderd, and the notifications that they cause."""

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
        # coderd checks the state, then the length, then the app.
        ({"state": "foo", "slug": "x", "message": "m" * 161}, 400,
         '{"message":"Failed to parse request.","detail":"Invalid state: foo"}\n'),
        ({"state": "idle", "slug": "x", "message": "m" * 161}, 400, LONG),
    ],
)  # fmt: skip
async def test_the_answer_has_this_status_and_body(report, fields, status, answer):
    async with SimulatedCoderd() as coderd:
        ws = coderd.add_workspace(token=TOKEN)
        got = await report(coderd, **fields)

        assert (got.status, got.text) == (status, answer)
        assert len(coderd.app_statuses[ws.id]) == (status == 200)


async def test_old_servers_check_the_app_first_and_are_case_sensitive(report):
    async with SimulatedCoderd(era="E1", build_version="v2.30.4") as coderd:
        coderd.add_workspace(token=TOKEN)
        assert "No app found" in (await report(coderd, "foo", slug="x")).text
        got = await report(coderd, "WORKING")
        assert got.text == (
            '{"message":"Invalid state provided.","detail":"invalid state: \\"WORKING\\"","validations":'
            '[{"field":"state","detail":"invalid state: \\"WORKING\\""}]}\n'
        )


async def test_messages_are_sanitized_and_every_report_is_a_row(report):
    async with SimulatedCoderd() as coderd:
        ws = coderd.add_workspace(token=TOKEN)
        for _ in range(2):
            await report(coderd, "idle", message=" <b>done</b>\n\n\x1b[31mnow\x1b[0m\x07 ")

        assert [row.message for row in coderd.app_statuses[ws.id]] == ["done now"] * 2


async def test_a_user_is_notified_of_transitions_only_and_once_a_minute(report):
    now = [1_772_442_000.0]
    async with SimulatedCoderd(now=lambda: now[0]) as coderd:
        ws = coderd.add_workspace(token=TOKEN)
        task = coderd.add_task(ws)

        async def notified(state):
            before = len(coderd.notifications)
            await report(coderd, state)
            return [one.template for one in coderd.notifications[before:]]

        assert await notified("working") == []  # the first working is not notified
        assert await notified("idle") == ["Task Idle"]
        assert await notified("idle") == []
        assert await notified("working") == ["Task Working"]
        assert await notified("idle") == []  # the same content in the same minute
        coderd.advance_clock(60)
        assert await notified("idle") == []  # no transition
        assert await notified("working") == ["Task Working"]
        assert await notified("failure") == ["Task Failed"]
        ws.agent_lifecycle = "start_error"
        assert await notified("complete") == []
        assert {one.task_id for one in coderd.notifications} == {task}


async def test_working_and_the_end_of_working_extend_the_deadline(report):
    async with SimulatedCoderd() as coderd:
        ws = coderd.add_workspace(token=TOKEN)
        for state, bumps in (("idle", 0), ("working", 1), ("working", 2), ("idle", 3), ("idle", 3)):
            await report(coderd, state)
            assert len(ws.deadline_bumps) == bumps


async def test_app_status_exists_without_tasks(report):
    async with SimulatedCoderd(era="E5") as coderd:
        coderd.add_workspace(token=TOKEN)

        assert (await report(coderd, "working")).status == 200


@pytest.mark.parametrize("body", [b"nope", b"[]", b'{"state":1}'])
async def test_a_malformed_report_is_a_400(ask, body):
    async with SimulatedCoderd() as coderd:
        coderd.add_workspace(token=TOKEN)
        got = await ask("PATCH", coderd.url + PATH, token=TOKEN, data=body)

        assert (got.status, json.loads(got.body)["message"]) == (400, "Request body must be valid JSON.")
