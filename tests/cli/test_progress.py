import io

import pytest

from agentd.cli.progress import Progress

CODER = {"name": "coder", "outcome": "pending", "detail": "", "attempts": 0}
RECEIPT = {"outcome": "pending", "messages": 10, "bytes": 12_345, "destinations": [CODER]}


class Clock:
    now = 5.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def out():
    return io.StringIO()


@pytest.fixture
def progress(out, clock):
    return Progress(out, now=clock)


def lines(out):
    return [line.removeprefix("agentd stop: ") for line in out.getvalue().splitlines()]


def test_each_step_is_said_once_with_its_time(progress, out, clock):
    progress.stopping()
    clock.now += 0.4
    progress.captured(RECEIPT)
    progress.captured(RECEIPT)
    clock.now += 2
    progress.over({**RECEIPT, "outcome": "delivered"})
    assert lines(out) == [
        "0.0 s stopping",
        "0.4 s captured 10 messages, 12,345 bytes",
        "0.4 s delivering to coder",
        "2.4 s delivered",
    ]


def test_what_was_too_quick_to_be_seen_is_said_at_the_end(progress, out):
    progress.over({**RECEIPT, "outcome": "delivered", "destinations": [{**CODER, "outcome": "delivered"}]})
    assert [line[6:] for line in lines(out)] == [
        "stopping",
        "captured 10 messages, 12,345 bytes",
        "delivering to coder",
        "delivered",
    ]


def test_a_failed_try_is_said_and_said_again_only_when_the_reason_changes(progress, out):
    for detail in ("503", "503", "timed out"):
        progress.captured({**RECEIPT, "destinations": [{**CODER, "detail": detail, "attempts": 1}]})
    assert [line[6:] for line in lines(out)][2:] == [
        "coder: 503; trying again",
        "coder: timed out; trying again",
    ]


@pytest.mark.parametrize(
    ("outcome", "said"),
    [("pending", "not delivered everywhere; kept in the spool"), ("nothing", "nothing to deliver")],
)
def test_the_end_is_said_for_what_it_is(progress, out, outcome, said):
    progress.over({"outcome": outcome, "messages": 0, "bytes": 0, "destinations": []})
    assert [line[6:] for line in lines(out)] == ["stopping", said]


def test_a_terminal_that_has_gone_ends_nothing(out, progress):
    out.close()
    progress.stopping()


def test_without_anybody_to_tell_nothing_is_asked(tmp_path):
    with Progress(None).watching(tmp_path / "no-such.sock"):
        pass
