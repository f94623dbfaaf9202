import asyncio

import pytest

from agentd.agents import single_flight
from agentd.agents.single_flight import SingleFlight


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


async def test_a_fresh_call_starts_after_the_end_of_a_running_one_and_is_shared():
    ends = [asyncio.Event() for _ in range(3)]
    sent = []

    async def call(_begun):
        sent.append(number := len(sent))
        await ends[number].wait()
        return number

    flight = SingleFlight(call, "GET /x")
    old = asyncio.create_task(flight.join(5))
    await asyncio.sleep(0)
    fresh = [asyncio.create_task(flight.join(5, fresh=True)) for _ in range(2)]
    await asyncio.sleep(0)
    assert len(sent) == 1
    ends[0].set()
    assert await old == 0
    ends[1].set()
    assert await asyncio.gather(*fresh) == [1, 1]
    await flight.close()


async def test_a_fresh_call_waits_for_a_hung_one_only_until_its_timeout():
    async def call(_begun):
        await asyncio.Event().wait()

    flight = SingleFlight(call, "GET /x")
    for fresh in (False, True):
        with pytest.raises(TimeoutError):
            await flight.join(0.001, fresh=fresh)
    await flight.close()
