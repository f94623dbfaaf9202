"""Every answer of both peers is in their OpenAPI documents. schemathesis sends the requests."""

import asyncio
import contextlib
import json
import os
import sys

import pytest

from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.simulator.coderd import SimulatedCoderd
from agentd.simulator.coderd.control import CoderdControl

TASK = "44444444-4444-4444-8444-444444444444"
EXAMPLES = "6"
SEED = "20260302"
CHECKS = (
    # These checks find undocumented answers. The check that forbids every 500 is left out, because the real
    # coderd answers 500, too ("Task app URL is not configured.").
    "status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance"
)


def long(*values):
    return pytest.param(*values, marks=pytest.mark.long)


async def schemathesis(url, document, tmp_path, *words):
    """Run schemathesis with a bounded number of examples. Returns its exit code and its output."""
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(document))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run", str(path),
        "--url", url, "--checks", CHECKS, "--max-examples", EXAMPLES, "--seed", SEED, "--workers", "1",
        "--phases", "examples,coverage,fuzzing", "--request-timeout", "10", "--generation-database", "none",
        "--no-color", *words,
        cwd=tmp_path, env={**os.environ, "PYTHONWARNINGS": "ignore"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    return process.returncode, out.decode()


@contextlib.asynccontextmanager
async def meanwhile(until, happened, act):
    """Call `act` whenever `happened` is true.

    It ends streams: schemathesis waits for the end of each answer.
    """

    async def keep_acting():
        while True:
            await until(happened)
            act()
            await asyncio.sleep(0.01)

    acting = asyncio.create_task(keep_acting())
    try:
        yield
    finally:
        acting.cancel()
        await asyncio.wait([acting])


@pytest.mark.parametrize("era", [long("E1"), long("E3"), long("E4")])
async def test_every_answer_of_coderd_is_documented(era, ask, tmp_path):
    async with SimulatedCoderd(era=era, rate_limit=0, flush="eager") as coderd:
        CoderdControl(coderd).mount()
        ws = coderd.add_workspace()
        coderd.add_task(ws, TASK)
        document = json.loads((await ask("GET", coderd.url + "/_sim/openapi.json")).body)

        def end():
            for stream in coderd._world.open_streams():
                stream.end()

        def revive():
            # After a deletion all further answers would be 404 or 409.
            coderd.add_task(coderd.add_workspace(), TASK)

        async with (
            meanwhile(coderd.until, coderd._world.open_streams, end),
            meanwhile(coderd.until, lambda: coderd.tasks[TASK].deleted, revive),
        ):
            agents = ("--include-path-regex", "workspaceagents/me/")
            code, out = await schemathesis(
                coderd.url, document, tmp_path, *agents, "--header", f"Coder-Session-Token: {ws.token}"
            )
            assert code == 0, out
            others = ("--exclude-path-regex", "workspaceagents/me/")
            code, out = await schemathesis(
                coderd.url,
                document,
                tmp_path,
                *others,
                "--header",
                f"Coder-Session-Token: {coderd.user_token}",
            )
            assert code == 0, out
    statuses = {call.status for call in coderd.requests}
    assert {200, 204, 400, 401, 404, 409} <= statuses, f"too few kinds of answers: {statuses}"


@pytest.mark.parametrize(
    ("mode", "version"), [long("pty", "0.12.1"), ("acp", "0.12.1"), long("pty", "0.9.0")]
)
async def test_every_answer_of_agentapi_is_documented(mode, version, ask, tmp_path):
    async with SimulatedAgentApi(
        mode=mode, version=version, reply=lambda prompt: f"You said: {prompt}"
    ) as agent:
        document = json.loads((await ask("GET", agent.url + "/openapi.json")).body)

        def end():
            for follower in list(agent.conversation.followers):
                follower.queue.put_nowait(None)

        async with meanwhile(agent.until, lambda: agent.followers, end):
            code, out = await schemathesis(agent.url, document, tmp_path)
    assert code == 0, out
    statuses = {call.status for call in agent.requests}
    assert {200, 405, 422} <= statuses, f"too few kinds of answers: {statuses}"


async def test_the_document_of_coderd_needs_the_control_endpoint(ask):
    async with SimulatedCoderd() as coderd:
        assert "html" in (await ask("GET", coderd.url + "/_sim/openapi.json")).headers["Content-Type"]
        assert (await ask("GET", coderd.url + "/api/v2/openapi.json")).status == 404


async def test_the_document_of_an_agent_has_the_routes_of_its_version(ask):
    async with SimulatedAgentApi(version="0.9.0") as agent:
        old = json.loads((await ask("GET", agent.url + "/openapi.json")).body)
    async with SimulatedAgentApi() as agent:
        new = json.loads((await ask("GET", agent.url + "/openapi.json")).body)
    assert set(new["paths"]) - set(old["paths"]) == {"/upload"}
    assert "/internal/screen" not in new["paths"]
