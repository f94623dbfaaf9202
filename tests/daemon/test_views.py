"""`/v1/status` from real components."""

from agentd import config
from agentd.clock import Clock
from agentd.daemon.build import build
from agentd.daemon.run import _views
from agentd.stability.status_report import Source, StatusReport, TaskState


async def test_the_evidence_says_that_a_stalled_agent_no_longer_extends_the_deadline(tmp_path):
    settings = config.load(
        flags=[
            "coder.url=http://127.0.0.1:9",
            "status.app_slug=agentapi",
            "status.working_max_s=60",
            f"state.dir={tmp_path}/state",
        ],
        environ={"CODER_AGENT_TOKEN": "e7b9d1c3-2222-4444-8888-000000000001"},
        system_file=tmp_path / "none.toml",
    )
    async with build(settings, Clock()) as components:
        views = _views(components)
        assert "deadline" not in views.status()["agent"]["evidence"]
        components.reporter.report(StatusReport(TaskState.WORKING, Source.REPORT))
        components.reporter._stall()
        assert views.status()["agent"]["evidence"].endswith(
            "no message changed for 60 s, so the workspace's deadline is not extended"
        )
