"""The WHATWG rules: each case in one chunk, byte by byte, and in two chunks split at each position."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from httpx_sse import ServerSentEvent
from hypothesis import given
from hypothesis import strategies as st

from agentd.sse import (
    EVENT_MAX_BYTES,
    LINE_MAX_BYTES,
    NOISE_MAX_BYTES,
    EventDecoder,
    EventTooLargeError,
    Heartbeat,
    LineTooLongError,
    NoiseFloodError,
)

Seen = list[tuple[str, str, str]]


def read(chunks: list[bytes]) -> tuple[Seen, EventDecoder]:
    decoder = EventDecoder()
    seen = [
        (item.event, item.data, item.id)
        for chunk in chunks
        for item in decoder.feed(chunk)
        if isinstance(item, ServerSentEvent)
    ]
    return seen, decoder


def chunkings(body: bytes) -> Iterator[list[bytes]]:
    yield [body]
    yield [body[i : i + 1] for i in range(len(body))]
    yield from ([body[:cut], body[cut:]] for cut in range(1, len(body)))


def test_every_web_platform_case_in_every_chunking(data_dir: Path) -> None:
    cases: list[dict[str, Any]] = json.loads((data_dir / "wpt-sse-cases.json").read_text("utf-8"))
    assert len(cases) == 36
    for case in (case for case in cases if case["outcome"] == "open"):
        expected = [(event["event"], event["data"], event["id"]) for event in case["expected"]]
        for chunks in chunkings(bytes.fromhex(case["input_hex"])):
            seen, decoder = read(chunks)
            assert seen == expected, (case["name"], [len(chunk) for chunk in chunks][:3])
            assert decoder.last_event_id == case["final_last_event_id"], case["name"]
            wanted_s = None if case["reconnect_ms"] is None else case["reconnect_ms"] / 1000
            assert decoder.retry_s == wanted_s, case["name"]


@pytest.mark.parametrize(
    ("body", "events"),
    [
        pytest.param(b"event: ping\n\n", [], id="a ping without data is not an event"),
        pytest.param(b"id: 1\n\nretry: 5\n\n:\n\n", [], id="events without data are not dispatched"),
        pytest.param(b"id: 1\ndata: a\n\n\n\n:\n\n", [("message", "a", "1")], id="blank lines after an id"),
        pytest.param(b"data: a\r\rdata: b\r\r", [("message", "a", ""), ("message", "b", "")], id="CR only"),
        pytest.param(b"data: a\r\n\r\ndata: b\r\n\r\n", [("message", "a", ""), ("message", "b", "")], id="CRLF"),
        pytest.param(b"data: a\n\rdata: b\r\n\n", [("message", "a", ""), ("message", "b", "")], id="mixed ends"),
        pytest.param(b"data:a\n\n", [("message", "a", "")], id="no space after the colon"),
        pytest.param(b"data:  a\n\n", [("message", " a", "")], id="only one space is dropped"),
        pytest.param(b"data: a\ndata: b\n\n", [("message", "a\nb", "")], id="several data lines"),
        pytest.param(b"EVENT: x\nData: y\n\n", [], id="names are case-sensitive"),
        pytest.param(b"event: x\n\ndata: a\n\n", [("message", "a", "")], id="a type is valid for its event only"),
        pytest.param(b"data: a", [], id="end inside a line"),
        pytest.param(b"data: a\n", [], id="end inside a block"),
        pytest.param("data: a\u2028b\u0085c\x0bd\x0ce\x1cf\n\n".encode(), [("message", "a\u2028b\u0085c\x0bd\x0ce\x1cf", "")], id="other line separators are text"),
        pytest.param(b"data: \xff\xe2\x82\n\n", [("message", "\ufffd\ufffd", "")], id="bad UTF-8 is replaced"),
        pytest.param("data: 🐦\n\n".encode(), [("message", "🐦", "")], id="a character cut by a chunk"),
        pytest.param(b"\xef\xbb\xbf\n\xef\xbb\xbfdata: a\n\n", [], id="a BOM after the first line is text"),
    ],
)  # fmt: skip
def test_a_case_in_every_chunking(body: bytes, events: Seen) -> None:
    for chunks in chunkings(body):
        assert read(chunks)[0] == events, chunks


@pytest.mark.parametrize(
    ("value", "retry_s"),
    [
        ("3000", 3.0), ("0", 0.1), ("99999999", 60.0), ("9" * 5000, 60.0), ("03000", 3.0),
        ("-5", None), ("+5", None), ("1_000", None), (" 5", None), ("5 ", None), ("\u0665", None), ("", None), ("5x", None),
    ],
)  # fmt: skip
def test_retry_is_digits_only_and_clamped(value: str, retry_s: float | None) -> None:
    _, decoder = read([f"retry: {value}\n".encode()])
    assert decoder.retry_s == retry_s


def test_an_event_that_ends_with_cr_does_not_wait_for_the_next_byte() -> None:
    assert read([b"data: a\r\r"])[0] == [("message", "a", "")]


def test_a_ping_is_a_heartbeat() -> None:
    assert list(EventDecoder().feed(b"event: ping\n\n")) == [Heartbeat("ping")]


def test_the_id_of_an_unfinished_block_is_not_committed() -> None:
    _, decoder = read([b"id: 1\ndata: a\n\nid: 2\ndata: b\n"])
    assert decoder.last_event_id == "1"


def test_the_last_id_of_the_previous_connection_stays_until_a_new_id() -> None:
    decoder = EventDecoder(last_event_id="41")
    assert [item.id for item in decoder.feed(b"data: a\n\nid: 42\ndata: b\n\n")] == ["41", "42"]  # type: ignore[union-attr]  # only events here


def test_unfinished_is_true_after_the_start_of_a_line_or_an_event() -> None:
    decoder = EventDecoder()
    states = []
    for chunk in (b"da", b"ta: a\n", b"\n", b": note", b"\n", b"event: ping\n\n"):
        list(decoder.feed(chunk))
        states.append(decoder.unfinished)
    assert states == [True, True, False, True, False, False]


def endless(piece: bytes, total: int) -> list[bytes]:
    return [piece] * (total // len(piece) + 1)


@pytest.mark.parametrize(
    ("chunks", "error"),
    [
        pytest.param([b"data: " + b"x" * LINE_MAX_BYTES + b"\n"], LineTooLongError, id="a finished line"),
        pytest.param(
            [b"data: ", *endless(b"x" * 1024, LINE_MAX_BYTES)], LineTooLongError, id="an unfinished line"
        ),
        pytest.param(
            [b":", *endless(b"x" * 1024, LINE_MAX_BYTES)], LineTooLongError, id="a comment without end"
        ),
        pytest.param(endless(b"data: x\n", EVENT_MAX_BYTES), EventTooLargeError, id="data lines without end"),
        pytest.param(
            endless(b": x\n", EVENT_MAX_BYTES), EventTooLargeError, id="comments without a blank line"
        ),
        pytest.param(
            endless(b": " + b"x" * 50 + b"\n\n", NOISE_MAX_BYTES), NoiseFloodError, id="nothing but comments"
        ),
    ],
)
def test_each_limit_raises_its_error(chunks: list[bytes], error: type[Exception]) -> None:
    with pytest.raises(error):
        read(chunks)


def test_an_event_before_the_excess_is_still_delivered() -> None:
    decoder = EventDecoder()
    items = decoder.feed(b"data: a\n\n:" + b"x" * LINE_MAX_BYTES)
    assert isinstance(next(items), ServerSentEvent)
    with pytest.raises(LineTooLongError):
        next(items)


def test_a_line_of_exactly_the_limit_is_accepted() -> None:
    body = b"data: " + b"x" * (LINE_MAX_BYTES - 8)
    assert len(read([body + b"\n\n"])[0]) == 1


def feed_times(decoder: EventDecoder, chunk: bytes, times: int) -> None:
    for _ in range(times):
        list(decoder.feed(chunk))


def test_a_line_of_100_mb_is_rejected_in_constant_memory() -> None:
    decoder, chunk = EventDecoder(), b"x" * 65_536
    tracemalloc.start()
    try:
        with pytest.raises(LineTooLongError):
            feed_times(decoder, chunk, 1_600)
        assert tracemalloc.get_traced_memory()[1] < 300_000
    finally:
        tracemalloc.stop()


@given(st.lists(st.sampled_from([b"data", b"id", b"event", b"retry", b":", b" ", b"\r", b"\n", b"x", b"1", b"\0", b"\xe2\x80\xa6", b"\xff", b"\xef\xbb\xbf"]), max_size=40), st.data())  # fmt: skip
def test_any_bytes_give_the_same_events_in_any_chunks(pieces: list[bytes], data: st.DataObject) -> None:
    body = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    chunks = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    whole, cut = read([body]), read(chunks)
    assert whole[0] == cut[0]
    assert (whole[1].last_event_id, whole[1].retry_s) == (cut[1].last_event_id, cut[1].retry_s)
