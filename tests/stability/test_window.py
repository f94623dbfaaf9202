"""One window from two sources."""

import json

from agentd.agents.agentapi.message_update import MessageUpdate
from agentd.conversation.message import Message
from agentd.stability.window import LiveWindow


def said(number: int, text: str, role: str = "agent") -> Message:
    return Message(number, role, text, "t")


def update(number: int, text: str, role: str = "agent") -> MessageUpdate:
    return MessageUpdate(number, role, json.dumps({"id": number, "role": role, "message": text, "time": "t"}))


def window(*entries: Message) -> LiveWindow:
    kept = LiveWindow(3)
    kept.replace(entries)
    return kept


def test_the_last_message_is_rewritten_and_a_new_one_comes_after_it():
    kept = window(said(1, "a"), said(2, "b"))
    assert kept.update(update(2, "b, and more"))
    assert kept.update(update(4, "c", "user"))
    assert kept.messages() == [said(1, "a"), said(2, "b, and more"), said(4, "c", "user")]


def test_the_newest_are_kept():
    kept = window(*(said(i, str(i)) for i in range(10)))
    assert kept.update(update(10, "10"))
    assert [message.id for message in kept.messages()] == [8, 9, 10]


def test_an_update_of_an_older_message_is_not_guessed_at():
    kept = window(said(1, "a"), said(2, "b"))
    assert not kept.update(update(1, "other"))
    assert kept.messages() == [said(1, "a"), said(2, "b")]


def test_an_id_shared_by_a_user_and_the_agent_is_not_taken_for_one_message():
    kept = window(said(1, "question", "user"))
    assert not kept.update(update(1, "answer"))
    assert kept.messages() == [said(1, "question", "user")]


def test_the_first_update_starts_an_empty_window():
    kept = window()
    assert kept.update(update(0, "screen"))
    assert kept.messages() == [said(0, "screen")]


def test_an_update_that_turns_out_to_be_none_is_dropped():
    kept = window(said(1, "a"))
    assert kept.update(MessageUpdate(2, "agent", "{"))
    assert kept.messages() == [said(1, "a")]
