"""The agent is stable only after a quiet period, and running at once."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.agents.agent import Activity, LastMessage, Observation, Strength
from agentd.stability.tracker import (
    BROKEN_MIN,
    SAMPLES_MIN,
    TRANSITIONS,
    AgentStatus,
    AgentStatusChange,
    Assessment,
    Tracker,
)

RUNNING, STABLE, ASKING, GONE, BROKEN = Activity
NINE = LastMessage(9, 1)
SETTLE_S = 5.0


class Sample(NamedTuple):
    """An observation and its time."""

    activity: Activity
    at: float
    last: LastMessage | None = None
    detail: str = ""
    strength: Strength = Strength.INFERRED


def observe(tracker: Tracker, sample: Sample) -> AgentStatusChange | None:
    observation = Observation(sample.activity, sample.strength, sample.detail, sample.last)
    return tracker.observe(observation, at=sample.at)


def feed(tracker: Tracker, *samples: Sample) -> list[AgentStatusChange | None]:
    return [observe(tracker, sample) for sample in samples]


def brought_to(state: AgentStatus) -> Tracker:
    """A tracker in `state`, whose last sample was at 100."""
    tracker = Tracker(SETTLE_S)
    readings = {
        AgentStatus.UNKNOWN: [],
        AgentStatus.RUNNING: [(RUNNING, 100)],
        AgentStatus.WAITING: [(ASKING, 100)],
        AgentStatus.SETTLING: [(STABLE, 99), (STABLE, 100)],
        AgentStatus.STABLE: [(STABLE, 94), (STABLE, 97), (STABLE, 100)],
        AgentStatus.UNREACHABLE: [(GONE, 100)],
    }
    feed(tracker, *(Sample(reading, at, NINE) for reading, at in readings[state]))
    assert tracker.status is state
    return tracker


UNKNOWN, RUN, WAITING, SETTLING, QUIET, LOST = AgentStatus
# state, what is seen one second later -> state
STEPS = [
    (UNKNOWN, STABLE, SETTLING),
    (UNKNOWN, RUNNING, RUN),
    (UNKNOWN, ASKING, WAITING),
    (UNKNOWN, GONE, LOST),
    (UNKNOWN, BROKEN, UNKNOWN),
    (RUN, STABLE, SETTLING),
    (RUN, RUNNING, RUN),
    (RUN, ASKING, WAITING),
    (RUN, GONE, LOST),
    (RUN, BROKEN, RUN),
    (SETTLING, STABLE, SETTLING),
    (SETTLING, RUNNING, RUN),
    (SETTLING, ASKING, WAITING),
    (SETTLING, GONE, LOST),
    (SETTLING, BROKEN, SETTLING),
    (QUIET, STABLE, QUIET),
    (QUIET, RUNNING, RUN),
    (QUIET, ASKING, WAITING),
    (QUIET, GONE, LOST),
    (QUIET, BROKEN, QUIET),
    (LOST, STABLE, SETTLING),
    (LOST, RUNNING, RUN),
    (LOST, ASKING, WAITING),
    (LOST, GONE, LOST),
    (LOST, BROKEN, LOST),
    (WAITING, STABLE, SETTLING),
    (WAITING, RUNNING, RUN),
    (WAITING, ASKING, WAITING),
    (WAITING, GONE, LOST),
    (WAITING, BROKEN, WAITING),
]


@pytest.mark.parametrize(("state", "reading", "then"), STEPS)
def test_every_reading_in_every_state(state, reading, then):
    tracker = brought_to(state)
    transition = observe(tracker, Sample(reading, 101, NINE, detail="why"))
    assert tracker.status is then
    assert (transition is None) == (then is state)
    if transition is not None:
        assert (transition.old, transition.new, transition.at) == (state, then, 101)


def test_the_step_table_leaves_no_pair_out():
    assert {(state, reading) for state, reading, _ in STEPS} == {
        (state, reading) for state in AgentStatus for reading in Activity
    }


@pytest.mark.parametrize("state", [UNKNOWN, RUN, LOST])
def test_nothing_is_stable_in_one_step(state):
    assert Assessment.SETTLED not in TRANSITIONS[state]
    tracker = Tracker(0.0)
    assert observe(tracker, Sample(STABLE, 1)).new is SETTLING
    assert observe(tracker, Sample(STABLE, 1)).new is QUIET
    assert set(TRANSITIONS) == set(AgentStatus)


def test_stable_is_reached_after_settle_s_and_not_before():
    tracker = Tracker(SETTLE_S)
    feed(tracker, *(Sample(STABLE, at, NINE) for at in (10, 11, 12, 13, 14, 14.99)))
    assert tracker.status is SETTLING
    assert (
        str(tracker.evidence)
        == "quiet for 5.0 s, 6 samples, last message 9 unchanged, becomes stable after 5 s without a change"
    )
    assert observe(tracker, Sample(STABLE, 15.0, NINE)) == AgentStatusChange(
        SETTLING, QUIET, 15.0, "stable for 5.0 s, 7 samples, last message 9 unchanged"
    )


def test_two_observations_settle_s_apart_are_enough():
    tracker = Tracker(SETTLE_S)
    feed(tracker, Sample(STABLE, 0), Sample(STABLE, 6))
    assert tracker.status is QUIET
    assert SAMPLES_MIN == 2


def test_a_changed_last_message_restarts_the_period():
    tracker = brought_to(SETTLING)
    feed(tracker, Sample(STABLE, 101, LastMessage(9, 2)), Sample(STABLE, 105.9, LastMessage(9, 2)))
    assert tracker.status is SETTLING
    assert observe(tracker, Sample(STABLE, 106, LastMessage(9, 2))).new is QUIET


def test_ids_that_start_again_end_the_stable_status():
    tracker = brought_to(QUIET)
    assert observe(tracker, Sample(STABLE, 101, LastMessage(0, 1))).new is SETTLING


def test_an_unknown_last_message_is_not_a_change():
    tracker = brought_to(QUIET)
    assert observe(tracker, Sample(STABLE, 101, None)) is None
    assert observe(tracker, Sample(STABLE, 102, NINE)) is None


def test_one_unintelligible_answer_changes_nothing_and_two_mean_unreachable():
    tracker = brought_to(QUIET)
    assert feed(tracker, Sample(BROKEN, 101, detail="502"), Sample(STABLE, 102, NINE)) == [None, None]
    assert tracker.evidence.since == 94
    assert str(tracker.evidence) == "stable for 8.0 s, 4 samples, last message 9 unchanged"
    first, second = feed(tracker, Sample(BROKEN, 103, detail="502"), Sample(BROKEN, 104, detail="502"))
    assert first is None
    assert second.new is LOST
    assert second.evidence == "unreachable for 0.0 s, 1 sample, 502"
    assert BROKEN_MIN == 2


def test_an_unintelligible_answer_while_settling_restarts_the_period():
    tracker = brought_to(SETTLING)
    feed(tracker, Sample(BROKEN, 101, detail="GET /status: 502"))
    assert str(tracker.evidence) == "settling: GET /status: 502"
    feed(tracker, Sample(STABLE, 102, NINE), Sample(STABLE, 106.9, NINE))
    assert tracker.status is SETTLING
    assert observe(tracker, Sample(STABLE, 107, NINE)).new is QUIET


def test_a_restarted_agent_settles_again():
    tracker = brought_to(QUIET)
    news = feed(tracker, Sample(GONE, 101), Sample(STABLE, 102), Sample(STABLE, 106.9), Sample(STABLE, 107))
    assert [transition and transition.new for transition in news] == [LOST, SETTLING, None, QUIET]


def test_a_machine_that_slept_has_to_settle_again():
    tracker = brought_to(QUIET)
    assert observe(tracker, Sample(STABLE, 100 + 3600, NINE)).new is SETTLING
    assert "quiet for 0.0 s, 1 sample" in str(tracker.evidence)


def test_an_unintelligible_answer_does_not_keep_stable_over_a_gap():
    tracker = brought_to(QUIET)
    assert observe(tracker, Sample(BROKEN, 100 + 3600, detail="502")).new is LOST


def test_a_clock_that_steps_back_restarts_the_period():
    tracker = brought_to(SETTLING)
    feed(tracker, Sample(STABLE, 50, NINE), Sample(STABLE, 54.9, NINE))
    assert tracker.status is SETTLING
    assert observe(tracker, Sample(STABLE, 55, NINE)).new is QUIET


@pytest.mark.parametrize("strength", [Strength.RECORDED, Strength.TOLD])
@pytest.mark.parametrize("state", AgentStatus)
def test_an_agent_that_states_the_end_of_its_turn_is_stable_at_once(state, strength):
    tracker = brought_to(state)
    observe(tracker, Sample(STABLE, 101, NINE, "the turn ended", strength))
    assert tracker.status is QUIET
    assert str(tracker.evidence).endswith("last message 9 unchanged, the turn ended")


def test_a_stated_idle_counts_until_the_agent_says_something_else():
    tracker = Tracker(SETTLE_S)
    told = [Sample(STABLE, at, NINE, strength=Strength.TOLD) for at in range(3)]
    assert [change and change.new for change in feed(tracker, *told)] == [QUIET, None, None]
    assert observe(tracker, Sample(STABLE, 3, NINE)).new is SETTLING, "inferred idle must settle by itself"
    assert observe(tracker, Sample(ASKING, 4, NINE, "approve rm")).note == "approve rm"


def test_is_due_is_true_when_the_last_message_must_be_compared():
    tracker = Tracker(SETTLE_S)
    assert not tracker.is_due(100)
    feed(tracker, Sample(STABLE, 10))
    assert not tracker.is_due(14.9)
    assert tracker.is_due(15)
    feed(tracker, Sample(STABLE, 15))
    assert not tracker.is_due(20), "it is stable already"
    feed(tracker, Sample(RUNNING, 16))
    assert not tracker.is_due(30)


@pytest.mark.parametrize("state", AgentStatus)
def test_every_status_has_evidence(state):
    assert str(brought_to(state).evidence).startswith(
        {SETTLING: "quiet for", UNKNOWN: "unknown: not polled yet"}.get(state, f"{state.value} for")
    )


def test_a_hanging_status_is_running_with_the_reason():
    tracker = brought_to(QUIET)
    feed(tracker, Sample(RUNNING, 101, detail="/status hangs"), Sample(RUNNING, 104, detail="/status hangs"))
    assert str(tracker.evidence) == "running for 3.0 s, 2 samples, /status hangs"


@given(st.lists(st.sampled_from(list(Activity)), min_size=1, max_size=200))
def test_flapping_at_10_hz_never_looks_stable(readings):
    tracker = Tracker(SETTLE_S)
    for tick, reading in enumerate(readings):
        # Never more than 20 equal readings in a row: two seconds, what AgentAPI itself calls stable.
        seen = RUNNING if tick % 20 == 19 else reading
        observe(tracker, Sample(seen, tick / 10, NINE))
        assert tracker.status is not QUIET


SAMPLES = st.lists(
    st.builds(
        lambda reading, gap_s, digest: (reading, gap_s, digest),
        st.sampled_from([STABLE, STABLE, STABLE, STABLE, RUNNING, ASKING, GONE, BROKEN]),
        st.sampled_from([0.0, 0.1, 1.0, 2.0, 2.5, 31.0, -3.0]),
        st.sampled_from([None, 1, 1, 1, 2]),
    ),
    max_size=40,
)


@given(SAMPLES, st.sampled_from([0.0, 1.0, 5.0]))
def test_stable_always_needs_settle_s_of_agreeing_samples(steps, settle_s):
    tracker = Tracker(settle_s)
    at, seen = 100.0, []
    for reading, gap_s, digest in steps:
        at += gap_s
        last = None if digest is None else LastMessage(9, digest)
        seen.append((reading, at, digest, gap_s))
        before = tracker.status
        transition = observe(tracker, Sample(reading, at, last, detail="d"))
        assert (transition is None) == (before is tracker.status)
        assert tracker.evidence
        assert tracker.evidence.for_s >= 0
        if tracker.status is QUIET:
            assert any(settles(seen[start:], settle_s) for start in range(len(seen)))


def settles(stretch, settle_s) -> bool:
    """Whether these samples, by themselves, prove the agent stable."""
    stable = [sample for sample in stretch if sample[0] is STABLE]
    return (
        all(reading in (STABLE, BROKEN) for reading, *_ in stretch)
        and stretch[0][0] is STABLE
        and all(0 <= gap_s <= 30 for *_, gap_s in stretch[1:])
        and len({digest for _, _, digest, _ in stable if digest is not None}) <= 1
        and len(stable) >= 2
        and stable[-1][1] - stable[0][1] >= settle_s
    )
