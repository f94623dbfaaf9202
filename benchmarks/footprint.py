"""What one copy of agentd costs: start, memory, idle CPU, stop. Prints a table of minimum, median and maximum.

    python benchmarks/footprint.py [--runs 5] [--idle-s 60] [--agentd PATH]

The daemon runs as a real child process, holding the claim stream of a simulated coderd and polling a simulated AgentAPI
on loopback. Time to listening is taken from fork to the first answer on the local API's socket. Memory is read from
/proc/<pid>/smaps_rollup after it has been idle, CPU from the scheduler's nanoseconds of all its threads.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.simulator.coderd import SimulatedCoderd


def listening(path: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
        probe.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        return probe.recv(16).startswith(b"HTTP/1.")
    return False


def memory_mb(pid: int) -> dict[str, float]:
    kb: dict[str, float] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        kb[name] = float(value.split()[0])
    private = kb["Private_Clean"] + kb["Private_Dirty"]
    return {"RSS MB": kb["Rss"] / 1024, "PSS MB": kb["Pss"] / 1024, "private MB": private / 1024}


def cpu_s(pid: int) -> float:
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


@contextlib.asynccontextmanager
async def daemon(
    command: list[str], home: Path, coderd: SimulatedCoderd, agent: SimulatedAgentApi
) -> AsyncIterator[tuple[asyncio.subprocess.Process, float]]:
    workspace = coderd.add_prebuild()
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "CODER_AGENT_URL": coderd.url,
        "CODER_AGENT_TOKEN": workspace.token,
        "AGENTD_AGENTAPI_URL": agent.url,
        "AGENTD_STATE_DIR": str(home / "state"),
        "AGENTD_CLAIMS_HOOKS_DIR": str(home / "hooks"),
        "AGENTD_SNAPSHOTS_TASK_ID": coderd.add_task(workspace),
    }
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *command, "run", env=environ, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        while not listening(home / "state" / "agentd.sock"):
            if process.returncode is not None:
                raise SystemExit(f"agentd exited with {process.returncode}")
            await asyncio.sleep(0.002)
        yield process, (time.perf_counter() - started) * 1000
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def one_run(command: list[str], idle_s: float) -> dict[str, float]:
    home = Path(tempfile.mkdtemp(prefix="agentd-bench-"))
    try:
        async with SimulatedCoderd() as coderd, SimulatedAgentApi() as agent:
            agent.add_message("agent", "ready when you are")
            agent.add_message("user", "please fix the build")
            agent.add_message("agent", "done: the build is green")
            agent.set_status("stable")
            async with daemon(command, home, coderd, agent) as (process, start_ms):
                await asyncio.sleep(20)  # past the first settle, the first upload and coderd's first ping
                before = cpu_s(process.pid)
                await asyncio.sleep(idle_s)
                figures = {
                    "exec to listening ms": start_ms,
                    **memory_mb(process.pid),
                    "idle CPU ms/min": (cpu_s(process.pid) - before) / idle_s * 60_000,
                }
                stopping = time.perf_counter()
                process.send_signal(signal.SIGTERM)
                code = await process.wait()
                figures["SIGTERM to exit ms"] = (time.perf_counter() - stopping) * 1000
                if code != 0:
                    raise SystemExit(f"agentd exited with {code} at the end")
                return figures
    finally:
        shutil.rmtree(home)


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--idle-s", type=float, default=60.0, help="how long each run is watched while idle")
    parser.add_argument(
        "--agentd", default=None, help="the program to measure (default: this interpreter's agentd)"
    )
    options = parser.parse_args()
    command = [options.agentd] if options.agentd else [sys.executable, "-m", "agentd"]
    runs = []
    for number in range(options.runs):
        runs.append(await one_run(command, options.idle_s))
        print(
            f"run {number + 1} of {options.runs}: " + ", ".join(f"{k} {v:.1f}" for k, v in runs[-1].items()),
            flush=True,
        )
    print(f"\n{'figure':24}{'min':>10}{'median':>10}{'max':>10}")
    for name in runs[0]:
        values = [run[name] for run in runs]
        print(f"{name:24}{min(values):10.1f}{statistics.median(values):10.1f}{max(values):10.1f}")


if __name__ == "__main__":
    asyncio.run(main())
