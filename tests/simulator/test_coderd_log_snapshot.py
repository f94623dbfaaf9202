"""Snapshot uploads to the simulated coderd, and the logs that a user reads."""

import json

import pytest

from agentd.simulator.coderd import SimulatedCoderd

TASK = "44444444-4444-4444-8444-444444444444"
TOKEN = "33333333-3333-4333-8333-333333333333"
GOOD = '{"messages":[{"id":0,"content":"hi","role":"agent","time":"2026-03-02T09:00:00Z"}]}'
NO_ROUTE = '{"message":"Route not found."}\n'
NOT_FOUND = '{"message":"Resource not found or you do not have access to this resource"}\n'
NUL = '{"message":"Internal error storing snapshot.","detail":"pq: unsupported Unicode escape sequence"}\n'


def path(task=TASK, query="?format=agentapi"):
    return f"/api/v2/workspaceagents/me/tasks/{task}/log-snapshot{query}"


def messages(**fields):
    return json.dumps(
        {"messages": [{"id": 0, "content": "x", "role": "user", "time": "2026-03-02T09:00:00Z"} | fields]}
    )


def undecodable(detail):
    return (
        json.dumps(
            {"message": "Failed to decode request payload.", "detail": detail},
            separators=(",", ":"),
            ensure_ascii=False,
        )
        + "\n"
    )


def padded(size):
    """A payload of exactly `size` bytes."""
    return GOOD.replace("hi", "h" * (size - len(GOOD) + 2))


ANSWERS = [
    # name, path, body, status, answer
    ("stored", path(), GOOD, 204, ""),
    ("empty list", path(), '{"messages":[]}', 204, ""),
    ("what AgentAPI serves", path(), '{"$schema":"http://x/y.json",' + GOOD[1:], 204, ""),
    ("unknown fields", path(), messages(extra=[1]), 204, ""),
    ("any role", path(), messages(role="system"), 204, ""),
    ("trailing bytes", path(), GOOD + "garbage", 204, ""),
    ("65,536 bytes", path(), padded(65_536), 204, ""),
    ("trailing bytes beyond the limit", path(), GOOD + " " * 70_000, 204, ""),
    ("missing content, role and time", path(), '{"messages":[{"id":3}]}', 204, ""),
    ("null message", path(), '{"messages":[null]}', 204, ""),
    ("65,537 bytes", path(), padded(65_537), 400, undecodable("http: request body too large")),
    ("wrong JSON beyond the limit", path(), "[" + padded(70_000)[1:], 400,
     undecodable("invalid character ':' after array element")),
    ("no UUID", path("not-a-uuid"), GOOD, 400, '{"message":"Invalid task ID format.","detail":"invalid UUID length: 10"}\n'),
    ("odd UUID", path("g" * 36), GOOD, 400, '{"message":"Invalid task ID format.","detail":"invalid UUID format"}\n'),
    ("no format", path(query=""), GOOD, 400,
     ('{"message":"Invalid query parameters.","validations":[{"field":"format",'
     '"detail":"Query param \\"format\\" is required and cannot be empty"}]}\n')),
    ("more parameters", path(query="?format=agentapi&x=1"), GOOD, 400,
     '{"message":"Invalid query parameters.","validations":[{"field":"x","detail":"\\"x\\" is not a valid query param"}]}\n'),
    ("other format", path(query="?format=unknown"), GOOD, 400,
     ('{"message":"Invalid format parameter.","detail":"Only \\"agentapi\\" format is currently supported,'
     ' got \\"unknown\\"."}\n')),
    ("unknown task", path(TASK[:-1] + "5"), GOOD, 404, NOT_FOUND),
    ("no body", path(), "", 400, undecodable("EOF")),
    ("half a body", path(), GOOD[:-1], 400, undecodable("unexpected EOF")),
    ("no JSON", path(), "nope", 400, undecodable("invalid character 'o' in literal null (expecting 'u')")),
    ("array", path(), "[]", 400,
     undecodable("json: cannot unmarshal array into Go value of type agentapisdk.MessagesResponseBody")),
    ("null", path(), "null", 400,
     '{"message":"Invalid agentapi payload structure.","detail":"Missing required \\"messages\\" field."}\n'),
    ("messages null", path(), '{"messages":null}', 400,
     '{"message":"Invalid agentapi payload structure.","detail":"Missing required \\"messages\\" field."}\n'),
    ("id as text", path(), messages(id="1"), 400,
     undecodable("json: cannot unmarshal string into Go struct field Message.messages.id of type int64")),
    ("id with a point", path(), messages(id=1.0), 400,
     undecodable("json: cannot unmarshal number 1.0 into Go struct field Message.messages.id of type int64")),
    ("id too large", path(), messages(id=1 << 63), 400,
     undecodable("json: cannot unmarshal number 9223372036854775808 into Go struct field Message.messages.id of type int64")),
    ("content as number", path(), messages(content=1), 400,
     undecodable("json: cannot unmarshal number 1 into Go struct field Message.messages.content of type string")),
    ("time without zone", path(), messages(time="2026-03-02T09:00:00"), 400,
     undecodable('parsing time "2026-03-02T09:00:00" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "Z07:00"')),
    ("empty time", path(), messages(time=""), 400,
     undecodable('parsing time "" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "2006"')),
    ("time with a blank", path(), messages(time="2026-03-02 09:00:00Z"), 400,
     undecodable('parsing time "2026-03-02 09:00:00Z" as "2006-01-02T15:04:05Z07:00": cannot parse " 09:00:00Z" as "T"')),
    ("no such day", path(), messages(time="2026-02-30T09:00:00Z"), 400,
     undecodable('parsing time "2026-02-30T09:00:00Z" as "2006-01-02T15:04:05Z07:00": day out of range')),
    ("time as number", path(), messages(time=5), 400, undecodable("Time.UnmarshalJSON: input is not a JSON string")),
    ("U+0000 in content", path(), messages(content="a\0b"), 500, NUL),
    ("U+0000 in a role", path(), messages(role="\0"), 500, NUL),
    ("a backslash before u0000", path(), messages(content="\\u0000"), 204, ""),
]  # fmt: skip


@pytest.mark.parametrize(
    ("url", "body", "status", "answer"), [pytest.param(*row[1:], id=row[0]) for row in ANSWERS]
)
async def test_the_answer_has_this_status_and_body(ask, url, body, status, answer):
    async with SimulatedCoderd() as coderd:
        ws = coderd.add_workspace(token=TOKEN)
        coderd.add_task(ws, TASK)
        got = await ask("POST", coderd.url + url, token=TOKEN, data=body.encode())

        assert (got.status, got.text) == (status, answer)
        assert (TASK in coderd.snapshots) == (status == 204)
        if status == 204:
            assert "Content-Type" not in got.headers
            assert coderd.snapshots[TASK].body == body.encode()


@pytest.mark.parametrize(
    ("era", "body", "status", "message"),
    [
        ("E1", padded(65_537), 400, "Failed to decode request payload."),
        ("E2", padded(65_537), 400, "Failed to decode request payload."),
        ("E4", padded(65_537), 413, "Request body too large."),
        ("E4", "nope", 400, "Request body must be valid JSON."),
    ],
)
async def test_the_message_of_a_refusal_depends_on_the_era(ask, era, body, status, message):
    async with SimulatedCoderd(era=era) as coderd:
        coderd.add_task(coderd.add_workspace(token=TOKEN), TASK)
        got = await ask("POST", coderd.url + path(), token=TOKEN, data=body)

        assert (got.status, json.loads(got.body)["message"]) == (status, message)
        if status == 413:
            assert json.loads(got.body)["detail"] == "Maximum request body size is 65536 bytes."


@pytest.mark.parametrize(
    "server",
    [{"era": "E5"}, {"era": "E4", "enable_tasks": False}, {"era": "E1", "build_version": "v2.29.18"}],
    ids=["removed", "switched off", "not there yet"],
)
async def test_an_absent_route_is_a_404_for_agents_and_a_401_without_a_token(ask, server):
    async with SimulatedCoderd(**server) as coderd:
        coderd.add_task(coderd.add_workspace(token=TOKEN), TASK)
        got = await ask("POST", coderd.url + path(), token=TOKEN, data=GOOD)

        assert (got.status, got.text) == (404, NO_ROUTE)
        assert (await ask("POST", coderd.url + path(), data=GOOD)).status == 401


async def test_foreign_and_deleted_tasks_are_not_found(ask):
    async with SimulatedCoderd() as coderd:
        coderd.add_workspace(token=TOKEN)
        coderd.add_task(coderd.add_workspace(), TASK)
        assert (await ask("POST", coderd.url + path(), token=TOKEN, data=GOOD)).text == NOT_FOUND

        mine = coderd.add_task(coderd.workspaces[0])
        coderd.delete_task(mine)
        assert (await ask("POST", coderd.url + path(mine), token=TOKEN, data=GOOD)).text == NOT_FOUND


async def test_the_envelope_has_the_fields_of_the_go_struct(ask):
    async with SimulatedCoderd(now=lambda: 1_772_442_000.5) as coderd:
        coderd.add_task(coderd.add_workspace(token=TOKEN), TASK)
        body = (
            b'{"messages":[{"ID":7,"content":"a\\ud800b\xff\xfe","role":"agent","time":"2026-03-02T09:00:00.120000000+00:00",'
            b'"extra":1},{"id":8}]}'
        )
        await ask("POST", coderd.url + path(), token=TOKEN, data=body)

        stored = coderd.snapshots[TASK]
        assert stored.envelope == {
            "format": "agentapi",
            "data": {
                "messages": [
                    {
                        "content": "a\ufffdb\ufffd\ufffd",
                        "id": 7,
                        "role": "agent",
                        "time": "2026-03-02T09:00:00.12Z",
                    },
                    {"content": "", "id": 8, "role": "", "time": "0001-01-01T00:00:00Z"},
                ]
            },
        }
        assert list(stored.envelope["data"]["messages"][0]) == ["content", "id", "role", "time"]
        assert stored.created_at == 1_772_442_000.5


async def test_the_last_upload_is_kept(ask):
    async with SimulatedCoderd() as coderd:
        coderd.add_task(coderd.add_workspace(token=TOKEN), TASK)
        for content in ("one", "two"):
            await ask("POST", coderd.url + path(), token=TOKEN, data=messages(content=content))

        assert coderd.snapshots[TASK].envelope["data"]["messages"][0]["content"] == "two"
        assert [call.status for call in coderd.calls("log-snapshot")] == [204, 204]


async def test_the_token_is_valid_until_the_stop_build_has_succeeded(ask):
    async with SimulatedCoderd() as coderd:
        ws = coderd.add_workspace(token=TOKEN)
        coderd.add_task(ws, TASK)
        coderd.stop_start(ws)
        assert (await ask("POST", coderd.url + path(), token=TOKEN, data=GOOD)).status == 204
        coderd.stop_finish(ws)
        assert (await ask("POST", coderd.url + path(), token=TOKEN, data=GOOD)).status == 401


async def test_a_user_reads_the_snapshot_of_a_paused_task(ask):
    async with SimulatedCoderd(now=lambda: 1_772_442_000.25) as coderd:
        ws = coderd.add_workspace(token=TOKEN)
        coderd.add_task(ws, TASK)
        logs = f"{coderd.url}/api/v2/tasks/me/{TASK}/logs"
        await ask("POST", coderd.url + path(), token=TOKEN, data=messages(content="<end>"))
        coderd.stop_start(ws)
        during = await ask("GET", logs, token=coderd.user_token)
        assert (during.status, during.text) == (
            409,
            '{"message":"Cannot fetch logs for task in current state.","detail":"Task status is \\"unknown\\"."}\n',
        )
        coderd.stop_finish(ws)
        after = await ask("GET", logs, token=coderd.user_token)
        assert (after.status, after.text) == (
            200,
            (
                '{"logs":[{"id":0,"content":"\\u003cend\\u003e","type":"input","time":"2026-03-02T09:00:00Z"}],'
                '"snapshot":true,"snapshot_at":"2026-03-02T09:00:00.25Z"}\n'
            ),
        )
        assert (await ask("GET", logs, token=TOKEN)).status == 401


async def test_a_snapshot_with_an_unknown_role_is_stored_but_cannot_be_read(ask):
    async with SimulatedCoderd() as coderd:
        ws = coderd.add_workspace(token=TOKEN)
        coderd.add_task(ws, TASK)
        await ask("POST", coderd.url + path(), token=TOKEN, data=messages(role="x"))
        coderd.stop_start(ws)
        coderd.stop_finish(ws)
        got = await ask("GET", f"{coderd.url}/api/v2/tasks/me/{TASK}/logs", token=coderd.user_token)

        assert (got.status, got.text) == (
            500,
            '{"message":"Invalid snapshot data.","detail":"invalid agentapi message role \\"x\\""}\n',
        )
