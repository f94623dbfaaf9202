"""What people and scripts are told about the task by the real daemon, and what they can tell it."""

import asyncio
import sys
import time

import aiohttp
import pytest

from agentd.simulator.agentapi import SimulatedAgentApi

APP = {"AGENTD_STATUS_APP_SLUG": "agentapi"}


def told(stage):
    """The states coderd was told, in order."""
    return [row.state for row in stage.coderd.app_statuses.get(stage.workspace.id, [])]


def rows(stage):
    return [(row.state, row.message) for row in stage.coderd.app_statuses.get(stage.workspace.id, [])]


async def post(daemon, route, body):
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(daemon.socket))) as session,
        session.post(f"http://agentd{route}", json=body) as response,
    ):
        return response.status, None if response.status == 204 else await response.json()


async def agent_is(daemon, status):
    await daemon.status_until(lambda s: s["agent"]["status"] == status, what=status)


async def turn(stage, daemon, prompt):
    stage.agent.add_message("user", prompt)
    stage.agent.set_status("running")
    await agent_is(daemon, "running")
    stage.agent.add_message("agent", f"done: {prompt}")
    stage.agent.set_status("stable")
    await agent_is(daemon, "stable")


async def test_a_turn_is_told_as_working_and_then_as_idle_with_what_the_agent_says_of_it(stage):
    daemon = await stage.start(**APP)
    await agent_is(daemon, "stable")
    await stage.coderd.until(lambda: told(stage) == ["idle"])
    for number in (1, 2):
        stage.agent.add_message("user", f"prompt {number}")
        stage.agent.set_status("running")
        await agent_is(daemon, "running")
        # What says the same is not repeated within a minute, which a test has no time for.
        await post(daemon, "/v1/events", {"state": "working", "message": f"step {number}"})
        await stage.coderd.until(lambda number=number: rows(stage)[-1] == ("working", f"step {number}"))
        stage.agent.set_status("stable")
        await stage.coderd.until(lambda number=number: rows(stage)[-1] == ("idle", f"step {number}"))
    assert await daemon.stop() == 0
    changes = [
        state for state, before in zip(told(stage), ["", *told(stage)], strict=False) if state != before
    ]
    assert changes == ["idle", "working", "idle", "working", "idle"]


async def test_without_a_slug_coderd_is_told_nothing(stage):
    daemon = await stage.start()
    await agent_is(daemon, "stable")
    await turn(stage, daemon, "prompt")
    assert await daemon.stop() == 0
    assert told(stage) == []


async def test_a_stop_in_the_middle_of_a_turn_leaves_no_spinner(stage):
    daemon = await stage.start(**APP)
    await agent_is(daemon, "stable")
    await stage.coderd.until(lambda: told(stage) == ["idle"])
    stage.agent.set_status("running")
    await stage.coderd.until(lambda: told(stage) == ["idle", "working"])
    assert await daemon.stop() == 0
    assert told(stage) == ["idle", "working", "idle"]
    assert stage.coderd.app_statuses[stage.workspace.id][-1].message == "The workspace is stopping"


async def test_what_was_said_to_be_complete_stays_so_through_replays_stop_and_restart(stage):
    daemon = await stage.start(**APP)
    stage.agent.add_message("user", "do it")
    await agent_is(daemon, "stable")
    assert (
        await stage.type("report", "complete", "that was it", "--uri", "https://example.com/pr/1")
    ).code == 0
    await stage.coderd.until(lambda: told(stage)[-1:] == ["complete"])

    async def replay(daemon):
        status, answer = await post(daemon, "/v1/events", {"state": "working"})
        assert (status, answer["taken"]) == (200, False)
        assert "complete already" in answer["message"]
        refused = await stage.type("report", "working", "again")
        assert refused.code == 1
        assert "the task is already complete; working would reopen it" in refused.err
        status, answer = await post(daemon, "/v1/reports", {"state": "idle"})
        assert status == 409
        assert "complete" in answer["message"]
        task = (await daemon.ask("/v1/status"))["task"]
        assert (task["state"], task["message"]) == ("complete", "that was it")

    await replay(daemon)
    await daemon.kill()
    again = await stage.start(**APP)
    stage.agent.set_status("running")
    await agent_is(again, "running")
    await replay(again)
    assert await again.stop() == 0
    assert told(stage)[-1] == "complete"
    assert told(stage).count("complete") == 1
    row = stage.coderd.app_statuses[stage.workspace.id][-1]
    assert (row.message, row.uri) == ("that was it", "https://example.com/pr/1")


async def test_a_new_message_of_the_user_lifts_the_guard(stage):
    daemon = await stage.start()
    stage.agent.add_message("user", "do it")
    await agent_is(daemon, "stable")
    assert (await stage.type("report", "failure", "no")).code == 0
    stage.agent.add_message("user", "try again")
    # At once: the report is quicker than the next look.
    typed = await stage.type("report", "working", "on it")
    assert typed.code == 0, typed
    assert (await daemon.ask("/v1/status"))["task"]["message"] == "on it"


async def test_input_is_taken_when_the_agent_is_stable_and_refused_with_the_state_before(stage):
    stage.agent.set_status("running")
    daemon = await stage.start()
    await agent_is(daemon, "running")
    assert await post(daemon, "/v1/messages", {"content": "go"}) == (
        409, {"message": "Task app is not ready to accept input.", "detail": "Status: running"},
    )  # fmt: skip
    waiting = asyncio.create_task(post(daemon, "/v1/messages?wait=30", {"content": "go"}))
    stage.agent.set_status("stable")
    assert await waiting == (204, None)
    assert stage.agent.received == [{"content": "go", "type": "user"}]
    status, answer = await post(daemon, "/v1/messages", {"content": "and more"})
    assert (status, answer["detail"]) == (409, "Status: running"), "a send counts as work at once"


@pytest.mark.parametrize("body", [{}, {"content": ""}, {"content": " \n"}, {"content": 7}])
async def test_without_content_there_is_nothing_to_send(stage, body):
    daemon = await stage.start()
    await agent_is(daemon, "stable")
    status, answer = await post(daemon, "/v1/messages", body)
    assert status == 400
    assert "Status: stable" in answer["detail"]
    assert stage.agent.received == []


async def test_an_agent_that_refuses_or_fails_is_502_and_is_not_asked_again(stage):
    daemon = await stage.start()
    await agent_is(daemon, "stable")
    stage.agent.fault("html_502", route="message")
    status, answer = await post(daemon, "/v1/messages?wait=5", {"content": "go"})
    assert (status, answer["message"]) == (502, "Task app rejected the message.")
    assert "Status: " in answer["detail"]
    assert len(stage.agent.calls("message")) == 1


async def test_an_agent_that_is_not_there_yet_and_one_that_is_gone_are_worth_waiting_for(stage):
    await stage.agent.stop()
    daemon = await stage.start()
    await agent_is(daemon, "unreachable")
    status, answer = await post(daemon, "/v1/messages", {"content": "go"})
    assert status == 409
    assert answer["message"] in ("Task is pending.", "Task is initializing.")
    await stage.agent.start()
    await agent_is(daemon, "stable")
    await stage.agent.stop()
    await agent_is(daemon, "unreachable")
    status, answer = await post(daemon, "/v1/messages", {"content": "go"})
    assert (status, answer["message"]) == (409, "Task is paused.")


async def test_an_acp_agent_has_taken_its_prompt_before_its_turn_is_over(stage):
    async with SimulatedAgentApi(mode="acp") as agent:
        daemon = await stage.start(AGENTD_AGENTAPI_URL=agent.url)
        await agent_is(daemon, "stable")
        assert await post(daemon, "/v1/messages", {"content": "go"}) == (204, None)
        await agent_is(daemon, "running")
        status, answer = await post(daemon, "/v1/messages", {"content": "more"})
        assert (status, answer["detail"]) == (409, "Status: running")


def occasion_hook(stage, occasion, body=""):
    folder = stage.home / "hooks" / f"on-{occasion}.d"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "10-note"
    path.write_text(f'#!/bin/sh\necho "$AGENTD_REASON" >> {stage.home}/runs\n{body}\n')
    path.chmod(0o755)


async def test_hooks_are_told_idle_busy_and_stop(stage):
    for occasion in ("stable", "busy", "stop"):
        occasion_hook(stage, occasion)
    daemon = await stage.start()
    await agent_is(daemon, "stable")
    await turn(stage, daemon, "prompt")
    await daemon.log("hook.succeeded", where=lambda line: line["occasion"] == "busy")
    while stage.runs().count("stable") < 2:
        await asyncio.sleep(0.02)
    assert await daemon.stop() == 0
    assert stage.runs() == ["stable", "busy", "stable", "stop"]


async def test_a_hook_of_the_stop_that_hangs_does_not_outlast_the_budget_nor_hold_the_snapshot(stage):
    occasion_hook(stage, "stop", "trap '' TERM; sleep 60")
    daemon = await stage.start(AGENTD_SHUTDOWN_BUDGET_S="4")
    stage.agent.add_message("agent", "words")
    await agent_is(daemon, "stable")
    began = time.monotonic()
    assert await daemon.stop() == 0
    assert time.monotonic() - began < 9
    assert [message["content"] for message in stage.stored()][-1] == "words"


async def test_the_stream_of_changes_tells_what_a_person_watches(stage):
    daemon = await stage.start()
    await agent_is(daemon, "stable")
    watching = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentd", "status", "--watch", env=stage.environ | {"PATH": "/usr/bin:/bin"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip

    async def line_with(text):
        async with asyncio.timeout(20):
            while text not in (line := (await watching.stdout.readline()).decode()):
                assert line, await watching.stderr.read()

    await line_with("task      active, idle")
    stage.agent.set_status("running")
    await line_with("task      active, working")
    assert await daemon.stop() == 0
    assert await asyncio.wait_for(watching.wait(), 20) == 69
    assert b"has stopped" in await watching.stderr.read()
