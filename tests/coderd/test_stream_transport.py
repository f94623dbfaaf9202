"""The transport of the claim stream: imports, addresses, attempts and errors."""

import asyncio
import contextlib
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from agentd.coderd import errors, stream_transport
from agentd.coderd.client import Coderd
from agentd.coderd.stream_transport import StreamTransport
from agentd.coderd.token import StaticToken
from agentd.http_client import client_session

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


class Server:
    """Sends `pieces` one after the other to each client and then closes the connection, unless it `stays`.

    `heads` are the requests that it received, up to the bytes that it `waits_for`.
    """

    def __init__(self, *pieces: bytes, stays: bool = False, waits_for: bytes = b"\r\n\r\n") -> None:
        self.pieces = pieces
        self.waits_for = waits_for
        self.stays = stays
        self.heads: list[bytes] = []
        self.port = 0
        self.talks: list[asyncio.Task[None]] = []

    def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.talks.append(asyncio.create_task(self._talk(reader, writer)))

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            self.heads.append(await reader.readuntil(self.waits_for))
            for piece in self.pieces:
                writer.write(piece)
                await writer.drain()
            if self.stays:
                await reader.read()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(server: Server, host: str = "127.0.0.1", **options: Any) -> AsyncIterator[Server]:
    listening = await asyncio.start_server(server, host, 0, **options)
    async with listening:
        server.port = listening.sockets[0].getsockname()[1]
        yield server
        await asyncio.gather(*server.talks)


@contextlib.asynccontextmanager
async def answer_of(url: str, context: ssl.SSLContext | None = None) -> AsyncIterator[httpx.Response]:
    transport = StreamTransport(context=context, on_sent=lambda: None)
    async with (
        httpx.AsyncClient(transport=transport, trust_env=False) as client,
        client.stream("GET", url) as response,
    ):
        yield response


async def body_of(url: str, context: ssl.SSLContext | None = None) -> bytes:
    async with answer_of(url, context) as response:
        return b"".join([chunk async for chunk in response.aiter_raw()])


def resolves_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    async def getaddrinfo(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", one) for one in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)


def closed_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


def test_a_stream_does_not_import_the_connection_pool_of_httpx() -> None:
    code = (
        "import asyncio, contextlib, sys\n"
        # Where click is installed, httpx imports its command line, which imports everything.
        "sys.modules['click'] = None\n"
        "from agentd.clock import Clock\n"
        "from agentd.coderd.reinit_stream import ReinitStream\n"
        "from agentd.coderd.errors import ConnectRefusedError\n"
        "async def main():\n"
        f"    stream = ReinitStream('http://127.0.0.1:{closed_port()}', context=None, clock=Clock())\n"
        "    with contextlib.suppress(ConnectRefusedError):\n"
        "        async for _ in stream.events('token'): pass\n"
        "asyncio.run(main())\n"
        "assert 'httpx' in sys.modules\n"
        "print(*{'httpcore', 'anyio', 'certifi'} & sys.modules.keys())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param((OK + b"Content-Length: 3\r\n\r\nabc",), id="counted"),
        pytest.param((CHUNKED + b"1\r\na\r\n", b"2;ext=1\r\nbc\r\n0\r\nX: trailer\r\n\r\n"), id="chunked"),
        pytest.param((b"HTTP/1.0 200 OK\r\n\r\nabc",), id="until the end of the connection"),
        pytest.param((b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3, CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"), id="after 1xx"),
    ],
)  # fmt: skip
async def test_a_body_is_read_to_its_end_with_each_framing(pieces: tuple[bytes, ...]) -> None:
    async with serving(Server(*pieces)) as server:
        assert await body_of(f"http://127.0.0.1:{server.port}/") == b"abc"


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        pytest.param((), errors.StreamCutError, id="no answer"),
        pytest.param((b"HTTP/1.1 200 OK\r\nContent-",), errors.StreamCutError, id="half the headers"),
        pytest.param((OK + b"Content-Length: 9\r\n\r\nabc",), errors.StreamCutError, id="less than counted"),
        pytest.param((CHUNKED + b"3\r\nab",), errors.StreamCutError, id="inside a chunk"),
        pytest.param((CHUNKED + b"3\r\nabc\r\n",), errors.StreamCutError, id="after a chunk"),
        pytest.param((CHUNKED + b"3\r\nabc\r\nxyz\r\n",), errors.ProtocolError, id="not a chunk"),
        pytest.param((b"\0\0\x12\4\0\0\0\0\0\r\n\r\n",), errors.ProtocolError, id="HTTP/2"),
        pytest.param((OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",), errors.ProtocolError, id="two lengths"),
        pytest.param((b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",), errors.ProtocolError, id="an upgrade without a request for it"),
        pytest.param((OK + b"X: " + b"x" * 200_000,), errors.HeadersTooLargeError, id="a header without end"),
    ],
)  # fmt: skip
async def test_each_failure_raises_its_error_after_one_request(
    pieces: tuple[bytes, ...], error: type[Exception]
) -> None:
    async with serving(Server(*pieces)) as server:
        with pytest.raises(error) as caught:
            await body_of(f"http://127.0.0.1:{server.port}/")
    assert type(caught.value) is error
    assert len(server.heads) == 1, "the caller decides about retries"
    if error is errors.StreamCutError:
        place = "inside" if pieces else "before the first byte of"
        assert str(caught.value) == f"the server closed the connection {place} its answer"


async def test_after_a_refused_address_the_next_one_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(Server(OK + b"Content-Length: 1\r\n\r\nx")) as server:
        resolves_to(monkeypatch, ("127.0.0.1", closed_port()), ("127.0.0.1", server.port))
        assert await body_of("http://coder.example/") == b"x"


async def test_if_all_addresses_refuse_there_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    resolves_to(monkeypatch, ("127.0.0.1", closed_port()), ("127.0.0.2", closed_port()))
    with pytest.raises(errors.ConnectRefusedError):
        await body_of("http://coder.example/")


async def test_a_slow_name_resolution_ends_at_the_connect_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    monkeypatch.setattr(stream_transport, "CONNECT_S", 0.01)
    with pytest.raises(errors.ConnectError, match="connect timeout"):
        await body_of("http://coder.example/")


async def test_a_trusted_certificate_is_accepted_for_its_host_name_only() -> None:
    ca = trustme.CA()
    theirs, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    ca.issue_cert("localhost").configure_cert(theirs)
    ca.configure_trust(ours)
    async with serving(Server(OK + b"Content-Length: 1\r\n\r\nx"), ssl=theirs) as server:
        assert await body_of(f"https://localhost:{server.port}/", ours) == b"x"
        with pytest.raises(errors.TlsError, match="127"):
            await body_of(f"https://127.0.0.1:{server.port}/", ours)
    assert len(server.heads) == 1


async def test_tls_to_a_plain_http_server_is_a_tls_error() -> None:
    # 0x16 is the first byte of a TLS handshake.
    async with serving(Server(b"HTTP/1.1 400 Bad Request\r\n\r\n", waits_for=b"\x16")) as server:
        with pytest.raises(errors.TlsError):
            await body_of(f"https://127.0.0.1:{server.port}/", ssl.create_default_context())


def kernel_timer(remote_port: int) -> str:
    """The kernel's timer of the connection to that port ("02": keepalive)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    # "01": established. An earlier connection to the same port may be left in TIME_WAIT.
    return next(row[5][:2] for row in rows if row[2].endswith(f":{remote_port:04X}") and row[3] == "01")


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="no /proc/net/tcp")
async def test_tcp_keepalive_is_on() -> None:
    async with (
        serving(Server(CHUNKED + b"1\r\nx\r\n", stays=True)) as server,
        answer_of(f"http://127.0.0.1:{server.port}/") as response,
    ):
        assert await anext(response.aiter_raw()) == b"x"
        assert kernel_timer(server.port) == "02"


def ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not ipv6_loopback(), reason="this machine has no IPv6 loopback")
@pytest.mark.parametrize("host", ["[::1]", "coder.example"], ids=["literal", "only AAAA"])
async def test_an_ipv6_only_host_is_reached_by_the_stream_and_by_a_call(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def getaddrinfo(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        address = ("::1", server.port, 0, 0)
        return [(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)]

    reply = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
    async with serving(Server(reply), host="::1") as server:
        if not host.startswith("["):
            monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        url = f"http://{host}:{server.port}"
        assert await body_of(url) == b""
        async with client_session() as session:
            client = Coderd(url, token=StaticToken("token"), session=session)
            await client.put_log_snapshot("task", b"", timeout_s=5)
    hosts = [line for head in server.heads for line in head.lower().split(b"\r\n") if line[:5] == b"host:"]
    assert hosts == [f"host: {host}:{server.port}".encode()] * 2


def test_the_tunnel_to_an_ipv6_address_has_brackets() -> None:
    assert stream_transport.authority("::1", 443) == "[::1]:443"
    assert stream_transport.authority("coder.example", 443) == "coder.example:443"
