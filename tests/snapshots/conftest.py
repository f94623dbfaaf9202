"""One workspace with a task at a simulated coderd, and what agentd needs to deliver to it."""

import pytest

from agentd.peers.coderd import Coderd
from agentd.peers.tls import aiohttp
from agentd.peers.token import StaticToken
from agentd.simulator.coderd import SimulatedCoderd
from agentd.snapshots.spool import Spool


@pytest.fixture
async def spool(tmp_path):
    spool = Spool.open(tmp_path / "spool")
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
