"""Every settled conversation reaches each destination, whatever replaces it in the spool. Virtual time."""

import asyncio
import json
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fakeclock import FakeClock
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.conversation.fit import fit
from agentd.conversation.message import Message
from agentd.daemon.wiring import SnapshotDue
from agentd.metrics import Registry
from agentd.snapshots.delivery import Delivery
from agentd.snapshots.destinations.destination import Accepted, RetryableError
from agentd.snapshots.recorder import Recorder
from agentd.snapshots.spool import Spool
from agentd.snapshots.uploader import SETTLED_MAX, SPACING_S

KEEP = 4


class Shelf:
    """A destination: the conversations and turns in each payload that it took."""

    name = "shelf"
    needs_task = False

    def __init__(self):
        self.is_down = False
        self.taken = []

    async def deliver(self, entry):
        if self.is_down:
            raise RetryableError("away")
        self.taken.append([message["content"] for message in json.loads(entry.payload)["messages"]])
        return Accepted()


class Life:
    """An agent that is restarted, with the recorder and the delivery as the daemon connects them."""

    def __init__(self, clock, folder):
        self.clock = clock
        self.spool = Spool(folder)
        self.shelf = Shelf()
        parts = {"clock": clock.as_clock(), "metrics": Registry()}
        self.recorder = Recorder(
            spool=self.spool, task_id="", max_messages=KEEP, max_bytes=65_536, checkpoint_s=5.0, **parts
        )
        self.delivery = Delivery(spool=self.spool, destinations=[self.shelf], upload="settle", **parts)
        self.recorder.captured.add(self.delivery.on_captured)
        self.snapshot_due = SnapshotDue(self.recorder, self.delivery)
        self.number = self.turns = self.messages = 0
        self.history = []
        self.settled = {}

    @asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.delivery.run(), name="snapshot delivery")
        try:
            await self.clock.settle()
            yield self
        finally:
            task.cancel()
            await asyncio.wait({task})
            self.spool.close()

    def write(self, role, content):
        self.messages += 1
        time = f"2026-03-02T09:{self.messages // 60:02}:{self.messages % 60:02}Z"
        self.history.append(Message(len(self.history), role, content, time))

    async def checkpoint(self):
        self.recorder.record_messages(self.history[-KEEP:])
        await self.recorder.capture()
        await self.clock.settle()

    async def restart(self, *, settles=False):
        self.number, self.turns, self.history = self.number + 1, 0, []
        self.write("agent", "Welcome")
        await self.checkpoint()
        if settles:
            await self.snapshot_due.upload()

    async def turn(self, *, settles=True):
        self.turns += 1
        self.write("user", "again")
        await self.checkpoint()
        self.write("agent", "")
        for answer in ("half", f"{self.number}:{self.turns}"):
            self.history[-1] = self.history[-1]._replace(content=answer)
            await self.checkpoint()
        if settles:
            self.settled[self.number] = self.turns
            await self.snapshot_due.upload()
        await self.clock.settle()

    def delivered(self):
        """The last turn of each conversation that the destination has."""
        last = {}
        for content in (content for taken in self.shelf.taken for content in taken if ":" in content):
            number, turns = map(int, content.split(":"))
            last[number] = max(turns, last.get(number, 0))
        return last


@pytest.fixture
async def life(fake_clock, tmp_path):
    async with Life(fake_clock, tmp_path / "spool").running() as life:
        await life.restart()
        yield life


async def test_a_settled_turn_is_delivered_before_a_restarted_agents_turn_replaces_it(life):
    await life.turn()
    await life.clock.advance(10)
    await life.turn()
    assert life.delivered() == {1: 1}, "the second turn waits for the spacing"
    await life.restart()
    await life.turn()
    assert life.delivered() == {1: 2}, "at once, and without the newer conversation"
    await life.clock.advance(SPACING_S)
    assert life.delivered() == {1: 2, 2: 1}


async def test_turns_of_one_conversation_keep_the_spacing(life):
    for _ in range(6):
        await life.turn()
        await life.clock.advance(4.0)
    assert len(life.shelf.taken) == 1
    await life.clock.advance(SPACING_S)
    assert len(life.shelf.taken) == 2
    assert life.delivered() == {1: 6}


async def test_a_replaced_conversation_is_delivered_when_the_destination_answers_again(life):
    life.shelf.is_down = True
    for _ in range(3):
        await life.turn()
        await life.restart(settles=True)
    life.shelf.is_down = False
    await life.clock.advance(120)
    assert life.delivered() == {1: 1, 2: 1, 3: 1}


async def test_a_flush_delivers_a_replaced_conversation_first_and_the_newest_last(life):
    await life.turn()
    await life.turn()
    life.shelf.is_down = True
    await life.restart()
    await life.turn()
    life.shelf.is_down = False
    await life.delivery.flush(life.clock.now + 8)
    assert life.delivered() == {1: 2, 2: 1}
    assert life.shelf.taken[-1][-1] == "2:1"


async def test_an_unanswered_flush_leaves_the_newest_snapshot_most_of_the_time(life, monkeypatch):
    limits = []

    async def deliver(entry):
        limits.append(asyncio.current_task() and life.delivery._uploaders[0]._attempt.when())
        raise RetryableError("away")

    await life.turn()
    life.shelf.is_down = True
    await life.turn()
    await life.restart()
    await life.turn()
    monkeypatch.setattr(life.shelf, "deliver", deliver)
    began = asyncio.get_running_loop().time()
    flushing = asyncio.create_task(life.delivery.flush(life.clock.now + 8))
    await life.clock.settle()
    flushing.cancel()
    await asyncio.wait({flushing})
    assert limits[0] - began == pytest.approx(2.0, abs=0.5)
    assert limits[1] - began > 5.0


_STEPS = st.lists(
    st.sampled_from(
        ["settled turn", "settled turn", "turn", "restart", "settled restart", "5 s", "40 s", "down", "up"]
    ),
    min_size=4,
    max_size=14,
)


@settings(max_examples=25, deadline=None)
@given(_STEPS)
def test_every_settled_conversation_reaches_the_destination_while_it_answers(steps):
    async def run():
        with tempfile.TemporaryDirectory() as folder:
            async with Life(FakeClock(), Path(folder) / "spool").running() as life:
                await life.restart()
                for step in steps:
                    match step.split():
                        case [*words, "turn"]:
                            await life.turn(settles=words == ["settled"])
                        case [*words, "restart"] if life.number <= SETTLED_MAX:
                            await life.restart(settles=words == ["settled"])
                        case [seconds, "s"]:
                            await life.clock.advance(float(seconds))
                        case ["down" | "up" as step]:
                            life.shelf.is_down = step == "down"
                life.shelf.is_down = False
                await life.clock.advance(200)
                delivered = life.delivered()
                assert all(delivered.get(number, 0) >= turns for number, turns in life.settled.items())

    asyncio.run(run())


def entry(spool, *messages):
    return spool.put("", fit(messages, max_messages=10), captured_at="2026-03-02T09:00:00Z")


def said(number, role, content, second=0):
    return Message(number, role, content, f"2026-03-02T09:00:{second:02}Z")


@pytest.mark.parametrize(
    ("before", "after", "is_same"),
    [
        ([said(0, "agent", "a")], [said(0, "agent", "b", 5)], True),
        ([said(0, "agent", "a")], [said(0, "user", "b", 5)], False),
        ([said(0, "agent", "a"), said(1, "user", "x", 1)], [said(1, "user", "x", 1), said(2, "agent", "y", 2)], True),
        ([said(1, "user", "x", 1), said(2, "agent", "y", 2)], [said(1, "user", "x", 1), said(2, "agent", "z", 9)], True),
        ([said(1, "user", "x", 1), said(2, "agent", "y", 2)], [said(1, "user", "x", 7), said(2, "agent", "z", 9)], False),
        ([said(1, "user", "x", 1), said(2, "agent", "y", 2)], [said(1, "user", "q", 1), said(2, "agent", "y", 2)], False),
    ],
)  # fmt: skip
def test_a_later_state_of_a_conversation_is_recognised(tmp_path, before, after, is_same):
    spool = Spool(tmp_path / "spool")
    earlier = entry(spool, *before)
    assert entry(spool, *after).continues(earlier) is is_same
    spool.close()


def test_a_message_that_was_truncated_differently_is_the_same(tmp_path):
    spool = Spool(tmp_path / "spool")
    long = said(1, "user", "x" * 66_000 + "end")
    earlier = entry(spool, long)
    later = entry(spool, long, said(2, "agent", "y" * 30_000, 1))
    assert earlier.truncated
    assert later.truncated
    assert later.continues(earlier)
    spool.close()
