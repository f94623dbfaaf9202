import asyncio

import pytest

from agentd.agents.agentapi import single_flight
from agentd.agents.agentapi.single_flight import SingleFlight


async def test_a_caller_that_joins_a_hanging_call_waits_for_the_same_call():
    sent = []

    async def call(begun):
        sent.append(begun)
        await asyncio.Event().wait()

    flight = SingleFlight(call, "GET /x")
    for _ in range(5):
        with pytest.raises(TimeoutError):
            await flight.join(0.001)
    assert len(sent) == 1
    await flight.close()


async def test_a_call_the_other_side_forgot_is_let_go_and_sent_anew(monkeypatch):
    monkeypatch.setattr(single_flight, "UNANSWERED_MAX_S", 0.0)
    forgotten = [True]

    async def call(_begun):
        if forgotten:
            forgotten.clear()
            await asyncio.Event().wait()
        return "answer"

    flight = SingleFlight(call, "GET /x")
    with pytest.raises(TimeoutError):
        await flight.join(0.001)
    assert await flight.join(5) == "answer"


async def test_a_call_whose_answer_has_begun_is_not_sent_anew(monkeypatch):
    monkeypatch.setattr(single_flight, "UNANSWERED_MAX_S", 0.0)
    rest, sent = asyncio.Event(), []

    async def call(begun):
        sent.append(begun)
        begun.set()
        await rest.wait()
        return "a large answer"

    flight = SingleFlight(call, "GET /x")
    with pytest.raises(TimeoutError):
        await flight.join(0.001)
    rest.set()
    assert await flight.join(5) == "a large answer"
    assert len(sent) == 1
