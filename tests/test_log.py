import enum
import io
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from agentd import log

EVERY_CHARACTER = st.characters(categories=None, exclude_categories=())


@pytest.fixture(autouse=True)
def own_logging(monkeypatch):
    """Logging belongs to the process: give it back as it was."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    monkeypatch.setattr(log, "_secrets", set())
    monkeypatch.setattr(log, "_pattern", None)
    yield
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def logged(say, *, fmt: log.Format = "json", level: str = "debug") -> str:
    out = io.StringIO()
    log.configure(level=level, fmt=fmt, stream=out)
    say(log.get("claims"))
    return out.getvalue()


def test_a_json_line_starts_with_when_how_bad_and_what():
    line = logged(lambda to: to.warning("stream.lost", reason="idle 45s", retry_in_s=3.2))
    assert re.fullmatch(
        r'\{"time": "\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", "level": "warning", "event": "stream.lost", '
        r'"component": "claims", "reason": "idle 45s", "retry_in_s": 3.2\}\n',
        line,
    )


def test_a_console_line_is_for_reading():
    line = logged(lambda to: to.info("stream.lost", reason="idle 45s"), fmt="console")
    assert re.match(
        r"\d\d:\d\d:\d\d\.\d{3} \[info +\] stream\.lost +component=claims reason='idle 45s'\n", line
    )


def test_auto_is_json_where_nobody_looks_and_console_on_a_terminal():
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


def test_context_variables_stand_in_every_line():
    structlog.contextvars.bind_contextvars(event_id="e1")
    assert json.loads(logged(lambda to: to.info("x")))["event_id"] == "e1"


class Stubborn:
    def __str__(self) -> str:
        raise RuntimeError("no")


class Colour(enum.Enum):
    RED = "red"


class Empty(Exception):
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
        (Empty(), "Empty"),
        (Stubborn(), "<Stubborn>"),
        ("a\ud800b", "a\ud800b"),
        ("naïve 🐦", "naïve 🐦"),
    ],
)
def test_a_value_of_any_type_is_written_as_json(value, written):
    assert json.loads(logged(lambda to: to.info("x", value=value)))["value"] == written


def test_a_value_nested_without_end_is_written_all_the_same():
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
def test_no_text_steers_the_terminal(text):
    line = logged(lambda to: to.info("x", text=text, nested={text: [text]}), fmt="console")
    assert not set(line) & {chr(code) for code in (*range(9), *range(11, 32), *range(127, 160))}


def fail_with(message: str) -> None:
    raise ValueError(message)


SECRETS = st.text(EVERY_CHARACTER, min_size=4, max_size=20).map(lambda inner: f"§{inner}¶")
AROUND = st.text(EVERY_CHARACTER, max_size=5)


@pytest.mark.parametrize("fmt", ["json", "console"])
@given(secret=SECRETS, before=AROUND, after=AROUND)
def test_a_concealed_secret_appears_in_no_line(fmt, secret, before, after):
    log._secrets.clear()
    log.conceal(secret)
    text = before + secret + after

    def say(to):
        to.info("x", value=text, json=json.dumps(text), plain_json=json.dumps(text, ensure_ascii=False))
        to.info(text, nested={"a": [(text, {text: text})]}, path=Path(text), printed=repr(text))
        to.info("x", error=ValueError(text), error_printed=repr(ValueError(text)), **{text: 1})
        try:
            fail_with(text)
        except ValueError as exc:
            to.error("x", exc_info=True)
            to.error("y", exc_info=exc)
        logging.getLogger("library").warning("said %s", text)

    out = logged(say, fmt=fmt)
    inner = secret[1:-1]
    for form in (
        secret,
        repr(secret)[1:-1],
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
    ):
        assert form not in out
    assert f"§{inner}" not in out
    assert out.count(log.MASK) >= 14
    if fmt == "json":
        assert len([json.loads(line) for line in out.splitlines()]) == 6


@pytest.mark.parametrize(
    "form",
    [
        "tok/en=<1>&2 \"3'",
        "tok%2Fen%3D%3C1%3E%262%20%223%27",
        "tok/en%3D%3C1%3E%262%20%223%27",
        "tok/en=\\u003c1\\u003e\\u00262 \\\"3'",
    ],
)
def test_a_secret_is_known_as_urls_and_peers_write_it(form):
    log.conceal("tok/en=<1>&2 \"3'")
    assert log.masked(f"before {form} after") == f"before {log.MASK} after"


def test_a_secret_that_is_a_number_is_hidden_in_numbers():
    log.conceal("123456")
    line = logged(lambda to: to.info("x", pin=123456, more=9123456.5, other=12345))
    shown = json.loads(line)
    assert (shown["pin"], shown["more"], shown["other"]) == (log.MASK, f"9{log.MASK}.5", 12345)


def test_a_secret_inside_a_longer_one_does_not_uncover_the_rest():
    log.conceal("secret")
    log.conceal("secret-and-more")
    log.conceal("secret-and-more")
    assert log.masked("secret-and-more secret") == f"{log.MASK} {log.MASK}"


def test_what_is_too_short_is_no_secret():
    log.conceal("")
    log.conceal("12345")
    assert log.masked("x12345") == "x12345"


def test_an_error_brings_its_traceback():
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


def test_libraries_speak_in_our_form():
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


def test_a_librarys_broken_format_is_logged_as_it_is():
    record = json.loads(logged(lambda _to: logging.getLogger("x").warning("%d files", "no")))
    assert record["text"] == "%d files ('no',)"


def test_a_stream_that_closed_is_outlived():
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


def test_a_full_disk_is_outlived():
    out = Path("/dev/full").open("w")  # noqa: SIM115 - closing it fails, which is the point
    log.configure(stream=out)
    for _ in range(100):
        log.get("claims").info("x", filler="y" * 1000)
    with pytest.raises(OSError, match="No space left"):
        out.close()


def test_a_stream_that_cannot_write_a_character_writes_its_number():
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    log.configure(stream=out)
    log.get("claims").info("x", bird="🐦", broken="\udc80")
    record = json.loads(out.buffer.getvalue())
    assert (record["bird"], record["broken"]) == ("🐦", "\udc80")
    log.configure(stream=out, fmt="console")
    log.get("claims").info("x", bird="🐦")
    assert b"bird=\\U0001f426" in out.buffer.getvalue()


def test_a_process_without_stderr_runs():
    code = "from agentd import log; log.configure(); log.get('x').info('said'); print('ran')"
    ended = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, code],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert ended.stdout == "ran\n"


def test_lost_lines_are_counted():
    out = log._Unbreakable(None)
    out.write("x")
    out.flush()
    assert (out.lost, out.isatty()) == (0, False)
    closed = io.StringIO()
    closed.close()
    out = log._Unbreakable(closed)
    out.write("x")
    assert (out.lost, out.isatty()) == (1, False)
