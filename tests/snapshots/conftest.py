"""A simulated coderd with a workspace and a task, and the objects that deliver to it."""

import http.client

import pytest

from agentd.coderd.client import Coderd
from agentd.coderd.token import StaticToken
from agentd.simulator.coderd import SimulatedCoderd
from agentd.snapshots.spool import Spool
from agentd.tls import aiohttp


@pytest.fixture
async def spool(tmp_path):
    spool = Spool(tmp_path / "spool")
    yield spool
    spool.close()


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def server():
    async with SimulatedCoderd(era="E3") as server:
        yield server


@pytest.fixture
def workspace(server):
    return server.add_workspace()


@pytest.fixture
def task_id(server, workspace):
    return server.add_task(workspace)


@pytest.fixture
def coderd(server, workspace, session):
    return Coderd(server.url, token=StaticToken(workspace.token), session=session)


@pytest.fixture
def s3(monkeypatch):
    """An S3 server with a bucket `archive`. Environment variables hold its address and credentials."""
    pytest.importorskip("obstore", reason="needs the extra: pip install 'agentd[objects]'")
    server_module = pytest.importorskip(
        "moto.server", reason="needs an S3 server: pip install 'moto[server,s3]'"
    )
    boto3 = pytest.importorskip("boto3")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    endpoint = f"http://127.0.0.1:{port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT": endpoint,
    }.items():
        monkeypatch.setenv(name, value)
    # The server's buckets stay in the process after it stops.
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/moto-api/reset")
    connection.getresponse().read()  # otherwise the reset could come after the bucket
    connection.close()
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="archive")
    yield client
    server.stop()
