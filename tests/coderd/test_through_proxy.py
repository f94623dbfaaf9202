"""The claim stream and the calls to coderd through a real proxy: tunnels, absolute form, logins, refusals.

The host name of coderd does not resolve on this machine; only the proxy knows it.
"""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trustme
from httpproxy import ForwardProxy

from agentd import log
from agentd.clock import Clock
from agentd.coderd import errors
from agentd.coderd.client import Coderd
from agentd.coderd.identity import InstanceIdentityToken
from agentd.coderd.reinit_stream import ReinitStream
from agentd.coderd.token import StaticToken
from agentd.errors import PeerError
from agentd.http_client import client_session
from agentd.proxy import Proxy, proxy_of
from agentd.sse import Heartbeat

TOKEN = "2f6c1c1e-6d0a-4f0c-9a55-2f0b3e5f7a11"
LOGIN = ("dö", "p@ss/w:rd long")
USER_INFO = "d%C3%B6:p%40ss%2Fw%3Ard%20long@"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nevent: ping\n\n"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
NAME = "coder.invalid"

Through = Callable[[Proxy, str, ssl.SSLContext | None], Awaitable[object]]


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture
def trusting(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


def identity(ca: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*names, key_type=trustme.KeyType.ECDSA).configure_cert(context)
    return context


@contextlib.asynccontextmanager
async def coderd(context: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A coderd that answers one request per connection; yields its port and the request heads."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(STREAM if b"/reinit" in heads[-1] else NO_CONTENT)
            await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with listening:
        yield listening.sockets[0].getsockname()[1], heads


def proxy_for(scheme: str, proxy: ForwardProxy, user_info: str = "") -> Proxy:
    environ = {f"{scheme.upper()}_PROXY": proxy.url.replace("://", f"://{user_info}")}
    found = proxy_of(f"{scheme}://{NAME}", environ)
    assert found is not None
    return found


async def stream_through(proxy: Proxy, scheme: str, context: ssl.SSLContext | None) -> list[object]:
    stream = ReinitStream(f"{scheme}://{NAME}", context=context, clock=Clock(), proxy=proxy)
    items: list[object] = []
    with contextlib.suppress(errors.StreamEndedError, errors.StreamCutError):
        async with contextlib.aclosing(stream.events(TOKEN)) as events:
            async for item in events:
                items += [item]
    return items


async def put_through(proxy: Proxy, scheme: str, context: ssl.SSLContext | None) -> None:
    async with client_session() as session:
        client = Coderd(
            f"{scheme}://{NAME}", token=StaticToken(TOKEN), session=session, tls=context, proxy=proxy
        )
        await client.put_log_snapshot("task", b"{}", timeout_s=5)


@pytest.mark.parametrize("login", [None, LOGIN], ids=["open", "login"])
@pytest.mark.parametrize("proxy_scheme", ["http", "https"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_the_stream_and_a_call_go_through_the_proxy(
    ca: trustme.CA, trusting: ssl.SSLContext, scheme: str, proxy_scheme: str, login: tuple[str, str] | None
) -> None:
    tls = identity(ca, NAME) if scheme == "https" else None
    proxy_tls = identity(ca, "localhost") if proxy_scheme == "https" else None
    context = trusting if "https" in (scheme, proxy_scheme) else None
    async with (
        coderd(tls) as (port, heads),
        ForwardProxy({NAME: port}, login=login, context=proxy_tls) as proxy,
    ):
        via = proxy_for(scheme, proxy, USER_INFO if login else "")
        assert await stream_through(via, scheme, context) == [Heartbeat("ping")]
        await put_through(via, scheme, context)
    if scheme == "https":
        assert proxy.requests == [f"CONNECT {NAME}:443 HTTP/1.1"] * 2
        assert not any(TOKEN.encode() in head for head in proxy.heads), "the token is inside the tunnel"
    else:
        path = "/api/v2/workspaceagents/me"
        assert proxy.requests == [
            f"GET http://{NAME}{path}/reinit?wait=true HTTP/1.1",
            f"POST http://{NAME}{path}/tasks/task/log-snapshot?format=agentapi HTTP/1.1",
        ]
    for head in heads:
        assert b"proxy-authorization" not in head.lower(), "the credentials are for the proxy only"
        assert f"\r\nhost: {NAME}\r\n".encode() in head.lower()
        assert TOKEN.encode() in head


@pytest.mark.parametrize("user_info", ["", "dö:wrongwrong@"], ids=["none", "wrong"])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("through", [stream_through, put_through], ids=["stream", "call"])
async def test_407_is_its_own_error_and_its_text_says_what_to_do(
    trusting: ssl.SSLContext, scheme: str, user_info: str, through: Through
) -> None:
    async with ForwardProxy({}, login=LOGIN) as proxy:
        via = proxy_for(scheme, proxy, user_info)
        with pytest.raises(errors.ProxyAuthError, match=r"407.*HTTPS?_PROXY") as caught:
            await through(via, scheme, trusting if scheme == "https" else None)
    assert type(caught.value) is errors.ProxyAuthError
    assert caught.value.status == 407
    assert caught.value.retryable
    assert "wrongwrong" not in str(caught.value)


@pytest.mark.parametrize("through", [stream_through, put_through], ids=["stream", "call"])
@pytest.mark.parametrize("refusal", ["403 Forbidden", "502 Bad Gateway", "503 Service \x1b[31mUnavailable"])
async def test_a_refused_tunnel_is_an_error_of_the_proxy(
    trusting: ssl.SSLContext, refusal: str, through: Through
) -> None:
    async with ForwardProxy({}, refusal=refusal) as proxy:
        with pytest.raises(PeerError) as caught:
            await through(proxy_for("https", proxy), "https", trusting)
    assert isinstance(caught.value, errors.UnreachableError)
    if "\x1b" not in refusal:  # h11 rejects the control character, aiohttp accepts it
        assert type(caught.value) is errors.ProxyError
        assert refusal in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("address", ["127.0.0.1:1", "proxy.invalid:3128"], ids=["closed", "unknown"])
@pytest.mark.parametrize("through", [stream_through, put_through], ids=["stream", "call"])
async def test_an_unreachable_proxy_is_named_without_its_password(
    trusting: ssl.SSLContext, scheme: str, address: str, through: Through
) -> None:
    via = proxy_of(f"{scheme}://{NAME}", {f"{scheme}_proxy": f"http://me:hunter2hunter2@{address}"})
    assert via is not None
    with pytest.raises(
        errors.ProxyError, match=rf"no connection to the proxy http://me:\[hidden\]@{address}"
    ) as caught:
        await through(via, scheme, trusting)
    assert f"check {scheme}_proxy" in caught.value.hint
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("through", [stream_through, put_through], ids=["stream", "call"])
async def test_the_certificate_of_a_proxy_is_checked(ca: trustme.CA, through: Through) -> None:
    async with ForwardProxy({}, context=identity(ca, "localhost")) as proxy:
        with pytest.raises(
            errors.ProxyError, match=r"no connection to the proxy https://localhost:\d+: TLS failed"
        ):
            await through(proxy_for("https", proxy), "https", ssl.create_default_context())


@pytest.mark.parametrize("through", [stream_through, put_through], ids=["stream", "call"])
async def test_the_certificate_of_coderd_is_checked_inside_the_tunnel(
    ca: trustme.CA, through: Through
) -> None:
    async with coderd(identity(ca, NAME)) as (port, _), ForwardProxy({NAME: port}) as proxy:
        with pytest.raises(errors.UnreachableError, match="certificate verify failed") as caught:
            await through(proxy_for("https", proxy), "https", ssl.create_default_context())
    assert not isinstance(caught.value, errors.ProxyError)


async def test_a_proxy_that_closes_the_connection_is_an_error_of_the_proxy(trusting: ssl.SSLContext) -> None:
    async def close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listening = await asyncio.start_server(close, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        via = proxy_of(f"https://{NAME}", {"HTTPS_PROXY": f"127.0.0.1:{port}"})
        assert via is not None
        with pytest.raises(errors.ProxyError, match=r"does not answer CONNECT coder[.]invalid:443"):
            await stream_through(via, "https", trusting)


async def test_the_identity_exchange_goes_through_the_proxy_and_the_metadata_server_by_its_own_rule() -> None:
    """Like the Coder agent: the metadata server is excluded only by NO_PROXY."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps({"signature": "s", "encoding": "e", "session_token": TOKEN}).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening, client_session() as session:
        port = listening.sockets[0].getsockname()[1]
        async with ForwardProxy({NAME: port, "169.254.169.254": port}) as proxy:
            environ = {"HTTP_PROXY": proxy.url}
            token = InstanceIdentityToken(
                "azure-instance-identity",
                coder_url=f"http://{NAME}",
                session=session,
                proxy=proxy_of(f"http://{NAME}", environ),
                metadata_proxy=proxy_of("http://169.254.169.254", environ),
            )
            assert await token.current() == TOKEN
        assert [line.split("/")[2] for line in proxy.requests] == ["169.254.169.254", NAME]
        assert proxy_of("http://169.254.169.254", {**environ, "NO_PROXY": "169.254.0.0/16"}) is None


async def test_407_ends_the_identity_exchange_with_its_own_error() -> None:
    async with client_session() as session, ForwardProxy({}, login=LOGIN) as proxy:
        via = proxy_for("http", proxy)
        token = InstanceIdentityToken(
            "azure-instance-identity",
            coder_url=f"http://{NAME}",
            session=session,
            proxy=via,
            metadata_proxy=via,
        )
        with pytest.raises(errors.CoderdError, match="407"):
            await token.current()


def test_the_password_is_masked_in_a_log_line() -> None:
    proxy_of("https://coder.example", {"HTTPS_PROXY": "http://u:hunter2hunter2@p"})
    assert log.masked("http://u:hunter2hunter2@p") == "http://u:[hidden]@p"
