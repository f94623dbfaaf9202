"""The state of a task follows from its reports, independent of their order of arrival."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.stability.status_report import FINAL_STATES, Source, StatusReport, TaskState
from agentd.stability.turn_reports import (
    FINAL_REPORTS_MAX,
    TRANSITIONS,
    TaskFinishedError,
    TaskInput,
    TurnReports,
    UserMessage,
    estimated_time,
)

NONE, WORKING, IDLE, COMPLETE, FAILURE = TaskState
WATCHER, EVENT, REPORT, _ = Source
# state, what is said next -> state
STEPS = [
    (NONE, TaskInput.USER_MESSAGE, WORKING),
    (NONE, TaskInput.WORKING, WORKING),
    (NONE, TaskInput.IDLE, IDLE),
    (NONE, TaskInput.COMPLETE, COMPLETE),
    (NONE, TaskInput.FAILURE, FAILURE),
    (WORKING, TaskInput.USER_MESSAGE, WORKING),
    (WORKING, TaskInput.WORKING, WORKING),
    (WORKING, TaskInput.IDLE, IDLE),
    (WORKING, TaskInput.COMPLETE, COMPLETE),
    (WORKING, TaskInput.FAILURE, FAILURE),
    (IDLE, TaskInput.USER_MESSAGE, WORKING),
    (IDLE, TaskInput.WORKING, WORKING),
    (IDLE, TaskInput.IDLE, IDLE),
    (IDLE, TaskInput.COMPLETE, COMPLETE),
    (IDLE, TaskInput.FAILURE, FAILURE),
    (COMPLETE, TaskInput.USER_MESSAGE, WORKING),
    (COMPLETE, TaskInput.WORKING, COMPLETE),
    (COMPLETE, TaskInput.IDLE, COMPLETE),
    (COMPLETE, TaskInput.COMPLETE, COMPLETE),
    (COMPLETE, TaskInput.FAILURE, COMPLETE),
    (FAILURE, TaskInput.USER_MESSAGE, WORKING),
    (FAILURE, TaskInput.WORKING, FAILURE),
    (FAILURE, TaskInput.IDLE, FAILURE),
    (FAILURE, TaskInput.COMPLETE, FAILURE),
    (FAILURE, TaskInput.FAILURE, FAILURE),
]


def said(word: TaskState, at: float, source: Source = EVENT, message: str = "") -> StatusReport:
    return StatusReport(word, source, at, message)


@pytest.mark.parametrize(("state", "step", "then"), STEPS)
def test_every_input_in_every_state(state, step, then):
    assert TRANSITIONS[state][step] is then
    task = TurnReports()
    if state is not NONE:
        task.add(said(state, 1))
    if step is TaskInput.USER_MESSAGE:
        task.on_user_message(UserMessage(1, 1, 2))
    else:
        task.add(said(TaskState(step.value), 2))
    assert task.state is then


def test_the_step_table_leaves_no_pair_out():
    assert {(state, step) for state, step, _ in STEPS} == {
        (state, step) for state in TaskState for step in TaskInput
    }
    assert len(STEPS) == sum(len(row) for row in TRANSITIONS.values())


@pytest.mark.parametrize("end", sorted(FINAL_STATES, key=lambda word: word.value))
@pytest.mark.parametrize("word", [WORKING, IDLE])
def test_a_finished_task_is_not_reopened_by_the_watcher_nor_by_an_event(end, word):
    task = TurnReports()
    task.add(said(end, 1, REPORT))
    assert not task.add(said(word, 2, WATCHER))
    assert not task.add(said(word, 3, EVENT))
    assert task.state is end


@pytest.mark.parametrize("word", [WORKING, IDLE])
def test_an_explicit_report_that_would_reopen_a_finished_task_is_refused(word):
    task = TurnReports()
    task.add(said(COMPLETE, 1, REPORT, "all done"))
    with pytest.raises(
        TaskFinishedError, match=f"the task is already complete; {word.value} would reopen it; a new message"
    ):
        task.add(said(word, 2, REPORT))
    assert task.current.message == "all done"


def test_a_repeated_final_report_is_accepted_and_changes_nothing():
    task = TurnReports()
    assert task.add(said(COMPLETE, 1, REPORT, "all done"))
    assert not task.add(said(COMPLETE, 2, REPORT, "again"))
    assert task.current.message == "all done"


def test_a_new_user_message_begins_a_turn_and_reopens_the_task():
    task = TurnReports()
    task.on_user_message(UserMessage(1, 11, 0))
    task.add(said(COMPLETE, 1, REPORT))
    assert not task.on_user_message(UserMessage(1, 11, 2)), "the same message seen again"
    assert task.on_user_message(UserMessage(3, 12, 5))
    assert (task.state, task.current, task.record.turn) == (WORKING, None, 2)
    assert task.add(said(IDLE, 6, REPORT))


def test_ids_that_start_again_are_a_new_message_when_the_text_is():
    task = TurnReports()
    task.on_user_message(UserMessage(9, 1, 1))
    task.add(said(FAILURE, 2))
    task.on_user_message(UserMessage(0, 2, 3))
    assert task.state is WORKING


def test_a_final_report_after_an_unnoticed_user_message_belongs_to_the_new_turn():
    task = TurnReports()
    task.on_user_message(UserMessage(1, 1, 0))
    task.add(said(COMPLETE, 5, REPORT))
    task.add(said(COMPLETE, 12, REPORT, "second turn"))
    task.on_user_message(UserMessage(3, 2, 10))
    assert task.state is COMPLETE
    assert task.current.message == "second turn"


def test_a_report_about_an_earlier_turn_changes_nothing():
    task = TurnReports()
    task.on_user_message(UserMessage(1, 1, 10))
    assert not task.add(said(COMPLETE, 9))
    assert task.state is WORKING


def test_an_explicit_report_wins_over_one_of_the_watcher_at_the_same_time():
    for order in (slice(None), slice(None, None, -1)):
        task = TurnReports()
        for report in [said(WORKING, 1, REPORT), said(IDLE, 1, WATCHER)][order]:
            task.add(report)
        assert task.state is WORKING


def test_the_number_of_stored_reports_is_bounded():
    task = TurnReports()
    for at in range(1000):
        task.add(said(COMPLETE, at))
    assert len(task.record.reports) == FINAL_REPORTS_MAX
    assert task.current.at == 0
    task.on_user_message(UserMessage(1, 1, 998.5))
    assert task.state is COMPLETE


REPORTS = st.builds(
    StatusReport,
    st.sampled_from([WORKING, IDLE, COMPLETE, FAILURE]),
    st.sampled_from([WATCHER, EVENT]),
    st.integers(0, 20).map(float),
    st.sampled_from(["", "a", "b"]),
) | st.builds(
    StatusReport, st.sampled_from([COMPLETE, FAILURE]), st.just(REPORT), st.integers(0, 20).map(float)
)


@given(st.lists(REPORTS, max_size=10), st.sets(st.integers(0, 20), max_size=3), st.randoms())
def test_the_order_of_arrival_does_not_matter(reports, turns, random):
    users = [UserMessage(number, number, float(at)) for number, at in enumerate(sorted(turns))]
    outcomes = set()
    for _ in range(6):
        arrivals = [*reports, *users]
        random.shuffle(arrivals)
        task = TurnReports()
        for arrival in arrivals:
            if isinstance(arrival, StatusReport):
                task.add(arrival)
            else:
                task.on_user_message(arrival)
        outcomes.add((task.state, task.current))
    assert len(outcomes) == 1


@given(st.lists(REPORTS, max_size=10), st.lists(REPORTS, max_size=5))
def test_replayed_reports_change_nothing(reports, later):
    task = TurnReports()
    for report in reports:
        task.add(report)
    before = (task.state, task.current)
    for report in reports:
        assert not task.add(report)
    assert (task.state, task.current) == before


@pytest.mark.parametrize(
    ("age_s", "at"), [(0.5, 99.5), (0.0, 100.0), (50.0, 98.0), (-3600.0, 100.0), (3600.0, 98.0)]
)
def test_the_estimated_time_of_a_message_lies_between_the_two_polls_around_it(age_s, at):
    assert estimated_time(seen_at=100.0, unseen_at=98.0, age_s=age_s) == at
