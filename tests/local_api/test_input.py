"""What is said to the daemon: which answer it gets, and that waiting ends."""

import asyncio

import aiohttp
import pytest
from aiohttp import web

from agentd.local_api.input import on_event, on_message, on_report
from agentd.local_api.replies import RefusedError, error

BUSY = RefusedError(409, "Task app is not ready to accept input.", hint="Status: running")


class Agent:
    def __init__(self):
        self.refusals = []
        self.got = []
        self.tries = 0
        self.closing = False
        self.asked = 0  # requests that are being answered

    async def send(self, content):
        self.tries += 1
        if self.refusals:
            raise self.refusals[0] if len(self.refusals) == 1 else self.refusals.pop(0)
        self.got.append(content)
        return {}

    async def report(self, said):
        return {"heard": said}


@web.middleware
async def _errors(request, handler):
    try:
        return await handler(request)
    except RefusedError as exc:
        return error(exc.status, exc.message, exc.hint)


@pytest.fixture
def agent():
    return Agent()


@pytest.fixture
async def client(agent):
    @web.middleware
    async def count(request, handler):
        agent.asked += 1
        try:
            return await handler(request)
        finally:
            agent.asked -= 1

    async def to_its_end(work):
        return await asyncio.shield(asyncio.ensure_future(work))

    app = web.Application(middlewares=[count, _errors])
    app.add_routes(
        [
            web.post("/m", on_message(agent.send, to_its_end, closing=lambda: agent.closing)),
            web.post("/r", on_report(agent.report, to_its_end)),
            web.post("/e", on_event(agent.report, to_its_end)),
        ]
    )
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
        yield session
    await runner.cleanup()


async def post(client, route, **more):
    async with client.post(route, **more) as response:
        return response.status, await response.json(content_type=None) if response.status != 204 else None


async def test_what_is_taken_is_204_without_a_body(client, agent):
    assert await post(client, "/m", json={"content": "go"}) == (204, None)
    assert agent.got == ["go"]


async def test_a_refusal_is_answered_at_once_and_tells_the_state(client, agent):
    agent.refusals = [BUSY]
    assert await post(client, "/m", json={"content": "go"}) == (
        409, {"message": "Task app is not ready to accept input.", "detail": "Status: running"},
    )  # fmt: skip
    assert agent.tries == 1


async def test_with_wait_it_is_tried_until_it_is_taken(client, agent):
    agent.refusals = [BUSY, BUSY, BUSY]
    asyncio.get_running_loop().call_later(0.3, agent.refusals.clear)
    assert (await post(client, "/m?wait=30", json={"content": "go"}))[0] == 204
    assert agent.got == ["go"]
    assert agent.tries > 1


async def test_with_wait_the_last_refusal_is_the_answer_when_the_time_is_up(client, agent):
    agent.refusals = [BUSY]
    assert (await post(client, "/m?wait=0.2", json={"content": "go"}))[0] == 409
    assert agent.tries > 1


@pytest.mark.parametrize("status", [400, 502])
async def test_what_waiting_cannot_resolve_is_not_waited_for(client, agent, status):
    agent.refusals = [RefusedError(status, "no", hint="Status: error")]
    assert (await post(client, "/m?wait=30", json={"content": "go"}))[0] == status
    assert agent.tries == 1


async def test_nothing_is_sent_for_a_client_that_has_gone(client, agent):
    agent.refusals = [BUSY]
    asking = asyncio.create_task(post(client, "/m?wait=3000", json={"content": "go"}))
    async with asyncio.timeout(10):
        while not agent.tries:
            await asyncio.sleep(0.01)
        asking.cancel()
        while agent.asked:
            await asyncio.sleep(0.01)
    agent.refusals.clear()
    assert agent.got == []


async def test_a_wait_does_not_hold_up_the_end(client, agent):
    agent.refusals = [BUSY]
    asyncio.get_running_loop().call_later(0.2, setattr, agent, "closing", True)
    assert (await asyncio.wait_for(post(client, "/m?wait=3000", json={"content": "go"}), 10))[0] == 409


@pytest.mark.parametrize("wait", ["x", "-1", "nan", "3601", ""])
async def test_a_time_that_is_none_is_refused(client, agent, wait):
    assert (await post(client, f"/m?wait={wait}", json={"content": "go"}))[0] == 400
    assert agent.tries == 0


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b"[" * 5000])
async def test_what_is_no_object_is_400_except_for_an_event(client, body):
    assert (await post(client, "/m", data=body))[0] == 400
    assert (await post(client, "/r", data=body))[0] == 400
    status, answer = await post(client, "/e", data=body)
    assert (status, answer["taken"]) == (200, False)
    assert "JSON" in answer["message"]
