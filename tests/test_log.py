import ast
import enum
import io
import json
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote, unquote_plus

import pytest
import structlog
from hypothesis import assume, example, given
from hypothesis import strategies as st

from agentd import log, masking

EVERY_CHARACTER = st.characters(categories=None, exclude_categories=())


def logged(say, *, fmt: log.Format = "json", level: str = "debug") -> str:
    out = io.StringIO()
    log.configure(level=level, fmt=fmt, stream=out)
    say(log.get("claims"))
    return out.getvalue()


def test_a_json_line_starts_with_time_level_and_event():
    line = logged(lambda to: to.warning("stream.lost", reason="idle 45s", retry_in_s=3.2))
    assert re.fullmatch(
        r'\{"time": "\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", "level": "warning", "event": "stream.lost", '
        r'"component": "claims", "reason": "idle 45s", "retry_in_s": 3.2\}\n',
        line,
    )


def test_a_console_line_has_time_level_event_and_fields():
    line = logged(lambda to: to.info("stream.lost", reason="idle 45s"), fmt="console")
    assert re.match(
        r"\d\d:\d\d:\d\d\.\d{3} \[info +\] stream\.lost +component=claims reason='idle 45s'\n", line
    )


def test_format_auto_is_console_on_a_terminal_and_json_elsewhere():
    assert logged(lambda to: to.info("x"), fmt="auto").startswith("{")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    log.configure(stream=out)
    log.get("claims").info("x")
    assert "\x1b[" in out.getvalue()


@pytest.mark.parametrize("level", log.LEVELS)
def test_lines_below_the_level_are_not_printed(level):
    def say(to):
        for name in log.LEVELS:
            getattr(to, name)(f"at.{name}")

    printed = [json.loads(line)["level"] for line in logged(say, level=level).splitlines()]
    assert printed == [name for name in log.LEVELS if log.LEVELS[name] >= log.LEVELS[level]]


def test_context_variables_are_in_every_line():
    structlog.contextvars.bind_contextvars(event_id="e1")
    assert json.loads(logged(lambda to: to.info("x")))["event_id"] == "e1"


class Stubborn:
    def __str__(self) -> str:
        raise RuntimeError("no")


class Colour(enum.Enum):
    RED = "red"


class EmptyError(Exception):
    pass


def deep() -> list:
    inner: list = ["bottom"]
    for _ in range(50):
        inner = [inner]
    return inner


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Path("/x"), "/x"),
        (Colour.RED, "red"),
        ((1, "a", None, True), [1, "a", None, True]),
        ({"a": {1: 2.5}}, {"a": {"1": 2.5}}),
        (frozenset(["a"]), ["a"]),
        (b"a", "b'a'"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        pytest.param(10**5000, "<int>", id="a number too long to print"),
        (ValueError("what"), "what"),
        (EmptyError(), "EmptyError"),
        (Stubborn(), "<Stubborn>"),
        ("a\ud800b", "a\ud800b"),
        ("naïve 🐦", "naïve 🐦"),
    ],
)
def test_a_value_of_any_type_is_written_as_json(value, written):
    assert json.loads(logged(lambda to: to.info("x", value=value)))["value"] == written


def test_a_value_that_contains_itself_or_is_nested_deeply_is_written():
    knot: list = []
    knot.append(knot)
    line = json.loads(logged(lambda to: to.info("x", knot=knot, deep=deep())))
    assert "[...]" in str(line["knot"])
    assert "bottom" in str(line["deep"])


@given(st.dictionaries(st.from_regex(r"\A[a-z]{1,5}_s\Z"), st.text(EVERY_CHARACTER)))
def test_any_text_makes_one_line_of_json(fields):
    line = logged(lambda to: to.info("x", **fields))
    assert len(line.splitlines()) == 1
    assert json.loads(line).items() >= fields.items()


@given(st.text(EVERY_CHARACTER))
def test_a_console_line_has_no_control_characters(text):
    line = logged(lambda to: to.info("x", text=text, nested={text: [text]}), fmt="console")
    assert not set(line) & {chr(code) for code in (*range(9), *range(11, 32), *range(127, 160))}


def no_surrogate_pair(text: str) -> bool:
    """Whether JSON keeps `text`: it joins a pair of surrogates into one character."""
    return json.loads(json.dumps(text)) == text


def register_only(secret: str) -> None:
    masking._registry.clear()
    log.register_secret(secret)


def fail_with(message: str) -> None:
    raise ValueError(message)


def go_json(text: str) -> str:
    """`text` as Go writes JSON."""
    escapes = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
    return json.dumps(text, ensure_ascii=False).translate(escapes)


def bytes_repr(text: str) -> str:
    return repr(text.encode("utf-8", "surrogatepass"))


def url(text: str, safe: str = "/") -> str:
    return quote(text, safe=safe, errors="surrogatepass")


WRITERS = {
    "repr": (repr, ast.literal_eval),
    "ascii": (ascii, ast.literal_eval),
    "bytes": (bytes_repr, lambda text: ast.literal_eval(text).decode("utf-8", "surrogatepass")),
    "list": (lambda text: str([text]), lambda text: ast.literal_eval(text)[0]),
    "json": (json.dumps, json.loads),
    "json in unicode": (lambda text: json.dumps(text, ensure_ascii=False), json.loads),
    "json in go": (go_json, json.loads),
    "url": (url, lambda text: unquote(text, errors="surrogatepass")),
    "url part": (lambda text: url(text, safe=""), lambda text: unquote(text, errors="surrogatepass")),
    "form": (
        lambda text: quote_plus(text, errors="surrogatepass"),
        lambda text: unquote_plus(text, errors="surrogatepass"),
    ),
}
"""Each way to write a text inside another one, with its inverse."""


def masked_within(text: str, writers: list[str]) -> str:
    """Write `text` inside other text, mask that, and read the text back."""
    for writer in writers:
        text = WRITERS[writer][0](text)
    text = log.masked(text)
    for writer in reversed(writers):
        text = WRITERS[writer][1](text)
    return text


# Most characters need no escape, so those that do are drawn more often.
ESCAPED = st.sampled_from("'\"\\\n\r\t /%+<>&nxu0\0\x1b\x7f\x85\u2028é\ud800\udc80🐦")
TEXT = st.one_of(ESCAPED, EVERY_CHARACTER)
SECRETS = st.text(TEXT, min_size=4, max_size=20).map(lambda inner: f"§{inner}¶").filter(no_surrogate_pair)
AROUND = st.text(TEXT, max_size=5)


@given(
    secret=SECRETS,
    before=AROUND,
    after=AROUND,
    writers=st.lists(st.sampled_from(sorted(WRITERS)), max_size=4),
)
@example(secret="§it's¶", before='"', after="", writers=["repr"])
@example(secret="§it's¶", before='"', after="", writers=["repr", "json", "repr", "json in go"])
@example(secret='§\\"\\\\\n¶', before="'", after="\\", writers=["list", "bytes", "url part", "form"])
def test_a_secret_is_masked_in_every_written_form(secret, before, after, writers):
    text = before + secret + after
    assume(no_surrogate_pair(text))
    # A line of the secret is a secret too. Then the rest of the text is not kept.
    assume(not any(len(line.strip()) >= 6 and line.strip() in before + after for line in secret.splitlines()))
    register_only(secret)
    # Backslashes just before the secret may be masked with it: they cannot be told from those of an escape.
    assert masked_within(text, writers) in {before + log.MASK + after, before.rstrip("\\") + log.MASK + after}


@given(
    secret=st.text(TEXT, min_size=6, max_size=20),
    writers=st.lists(st.sampled_from(sorted(WRITERS)), max_size=3),
)
def test_a_secret_that_starts_or_ends_with_any_character_is_masked(secret, writers):
    # A backslash at the end is masked with the backslash that may escape a closing quote: see the next test.
    assume(no_surrogate_pair(secret) and not secret.endswith("\\"))
    register_only(secret)
    assert masked_within(secret, writers) == log.MASK


@pytest.mark.parametrize(
    "text", ["secret\\", repr("secret\\"), json.dumps(json.dumps("secret\\")), "secret%5C"]
)
def test_a_secret_that_ends_with_a_backslash_is_masked(text):
    log.register_secret("secret\\")
    assert re.fullmatch(r"[\"'\\]*\[hidden\][\"']*", log.masked(text))


@pytest.mark.parametrize("fmt", ["json", "console"])
@given(secret=SECRETS, before=AROUND, after=AROUND)
@example(secret="§it's¶", before='"', after="")
def test_a_secret_appears_in_no_line(fmt, secret, before, after):
    register_only(secret)
    text = before + secret + after
    nested = {"a": [(text, {text: text})]}
    group = ExceptionGroup("several", [ExceptionGroup("more", [ValueError(text)])])

    def say(to):
        to.info("x", value=text, json=json.dumps(text), plain_json=json.dumps(text, ensure_ascii=False))
        to.info(text, nested=nested, path=Path(text), printed=repr(text), deep=[[[[[[[[[[nested]]]]]]]]]])
        to.info("x", error=ValueError(text), error_printed=repr(ValueError(text)), **{text: 1})
        try:
            fail_with(text)
        except ValueError as exc:
            to.error("x", exc_info=True)
            to.error("y", exc_info=exc)
        to.error("z", exc_info=group)
        logging.getLogger("library").warning("said %s", text)

    out = logged(say, fmt=fmt)
    for form in (
        secret,
        secret[:-1],
        repr(secret)[1:-1],
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
    ):
        assert form not in out
    # 19 texts contain the secret. `Path` may change its text.
    assert out.count(log.MASK) >= 19 - (str(Path(text)) != text)
    if fmt == "json":
        assert len([json.loads(line) for line in out.splitlines()]) == 7


def test_a_secret_of_several_lines_is_masked_line_by_line_and_in_an_indented_traceback():
    log.register_secret("  first line\n\n    second line\nend\n")
    assert (
        log.masked("got first line, then second line and end") == f"got {log.MASK}, then {log.MASK} and end"
    )
    error = ExceptionGroup(
        "several", [ExceptionGroup("more", [ValueError("<  first line\n\n    second line\nend\n>")])]
    )
    line = logged(lambda to: to.error("x", exc_info=error))
    assert f"ValueError: <{log.MASK}" in json.loads(line)["exception"]
    assert "end" not in line
    assert log.registered_secrets() == ("  first line\n\n    second line\nend\n",)


def test_masking_takes_linear_time():
    log.register_secret("'\"\\ \n'\"\\ \n")
    for text in ("\\" * 30_000, "%5C" * 30_000, "%25" * 30_000, "'\"\\ \n'" * 6_000):
        began = time.process_time()
        log.masked(text)
        assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "form",
    [
        "tok/en=<1>&2 \"3'",
        "tok%2Fen%3D%3C1%3E%262%20%223%27",
        "tok/en%3D%3C1%3E%262%20%223%27",
        "tok/en=\\u003c1\\u003e\\u00262 \\\"3'",
    ],
)
def test_a_secret_is_masked_as_urls_and_peers_write_it(form):
    log.register_secret("tok/en=<1>&2 \"3'")
    assert log.masked(f"before {form} after") == f"before {log.MASK} after"


def test_a_secret_of_digits_is_masked_in_numbers():
    log.register_secret("123456")
    line = logged(lambda to: to.info("x", pin=123456, more=9123456.5, other=12345))
    shown = json.loads(line)
    assert (shown["pin"], shown["more"], shown["other"]) == (log.MASK, f"9{log.MASK}.5", 12345)


def test_a_secret_that_contains_another_is_masked_whole():
    log.register_secret("secret")
    log.register_secret("secret-and-more")
    log.register_secret("secret-and-more")
    assert log.masked("secret-and-more secret") == f"{log.MASK} {log.MASK}"


def test_a_text_shorter_than_six_characters_is_not_masked():
    log.register_secret("")
    log.register_secret("12345")
    assert log.masked("x12345") == "x12345"


def test_a_line_with_exc_info_has_the_traceback():
    def say(to):
        try:
            fail_with("broken")
        except ValueError:
            to.error("it.failed", exc_info=True)

    record = json.loads(logged(say))
    assert record["exception"].startswith("Traceback (most recent call last):")
    assert record["exception"].endswith("ValueError: broken")
    assert "\nValueError: broken\n" in logged(say, fmt="console")
    assert "exception" not in json.loads(logged(lambda to: to.error("x", exc_info=None)))


def test_records_of_the_logging_module_are_written_as_our_lines():
    def say(_to):
        library = logging.getLogger("some.library")
        library.info("chatter")
        library.warning("%s is odd", "this")
        library.critical("over")
        try:
            fail_with("broken")
        except ValueError:
            library.exception("failed")

    records = [json.loads(line) for line in logged(say).splitlines()]
    assert [(record["level"], record["component"], record["text"]) for record in records] == [
        ("warning", "some.library", "this is odd"),
        ("error", "some.library", "over"),
        ("error", "some.library", "failed"),
    ]
    assert records[-1]["exception"].endswith("ValueError: broken")


def test_a_record_with_a_wrong_format_is_written_unformatted():
    record = json.loads(logged(lambda _to: logging.getLogger("x").warning("%d files", "no")))
    assert record["text"] == "%d files ('no',)"


def test_a_closed_stream_raises_no_error():
    read, write = os.pipe()
    out = os.fdopen(write, "w")
    log.configure(stream=out)
    os.close(read)
    log.get("claims").info("into a pipe without a reader")
    with pytest.raises(BrokenPipeError):
        out.close()
    log.get("claims").info("into a closed file")
    log.configure(stream=out)
    log.get("claims").info("into one closed from the start")


def test_a_full_disk_raises_no_error():
    out = Path("/dev/full").open("w")  # noqa: SIM115 - closing it fails, which is the point
    log.configure(stream=out)
    for _ in range(100):
        log.get("claims").info("x", filler="y" * 1000)
    with pytest.raises(OSError, match="No space left"):
        out.close()


def test_a_stream_that_cannot_encode_a_character_gets_its_escape():
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    log.configure(stream=out)
    log.get("claims").info("x", bird="🐦", broken="\udc80")
    record = json.loads(out.buffer.getvalue())
    assert (record["bird"], record["broken"]) == ("🐦", "\udc80")
    log.configure(stream=out, fmt="console")
    log.get("claims").info("x", bird="🐦")
    assert b"bird=\\U0001f426" in out.buffer.getvalue()


def test_a_process_without_stderr_can_log():
    code = "from agentd import log; log.configure(); log.get('x').info('said'); print('ran')"
    ended = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, code],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert ended.stdout == "ran\n"


def test_lines_for_an_absent_or_closed_stream_are_dropped():
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        out = log._TolerantStream(stream)
        out.write("x")
        out.flush()
        assert out.isatty() is False
