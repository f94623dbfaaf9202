"""Status reports, input and hooks of a task, with the real daemon."""

import asyncio
import sys
import time

import aiohttp
from agents.claude_files import ClaudeHome

from agentd.simulator.agentapi import SimulatedAgentApi

APP = {"AGENTD_STATUS_APP_SLUG": "agentapi"}


def states(testbed):
    """The states that coderd received, in order."""
    return [row.state for row in testbed.coderd.app_statuses.get(testbed.workspace.id, [])]


def rows(testbed):
    return [(row.state, row.message) for row in testbed.coderd.app_statuses.get(testbed.workspace.id, [])]


async def post(daemon, route, body):
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(daemon.socket))) as session,
        session.post(f"http://agentd{route}", json=body) as response,
    ):
        return response.status, None if response.status == 204 else await response.json()


async def agent_is(daemon, status):
    await daemon.status_until(lambda s: s["agent"]["status"] == status, what=status)


async def turn(testbed, daemon, prompt):
    testbed.agent.add_message("user", prompt)
    testbed.agent.set_status("running")
    await agent_is(daemon, "running")
    testbed.agent.add_message("agent", f"done: {prompt}")
    testbed.agent.set_status("stable")
    await agent_is(daemon, "stable")


async def test_a_turn_is_reported_as_working_and_then_as_idle_with_the_agents_message(testbed):
    daemon = await testbed.start(**APP)
    await agent_is(daemon, "stable")
    await testbed.coderd.until(lambda: states(testbed) == ["idle"])
    for number in (1, 2):
        testbed.agent.add_message("user", f"prompt {number}")
        testbed.agent.set_status("running")
        await agent_is(daemon, "running")
        # A different message each time: the same report is not repeated within a minute.
        await post(daemon, "/v1/events", {"state": "working", "message": f"step {number}"})
        await testbed.coderd.until(lambda number=number: rows(testbed)[-1] == ("working", f"step {number}"))
        testbed.agent.set_status("stable")
        await testbed.coderd.until(lambda number=number: rows(testbed)[-1] == ("idle", f"step {number}"))
    assert await daemon.stop() == 0
    changes = [
        state
        for state, before in zip(states(testbed), ["", *states(testbed)], strict=False)
        if state != before
    ]
    assert changes == ["idle", "working", "idle", "working", "idle"]


async def test_without_a_slug_coderd_gets_no_report(testbed):
    daemon = await testbed.start()
    await agent_is(daemon, "stable")
    await turn(testbed, daemon, "prompt")
    assert await daemon.stop() == 0
    assert states(testbed) == []


async def test_a_stop_during_a_turn_reports_idle(testbed):
    daemon = await testbed.start(**APP)
    await agent_is(daemon, "stable")
    await testbed.coderd.until(lambda: states(testbed) == ["idle"])
    testbed.agent.set_status("running")
    await testbed.coderd.until(lambda: states(testbed) == ["idle", "working"])
    assert await daemon.stop() == 0
    assert states(testbed) == ["idle", "working", "idle"]
    assert testbed.coderd.app_statuses[testbed.workspace.id][-1].message == "The workspace is stopping"


async def test_a_complete_task_stays_complete_through_replays_stop_and_restart(testbed):
    daemon = await testbed.start(**APP)
    testbed.agent.add_message("user", "do it")
    await agent_is(daemon, "stable")
    assert (
        await testbed.run("report", "complete", "that was it", "--uri", "https://example.com/pr/1")
    ).code == 0
    await testbed.coderd.until(lambda: states(testbed)[-1:] == ["complete"])

    async def replay(daemon):
        status, answer = await post(daemon, "/v1/events", {"state": "working"})
        assert (status, answer["taken"]) == (200, False)
        assert "complete already" in answer["message"]
        refused = await testbed.run("report", "working", "again")
        assert refused.code == 1
        assert "the task is already complete; working would reopen it" in refused.err
        status, answer = await post(daemon, "/v1/reports", {"state": "idle"})
        assert status == 409
        assert "complete" in answer["message"]
        task = (await daemon.ask("/v1/status"))["task"]
        assert (task["state"], task["message"]) == ("complete", "that was it")

    await replay(daemon)
    await daemon.kill()
    again = await testbed.start(**APP)
    testbed.agent.set_status("running")
    await agent_is(again, "running")
    await replay(again)
    assert await again.stop() == 0
    assert states(testbed)[-1] == "complete"
    assert states(testbed).count("complete") == 1
    row = testbed.coderd.app_statuses[testbed.workspace.id][-1]
    assert (row.message, row.uri) == ("that was it", "https://example.com/pr/1")


async def test_a_new_user_message_permits_reports_after_failure(testbed):
    daemon = await testbed.start()
    testbed.agent.add_message("user", "do it")
    await agent_is(daemon, "stable")
    assert (await testbed.run("report", "failure", "no")).code == 0
    testbed.agent.add_message("user", "try again")
    # The report arrives before the next poll of the agent.
    result = await testbed.run("report", "working", "on it")
    assert result.code == 0, result
    assert (await daemon.ask("/v1/status"))["task"]["message"] == "on it"


async def test_input_is_accepted_when_the_agent_is_stable_and_refused_with_its_status_before(testbed):
    testbed.agent.set_status("running")
    daemon = await testbed.start()
    await agent_is(daemon, "running")
    assert await post(daemon, "/v1/messages", {"content": "go"}) == (
        409, {"message": "Task app is not ready to accept input.", "detail": "Status: running"},
    )  # fmt: skip
    waiting = asyncio.create_task(post(daemon, "/v1/messages?wait=30", {"content": "go"}))
    testbed.agent.set_status("stable")
    assert await waiting == (204, None)
    assert testbed.agent.received == [{"content": "go", "type": "user"}]
    status, answer = await post(daemon, "/v1/messages", {"content": "and more"})
    assert (status, answer["detail"]) == (409, "Status: running"), "a send counts as work at once"


async def test_a_message_without_content_is_400_and_is_not_sent(testbed):
    daemon = await testbed.start()
    await agent_is(daemon, "stable")
    for body in ({}, {"content": ""}, {"content": " \n"}, {"content": 7}):
        status, answer = await post(daemon, "/v1/messages", body)
        assert status == 400
        assert "Status: stable" in answer["detail"]
    assert testbed.agent.received == []


async def test_an_agent_that_refuses_a_message_is_502_and_is_not_asked_again(testbed):
    daemon = await testbed.start()
    await agent_is(daemon, "stable")
    testbed.agent.fault("html_502", route="message")
    status, answer = await post(daemon, "/v1/messages?wait=5", {"content": "go"})
    assert (status, answer["message"]) == (502, "Task app rejected the message.")
    assert "Status: " in answer["detail"]
    assert len(testbed.agent.calls("message")) == 1


async def test_while_the_agent_is_unreachable_input_is_409_with_the_tasks_status(testbed):
    await testbed.agent.stop()
    daemon = await testbed.start()
    await agent_is(daemon, "unreachable")
    status, answer = await post(daemon, "/v1/messages", {"content": "go"})
    assert status == 409
    assert answer["message"] in ("Task is pending.", "Task is initializing.")
    await testbed.agent.start()
    await agent_is(daemon, "stable")
    await testbed.agent.stop()
    await agent_is(daemon, "unreachable")
    status, answer = await post(daemon, "/v1/messages", {"content": "go"})
    assert (status, answer["message"]) == (409, "Task is paused.")


async def test_an_acp_agent_accepts_a_prompt_before_its_turn_ends(testbed):
    async with SimulatedAgentApi(mode="acp") as agent:
        daemon = await testbed.start(AGENTD_AGENTAPI_URL=agent.url)
        await agent_is(daemon, "stable")
        assert await post(daemon, "/v1/messages", {"content": "go"}) == (204, None)
        await agent_is(daemon, "running")
        status, answer = await post(daemon, "/v1/messages", {"content": "more"})
        assert (status, answer["detail"]) == (409, "Status: running")


def event_hook(testbed, event, body=""):
    folder = testbed.home / "hooks" / f"on-{event}.d"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "10-note"
    path.write_text(f'#!/bin/sh\necho "$AGENTD_REASON" >> {testbed.home}/runs\n{body}\n')
    path.chmod(0o755)


async def test_hooks_run_at_idle_busy_and_stop(testbed):
    for event in ("stable", "busy", "stop"):
        event_hook(testbed, event)
    daemon = await testbed.start()
    await agent_is(daemon, "stable")
    await turn(testbed, daemon, "prompt")
    await daemon.log("hook.succeeded", where=lambda line: line["occasion"] == "busy")
    while testbed.runs().count("stable") < 2:
        await asyncio.sleep(0.02)
    assert await daemon.stop() == 0
    assert testbed.runs() == ["stable", "busy", "stable", "stop"]


async def test_waiting_hooks_run_when_the_agent_asks_and_know_its_session(testbed):
    event_hook(testbed, "waiting", f'echo "$AGENTD_AGENT $AGENTD_SESSION_ID" >> {testbed.home}/runs')
    claude = ClaudeHome(testbed.home / "claude")
    try:
        claude.write(claude.records.prompt("go"))
        claude.status("busy")
        daemon = await testbed.start(CLAUDE_CONFIG_DIR=str(claude.folder), AGENTD_AGENT_SOURCES="claude-code")
        await agent_is(daemon, "running")
        claude.status("waiting", "permission prompt")
        await daemon.log("hook.succeeded", where=lambda line: line["occasion"] == "waiting")
    finally:
        claude.exit()
    assert testbed.runs() == ["waiting", f"claude-code {claude.records.session}"]


async def test_a_stop_hook_that_hangs_exceeds_no_budget_and_delays_no_snapshot(testbed):
    event_hook(testbed, "stop", "trap '' TERM; sleep 60")
    daemon = await testbed.start(AGENTD_SHUTDOWN_BUDGET_S="4")
    testbed.agent.add_message("agent", "words")
    await agent_is(daemon, "stable")
    began = time.monotonic()
    assert await daemon.stop() == 0
    assert time.monotonic() - began < 9
    assert [message["content"] for message in testbed.stored()][-1] == "words"


async def test_status_watch_prints_each_change(testbed):
    daemon = await testbed.start()
    await agent_is(daemon, "stable")
    watching = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentd", "status", "--watch", env=testbed.environ | {"PATH": "/usr/bin:/bin"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip

    async def line_with(text):
        async with asyncio.timeout(20):
            while text not in (line := (await watching.stdout.readline()).decode()):
                assert line, await watching.stderr.read()

    await line_with("task      active, idle")
    testbed.agent.set_status("running")
    await line_with("task      active, working")
    assert await daemon.stop() == 0
    assert await asyncio.wait_for(watching.wait(), 20) == 69
    assert b"has stopped" in await watching.stderr.read()
