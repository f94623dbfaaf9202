"""coderd's words from what a sidecar sees."""

import pytest

from agentd.agents.agent import Activity, Observation
from agentd.claims.answers import ClaimsState
from agentd.daemon.task_status import DescribedStatus, TaskStatus, TaskView, input_refusal, task_status
from agentd.stability.tracker import AgentStatus, Evidence, Tracker

PENDING, INITIALIZING, ACTIVE, PAUSED, UNKNOWN, ERROR = TaskStatus
LOST = AgentStatus.UNREACHABLE


def seen(status: AgentStatus, activity: Activity | None = None) -> Evidence:
    return Evidence(status, activity, note="why")


@pytest.mark.parametrize(
    ("agent", "claims", "was_reached", "word", "says"),
    [
        (seen(AgentStatus.UNKNOWN), ClaimsState.LISTENING, False, PENDING, "claimed"),
        (seen(LOST, Activity.GONE), ClaimsState.LISTENING, False, PENDING, "claimed"),
        (seen(LOST, Activity.GONE), ClaimsState.ACTING, False, INITIALIZING, "Workspace is starting"),
        (seen(LOST, Activity.GONE), ClaimsState.CONNECTING, False, INITIALIZING, "Agent is connecting"),
        (seen(LOST, Activity.GONE), None, False, INITIALIZING, "App is initializing"),
        (seen(AgentStatus.UNKNOWN), None, False, INITIALIZING, "App is initializing"),
        (seen(AgentStatus.RUNNING, Activity.BUSY), None, True, ACTIVE, "working"),
        (seen(AgentStatus.SETTLING, Activity.IDLE), ClaimsState.LISTENING, True, ACTIVE, "quiet"),
        (
            seen(AgentStatus.WAITING, Activity.WAITING),
            None,
            True,
            ACTIVE,
            "waits for an answer",
        ),
        (seen(AgentStatus.STABLE, Activity.IDLE), None, True, ACTIVE, "waits for input"),
        (seen(LOST, Activity.GONE), None, True, PAUSED, "stopped (why)"),
        (seen(LOST, Activity.BROKEN), None, True, ERROR, "answer is not usable (why)"),
        (seen(LOST, Activity.BROKEN), None, False, ERROR, "answer is not usable (why)"),
        (seen(AgentStatus.UNKNOWN), None, True, UNKNOWN, "not polled the agent yet"),
    ],
)
def test_the_status_and_its_message(agent, claims, was_reached, word, says):
    status = task_status(agent, claims, was_reached=was_reached)
    assert status.status is word
    assert says in status.message


def test_during_the_shutdown_the_task_is_paused():
    tracker = Tracker(settle_s=5.0)
    tracker.observe(Observation(Activity.BUSY), at=0.0)
    view = TaskView(tracker=tracker, task_reports=None, listener=None)
    assert view.status().status is ACTIVE
    view.is_stopping = True
    assert view.status().status is PAUSED


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
    assert (refusal and refusal.status) == code
    if refusal is not None:
        state = agent.value if word is ACTIVE else word.value
        assert state in (refusal.message + refusal.hint)
