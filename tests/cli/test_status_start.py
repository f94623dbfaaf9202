"""The imports of `agentd status --oneline`, which has a budget of 60 ms."""

import json
import socket
import subprocess
import sys
import threading

import pytest

STATUS = {
    "version": "1", "pid": 1, "started_at": "2026-03-02T09:00:00Z", "workspace_id": None,
    "claims": {"state": "settled", "since": None, "reason": ""},
    "agent": {"status": "stable", "since": None, "evidence": ""},
    "task": {"status": "active", "state": "idle", "message": ""},
    "snapshot": {"captured_at": None, "messages": 0, "bytes": 0, "pending": False, "last_receipt": None},
}  # fmt: skip


@pytest.fixture
def daemon(tmp_path):
    """A daemon that answers one request."""
    path = tmp_path / "s"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def answer():
        connection, _ = server.accept()
        with connection:
            connection.recv(65_536)
            body = json.dumps(STATUS).encode()
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    thread = threading.Thread(target=answer)
    thread.start()
    yield path
    thread.join()
    server.close()


def test_status_oneline_imports_no_heavy_module(daemon):
    code = "import sys; from agentd.cli import main; main(['status', '--oneline']); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"AGENTD_LOCAL_API_SOCKET": str(daemon)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    line, modules = done.stdout.splitlines()
    assert line == "claims settled · agent stable · snapshot nothing captured yet"
    heavy = {
        "asyncio",
        "aiohttp",
        "httpx",
        "structlog",
        "http.client",
        "ssl",
        "email",
        "subprocess",
        "shutil",
    }
    heavy |= {"logging", "difflib", "uuid", "tomllib", "agentd.daemon", "agentd.local_api", "agentd.log"}
    assert set(modules.split()) & heavy == set()
