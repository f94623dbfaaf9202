"""The faults of an installation. Each function adds one fault to an installation without faults."""

import asyncio
import json
import os
import socket
import subprocess
import uuid
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from unittest import mock

import pytest
from aiohttp import web
from doctor import certificates
from httpproxy import ForwardProxy

from agentd.clock import Clock
from agentd.daemon.last_stop import LastStop
from agentd.simulator.coderd import SimulatedCoderd
from agentd.state_dir import StateDir
from agentd.worker_thread import WorkerThread

HTML_404 = b"<html><head><title>404 Not Found</title></head><body>nginx</body></html>"


@dataclass(frozen=True)
class Fault:
    """`add` adds the fault.

    The finding of `check` then has `level`, `cause` in its cause and `remedy` in its remedy.
    """

    name: str
    add: Callable
    check: str
    cause: str
    remedy: str
    level: str = "fail"


FAULTS: list[Fault] = []


def fault(check, cause, remedy, level="fail"):
    def register(add: Callable[..., Awaitable[None]]):
        FAULTS.append(Fault(add.__name__, add, check, cause, remedy, level))
        return add

    return register


# --- coderd and the connection to it ---


@fault("token", "not a UUID", "CODER_AGENT_TOKEN")
async def wrong_token(installation):
    installation.environ["CODER_AGENT_TOKEN"] = "not-the-token"


@fault("token", "older build", "wait for the build")
async def a_token_of_another_build(installation):
    installation.environ["CODER_AGENT_TOKEN"] = str(uuid.uuid4())


@fault("token", "a claim or build is running", "wait for the build")
async def a_running_claim(installation):
    installation.coderd.claim_start(installation.workspace)


@fault("token", "the token does not reach coderd", "Coder-Session-Token")
async def a_proxy_that_removes_the_token(installation):
    body = json.dumps({"message": 'Cookie "coder_session_token" must be provided.'})
    installation.coderd.fail_next("*", 401, body, times=2)


@fault("token", "is empty", "write the agent's session token into it")
async def an_empty_token_file(installation):
    _token_file(installation).write_text("\n")


@fault("token", "cannot be read", "agentd's user may read it")
async def an_unreadable_token_file(installation):
    _token_file(installation).mkdir()


@fault("token", "missing", "CODER_AGENT_TOKEN_FILE")
async def no_token(installation):
    del installation.environ["CODER_AGENT_TOKEN"]


def _token_file(installation):
    del installation.environ["CODER_AGENT_TOKEN"]
    path = installation.home / "token"
    installation.environ["CODER_AGENT_TOKEN_FILE"] = str(path)
    return path


@fault("config", "coder.url: missing", "CODER_AGENT_URL")
async def no_url(installation):
    del installation.environ["CODER_AGENT_URL"]


@fault("coderd", "not coderd", "CODER_AGENT_URL")
async def a_url_with_a_wrong_path(installation):
    installation.environ["CODER_AGENT_URL"] = installation.coderd.url + "/coder"


@fault("coderd", "not coderd", "CODER_AGENT_URL")
async def the_url_of_another_server(installation):
    installation.environ["CODER_AGENT_URL"] = installation.agent.url


@fault("coderd", "not coderd, but a proxy", "proxy in between")
async def a_proxys_html_404(installation):
    installation.coderd.fail_next("*", 404, HTML_404, content_type="text/html", times=2)


@fault("coderd", "502 Bad Gateway", "proxy's")
async def a_proxy_without_coderd_behind_it(installation):
    installation.coderd.fault("*", "html_502", times=2)


@fault("coderd", "requires a login", "coder.headers")
async def a_proxy_that_requires_a_login(installation):
    installation.coderd.fail_next("*", 401, "<html>Sign in</html>", content_type="text/html", times=2)


@fault("coderd", "307", "redirects are not followed")
async def a_redirect(installation):
    installation.coderd.fault("*", "redirect", times=2, location="https://login.example/?secret=hunter2")


def _behind_proxy(installation, proxy_url):
    installation.environ["CODER_AGENT_URL"] = "http://coder.invalid"
    installation.stack.enter_context(mock.patch.dict(os.environ, HTTP_PROXY=proxy_url))


@fault("proxy", "407", "http://USER:PASSWORD@HOST:PORT")
async def a_proxy_that_requires_credentials(installation):
    proxy = await installation.stack.enter_async_context(ForwardProxy({}, login=("me", "hunter2hunter2")))
    _behind_proxy(installation, proxy.url)


@fault("proxy", "no connection to the proxy http://127.0.0.1:1", "NO_PROXY")
async def a_proxy_that_does_not_listen(installation):
    _behind_proxy(installation, "http://127.0.0.1:1")


@fault("proxy", "socks5", "to an http:// or https:// proxy")
async def a_socks_proxy(installation):
    _behind_proxy(installation, "socks5://127.0.0.1:1080")


@fault("coderd", "coder.header_command: exit 3", "sh -c")
async def a_header_command_that_fails(installation):
    installation.environ["CODER_AGENT_HEADER_COMMAND"] = "exit 3"


@fault("coderd", "DNS", "resolver")
async def a_name_that_does_not_resolve(installation):
    # RFC 6761: this name never resolves.
    installation.environ["CODER_AGENT_URL"] = "http://coder.invalid"


@fault("coderd", "connection refused", "host and port")
async def a_closed_port(installation):
    installation.environ["CODER_AGENT_URL"] = f"http://127.0.0.1:{_free_port()}"


@fault("coderd", "no answer", "firewall")
async def a_coderd_that_hangs(installation):
    installation.coderd.fault("*", "no_headers", times=2)


@fault("coderd", "rate limited", "wait a minute", "warn")
async def a_rate_limit(installation):
    installation.coderd.fail_next("*", 429, '{"message":"You\'ve been rate limited."}', times=2)


@fault("clock", "s ahead of coderd's", "set the clock")
async def a_clock_that_is_ahead(installation):
    installation.wall_offset_s = 3600


@fault("clock", "s behind coderd's", "set the clock", "warn")
async def a_clock_that_is_a_little_behind(installation):
    installation.wall_offset_s = -60


# --- TLS ---


@fault("tls", "has expired", "renew the certificate")
async def an_expired_certificate(installation):
    await _https(installation, days=-1)


@fault("tls", "another host name", "coder.url")
async def a_certificate_for_another_name(installation):
    await _https(installation, name="coder.example.com")


@fault("tls", "self-signed", "AGENTD_CODER_CA_FILE")
async def a_self_signed_certificate(installation):
    await installation.behind_tls(certificates.self_signed(installation.home))


@fault("tls", "a CA that this machine does not trust", "AGENTD_CODER_CA_FILE")
async def a_certificate_of_an_unknown_ca(installation):
    await _https(installation)
    del installation.environ["AGENTD_CODER_CA_FILE"]


@fault("tls", "cannot be read as PEM", "CA bundle")
async def a_ca_file_without_a_certificate(installation):
    await _https(installation)
    (installation.home / "ca.pem").write_text("no certificate\n")


@fault("tls", "the TLS handshake with coder.url failed", "http://")
async def https_to_a_server_of_http(installation):
    installation.environ["CODER_AGENT_URL"] = installation.coderd.url.replace("http://", "https://")


async def _https(installation, **certificate):
    ca_file = installation.home / "ca.pem"
    await installation.behind_tls(certificates.trusted(ca_file, **certificate))
    installation.environ["AGENTD_CODER_CA_FILE"] = str(ca_file)


# --- routes and task ---


@fault("reinit", "no claim stream", "AGENTD_CLAIMS_ENABLED=false", "warn")
async def no_reinit_route(installation):
    installation.coderd.fail_next("reinit", 404, '{"message":"Route not found."}')


@fault("reinit", "terraform apply failed", "build again")
async def a_claim_that_failed(installation):
    installation.coderd.claim_start(installation.workspace)
    installation.coderd.claim_fail(installation.workspace, agents_recorded=True)


@fault("reinit", "a web page came", "unbuffered")
async def a_page_in_place_of_the_stream(installation):
    installation.coderd.fail_next("reinit", 200, HTML_404, content_type="text/html")


@fault("task", "no log-snapshot route", "snapshots.destinations", "warn")
async def no_log_snapshot_route(installation):
    newer = await installation.stack.enter_async_context(SimulatedCoderd(era="E5"))
    installation.environ["CODER_AGENT_TOKEN"] = newer.add_prebuild().token
    installation.environ["CODER_AGENT_URL"] = newer.url


@fault("task", "coderd knows no task", "data.coder_task.me.enabled")
async def an_unknown_task(installation):
    installation.environ["AGENTD_SNAPSHOTS_TASK_ID"] = str(uuid.uuid4())


@fault("task", "coderd knows no task", "data.coder_task.me.enabled")
async def a_task_of_another_workspace(installation):
    installation.environ["AGENTD_SNAPSHOTS_TASK_ID"] = installation.coderd.add_task(
        installation.coderd.add_workspace()
    )


@fault("task", "is not set", "data.coder_task.me.enabled", "warn")
async def no_task(installation):
    del installation.environ["AGENTD_SNAPSHOTS_TASK_ID"]


# --- AgentAPI ---


@fault("agentapi", "refuses the Host header", "AGENTAPI_ALLOWED_HOSTS")
async def a_refused_host_header(installation):
    installation.agent.fault("refuse_host", route="status")


@fault("agentapi", "does not answer", "AGENTD_AGENTAPI_URL")
async def no_agentapi(installation):
    await installation.agent.stop()


@fault("agentapi", "another program answers", "free the port")
async def a_web_server_on_the_port_of_agentapi(installation):
    installation.environ["AGENTD_AGENTAPI_URL"] = installation.coderd.url


@fault("agentapi", "another program answers", "free the port")
async def another_protocol_on_the_port_of_agentapi(installation):
    async def greet(_reader, writer):
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    installation.stack.callback(server.close)
    installation.environ["AGENTD_AGENTAPI_URL"] = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


# --- state directory, ledger and spool ---


def _mount(installation, options):
    path = str(installation.state_dir)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "t", path], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs: {made.stderr.decode().strip()}")
    installation.stack.callback(lambda: subprocess.run(["umount", path], check=True))


@fault("state", "full", "free space")
async def a_full_disk(installation):
    _mount(installation, "size=64k,mode=0700")
    (installation.state_dir / "filler").write_bytes(bytes(60 * 1024))


@fault("state", "full", "free space")
async def a_disk_without_space_for_two_snapshots(installation):
    _mount(installation, "size=512k,mode=0700")


@fault("state", "read-only", "mount a writable volume")
async def a_read_only_state_directory(installation):
    _mount(installation, "ro,mode=0700")


@fault("state", "is not a directory", "AGENTD_STATE_DIR")
async def a_file_at_the_path_of_the_state_directory(installation):
    installation.state_dir.rmdir()
    installation.state_dir.write_text("")


@fault("state", "belongs to uid 54321", "chown")
async def another_users_state_directory(installation):
    if os.geteuid() != 0:
        pytest.skip("only root can change the owner of a directory")
    os.chown(installation.state_dir, 54321, 54321)


@fault("state", "accessible to other users (mode 0755)", "chmod 700", "warn")
async def a_state_directory_that_others_can_read(installation):
    installation.state_dir.chmod(0o755)


@fault("ledger", "newer", "newer agentd")
async def a_ledger_of_a_newer_agentd(installation):
    body = json.dumps({"v": 99, "seq": 1, "kind": "admit", "at": 0.0}, separators=(",", ":")).encode()
    line = b'{"crc":"%08x",%s\n' % (zlib.crc32(body), body[1:])
    (installation.state_dir / "claims.jsonl").write_bytes(line)


@fault("ledger", "damaged", "agentd claims retry")
async def a_damaged_ledger(installation):
    (installation.state_dir / "claims.jsonl").write_bytes(b"\0" * 200 + b"\n" + b"x" * 100 + b"\n")


@fault("spool", "newer agentd", "newer agentd")
async def a_snapshot_of_a_newer_agentd(installation):
    head = b"{}"
    _snapshot(installation, b"agentd-snapshot 9 %08x %b\n" % (zlib.crc32(b"9 " + head), head))


@fault("spool", "is damaged", "check the disk")
async def a_damaged_snapshot(installation):
    _snapshot(installation, b"agentd-snapshot 1 00000000 {}\n")


def _snapshot(installation, content):
    (installation.state_dir / "spool").mkdir()
    (installation.state_dir / "spool" / "no-task.snapshot").write_bytes(content)


@fault("spool", "1 damaged file in", "delete the files in quarantine/", "warn")
async def a_snapshot_in_quarantine(installation):
    (installation.state_dir / "spool" / "quarantine").mkdir(parents=True)
    (installation.state_dir / "spool" / "quarantine" / "no-task.snapshot").write_bytes(b"")


# --- the daemon ---


@fault("daemon", "holds the lock", "stop pid")
async def a_second_daemon(installation):
    installation.stack.enter_context(StateDir.open(installation.state_dir))


@fault("daemon", "two agentd", "stop one of them")
async def a_daemon_with_another_state_directory_on_the_socket(installation):
    installation.stack.enter_context(StateDir.open(installation.state_dir))
    app = web.Application()

    async def status(_request):
        return web.json_response({"pid": 1, "version": "1"})

    app.router.add_get("/v1/status", status)
    runner = web.AppRunner(app)
    await runner.setup()
    installation.stack.push_async_callback(runner.cleanup)
    await web.UnixSite(runner, str(installation.state_dir / "agentd.sock")).start()


@fault("daemon", "another program listens", "AGENTD_LOCAL_API_LISTEN")
async def a_used_port_of_the_local_api(installation):
    installation.environ["AGENTD_LOCAL_API_LISTEN"] = f"127.0.0.1:{installation.coderd.port}"


@fault("daemon", "longer than 107 bytes", "shorter path")
async def a_socket_path_that_is_too_long(installation):
    installation.environ["AGENTD_LOCAL_API_SOCKET"] = str(installation.home / ("s" * 110))


# --- hooks and stop timeout ---


def _hook(installation, mode):
    path = installation.hooks / "10-setup"
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)


@fault("hooks", "may be written by other users", "chmod 755")
async def a_hook_that_all_users_can_write(installation):
    _hook(installation, 0o777)


@fault("hooks on-stable", "on-stable.d/10-notify", "chmod 755")
async def an_on_stable_hook_that_all_users_can_write(installation):
    folder = installation.hooks.parent / "on-stable.d"
    folder.mkdir(mode=0o755)
    (folder / "10-notify").write_text("#!/bin/sh\n")
    (folder / "10-notify").chmod(0o777)


@fault("hooks", "not executable", "chmod 755", "warn")
async def a_hook_that_is_not_executable(installation):
    _hook(installation, 0o644)


@fault("hooks", "may be written by other users", "writable for root and agentd's user only")
async def a_hooks_directory_that_all_users_can_write(installation):
    installation.hooks.chmod(0o777)


@fault("grace", "SIGKILL follows SIGTERM after 5 s", "AGENTD_SHUTDOWN_BUDGET_S")
async def a_budget_longer_than_the_stop_timeout(installation):
    installation.environ |= {"AGENTD_SHUTDOWN_GRACE_S": "5", "AGENTD_SHUTDOWN_BUDGET_S": "8"}


@fault("grace", "is unknown", "AGENTD_SHUTDOWN_GRACE_S", "warn")
async def an_unknown_stop_timeout(installation):
    del installation.environ["AGENTD_SHUTDOWN_GRACE_S"]


@fault("grace", "the last stop was cut off", "agentd drill", "warn")
async def a_stop_that_was_cut_off(installation):
    await LastStop(installation.state_dir, Clock(), WorkerThread("state")).stopping("SIGTERM", 8)


@fault("grace", "killed without SIGTERM", "run_on_stop", "warn")
async def a_kill_without_a_signal_to_stop(installation):
    await LastStop(installation.state_dir, Clock(), WorkerThread("state")).running()


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
