"""A session whose agent pauses for seconds in the middle of its turns: what a person would have been told."""

import asyncio
import json
from pathlib import Path

import pytest

from agentd.metrics import Registry
from agentd.stability.reporter import Reporter, Update
from agentd.stability.task_state import Claim, Source, TaskState, TaskWord
from agentd.stability.tracker import AgentStatus, Reading, Sample, Tracker

WORDS = {AgentStatus.RUNNING: TaskWord.WORKING, AgentStatus.STABLE: TaskWord.IDLE}


@pytest.fixture
def session():
    return json.loads((Path(__file__).parent / "flapping_session.json").read_text())


async def test_each_turn_is_told_once_where_the_naive_rule_tells_every_pause(session, fake_clock):
    told = []

    async def send(state, message, uri, *, timeout_s):
        told.append(state)

    tracker, task = Tracker(5.0), TaskState()
    reporter = Reporter(send=send, clock=fake_clock.as_clock(), metrics=Registry())
    reporter.open()
    running = asyncio.create_task(reporter.run(), name="app status")
    naive, seconds, ends = 0, 0.0, 0.0
    for lasts_s, word in session["readings"]:
        naive += 1
        ends += lasts_s
        while seconds < ends:
            transition = tracker.observe(Sample(Reading(word), fake_clock.now))
            if transition is not None and transition.new in WORDS:
                said = WORDS[transition.new]
                if task.take(Claim(said, Source.WATCHER, transition.at)):
                    reporter.offer(Update(said))
            await fake_clock.advance(1.0)
            seconds += 1.0
    running.cancel()
    await asyncio.wait({running})

    assert seconds > 600
    turns = session["turns"]
    # It begins idle; then one working and one idle for every turn.
    assert told == ["idle"] + ["working", "idle"] * turns
    assert naive > 8 * len(told), f"the naive rule tells {naive} times"
