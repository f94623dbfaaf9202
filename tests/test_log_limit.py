"""The limit of repeated lines: one line for each new state and second, bursts of other events, nothing lost unsaid."""

import asyncio
import io
import json
import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog import DropEvent

from agentd import log, log_limit
from agentd.log_limit import BURST, LineLimiter


class Log:
    """The lines that a limiter passes, on a clock of its own."""

    def __init__(self) -> None:
        self.at = 0.0
        self.lines: list[dict] = []
        self.limiter = LineLimiter(self.write, now=lambda: self.at)

    def write(self, method: str, fields: dict) -> None:
        try:
            self.lines.append({**self.limiter(None, method, dict(fields)), "at": self.at})
        except DropEvent:
            return


@pytest.mark.property
@given(
    st.lists(st.tuples(st.sampled_from(["running", "settling", "stable"]), st.floats(0, 0.7)), max_size=60),
    st.booleans(),
)
def test_any_sequence_of_states_is_shown_in_order_and_in_full_number(steps, timers):
    printed = Log()
    for number, (state, pause) in enumerate(steps):
        printed.at += pause
        if timers and pause > 0.5:
            printed.limiter.flush()
        printed.write("info", {"event": "agent.status", "component": "stability", "new": state, "n": number})
    printed.limiter.flush()
    numbers = [line["n"] for line in printed.lines]
    assert numbers == sorted(numbers)
    assert numbers[-1:] == [len(steps) - 1][: len(steps)], "the last line is the last state"
    assert len(numbers) + sum(line.get("suppressed", 0) for line in printed.lines) == len(steps)
    if not timers:
        passed = Counter((line["new"], int(line["at"])) for line in printed.lines[:-1])
        assert max(passed.values(), default=0) <= 2


def test_status_flips_cost_one_line_for_each_state_and_second():
    printed = Log()
    for _ in range(8000):
        printed.at += 0.001
        for new in ("running", "stable"):
            printed.write("info", {"event": "agent.status", "new": new})
    printed.limiter.flush()
    assert len(printed.lines) <= 2 * 9
    assert sum(line.get("suppressed", 0) for line in printed.lines) > 15_900


def test_a_burst_of_other_events_is_not_limited_and_a_flood_is():
    printed = Log()
    for number in range(BURST):
        printed.write("info", {"event": "hook.started", "hook": number})
    assert len(printed.lines) == BURST
    for _ in range(1000):
        printed.write("info", {"event": "hook.started", "hook": 0})
    printed.write("error", {"event": "hook.failed"})
    assert [line["event"] for line in printed.lines[BURST:]] == ["hook.failed"], (
        "each event has its own limit"
    )
    printed.at += 1
    printed.write("info", {"event": "hook.started", "hook": 7})
    assert printed.lines[-1]["suppressed"] == 1000


def test_the_output_of_a_hook_has_its_own_limit():
    printed = Log()
    for number in range(200):
        printed.write("info", {"event": "hook.output", "line": number})
    assert len(printed.lines) == 200


async def test_the_last_state_follows_within_a_second(monkeypatch):
    monkeypatch.setattr(log_limit, "REFILL_S", 0.02)
    out = io.StringIO()
    log.configure(fmt="json", stream=out)
    for number in range(500):
        log.get("stability").info("agent.status", new="running" if number % 2 else "stable", n=number)
    assert len(out.getvalue().splitlines()) < 100
    await asyncio.sleep(0.1)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert lines[-1]["n"] == 499
    assert len(lines) + sum(line.get("suppressed", 0) for line in lines) == 500
    assert lines[-1]["level"] == "info"
    assert lines[-1]["component"] == "stability"
    assert "_released" not in lines[-1]


def test_a_flood_from_threads_is_limited():
    out = io.StringIO()
    log.configure(fmt="json", stream=out)

    def flood() -> None:
        for _ in range(500):
            log.get("stability").warning("agent.messages_unreadable", error="x")

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.configure(stream=io.StringIO())  # writes what is held back
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert BURST <= len(lines) < 2 * BURST
    assert len(lines) + sum(line.get("suppressed", 0) for line in lines) == 2000
