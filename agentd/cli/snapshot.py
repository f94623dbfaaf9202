"""`agentd snapshot`: capture and deliver now, or show what would be sent."""

import argparse
import sys

from agentd import config
from agentd.cli import add_config_options, receipt
from agentd.cli.local_client import call
from agentd.errors import ExitCode, UnavailableError


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--show", action="store_true", help="print the exact bytes that would be sent; send nothing"
    )
    parser.add_argument("--json", action="store_true", help="the receipt as JSON")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """0 delivered or nothing to deliver; 75 kept in the spool; 69 nothing reachable and nothing spooled."""
    settings = config.load(file=args.config, flags=args.flags)
    from agentd.cli import takeover  # noqa: PLC0415 - aiohttp and the daemon's rooms, only for this command

    if args.show:
        payload = takeover.payload(settings)
        if payload is None:
            print("agentd: the agent does not answer and nothing is spooled", file=sys.stderr)
            return ExitCode.UNAVAILABLE
        sys.stdout.buffer.write(payload)
        sys.stdout.buffer.flush()
        return ExitCode.OK
    try:
        answer = call(
            settings.local_api.socket, "POST", "/v1/snapshot", timeout_s=settings.shutdown.budget_s + 5.0
        )
    except UnavailableError:
        answer = takeover.deliver(settings, budget_s=None)
        if answer is None:
            print("agentd: the agent does not answer and nothing is spooled", file=sys.stderr)
            return ExitCode.UNAVAILABLE
    return receipt.show(answer, as_json=args.json)
