"""agentd installed with pip and `agentd install`, under a real systemd."""

import asyncio

import aiohttp
import pytest
from systemd.conftest import World

pytestmark = pytest.mark.systemd

# Operations of hooks that a sandbox often breaks: files, archives, writable and executable memory (node, Java),
# a thread pool, name resolution, a socket, a background process.
HOOK_OPERATIONS = """
cd "$AGENTD_STATE_DIR"
mkdir -p made && date > made/file && cp -p made/file made/copy && tar -cf - made | tar -xpf - -C "$(mktemp -d)"
python3 - <<'END'
import ctypes, mmap, socket, subprocess, threading
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b"\\xc3")
threading.Thread(target=lambda: socket.getaddrinfo("localhost", 80)).start()
socket.create_connection(("127.0.0.1", int("@PORT@"))).close()
subprocess.run(["nice", "-n", "5", "true"], check=True)
END
echo "$AGENTD_HOOK $AGENTD_ATTEMPT" >> hook.log; test "$(id -u)" -ne 0
"""
HOOK_LOG = "/var/lib/agentd/hook.log"


async def test_install_start_claim_and_delivery_at_stop(world: World) -> None:
    await world.install()
    world.hook("10-setup", HOOK_OPERATIONS.replace("@PORT@", str(world.coderd.port)))
    await world.start()
    assert await world.box.show("StatusText", "NRestarts") == ["running", "0"]
    await world.claim()
    await world.settled()
    assert await world.box.run("cat", HOOK_LOG) == "10-setup 1"
    world.agent.add_message("agent", "added just before the stop")
    await world.box.run("systemctl", "stop", "agentd")
    assert await world.box.show("Result", "ExecMainStatus", "ActiveState") == ["success", "0", "inactive"]
    assert world.stored() == "added just before the stop"


async def test_agentd_stops_before_agentapi(world: World) -> None:
    agentapi = "ExecStart=/usr/local/bin/agentd simulate agentapi --port 3284\n"
    world.box.write("/etc/systemd/system/agentapi.service", f"[Service]\n{agentapi}")
    await world.install(settings={"AGENTD_AGENTAPI_URL": "http://127.0.0.1:3284"})
    # Stop both in one transaction, as at a shutdown of the machine.
    for unit in ("agentd", "agentapi"):
        world.box.write(
            f"/run/systemd/system/{unit}.service.d/90-test.conf", "[Unit]\nPartOf=workspace.target\n"
        )
    world.box.write("/run/systemd/system/workspace.target", "[Unit]\nDescription=The workspace\n")
    await world.box.run("systemctl", "daemon-reload")
    await world.box.run("systemctl", "start", "workspace.target", "agentapi")
    await world.start()
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            "http://127.0.0.1:3284/_sim/message", json={"role": "agent", "content": "the last message"}
        ) as response,
    ):
        assert response.ok
    await world.box.run("systemctl", "stop", "workspace.target")
    await world.box.until({"ActiveState": "inactive"}, unit="agentapi.service")
    assert world.stored() == "the last message"
    journal = await world.box.run("journalctl", "--no-pager", "--lines=9", "--unit=agentd", "--unit=agentapi")
    assert 0 < journal.index("Stopped agentd.service") < journal.index("Stopping agentapi.service")


async def test_after_sigkill_it_restarts_and_repeats_no_hook(world: World) -> None:
    await world.install()
    world.hook("10-setup", 'echo run >> "$AGENTD_STATE_DIR/hook.log"')
    await world.start()
    await world.claim()
    await world.settled()
    (before,) = await world.box.show("MainPID")
    await world.box.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "agentd")
    await world.box.until({"NRestarts": "1", "SubState": "running"})
    await world.listening()
    await world.settled()
    assert await world.box.show("MainPID") != [before]
    assert await world.box.run("cat", HOOK_LOG) == "run"


async def test_the_watchdog_restarts_a_frozen_agentd(world: World) -> None:
    await world.install()
    world.override(WatchdogSec="2", RestartSec="0.1")
    await world.start()
    await world.box.run("systemctl", "kill", "--signal=STOP", "--kill-who=main", "agentd")
    await world.box.until({"NRestarts": "1", "SubState": "running"})
    assert "Watchdog timeout" in await world.box.journal()
    await world.listening()


async def test_two_minutes_without_coderd_cause_no_restart(world: World) -> None:
    await world.install()
    await world.start()
    (pid,) = await world.box.show("MainPID")
    await world.coderd.stop()
    gone_since = int(float((await world.box.run("cat", "/proc/uptime")).split()[0]) * 1_000_000)

    # Four times the WatchdogSec of the unit (30 s).
    async def fed_for_two_minutes() -> None:
        while int((await world.box.show("WatchdogTimestampMonotonic"))[0]) < gone_since + 120_000_000:
            await asyncio.sleep(1)

    await asyncio.wait_for(fed_for_two_minutes(), 180)
    assert await world.box.show("MainPID", "NRestarts", "SubState") == [pid, "0", "running"]
    await world.coderd.start()
    await world.listening()
    assert await world.box.show("MainPID") == [pid]


async def test_a_new_token_in_the_file_is_used(world: World) -> None:
    await world.install()
    await world.start()
    world.token(world.coderd.start_build(world.workspace))
    await world.coderd.drop_connections()
    await world.listening()
    await world.box.until({"SubState": "running", "Result": "success"})


async def test_reload_keeps_the_process_and_logs_its_end(world: World) -> None:
    await world.install()
    await world.start()
    (pid,) = await world.box.show("MainPID")
    await world.box.run("systemctl", "reload", "agentd")
    await world.box.until({"ActiveState": "active", "SubState": "running"})
    assert await world.box.show("MainPID") == [pid]
    assert "config.reloaded" in await world.box.journal()


@pytest.mark.parametrize(
    ("setting", "word"),
    [({"AGENTD_SNAPSHOTS_TASKID": "x"}, "AGENTD_SNAPSHOTS_TASK_ID"), ({"CODER_AGENT_URL": ""}, "coder.url")],
)
async def test_an_invalid_configuration_is_not_restarted(
    world: World, setting: dict[str, str], word: str
) -> None:
    await world.install(settings=setting)
    await world.box.run("systemctl", "start", "agentd", check=False)
    await world.box.until({"ActiveState": "failed"})
    assert await world.box.show("ExecMainStatus", "NRestarts") == ["78", "0"]
    assert word in await world.box.journal()


async def test_a_missing_token_is_logged_and_not_restarted(world: World) -> None:
    await world.install()
    await world.box.run("rm", "/etc/agentd/token")
    await world.box.run("systemctl", "start", "agentd", check=False)
    await world.box.until({"ActiveState": "failed"})
    assert await world.box.show("ExecMainStatus", "NRestarts") == ["78", "0"]
    assert "coder.token: missing" in await world.box.journal()


async def test_an_undelivered_snapshot_is_no_failure_and_the_next_start_delivers_it(world: World) -> None:
    await world.install(settings={"AGENTD_SHUTDOWN_BUDGET_S": "2"})
    await world.start()
    await world.coderd.stop()
    world.agent.add_message("agent", "not delivered at the stop")
    await world.box.run("systemctl", "stop", "agentd")
    assert await world.box.show("ExecMainStatus", "Result", "ActiveState") == ["75", "success", "inactive"]
    await world.coderd.start()
    await world.start()
    async with asyncio.timeout(60):
        await world.coderd.until(lambda: world.stored() == "not delivered at the stop")


async def test_a_budget_longer_than_timeout_stop_sec_is_granted(world: World) -> None:
    await world.install(settings={"AGENTD_SHUTDOWN_BUDGET_S": "6"})
    world.override(TimeoutStopSec="3")
    await world.start()
    await world.coderd.stop()
    world.agent.add_message("agent", "never delivered")
    await world.box.run("systemctl", "stop", "agentd")
    assert await world.box.show("ExecMainStatus", "Result") == ["75", "success"]


async def test_with_run_as_hooks_have_the_users_home_and_sudo(world: World) -> None:
    await world.box.run("sh", "-c", "id ada 2>/dev/null || useradd --create-home ada")
    world.box.write("/etc/sudoers.d/ada", "ada ALL=(ALL) NOPASSWD: ALL\n", 0o440)
    await world.install("--run-as", "ada")
    world.hook("10-home", 'echo "$HOME" > "$HOME/claimed"; sudo -n touch /etc/claimed-by-sudo')
    await world.start()
    await world.claim()
    await world.settled()
    assert await world.box.run("cat", "/home/ada/claimed") == "/home/ada"
    await world.box.run("rm", "/etc/claimed-by-sudo")
    status = await world.box.run("su", "ada", "-c", "agentd status --oneline")
    assert status.startswith("claims settled")


async def test_a_hook_cannot_read_the_token(world: World) -> None:
    await world.install()
    world.hook(
        "10-read", 'env > "$AGENTD_STATE_DIR/seen"; cat /etc/agentd/token >> "$AGENTD_STATE_DIR/seen" || true'
    )
    await world.start()
    await world.claim()
    await world.settled()
    seen = await world.box.run("cat", "/var/lib/agentd/seen")
    assert "AGENTD_HOOK=10-read" in seen
    assert world.workspace.token not in seen


async def test_systemd_accepts_the_installed_units_and_their_exposure(world: World) -> None:
    await world.install()
    assert await world.box.run("systemd-analyze", "verify", "--man=no", "agentd.service") == ""
    await world.box.run("systemd-analyze", "security", "--threshold=20", "agentd.service")


async def test_uninstall_stops_agentd_and_keeps_settings_token_and_state(world: World) -> None:
    await world.install()
    await world.start()
    await world.box.run("agentd", "uninstall")
    assert await world.box.show("LoadState", "ActiveState") == ["not-found", "inactive"]
    assert await world.box.run("sh", "-c", "ls /etc/agentd") == "agentd.env\ntoken"
    assert await world.box.run("find", "/etc/systemd/system", "-name", "agentd*") == ""
    await world.box.run("test", "-d", "/var/lib/agentd")
    await world.box.run("agentd", "uninstall", "--purge")
    assert (
        await world.box.run(
            "sh", "-c", "ls -d /etc/agentd /var/lib/agentd /var/lib/private/agentd 2>/dev/null || true"
        )
        == ""
    )
