"""`agentd status`: print the state of the daemon."""

import argparse
import json
from datetime import UTC, datetime
from typing import Any

from agentd import config
from agentd.cli.local_client import call, daemon_socket
from agentd.errors import ExitCode


def configure(parser: argparse.ArgumentParser) -> None:
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the daemon's JSON response")
    form.add_argument(
        "--oneline",
        action="store_true",
        help="print one line, for a shell prompt or a Coder agent metadata script",
    )
    parser.add_argument(
        "--watch", action="store_true", help="print the status after every change until Ctrl-C"
    )


def run(args: argparse.Namespace) -> int:
    """Raises `UnavailableError` (69) if no daemon listens."""
    socket = daemon_socket(config.load(file=args.config, flags=args.flags))
    if not args.watch:
        print(_as_text(call(socket, "GET", "/v1/status"), args))
        return ExitCode.OK
    from agentd.cli.status_feed import statuses  # noqa: PLC0415 - saves import time without --watch

    printed = ""
    for status in statuses(socket):
        text = _as_text(status, args)
        if text != printed:
            print(text, flush=True)
            printed = text
    return ExitCode.OK


def _as_text(status: dict[str, Any], args: argparse.Namespace) -> str:
    if args.json:
        return json.dumps(status, ensure_ascii=False, indent=2)
    return _one_line(status) if args.oneline else _paragraph(status)


def _one_line(status: dict[str, Any]) -> str:
    """`claims settled · agent stable · snapshot delivered (12,345 bytes)`."""
    return f"claims {status['claims']['state']} · agent {status['agent']['status']} · snapshot {_snapshot(status['snapshot'])}"


def _paragraph(status: dict[str, Any]) -> str:
    """A line each for the daemon, claims, agent, task and snapshot."""
    claims, agent = status["claims"], status["agent"]
    workspace = status["workspace_id"] or "not known yet"
    lines = [
        f"agentd {status['version']}, pid {status['pid']}, since {_at(status['started_at'])}, workspace {workspace}",
        f"claims    {claims['state']} since {_at(claims['since'])}: {claims['reason']}",
        f"agent     {agent['status']} since {_at(agent['since'])}: {agent['evidence']}",
        f"task      {_task(status['task'])}",
        f"snapshot  {_snapshot(status['snapshot'])}",
    ]
    return "\n".join(lines)


def _task(task: dict[str, Any]) -> str:
    state = f", {task['state']}" if task["state"] else ""
    return f"{task['status']}{state}: {task['message']}"


def _snapshot(snapshot: dict[str, Any]) -> str:
    if not snapshot["captured_at"]:
        return "nothing captured yet"
    count = snapshot["messages"]
    size = f"{count} message{'' if count == 1 else 's'}, {snapshot['bytes']:,} bytes"
    size += f", captured {_at(snapshot['captured_at'])}"
    receipt = snapshot["last_receipt"] or {"outcome": "nothing", "destinations": []}
    if not snapshot["pending"]:
        return f"delivered ({size})" if receipt["outcome"] == "delivered" else f"kept ({size})"
    reasons = [f"{one['name']}: {one['detail']}" for one in receipt["destinations"] if one["detail"]]
    # A refused snapshot is not sent again before the next start.
    is_pending = any(one["outcome"] == "pending" for one in receipt["destinations"])
    return "; ".join([f"{'pending' if is_pending else 'refused'} ({size})", *reasons])


def _at(stamp: str | None) -> str:
    if not stamp:
        return "never"
    moment = datetime.fromisoformat(stamp)
    form = "%H:%M:%S" if moment.date() == datetime.now(UTC).date() else "%Y-%m-%d %H:%M:%S"
    return moment.strftime(form)
