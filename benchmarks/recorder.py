"""Measure the traffic and CPU of observing AgentAPI: by polling only, and with the event stream.

    .venv/bin/python benchmarks/recorder.py [--seconds 30]

Three processes: a simulated AgentAPI, a watcher with recorder and spool as in the daemon, and this process
between them, which counts the bytes. Idle: an agent that has waited for input for some time. Busy: a screen
of 500 padded lines that changes 25 times a second. CPU is from the scheduler's accounting of each process.
The simulated AgentAPI is written in Python: compare its CPU only between the rows, not with the real
AgentAPI.
"""

import argparse
import asyncio
import contextlib
import gc
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from agentd.agents.agent import Change
from agentd.agents.agentapi.agent import AgentApiAgent
from agentd.agents.agentapi.client import AgentApiClient
from agentd.clock import Clock
from agentd.metrics import Registry
from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.snapshots.recorder import Recorder
from agentd.snapshots.spool import Spool
from agentd.stability.tracker import Tracker
from agentd.stability.watcher import Watcher

CHANGE_S = 0.04
SETTLED_S = 40.0
"""After the watcher has reduced its poll rate for an idle agent."""
SCREEN = "\n".join(f"{'some output of a tool':80}" for _ in range(500))


class Relay:
    """Forwards connections to AgentAPI and counts the bytes that AgentAPI sends."""

    def __init__(self, port: int) -> None:
        self.sent_bytes = 0
        self._port = port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", self._port)
        with contextlib.suppress(OSError):
            await asyncio.gather(
                self._pass(reader, onward_writer, 0),
                self._pass(onward_reader, writer, 1),
                return_exceptions=True,
            )

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, counted: int) -> None:
        while chunk := await source.read(1 << 16):
            self.sent_bytes += counted * len(chunk)
            sink.write(chunk)
            await sink.drain()
        sink.close()


async def run_agent(busy: bool) -> None:
    async with SimulatedAgentApi() as agent:
        agent.add_message("agent", SCREEN)
        agent.add_message("user", "please fix the build")
        agent.add_message("agent", SCREEN)
        print(agent.port, flush=True)
        if busy:
            agent.set_status("running")
        for number in range(10**9):
            await asyncio.sleep(CHANGE_S if busy else 3600)
            agent.rewrite_last(f"{SCREEN}\n{number:80}")


async def never() -> AsyncIterator[Change]:
    """Announces nothing."""
    await asyncio.get_running_loop().create_future()
    yield Change()


async def run_watcher(url: str, follow: bool) -> None:
    gc.freeze()  # as the daemon does after its imports
    spool = Spool(Path(os.environ["SPOOL"]))
    recorder = Recorder(
        spool=spool, task_id="", max_messages=10, max_bytes=65_536, checkpoint_s=5, clock=Clock(),
        metrics=Registry(),
    )  # fmt: skip
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        clock = Clock()
        agent = AgentApiAgent(AgentApiClient(url, session=session), keep=10, clock=clock)
        watcher = Watcher(
            agent=agent, tracker=Tracker(5.0), clock=clock, poll_interval_s=1.0, checkpoint_s=5, keep_messages=10
        )  # fmt: skip
        watcher.messages_read.add(recorder.record_messages)
        if not follow:
            agent.changes = never  # type: ignore[method-assign]  # polls only
        group.create_task(watcher.run())
        group.create_task(recorder.run())


@contextlib.asynccontextmanager
async def temporary_spool() -> AsyncIterator[None]:
    """Sets SPOOL for the watcher, which is killed and cannot delete the directory."""
    with tempfile.TemporaryDirectory(prefix="agentd-bench-") as folder:
        os.environ["SPOOL"] = folder
        yield


@contextlib.asynccontextmanager
async def child(*words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, *words, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


def cpu_s(pid: int) -> float:
    return (
        sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())
        / 1e9
    )


async def measure(busy: bool, follow: bool, seconds: float) -> str:
    async with child("agent", str(int(busy))) as agent, temporary_spool():
        relay = Relay(int(await agent.stdout.readline()))
        server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with child("watcher", f"http://127.0.0.1:{port}", str(int(follow))) as watcher:
            await asyncio.sleep(5 if busy else SETTLED_S)
            before = relay.sent_bytes, cpu_s(agent.pid), cpu_s(watcher.pid)
            await asyncio.sleep(seconds)
            after = relay.sent_bytes, cpu_s(agent.pid), cpu_s(watcher.pid)
        server.close()
    sent, theirs, ours = ((late - early) * 60 / seconds for early, late in zip(before, after, strict=True))
    return (
        f"| {'busy' if busy else 'idle'} | {'poll and events' if follow else 'poll only'} "
        f"| {sent / 1000:,.1f} kB | {ours * 1000:,.0f} ms | {theirs * 1000:,.0f} ms |"
    )


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0)
    seconds = parser.parse_args().seconds
    print(
        "| agent | observed by | bytes a minute | CPU a minute, agentd | CPU a minute, simulated AgentAPI |"
    )
    print("| --- | --- | --- | --- | --- |")
    for busy in (False, True):
        for follow in (False, True):
            print(await measure(busy, follow, seconds), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["agent"]:
        asyncio.run(run_agent(sys.argv[2] == "1"))
    elif sys.argv[1:2] == ["watcher"]:
        asyncio.run(run_watcher(sys.argv[2], sys.argv[3] == "1"))
    else:
        asyncio.run(main())
