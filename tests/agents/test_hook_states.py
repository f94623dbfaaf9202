"""How far what a hook said counts beside what an agent's files say."""

import pytest

from agentd.agents.agent import Activity, LastMessage, Observation, Session, Strength
from agentd.agents.hook_events import HookEvent
from agentd.agents.hook_states import AHEAD_MAX_S, BUSY_MAX_S, SESSIONS_MAX, STATE_MAX_S, HookStates

BUSY, IDLE, WAITING, GONE, BROKEN = Activity
LIVE = [Session("s-1", is_live=True)]


@pytest.fixture
def hooks(fake_clock):
    return HookStates(fake_clock.as_clock())


def said(state, *, agent="codex", session="s-1", text=""):
    return HookEvent(agent, session, "/workspace", state, text)


def own(activity, strength, evidence="its record", last=None):
    return Observation(activity, strength, evidence, last=last)


@pytest.mark.parametrize(
    ("strength", "activity", "state", "expected"),
    [
        (Strength.TOLD, BUSY, "waiting", BUSY),
        (Strength.TOLD, BUSY, "idle", BUSY),
        (Strength.TOLD, IDLE, "busy", IDLE),
        (Strength.RECORDED, BUSY, "waiting", WAITING),
        (Strength.RECORDED, BUSY, "idle", BUSY),
        (Strength.RECORDED, IDLE, "busy", BUSY),
        (Strength.RECORDED, IDLE, "waiting", IDLE),
        (Strength.RECORDED, WAITING, "busy", BUSY),
        (Strength.RECORDED, WAITING, "idle", WAITING),
        (Strength.INFERRED, BUSY, "idle", IDLE),
        (Strength.INFERRED, BUSY, "waiting", WAITING),
        (Strength.INFERRED, IDLE, "busy", BUSY),
        (Strength.INFERRED, GONE, "busy", GONE),
        (Strength.INFERRED, BROKEN, "busy", BROKEN),
    ],
)
def test_a_hook_adds_what_the_files_do_not_tell(hooks, strength, activity, state, expected):
    hooks.take(said(state, text="which?"))
    seen = hooks.refined("codex", own(activity, strength), LIVE)
    assert seen.activity is expected
    if expected is not activity:
        assert seen.strength is Strength.TOLD
        assert seen.evidence == ("which?" if state == "waiting" else f"its hook says {state}: which?")


@pytest.mark.parametrize(
    "sessions",
    [[], [Session("s-2", is_live=True)], [Session("s-1")], [*LIVE, Session("s-2", is_live=True)]],
)
def test_only_the_one_live_session_counts(hooks, sessions):
    """Codex tells the end of a title turn by `notify`, whose thread has no files."""
    hooks.take(said("busy"))
    assert hooks.refined("codex", own(IDLE, Strength.INFERRED), sessions).activity is IDLE


def test_a_hook_of_another_agent_does_not_count(hooks):
    hooks.take(said("busy", agent="claude-code"))
    assert hooks.refined("codex", own(IDLE, Strength.INFERRED), LIVE).activity is IDLE


def test_a_waiting_ends_with_the_next_record_but_not_with_the_one_before_it(hooks, fake_clock):
    before, call, answer = (own(BUSY, Strength.RECORDED, last=LastMessage(n, n)) for n in range(3))
    hooks.refined("codex", before, LIVE)
    hooks.take(said("waiting"))
    assert hooks.refined("codex", before, LIVE).activity is WAITING
    fake_clock.now += 0.5
    assert hooks.refined("codex", call, LIVE).activity is WAITING
    fake_clock.now += 300
    assert hooks.refined("codex", call, LIVE).activity is WAITING
    assert hooks.refined("codex", answer, LIVE).activity is BUSY


def test_a_busy_ahead_of_its_record_is_dropped_if_the_record_does_not_come(hooks, fake_clock):
    idle = own(IDLE, Strength.RECORDED)
    hooks.take(said("busy"))
    assert hooks.refined("codex", idle, LIVE).activity is BUSY
    fake_clock.now += AHEAD_MAX_S + 0.1
    assert hooks.refined("codex", idle, LIVE).activity is IDLE


@pytest.mark.parametrize(("state", "longest"), [("busy", BUSY_MAX_S), ("waiting", STATE_MAX_S)])
def test_a_state_is_forgotten_after_its_time(hooks, fake_clock, state, longest):
    hooks.take(said(state))
    fake_clock.now += longest - 1
    assert [told.event.state for told in hooks.of("codex")] == [state]
    fake_clock.now += 2
    assert hooks.of("codex") == []


def test_the_end_of_a_session_removes_what_its_hooks_said(hooks):
    hooks.take(said("busy"))
    hooks.take(said("gone"))
    assert (hooks.of("codex"), hooks.agents()) == ([], [])


def test_the_sessions_are_bounded(hooks):
    for number in range(10 * SESSIONS_MAX):
        hooks.take(said("busy", session=f"s-{number}"))
    assert len(hooks.of("codex")) == SESSIONS_MAX
