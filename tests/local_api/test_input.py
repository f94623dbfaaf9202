"""Messages, reports and events: the response to each, and the end of `?wait`."""

import asyncio

import aiohttp
import pytest
from aiohttp import web

from agentd.local_api.input import event_handler, message_handler, report_handler
from agentd.local_api.replies import ApiError, errors_as_json

BUSY = ApiError(409, "Task app is not ready to accept input.", hint="Status: running")


class Agent:
    def __init__(self):
        self.refusals = []
        self.received = []
        self.tries = 0
        self.closing = False
        self.requests = 0  # in progress

    async def send(self, content):
        self.tries += 1
        if self.refusals:
            raise self.refusals[0] if len(self.refusals) == 1 else self.refusals.pop(0)
        self.received.append(content)
        return {}

    async def report(self, fields):
        return {"fields": fields}


@pytest.fixture
def agent():
    return Agent()


@pytest.fixture
async def client(agent):
    @web.middleware
    async def count(request, handler):
        agent.requests += 1
        try:
            return await handler(request)
        finally:
            agent.requests -= 1

    async def run_shielded(work):
        return await asyncio.shield(asyncio.ensure_future(work))

    app = web.Application(middlewares=[count, errors_as_json])
    app.add_routes(
        [
            web.post("/m", message_handler(agent.send, run_shielded, closing=lambda: agent.closing)),
            web.post("/r", report_handler(agent.report, run_shielded)),
            web.post("/e", event_handler(agent.report, run_shielded)),
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


async def test_an_accepted_message_is_204_without_a_body(client, agent):
    assert await post(client, "/m", json={"content": "go"}) == (204, None)
    assert agent.received == ["go"]


async def test_a_refusal_is_returned_at_once_with_the_state(client, agent):
    agent.refusals = [BUSY]
    assert await post(client, "/m", json={"content": "go"}) == (
        409, {"message": "Task app is not ready to accept input.", "detail": "Status: running"},
    )  # fmt: skip
    assert agent.tries == 1


async def test_with_wait_a_409_is_retried_until_the_message_is_accepted(client, agent):
    agent.refusals = [BUSY, BUSY, BUSY]
    asyncio.get_running_loop().call_later(0.3, agent.refusals.clear)
    assert (await post(client, "/m?wait=30", json={"content": "go"}))[0] == 204
    assert agent.received == ["go"]
    assert agent.tries > 1


async def test_with_wait_the_last_refusal_is_returned_at_the_time_limit(client, agent):
    agent.refusals = [BUSY]
    assert (await post(client, "/m?wait=0.2", json={"content": "go"}))[0] == 409
    assert agent.tries > 1


@pytest.mark.parametrize("status", [400, 502])
async def test_only_a_409_is_retried(client, agent, status):
    agent.refusals = [ApiError(status, "no", hint="Status: error")]
    assert (await post(client, "/m?wait=30", json={"content": "go"}))[0] == status
    assert agent.tries == 1


async def test_no_message_is_sent_for_a_client_that_disconnected(client, agent):
    agent.refusals = [BUSY]
    waiting = asyncio.create_task(post(client, "/m?wait=3000", json={"content": "go"}))
    async with asyncio.timeout(10):
        while not agent.tries:
            await asyncio.sleep(0.01)
        waiting.cancel()
        while agent.requests:
            await asyncio.sleep(0.01)
    agent.refusals.clear()
    assert agent.received == []


async def test_a_shutdown_ends_the_wait(client, agent):
    agent.refusals = [BUSY]
    asyncio.get_running_loop().call_later(0.2, setattr, agent, "closing", True)
    assert (await asyncio.wait_for(post(client, "/m?wait=3000", json={"content": "go"}), 10))[0] == 409


@pytest.mark.parametrize("wait", ["x", "-1", "nan", "3601", ""])
async def test_an_invalid_wait_is_refused(client, agent, wait):
    assert (await post(client, f"/m?wait={wait}", json={"content": "go"}))[0] == 400
    assert agent.tries == 0


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b"[" * 5000])
async def test_a_body_that_is_not_an_object_is_400_except_for_an_event(client, body):
    assert (await post(client, "/m", data=body))[0] == 400
    assert (await post(client, "/r", data=body))[0] == 400
    status, answer = await post(client, "/e", data=body)
    assert (status, answer["taken"]) == (200, False)
    assert "JSON" in answer["message"]
