"""The process of the simulated AgentAPI: state file, pid file and exit."""

import json
import os
import stat

import pytest

from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.simulator.agentapi.process import AgentProcess
from agentd.simulator.faults import SimulatorError


@pytest.fixture
def state_file(tmp_path):
    return tmp_path / "state.json"


def process(agent, state_file=None, pid_file=None):
    return AgentProcess(agent, state_file=state_file, pid_file=pid_file)


async def test_the_conversation_is_saved_and_loaded(state_file):
    first = SimulatedAgentApi()
    running = process(first, state_file)
    await running.begin()
    first.add_message("user", "question")
    first.add_message("agent", "answer")
    assert running.save()
    saved = json.loads(state_file.read_text())
    assert (saved["version"], saved["initial_prompt"], saved["initial_prompt_sent"]) == (1, "", False)
    assert [list(message) for message in saved["messages"]] == [["id", "message", "role", "time"]] * 3
    assert stat.S_IMODE(state_file.stat().st_mode) == 0o600
    assert await running.end() == 0

    second = SimulatedAgentApi()
    await process(second, state_file).begin()
    assert second.conversation.messages == first.conversation.messages
    await second.stop()


async def test_a_users_message_alone_is_not_saved(state_file):
    agent = SimulatedAgentApi()
    running = process(agent, state_file)
    await running.begin()
    agent.add_message("user", "alone")

    assert not running.save()
    assert await running.end() == 0
    assert not state_file.exists()


async def test_a_malformed_state_file_causes_an_agent_error_and_an_empty_start(state_file):
    state_file.write_text('{"version":1,"messages":[{}]}')
    agent = SimulatedAgentApi()
    await process(agent, state_file).begin()

    assert agent.conversation.errors[0].data["level"] == "warning"
    assert len(agent.conversation.messages) == 1
    await agent.stop()


async def test_the_pid_file_is_written_and_removed_and_refuses_a_second_process(tmp_path):
    pid_file = tmp_path / "agentapi.pid"
    pid_file.write_text("not a number")
    agent = SimulatedAgentApi()
    running = process(agent, pid_file=pid_file)
    await running.begin()
    assert pid_file.read_text() == f"{os.getpid()}\n"
    with pytest.raises(SimulatorError, match=f"already running .pid {os.getpid()}"):
        await process(SimulatedAgentApi(), pid_file=pid_file).begin()
    assert await running.end() == 0
    assert not pid_file.exists()


async def test_in_acp_mode_the_process_exits_with_a_panic(tmp_path):
    agent = SimulatedAgentApi(mode="acp")
    running = process(agent, pid_file=tmp_path / "pid")
    await running.begin()

    assert await running.end() == 2
    assert (tmp_path / "pid").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"version": "0.11.8"}, "has no state file"),
        ({"mode": "acp"}, "has no state file in ACP mode"),
    ],
)
def test_a_version_or_mode_without_a_state_file_is_refused(state_file, settings, message):
    with pytest.raises(SimulatorError, match=message):
        process(SimulatedAgentApi(**settings), state_file)
