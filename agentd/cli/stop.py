"""`agentd stop`, for Coder's `run_on_stop` scripts."""

import argparse
import sys

from agentd import config
from agentd.cli import add_config_options, receipt
from agentd.cli.local_client import call, daemon_socket
from agentd.cli.progress import Progress
from agentd.errors import ExitCode, UnavailableError

NOTHING = "agentd: the agent does not answer and nothing is spooled"

# The daemon answers when its own budget is over at the latest; this much more covers the answer's way.
ANSWER_MARGIN_S = 5.0


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout", type=float, metavar="S", help="seconds to wait (default: shutdown.budget_s and a little)"
    )
    parser.add_argument("--json", action="store_true", help="the receipt as JSON")
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="say on stderr how far it is (default: when stderr is a terminal)",
    )
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """0 delivered or nothing to deliver; 75 kept in the spool; 69 nothing reachable and nothing spooled."""
    settings = config.load(file=args.config, flags=args.flags)
    progress = _progress(args.progress)
    timeout_s = args.timeout if args.timeout is not None else settings.shutdown.budget_s + ANSWER_MARGIN_S
    socket = daemon_socket(settings)
    try:
        with progress.watching(socket):
            answer = call(socket, "POST", "/v1/stop", timeout_s=timeout_s)
    except UnavailableError as exc:
        from agentd.cli import takeover  # noqa: PLC0415 - the daemon's rooms, needed only when there is no daemon

        print(f"agentd: {exc.message}; delivering without it", file=sys.stderr)
        progress.stopping()
        answer = takeover.stop(settings, budget_s=args.timeout, on_captured=progress.captured)
    if answer is None:
        print(NOTHING, file=sys.stderr)
        return ExitCode.UNAVAILABLE
    progress.over(answer)
    return receipt.show(answer, as_json=args.json)


def _progress(asked: bool | None) -> Progress:
    wanted = sys.stderr is not None and (sys.stderr.isatty() if asked is None else asked)
    return Progress(sys.stderr if wanted else None)
