"""`agentd demo`: runs the shipped scenario `demo` and prints its steps.

The daemon is the real one, as a child process; coderd and AgentAPI are simulated, on loopback ports.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentd.cli.demo_page import DemoPage
from agentd.errors import AgentdError, ExitCode

if TYPE_CHECKING:
    from agentd.simulator.scenario.definition import ScenarioStep

BUDGET_S: Final = 60.0
_READ_LOGS: Final = "run again with --keep and read daemon-*.log"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep",
        action="store_true",
        help="keep the demo's directory: state directory, hooks and the daemon's logs",
    )
    parser.add_argument(
        "--ui",
        type=int,
        nargs="?",
        const=0,
        metavar="PORT",
        help="show the demo on a page on 127.0.0.1 (default: any free port); afterwards the simulators run until Enter",
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0 when every step succeeded, 1 after the first that failed."""
    home = Path(tempfile.mkdtemp(prefix="agentd-demo-"))
    try:
        asyncio.run(_run(home, DemoPage(args.ui)))
    except AgentdError as exc:
        print(f"\n✗ {exc}", file=sys.stderr)
        return ExitCode.FAILED
    finally:
        if args.keep:
            print(f"kept: {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)
    return ExitCode.OK


async def _run(home: Path, page: DemoPage) -> None:
    """Raises `AgentdError` for a failed step, and after `BUDGET_S` (twice that with a page, which pauses)."""
    from agentd.simulator.scenario import file  # noqa: PLC0415 - not needed to parse arguments
    from agentd.simulator.scenario.execute import execute_steps  # noqa: PLC0415 - as above
    from agentd.simulator.scenario.run import ScenarioRun  # noqa: PLC0415 - as above

    started = time.monotonic()
    last = "the start"

    async def announce(sentence: str) -> None:
        print(f"\n[{time.monotonic() - started:5.1f} s] {sentence}", flush=True)
        await page.show(sentence)

    async def on_step(step: "ScenarioStep") -> None:
        nonlocal last
        last = step.say or str(step)
        if step.say and step.verb == "do":
            await announce(step.say)
        elif step.say:
            print(f"          ✓ {step.say}", flush=True)
            await page.show(step.say, "good")

    scenario = file.load(file.find("demo"))
    environ = {**scenario.daemon_env, "AGENTD_LOCAL_API_LISTEN": page.daemon_listen}
    scenario = dataclasses.replace(scenario, daemon_env=environ)
    async with ScenarioRun(scenario, home) as run, page.serve(run.coderd, run.agent):
        await announce("The daemon is the real one; coderd and AgentAPI are simulated, on loopback ports.")
        limit_s = 2 * BUDGET_S if page.is_shown else BUDGET_S
        try:
            verdict = await asyncio.wait_for(execute_steps(run, on_step=on_step), limit_s)
        except TimeoutError:
            raise AgentdError(f"the demo exceeded {limit_s:g} s after: {last}", hint=_READ_LOGS) from None
        if verdict.failed:
            difference = f"{verdict.failed.say or verdict.failed}: {verdict.why}"
            await page.show(difference, "bad")
            raise AgentdError(difference, hint=_READ_LOGS)
        await announce(
            f"Done in {time.monotonic() - started:.1f} s. No hook ran twice, and no message was lost."
        )
        if page.is_shown:
            await run.agent.start()
            daemon = await run.start_daemon({}, ())
            await announce("The demo is over. Use the page's buttons, or press Enter to exit.")
            await page.until_enter()
            with contextlib.suppress(ProcessLookupError):  # Ctrl-C stops the daemon, too
                await daemon.stop()
