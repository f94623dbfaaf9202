import json
import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentd.conversation.fit import MAX_BYTES, MIN_BYTES, fit, messages_of
from agentd.conversation.message import CUT_MARK, Message

WHEN = "2026-03-02T09:00:00Z"

CHARACTERS = st.characters(categories=None, exclude_categories=())  # all of Unicode, lone surrogates included
HARD = st.sampled_from('"\\\n\r\t\x00\x01\x1f\x7f  \u2028\ud83d\ude00é漢😀\u200d\ufe0f🏽🇩')
CONTENTS = st.text(CHARACTERS, max_size=80) | st.text(HARD, max_size=300) | st.just("")
TIMES = st.sampled_from([WHEN, "2026-03-02T09:00:00.123456789-08:00", "2026-03-02 09:00:00", "", "soon"])
MESSAGES = st.lists(
    st.builds(
        Message,
        id=st.integers() | st.integers(0, 9),
        role=st.sampled_from(["agent", "user"]) | st.sampled_from(["", "system", "Agent", "user "]),
        content=CONTENTS,
        time=TIMES,
    ),
    max_size=14,
)
MAX_BYTES_VALUES = st.integers(MIN_BYTES, 1500) | st.just(MAX_BYTES)

# Go's time.parseStrictRFC3339, which encoding/json calls for a time.Time field.
GO_TIME = re.compile(
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)


def said(content: str, number: int = 0, role: str = "agent", when: str = WHEN) -> Message:
    return Message(number, role, content, when)


def accepted_by_coderd(payload: bytes) -> list[dict]:
    """Check the payload like coderd's handler, its jsonb column and its reader; returns the messages."""
    assert len(payload) <= MAX_BYTES
    document = json.loads(payload.decode("utf-8", "strict"))
    assert list(document) == ["messages"]
    assert isinstance(document["messages"], list)
    for entry in document["messages"]:
        assert list(entry) == ["id", "content", "role", "time"]
        assert type(entry["id"]) is int
        assert -(2**63) <= entry["id"] < 2**63
        assert entry["role"] in ("agent", "user")
        assert "\0" not in entry["content"]
        assert not re.search("[\ud800-\udfff]", entry["content"])
        assert GO_TIME.fullmatch(entry["time"])
    compact = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    assert compact.encode() == payload
    return document["messages"]


def whole(message: Message) -> bytes:
    """Return the whole message as it is in a payload."""
    payload = fit([message], max_messages=1, max_bytes=MAX_BYTES).payload
    return payload[len('{"messages":[') : -len("]}")]


@settings(max_examples=400)
@given(MESSAGES, st.integers(1, 12), MAX_BYTES_VALUES)
@example([said("\x01" * 40, -(2**80), when="2026-03-02T09:00:00.123456789-08:00")], 1, MIN_BYTES)
def test_any_conversation_becomes_a_payload_that_coderd_accepts_and_holds_all_that_fits(
    messages, max_messages, max_bytes
):
    fitted = fit(messages, max_messages=max_messages, max_bytes=max_bytes)
    entries = accepted_by_coderd(fitted.payload)
    spoken = [message for message in messages if message.role in ("agent", "user")][-max_messages:]
    assert len(fitted.payload) <= max_bytes
    assert fitted.messages == len(entries) <= len(spoken)
    assert fit(messages, max_messages=max_messages, max_bytes=max_bytes) == fitted, "same input, same bytes"

    # Whole messages: as many as fit.
    fits, used = 0, len('{"messages":[]}')
    for message in reversed(spoken):
        used += len(whole(message)) + (1 if fits else 0)
        if used > max_bytes:
            break
        fits += 1
    kept = fitted.payload[len('{"messages":[') : -len("]}")]
    assert kept.endswith(b",".join(whole(message) for message in spoken[len(spoken) - fits :]))
    assert len(entries) in (fits, fits + 1)
    assert fitted.truncated == (fits < len(spoken))

    # Then the end of the message before them. The newest message is always there.
    if spoken:
        newest = accepted_by_coderd(fit([spoken[-1]], max_messages=1).payload)[0]["content"]
        assert entries
        if newest:
            end = entries[-1]["content"]
            assert end
            assert newest.endswith(end.removeprefix(CUT_MARK))
    if len(entries) > fits:
        cut = accepted_by_coderd(b'{"messages":[' + whole(spoken[-fits - 1]) + b"]}")[0]["content"]
        assert cut.endswith(entries[0]["content"].removeprefix(CUT_MARK))

    # Idempotent: the kept messages fit again.
    assert (
        fit(messages_of(fitted.payload), max_messages=max_messages, max_bytes=max_bytes).payload
        == fitted.payload
    )


# A repeated unit, because drawing 2,000 characters one by one takes seconds.
PLAIN = st.text(st.sampled_from('ab"\\\n\x01\x7fé漢😀'), min_size=40, max_size=50).map(lambda unit: unit * 50)


@given(st.lists(PLAIN, min_size=1, max_size=3), st.integers(300, 3000))
def test_a_truncated_message_fills_the_limit_except_for_the_bytes_of_one_character(contents, max_bytes):
    fitted = fit([said(content) for content in contents], max_messages=10, max_bytes=max_bytes)
    entries = accepted_by_coderd(fitted.payload)
    if entries[0]["content"].startswith(CUT_MARK):
        assert max_bytes - len(fitted.payload) < 6
    else:  # the mark and one character did not fit
        spare = len(whole(said(""))) + 1 + len(CUT_MARK) + 1 + 6
        assert not fitted.truncated or max_bytes - len(fitted.payload) < spare


@pytest.mark.parametrize("max_bytes", [MIN_BYTES, 200, 1024, 65_535, MAX_BYTES])
@pytest.mark.parametrize(
    "content",
    [
        "x" * 70_000,
        "漢" * 60_000,
        "\n" * 60_000,
        '"\\' * 60_000,
        "\x01" * 60_000,
        "😀" * 20_000,
        "é\n" * 40_000,
    ],
    ids=["ascii", "cjk", "newlines", "quotes", "control", "emoji", "mixed"],
)
def test_one_message_above_the_limit_is_truncated_and_fills_it(content, max_bytes):
    fitted = fit([said("first"), said(content)], max_messages=10, max_bytes=max_bytes)
    [entry] = accepted_by_coderd(fitted.payload)
    assert fitted.truncated
    assert max_bytes - len(fitted.payload) < 6
    assert content.endswith(entry["content"].removeprefix(CUT_MARK))
    assert entry["content"].startswith(CUT_MARK) == (max_bytes >= 200)


def test_truncation_does_not_split_an_emoji():
    family = "👨‍👩‍👧‍👦"
    for shift in range(30):
        fitted = fit([said("x" * shift + family * 5_000)], max_messages=1)
        kept = accepted_by_coderd(fitted.payload)[0]["content"].removeprefix(CUT_MARK)
        assert kept == family * (len(kept) // len(family))
        assert MAX_BYTES - len(fitted.payload) < len(family.encode())


@pytest.mark.parametrize("shift", ["", "x"])
def test_truncation_does_not_split_a_surrogate_pair(shift):
    fitted = fit([said("\ud83d\ude00" * 70_000 + shift)], max_messages=1)
    [entry] = accepted_by_coderd(fitted.payload)
    assert set(entry["content"].removeprefix(CUT_MARK).removesuffix(shift)) == {"😀"}


def test_padding_is_removed_before_the_size_is_measured():
    # Ten screens of padded lines have 808 kB. Without the padding, six and a half of them fit.
    screen = "\n".join(f"line {n}".ljust(80) for n in range(1000))
    fitted = fit([said(screen, number) for number in range(10)], max_messages=10)
    entries = accepted_by_coderd(fitted.payload)
    assert len(entries) == 7
    assert all(entry["content"] == entries[-1]["content"] for entry in entries[1:])
    assert entries[-1]["content"] == "\n".join(f"line {n}" for n in range(1000))


def test_the_message_before_a_small_last_one_fills_the_rest():
    fitted = fit([said("x" * 70_000, 1), said("ok", 2)], max_messages=10)
    entries = accepted_by_coderd(fitted.payload)
    assert [entry["id"] for entry in entries] == [1, 2]
    assert len(fitted.payload) == MAX_BYTES


def test_only_the_newest_messages_are_kept_and_those_without_a_role_do_not_count():
    messages = [said(str(n), n) for n in range(20)] + [said("", 0, "", "0001-01-01T00:00:00Z")]
    entries = accepted_by_coderd(fit(messages, max_messages=3).payload)
    assert [entry["id"] for entry in entries] == [17, 18, 19]


def test_an_empty_conversation_is_an_empty_list():
    fitted = fit([], max_messages=10)
    assert (fitted.payload, fitted.messages, fitted.truncated) == (b'{"messages":[]}', 0, False)


def test_a_message_with_an_invalid_id_is_dropped_and_the_rest_kept():
    entries = accepted_by_coderd(
        fit([said("a", True), said("b", 1.5), said("c", 2**64)], max_messages=9).payload
    )
    assert [(entry["id"], entry["content"]) for entry in entries] == [(2**63 - 1, "c")]


@pytest.mark.parametrize(
    ("max_messages", "max_bytes"), [(10, MIN_BYTES - 1), (10, MAX_BYTES + 1), (0, MAX_BYTES), (-1, MAX_BYTES)]
)
def test_limits_out_of_range_are_refused(max_messages, max_bytes):
    with pytest.raises(ValueError, match="max_"):
        fit([], max_messages=max_messages, max_bytes=max_bytes)


def test_the_time_depends_on_the_kept_text_only():
    huge = [said("漢字 \n" * 1_000_000), *(said("x" * 80_000) for _ in range(9)), said("y" * 60_000_000)]
    started = time.process_time()
    fit(huge, max_messages=10)
    # It takes milliseconds; to encode or clean the whole text takes more than a second.
    assert time.process_time() - started < 0.5


def test_recorded_transcripts_lose_only_their_padding(conversations):
    for path in conversations:
        messages = [Message(**entry) for entry in json.loads(path.read_bytes())["messages"]]
        entries = accepted_by_coderd(fit(messages, max_messages=len(messages)).payload)
        for message, entry in zip(messages, entries, strict=True):
            assert entry["content"] == "\n".join(line.rstrip(" ") for line in message.content.split("\n")), (
                path.name
            )


def test_messages_of_returns_the_messages_of_a_payload():
    messages = [said("hello\n", 1, "user"), said("“hi” 漢 😀", 2)]
    assert messages_of(fit(messages, max_messages=10).payload) == messages


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b'{"messages":[{}]}', b'{"messages":3}', b"\xff"])
def test_bytes_that_are_not_a_payload_are_refused(payload):
    with pytest.raises(ValueError):
        messages_of(payload)
