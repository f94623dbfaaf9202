"""`agentd stop`: stop the daemon and print the delivery result. For Coder's `run_on_stop` scripts."""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any, Final

from agentd import config
from agentd.cli.local_client import call, daemon_socket
from agentd.cli.progress import UNSUPPORTED, Progress
from agentd.errors import ExitCode, UnavailableError

ANSWER_MARGIN_S: Final = 5.0
"""The daemon answers within its shutdown budget; this is added to the client's timeout."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="S",
        help=f"seconds to wait (default: shutdown.budget_s + {ANSWER_MARGIN_S:g})",
    )
    parser.add_argument("--json", action="store_true", help="print the receipt as JSON")
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="print progress to stderr (default: if stderr is a terminal)",
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0 (delivered or nothing to deliver) or 75 (kept in the spool)."""
    settings = config.load(file=args.config, flags=args.flags)
    progress = _progress(args.progress)
    timeout_s = args.timeout if args.timeout is not None else settings.shutdown.budget_s + ANSWER_MARGIN_S
    socket = daemon_socket(settings)
    try:
        with progress.polling(socket):
            receipt = call(socket, "POST", "/v1/stop", timeout_s=timeout_s)
    except UnavailableError as exc:
        from agentd.cli import takeover  # noqa: PLC0415 - the daemon package, needed only without a daemon

        print(f"agentd: {exc.message}; capturing and uploading without the daemon", file=sys.stderr)
        progress.stopping()
        receipt = takeover.deliver(
            settings, budget_s=args.timeout, on_captured=progress.captured, end_agent=True
        )
    progress.finished(receipt)
    return print_receipt(receipt, as_json=args.json)


def print_receipt(receipt: Mapping[str, Any], *, as_json: bool) -> int:
    """Print a delivery receipt. Returns 0 (delivered, or nothing to deliver) or 75 (kept in the spool)."""
    if as_json:
        print(json.dumps(receipt, ensure_ascii=False, indent=2))
    else:
        print(_summary(receipt))
        for one in receipt["destinations"]:
            print(f"  {one['name']}: {one['outcome']}" + (f" ({one['detail']})" if one.get("detail") else ""))
    return ExitCode.PENDING if receipt["outcome"] == "pending" else ExitCode.OK


def _summary(receipt: Mapping[str, Any]) -> str:
    """`delivered: 10 messages, 12,345 bytes, sha256 0123456789ab…`."""
    if receipt["outcome"] == "nothing" and not receipt["destinations"]:
        return "nothing to deliver"
    count = receipt["messages"]
    size = f"{count} message{'s' * (count != 1)}, {receipt['bytes']:,} bytes"
    snapshot = f"{size}, sha256 {receipt['sha256'][:12]}…"
    if receipt["outcome"] == "nothing":
        return f"kept in the spool: {snapshot}; {UNSUPPORTED}"
    summary = f"{receipt['outcome']}: {snapshot}"
    return f"{summary}; {_next_tries(receipt)}" if receipt["outcome"] == "pending" else summary


def _next_tries(receipt: Mapping[str, Any]) -> str:
    """When agentd tries an undelivered snapshot again. It retries a refused one only once per start."""
    refused = [one["name"] for one in receipt["destinations"] if one["outcome"] == "refused"]
    tries = ["kept in the spool"]
    if not refused or any(one["outcome"] == "pending" for one in receipt["destinations"]):
        tries.append("agentd tries again, at the latest at the next start")
    if refused:
        tries.append(f"refused by {', '.join(refused)}: the next start tries once more")
    return "; ".join(tries)


def _progress(requested: bool | None) -> Progress:
    enabled = sys.stderr is not None and (sys.stderr.isatty() if requested is None else requested)
    return Progress(sys.stderr if enabled else None)
