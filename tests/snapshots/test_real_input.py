"""Sends conversations through recorder, spool and delivery to coderd, and reads them back as the user of a paused task."""

import json

import pytest

from agentd.agents.agentapi.messages import MessageTail
from agentd.clock import Clock
from agentd.conversation.fit import MAX_BYTES
from agentd.conversation.message import CUT_MARK, Message
from agentd.metrics import Registry
from agentd.snapshots.delivery import Delivery
from agentd.snapshots.destinations.coder import CoderDestination
from agentd.snapshots.receipts import SnapshotOutcome
from agentd.snapshots.recorder import Recorder

WHEN = "2026-03-02T09:00:00.123456789Z"


def said(content, number=0, role="agent"):
    return Message(number, role, content, WHEN)


@pytest.fixture
def arrive(spool, coderd, server, workspace, task_id, session):
    """Deliver messages; returns the logs of the task after the workspace is paused."""

    async def arrive(messages, *, keep=10):
        clock, metrics = Clock(), Registry()
        recorder = Recorder(
            spool=spool,
            task_id=task_id,
            max_messages=keep,
            max_bytes=MAX_BYTES,
            checkpoint_s=5.0,
            clock=clock,
            metrics=metrics,
        )
        delivery = Delivery(
            spool=spool,
            destinations=[CoderDestination(coderd)],
            upload="settle",
            clock=clock,
            metrics=metrics,
        )
        recorder.record_messages(messages)
        await recorder.flush_to_disk()
        assert (await delivery.flush(clock.monotonic() + 8)).outcome is SnapshotOutcome.DELIVERED
        assert len(server.snapshots[task_id].body) <= MAX_BYTES
        server.stop_start(workspace)
        server.stop_finish(workspace)
        url = f"{server.url}/api/v2/tasks/me/{task_id}/logs"
        async with session.get(url, headers={"Coder-Session-Token": server.user_token}) as response:
            assert response.status == 200
            logs = await response.json()
        assert logs["snapshot"] is True
        return logs["logs"]

    return arrive


def stripped(text):
    return "\n".join(line.rstrip(" ") for line in text.split("\n"))


def kind(role):
    return {"user": "input", "agent": "output"}[role]


AGENTS = [
    "aider",
    "amazonq",
    "amp",
    "auggie",
    "claude",
    "codex",
    "copilot",
    "cursor",
    "gemini",
    "goose",
    "opencode",
]


@pytest.mark.parametrize("agent", AGENTS)
async def test_the_recorded_screens_of_each_agent_are_read_back(arrive, data_dir, agent):
    body = (data_dir / "conversations" / f"{agent}.json").read_bytes()
    tail = MessageTail(10)
    tail.feed(body)
    sent = json.loads(body)["messages"][-10:]
    logs = await arrive(tail.close())
    assert [(log["id"], log["content"], log["type"]) for log in logs] == [
        (message["id"], stripped(message["content"]), kind(message["role"])) for message in sent
    ]


async def test_60_000_chinese_characters_are_truncated_to_the_limit(arrive, server, task_id):
    text = "漢字仮名" * 15_000
    [log] = await arrive([said(text)])
    assert text.endswith(log["content"].removeprefix(CUT_MARK))
    assert len(log["content"]) > 21_780
    assert MAX_BYTES - len(server.snapshots[task_id].body) < 3


async def test_60_000_newlines_and_quotes_are_truncated_to_the_limit(arrive, server, task_id):
    text = '"\n' * 30_000
    [log] = await arrive([said(text)])
    assert text.endswith(log["content"].removeprefix(CUT_MARK))
    assert len(log["content"]) > 32_650
    assert MAX_BYTES - len(server.snapshots[task_id].body) < 2


@pytest.mark.parametrize("count", [1_000, pytest.param(20_000, marks=pytest.mark.long)])
async def test_the_newest_of_many_messages_of_10_kb_are_delivered(arrive, count):
    def body():
        yield b'{"messages":['
        for number in range(count):
            message = {"id": number, "content": f"{number} " + "x" * 10_000, "role": "agent", "time": WHEN}
            yield (b"," if number else b"") + json.dumps(message).encode()
        yield b"]}"

    tail = MessageTail(10)
    for chunk in body():
        tail.feed(chunk)
    logs = await arrive(tail.close())
    assert [log["id"] for log in logs] == list(range(count - 7, count))
    assert all(len(log["content"]) == len(f"{count - 1} ") + 10_000 for log in logs[1:])


async def test_an_emoji_at_the_cut_is_removed_whole(arrive):
    [log] = await arrive([said("👩🏽‍🚀" * 10_000)])
    assert log["content"].startswith(CUT_MARK + "👩🏽‍🚀")
    assert set(log["content"].removeprefix(CUT_MARK).split("👩🏽‍🚀")) == {""}


async def test_control_characters_are_delivered_except_nul(arrive):
    controls = "".join(map(chr, range(32))) + "\x7f\x85\u2028"
    [log] = await arrive([said(controls + "|")])
    assert log["content"] == controls.replace("\0", "") + "|"


async def test_invalid_fields_are_repaired(arrive):
    logs = await arrive(
        [
            Message(2**63, "user", "half \ud83d", "2026-03-02 09:00:00"),
            Message(-1, "agent", "fine \ud83d\ude00", "not a time"),
            Message(0, "", "", "0001-01-01T00:00:00Z"),
        ]
    )
    assert [(log["id"], log["content"], log["time"]) for log in logs] == [
        (2**63 - 1, "half �", "2026-03-02T09:00:00Z"),
        (-1, "fine 😀", "0001-01-01T00:00:00Z"),
    ]
