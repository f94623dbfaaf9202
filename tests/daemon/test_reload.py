"""A reload makes the same check as a start."""

import pytest
from structlog.testing import capture_logs

from agentd import config
from agentd.clock import Clock
from agentd.coderd.extra_headers import ExtraHeaders
from agentd.coderd.token import StaticToken
from agentd.daemon.build import check
from agentd.daemon.reload import reload_config


class Task:
    """Stands for the recorder."""

    id = ""

    def set_task(self, task_id):
        self.id = task_id


@pytest.mark.parametrize(
    "refused",
    [
        {"AGENTD_SNAPSHOTS_DESTINATIONS": "ftp://h/"},
        {"AGENTD_SNAPSHOTS_DESTINATIONS": "coder,coder"},
        {"AGENTD_CODER_CA_FILE": "/no-such-file", "CODER_AGENT_URL": "https://127.0.0.1:9"},
        {"CODER_AGENT_TOKEN_FILE": "/no-such-file", "CODER_AGENT_TOKEN": ""},
        {"CODER_AGENT_URL": ""},
    ],
    ids=str,
)
async def test_what_the_daemon_would_refuse_at_a_start_is_refused_at_a_reload(refused, tmp_path):
    environ = {
        "CODER_AGENT_URL": "http://127.0.0.1:9",
        "CODER_AGENT_TOKEN": "33333333-3333-4333-8333-333333333333",
        "AGENTD_STATE_DIR": str(tmp_path),
    }
    task = {"AGENTD_SNAPSHOTS_TASK_ID": "44444444-4444-4444-8444-444444444444"}

    def load(**changed):
        return config.load(environ=environ | changed, system_file=tmp_path / "none.toml")

    async def reload(recorder, **changed):
        return await reload_config(
            in_force,
            read_config=lambda: load(**changed),
            check=lambda fresh: check(fresh, Clock()),
            token=None,
            headers=ExtraHeaders(),
            listener=None,
            recorder=recorder,
        )

    in_force, recorder = load(), Task()
    with capture_logs() as logs:
        assert await reload(recorder, **task, **refused) is in_force
    assert [(line["event"], line["log_level"]) for line in logs] == [("config.rejected", "error")]
    assert recorder.id == ""

    assert await reload(recorder, **task) is not in_force
    assert recorder.id == task["AGENTD_SNAPSHOTS_TASK_ID"]


class Listener:
    """Stands for the claim listener."""

    reconnects = 0

    def reconnect(self, _token):
        self.reconnects += 1


async def test_a_reload_runs_the_header_command_again_and_keeps_the_headers_if_it_fails(tmp_path):
    environ = {"CODER_AGENT_URL": "http://127.0.0.1:9", "CODER_AGENT_TOKEN": "token-of-the-agent"}
    in_force = config.load(
        environ=environ | {"AGENTD_STATE_DIR": str(tmp_path)}, system_file=tmp_path / "none"
    )
    value, listener = tmp_path / "value", Listener()
    headers = ExtraHeaders(command=f"cat {value}")

    async def reload():
        return await reload_config(
            in_force,
            read_config=lambda: in_force,
            check=lambda fresh: check(fresh, Clock()),
            token=StaticToken("token-of-the-agent"),
            headers=headers,
            listener=listener,
            recorder=Task(),
        )

    value.write_text("X-A=first")
    assert await headers.current() == {"X-A": "first"}
    value.write_text("X-A=second")
    await reload()
    assert await headers.current() == {"X-A": "second"}
    assert listener.reconnects == 1
    value.unlink()
    with capture_logs() as logs:
        await reload()
    assert [line["event"] for line in logs] == ["config.rejected"]
    assert "coder.header_command: exit 1" in logs[0]["error"]
    assert await headers.current() == {"X-A": "second"}
