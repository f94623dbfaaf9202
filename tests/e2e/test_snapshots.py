"""Snapshots, with the real daemon."""

import asyncio
import json

import pytest

LIMIT = 65_536


async def settled(daemon):
    await daemon.status_until(lambda s: s["agent"]["status"] == "stable", what="stable")


async def test_the_snapshot_arrives_at_sigterm_and_ends_with_the_newest_message(testbed):
    daemon = await testbed.start()
    testbed.agent.add_message("user", "hello")
    testbed.agent.add_message("agent", "長" * 60_000 + " the end")
    assert await daemon.stop() == 0
    body = testbed.coderd.snapshots[testbed.task_id].body
    assert LIMIT - 8 <= len(body) <= LIMIT
    assert testbed.stored()[-1]["content"].endswith("the end")


async def test_after_kill_9_and_the_agents_end_the_spooled_snapshot_is_delivered(testbed):
    await testbed.coderd.stop()
    daemon = await testbed.start()
    testbed.agent.set_status("running")
    testbed.agent.add_message("user", "are you there?")
    testbed.agent.add_message("agent", "yes, working on it")
    await daemon.log("snapshot.spooled", where=lambda line: line["messages"] >= 3)
    await daemon.kill()
    await testbed.agent.stop()
    await testbed.coderd.start()
    await testbed.start()
    await testbed.coderd.until(lambda: testbed.task_id in testbed.coderd.snapshots)
    assert testbed.stored()[-1]["content"] == "yes, working on it"


async def test_with_the_agent_dead_and_two_answers_of_500_the_snapshot_is_delivered_at_sigterm(testbed):
    daemon = await testbed.start(AGENTD_SNAPSHOTS_UPLOAD="stop")
    testbed.agent.add_message("agent", "my last words")
    await daemon.log("snapshot.spooled", where=lambda line: line["messages"] >= 2)
    await testbed.agent.stop()
    testbed.coderd.fail_next(
        "log-snapshot", 500, b'{"message":"Internal error storing snapshot."}\n', times=2
    )
    assert await daemon.stop() == 0
    assert testbed.stored()[-1]["content"] == "my last words"
    assert [call.status for call in testbed.coderd.calls("log-snapshot")] == [500, 500, 204]


async def test_with_coderd_down_the_daemon_exits_75_and_the_next_start_delivers(testbed):
    daemon = await testbed.start(AGENTD_SNAPSHOTS_UPLOAD="stop", AGENTD_SHUTDOWN_BUDGET_S="1")
    testbed.agent.add_message("agent", "kept for later")
    await testbed.coderd.stop()
    assert await daemon.stop() == 75
    await testbed.agent.stop()
    await testbed.coderd.start()
    daemon = await testbed.start()
    await testbed.coderd.until(lambda: testbed.task_id in testbed.coderd.snapshots)
    assert testbed.stored()[-1]["content"] == "kept for later"
    assert await daemon.stop() == 0


async def test_a_second_signal_skips_waiting_and_keeps_the_snapshot(testbed):
    daemon = await testbed.start(AGENTD_SNAPSHOTS_UPLOAD="stop", AGENTD_SHUTDOWN_BUDGET_S="600")
    testbed.agent.add_message("agent", "not yet delivered")
    await testbed.coderd.stop()
    daemon.signal(15)
    await daemon.log("snapshot.delivery_failed")
    daemon.signal(15)
    assert await daemon.exit_code() == 75
    await testbed.agent.stop()
    assert "not yet delivered" in (await testbed.run("snapshot", "--show")).out


async def test_a_third_signal_ends_the_daemon_at_once(testbed):
    daemon = await testbed.start(AGENTD_SHUTDOWN_BUDGET_S="600")
    testbed.agent.add_message("agent", "words")
    testbed.agent.hang()
    await testbed.coderd.stop()
    for _ in range(3):
        daemon.signal(2)
        await asyncio.sleep(0)
    assert await daemon.exit_code() in (75, 0)
    testbed.agent.release()


async def test_show_prints_the_bytes_that_are_then_sent(testbed):
    daemon = await testbed.start(AGENTD_SNAPSHOTS_UPLOAD="stop")
    testbed.agent.add_message("agent", "┌─────┐ ✓ 😀 \x1b[0m")
    shown = await testbed.run("snapshot", "--show")
    assert shown.code == 0
    assert testbed.coderd.calls("log-snapshot") == []
    sent = await testbed.run("snapshot", "--json")
    assert sent.code == 0
    assert json.loads(sent.out)["outcome"] == "delivered"
    assert testbed.coderd.snapshots[testbed.task_id].body.decode() == shown.out
    assert await daemon.stop() == 0


async def test_stop_prints_the_receipt_and_the_daemon_ends(testbed):
    daemon = await testbed.start()
    testbed.agent.add_message("agent", "bye")
    result = await testbed.run("stop")
    assert result.code == 0, result
    assert result.out.startswith("delivered: 2 messages")
    assert await daemon.exit_code() == 0
    assert testbed.stored()[-1]["content"] == "bye"


async def test_stop_without_a_daemon_takes_over_and_delivers(testbed):
    testbed.agent.add_message("agent", "before any daemon ran")
    result = await testbed.run("stop")
    assert result.code == 0, result
    assert testbed.stored()[-1]["content"] == "before any daemon ran"


async def test_stop_without_daemon_agent_and_spool_exits_69(testbed):
    await testbed.agent.stop()
    result = await testbed.run("stop")
    assert result.code == 69
    assert result.err.strip().endswith("the agent does not answer and the spool is empty")


async def test_an_agent_whose_status_hangs_is_running_and_not_unreachable(testbed):
    daemon = await testbed.start()
    await settled(daemon)
    testbed.agent.hang()
    status = await daemon.status_until(lambda s: s["agent"]["status"] != "stable", what="a change")
    assert status["agent"]["status"] == "running"
    testbed.agent.release()
    await settled(daemon)


def of_10_kb(count):
    return [("agent" if n % 2 else "user", f"{n} " + "a" * 10_000) for n in range(count)]


# Functions, so that only the process that runs the test builds the 200 MB.
HARD_TO_CUT = {
    "60,000 Chinese characters": lambda: [("agent", "汉" * 60_000)],
    "newlines and quotes": lambda: [("user", "go"), ("agent", '"\n' * 60_000)],
    "control characters": lambda: [("agent", "".join(map(chr, range(32))) * 3000 + "\x7f\x85\u2028 end")],
    "an emoji across the cut": lambda: [("agent", "x" + "😀" * 30_000)],
    "1,000 messages of 10 KB": lambda: of_10_kb(1_000),
}


@pytest.mark.parametrize(
    "conversation",
    [
        *(pytest.param(make, id=name) for name, make in HARD_TO_CUT.items()),
        pytest.param(lambda: of_10_kb(20_000), id="20,000 messages of 10 KB", marks=pytest.mark.long),
    ],
)
async def test_a_conversation_that_is_hard_to_cut_is_delivered_within_the_limit(testbed, conversation):
    messages = conversation()
    testbed.agent.load(
        [
            {"id": number, "role": role, "content": content, "time": "2026-03-02T09:00:00Z"}
            for number, (role, content) in enumerate(messages)
        ]
    )
    daemon = await testbed.start(AGENTD_SNAPSHOTS_UPLOAD="stop")
    await daemon.log("snapshot.spooled")
    assert await daemon.stop() == 0
    body = testbed.coderd.snapshots[testbed.task_id].body
    assert LIMIT - 600 <= len(body) <= LIMIT
    last = messages[-1][1].replace("\0", "").rstrip()
    assert last.endswith(str(testbed.stored()[-1]["content"])[-1000:].rstrip())


async def deliver_screens(testbed, conversations):
    for path in conversations:
        testbed.agent.load(path)
        result = await testbed.run("snapshot", "--json", AGENTD_STATE_DIR=str(testbed.home / path.stem))
        assert result.code == 0, result
        body = testbed.coderd.snapshots[testbed.task_id].body
        assert len(body) <= LIMIT
        want = json.loads(path.read_text())["messages"][-10:]
        got = testbed.stored()
        assert [one["id"] for one in got] == [one["id"] for one in want]
        for sent, seen in zip(want, got, strict=True):
            lines = [line.rstrip() for line in sent["content"].split("\n")]
            assert [line.rstrip() for line in str(seen["content"]).split("\n")] == lines, path.name


async def test_the_screens_of_some_real_agents_are_delivered_unchanged(testbed, conversations):
    await deliver_screens(testbed, conversations[::5])


@pytest.mark.long
async def test_the_screens_of_real_agents_are_delivered_unchanged(testbed, conversations):
    await deliver_screens(testbed, conversations)


async def test_a_snapshot_contains_no_known_secret(testbed):
    daemon = await testbed.start(
        AGENTD_SNAPSHOTS_REDACT_ENV="MY_API_KEY",
        AGENTD_SNAPSHOTS_REDACT_PATTERNS="sk-[a-z0-9]+",
        MY_API_KEY="correct-horse-battery",
    )
    testbed.agent.add_message("user", f"my token is {testbed.workspace.token}, the key correct-horse-battery")
    testbed.agent.add_message("agent", "and sk-abc123 is yours")
    assert await daemon.stop() == 0
    texts = [str(message["content"]) for message in testbed.stored()]
    assert texts[-2:] == ["my token is [redacted], the key [redacted]", "and [redacted] is yours"]
