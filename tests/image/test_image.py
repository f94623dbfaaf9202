"""The container image, run as process 1 with a read-only root."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from image.container import Container, Store

from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.simulator.coderd import SimulatedCoderd
from agentd.simulator.coderd.workspaces import Workspace

pytestmark = pytest.mark.image
MIB = 1 << 20


class Peers:
    def __init__(self, coderd: SimulatedCoderd, agent: SimulatedAgentApi) -> None:
        self.coderd, self.agent = coderd, agent
        self.workspace: Workspace = coderd.add_prebuild()
        self.task_id = coderd.add_task(self.workspace)

    def environ(self) -> dict[str, str]:
        return {
            "CODER_AGENT_URL": self.coderd.url,
            "CODER_AGENT_TOKEN": self.workspace.token,
            "AGENTD_AGENTAPI_URL": self.agent.url,
            "AGENTD_SNAPSHOTS_TASK_ID": self.task_id,
        }

    async def listening(self) -> None:
        async with asyncio.timeout(30):
            await self.coderd.until(lambda: self.coderd.open_streams(self.workspace) > 0)

    def stored(self) -> str:
        snapshot = self.coderd.snapshots.get(self.task_id)
        return str(snapshot.envelope["data"]["messages"][-1]["content"]) if snapshot else ""


@pytest.fixture
async def peers() -> AsyncIterator[Peers]:
    async with SimulatedCoderd(ping_s=1.0) as coderd, SimulatedAgentApi() as agent:
        yield Peers(coderd, agent)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A new volume, with the mode of the directory in the image."""
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o1777)
    return volume


def started(store: Store, image: str, root: Path, volume: Path, peers: Peers, **more: object) -> Container:
    return Container(root, store.inspect(image), state=volume, environ=peers.environ(), **more)  # type: ignore[arg-type]  # passed through


async def check_that_stop_delivers(box: Container, peers: Peers) -> None:
    await peers.listening()
    peers.agent.add_message("agent", "the last message")
    code, took_s = await asyncio.to_thread(box.stop)
    assert (code, peers.stored()) == (0, "the last message"), box.log()
    assert took_s < 10


async def test_docker_stop_delivers_the_snapshot_within_ten_seconds(
    store: Store, image: str, root: Path, volume: Path, peers: Peers
) -> None:
    with started(store, image, root, volume, peers) as box:
        await check_that_stop_delivers(box, peers)


async def test_without_coderd_docker_stop_is_in_time_and_the_next_container_delivers(
    store: Store, image: str, root: Path, volume: Path, peers: Peers
) -> None:
    with started(store, image, root, volume, peers) as box:
        await peers.listening()
        await peers.coderd.stop()
        peers.agent.add_message("agent", "kept for later")
        code, took_s = await asyncio.to_thread(box.stop)
        assert code == 75, box.log()
        assert took_s < 10
    await peers.coderd.start()
    with started(store, image, root, volume, peers):
        async with asyncio.timeout(30):
            await peers.coderd.until(lambda: peers.stored() == "kept for later")


async def test_it_runs_as_a_uid_without_a_passwd_entry(
    store: Store, image: str, root: Path, volume: Path, peers: Peers
) -> None:
    with started(store, image, root, volume, peers, owner="1234567:0") as box:
        await check_that_stop_delivers(box, peers)
    assert (volume / "state").stat().st_uid == 1234567
    assert (volume / "state").stat().st_mode & 0o777 == 0o700


async def test_it_stops_under_tini(store: Store, image: str, root: Path, volume: Path, peers: Peers) -> None:
    tini = shutil.which("tini")
    if tini is None:
        pytest.skip("tini is not installed")
    shutil.copy(tini, root / "usr/local/bin/tini")
    with started(store, image, root, volume, peers, prefix=("tini", "--")) as box:
        await check_that_stop_delivers(box, peers)


async def test_the_health_check_of_the_image_passes_while_it_runs(
    store: Store, image: str, root: Path, volume: Path, peers: Peers
) -> None:
    check = store.inspect(image)["Healthcheck"]["Test"]
    assert check[0] == "CMD"
    with started(store, image, root, volume, peers) as box:
        await peers.listening()
        done = await asyncio.to_thread(box.exec, *check[1:])
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("claims ")
        gone = await asyncio.to_thread(box.exec, "env", "AGENTD_STATE_DIR=/var/lib/agentd/other", *check[1:])
        assert gone.returncode == 69


async def test_orphaned_processes_of_hooks_are_reaped(
    store: Store, image: str, root: Path, volume: Path, peers: Peers
) -> None:
    hook = root / "etc/agentd/hooks/on-claim.d/10-orphan"
    hook.write_text("#!/bin/sh\n(sleep 0.3; exit 0) >/dev/null 2>&1 &\n")
    hook.chmod(0o755)
    with started(store, image, root, volume, peers) as box:
        await peers.listening()
        peers.coderd.claim_start(peers.workspace)
        await peers.coderd.claim_finish(peers.workspace)

        async def until(there: bool) -> None:
            while bool(zombies(box)) is not there:
                await asyncio.sleep(0.05)

        await asyncio.wait_for(until(there=True), 30)
        await asyncio.wait_for(until(there=False), 60)


def zombies(box: Container) -> list[str]:
    processes = box.exec("sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null || true").stdout.splitlines()
    return [line for line in processes if line.rpartition(")")[2].split()[0] == "Z"]


def test_the_image_has_entry_point_user_and_volume(store: Store, image: str) -> None:
    config = store.inspect(image)
    assert config["Entrypoint"] == ["agentd"]
    assert config["Cmd"] == ["run"]
    assert config["User"] == "65532:65532"
    assert config["Volumes"] == {"/var/lib/agentd": {}}


def test_agentd_adds_less_than_thirty_megabytes_to_its_base(root: Path) -> None:
    files = [path for path in (root / "opt/agentd").rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) < 30 * MIB


def test_every_module_is_compiled_and_no_build_files_are_included(root: Path) -> None:
    library = next((root / "opt/agentd/lib").glob("python3*")) / "site-packages"
    sources = list(library.rglob("*.py"))
    assert sources
    compiled = {path.with_name(path.name.split(".")[0] + ".py").name for path in library.rglob("*.pyc")}
    assert {path.name for path in sources} <= compiled
    assert not (library / "pip").exists()
    assert not list((root / "opt/agentd").rglob("*.pyi"))
