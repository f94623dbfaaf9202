"""coderd's words from what a sidecar sees."""

import pytest

from agentd.agents.agent import Activity
from agentd.stability.task_status import (
    ClaimProgress,
    DescribedStatus,
    TaskStatus,
    input_refusal,
    task_status,
)
from agentd.stability.tracker import AgentStatus, Evidence

PENDING, INITIALIZING, ACTIVE, PAUSED, UNKNOWN, ERROR = TaskStatus
LOST = AgentStatus.UNREACHABLE


def seen(status: AgentStatus, activity: Activity | None = None) -> Evidence:
    return Evidence(status, activity, note="why")


@pytest.mark.parametrize(
    ("agent", "claim", "was_reached", "word", "says"),
    [
        (seen(AgentStatus.UNKNOWN), ClaimProgress.AWAITED, False, PENDING, "claimed"),
        (seen(LOST, Activity.GONE), ClaimProgress.AWAITED, False, PENDING, "claimed"),
        (seen(LOST, Activity.GONE), ClaimProgress.ACTING, False, INITIALIZING, "Workspace is starting"),
        (seen(LOST, Activity.GONE), ClaimProgress.CONNECTING, False, INITIALIZING, "Agent is connecting"),
        (seen(LOST, Activity.GONE), ClaimProgress.DONE, False, INITIALIZING, "App is initializing"),
        (seen(AgentStatus.UNKNOWN), ClaimProgress.DONE, False, INITIALIZING, "App is initializing"),
        (seen(AgentStatus.RUNNING, Activity.BUSY), ClaimProgress.DONE, True, ACTIVE, "working"),
        (seen(AgentStatus.SETTLING, Activity.IDLE), ClaimProgress.AWAITED, True, ACTIVE, "quiet"),
        (
            seen(AgentStatus.WAITING, Activity.WAITING),
            ClaimProgress.DONE,
            True,
            ACTIVE,
            "waits for an answer",
        ),
        (seen(AgentStatus.STABLE, Activity.IDLE), ClaimProgress.DONE, True, ACTIVE, "waits for input"),
        (seen(LOST, Activity.GONE), ClaimProgress.DONE, True, PAUSED, "stopped (why)"),
        (seen(LOST, Activity.BROKEN), ClaimProgress.DONE, True, ERROR, "answer is not usable (why)"),
        (seen(LOST, Activity.BROKEN), ClaimProgress.DONE, False, ERROR, "answer is not usable (why)"),
        (seen(AgentStatus.UNKNOWN), ClaimProgress.DONE, True, UNKNOWN, "not polled the agent yet"),
    ],
)
def test_the_status_and_its_message(agent, claim, was_reached, word, says):
    status = task_status(agent, claim=claim, was_reached=was_reached)
    assert status.status is word
    assert says in status.message


def test_during_the_shutdown_the_task_is_paused():
    status = task_status(
        seen(AgentStatus.RUNNING), claim=ClaimProgress.DONE, was_reached=True, is_stopping=True
    )
    assert status.status is PAUSED


@pytest.mark.parametrize(
    ("word", "agent", "code"),
    [
        (PENDING, LOST, 409),
        (INITIALIZING, LOST, 409),
        (PAUSED, LOST, 409),
        (ERROR, LOST, 400),
        (UNKNOWN, AgentStatus.UNKNOWN, 400),
        (ACTIVE, AgentStatus.RUNNING, 409),
        (ACTIVE, AgentStatus.WAITING, 409),
        (ACTIVE, AgentStatus.SETTLING, 409),
        (ACTIVE, AgentStatus.STABLE, None),
    ],
)
def test_input_is_accepted_only_from_a_stable_agent_and_the_refusal_names_the_state(word, agent, code):
    refusal = input_refusal(DescribedStatus(word, "why"), agent)
    assert (refusal and refusal.http_status) == code
    if refusal is not None:
        state = agent.value if word is ACTIVE else word.value
        assert state in (refusal.message + refusal.detail)
