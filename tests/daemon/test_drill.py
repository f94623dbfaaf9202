"""A rehearsal tells what a shutdown would take, and changes nothing."""

import uuid

import pytest

from agentd import config
from agentd.clock import Clock
from agentd.daemon.build import build
from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.simulator.coderd import SimulatedCoderd


@pytest.fixture
async def peers():
    async with SimulatedCoderd() as coderd, SimulatedAgentApi() as agent:
        agent.add_message("user", "hello")
        agent.add_message("agent", "hello yourself")
        yield coderd, agent


@pytest.fixture
def environ(peers, tmp_path):
    coderd, agent = peers
    workspace = coderd.add_workspace()
    return {
        "HOME": str(tmp_path),
        "CODER_AGENT_URL": coderd.url,
        "CODER_AGENT_TOKEN": workspace.token,
        "AGENTD_AGENTAPI_URL": agent.url,
        "AGENTD_SNAPSHOTS_TASK_ID": coderd.add_task(workspace),
        "AGENTD_STATE_DIR": str(tmp_path / "state"),
    }


async def rehearsed(environ):
    async with build(config.load(environ=environ), Clock()) as components:
        report = await components.drill().run()
        assert components.spool.newest() is None
        assert [path.name for path in components.spool.path.iterdir()] == []
    return report, {part["name"]: part for part in report["parts"]}


async def test_every_part_of_a_shutdown_is_timed_and_nothing_is_stored(peers, environ):
    coderd, _agent = peers
    report, parts = await rehearsed(environ)
    assert report["fits"] is True
    assert list(parts) == ["refresh", "fit", "spool", "upload"]
    assert {part["outcome"] for part in parts.values()} == {"done"}
    assert report["took_s"] >= sum(part["took_s"] for part in parts.values()) - 0.001
    assert coderd.snapshots == {}


async def test_the_upload_has_the_size_of_the_snapshot_and_none_of_its_words(peers, environ):
    coderd, agent = peers
    agent.add_message("user", "a secret " * 1000)
    _report, parts = await rehearsed(environ)
    [request] = coderd.calls("log-snapshot")
    assert f"{len(request.body):,} bytes" in parts["fit"]["detail"]
    assert len(request.body) > 9000
    assert b"secret" not in request.body


async def test_without_messages_it_measures_with_the_largest_snapshot(peers, environ):
    coderd, agent = peers
    await agent.restart()
    await rehearsed(environ)
    assert len(coderd.calls("log-snapshot")[0].body) == 65_536


async def test_a_wrong_task_id_fails_the_rehearsal(environ):
    report, parts = await rehearsed(environ | {"AGENTD_SNAPSHOTS_TASK_ID": str(uuid.uuid4())})
    assert (report["fits"], parts["upload"]["outcome"]) == (False, "failed")
    assert "Resource not found" in parts["upload"]["detail"]


@pytest.mark.parametrize(
    "server",
    [{"era": "E1", "build_version": "v2.29.0"}, {"era": "E4", "enable_tasks": False}, {"era": "E5"}],
    ids=str,
)
async def test_a_release_without_log_snapshots_is_no_failure_as_for_the_doctor(environ, server):
    async with SimulatedCoderd(**server) as coderd:
        workspace = coderd.add_workspace()
        report, parts = await rehearsed(
            environ | {"CODER_AGENT_URL": coderd.url, "CODER_AGENT_TOKEN": workspace.token}
        )
    assert (report["fits"], parts["upload"]["outcome"]) == (True, "done")
    assert "this release has no log snapshots" in parts["upload"]["detail"]


async def test_without_a_task_only_the_connection_to_coderd_is_tried(environ):
    del environ["AGENTD_SNAPSHOTS_TASK_ID"]
    report, parts = await rehearsed(environ)
    assert report["fits"] is True
    assert "task_id is not set" in parts["upload"]["detail"]


async def test_a_stopped_agent_and_a_hanging_coderd_are_reported_within_the_budget(peers, environ):
    coderd, agent = peers
    await agent.stop()
    coderd.fault("log-snapshot", "no_headers")
    report, parts = await rehearsed(environ | {"AGENTD_SHUTDOWN_BUDGET_S": "1"})
    assert report["fits"] is False
    assert parts["refresh"]["outcome"] == "failed"
    assert parts["upload"]["outcome"] == "failed"
    assert report["took_s"] < 1.5  # the budget, and a busy machine


async def test_other_destinations_are_named_and_skipped(environ, tmp_path):
    kept = tmp_path / "kept"
    report, _parts = await rehearsed(environ | {"AGENTD_SNAPSHOTS_DESTINATIONS": f"coder,file://{kept}/"})
    assert [part["outcome"] for part in report["parts"]] == ["done", "done", "done", "done", "skipped"]
    assert not kept.exists()
