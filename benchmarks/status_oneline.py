"""Measure the time of `agentd status --oneline` as a Coder agent metadata script; the budget is 60 ms.

.venv/bin/python benchmarks/status_oneline.py [RUNS]
"""

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.simulator.coderd import SimulatedCoderd
from agentd.simulator.daemon_process import DaemonProcess

RUNS = int(sys.argv[1]) if len(sys.argv) > 1 else 40
PROGRAM = Path(sys.executable).with_name("agentd")


def timed_ms(command: list[str], environ: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - began) * 1000


async def main() -> None:
    async with SimulatedCoderd() as coderd, SimulatedAgentApi() as agent:
        with tempfile.TemporaryDirectory() as folder:
            environ = {
                "CODER_AGENT_URL": coderd.url,
                "CODER_AGENT_TOKEN": coderd.add_workspace().token,
                "AGENTD_AGENTAPI_URL": agent.url,
                "AGENTD_STATE_DIR": folder,
            }
            async with DaemonProcess(environ, state_dir=Path(folder)) as daemon:
                await daemon.log("agentd.started")
                for name, command in {
                    "python -c pass": [sys.executable, "-c", "pass"],
                    "agentd status --oneline": [str(PROGRAM), "status", "--oneline"],
                }.items():
                    took = [await asyncio.to_thread(timed_ms, command, environ) for _ in range(RUNS)]
                    print(
                        f"{name:24} fastest {min(took):5.1f} ms, median {statistics.median(took):5.1f} ms,"
                        f" 95 % below {sorted(took)[int(RUNS * 0.95)]:5.1f} ms"
                    )


asyncio.run(main())
