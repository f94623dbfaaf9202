"""Compare agentd's stop with a shell script for the same job (uploader.sh): time, memory, lost text.

    .venv/bin/python benchmarks/uploader.py [--runs 5]

Both use the same simulated AgentAPI and coderd. agentd runs as a real daemon with a stable agent, uploads only
at stop, and is timed from SIGTERM. The script is timed from its start, because SIGTERM would start it. Peak
memory is that of the largest process, from the kernel's accounting. Each figure is the median of the runs.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.simulator.coderd import SimulatedCoderd

SCRIPT = Path(__file__).with_name("uploader.sh")
WHEN = "2026-03-02T09:00:00Z"
CASES = {
    "10 small messages": ["ok, done with that"] * 10,
    "10 x 7,000 CJK": ["长" * 7_000] * 10,
    "1,000 x 1 KB": ["a line of text.\n" * 64 + "end"] * 1_000,
    "20,000 x 10 KB": ["a line of text.\n" * 640 + "end"] * 20_000,
}
Step = Callable[[], Awaitable[None]]
NEEDED = ("bash", "curl", "jq")
SETTLED_S = 10.0
"""After the agent is stable and the first replay of the events."""
# A process inherits the peak memory of its parent, and this process has the histories in memory. A small
# process between them avoids that.
LAUNCHER = """
import os, resource, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
print(process.pid, flush=True)
process.wait()
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, flush=True)
"""


@dataclass(frozen=True)
class Figures:
    """One stop: seconds to the 204 (None without one), peak megabytes, and what coderd has stored."""

    took_s: float | None
    peak_mb: float
    messages: int
    characters: int


class LargeHistory(SimulatedAgentApi):
    """Answers `/messages` with prepared bytes; the simulator itself would take seconds."""

    def prepare(self, contents: Sequence[str]) -> None:
        entries = [
            {"id": number, "content": content, "role": "agent" if number % 2 else "user", "time": WHEN}
            for number, content in enumerate(contents)
        ]
        self.load(entries)
        self.prepared: bytes | None = json.dumps({"messages": entries}, ensure_ascii=False).encode()

    async def _answer(self, name: str, request: web.Request, body: bytes) -> web.StreamResponse:
        if name == "messages" and self.prepared is not None:
            return web.Response(body=self.prepared, content_type="application/json")
        return await super()._answer(name, request, body)


@dataclass
class Peers:
    agent: LargeHistory
    coderd: SimulatedCoderd
    token: str
    task_id: str
    home: Path

    async def run(
        self, command: Sequence[str], environ: dict[str, str], until_ready: Step, *, signal_it: bool
    ) -> Figures:
        """Start `command`, wait until it is ready, send SIGTERM if `signal_it`, and wait for its end."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-S", "-c", LAUNCHER, *command, env=environ | {"PATH": os.environ["PATH"]},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        began = time.perf_counter()
        pid = int(await process.stdout.readline())
        try:
            await until_ready()
            if signal_it:
                began = time.perf_counter()
                os.kill(pid, signal.SIGTERM)
            stored = asyncio.create_task(self._stored_at())
            peak_kb = int(await process.stdout.readline())
            await asyncio.sleep(0)
            took_s = stored.result() - began if stored.done() else None
            stored.cancel()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            await process.wait()
        return self.figures(took_s, peak_kb / 1024)

    async def _stored_at(self) -> float:
        await self.coderd.until(lambda: self.task_id in self.coderd.snapshots)
        return time.perf_counter()

    def figures(self, took_s: float | None, peak_mb: float) -> Figures:
        kept = self.coderd.snapshots.get(self.task_id)
        contents = [one["content"] for one in kept.envelope["data"]["messages"]] if kept else []
        return Figures(took_s, peak_mb, len(contents), sum(map(len, contents)))


async def agentd_stops(peers: Peers) -> Figures:
    environ = {
        "CODER_AGENT_URL": peers.coderd.url,
        "CODER_AGENT_TOKEN": peers.token,
        "AGENTD_AGENTAPI_URL": peers.agent.url,
        "AGENTD_STATE_DIR": str(peers.home / "state"),
        "AGENTD_CLAIMS_HOOKS_DIR": str(peers.home / "hooks"),
        "AGENTD_SNAPSHOTS_TASK_ID": peers.task_id,
        "AGENTD_SNAPSHOTS_UPLOAD": "stop",
    }

    async def stable() -> None:
        while not list((peers.home / "state" / "spool").glob("*.snapshot")):
            await asyncio.sleep(0.1)
        await asyncio.sleep(SETTLED_S)

    return await peers.run([sys.executable, "-m", "agentd", "run"], environ, stable, signal_it=True)


async def agentd_stops_in_a_turn(peers: Peers) -> Figures:
    """The agent delivers a message: `/status` and `/messages` hang, only the event stream answers."""
    was_ready = peers.run

    async def run(
        command: Sequence[str], environ: dict[str, str], ready: Step, *, signal_it: bool
    ) -> Figures:
        async def busy() -> None:
            await ready()
            peers.agent.prepared = None
            peers.agent.hang()
            peers.agent.set_status("running")
            await asyncio.sleep(1.0)

        return await was_ready(command, environ, busy, signal_it=signal_it)

    peers.run = run
    return await agentd_stops(peers)


async def script_stops(peers: Peers) -> Figures:
    environ = {
        "TMPDIR": str(peers.home),
        "AGENTAPI_URL": peers.agent.url,
        "CODER_URL": peers.coderd.url,
        "TOKEN": peers.token,
        "TASK_ID": peers.task_id,
    }

    async def at_once() -> None:
        """The script needs no preparation."""

    return await peers.run([str(SCRIPT)], environ, at_once, signal_it=False)


async def one_run(contents: Sequence[str], stop: "Callable[[Peers], Awaitable[Figures]]") -> Figures:
    home = Path(tempfile.mkdtemp(prefix="agentd-bench-"))
    try:
        agent = LargeHistory()
        agent.prepare(contents)
        async with SimulatedCoderd(rate_limit=0) as coderd, agent:
            workspace = coderd.add_workspace()
            peers = Peers(agent, coderd, workspace.token, coderd.add_task(workspace), home)
            return await stop(peers)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def row(case: str, program: str, contents: Sequence[str], runs: Sequence[Figures]) -> str:
    times = [run.took_s for run in runs if run.took_s is not None]
    took = f"{statistics.median(times) * 1000:.0f} ms" if len(times) == len(runs) else "never"
    peak = statistics.median(run.peak_mb for run in runs)
    there = sum(map(len, contents[-10:]))
    least = min(runs, key=lambda run: run.characters)
    lost = max(0, there - least.characters)
    return (
        f"| {case} | {program} | {took} | {peak:.0f} MB | {least.messages} of {min(10, len(contents))} messages, "
        f"{least.characters:,} of {there:,} characters ({lost / there:.0%} lost) |"
    )


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--agentd", action="store_true", help="measure agentd alone")
    args = parser.parse_args()
    runs, programs = args.runs, {"agentd": agentd_stops}
    if not args.agentd:
        programs = {"bash + curl + jq": script_stops, **programs}
    missing = [] if args.agentd else [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        raise SystemExit(
            f"the script needs {', '.join(missing)}, which this machine lacks; on Debian: apt-get install {' '.join(missing)}"
        )
    print("| last ten of | program | SIGTERM to 204 | peak memory | coderd has |")
    print("| --- | --- | --- | --- | --- |")
    for case, contents in CASES.items():
        for program, stop in programs.items():
            measured = [await one_run(contents, stop) for _ in range(runs)]
            print(row(case, program, contents, measured), flush=True)
    contents = CASES["10 small messages"]
    measured = [await one_run(contents, agentd_stops_in_a_turn) for _ in range(runs)]
    print(row("10 small messages, /status hangs", "agentd", contents, measured), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
