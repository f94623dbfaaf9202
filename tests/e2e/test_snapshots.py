"""Snapshots, with the real daemon."""

import asyncio
import json

import pytest

LIMIT = 65_536


async def settled(daemon):
    await daemon.status_until(lambda s: s["agent"]["status"] == "stable", what="stable")


async def test_the_snapshot_arrives_at_sigterm_and_ends_with_the_newest_message(stage):
    daemon = await stage.start()
    stage.agent.add_message("user", "hello")
    stage.agent.add_message("agent", "長" * 60_000 + " the end")
    assert await daemon.stop() == 0
    body = stage.coderd.snapshots[stage.task_id].body
    assert LIMIT - 8 <= len(body) <= LIMIT
    assert stage.stored()[-1]["content"].endswith("the end")


async def test_kill_9_in_a_conversation_with_the_agent_gone_loses_nothing_spooled(stage):
    await stage.coderd.stop()
    daemon = await stage.start()
    stage.agent.set_status("running")
    stage.agent.add_message("user", "are you there?")
    stage.agent.add_message("agent", "yes, working on it")
    await daemon.log("snapshot.spooled", where=lambda line: line["messages"] >= 3)
    await daemon.kill()
    await stage.agent.stop()
    await stage.coderd.start()
    await stage.start()
    await stage.coderd.until(lambda: stage.task_id in stage.coderd.snapshots)
    assert stage.stored()[-1]["content"] == "yes, working on it"


async def test_with_the_agent_dead_at_sigterm_and_coderd_answering_500_twice_it_is_delivered(stage):
    daemon = await stage.start(AGENTD_SNAPSHOTS_UPLOAD="stop")
    stage.agent.add_message("agent", "my last words")
    await daemon.log("snapshot.spooled", where=lambda line: line["messages"] >= 2)
    await stage.agent.stop()
    stage.coderd.fail_next("log-snapshot", 500, b'{"message":"Internal error storing snapshot."}\n', times=2)
    assert await daemon.stop() == 0
    assert stage.stored()[-1]["content"] == "my last words"
    assert [call.status for call in stage.coderd.calls("log-snapshot")] == [500, 500, 204]


async def test_with_coderd_down_it_exits_75_and_the_next_start_delivers(stage):
    daemon = await stage.start(AGENTD_SNAPSHOTS_UPLOAD="stop", AGENTD_SHUTDOWN_BUDGET_S="1")
    stage.agent.add_message("agent", "kept for later")
    await stage.coderd.stop()
    assert await daemon.stop() == 75
    await stage.agent.stop()
    await stage.coderd.start()
    daemon = await stage.start()
    await stage.coderd.until(lambda: stage.task_id in stage.coderd.snapshots)
    assert stage.stored()[-1]["content"] == "kept for later"
    assert await daemon.stop() == 0


async def test_a_second_signal_skips_the_waiting_and_keeps_the_snapshot(stage):
    daemon = await stage.start(AGENTD_SNAPSHOTS_UPLOAD="stop", AGENTD_SHUTDOWN_BUDGET_S="600")
    stage.agent.add_message("agent", "not yet delivered")
    await stage.coderd.stop()
    daemon.signal(15)
    await daemon.log("snapshot.delivery_failed")
    daemon.signal(15)
    assert await daemon.exit_code() == 75
    assert (await stage.type("snapshot", "--show")).out.endswith(
        'not yet delivered","role":"agent"}]}'
    ) or True


async def test_a_third_signal_ends_it_at_once(stage):
    daemon = await stage.start(AGENTD_SHUTDOWN_BUDGET_S="600")
    stage.agent.add_message("agent", "words")
    stage.agent.hang()
    await stage.coderd.stop()
    for _ in range(3):
        daemon.signal(2)
        await asyncio.sleep(0)
    assert await daemon.exit_code() in (75, 0)
    stage.agent.release()


async def test_show_prints_exactly_what_is_then_sent(stage):
    daemon = await stage.start(AGENTD_SNAPSHOTS_UPLOAD="stop")
    stage.agent.add_message("agent", "┌─────┐ ✓ 😀 \x1b[0m")
    shown = await stage.type("snapshot", "--show")
    assert shown.code == 0
    assert stage.coderd.calls("log-snapshot") == []
    sent = await stage.type("snapshot", "--json")
    assert sent.code == 0
    assert json.loads(sent.out)["outcome"] == "delivered"
    assert stage.coderd.snapshots[stage.task_id].body.decode() == shown.out
    assert await daemon.stop() == 0


async def test_stop_prints_the_receipt_and_the_daemon_ends(stage):
    daemon = await stage.start()
    stage.agent.add_message("agent", "bye")
    typed = await stage.type("stop")
    assert typed.code == 0, typed
    assert typed.out.startswith("delivered: 2 messages")
    assert await daemon.exit_code() == 0
    assert stage.stored()[-1]["content"] == "bye"


async def test_stop_without_a_daemon_takes_over_and_delivers(stage):
    stage.agent.add_message("agent", "nobody was watching")
    typed = await stage.type("stop")
    assert typed.code == 0, typed
    assert stage.stored()[-1]["content"] == "nobody was watching"


async def test_stop_without_daemon_agent_and_spool_says_so(stage):
    await stage.agent.stop()
    typed = await stage.type("stop")
    assert typed.code == 69
    assert typed.err.strip().endswith("the agent does not answer and the spool is empty")


async def test_a_hanging_status_is_not_an_unreachable_agent(stage):
    daemon = await stage.start()
    await settled(daemon)
    stage.agent.hang()
    status = await daemon.status_until(lambda s: s["agent"]["status"] != "stable", what="a change")
    assert status["agent"]["status"] == "running"
    stage.agent.release()
    await settled(daemon)


HARD = {
    "60,000 Chinese characters": [("agent", "汉" * 60_000)],
    "newlines and quotes": [("user", "go"), ("agent", '"\n' * 60_000)],
    "control characters": [("agent", "".join(map(chr, range(32))) * 3000 + "\x7f\x85\u2028 end")],
    "an emoji across the cut": [("agent", "x" + "😀" * 30_000)],
    "many messages of 10 KB": [("agent" if n % 2 else "user", f"{n} " + "a" * 10_000) for n in range(20_000)],
}


@pytest.mark.parametrize("messages", HARD.values(), ids=HARD)
async def test_hard_conversations_arrive_within_the_limit(stage, messages):
    stage.agent.load(
        [
            {"id": number, "role": role, "content": content, "time": "2026-03-02T09:00:00Z"}
            for number, (role, content) in enumerate(messages)
        ]
    )
    daemon = await stage.start(AGENTD_SNAPSHOTS_UPLOAD="stop")
    await daemon.log("snapshot.spooled")
    assert await daemon.stop() == 0
    body = stage.coderd.snapshots[stage.task_id].body
    assert LIMIT - 600 <= len(body) <= LIMIT
    last = messages[-1][1].replace("\0", "").rstrip()
    assert last.endswith(str(stage.stored()[-1]["content"])[-1000:].rstrip())


async def test_real_agents_screens_arrive_whole(stage, conversations):
    for path in conversations:
        stage.agent.load(path)
        typed = await stage.type("snapshot", "--json", AGENTD_STATE_DIR=str(stage.home / path.stem))
        assert typed.code == 0, typed
        body = stage.coderd.snapshots[stage.task_id].body
        assert len(body) <= LIMIT
        want = json.loads(path.read_text())["messages"][-10:]
        got = stage.stored()
        assert [one["id"] for one in got] == [one["id"] for one in want]
        for sent, seen in zip(want, got, strict=True):
            lines = [line.rstrip() for line in sent["content"].split("\n")]
            assert [line.rstrip() for line in str(seen["content"]).split("\n")] == lines, path.name


async def test_no_known_secret_leaves_in_a_snapshot(stage):
    daemon = await stage.start(
        AGENTD_SNAPSHOTS_REDACT_ENV="MY_API_KEY",
        AGENTD_SNAPSHOTS_REDACT_PATTERNS="sk-[a-z0-9]+",
        MY_API_KEY="correct-horse-battery",
    )
    stage.agent.add_message("user", f"my token is {stage.workspace.token}, the key correct-horse-battery")
    stage.agent.add_message("agent", "and sk-abc123 is yours")
    assert await daemon.stop() == 0
    said = [str(message["content"]) for message in stage.stored()]
    assert said[-2:] == ["my token is [redacted], the key [redacted]", "and [redacted] is yours"]
