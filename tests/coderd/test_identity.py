import asyncio
import json
import uuid

import pytest
import structlog

from agentd import log
from agentd.coderd import identity
from agentd.coderd.client import Coderd
from agentd.coderd.errors import CoderdError, IdentityError, MetadataError
from agentd.coderd.extra_headers import ExtraHeaders
from agentd.coderd.identity import InstanceIdentityToken
from agentd.simulator.coderd import SimulatedCoderd
from agentd.simulator.metadata import SimulatedMetadata
from agentd.tls import aiohttp

AWS, AZURE, GOOGLE = "aws-instance-identity", "azure-instance-identity", "google-instance-identity"


@pytest.fixture
async def session():
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


@pytest.fixture
async def server():
    async with SimulatedCoderd(era="E3") as server:
        yield server


@pytest.fixture
async def metadata():
    async with SimulatedMetadata() as metadata:
        yield metadata


@pytest.fixture
def workspace(server, metadata):
    workspace = server.add_workspace()
    server.set_instance(workspace, metadata.instance_id)
    return workspace


@pytest.fixture
def source(server, metadata, session):
    def make(kind: str = AWS, **more) -> InstanceIdentityToken:
        return InstanceIdentityToken(
            kind, coder_url=server.url, session=session, metadata_url=metadata.url, **more
        )

    return make


async def refusal(source: InstanceIdentityToken) -> IdentityError:
    with pytest.raises(IdentityError) as caught:
        await source.current()
    assert isinstance(caught.value, CoderdError)
    assert caught.value.retryable
    return caught.value


@pytest.mark.parametrize("kind", [AWS, AZURE, GOOGLE])
async def test_the_proof_of_each_cloud_is_exchanged_for_the_token_of_the_agent(
    server, metadata, workspace, source, kind
):
    token = source(kind)
    assert metadata.requests == [], "no request before the first use of the token"
    assert await token.current() == workspace.token
    [request] = server.calls("identity")
    assert "Coder-Session-Token" not in request.headers
    assert "agent_name" not in json.loads(request.body)
    assert log.masked(workspace.token) == log.MASK


async def test_concurrent_callers_share_one_exchange(server, workspace, source):
    token = source()
    found = await asyncio.gather(*(token.current() for _ in range(10)))
    assert set(found) == {workspace.token}
    await token.current()
    assert len(server.calls("identity")) == 1


async def test_the_exchange_has_the_proxy_headers_and_the_agent_name(server, workspace, source):
    await source(agent_name=workspace.agent.name, headers=ExtraHeaders({"X-Proxy-Auth": "letmein"})).current()
    [request] = server.calls("identity")
    assert request.headers["X-Proxy-Auth"] == "letmein"
    assert json.loads(request.body)["agent_name"] == workspace.agent.name


async def test_a_401_after_a_new_build_fetches_its_token(server, workspace, source, session):
    token = source()
    old = await token.current()
    new = str(uuid.uuid4())
    server.start_build(workspace, token=new)
    coderd = Coderd(server.url, token=token, session=session)
    await coderd.put_log_snapshot(server.add_task(workspace), b'{"messages":[]}', timeout_s=5)
    assert await token.current() == new != old
    assert await token.renew(old), "a later caller with the old token gets the new one without an exchange"
    assert len(server.calls("identity")) == 2


async def test_an_exchange_that_returns_the_same_token_is_not_a_renewal(server, workspace, source):
    token = source()
    old = await token.current()
    assert not await token.renew(old)
    assert await token.current() == old
    assert len(server.calls("identity")) == 2


async def test_while_a_claim_runs_the_old_token_stays_and_each_reason_is_logged_once(
    server, metadata, workspace, source
):
    token = source()
    old = await token.current()
    metadata.fault("respond", times=2, status=500)
    with structlog.testing.capture_logs() as logged:
        assert not await token.renew(old)
        assert not await token.renew(old)
        server.fault(
            "identity", "respond", status=404, body='{"message":"Instance with id \\"i\\" not found."}'
        )
        assert not await token.renew(old)
        assert not await token.renew(old), "the exchange returned the same token"
    assert await token.current() == old
    assert [record["event"] for record in logged] == [
        "identity.not_renewed",
        "identity.not_renewed",
        "identity.exchanged",
    ]


async def test_a_renewal_without_a_token_fetches_one(workspace, source):
    assert await source().renew("something else")


async def test_a_failed_renewal_without_a_token_returns_false(metadata, workspace, source):
    metadata.fault("respond", status=500)
    assert not await source().renew("something else")


async def test_with_two_agents_on_one_instance_the_agent_name_is_required(
    server, metadata, workspace, source
):
    other = server.add_workspace()
    server.set_instance(other, metadata.instance_id)
    workspace.agent.name, other.agent.name = "main", "side"
    error = await refusal(source())
    assert error.status == 409
    assert str(error).endswith(
        "Set CODER_AGENT_NAME to one of: main, side; set CODER_AGENT_NAME to one of those names"
    )
    assert await source(agent_name="side").current() == other.token


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (401, '{"message":"Invalid AWS identity.","detail":"Signature verification failed."}', "Invalid AWS identity. Signature verification failed.; coder.auth must name this cloud"),
        (404, '{"message":"Route not found."}', "404 Route not found.; this version of Coder knows no such identity"),
        (400, "{\"message\":\"Resource found for id \\\"i\\\", but isn't registered on the latest history.\"}", "normal while a build runs"),
        (429, '{"message":"You\'ve been rate limited"}', "429 You've been rate limited"),
        (502, "<html>Bad Gateway</html>", "502 <html>Bad Gateway</html>; check coder.url"),
        (500, "x" * 100_000, "500 xxx"),
        (302, "", "coderd: 302; check coder.url"),
        (200, "{}", "holds no session token"),
        (200, "[]", "holds no session token"),
        (200, "[" * 50_000, "holds no session token"),
        (200, '{"session_token":""}', "holds no session token"),
        (200, '{"session_token":"a b\\n"}', "holds no session token"),
        (200, '{"session_token":7}', "holds no session token"),
        (200, '{"session_token":"' + "x" * 600 + '"}', "holds no session token"),
    ],
)  # fmt: skip
async def test_the_error_of_a_refusal_has_the_message_of_coderd_and_a_hint(
    server, workspace, source, status, body, text
):
    server.fault("identity", "respond", status=status, body=body)
    error = await refusal(source())
    assert text in str(error)
    assert error.status == status
    assert len(str(error)) < 500


async def test_an_instance_without_an_agent_has_a_hint_about_the_template(server, source):
    assert "not found.; the template must bind this instance to the agent" in str(await refusal(source()))


@pytest.mark.parametrize("kind", [AWS, AZURE, GOOGLE])
async def test_a_redirect_is_not_followed(server, metadata, workspace, source, kind):
    metadata.fault("redirect", location=server.url)
    assert isinstance(await refusal(source(kind)), MetadataError)
    server.fault("identity", "redirect", location=metadata.url)
    before = len(metadata.requests)
    assert (await refusal(source(kind))).status == 307
    assert all(request.method != "POST" for request in metadata.requests[before:])


@pytest.mark.parametrize("fault", ["reset_before_body", "eof"])
async def test_the_error_of_a_broken_connection_names_its_peer(server, metadata, workspace, source, fault):
    metadata.fault(fault, times=2)  # aiohttp repeats an idempotent request once
    assert (await refusal(source())).message.startswith("metadata server: ")
    server.fault("identity", fault)
    error = await refusal(source())
    assert not isinstance(error, MetadataError)
    assert error.message.startswith("coderd: ")


async def test_each_step_has_a_timeout(server, metadata, workspace, source, monkeypatch):
    monkeypatch.setattr(identity, "STEP_TIMEOUT_S", 0.05)
    metadata.fault("no_headers")
    assert (await refusal(source())).message == "metadata server: no answer within 0.05s"
    monkeypatch.setattr(identity, "STEP_TIMEOUT_S", 0.5)
    server.fault("identity", "no_headers")
    assert (await refusal(source())).message == "coderd: no answer within 0.5s"


async def test_a_cancelled_caller_does_not_block_the_others(metadata, workspace, source):
    token = source()
    metadata.fault("no_headers")
    impatient = asyncio.create_task(token.current())
    while not metadata.requests:
        await asyncio.sleep(0)
    patient = asyncio.create_task(token.current())
    impatient.cancel()
    assert await patient == workspace.token


async def test_without_a_metadata_server_the_hint_asks_for_the_cloud(server, session):
    token = InstanceIdentityToken(
        AWS, coder_url=server.url, session=session, metadata_url="http://127.0.0.1:1"
    )
    error = await refusal(token)
    assert isinstance(error, MetadataError)
    assert error.hint == "is agentd on an instance of that cloud?"


async def test_a_404_of_the_metadata_server_has_a_hint_about_the_cloud(metadata, workspace, source):
    metadata.fault("respond", status=404)
    assert "404 to PUT /latest/api/token; coder.auth must name this cloud" in str(await refusal(source()))


@pytest.mark.parametrize("body", ["", "[]", '{"signature":"x"}', '{"signature":1,"encoding":"pkcs7"}'])
async def test_an_attested_document_without_a_signature_is_an_error(metadata, workspace, source, body):
    metadata.fault("respond", status=200, body=body)
    assert "has no signature and encoding" in str(await refusal(source(AZURE)))
