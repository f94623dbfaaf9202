"""A secret that enters by any input leaves by no route, file, log line, command or report."""

import asyncio
import json

import aiohttp
import pytest

ROUTES = ("/v1/status", "/v1/claims", "/v1/messages", "/v1/snapshot", "/readyz", "/metrics", "/healthz")


def forms(token):
    """The token as it is, in capitals, without dashes, and wrapped by a bordered terminal."""
    return [
        token,
        token.upper(),
        token.replace("-", ""),
        " │\n│ ".join(token[at : at + 9] for at in range(0, len(token), 9)),
    ]


def assert_absent(token, text, where):
    folded = "".join(
        char for char in text.lower().replace("\\n", "").replace("\\u2502", "") if char.isalnum()
    )
    token = "".join(char for char in token.lower() if char.isalnum())
    found = [token[at : at + 8] for at in range(len(token) - 7) if token[at : at + 8] in folded]
    assert not found, where


async def first_event(session):
    async with session.get("http://agentd/v1/events") as response:
        return (await response.content.readuntil(b"\n\n")).decode()


@pytest.mark.parametrize("task_state", ["working", "complete"])
async def test_a_token_in_any_input_appears_nowhere(testbed, task_state):
    token = testbed.workspace.token
    said = "\n".join(forms(token))
    testbed.hook("10-show", f"printf '%s' '{said}'; printf '%8100s' ''; exit 0")
    daemon = await testbed.start(AGENTD_STATUS_APP_SLUG="agentapi")
    await testbed.claim(daemon)
    await daemon.status_until(lambda s: s["agent"]["status"] == "stable", what="stable")
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(daemon.socket))) as session:
        async with session.post("http://agentd/v1/messages", json={"content": said}) as response:
            assert response.status == 204
        testbed.agent.add_message("user", f"export CODER_AGENT_TOKEN={said}")
        testbed.agent.set_status("running")
        testbed.agent.add_message("agent", f"the token is {said}" + " " * 1200)
        report = {"state": task_state, "message": f"{'x' * 140} {token}", "uri": f"https://x/?t={token}"}
        for route in ("/v1/events", "/v1/reports"):
            async with session.post(f"http://agentd{route}", json=report) as response:
                answer = await response.text()
                assert response.status == 200, answer
                assert_absent(token, answer, route)
        for body in ({"state": token}, {"state": "idle", "uri": token * 200}):
            async with session.post("http://agentd/v1/reports", json=body) as response:
                assert_absent(token, await response.text(), body)
        testbed.agent.set_status("stable")
        await testbed.coderd.until(lambda: bool(testbed.stored()))
        await asyncio.sleep(0.5)
        for route in ROUTES:
            async with session.get(f"http://agentd{route}") as response:
                assert_absent(token, await response.text(), route)
        assert_absent(token, await first_event(session), "/v1/events")
    for words in (("claims", "--json"), ("status", "--json"), ("snapshot", "fetch", "--last")):
        result = await testbed.run(*words)
        assert_absent(token, result.out + result.err, words)
    stored = json.dumps(testbed.stored(), ensure_ascii=False)
    assert "[redacted]" in stored
    assert_absent(token, stored, "coderd's snapshot")
    reports = testbed.coderd.app_statuses.get(testbed.workspace.id, [])
    assert_absent(token, "".join(row.message + row.uri for row in reports), "coderd's app status")
    assert await daemon.stop() == 0
    assert_absent(token, "\n".join(map(json.dumps, daemon.lines)), "log")
    for file in testbed.state_dir.rglob("*"):
        if file.is_file():
            assert_absent(token, file.read_text("utf-8", "replace"), file)
