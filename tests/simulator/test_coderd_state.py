"""The simulated coderd keeps its records after a stop or a kill."""

import asyncio
import json
import re
import signal
import sqlite3
import sys

import pytest

from agentd.simulator.coderd import SimulatedCoderd
from agentd.simulator.coderd.control import CoderdControl
from agentd.simulator.coderd.workspaces import Job
from agentd.simulator.faults import SimulatorError

TASK = "44444444-4444-4444-8444-444444444444"
ME = "/api/v2/workspaceagents/me"
SNAPSHOT = '{"messages":[{"id":0,"content":"<你好>","role":"agent","time":"2026-03-02T09:00:00Z"}]}'
STATUS = '{"app_slug":"agentapi","state":"idle","message":"done"}'


def records(coderd):
    """The records that a server must keep, as its control endpoint shows them."""
    state = CoderdControl(coderd).state()
    for workspace in state["workspaces"]:
        workspace.pop("open_streams")
    return {name: state[name] for name in ("workspaces", "tasks", "snapshots", "notifications", "executions")}


async def make_records(coderd, ask):
    """Create one record of each kind. Returns the workspace."""
    ws = coderd.add_prebuild(apps=("agentapi", "code-server"))
    coderd.add_workspace()
    coderd.add_task(ws, TASK, app_url="http://127.0.0.1:1", initial_prompt="do it")
    doomed = coderd.add_task(ws)
    coderd.set_instance(ws, "i-123")
    coderd.claim_start(ws)
    await coderd.claim_finish(ws)
    for task in (TASK, doomed):
        url = f"{coderd.url}{ME}/tasks/{task}/log-snapshot?format=agentapi"
        assert (await ask("POST", url, token=ws.token, data=SNAPSHOT)).status == 204
    coderd.delete_task(doomed)
    assert (await ask("PATCH", f"{coderd.url}{ME}/app-status", token=ws.token, data=STATUS)).status == 200
    events = f"{coderd.url}/api/v1/workflow/executions/events"
    done = '{"execution_id":"exec_1","status":"succeeded","result":{"a":[1]}}'
    assert (await ask("POST", events, data=done)).status == 200
    coderd.advance_clock(3600)
    paused = await ask("POST", f"{coderd.url}/api/v2/tasks/me/{TASK}/pause", token=coderd.user_token)
    assert paused.status == 202
    return ws


@pytest.fixture
def state(tmp_path):
    return tmp_path / "coderd.sqlite"


async def test_the_records_are_loaded_after_a_restart(state, ask):
    async with SimulatedCoderd(state=state) as coderd:
        ws = await make_records(coderd, ask)
        before, user = records(coderd), (coderd.user_id, coderd.user_token)
    async with SimulatedCoderd(state=state) as coderd:
        assert records(coderd) == before
        assert (coderd.user_id, coderd.user_token) == user
        assert coderd.snapshots[TASK].body.decode() == SNAPSHOT
        again = coderd.workspaces[0]
        # The token is valid until the stop build has succeeded.
        reinit = f"{coderd.url}{ME}/reinit?wait=true"
        assert (await ask("GET", reinit, token=ws.token)).status == 409
        coderd.stop_finish(again)
        assert (await ask("GET", reinit, token=ws.token)).status == 401
        logs = await ask("GET", f"{coderd.url}/api/v2/tasks/me/{TASK}/logs", token=coderd.user_token)
        assert json.loads(logs.body)["logs"][0]["content"] == "<你好>"


async def test_each_run_adds_to_the_stored_records(state):
    for run in range(1, 4):
        async with SimulatedCoderd(state=state) as coderd:
            coderd.add_workspace()
            assert [ws.name for ws in coderd.workspaces] == [f"workspace-{n}" for n in range(1, run + 1)]


async def test_an_upgraded_server_has_the_same_records(state, wire):
    async with SimulatedCoderd(state=state, era="E1") as coderd:
        ws = coderd.add_prebuild()
        coderd.claim_start(ws)
        await coderd.claim_finish(ws)
    async with SimulatedCoderd(state=state, era="E3", flush="eager") as coderd:
        stream = await wire(coderd.port, "GET", f"{ME}/reinit?wait=true", {"Coder-Session-Token": ws.token})
        assert b'"owner_id":"' + coderd.user_id.encode() in await stream.until(b"}")


async def test_a_server_without_a_file_keeps_its_records_in_memory(ask):
    async with SimulatedCoderd() as coderd:
        await make_records(coderd, ask)
        await coderd.stop()
        await coderd.start()
        assert TASK in coderd.snapshots
    async with SimulatedCoderd() as coderd:
        assert coderd.workspaces == []


async def test_two_servers_do_not_share_a_file(state):
    async with SimulatedCoderd(state=state):
        with pytest.raises(
            SimulatorError,
            match="locked; use a file that a simulator has written, and only one simulator at a time",
        ):
            SimulatedCoderd(state=state)


async def test_a_file_that_is_not_a_database_is_refused_and_unchanged(state):
    content = b"not a database, but longer than the header of one" * 100
    state.write_bytes(content)
    with pytest.raises(SimulatorError, match="not a database"):
        SimulatedCoderd(state=state)
    assert state.read_bytes() == content


async def test_the_database_of_another_program_is_refused(state):
    with sqlite3.connect(state) as other:
        other.execute("CREATE TABLE recipes(cake)")
    other.close()
    with pytest.raises(SimulatorError, match="another program's database"):
        SimulatedCoderd(state=state)


async def test_the_file_of_another_version_is_refused(state):
    with sqlite3.connect(state) as other:
        other.execute("PRAGMA user_version=99")
    other.close()
    with pytest.raises(SimulatorError, match="schema 99; this version reads 1"):
        SimulatedCoderd(state=state)


async def test_a_task_and_its_snapshot_are_deleted_in_one_transaction(state, ask):
    async with SimulatedCoderd(state=state) as coderd:
        ws = coderd.add_workspace()
        coderd.add_task(ws, TASK)
        url = f"{coderd.url}{ME}/tasks/{TASK}/log-snapshot?format=agentapi"
        await ask("POST", url, token=ws.token, data=SNAPSHOT)
        statements = []
        coderd._world._store._db.set_trace_callback(statements.append)
        deleted = await ask("DELETE", f"{coderd.url}/api/v2/tasks/me/{TASK}", token=coderd.user_token)
        assert deleted.status == 202
    words = [statement.split()[0] for statement in statements]
    assert words[0] == "BEGIN"
    assert words.index("COMMIT") == len(words) - 1
    assert any(statement.startswith("DELETE FROM task_snapshots") for statement in statements)
    assert any(statement.startswith("INSERT OR REPLACE INTO tasks ") for statement in statements)
    assert any(statement.startswith("INSERT OR REPLACE INTO workspace_builds") for statement in statements)


async def test_nothing_is_written_when_nothing_changed(state):
    async with SimulatedCoderd(state=state) as coderd:
        coderd.add_workspace()
        statements = []
        coderd._world._store._db.set_trace_callback(statements.append)
        coderd._world.commit()
        assert statements == []


async def test_a_build_follows_the_status_of_its_job(state):
    async with SimulatedCoderd(state=state) as coderd:
        ws = coderd.add_workspace()
        token = ws.token
        coderd.start_build(ws, job=Job.PENDING)
        with pytest.raises(SimulatorError, match="already active"):
            coderd.stop_start(ws)
        coderd.run_job(ws)
        assert ws.token == token
        assert coderd.start_finish(ws) != token
        coderd.start_build(ws, job=Job.RUNNING)
        coderd.start_finish(ws, error="no quota")
        with pytest.raises(SimulatorError, match="no pending job"):
            coderd.run_job(ws)
        before = [(build.number, build.job, build.error) for build in ws.builds]
    async with SimulatedCoderd(state=state) as coderd:
        assert [(build.number, build.job, build.error) for build in coderd.workspaces[0].builds] == before
        assert before[-1] == (3, "failed", "no quota")


SCRIPT = """
import argparse, sys
from agentd.cli import simulate
parser = argparse.ArgumentParser()
simulate.configure(parser)
sys.exit(simulate.run(parser.parse_args()))
"""


@pytest.fixture
async def simulated(state):
    """Starts `agentd simulate coderd --state`. Kills the processes that still run at the end."""
    processes = []

    async def start(*words):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SCRIPT, "coderd", "--state", str(state), *words, stdout=asyncio.subprocess.PIPE
        )  # fmt: skip
        processes.append(process)
        text = ""
        while "/_sim/fail-next" not in text:
            line = await process.stdout.readline()
            assert line, text
            text += line.decode()
        return process, text, re.search(r"http://127\.0\.0\.1:\d+", text).group()

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_acknowledged_changes_survive_kill_9(simulated, ask):
    process, text, url = await simulated()
    token = re.search(r"CODER_AGENT_TOKEN=(\S+)", text).group(1)
    task = re.search(r"TASK_ID=(\S+)", text).group(1)
    for number in range(40):
        body = json.dumps({"messages": [{"id": number, "content": f"word {number}", "role": "agent"}]})
        route = f"{ME}/tasks/{task}/log-snapshot?format=agentapi"
        assert (await ask("POST", url + route, token=token, data=body)).status == 204
        assert (await ask("PATCH", f"{url}{ME}/app-status", token=token, data=STATUS)).status == 200
        if number % 10 == 9:
            process.send_signal(signal.SIGKILL)
            await process.wait()
            process, again, url = await simulated()
            assert f"CODER_AGENT_TOKEN={token}" in again
            assert f"TASK_ID={task}" in again
            kept = json.loads((await ask("GET", url + "/_sim/state")).body)
            stored = kept["snapshots"][task]["envelope"]["data"]["messages"]
            assert stored[0]["content"] == f"word {number}"
            assert len(kept["workspaces"][0]["app_statuses"]) == number + 1


async def test_a_claim_can_be_finished_after_kill_9(simulated, ask):
    process, text, url = await simulated()
    token = re.search(r"CODER_AGENT_TOKEN=(\S+)", text).group(1)
    assert (await ask("POST", url + "/_sim/claim-start")).status == 200
    process.send_signal(signal.SIGKILL)
    await process.wait()
    _, text, url = await simulated()
    assert "workspace with 2 builds" in text
    reinit = f"{url}{ME}/reinit?wait=true"
    assert (await ask("GET", reinit, token=token)).status == 401
    assert (await ask("POST", url + "/_sim/claim-fail", data='{"agents_recorded":true}')).status == 200
    assert (await ask("GET", reinit, token=token)).status == 409
