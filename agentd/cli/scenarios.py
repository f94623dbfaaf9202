"""`agentd simulate run` and `agentd simulate list`: run scenarios, list the shipped ones."""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentd.errors import AgentdError, ExitCode

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from agentd.simulator.scenario.definition import Scenario, ScenarioStep
    from agentd.simulator.scenario.execute import Verdict


def configure_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("scenarios", nargs="*", metavar="FILE|NAME", help="a scenario file, or the name of a shipped one")
    add("--all", action="store_true", help="run every shipped scenario")
    add("--quiet", action="store_true", help="print one line for each scenario, and the step that failed")
    add("--keep", action="store_true", help="keep the directory of each scenario: state, hooks and logs")


def show() -> int:
    """Print the shipped scenarios, one line each."""
    from agentd.simulator.scenario import file  # noqa: PLC0415 - not needed to parse arguments

    found = [file.load(path) for path in file.shipped()]
    width = max(len(scenario.name) for scenario in found)
    for scenario in found:
        print(f"{scenario.name:<{width}}  {scenario.title}")
    return ExitCode.OK


def run(args: argparse.Namespace) -> int:
    """Returns 0 when every scenario passes, else 1. Raises `ScenarioError` for an invalid file."""
    from agentd.simulator.scenario import definition, file  # noqa: PLC0415 - as above

    paths = file.shipped() if args.all else [file.find(name) for name in args.scenarios]
    if not paths:
        raise definition.ScenarioError(
            "no scenario given",
            hint="give FILE, NAME or --all; `agentd simulate list` prints the shipped ones",
        )
    # Read all files first, so that an error in the last one is reported at once.
    verdicts = [_run(scenario, args) for scenario in [file.load(path) for path in paths]]
    failed = [verdict.scenario.name for verdict in verdicts if not verdict.passed]
    if len(verdicts) > 1:
        print(
            f"{len(verdicts) - len(failed)} of {len(verdicts)} scenarios passed"
            + (f"; failed: {', '.join(failed)}" if failed else "")
        )
    return ExitCode.FAILED if failed else ExitCode.OK


def _run(scenario: "Scenario", args: argparse.Namespace) -> "Verdict":
    """Run one scenario in a temporary directory, and print its steps and its verdict."""
    from agentd.simulator.scenario.execute import execute  # noqa: PLC0415 - as above

    async def print_step(step: "ScenarioStep") -> None:
        if not args.quiet:
            print(f"  ✓ {step.number:2} {step.say or step}", flush=True)

    if not args.quiet:
        print(f"{scenario.name}: {scenario.title}", flush=True)
    home = Path(tempfile.mkdtemp(prefix=f"agentd-{scenario.name}-"))
    try:
        verdict = asyncio.run(_cancel_on_sigterm(execute(scenario, home, on_step=print_step)))
    except asyncio.CancelledError:
        raise AgentdError(f"{scenario.name}: interrupted") from None
    finally:
        if args.keep:
            print(f"  kept: {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)
    if verdict.passed:
        print(f"✓ {scenario.name} passed ({verdict.seconds:.1f} s)", flush=True)
    else:
        _print_failure(verdict)
    return verdict


async def _cancel_on_sigterm(running: "Coroutine[Any, Any, Verdict]") -> "Verdict":
    """Run the scenario. SIGTERM cancels it, as Ctrl-C does, so that its daemon is stopped."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await running


def _print_failure(verdict: "Verdict") -> None:
    step = verdict.failed
    if step is not None:
        description = f"  {step.say}\n" if step.say else ""
        print(
            f"✗ {verdict.scenario.name}: step {step.number} failed\n{description}  {step}\n  {verdict.why}",
            file=sys.stderr,
            flush=True,
        )
