"""`agentd status --oneline` has 60 ms as a Coder agent-metadata script; what it imports decides (benchmarks/status_oneline.py)."""

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
    """Answers one question."""
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


def test_it_imports_nothing_that_a_line_does_not_need(daemon):
    asked = "import sys; from agentd.cli import main; main(['status', '--oneline']); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", asked],
        env={"AGENTD_LOCAL_API_SOCKET": str(daemon)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    said, modules = done.stdout.splitlines()
    assert said == "claims settled · agent stable · snapshot nothing captured yet"
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
