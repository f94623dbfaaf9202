"""coderd's words from what a sidecar sees."""

import pytest

from agentd.stability.task_status import Owner, TaskStatus, TaskStatusWord, gate, task_status
from agentd.stability.tracker import AgentStatus, Evidence, Reading

PENDING, INITIALIZING, ACTIVE, PAUSED, UNKNOWN, ERROR = TaskStatusWord
LOST = AgentStatus.UNREACHABLE


def seen(status: AgentStatus, reading: Reading | None = None) -> Evidence:
    return Evidence(status, reading, note="why")


@pytest.mark.parametrize(
    ("agent", "owner", "ever_reached", "word", "says"),
    [
        (seen(AgentStatus.UNKNOWN), Owner.AWAITED, False, PENDING, "claimed"),
        (seen(LOST, Reading.GONE), Owner.AWAITED, False, PENDING, "claimed"),
        (seen(LOST, Reading.GONE), Owner.ACTING, False, INITIALIZING, "Workspace is starting"),
        (seen(LOST, Reading.GONE), Owner.CONNECTING, False, INITIALIZING, "Agent is connecting"),
        (seen(LOST, Reading.GONE), Owner.SETTLED, False, INITIALIZING, "App is initializing"),
        (seen(AgentStatus.UNKNOWN), Owner.SETTLED, False, INITIALIZING, "App is initializing"),
        (seen(AgentStatus.RUNNING, Reading.BUSY), Owner.SETTLED, True, ACTIVE, "working"),
        (seen(AgentStatus.SETTLING, Reading.STABLE), Owner.AWAITED, True, ACTIVE, "quiet"),
        (seen(AgentStatus.STABLE, Reading.STABLE), Owner.SETTLED, True, ACTIVE, "waits for input"),
        (seen(LOST, Reading.GONE), Owner.SETTLED, True, PAUSED, "stopped (why)"),
        (seen(LOST, Reading.BROKEN), Owner.SETTLED, True, ERROR, "no usable answer (why)"),
        (seen(LOST, Reading.BROKEN), Owner.SETTLED, False, ERROR, "no usable answer (why)"),
        (seen(AgentStatus.UNKNOWN), Owner.SETTLED, True, UNKNOWN, "not been looked at"),
    ],
)
def test_the_word_and_what_it_says(agent, owner, ever_reached, word, says):
    status = task_status(agent, owner=owner, ever_reached=ever_reached)
    assert status.word is word
    assert says in status.message


def test_on_the_way_out_the_task_is_paused_whatever_the_agent_does():
    status = task_status(seen(AgentStatus.RUNNING), owner=Owner.SETTLED, ever_reached=True, stopping=True)
    assert status.word is PAUSED


@pytest.mark.parametrize(
    ("word", "agent", "code"),
    [
        (PENDING, LOST, 409),
        (INITIALIZING, LOST, 409),
        (PAUSED, LOST, 409),
        (ERROR, LOST, 400),
        (UNKNOWN, AgentStatus.UNKNOWN, 400),
        (ACTIVE, AgentStatus.RUNNING, 409),
        (ACTIVE, AgentStatus.SETTLING, 409),
        (ACTIVE, AgentStatus.STABLE, None),
    ],
)
def test_input_is_taken_when_the_agent_waits_for_it_and_refused_with_the_state(word, agent, code):
    refusal = gate(TaskStatus(word, "why"), agent)
    assert (refusal and refusal.status) == code
    if refusal is not None:
        state = agent.value if word is ACTIVE else word.value
        assert state in (refusal.message + refusal.detail)
