"""`agentd simulate run|list`: scenarios, each a fault or a lifecycle, played with the real daemon."""

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

    from agentd.simulator.scenario.file import Scenario, Step
    from agentd.simulator.scenario.play import Verdict


def configure_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "scenarios", nargs="*", metavar="FILE|NAME", help="a scenario file, or the name of a shipped one"
    )
    parser.add_argument("--all", action="store_true", help="every shipped scenario")
    parser.add_argument("--quiet", action="store_true", help="one line a scenario; steps only when one fails")
    parser.add_argument(
        "--keep", action="store_true", help="keep each scenario's folder (state, hooks, logs)"
    )


def show() -> int:
    """The shipped scenarios, one line each."""
    from agentd.simulator.scenario import file  # noqa: PLC0415 - servers are not needed to parse arguments

    found = [file.load(path) for path in file.shipped()]
    width = max(len(scenario.name) for scenario in found)
    for scenario in found:
        print(f"{scenario.name:<{width}}  {scenario.title}")
    return ExitCode.OK


def run(args: argparse.Namespace) -> int:
    """0 when every expectation of every scenario holds, else 1. Raises `ScenarioError` for what is no scenario."""
    from agentd.simulator.scenario import file  # noqa: PLC0415 - as above

    paths = file.shipped() if args.all else [file.find(name) for name in args.scenarios]
    if not paths:
        raise file.ScenarioError(
            "no scenario named", hint="FILE, NAME or --all; `agentd simulate list` names the shipped ones"
        )
    # All are read before the first is played: a mistake in the last should not take a minute to show.
    verdicts = [_play(scenario, args) for scenario in [file.load(path) for path in paths]]
    failed = [verdict.scenario.name for verdict in verdicts if not verdict.holds]
    if len(verdicts) > 1:
        print(
            f"{len(verdicts) - len(failed)} of {len(verdicts)} scenarios hold"
            + (f"; not: {', '.join(failed)}" if failed else "")
        )
    return ExitCode.FAILED if failed else ExitCode.OK


def _play(scenario: "Scenario", args: argparse.Namespace) -> "Verdict":
    from agentd.simulator.scenario.play import play  # noqa: PLC0415 - as above

    def tell(step: "Step") -> None:
        if not args.quiet:
            print(f"  ✓ {step.number:2} {step.say or step}", flush=True)

    if not args.quiet:
        print(f"{scenario.name}: {scenario.title}", flush=True)
    home = Path(tempfile.mkdtemp(prefix=f"agentd-{scenario.name}-"))
    try:
        verdict = asyncio.run(_to_its_end(play(scenario, home, tell=tell)))
    except asyncio.CancelledError:
        raise AgentdError(f"{scenario.name}: interrupted") from None
    finally:
        if args.keep:
            print(f"  kept: {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)
    if verdict.holds:
        print(f"✓ {scenario.name} holds ({verdict.seconds:.1f} s)", flush=True)
    else:
        _tell_failure(verdict)
    return verdict


async def _to_its_end(playing: "Coroutine[Any, Any, Verdict]") -> "Verdict":
    """SIGTERM ends it as ^C does: no daemon that it started is left behind."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await playing


def _tell_failure(verdict: "Verdict") -> None:
    step = verdict.failed
    if step is not None:
        said = f"  {step.say}\n" if step.say else ""
        print(
            f"✗ {verdict.scenario.name}: step {step.number} does not hold\n{said}  {step}\n  {verdict.why}",
            file=sys.stderr,
            flush=True,
        )
