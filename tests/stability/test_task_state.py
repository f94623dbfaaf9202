"""What holds for a task, whoever says it and in whatever order it arrives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.stability.task_state import (
    CLAIMS_MAX,
    TERMINAL,
    TRANSITIONS,
    Claim,
    Source,
    Step,
    TaskFinished,
    TaskState,
    TaskWord,
    UserMessage,
    said_at,
)

NONE, WORKING, IDLE, COMPLETE, FAILURE = TaskWord
WATCHER, EVENT, REPORT = Source
# state, what is said next -> state
STEPS = [
    (NONE, Step.TURN, WORKING),
    (NONE, Step.WORKING, WORKING),
    (NONE, Step.IDLE, IDLE),
    (NONE, Step.COMPLETE, COMPLETE),
    (NONE, Step.FAILURE, FAILURE),
    (WORKING, Step.TURN, WORKING),
    (WORKING, Step.WORKING, WORKING),
    (WORKING, Step.IDLE, IDLE),
    (WORKING, Step.COMPLETE, COMPLETE),
    (WORKING, Step.FAILURE, FAILURE),
    (IDLE, Step.TURN, WORKING),
    (IDLE, Step.WORKING, WORKING),
    (IDLE, Step.IDLE, IDLE),
    (IDLE, Step.COMPLETE, COMPLETE),
    (IDLE, Step.FAILURE, FAILURE),
    (COMPLETE, Step.TURN, WORKING),
    (COMPLETE, Step.WORKING, COMPLETE),
    (COMPLETE, Step.IDLE, COMPLETE),
    (COMPLETE, Step.COMPLETE, COMPLETE),
    (COMPLETE, Step.FAILURE, COMPLETE),
    (FAILURE, Step.TURN, WORKING),
    (FAILURE, Step.WORKING, FAILURE),
    (FAILURE, Step.IDLE, FAILURE),
    (FAILURE, Step.COMPLETE, FAILURE),
    (FAILURE, Step.FAILURE, FAILURE),
]


def said(word: TaskWord, at: float, source: Source = EVENT, message: str = "") -> Claim:
    return Claim(word, source, at, message)


@pytest.mark.parametrize(("state", "step", "then"), STEPS)
def test_every_word_in_every_state(state, step, then):
    assert TRANSITIONS[state][step] is then
    task = TaskState()
    if state is not NONE:
        task.take(said(state, 1))
    if step is Step.TURN:
        task.hear_user(UserMessage(1, 1, 2))
    else:
        task.take(said(TaskWord(step.value), 2))
    assert task.word is then


def test_the_step_table_leaves_no_pair_out():
    assert {(state, step) for state, step, _ in STEPS} == {
        (state, step) for state in TaskWord for step in Step
    }
    assert len(STEPS) == sum(len(row) for row in TRANSITIONS.values())


@pytest.mark.parametrize("end", sorted(TERMINAL, key=lambda word: word.value))
@pytest.mark.parametrize("word", [WORKING, IDLE])
def test_a_finished_task_is_not_taken_back_by_the_watcher_nor_by_an_event(end, word):
    task = TaskState()
    task.take(said(end, 1, REPORT))
    assert not task.take(said(word, 2, WATCHER))
    assert not task.take(said(word, 3, EVENT))
    assert task.word is end


@pytest.mark.parametrize("word", [WORKING, IDLE])
def test_an_explicit_report_that_would_take_it_back_is_refused(word):
    task = TaskState()
    task.take(said(COMPLETE, 1, REPORT, "all done"))
    with pytest.raises(
        TaskFinished, match=f"the task is complete; {word.value} would take that back; a new message"
    ):
        task.take(said(word, 2, REPORT))
    assert task.standing.message == "all done"


def test_the_same_end_again_is_accepted_and_changes_nothing():
    task = TaskState()
    assert task.take(said(COMPLETE, 1, REPORT, "all done"))
    assert not task.take(said(COMPLETE, 2, REPORT, "again"))
    assert task.standing.message == "all done"


def test_a_new_user_message_begins_a_turn_and_lifts_the_guard():
    task = TaskState()
    task.hear_user(UserMessage(1, 11, 0))
    task.take(said(COMPLETE, 1, REPORT))
    assert not task.hear_user(UserMessage(1, 11, 2)), "the same message seen again"
    assert task.hear_user(UserMessage(3, 12, 5))
    assert (task.word, task.standing, task.turn) == (WORKING, None, 2)
    assert task.take(said(IDLE, 6, REPORT))


def test_ids_that_start_again_are_a_new_message_when_the_text_is():
    task = TaskState()
    task.hear_user(UserMessage(9, 1, 1))
    task.take(said(FAILURE, 2))
    task.hear_user(UserMessage(0, 2, 3))
    assert task.word is WORKING


def test_an_end_said_after_a_message_nobody_had_noticed_yet_is_about_that_turn():
    task = TaskState()
    task.hear_user(UserMessage(1, 1, 0))
    task.take(said(COMPLETE, 5, REPORT))
    task.take(said(COMPLETE, 12, REPORT, "second turn"))
    task.hear_user(UserMessage(3, 2, 10))
    assert task.word is COMPLETE
    assert task.standing.message == "second turn"


def test_a_word_about_an_earlier_turn_changes_nothing():
    task = TaskState()
    task.hear_user(UserMessage(1, 1, 10))
    assert not task.take(said(COMPLETE, 9))
    assert task.word is WORKING


def test_an_explicit_word_beats_the_watchers_of_the_same_moment():
    for order in (slice(None), slice(None, None, -1)):
        task = TaskState()
        for claim in [said(WORKING, 1, REPORT), said(IDLE, 1, WATCHER)][order]:
            task.take(claim)
        assert task.word is WORKING


def test_what_is_remembered_is_bounded():
    task = TaskState()
    for at in range(1000):
        task.take(said(COMPLETE, at))
    assert len(task._final) == CLAIMS_MAX
    assert task.standing.at == 0
    task.hear_user(UserMessage(1, 1, 998.5))
    assert task.word is COMPLETE


CLAIMS = st.builds(
    Claim,
    st.sampled_from([WORKING, IDLE, COMPLETE, FAILURE]),
    st.sampled_from([WATCHER, EVENT]),
    st.integers(0, 20).map(float),
    st.sampled_from(["", "a", "b"]),
) | st.builds(Claim, st.sampled_from([COMPLETE, FAILURE]), st.just(REPORT), st.integers(0, 20).map(float))


@given(st.lists(CLAIMS, max_size=10), st.sets(st.integers(0, 20), max_size=3), st.randoms())
def test_the_order_of_arrival_does_not_matter(claims, turns, random):
    users = [UserMessage(number, number, float(at)) for number, at in enumerate(sorted(turns))]
    outcomes = set()
    for _ in range(6):
        arrivals = [*claims, *users]
        random.shuffle(arrivals)
        task = TaskState()
        for arrival in arrivals:
            if isinstance(arrival, Claim):
                task.take(arrival)
            else:
                task.hear_user(arrival)
        outcomes.add((task.word, task.standing))
    assert len(outcomes) == 1


@given(st.lists(CLAIMS, max_size=10), st.lists(CLAIMS, max_size=5))
def test_replaying_what_was_said_changes_nothing(claims, later):
    task = TaskState()
    for claim in claims:
        task.take(claim)
    before = (task.word, task.standing)
    for claim in claims:
        assert not task.take(claim)
    assert (task.word, task.standing) == before


@pytest.mark.parametrize(
    ("age_s", "at"), [(0.5, 99.5), (0.0, 100.0), (50.0, 98.0), (-3600.0, 100.0), (3600.0, 98.0)]
)
def test_a_message_is_placed_between_the_look_that_missed_it_and_the_one_that_saw_it(age_s, at):
    assert said_at(seen_at=100.0, unseen_at=98.0, age_s=age_s) == at
