"""What is sent to coderd, and how often."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from fakeclock import FakeClock
from hypothesis import given
from hypothesis import strategies as st
from metric_values import value_of
from structlog.testing import capture_logs

from agentd.coderd.errors import InvalidRequestError, RateLimitedError, UnreachableError
from agentd.conversation.message import Message
from agentd.metrics import Registry
from agentd.stability.app_status import FINAL_MESSAGE, HEARTBEAT_S, AppStatusReporter
from agentd.stability.status_report import MESSAGE_MAX_BYTES, Source, StatusReport, TaskState, clean_message

NONE, WORKING, IDLE, COMPLETE, FAILURE = TaskState


class Desk:
    """A reporter and what reached the other side."""

    def __init__(self, fake_clock, *, working_max_s=3600.0) -> None:
        self.clock = fake_clock
        self.metrics = Registry()
        self.told: list[tuple[str, str]] = []
        self.told_at: list[float] = []
        self.failures: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.calls = 0
        self.is_ready = False
        self.reporter = AppStatusReporter(
            send=self.send,
            is_ready=lambda: self.is_ready,
            clock=fake_clock.as_clock(),
            metrics=self.metrics,
            working_max_s=working_max_s,
        )
        self.reporter._backoff._draw = lambda: 1.0

    async def send(self, state, message, uri, *, timeout_s):
        self.calls += 1
        failure = self.failures.pop(0) if self.failures else None
        await self.gate.wait()
        if failure is not None:
            raise failure
        self.told.append((state, message))
        self.told_at.append(self.clock.now)

    @asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.reporter.run(), name="app status")
        try:
            await self.clock.settle()
            yield self
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def say(self, word, message="", *, explicit=False, then_s=0.0) -> None:
        source = Source.REPORT if explicit else Source.WATCHER
        self.reporter.report(StatusReport(word, source, message=message))
        await self.clock.advance(then_s)


@pytest.fixture
async def desk(fake_clock):
    desk = Desk(fake_clock)
    desk.is_ready = True
    async with desk.running():
        yield desk


async def test_a_change_is_sent_once(desk):
    for _ in range(5):
        await desk.say(IDLE, "waiting", then_s=1)
    assert desk.told == [("idle", "waiting")]


async def test_the_first_working_is_not_sent_and_the_next_one_is(desk):
    await desk.say(WORKING, then_s=5)
    assert desk.told == []
    await desk.say(IDLE, then_s=5)
    await desk.say(WORKING, then_s=5)
    assert desk.told == [("idle", ""), ("working", "")]


async def test_a_first_working_from_an_explicit_report_is_sent(desk):
    await desk.say(WORKING, "building", explicit=True)
    assert desk.told == [("working", "building")]


async def test_nothing_is_sent_before_the_workspace_is_ready(fake_clock):
    desk = Desk(fake_clock)
    async with desk.running():
        await desk.say(IDLE, then_s=100)
        assert desk.calls == 0
        desk.is_ready = True
        await desk.clock.advance(1)
        assert desk.told == [("idle", "")]


async def test_every_change_is_sent_within_a_second_also_with_the_same_content(desk):
    told = []
    for turn in range(30):
        await desk.say(IDLE, then_s=1)
        assert len(desk.told) == 2 * turn + 1
        await desk.say(WORKING, then_s=1)
        told += [("idle", ""), ("working", "")]
        assert desk.told == told


async def test_a_prompt_that_is_read_half_a_second_late_is_the_message_of_working(desk):
    await desk.say(IDLE, "all tests pass", then_s=1)
    await desk.say(WORKING, then_s=0.4)
    await desk.say(WORKING, "fix the build", then_s=0.1)
    assert desk.told[1:] == [("working", "fix the build")]


async def test_a_prompt_that_is_read_later_makes_no_second_working(desk):
    await desk.say(IDLE, "all tests pass", then_s=1)
    await desk.say(WORKING, then_s=3)
    await desk.say(WORKING, "fix the build", then_s=100)
    await desk.say(IDLE, "fixed", then_s=1)
    assert desk.told[1:] == [("working", ""), ("idle", "fixed")]


async def test_a_second_prompt_during_the_work_is_sent(desk):
    await desk.say(IDLE, then_s=1)
    await desk.say(WORKING, "fix the build", then_s=3)
    await desk.say(WORKING, "and then deploy it", then_s=1)
    assert desk.told[1:] == [("working", "fix the build"), ("working", "and then deploy it")]


async def test_while_coderd_is_down_only_the_latest_report_is_pending_and_the_others_are_counted(desk):
    desk.failures = [UnreachableError("no answer")] * 3
    await desk.say(IDLE, "one")
    await desk.say(IDLE, "two")
    await desk.say(FAILURE, "three", then_s=30)
    assert desk.told == [("failure", "three")]
    assert desk.calls == 4
    dropped = [
        value_of(desk.metrics, "agentd_app_status_dropped_total", reason=reason)
        for reason in ("superseded", "refused")
    ]
    assert sum(dropped) == 2


async def test_an_update_that_comes_while_another_is_being_sent_is_not_lost(desk):
    await desk.say(WORKING, explicit=True)
    desk.gate.clear()
    await desk.say(IDLE)
    await desk.say(WORKING)
    desk.gate.set()
    await desk.clock.advance(60)
    assert [state for state, _ in desk.told] == ["working", "idle", "working"]


async def test_after_a_call_with_unknown_result_the_state_is_sent_again(desk):
    await desk.say(WORKING, explicit=True, then_s=61)
    desk.failures = [UnreachableError("timed out")]
    await desk.say(IDLE)
    await desk.say(WORKING, then_s=5)
    assert [state for state, _ in desk.told] == ["working", "working"]


async def test_a_report_that_coderd_refuses_is_dropped_counted_and_not_repeated(desk):
    desk.failures = [InvalidRequestError('No app found with slug "x"')]
    await desk.say(IDLE, then_s=600)
    assert desk.calls == 1
    assert value_of(desk.metrics, "agentd_app_status_dropped_total", reason="refused") == 1


async def test_retry_after_of_a_rate_limit_is_obeyed(desk):
    desk.failures = [RateLimitedError("slow down", retry_after_s=45.0)]
    await desk.say(IDLE, then_s=44)
    assert desk.calls == 1
    await desk.clock.advance(2)
    assert desk.told == [("idle", "")]


async def test_a_long_working_is_repeated_as_a_heartbeat(desk):
    await desk.say(WORKING, then_s=3 * HEARTBEAT_S + 1)
    assert desk.told == [("working", "")] * 3
    await desk.say(IDLE, then_s=2 * HEARTBEAT_S)
    assert [state for state, _ in desk.told[3:]] == ["idle"]


MESSAGE = Message(1, "agent", "a line more", "2026-03-02T09:00:00Z")


async def test_without_a_changed_message_the_heartbeat_ends_after_working_max_s_and_is_logged_once(desk):
    with capture_logs() as logs:
        await desk.say(WORKING, explicit=True)
        await desk.clock.advance(10_000)
    assert len(desk.told) == 1 + 3, "at the start, and after 900, 1800 and 2700 s"
    [line] = [line for line in logs if line["event"] == "app_status.heartbeat_stopped"]
    assert line["reason"] == desk.reporter.stall_note != ""


async def test_a_changed_message_keeps_the_heartbeat_and_starts_it_again(desk):
    await desk.say(WORKING, explicit=True)
    for _ in range(4 * int(HEARTBEAT_S) // 100):
        desk.reporter.on_message_changed(MESSAGE)
        await desk.clock.advance(100)
    desk.reporter.on_message_changed(MESSAGE)
    await desk.clock.advance(2 * 3600)
    assert desk.reporter.stall_note
    before = len(desk.told)
    desk.reporter.on_message_changed(MESSAGE)
    await desk.clock.advance(1)
    assert desk.told[before:] == [("working", "")]
    assert not desk.reporter.stall_note


@given(st.lists(st.tuples(st.floats(1, 2000), st.booleans()), max_size=20), st.floats(0, 5000))
def test_every_heartbeat_comes_within_working_max_s_of_the_last_changed_message(steps, working_max_s):
    async def run():
        desk = Desk(FakeClock(), working_max_s=working_max_s)
        desk.is_ready = True
        async with desk.running():
            await desk.say(WORKING, explicit=True)
            changed_at = [desk.clock.now]
            for pause_s, changes in [*steps, (3 * HEARTBEAT_S, False)]:
                if changes:
                    desk.reporter.on_message_changed(MESSAGE)
                    changed_at.append(desk.clock.now)
                await desk.clock.advance(pause_s)
            for sent_at in desk.told_at[1:]:
                assert sent_at - max(at for at in changed_at if at <= sent_at) <= working_max_s

    asyncio.run(run())


async def test_at_stop_working_is_replaced_by_idle(desk):
    await desk.say(WORKING, explicit=True)
    assert await desk.reporter.send_final(timeout_s=1)
    assert desk.told[-1] == ("idle", FINAL_MESSAGE)


async def test_at_stop_a_final_state_is_not_replaced(desk):
    await desk.say(COMPLETE, "all tests pass", explicit=True)
    assert await desk.reporter.send_final(timeout_s=1)
    assert desk.told == [("complete", "all tests pass")]


async def test_at_stop_a_pending_final_state_is_sent(desk):
    await desk.say(WORKING, explicit=True)
    desk.failures = [UnreachableError("away")]
    await desk.say(FAILURE, "out of disk", explicit=True)
    assert await desk.reporter.send_final(timeout_s=1)
    assert desk.told[-1] == ("failure", "out of disk")


async def test_at_stop_nothing_is_sent_about_a_task_without_reports(desk):
    assert await desk.reporter.send_final(timeout_s=1)
    await desk.say(IDLE)
    assert await desk.reporter.send_final(timeout_s=1)
    assert desk.told == [("idle", "")]


async def test_a_final_status_that_cannot_be_sent_returns_false(desk):
    await desk.say(WORKING, explicit=True)
    desk.failures = [UnreachableError("away")]
    assert not await desk.reporter.send_final(timeout_s=1)


async def test_report_never_blocks(desk):
    desk.gate.clear()
    await desk.say(IDLE, "one")
    for number in range(100):
        desk.reporter.report(StatusReport(IDLE, message=f"{number}"))
    desk.gate.set()
    await desk.clock.advance(1)
    assert desk.told == [("idle", "one"), ("idle", "99")]


async def test_the_state_none_is_not_sent(desk):
    await desk.say(NONE, then_s=10)
    assert desk.calls == 0


@given(st.text(st.characters() | st.sampled_from("\x1b[31m\n\t漢😀\ud800")))
def test_a_message_is_at_most_160_bytes_of_printable_text(text):
    cleaned = clean_message(text)
    assert len(cleaned.encode()) <= MESSAGE_MAX_BYTES
    assert cleaned == " ".join(cleaned.split())
    assert all(one.isprintable() for one in cleaned)
    assert clean_message(cleaned) == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  two\n\n words\t", "two words"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;https://x.test\x07link\x1b]8;;\x07", "link"),
        ("a\x00b\x7fc", "abc"),
        ("漢" * 60, "漢" * 53),
        ("x" * 159 + "é", "x" * 159),
        ("half a \ud83d", "half a \ufffd"),
    ],
)
def test_a_message_is_cleaned_as_coderd_would_and_cut_between_characters(text, cleaned):
    assert clean_message(text) == cleaned
