"""`agentd stop`, for Coder's `run_on_stop` scripts."""

import argparse
import sys

from agentd import config
from agentd.cli import add_config_options, receipt
from agentd.cli.local_client import call, daemon_socket
from agentd.errors import ExitCode, UnavailableError

NOTHING = "agentd: the agent does not answer and nothing is spooled"

# The daemon answers when its own budget is over at the latest; this much more covers the answer's way.
ANSWER_MARGIN_S = 5.0


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout", type=float, metavar="S", help="seconds to wait (default: shutdown.budget_s and a little)"
    )
    parser.add_argument("--json", action="store_true", help="the receipt as JSON")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """0 delivered or nothing to deliver; 75 kept in the spool; 69 nothing reachable and nothing spooled."""
    settings = config.load(file=args.config, flags=args.flags)
    timeout_s = args.timeout if args.timeout is not None else settings.shutdown.budget_s + ANSWER_MARGIN_S
    try:
        answer = call(daemon_socket(settings), "POST", "/v1/stop", timeout_s=timeout_s)
    except UnavailableError as exc:
        from agentd.cli import takeover  # noqa: PLC0415 - the daemon's rooms, needed only when there is no daemon

        print(f"agentd: {exc.message}; delivering without it", file=sys.stderr)
        answer = takeover.deliver(settings, budget_s=args.timeout)
    if answer is None:
        print(NOTHING, file=sys.stderr)
        return ExitCode.UNAVAILABLE
    return receipt.show(answer, as_json=args.json)
