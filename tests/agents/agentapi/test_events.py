"""AgentAPI's event stream, event by event."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.agents.agentapi.events import (
    EVENT_MAX_BYTES,
    AgentErrorEvent,
    AgentEventDecoder,
    LargeUpdate,
    StatusChange,
)
from agentd.conversation.message import Message, NotAMessageError
from agentd.conversation.window import UndecodedMessage
from agentd.sse import StreamTooLargeError


def sse(name: str, data: object) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    return f"event: {name}\ndata: {text}\n\n".encode()


def update(number: int, text: str, role: str = "agent") -> bytes:
    return sse("message_update", {"id": number, "role": role, "message": text, "time": "t"})


def heard(*chunks: bytes) -> list[object]:
    decoder = AgentEventDecoder()
    return [
        event.decode() if isinstance(event, UndecodedMessage) else event
        for chunk in chunks
        for event in decoder.feed(chunk)
    ]


def test_each_kind_of_event_is_read():
    assert heard(
        update(1, "hi", "user"),
        sse("status_change", {"status": "running", "agent_type": "claude"}),
        sse("agent_error", {"message": "state file is corrupt", "level": "warning", "time": "t"}),
    ) == [
        Message(1, "user", "hi", "t"),
        StatusChange("running"),
        AgentErrorEvent("state file is corrupt", "warning", "t"),
    ]


def test_of_updates_of_one_message_that_come_together_the_last_is_passed_on():
    chunk = b"".join(
        [
            update(1, "a"),
            update(1, "ab"),
            update(2, "c"),
            update(2, "cd"),
            sse("status_change", {"status": "stable"}),
        ]
    )
    assert heard(chunk) == [
        Message(1, "agent", "ab", "t"),
        Message(2, "agent", "cd", "t"),
        StatusChange("stable"),
    ]


def test_the_order_of_updates_and_statuses_is_kept():
    status = sse("status_change", {"status": "stable"})
    assert heard(update(1, "a") + status + update(1, "b")) == [
        Message(1, "agent", "a", "t"),
        StatusChange("stable"),
        Message(1, "agent", "b", "t"),
    ]


@given(st.lists(st.integers(0, 500), max_size=6), st.text())
def test_chunks_may_end_anywhere(cuts, text):
    body = update(1, text) + sse("status_change", {"status": "stable"}) + update(2, text)
    edges = sorted({0, len(body), *(min(cut, len(body)) for cut in cuts)})
    chunks = [body[a:b] for a, b in pairwise(edges)]
    assert heard(*chunks) == [
        Message(1, "agent", text, "t"),
        StatusChange("stable"),
        Message(2, "agent", text, "t"),
    ]


@pytest.mark.parametrize(
    "noise",
    [
        sse("screen", {"screen": "x"}),
        sse("a_later_invention", {}),
        sse("status_change", {"status": "pondering"}),
        sse("status_change", "no json"),
        sse("status_change", []),
        sse("agent_error", "[" * 100_000),
        sse("message_update", "no json"),
        sse("message_update", []),
        sse("message_update", {"id": "one"}),
        sse("message_update", {"id": 0, "role": "", "message": "", "time": "0001-01-01T00:00:00Z"}),
        b": keepalive\n\n",
        b"event: ping\n\n",
    ],
)
def test_what_is_not_known_or_makes_no_sense_is_skipped(noise):
    assert heard(noise + update(1, "a")) == [Message(1, "agent", "a", "t")]


def test_an_update_whose_inside_is_broken_says_so_when_it_is_decoded():
    [event] = AgentEventDecoder().feed(sse("message_update", '{"id":1,"role":"agent","message":'))
    assert (event.id, event.role) == (1, "agent")
    with pytest.raises(NotAMessageError, match="not JSON"):
        event.decode()


def test_a_full_screen_passes_and_an_endless_event_does_not():
    assert len(heard(update(1, "<" * 80_000))) == 1
    with pytest.raises(StreamTooLargeError):
        heard(b"data: ", *[b"x" * 65_536] * (EVENT_MAX_BYTES // 65_536 + 1))


def test_a_large_update_keeps_its_place_and_is_not_decoded():
    large = "<" * 80_000
    events = heard(update(1, "a") + update(1, large) + update(1, "b"))
    assert [type(event) for event in events] == [Message, LargeUpdate, Message]
    assert json.loads(events[1].data)["message"] == large
