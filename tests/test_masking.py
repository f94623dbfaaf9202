"""Secrets in texts: any wrapping, any cut, any split into chunks."""

import json
import re
import string
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentd import masking
from agentd.masking import MASK, Mask, MaskedOutput, excerpt, masked, masked_values, register_secret

TOKEN = "b2f7c1d0-4a55-4e0e-9d3a-5f6b7c8d9e0f"
PIECE = 8
"""So many consecutive characters of a secret must not be left."""

BORDERS = [chr(code) for code in range(0x2500, 0x25A0)]
WRAPS = [
    *BORDERS, "> ", "+", "|", "\t", "\r", "\n", "\u00a0", "\u0085", "\\\n", "\r\n", "\u2028", "\u3000",
    *"\u200b\u200c\u200d\u2060\u00ad\ufeff\u202f", "-", "\x1b[0m", "\x1b[38;5;12m", "\x1b]8;;http://x\x07", "\\n", "\\u2502",
]  # fmt: skip
SECRETS = st.one_of(
    st.uuids().map(str),
    st.text(string.ascii_letters + string.digits + "-_./=", min_size=16, max_size=60).filter(
        lambda text: len(re.sub(r"\W", "", text)) > 11
    ),
    st.text("абвгдежзийклмн漢字", min_size=12, max_size=30),
)
AROUND = st.text(st.sampled_from("xyz \n│>漢"), max_size=80)


def significant(text):
    return "".join(char for char in text.lower() if char.isalnum())


def left_over(secret, text):
    """A part of `secret` in `text`: read as a person reads it, without letter case and wraps. "" for none."""
    text, secret = significant(text.replace(MASK, "\0?")), significant(secret)
    pieces = (secret[at : at + PIECE] for at in range(len(secret) - PIECE + 1))
    return next((piece for piece in pieces if piece in text), "")


@st.composite
def wrapped(draw, secret):
    """`secret` with something between some of its characters, in any letter case, with dashes or without."""
    wrap = "".join(draw(st.lists(st.sampled_from(WRAPS), min_size=1, max_size=4)))
    wrap += " " * draw(st.sampled_from([0, 1, 80, 1200]))
    width = draw(st.integers(1, len(secret)))
    text = draw(st.sampled_from([secret, secret.upper(), secret.lower(), secret.replace("-", "")]))
    return wrap.join(text[at : at + width] for at in range(0, len(text), width))


@given(st.data(), SECRETS, AROUND, AROUND)
def test_no_part_of_a_wrapped_secret_is_left_at_any_cut(data, secret, before, after):
    register_secret(secret)
    text = before + data.draw(wrapped(secret)) + after
    start, end = sorted((data.draw(st.integers(0, len(text))), data.draw(st.integers(0, len(text)))))
    assert not left_over(secret, masked(text))
    assert not left_over(secret, masked(text[start:end], cut_start=True, cut_end=True))
    assert not left_over(secret, excerpt(text, end))
    masking._registry.clear()


@given(st.data(), SECRETS, AROUND, AROUND, st.integers(1, 40))
def test_no_part_of_a_secret_is_left_in_output_that_arrives_in_any_chunks(data, secret, before, after, tail):
    register_secret(secret)
    output = (before + data.draw(wrapped(secret)) + after).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(output)), max_size=6)))
    kept = MaskedOutput(tail)
    shown = ""
    for start, end in zip([0, *cuts], [*cuts, len(output)], strict=True):
        shown += kept.feed(output[start:end])
        assert not left_over(secret, shown)
        assert not left_over(secret, kept.tail())
        assert len(kept.tail().encode()) <= tail
    shown += kept.finish()
    assert not left_over(secret, shown)
    assert shown == masked(output.decode())
    assert not left_over(secret, kept.tail())
    masking._registry.clear()


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_output_without_line_ends_is_masked_in_bounded_memory(size):
    register_secret(TOKEN)
    output = (TOKEN[:20] + " " * 200_000 + TOKEN[20:] + "x" * 50_000 + TOKEN + "y" * 100).encode()
    kept, shown, held = MaskedOutput(200), "", 0
    for at in range(0, len(output), size * 100):
        shown += kept.feed(output[at : at + size * 100])
        held = max(held, len(kept._held))
    shown += kept.finish()
    assert held < 600_000
    assert not left_over(TOKEN, shown)
    assert kept.tail().endswith(MASK + "y" * 100)


def test_a_line_is_shown_at_its_end_and_the_start_of_a_secret_is_held_back():
    register_secret(TOKEN)
    output = MaskedOutput(100)
    assert output.feed(b"one\ntw") == "one\n"
    assert output.tail() == "one\ntw"
    assert output.feed(b"o\n" + TOKEN[:18].encode() + b"\n") == "two\n"
    assert output.tail() == f"one\ntwo\n{MASK}\n"
    assert output.feed(TOKEN[18:].encode() + b"\n") == f"{MASK}\n"


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("width", [1, 4, 17])
def test_a_token_is_found_across_everything_that_a_terminal_puts_into_it(wrap, width):
    text = wrap.join(TOKEN[at : at + width] for at in range(0, len(TOKEN), width))
    assert Mask([TOKEN]).replace(f"a {text} b") == f"a {MASK} b"


@pytest.mark.parametrize("form", [TOKEN.upper(), TOKEN.replace("-", ""), TOKEN.replace("-", "").upper()])
def test_a_token_is_found_in_any_letter_case_and_without_dashes(form):
    assert Mask([TOKEN]).replace(f"a {form} b") == f"a {MASK} b"


@pytest.mark.parametrize("text", ["plain", "b2f7 c1d0", "4a55-4e0e", TOKEN[:20] + "!" + TOKEN[20:]])
def test_other_text_does_not_change(text):
    assert Mask([TOKEN]).replace(text) == text


@given(st.integers(0, len(TOKEN)))
@example(len(TOKEN))
def test_at_a_cut_at_most_three_significant_characters_of_a_secret_are_left(at):
    mask = Mask([TOKEN])
    assert len(significant(mask.replace(TOKEN[at:], "", cut_start=True))) <= 3
    assert len(significant(mask.replace(TOKEN[:at], "", cut_end=True))) <= 3


def test_texts_and_keys_of_a_json_value_are_masked():
    register_secret(TOKEN)
    value = {"a": [TOKEN, 1, None, True, 1.5], TOKEN: {"b": f"x {TOKEN}"}}
    assert masked_values(value) == {"a": [MASK, 1, None, True, 1.5], MASK: {"b": f"x {MASK}"}}
    assert TOKEN not in json.dumps(masked_values(value))


@pytest.mark.parametrize("size", [200_000, pytest.param(10_000_000, marks=pytest.mark.long)])
def test_the_time_of_masking_is_linear(size):
    """Measured with 10 MB: 0.5 s without a hit, 3 s with a token in every 37 characters."""
    register_secret(TOKEN)
    register_secret("a" * 36)
    hard = [TOKEN + " ", TOKEN[:-1] + "\n", "a", "│ text \x1b[0m\\n", "\n│ ".join(TOKEN), " ", "\\", "漢"]
    for one in hard:
        text = one * (size // len(one))
        began = time.process_time()
        masked(text, cut_start=True, cut_end=True)
        assert time.process_time() - began < 1 + size / 400_000
