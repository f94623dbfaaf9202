import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.conversation.sanitize import FALLBACK_TIME, clean_text, clean_time, cluster_start

ANY_TEXT = st.text(st.characters(categories=None, exclude_categories=())) | st.text(
    "ab \t\r\n\0\ud83d\ude00é"
)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("screen   \nline  ", "screen\nline"),
        ("screen   \r\nline", "screen\r\nline"),
        ("a  \r  \r\nb", "a\r\r\nb"),
        ("    \n\n", "\n\n"),
        ("  indented\n\tcode", "  indented\n\tcode"),
        ("a\0b \0\n", "ab\n"),
        ("\ud83d", "�"),
        ("\ude00\ud83d!", "��!"),
        ("\ud83d\ude00", "😀"),
        ("\ud83d\0\ude00", "��"),
    ],
)
def test_padding_nul_and_lone_surrogates_are_removed_and_nothing_else(raw, clean):
    assert clean_text(raw) == clean


@given(ANY_TEXT)
def test_clean_text_is_idempotent(text):
    clean = clean_text(text)
    assert clean_text(clean) == clean
    assert "\0" not in clean
    assert not re.search(" [\r]*(\n|$)", clean)
    clean.encode()


@given(ANY_TEXT)
def test_cleaning_keeps_every_visible_character(text):
    visible = [char for char in clean_text(text) if char not in " \0"]
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert visible == [char for char in joined if char not in " \0"]


def test_padding_is_removed_in_linear_time():
    # A quadratic match of either text would take minutes.
    assert clean_text(" " * 2_000_000 + "x") == " " * 2_000_000 + "x"
    assert clean_text(" \r" * 1_000_000 + "x") == " \r" * 1_000_000 + "x"


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-02T09:00:00Z",
        "2026-03-02T09:00:00.123456789Z",
        "2026-03-02T09:00:00.1+23:59",
        "2024-02-29T23:59:59-08:00",
        "0000-02-29T00:00:00Z",
        "9999-12-31T23:59:59.999999999Z",
        FALLBACK_TIME,
    ],
)
def test_a_time_that_go_accepts_does_not_change(text):
    assert clean_time(text) == text


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        ("2026-03-02T09:00:00", "2026-03-02T09:00:00Z"),
        ("2026-03-02 09:00:00.5", "2026-03-02T09:00:00.5Z"),
        ("2026-03-02 09:00:00 +0100", "2026-03-02T09:00:00+01:00"),
        ("2026-03-02t09:00:00z", "2026-03-02T09:00:00Z"),
        ("2026-03-02T09:00:00,25Z", "2026-03-02T09:00:00.25Z"),
        ("2026-03-02T09:00:00+01", "2026-03-02T09:00:00+01:00"),
        ("2026-03-02T09:00:00.1234567891234Z", "2026-03-02T09:00:00.123456789Z"),
        ("2026-12-31T23:59:60Z", "2026-12-31T23:59:59Z"),
        (" 2026-03-02T09:00:00Z\n", "2026-03-02T09:00:00Z"),
    ],
)
def test_a_time_with_a_wrong_form_is_repaired(text, repaired):
    assert clean_time(text) == repaired


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-13-02T09:00:00Z",
        "2026-00-02T09:00:00Z",
        "2026-02-29T09:00:00Z",
        "1900-02-29T09:00:00Z",
        "2026-04-31T09:00:00Z",
        "2026-03-02T24:00:00Z",
        "2026-03-02T09:60:00Z",
        "2026-03-02T09:00:61Z",
        "2026-03-02T09:00:00+24:00",
        "2026-03-02T09:00:00+01:60",
        "20260-03-02T09:00:00Z",
        "1772442000",
        "2026-03-02T09:00:00Z" * 2,
        "٢٠٢٦-03-02T09:00:00Z",
        '2026-03-02T09:00:00Z","role":"x',
    ],
)
def test_a_time_that_cannot_be_repaired_becomes_the_zero_time(text):
    assert clean_time(text) == FALLBACK_TIME


@pytest.mark.parametrize(
    "cluster",
    ["👩🏽\u200d❤️\u200d💋\u200d👨🏿", "👨‍👩‍👧‍👦", "🇩🇪", "e\u0301\u0323", "❤️", "각", "🏴󠁧󠁢󠁷󠁬󠁳󠁿", "\r\n"],
)
def test_cluster_start_does_not_split_a_character_as_a_reader_sees_it(cluster):
    text = "x" + cluster + "y"
    end = 1 + len(cluster)
    assert cluster_start(text, 0) == 0
    assert cluster_start(text, 1) == 1
    assert [cluster_start(text, at) for at in range(2, end + 1)] == [end] * (end - 1)


def test_flags_in_a_row_are_cut_between_flags():
    text = "🇩🇪🇫🇷🇮🇹"
    assert [cluster_start(text, at) for at in range(5)] == [0, 2, 2, 4, 4]


def test_a_long_pile_of_accents_is_cut_at_any_place():
    assert cluster_start("a" + "\u0301" * 100, 5) == 5
