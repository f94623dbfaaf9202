import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agentd.simulator import gojson


def test_coderd_escapes_html_and_line_separators_and_ends_with_a_newline():
    written = gojson.encode({"a": "<b>&'\"\u2028\u2029é😀\x00\x7f\t"})

    assert written == (
        b'{"a":"\\u003cb\\u003e\\u0026\'\\"\\u2028\\u2029' + "é😀".encode() + b'\\u0000\x7f\\t"}\n'
    )


def test_agentapi_escapes_line_separators_but_not_html():
    assert gojson.encode(["<&>\u2028"], escape_html=False) == b'["<&>\\u2028"]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "EOF"),
        (" \n", "EOF"),
        ('{"a":', "unexpected EOF"),
        ('{"a":"b', "unexpected EOF"),
        ('"\\u12', "unexpected EOF"),
        ("[1,", "unexpected EOF"),
        ("-", "unexpected EOF"),
        ("tru", "unexpected EOF"),
        ("x", "invalid character 'x' looking for beginning of value"),
        ("{x", "invalid character 'x' looking for beginning of object key string"),
        ('{"a" 1', "invalid character '1' after object key"),
        ('{"a":1 "b"', "invalid character '\"' after object key:value pair"),
        ("[1 2]", "invalid character '2' after array element"),
        ("[1,]", "invalid character ']' looking for beginning of value"),
        ('{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        ("tru!", "invalid character '!' in literal true (expecting 'e')"),
        ("-a", "invalid character 'a' in numeric literal"),
        ("1.x", "invalid character 'x' after decimal point in numeric literal"),
        ("1ex", "invalid character 'x' in exponent of numeric literal"),
        ('"\x01"', "invalid character '\\x01' in string literal"),
        ('"\n"', "invalid character '\\n' in string literal"),
        ('"\\x"', "invalid character 'x' in string escape code"),
        ('"\\u12g4"', "invalid character 'g' in \\u hexadecimal character escape"),
        ("'", "invalid character '\\'' looking for beginning of value"),
        ("NaN", "invalid character 'N' looking for beginning of value"),
        ("é", "invalid character 'Ã' looking for beginning of value"),
    ],
)
def test_the_error_messages_are_those_of_go(text, message):
    with pytest.raises(gojson.GoSyntaxError) as failed:
        gojson.first_value(text)

    assert str(failed.value) == message


def test_text_after_the_first_value_is_ignored():
    assert gojson.plain(gojson.first_value('{"a":[1]}garbage')) == {"a": [1]}


def test_lone_surrogates_are_replaced_and_pairs_are_kept():
    assert gojson.first_value('"\\ud800 \\ud83d\\ude00 \\udc00"') == "\ufffd 😀 \ufffd"


def test_every_byte_that_is_not_utf8_becomes_one_replacement_character():
    # Python's "replace" inserts one character for the three bytes of a cut sequence.
    assert gojson.text_of(b"a\xe2\x82\xffb\xf0\x9f\x98") == "a\ufffd\ufffd\ufffdb\ufffd\ufffd\ufffd"


def test_keys_match_in_any_case_and_the_last_one_wins():
    value = gojson.first_value('{"Messages":1,"messages":2,"MESSAGES":3}')

    assert value.field("messages") == "3"


def test_deep_nesting_is_an_error():
    with pytest.raises(gojson.GoSyntaxError, match="exceeded max depth"):
        gojson.first_value("[" * 20_000 + "]" * 20_000)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        # Without surrogates, which Go replaces, the value read equals the value written.
        | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
        ),
        max_leaves=20,
    )
)
def test_valid_json_is_read_as_python_reads_it(value):
    text = json.dumps(value)

    assert gojson.plain(gojson.first_value(text + " trailing")) == json.loads(text)
    assert json.loads(gojson.dumps(value)) == value


@given(st.text())
def test_json_that_python_refuses_is_refused(text):
    text = text.lstrip(" \t\r\n")
    try:
        _, end = json.JSONDecoder(parse_constant=lambda word: json.loads("!")).raw_decode(text)
        # Python reads "0." as 0; Go reports the missing digits.
        assume(text[end : end + 1] not in (".", "e", "E"))
    except ValueError:
        with pytest.raises(gojson.GoSyntaxError):
            gojson.first_value(text)
    else:
        gojson.first_value(text)
