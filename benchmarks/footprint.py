"""Measure one agentd: start, memory, idle CPU, stop. Prints a table of minimum, median and maximum.

    python benchmarks/footprint.py [--runs 5] [--idle-s 60] [--agentd PATH]

The daemon runs as a real child process. It is connected to the claim stream of a simulated coderd and polls a
simulated AgentAPI on loopback; both simulators run in another process. Times start at the fork. `listening`
ends when the socket of the local API accepts a connection, `first answer` when `/healthz` answers, `claim
stream` when the request reaches coderd. Memory is read from /proc/<pid>/smaps_rollup after the idle time, CPU
from the scheduler's nanoseconds of all threads.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.simulator.coderd import SimulatedCoderd

SETTLED_S = 20.0
"""After the agent is stable, the first upload and coderd's first ping."""


async def peers() -> None:
    """Run both peers of one daemon.

    Prints its environment as a line of JSON, then the time of its first stream request.
    """
    async with SimulatedCoderd() as coderd, SimulatedAgentApi() as agent:
        agent.add_message("agent", "ready when you are")
        agent.add_message("user", "please fix the build")
        agent.add_message("agent", "done: the build is green")
        agent.set_status("stable")
        workspace = coderd.add_prebuild()
        environ = {
            "CODER_AGENT_URL": coderd.url,
            "CODER_AGENT_TOKEN": workspace.token,
            "AGENTD_AGENTAPI_URL": agent.url,
            "AGENTD_SNAPSHOTS_TASK_ID": str(coderd.add_task(workspace)),
        }
        print(json.dumps(environ), flush=True)
        await coderd.until(lambda: bool(coderd.calls("reinit")))
        print(time.monotonic(), flush=True)
        await asyncio.Event().wait()


@contextlib.contextmanager
def running_peers() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, __file__, "--peers"], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def connected(path: Path, process: subprocess.Popen[bytes]) -> socket.socket:
    """The first connection that `process` accepts."""
    while process.poll() is None:
        probe = socket.socket(socket.AF_UNIX)
        try:
            probe.connect(str(path))
        except OSError:
            probe.close()
            time.sleep(0.001)
        else:
            return probe
    raise SystemExit(f"agentd exited with {process.returncode}")


def started_ms(
    process: subprocess.Popen[bytes], forked: float, path: Path, printed: Iterator[str]
) -> dict[str, float]:
    with connected(path, process) as probe:
        listening = time.monotonic()
        probe.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        if not probe.recv(16).startswith(b"HTTP/1."):
            raise SystemExit("agentd does not speak HTTP on its socket")
        answered = time.monotonic()
    moments = {"listening": listening, "first answer": answered, "claim stream": float(next(printed))}
    return {f"exec to {name} ms": (at - forked) * 1000 for name, at in moments.items()}


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


def one_run(command: list[str], idle_s: float) -> dict[str, float]:
    home = Path(tempfile.mkdtemp(prefix="agentd-bench-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        printed = iter(stack.enter_context(running_peers()).stdout or ())
        environ = {
            **json.loads(next(printed)),
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "AGENTD_STATE_DIR": str(home / "state"),
            "AGENTD_CLAIMS_HOOKS_DIR": str(home / "hooks"),
        }
        forked = time.monotonic()
        process = subprocess.Popen([*command, "run"], env=environ, stderr=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.kill)
        figures = started_ms(process, forked, home / "state" / "agentd.sock", printed)
        time.sleep(SETTLED_S)
        before = cpu_s(process.pid)
        time.sleep(idle_s)
        figures |= memory_mb(process.pid)
        figures["idle CPU ms/min"] = (cpu_s(process.pid) - before) / idle_s * 60_000
        stopping = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait()
        figures["SIGTERM to exit ms"] = (time.monotonic() - stopping) * 1000
        if code != 0:
            raise SystemExit(f"agentd exited with {code} at the end")
        return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--idle-s", type=float, default=60.0, help="seconds that each run is measured while idle"
    )
    parser.add_argument(
        "--agentd", default=None, help="the program to measure (default: this interpreter's agentd)"
    )
    parser.add_argument("--peers", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peers:
        asyncio.run(peers())
        return
    command = [options.agentd or str(Path(sys.executable).with_name("agentd"))]
    runs = []
    for number in range(options.runs):
        runs.append(one_run(command, options.idle_s))
        print(
            f"run {number + 1} of {options.runs}: " + ", ".join(f"{k} {v:.1f}" for k, v in runs[-1].items()),
            flush=True,
        )
    print(f"\n{'figure':24}{'min':>10}{'median':>10}{'max':>10}")
    for name in runs[0]:
        values = [run[name] for run in runs]
        print(f"{name:24}{min(values):10.1f}{statistics.median(values):10.1f}{max(values):10.1f}")


if __name__ == "__main__":
    main()
