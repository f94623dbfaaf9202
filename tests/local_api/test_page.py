import subprocess
import sys

import aiohttp
import pytest

from agentd import ui
from agentd.local_api.server import LocalApi, Operations

FILES = ui.files("daemon")
PROXY = "coder.example.com"
DONE = {"outcome": "nothing"}


async def _done(*_arguments):
    return DONE


SYNCHRONOUS = {"status": dict, "claims": dict}
OPERATIONS = Operations(**{name: SYNCHRONOUS.get(name, _done) for name in Operations._fields})


@pytest.fixture
async def tcp(tmp_path):
    api = LocalApi(
        socket_path=tmp_path / "agentd.sock",
        listen="127.0.0.1:0",
        operations=OPERATIONS,
        proxies=("Coder.Example.com",),
    )
    await api.start()
    port = api._servers[-1].sockets[0].getsockname()[1]
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        yield session
    await api.close()


@pytest.mark.parametrize(("path", "name", "kind"), [(path, *rest) for path, rest in FILES.items()])
async def test_the_files_of_the_page_are_served_with_a_strict_policy(tcp, path, name, kind):
    async with tcp.get(path) as answer:
        assert (answer.status, answer.content_type) == (200, kind)
        assert await answer.read() == (ui.FOLDER / name).read_bytes()
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'self'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_loads_only_its_own_files_by_relative_urls():
    text = (ui.FOLDER / "daemon.html").read_text()
    for path, (name, _) in FILES.items():
        if name.endswith((".css", ".svg")) or name == "daemon.js":
            assert f'="{path.removeprefix("/")}"' in text
    for name, _ in FILES.values():
        content = (ui.FOLDER / name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in content
        assert "https:" not in content
        assert "innerHTML" not in content


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {"Host": PROXY}, 200),
        ("GET", {"Host": PROXY.upper()}, 200),
        ("GET", {"Host": "other.example.com"}, 403),
        ("GET", {"Host": f"{PROXY}:8443"}, 403),
        ("GET", {"Host": f"{PROXY}.evil.example.com"}, 403),
        ("POST", {"Host": PROXY, "Origin": f"https://{PROXY}"}, 200),
        ("POST", {"Host": PROXY, "Origin": f"http://{PROXY}"}, 200),
        ("POST", {"Host": PROXY, "Origin": "https://evil.example.com"}, 403),
        # A link on another site may be followed; a frame, script or image of another site is refused.
        (
            "GET",
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
            200,
        ),
        (
            "GET",
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
            403,
        ),
        (
            "GET",
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"},
            403,
        ),
        ("GET", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),
        (
            "POST",
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
            403,
        ),
        ("POST", {"Sec-Fetch-Site": "same-origin"}, 403),
        ("POST", {"Sec-Fetch-Site": "same-origin", "X-Agentd": "page"}, 200),
        ("POST", {"Sec-Fetch-Site": "same-origin", "Content-Type": "application/json"}, 200),
        ("POST", {"Sec-Fetch-Site": "cross-site", "X-Agentd": "page"}, 403),
    ],
)
async def test_which_requests_are_accepted_over_tcp(tcp, method, headers, status):
    route = "/v1/snapshot" if method == "POST" else "/v1/status"
    async with tcp.request(method, route, headers=headers) as answer:
        assert answer.status == status


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_form_is_refused_even_from_the_own_origin(tcp, kind):
    origin = f"http://127.0.0.1:{tcp._base_url.port}"
    async with tcp.post("/v1/stop", data=b"x", headers={"Content-Type": kind, "Origin": origin}) as answer:
        assert answer.status == 403
    async with tcp.post("/v1/stop", data=b"x", headers={"Content-Type": kind}) as answer:
        assert answer.status == 200, "a local program is not a page"


async def test_a_preflight_of_another_origin_is_refused(tcp):
    headers = {
        "Origin": "https://evil.example.com",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-agentd",
    }
    async with tcp.options("/v1/stop", headers=headers) as answer:
        assert answer.status == 403
        assert not [name for name in answer.headers if name.startswith("Access-Control-")]


def test_the_page_is_imported_only_with_a_tcp_port():
    script = """
import asyncio, pathlib, sys, tempfile, types
from agentd.local_api.server import LocalApi
import agentd.daemon.run
async def serve(listen):
    path, operations = pathlib.Path(tempfile.mkdtemp()) / "s", types.SimpleNamespace(status=dict)
    api = LocalApi(socket_path=path, listen=listen, operations=operations)
    api._routes = lambda: []
    await api.start()
    await api.close()
    return "agentd.ui" in sys.modules
assert asyncio.run(serve("")) is False
assert asyncio.run(serve("127.0.0.1:0")) is True
"""
    subprocess.run([sys.executable, "-c", script], check=True)
