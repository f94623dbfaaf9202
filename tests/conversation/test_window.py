import pytest

from agentd.conversation.message import Message, NotAMessageError
from agentd.conversation.window import UndecodedMessage, Window


def said(content, number=0, role="agent"):
    return Message(number, role, content, "2026-03-02T09:00:00Z")


TALK = [said("welcome", 0), said("do it", 1, "user"), said("done", 2)]
BLANK = Message(0, "", "", "0001-01-01T00:00:00Z")


def contents(window):
    return [message.content for message in window.messages]


def window_of(messages, keep=5):
    window = Window(keep)
    window.replace(messages)
    return window


def test_only_the_newest_are_kept():
    assert contents(window_of([said(str(n), n) for n in range(9)], keep=3)) == ["6", "7", "8"]


def test_replace_returns_whether_anything_changed():
    window = Window(5)
    assert window.replace(TALK)
    assert not window.replace(list(TALK))
    assert window.replace([*TALK[:2], said("done!", 2)])


def test_the_last_message_may_be_rewritten_and_shrink():
    window = window_of([*TALK[:2], said("a long screen", 2)])
    window.replace([*TALK[:2], said("$", 2)])
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
    assert not window.replace(read)
    assert contents(window) == ["welcome", "do it", "done"]


def test_a_start_screen_is_added_to_the_conversation_until_a_user_message_appears():
    window = window_of(TALK, keep=4)
    assert window.replace([said("hello again")])
    assert contents(window) == ["welcome", "do it", "done", "hello again"]
    window.replace([said("hello again _")])
    assert contents(window) == ["welcome", "do it", "done", "hello again _"]
    window.replace([said("hello again"), said("new work", 1, "user")])
    assert contents(window) == ["hello again", "new work"]


def test_a_start_screen_takes_the_place_of_the_oldest_message_when_the_window_is_full():
    window = window_of(TALK, keep=3)
    window.replace([said("hello again")])
    assert contents(window) == ["do it", "done", "hello again"]


def test_a_start_screen_with_nothing_before_it_is_rewritten_like_any_message():
    window = window_of([said("starting...")])
    window.replace([said("ready")])
    assert contents(window) == ["ready"]


def test_a_full_window_in_which_only_the_agent_speaks_is_no_start():
    window = window_of(TALK, keep=2)
    window.replace([said("step 1", 5), said("step 2", 6)])
    assert contents(window) == ["step 1", "step 2"]


def test_a_window_of_one_follows_the_newest_message():
    window = window_of(TALK, keep=1)
    window.replace([said("next")])
    assert contents(window) == ["next"]


def test_a_conversation_held_from_before_survives_the_agents_start_screen():
    window = Window(5, TALK)
    assert contents(window) == ["welcome", "do it", "done"]
    window.replace([said("hello")])
    assert contents(window) == ["welcome", "do it", "done", "hello"]


def test_a_start_screen_that_is_already_held_is_not_repeated():
    window = Window(5, [*TALK, said("hello\n there")])
    window.replace([said("hello   \n there  ")])
    assert len(window.messages) == 4


def test_a_cut_conversation_held_from_before_counts_as_one():
    window = Window(5, [said("[...]\nend of a long answer", 9)], talked=True)
    window.replace([said("hello")])
    assert len(window.messages) == 2


def update(number, text, role="agent"):
    return UndecodedMessage(number, role, lambda: said(text, number, role))


def test_an_update_rewrites_the_last_message_or_is_appended_behind_it():
    window = window_of([said("a", 1), said("b", 2)], keep=3)
    assert window.update(update(2, "b, and more"))
    assert window.update(update(4, "c", "user"))
    assert list(window.live) == [said("a", 1), said("b, and more", 2), said("c", 4, "user")]
    assert window.messages == window.live


def test_updates_keep_the_window_at_its_size():
    window = window_of([said(str(number), number) for number in range(10)], keep=3)
    assert window.update(update(10, "10"))
    assert [message.id for message in window.live] == [8, 9, 10]


def test_an_update_of_an_older_message_is_refused():
    window = window_of([said("a", 1), said("b", 2)])
    assert not window.update(update(1, "other"))
    assert contents(window) == ["a", "b"]


def test_an_id_shared_by_the_user_and_the_agent_does_not_name_one_message():
    window = window_of([said("question", 1, "user")])
    assert not window.update(update(1, "answer"))
    assert contents(window) == ["question"]


def test_the_first_update_starts_an_empty_window():
    window = Window(3)
    assert window.update(update(0, "screen"))
    assert list(window.live) == [said("screen")]


def test_an_update_that_cannot_be_decoded_is_dropped():
    def fail():
        raise NotAMessageError("no")

    window = window_of([said("a", 1)])
    assert window.update(UndecodedMessage(2, "agent", fail))
    assert list(window.live) == [said("a", 1)]


def test_an_update_is_decoded_once_and_only_when_the_window_is_read():
    decoded = []

    def decode(text):
        decoded.append(text)
        return said(text, 1)

    window = Window(3)
    for text in ("a", "ab", "abc"):
        assert window.update(UndecodedMessage(1, "agent", lambda text=text: decode(text)))
    assert contents(window) == contents(window) == ["abc"]
    assert decoded == ["abc"]


def test_live_is_what_the_agent_shows_also_when_the_conversation_keeps_more():
    window = window_of(TALK)
    window.replace([said("hello again")])
    assert [message.content for message in window.live] == ["hello again"]
    assert contents(window) == ["welcome", "do it", "done", "hello again"]


def at(time, content="x", number=0, role="agent"):
    return Message(number, role, content, time)


EARLIER, LATER = "2026-03-02T09:00:00.000001Z", "2026-03-02T10:00:00.000002+01:00"


def test_what_a_gone_server_had_saved_counts_when_it_is_later():
    window = window_of([at(EARLIER, "question", 0, "user"), at(EARLIER, "half an ans", 1)])
    assert window.merge_saved([at(EARLIER, "question", 0, "user"), at(LATER, "half an answer.", 1)])
    assert contents(window) == ["question", "half an answer."]


@pytest.mark.parametrize("time", [EARLIER, LATER, "", "yesterday", "0000-01-01T00:00:00Z"])
def test_what_a_gone_server_had_saved_never_replaces_what_is_as_new(time):
    window = window_of([at(LATER, "newer", 1, "user")])
    assert not window.merge_saved([at(time, "older", 1, "user")])
    assert contents(window) == ["newer"]


@pytest.mark.parametrize("time", [EARLIER, "", "0000-01-01T00:00:00Z"])
def test_what_a_gone_server_had_saved_is_taken_when_nothing_is_known(time):
    window = Window(5)
    assert window.merge_saved([at(time, "saved")])
    assert contents(window) == ["saved"]


@pytest.mark.parametrize("saved", [[], [BLANK], [at(LATER, " \n")]])
def test_an_empty_save_replaces_nothing(saved):
    window = window_of([at(EARLIER, "kept")])
    assert not window.merge_saved(saved)
    assert contents(window) == ["kept"]
