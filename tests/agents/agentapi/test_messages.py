"""Reading the newest of very many messages: the same as decoding the whole body, without its cost."""

import json
import re
import tracemalloc
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agentd.agents import json_scan
from agentd.agents.agentapi import messages as module
from agentd.agents.agentapi.messages import (
    MessageTail,
)
from agentd.agents.json_scan import CUT_MARK, BodyError, JsonScan, JsonText, Scan
from agentd.conversation.fit import fit
from agentd.conversation.message import Message, NotAMessageError, parse_message
from agentd.conversation.sanitize import clean_text

TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from('"\\\n\u0000\u2028😀,:{}[]'), max_size=40)
# Texts that JSON writes without an escape.
UNESCAPED = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters='"\\')
    | st.sampled_from("\u2028😀,:{}[]"),
    max_size=40,
)
Strategy = st.SearchStrategy[Any]


def values(text: Strategy) -> Strategy:
    scalar = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text
    return st.recursive(
        scalar,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
        max_leaves=6,
    )


def good_entries(text: Strategy) -> Strategy:
    return st.fixed_dictionaries(
        {
            "id": st.integers(-(2**63), 2**63 - 1),
            "role": st.sampled_from(["agent", "user"]),
            "content": text,
            "time": text.filter(bool),
        },
        optional={"$schema": text, "later": values(text)},
    )


VALUE = values(TEXT)
ODD = st.fixed_dictionaries(
    {}, optional={"id": VALUE, "role": VALUE, "content": VALUE, "time": VALUE, "x": VALUE}
)
ENTRIES = st.lists(good_entries(TEXT) | ODD | VALUE, max_size=8)


@st.composite
def bodies(
    draw: st.DrawFn, entries: Strategy = ENTRIES, text: Strategy = TEXT, *, ascii_only: bool | None = None
) -> bytes:
    fields = {"messages": draw(entries), **draw(st.dictionaries(text, values(text), max_size=3))}
    names = draw(st.permutations(sorted(fields)))
    shuffled = {name: fields[name] for name in names}
    ensure_ascii = draw(st.booleans()) if ascii_only is None else ascii_only
    return json.dumps(shuffled, ensure_ascii=ensure_ascii, indent=draw(st.sampled_from([None, 1]))).encode()


def pieces(body: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    return [body[start:end] for start, end in pairwise(edges)]


def read(chunks: list[bytes], keep: int = 3) -> list[Message]:
    tail = MessageTail(keep)
    for chunk in chunks:
        tail.feed(chunk)
    return tail.close()


def outcome(chunks: list[bytes]) -> list[Message] | None:
    """What was read; None when the body was refused."""
    try:
        return read(chunks)
    except BodyError:
        return None


def reference(body: bytes, keep: int = 3) -> list[Message] | None:
    """What decoding the whole body gives; None when it is refused."""
    try:
        document = json.loads(body.decode("utf-8", "replace"), strict=False)
    except ValueError:
        return None
    if not isinstance(document, dict) or "messages" not in document:
        return None
    if not isinstance(document["messages"], list):
        return [] if document["messages"] is None else None
    kept = []
    for entry in document["messages"]:
        try:
            kept.append(parse_message(entry if isinstance(entry, dict) else {}))
        except NotAMessageError:
            continue
    return kept[-keep:]


@given(bodies(), st.lists(st.integers(0, 10_000), max_size=12))
def test_any_chunking_gives_what_decoding_the_whole_body_gives(body, cuts):
    assert outcome(pieces(body, cuts)) == reference(body)


@given(bodies())
@settings(max_examples=40)
def test_byte_by_byte_gives_what_decoding_the_whole_body_gives(body):
    assert outcome([body[i : i + 1] for i in range(len(body))]) == reference(body)


@given(
    bodies(st.lists(good_entries(UNESCAPED), max_size=3), UNESCAPED, ascii_only=False),
    st.integers(0, 10_000),
    st.sampled_from([b"", *(bytes([byte]) for byte in b'"{}[],: \n0-xnt\xff')]),
    st.integers(0, 2),
)
@settings(max_examples=150)
def test_a_damaged_body_is_refused_exactly_when_json_refuses_it(body, place, instead, removed):
    place %= len(body)
    damaged = body[:place] + instead + body[place + removed :]
    assert outcome(pieces(damaged, [place])) == reference(damaged)


@given(bodies(), st.data())
def test_a_body_cut_off_anywhere_is_never_taken_for_whole(body, data):
    body = body.rstrip()
    kept = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(BodyError, match="before the end of its JSON"):
        read([body[:kept]])


class OneText(JsonScan):
    """Reads one string with a cap."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.found = JsonText(b"")
        super().__init__()

    def document(self) -> Scan[None]:
        yield from self.peek()
        self.found = yield from self.text(self.cap)


@given(
    st.text(st.characters(codec="utf-8") | st.sampled_from('"\\\n\u0001é漢😀')),
    st.integers(1, 60),
    st.booleans(),
    st.lists(st.integers(0, 1000), max_size=8),
)
@settings(max_examples=150)
def test_an_over_long_text_keeps_its_largest_tail_of_whole_characters(text, cap, ascii_only, cuts):
    def spelled(some: str) -> bytes:
        return json.dumps(some, ensure_ascii=ascii_only).encode()[1:-1]

    scan = OneText(cap)
    for piece in pieces(b'"' + spelled(text) + b'"', cuts):
        scan.feed(piece)
    if len(spelled(text)) <= cap:
        assert scan.found == JsonText(spelled(text))
        return
    if len(spelled(clean_text(text))) <= cap:
        assert clean_text(scan.found.decode()) == clean_text(text)
        return
    assume(text == clean_text(text))
    largest = next(text[i:] for i in range(len(text) + 1) if len(spelled(text[i:])) <= cap)
    assert scan.found.decode() == CUT_MARK + largest


def test_the_last_65_536_bytes_of_an_endless_message_survive_in_bounded_memory():
    head = b'{"messages":[{"id":0,"role":"agent","time":"t","content":"'
    chunk = ("…漢字\\n\\u0041" * 3000).encode()
    tail = MessageTail(10)
    tail.feed(head)
    tracemalloc.start()
    for _ in range(400):
        tail.feed(chunk)
    tail.feed(b'the end"}]}')
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    [message] = tail.close()
    assert message.content.startswith(CUT_MARK)
    assert message.content.endswith("…漢字\nAthe end")
    assert len(json.dumps(message.content, ensure_ascii=False).encode()) > 65_536
    assert tail.received_bytes > 20_000_000
    assert peak < 2_500_000


def test_many_large_messages_are_bounded_together_whatever_keep_says(monkeypatch):
    monkeypatch.setattr(module, "WINDOW_MAX_BYTES", 1000)
    entries = [{"id": i, "role": "agent", "content": "x" * 300, "time": "t"} for i in range(20)]
    assert [m.id for m in read([json.dumps({"messages": entries}).encode()], keep=1000)] == [17, 18, 19]


def test_of_two_message_lists_the_last_counts_as_for_json():
    assert read([b'{"messages":[{"id":1,"role":"user","content":"a","time":"t"}],"messages":null}']) == []


def test_a_list_of_messages_inside_another_field_is_not_the_conversation():
    body = b'{"x":{"messages":[{"id":9,"role":"user","content":"no","time":"t"}]},"messages":[]}'
    assert read([body]) == []


def test_the_bogus_tail_of_a_shrunken_list_does_not_push_real_messages_out():
    real = [{"id": i, "content": str(i), "role": "agent", "time": "t"} for i in range(4)]
    zero = {"id": 0, "content": "", "role": "", "time": "0001-01-01T00:00:00Z"}
    tail = MessageTail(3)
    tail.feed(json.dumps({"messages": [*real, *[zero] * 5]}).encode())
    assert [m.id for m in tail.close()] == [1, 2, 3]


def test_lone_surrogates_and_bad_utf8_are_read_not_refused():
    body = b'{"messages":[{"id":1,"role":"user","content":"a\\ud800b\xffc","time":"t"}]}'
    assert read([body])[0].content == "a\ud800b\ufffdc"


def test_two_documents_in_one_body_are_refused():
    with pytest.raises(BodyError, match="nothing more"):
        read([b'{"messages":[]} {"messages":[]}'])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"<html><body>502", "expected an object near byte 0, found b'<html><body>502'"),
        (b'{"messages":{}}', '"messages" is not a list'),
        (b'{"messages":"all"}', '"messages" is not a list'),
        (b'{"message":[]}', 'no "messages"'),
        (b'{"messages":[' + b"[" * 3_000, "nested more than 2000 deep"),
    ],
)
def test_a_body_that_is_not_a_message_list_is_refused_with_what_was_wrong(body, says, monkeypatch):
    monkeypatch.setattr(json_scan, "_DEPTH_MAX", 2_000)
    with pytest.raises(BodyError) as refusal:
        read([body])
    assert says in str(refusal.value)


def test_an_endless_body_is_cut_off_at_the_cap(monkeypatch):
    monkeypatch.setattr(module, "BODY_MAX_BYTES", 10_000)
    tail = MessageTail(1)
    tail.feed(b'{"messages":[' + b" " * 9_900)
    with pytest.raises(BodyError, match="larger than 10000 bytes"):
        tail.feed(b" " * 100)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({}, "id is missing"),
        ({"id": True}, "id is True"),
        ({"id": 1.0}, "id is 1.0"),
        ({"id": 2**63}, "64-bit"),
        ({"id": 1, "role": "system"}, "role is 'system'"),
        ({"id": 1, "role": ["user"]}, "role is"),
        ({"id": 1, "role": "user", "content": 5}, "content is 5"),
        ({"id": 1, "role": "user", "content": "", "time": ""}, "time is ''"),
    ],
)
def test_an_entry_that_is_no_message_is_refused_with_its_reason(entry, reason):
    with pytest.raises(NotAMessageError) as refusal:
        parse_message(entry)
    assert reason in str(refusal.value)


def test_events_and_the_state_file_call_the_text_message():
    entry = {"id": 3, "role": "agent", "message": "hello", "time": "t", "content": "other"}
    assert parse_message(entry, text="message") == Message(3, "agent", "hello", "t")


def test_real_transcripts_read_the_same_through_the_scanner(conversations):
    assert conversations
    for path in conversations:
        body = path.read_bytes()
        assert read([body[i : i + 1000] for i in range(0, len(body), 1000)], keep=10) == reference(body, 10)


MALFORMED_ENTRIES = [
    b'{"id":' + b"9" * 5000 + b',"role":"user","content":"x","time":"t"}',
    b'{"id":1,"role":"user","content":"\\q","time":"t"}',
    b'{"id":1,"role":"us\\uZZZZer","content":"x","time":"t"}',
    b'{"id":1,"role":"user","content":' + b"[" * 50 + b"]" * 50 + b',"time":"t"}',
    b'{"id":1,"x":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b',"role":1,"content":"x","time":"t"}',
    b'{"id":NaN,"role":"user","content":"x","time":"t"}',
    b'{"id":1e999,"role":"user","content":"x","time":"t"}',
    b'{"id":1.5,"role":"user","content":"x","time":"t"}',
    b'{"id":true,"role":"user","content":"x","time":"t"}',
    b'{"id":1,"role":"system","content":"x","time":"t"}',
    b'{"id":1,"role":"user","content":null,"time":"t"}',
    b'{"id":1,"\\q":"user","content":"x","time":"t"}',
    b'{"id":1,"role":"user","content":"x","time":' + b"1" * 100_000 + b"}",
    b"[]",
    b"null",
    b"-1",
    b'"text"',
    b"{}",
]


@given(
    st.lists(st.sampled_from([None, *MALFORMED_ENTRIES]), max_size=8),
    st.booleans(),
    st.lists(st.integers(0, 400_000), max_size=4),
    st.booleans(),
)
def test_a_malformed_message_costs_that_message_only(shapes, has_bom, cuts, has_one_id):
    good = [
        b'{"id":%d,"role":"agent","content":"m%d","time":"t"}' % (7 if has_one_id else number, number)
        for number, shape in enumerate(shapes)
        if shape is None
    ]
    ready = iter(good)
    entries = [next(ready) if shape is None else shape for shape in shapes]
    body = (b"\xef\xbb\xbf" if has_bom else b"") + b'{"messages":[' + b",".join(entries) + b"]}"
    tail = MessageTail(3)
    for chunk in pieces(body, cuts):
        tail.feed(chunk)
    assert [message.content.encode() for message in tail.close()] == [
        re.search(rb"m[0-9]+", one)[0] for one in good
    ][-3:]
    assert tail.skipped == len(shapes) - len(good)
    assert bool(tail.skipped_because) == bool(tail.skipped)


@given(
    st.integers(1, 300),
    st.integers(0, 30),
    st.sampled_from(["\n", "\r\n", "\0\n", " \0 \n"]),
    st.lists(st.integers(0, 10_000), max_size=5),
    st.integers(0, 200),
    st.booleans(),
)
def test_padding_takes_no_space_of_the_limit(lines, text_size, line_end, cuts, at_end, ascii_only):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CONTENT_MAX_BYTES", 6 * 256)
        content = (
            "".join((f"{n} " + "\\é"[n % 2] * text_size).ljust(120) + line_end for n in range(lines))
            + " " * at_end
        )
        entry = {"id": 1, "role": "agent", "content": content, "time": "t"}
        body = json.dumps({"messages": [entry]}, ensure_ascii=ascii_only).encode()
        [message] = read(pieces(body, cuts))
    kept, whole = (
        fit([one], max_messages=1, max_bytes=256) for one in (message, Message(1, "agent", content, "t"))
    )
    assert kept.payload == whole.payload


def test_a_wide_terminal_fills_the_limit():
    """72 KB of text on a terminal of 1,200 columns: 1.2 MB with its padding."""
    content = "".join(f"{n:05d} {'x' * 66}".ljust(1200) + "\n" for n in range(1000))
    body = json.dumps({"messages": [{"id": 1, "role": "agent", "content": content, "time": "t"}]}).encode()
    for size in (1000, 100_000, len(body)):
        messages = read([body[at : at + size] for at in range(0, len(body), size)])
        assert len(fit(messages, max_messages=1).payload) >= 65_530


def test_padding_of_one_message_displaces_no_other_message():
    entries = [
        {"id": n, "role": "agent", "content": (f"{n}".ljust(1200) + "\n") * 250, "time": "t"}
        for n in range(30)
    ]
    assert len(read([json.dumps({"messages": entries}).encode()], keep=30)) == 30


def test_a_scan_without_a_reader_walks_any_value():
    scan = JsonScan()
    scan.feed(b' [1, {"a": [null]}, "x"] ')
    assert scan.whole
    with pytest.raises(BodyError):
        scan.feed(b"1")


@given(
    st.text(st.sampled_from(' \r\n\0\\"nrué')),
    st.integers(1, 20),
    st.booleans(),
    st.lists(st.integers(0, 1000), max_size=8),
)
@settings(max_examples=400)
def test_padding_is_removed_in_parts_as_from_the_whole_text(text, part_bytes, ascii_only, cuts):
    body = json.dumps(text, ensure_ascii=ascii_only).encode()
    scan = OneText(1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_scan, "_SQUEEZE_BYTES", part_bytes)
        for piece in pieces(body, cuts):
            scan.feed(piece)
    assert not scan.found.cut
    assert clean_text(scan.found.decode()) == clean_text(text)
    whole = OneText(1000)
    whole.feed(body)
    assert scan.found.squeezed() == whole.found.squeezed()
