import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentd.clock import Clock
from agentd.conversation.fit import MIN_BYTES, fit, messages_of
from agentd.conversation.message import CUT_MARK, Message
from agentd.conversation.redaction import REPLACEMENT, Redactor
from agentd.errors import ConfigError
from agentd.metrics import Registry
from agentd.snapshots.recorder import Recorder
from agentd.snapshots.spool import Spool

TOKEN = "b2f7c1d0-4a55-4e0e-9d3a-5f6b7c8d9e0f"
WHEN = "2026-03-02T09:00:00Z"

TEXTS = st.text(st.sampled_from('ab \n\r\0"\\é漢😀-0f') | st.characters(), max_size=60)


def said(content):
    return Message(0, "agent", content, WHEN)


def redacted(text, *values, patterns=()):
    [message] = Redactor(values=lambda: values, patterns=patterns)([said(text)])
    return message.content


@given(TEXTS, TEXTS, st.integers(MIN_BYTES, 400))
@example("x" * 400, "y" * 40, 200)
def test_truncation_leaves_no_part_of_a_known_value(before, after, max_bytes):
    redact = Redactor(values=lambda: [TOKEN])
    fitted = fit(redact([said(before + TOKEN + after)]), max_messages=1, max_bytes=max_bytes)
    [kept] = messages_of(fitted.payload)
    pieces = {TOKEN[at : at + 8] for at in range(len(TOKEN) - 7)}
    assert not any(piece in kept.content for piece in pieces)


@given(st.integers(1, 40), st.sampled_from(["\n", "   \n", "\r\n", " │\n│ "]), TEXTS)
def test_a_value_that_a_terminal_wrapped_is_redacted(width, line_break, around):
    wrapped = line_break.join(TOKEN[at : at + width] for at in range(0, len(TOKEN), width))
    assert redacted(f"{around}\n{wrapped}\n{around}", TOKEN).count(REPLACEMENT) == 1


@given(st.integers(0, len(TOKEN)))
def test_the_rest_of_a_value_at_the_start_of_a_truncated_message_is_removed(at):
    text = redacted(CUT_MARK + TOKEN[at:] + " " + "x" * 200, TOKEN)
    assert text.startswith(CUT_MARK)
    assert not any(TOKEN[start : start + 6] in text for start in range(len(TOKEN) - 5))


def test_a_value_interrupted_by_a_nul_is_redacted():
    assert redacted(TOKEN[:9] + "\0" + TOKEN[9:], TOKEN) == REPLACEMENT


def test_the_longest_value_is_replaced_and_short_values_are_ignored():
    assert redacted("secret-one-and-more secret-one abc", "secret-one", "secret-one-and-more", "abc") == (
        f"{REPLACEMENT} {REPLACEMENT} abc"
    )


def test_a_value_of_several_padded_lines_is_redacted():
    key = "-----BEGIN KEY-----\nAAAABBBB\nCCCC==\n-----END KEY-----\n"
    shown = key.replace("\n", "        \r\n")
    assert redacted(f"$ cat key\n{shown}$", key) == f"$ cat key\n{REPLACEMENT}\r\n$"


def test_a_value_is_not_a_regular_expression():
    assert redacted("a.c+(x)[y] abc", "a.c+(x)[y]") == f"{REPLACEMENT} abc"


def test_a_renewed_value_is_redacted_at_the_next_call():
    values = ["first-token"]
    redact = Redactor(values=lambda: values)
    values.append("second-token")
    assert redact([said("first-token second-token")])[0].content == f"{REPLACEMENT} {REPLACEMENT}"


def test_matches_of_the_operators_patterns_are_replaced():
    assert redacted("key=AKIA1234 id=7", patterns=[r"AKIA\w+"]) == f"key={REPLACEMENT} id=7"


def test_an_invalid_pattern_is_a_config_error():
    with pytest.raises(
        ConfigError, match=re.escape("snapshots.redact_patterns: not a regular expression: '['")
    ):
        Redactor(values=list, patterns=["["])


def test_a_text_without_a_secret_does_not_change():
    assert redacted("plain │ text\n", TOKEN) == "plain │ text\n"


def test_the_search_is_linear_in_the_text():
    almost = "\n".join((TOKEN[:-1] + " ") * 2 for _ in range(1000))
    hard = almost + TOKEN + "\nAAAA" + "\n    " * 10_000
    started = time.process_time()
    redact = Redactor(values=lambda: [TOKEN, "AAAA\nBBBB", *(f"{TOKEN}-{n}" for n in range(20))])
    redact([said(almost)] * 10)
    redact([said(hard)])
    # It takes tenths of a second; to try every combination of line breaks would take years.
    assert time.process_time() - started < 3


async def test_a_redacted_value_does_not_reach_the_disk(tmp_path):
    spool = Spool(tmp_path / "spool")
    recorder = Recorder(
        spool=spool,
        task_id="",
        max_messages=10,
        max_bytes=65_536,
        checkpoint_s=5,
        clock=Clock(),
        metrics=Registry(),
        redact=Redactor(values=lambda: [TOKEN]),
    )
    recorder.record_messages([said(f"export CODER_AGENT_TOKEN={TOKEN}")])
    await recorder.flush_to_disk()
    assert TOKEN.encode() not in b"".join(path.read_bytes() for path in spool.path.iterdir())
    spool.close()
