import pytest

from agentd.conversation.message import Message
from agentd.conversation.window import Window


def said(content, number=0, role="agent"):
    return Message(number, role, content, "2026-03-02T09:00:00Z")


TALK = [said("welcome", 0), said("do it", 1, "user"), said("done", 2)]
BLANK = Message(0, "", "", "0001-01-01T00:00:00Z")


def contents(window):
    return [message.content for message in window.messages]


def window_of(messages, keep=5):
    window = Window(keep)
    window.offer(messages)
    return window


def test_only_the_newest_are_kept():
    assert contents(window_of([said(str(n), n) for n in range(9)], keep=3)) == ["6", "7", "8"]


def test_an_offer_says_whether_anything_changed():
    window = Window(5)
    assert window.offer(TALK)
    assert not window.offer(list(TALK))
    assert window.offer([*TALK[:2], said("done!", 2)])


def test_the_last_message_may_be_rewritten_and_shrink():
    window = window_of([*TALK[:2], said("a long screen", 2)])
    window.offer([*TALK[:2], said("$", 2)])
    assert contents(window) == ["welcome", "do it", "$"]


@pytest.mark.parametrize("numbers", [(0, 0, 0), (7, 3, 5), (-1, 2**63 - 1, 0)])
def test_ids_may_collide_jump_and_run_backwards(numbers):
    messages = [
        said(role, number, role) for number, role in zip(numbers, ("agent", "user", "agent"), strict=True)
    ]
    assert contents(window_of(messages)) == ["agent", "user", "agent"]


def test_the_bogus_tail_of_a_list_that_shrank_is_no_message():
    assert contents(window_of([*TALK, BLANK], keep=3)) == ["welcome", "do it", "done"]


@pytest.mark.parametrize("read", [[], [said("")], [said(" \n  \n\0")], [BLANK], [said("x", 0, "system")]])
def test_an_agent_that_starts_blank_does_not_wipe_out_the_conversation(read):
    window = window_of(TALK)
    assert not window.offer(read)
    assert contents(window) == ["welcome", "do it", "done"]


def test_a_start_screen_is_added_to_the_conversation_until_somebody_speaks():
    window = window_of(TALK, keep=4)
    assert window.offer([said("hello again")])
    assert contents(window) == ["welcome", "do it", "done", "hello again"]
    window.offer([said("hello again _")])
    assert contents(window) == ["welcome", "do it", "done", "hello again _"]
    window.offer([said("hello again"), said("new work", 1, "user")])
    assert contents(window) == ["hello again", "new work"]


def test_a_start_screen_takes_the_place_of_the_oldest_message_when_the_window_is_full():
    window = window_of(TALK, keep=3)
    window.offer([said("hello again")])
    assert contents(window) == ["do it", "done", "hello again"]


def test_a_start_screen_with_nothing_before_it_is_rewritten_like_any_message():
    window = window_of([said("starting...")])
    window.offer([said("ready")])
    assert contents(window) == ["ready"]


def test_a_full_window_in_which_only_the_agent_speaks_is_no_start():
    window = window_of(TALK, keep=2)
    window.offer([said("step 1", 5), said("step 2", 6)])
    assert contents(window) == ["step 1", "step 2"]


def test_a_window_of_one_follows_the_newest_message():
    window = window_of(TALK, keep=1)
    window.offer([said("next")])
    assert contents(window) == ["next"]


def test_a_conversation_held_from_before_survives_the_agents_start_screen():
    window = Window(5, TALK)
    assert contents(window) == ["welcome", "do it", "done"]
    window.offer([said("hello")])
    assert contents(window) == ["welcome", "do it", "done", "hello"]


def test_a_start_screen_that_is_already_held_is_not_repeated():
    window = Window(5, [*TALK, said("hello\n there")])
    window.offer([said("hello   \n there  ")])
    assert len(window.messages) == 4


def test_a_cut_conversation_held_from_before_counts_as_one():
    window = Window(5, [said("[...]\nend of a long answer", 9)], talked=True)
    window.offer([said("hello")])
    assert len(window.messages) == 2


def test_an_event_rewrites_the_message_it_names():
    window = window_of(TALK)
    assert window.update(said("done, really", 2))
    assert not window.update(said("done, really", 2))
    assert contents(window) == ["welcome", "do it", "done, really"]


def test_an_event_with_a_higher_id_is_a_new_message():
    window = window_of(TALK, keep=3)
    assert window.update(said("thanks", 5, "user"))
    assert contents(window) == ["do it", "done", "thanks"]


def test_events_that_replay_what_left_the_window_change_nothing():
    window = window_of([said(str(n), n) for n in range(5, 9)], keep=4)
    assert not window.update(said("old", 2))
    assert not window.update(said("", 99, ""))
    assert contents(window) == ["5", "6", "7", "8"]


def test_the_first_event_starts_a_window():
    window = Window(3)
    assert window.update(said("hi", 4))
    assert contents(window) == ["hi"]


def at(time, content="x", number=0, role="agent"):
    return Message(number, role, content, time)


EARLIER, LATER = "2026-03-02T09:00:00.000001Z", "2026-03-02T10:00:00.000002+01:00"


def test_what_a_gone_server_had_saved_counts_when_it_is_later():
    window = window_of([at(EARLIER, "question", 0, "user"), at(EARLIER, "half an ans", 1)])
    assert window.offer_saved([at(EARLIER, "question", 0, "user"), at(LATER, "half an answer.", 1)])
    assert contents(window) == ["question", "half an answer."]


@pytest.mark.parametrize("time", [EARLIER, LATER, "", "yesterday", "0000-01-01T00:00:00Z"])
def test_what_a_gone_server_had_saved_never_replaces_what_is_as_new(time):
    window = window_of([at(LATER, "newer", 1, "user")])
    assert not window.offer_saved([at(time, "older", 1, "user")])
    assert contents(window) == ["newer"]


@pytest.mark.parametrize("time", [EARLIER, "", "0000-01-01T00:00:00Z"])
def test_what_a_gone_server_had_saved_is_taken_when_nothing_is_known(time):
    window = Window(5)
    assert window.offer_saved([at(time, "saved")])
    assert contents(window) == ["saved"]


@pytest.mark.parametrize("saved", [[], [BLANK], [at(LATER, " \n")]])
def test_an_empty_save_replaces_nothing(saved):
    window = window_of([at(EARLIER, "kept")])
    assert not window.offer_saved(saved)
    assert contents(window) == ["kept"]
