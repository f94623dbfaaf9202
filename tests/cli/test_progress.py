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


def test_each_step_is_printed_once_with_its_time(progress, out, clock):
    progress.stopping()
    clock.now += 0.4
    progress.captured(RECEIPT)
    progress.captured(RECEIPT)
    clock.now += 2
    progress.finished({**RECEIPT, "outcome": "delivered"})
    assert lines(out) == [
        "0.0 s stopping",
        "0.4 s captured 10 messages, 12,345 bytes",
        "0.4 s delivering to coder",
        "2.4 s delivered",
    ]


def test_steps_that_the_poll_missed_are_printed_at_the_end(progress, out):
    progress.finished(
        {**RECEIPT, "outcome": "delivered", "destinations": [{**CODER, "outcome": "delivered"}]}
    )
    assert [line[6:] for line in lines(out)] == [
        "stopping",
        "captured 10 messages, 12,345 bytes",
        "delivering to coder",
        "delivered",
    ]


def test_a_failed_try_is_printed_again_only_if_the_reason_changes(progress, out):
    for detail in ("503", "503", "timed out"):
        progress.captured({**RECEIPT, "destinations": [{**CODER, "detail": detail, "attempts": 1}]})
    assert [line[6:] for line in lines(out)][2:] == [
        "coder: 503; trying again",
        "coder: timed out; trying again",
    ]


@pytest.mark.parametrize(
    ("outcome", "destinations", "text"),
    [
        ("pending", [], "not delivered everywhere; kept in the spool"),
        ("nothing", [], "nothing to deliver"),
        (
            "nothing",
            [{**CODER, "outcome": "unsupported"}],
            "kept in the spool; no destination supports snapshots",
        ),
    ],
)
def test_the_outcome_is_printed(progress, out, outcome, destinations, text):
    progress.finished({"outcome": outcome, "messages": 0, "bytes": 0, "destinations": destinations})
    assert lines(out)[-1][6:] == text
    assert lines(out)[0][6:] == "stopping"


def test_a_closed_terminal_raises_no_error(out, progress):
    out.close()
    progress.stopping()


def test_without_an_output_the_daemon_is_not_polled(tmp_path):
    with Progress(None).polling(tmp_path / "no-such.sock"):
        pass
