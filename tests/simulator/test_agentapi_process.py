"""State file, pid file and the end of the process: contract agentapi.md section 6."""

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


async def test_the_conversation_is_saved_and_taken_over(state_file):
    first = SimulatedAgentApi()
    life = process(first, state_file)
    await life.begin()
    first.add_message("user", "question")
    first.add_message("agent", "answer")
    assert life.save()
    saved = json.loads(state_file.read_text())
    assert (saved["version"], saved["initial_prompt"], saved["initial_prompt_sent"]) == (1, "", False)
    assert [list(message) for message in saved["messages"]] == [["id", "message", "role", "time"]] * 3
    assert stat.S_IMODE(state_file.stat().st_mode) == 0o600
    assert await life.end() == 0

    second = SimulatedAgentApi()
    await process(second, state_file).begin()
    assert second.conversation.messages == first.conversation.messages
    await second.stop()


async def test_a_user_s_message_alone_is_not_saved(state_file):
    agent = SimulatedAgentApi()
    life = process(agent, state_file)
    await life.begin()
    agent.add_message("user", "alone")

    assert not life.save()
    assert await life.end() == 0
    assert not state_file.exists()


async def test_a_broken_state_file_is_an_agent_error_and_an_empty_start(state_file):
    state_file.write_text('{"version":1,"messages":[{}]}')
    agent = SimulatedAgentApi()
    await process(agent, state_file).begin()

    assert agent.conversation.errors[0].data["level"] == "warning"
    assert len(agent.conversation.messages) == 1
    await agent.stop()


async def test_the_pid_file_is_written_and_removed_and_keeps_a_second_one_out(tmp_path):
    pid_file = tmp_path / "agentapi.pid"
    pid_file.write_text("not a number")
    agent = SimulatedAgentApi()
    life = process(agent, pid_file=pid_file)
    await life.begin()
    assert pid_file.read_text() == f"{os.getpid()}\n"
    with pytest.raises(SimulatorError, match=f"already running .pid {os.getpid()}"):
        await process(SimulatedAgentApi(), pid_file=pid_file).begin()
    assert await life.end() == 0
    assert not pid_file.exists()


async def test_in_acp_mode_the_end_is_a_panic(tmp_path):
    agent = SimulatedAgentApi(mode="acp")
    life = process(agent, pid_file=tmp_path / "pid")
    await life.begin()

    assert await life.end() == 2
    assert (tmp_path / "pid").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"version": "0.11.8"}, "has no state file"),
        ({"mode": "acp"}, "has no state file in ACP mode"),
    ],
)
def test_what_has_no_state_file_says_so(state_file, settings, message):
    with pytest.raises(SimulatorError, match=message):
        process(SimulatedAgentApi(**settings), state_file)
