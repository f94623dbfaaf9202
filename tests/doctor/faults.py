"""One installation's faults, each planted in a patient that is well otherwise."""

import asyncio
import json
import os
import socket
import subprocess
import uuid
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from aiohttp import web
from doctor import certificates

from agentd.clock import Clock
from agentd.daemon.last_stop import LastStop
from agentd.simulator.coderd import SimulatedCoderd
from agentd.state_dir import StateDir

HTML_404 = b"<html><head><title>404 Not Found</title></head><body>nginx</body></html>"


@dataclass(frozen=True)
class Fault:
    """`words` stand in the cause and `remedy` in what to do, on one line about `check`, of `level`."""

    name: str
    plant: Callable
    check: str
    words: str
    remedy: str
    level: str = "fail"


FAULTS: list[Fault] = []


def fault(check, words, remedy, level="fail"):
    def register(plant: Callable[..., Awaitable[None]]):
        FAULTS.append(Fault(plant.__name__, plant, check, words, remedy, level))
        return plant

    return register


# --- coderd and the way there ---


@fault("token", "not a UUID", "CODER_AGENT_TOKEN")
async def wrong_token(patient):
    patient.environ["CODER_AGENT_TOKEN"] = "not-the-token"


@fault("token", "older build", "wait for the build")
async def a_token_of_another_build(patient):
    patient.environ["CODER_AGENT_TOKEN"] = str(uuid.uuid4())


@fault("token", "a claim or build is running", "wait for the build")
async def a_claim_under_way(patient):
    patient.coderd.claim_start(patient.workspace)


@fault("token", "did not reach coderd", "Coder-Session-Token")
async def a_proxy_that_drops_the_token(patient):
    body = json.dumps({"message": 'Cookie "coder_session_token" must be provided.'})
    patient.coderd.fail_next("*", 401, body, times=2)


@fault("token", "is empty", "write the agent's session token into it")
async def an_empty_token_file(patient):
    _token_file(patient).write_text("\n")


@fault("token", "cannot be read", "agentd's user may read it")
async def an_unreadable_token_file(patient):
    _token_file(patient).mkdir()


@fault("token", "missing", "CODER_AGENT_TOKEN_FILE")
async def no_token(patient):
    del patient.environ["CODER_AGENT_TOKEN"]


def _token_file(patient):
    del patient.environ["CODER_AGENT_TOKEN"]
    path = patient.home / "token"
    patient.environ["CODER_AGENT_TOKEN_FILE"] = str(path)
    return path


@fault("config", "coder.url: missing", "CODER_AGENT_URL")
async def no_url(patient):
    del patient.environ["CODER_AGENT_URL"]


@fault("coderd", "not coderd", "CODER_AGENT_URL")
async def the_urls_path_is_wrong(patient):
    patient.environ["CODER_AGENT_URL"] = patient.coderd.url + "/coder"


@fault("coderd", "not coderd", "CODER_AGENT_URL")
async def the_url_is_another_server(patient):
    patient.environ["CODER_AGENT_URL"] = patient.agent.url


@fault("coderd", "not coderd, but a proxy", "proxy in between")
async def a_proxys_html_404(patient):
    patient.coderd.fail_next("*", 404, HTML_404, content_type="text/html", times=2)


@fault("coderd", "502 Bad Gateway", "proxy's")
async def a_proxy_without_coderd_behind_it(patient):
    patient.coderd.fault("*", "html_502", times=2)


@fault("coderd", "wants a login", "coder.headers")
async def a_proxy_that_wants_a_login(patient):
    patient.coderd.fail_next("*", 401, "<html>Sign in</html>", content_type="text/html", times=2)


@fault("coderd", "307", "redirects are not followed")
async def a_redirect(patient):
    patient.coderd.fault("*", "redirect", times=2, location="https://login.example/?secret=hunter2")


@fault("coderd", "DNS", "resolver")
async def a_name_that_does_not_resolve(patient):
    # RFC 6761: no resolver may know it.
    patient.environ["CODER_AGENT_URL"] = "http://coder.invalid"


@fault("coderd", "connection refused", "host and port")
async def nobody_at_the_url(patient):
    patient.environ["CODER_AGENT_URL"] = f"http://127.0.0.1:{_free_port()}"


@fault("coderd", "no answer", "firewall")
async def a_coderd_that_hangs(patient):
    patient.coderd.fault("*", "no_headers", times=2)


@fault("coderd", "rate limited", "wait a minute", "warn")
async def too_many_requests(patient):
    patient.coderd.fail_next("*", 429, '{"message":"You\'ve been rate limited."}', times=2)


@fault("clock", "s ahead of coderd's", "set the clock")
async def a_clock_that_is_ahead(patient):
    patient.wall_offset_s = 3600


@fault("clock", "s behind coderd's", "set the clock", "warn")
async def a_clock_that_is_a_little_behind(patient):
    patient.wall_offset_s = -60


# --- TLS ---


@fault("tls", "has expired", "renewed")
async def an_expired_certificate(patient):
    await _https(patient, days=-1)


@fault("tls", "another host name", "coder.url")
async def a_certificate_for_another_name(patient):
    await _https(patient, name="coder.example.com")


@fault("tls", "self-signed", "AGENTD_CODER_CA_FILE")
async def a_self_signed_certificate(patient):
    await patient.behind_tls(certificates.self_signed(patient.home))


@fault("tls", "a CA this machine does not trust", "AGENTD_CODER_CA_FILE")
async def a_ca_nobody_told_us_of(patient):
    await _https(patient)
    del patient.environ["AGENTD_CODER_CA_FILE"]


@fault("tls", "cannot be read as PEM", "CA bundle")
async def a_ca_file_that_holds_no_certificate(patient):
    await _https(patient)
    (patient.home / "ca.pem").write_text("no certificate\n")


@fault("tls", "no TLS at coder.url", "http://")
async def https_where_http_is_spoken(patient):
    patient.environ["CODER_AGENT_URL"] = patient.coderd.url.replace("http://", "https://")


async def _https(patient, **certificate):
    ca_file = patient.home / "ca.pem"
    await patient.behind_tls(certificates.trusted(ca_file, **certificate))
    patient.environ["AGENTD_CODER_CA_FILE"] = str(ca_file)


# --- routes and task ---


@fault("reinit", "no claim stream", "AGENTD_CLAIMS_ENABLED=false", "warn")
async def no_reinit_route(patient):
    patient.coderd.fail_next("reinit", 404, '{"message":"Route not found."}')


@fault("reinit", "terraform apply failed", "build again")
async def a_claim_that_failed(patient):
    patient.coderd.claim_start(patient.workspace)
    patient.coderd.claim_fail(patient.workspace, agents_recorded=True)


@fault("reinit", "a web page came", "unbuffered")
async def a_page_in_place_of_the_stream(patient):
    patient.coderd.fail_next("reinit", 200, HTML_404, content_type="text/html")


@fault("task", "no log-snapshot route", "snapshots.destinations", "warn")
async def no_log_snapshot_route(patient):
    newer = await patient.stack.enter_async_context(SimulatedCoderd(era="E5"))
    patient.environ["CODER_AGENT_TOKEN"] = newer.add_prebuild().token
    patient.environ["CODER_AGENT_URL"] = newer.url


@fault("task", "coderd knows no task", "data.coder_task.me.enabled")
async def an_unknown_task(patient):
    patient.environ["AGENTD_SNAPSHOTS_TASK_ID"] = str(uuid.uuid4())


@fault("task", "coderd knows no task", "data.coder_task.me.enabled")
async def somebody_elses_task(patient):
    patient.environ["AGENTD_SNAPSHOTS_TASK_ID"] = patient.coderd.add_task(patient.coderd.add_workspace())


@fault("task", "is not set", "data.coder_task.me.enabled", "warn")
async def no_task(patient):
    del patient.environ["AGENTD_SNAPSHOTS_TASK_ID"]


# --- AgentAPI ---


@fault("agentapi", "refuses the Host header", "AGENTAPI_ALLOWED_HOSTS")
async def a_host_rule(patient):
    patient.agent.fault("refuse_host", route="status")


@fault("agentapi", "does not answer", "AGENTD_AGENTAPI_URL")
async def no_agentapi(patient):
    await patient.agent.stop()


@fault("agentapi", "another program answers", "free the port")
async def a_web_server_on_agentapis_port(patient):
    patient.environ["AGENTD_AGENTAPI_URL"] = patient.coderd.url


@fault("agentapi", "another program answers", "free the port")
async def no_http_on_agentapis_port(patient):
    async def greet(_reader, writer):
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    patient.stack.callback(server.close)
    patient.environ["AGENTD_AGENTAPI_URL"] = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


# --- the state directory and what lies in it ---


def _mount(patient, options):
    path = str(patient.state_dir)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "t", path], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.decode().strip()}")
    patient.stack.callback(lambda: subprocess.run(["umount", path], check=True))


@fault("state", "full", "free space")
async def a_full_disk(patient):
    _mount(patient, "size=64k,mode=0700")
    (patient.state_dir / "filler").write_bytes(bytes(60 * 1024))


@fault("state", "full", "free space")
async def a_disk_with_no_room_for_two_snapshots(patient):
    _mount(patient, "size=512k,mode=0700")


@fault("state", "read-only", "mount a writable volume")
async def a_read_only_state_directory(patient):
    _mount(patient, "ro,mode=0700")


@fault("state", "no directory", "AGENTD_STATE_DIR")
async def a_file_in_the_state_directorys_place(patient):
    patient.state_dir.rmdir()
    patient.state_dir.write_text("")


@fault("state", "belongs to uid 54321", "chown")
async def another_users_state_directory(patient):
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    os.chown(patient.state_dir, 54321, 54321)


@fault("state", "open to other users (mode 0755)", "chmod 700", "warn")
async def a_state_directory_open_to_others(patient):
    patient.state_dir.chmod(0o755)


@fault("ledger", "newer", "newer agentd")
async def a_ledger_of_a_newer_agentd(patient):
    body = json.dumps({"v": 99, "seq": 1, "kind": "admit", "at": 0.0}, separators=(",", ":")).encode()
    line = b'{"crc":"%08x",%s\n' % (zlib.crc32(body), body[1:])
    (patient.state_dir / "claims.jsonl").write_bytes(line)


@fault("ledger", "damaged", "agentd claims retry")
async def a_damaged_ledger(patient):
    (patient.state_dir / "claims.jsonl").write_bytes(b"\0" * 200 + b"\n" + b"x" * 100 + b"\n")


@fault("spool", "newer agentd", "newer agentd")
async def a_snapshot_of_a_newer_agentd(patient):
    head = b"{}"
    _snapshot(patient, b"agentd-snapshot 9 %08x %b\n" % (zlib.crc32(b"9 " + head), head))


@fault("spool", "is damaged", "check the disk")
async def a_damaged_snapshot(patient):
    _snapshot(patient, b"agentd-snapshot 1 00000000 {}\n")


def _snapshot(patient, content):
    (patient.state_dir / "spool").mkdir()
    (patient.state_dir / "spool" / "no-task.snapshot").write_bytes(content)


@fault("spool", "set aside", "remove them", "warn")
async def a_snapshot_in_quarantine(patient):
    (patient.state_dir / "spool" / "quarantine").mkdir(parents=True)
    (patient.state_dir / "spool" / "quarantine" / "no-task.snapshot").write_bytes(b"")


# --- the daemon ---


@fault("daemon", "holds", "stop pid")
async def a_second_daemon(patient):
    patient.stack.enter_context(StateDir.open(patient.state_dir))


@fault("daemon", "two agentd", "stop one of them")
async def a_daemon_of_another_state_directory_on_the_socket(patient):
    patient.stack.enter_context(StateDir.open(patient.state_dir))
    app = web.Application()

    async def status(_request):
        return web.json_response({"pid": 1, "version": "1"})

    app.router.add_get("/v1/status", status)
    runner = web.AppRunner(app)
    await runner.setup()
    patient.stack.push_async_callback(runner.cleanup)
    await web.UnixSite(runner, str(patient.state_dir / "agentd.sock")).start()


@fault("daemon", "something else listens", "AGENTD_LOCAL_API_LISTEN")
async def the_local_apis_port_is_taken(patient):
    patient.environ["AGENTD_LOCAL_API_LISTEN"] = f"127.0.0.1:{patient.coderd.port}"


@fault("daemon", "longer than 107 bytes", "shorter path")
async def a_socket_path_no_socket_can_have(patient):
    patient.environ["AGENTD_LOCAL_API_SOCKET"] = str(patient.home / ("s" * 110))


# --- hooks and grace ---


def _hook(patient, mode):
    path = patient.hooks / "10-setup"
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)


@fault("hooks", "may be written by other users", "chmod 755")
async def a_hook_anybody_may_write(patient):
    _hook(patient, 0o777)


@fault("hooks on-stable", "on-stable.d/10-notify", "chmod 755")
async def a_hook_for_a_quiet_agent_that_anybody_may_write(patient):
    folder = patient.hooks.parent / "on-stable.d"
    folder.mkdir(mode=0o755)
    (folder / "10-notify").write_text("#!/bin/sh\n")
    (folder / "10-notify").chmod(0o777)


@fault("hooks", "not executable", "chmod 755", "warn")
async def a_hook_that_is_not_executable(patient):
    _hook(patient, 0o644)


@fault("hooks", "may be written by other users", "may write")
async def a_hooks_directory_anybody_may_write(patient):
    patient.hooks.chmod(0o777)


@fault("grace", "the kill comes after 5 s", "AGENTD_SHUTDOWN_BUDGET_S")
async def a_budget_longer_than_the_grace(patient):
    patient.environ |= {"AGENTD_SHUTDOWN_GRACE_S": "5", "AGENTD_SHUTDOWN_BUDGET_S": "8"}


@fault("grace", "not known", "AGENTD_SHUTDOWN_GRACE_S", "warn")
async def a_grace_nobody_knows(patient):
    del patient.environ["AGENTD_SHUTDOWN_GRACE_S"]


@fault("grace", "the last stop was cut off", "agentd drill", "warn")
async def a_stop_that_was_cut_off(patient):
    await LastStop(patient.state_dir, Clock()).stopping("SIGTERM", 8)


@fault("grace", "killed without being asked", "run_on_stop", "warn")
async def a_kill_without_a_stop(patient):
    await LastStop(patient.state_dir, Clock()).running()


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
