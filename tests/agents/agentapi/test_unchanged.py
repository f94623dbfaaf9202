"""The proof that messages have not changed, against a model of AgentAPI in a terminal. Pure."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.agents.agentapi.unchanged import GAP_MAX_S, UnchangedMessages
from agentd.conversation.message import Message

STABLE_AFTER_S = 1.99
MESSAGES = [Message(1, "agent", "done", "2026-03-02T09:00:00Z")]

_LATENCY = st.sampled_from([0.0, 0.1, 0.6])
_PAUSE = st.integers(0, 24).map(lambda tenths: tenths / 10)
_REQUESTS = st.lists(
    st.tuples(_PAUSE, _LATENCY, _LATENCY, st.sampled_from(["read", "poll", "poll", "poll"])), max_size=8
)


@settings(max_examples=300)
@given(_REQUESTS, st.sampled_from([0.1, 0.2, 0.5, 1.5]))
def test_what_is_proven_is_what_the_server_has(requests, changed_after_s):
    """Each request is sent after a pause, and answered from the state at some moment before its answer arrives.

    One message changes soon after the first read.
    """
    unchanged, now, read_at, changed_at = UnchangedMessages(), 0.0, 0.0, changed_after_s
    unchanged.on_read(MESSAGES, keep=1, sent_at=0.0)
    for pause_s, there_s, back_s, kind in requests:
        sent_at = now + pause_s
        answered_at, now = sent_at + there_s, sent_at + there_s + back_s
        if kind == "read":
            unchanged.on_sent(sent_at)
            unchanged.on_read(MESSAGES, keep=1, sent_at=sent_at)
            read_at = answered_at
        elif answered_at - STABLE_AFTER_S < changed_at <= answered_at:
            unchanged.on_doubt()
        else:
            unchanged.on_stable(sent_at=sent_at, answered_at=now)
            if unchanged.is_proven_for(sent_at, keep=1):
                assert not read_at < changed_at <= answered_at


def test_a_quiet_agent_that_is_polled_every_second_stays_proven_and_a_gap_ends_it():
    unchanged = UnchangedMessages()
    unchanged.on_read(MESSAGES, keep=1, sent_at=0.0)
    for second in range(1, 100):
        unchanged.on_stable(sent_at=second, answered_at=second + 0.1)
        assert unchanged.is_proven_for(second, keep=1)
        assert not unchanged.is_proven_for(second, keep=2)
    unchanged.on_stable(sent_at=100, answered_at=99 + GAP_MAX_S + 0.001)
    assert not unchanged.is_proven
    unchanged.on_stable(sent_at=102, answered_at=102)
    assert not unchanged.is_proven, "only another read can prove it again"


def test_a_read_of_ten_seconds_is_proven_by_the_answers_during_it():
    unchanged = UnchangedMessages()
    unchanged.on_sent(0.0)
    for second in range(1, 11):
        unchanged.on_stable(sent_at=second, answered_at=second + 0.1)
    unchanged.on_read(MESSAGES, keep=1, sent_at=0.01)
    unchanged.on_stable(sent_at=11, answered_at=11.1)
    assert unchanged.is_proven_for(11, keep=1)


def test_a_read_that_was_sent_before_those_answers_is_not_proven_by_them():
    unchanged = UnchangedMessages()
    unchanged.on_sent(5.0)
    unchanged.on_stable(sent_at=6, answered_at=6.1)
    unchanged.on_read(MESSAGES, keep=1, sent_at=4.0)
    unchanged.on_stable(sent_at=6.5, answered_at=6.6)
    assert not unchanged.is_proven


@pytest.mark.parametrize("sent_at", [-1.0, 4.999])
def test_an_answer_to_a_request_before_the_read_proves_nothing(sent_at):
    unchanged = UnchangedMessages()
    unchanged.on_read(MESSAGES, keep=1, sent_at=5.0)
    unchanged.on_stable(sent_at=sent_at, answered_at=5.5)
    assert unchanged.is_proven
    assert not unchanged.is_proven_for(5.1, keep=1)
