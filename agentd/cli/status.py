"""`agentd status`: what the daemon knows, in words."""

import argparse
import json
from datetime import UTC, datetime
from typing import Any

from agentd import config
from agentd.cli import add_config_options
from agentd.cli.local_client import call, daemon_socket
from agentd.errors import ExitCode


def configure(parser: argparse.ArgumentParser) -> None:
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="the daemon's answer as it is")
    form.add_argument(
        "--oneline", action="store_true", help="one line, for a prompt or a Coder agent-metadata script"
    )
    parser.add_argument(
        "--watch", action="store_true", help="go on, printing whenever something changed; end with Ctrl-C"
    )
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Raises `UnavailableError` (69) when no daemon listens."""
    socket = daemon_socket(config.load(file=args.config, flags=args.flags))
    if not args.watch:
        print(_shown(call(socket, "GET", "/v1/status"), args))
        return ExitCode.OK
    from agentd.cli.status_feed import statuses  # noqa: PLC0415 - a prompt that asks for one line need not wait for it

    shown = ""
    for status in statuses(socket):
        now = _shown(status, args)
        if now != shown:
            print(now, flush=True)
            shown = now
    return ExitCode.OK


def _shown(answer: dict[str, Any], args: argparse.Namespace) -> str:
    if args.json:
        return json.dumps(answer, ensure_ascii=False, indent=2)
    return oneline(answer) if args.oneline else paragraph(answer)


def oneline(status: dict[str, Any]) -> str:
    """`claims settled · agent stable · snapshot delivered (12,345 bytes)`."""
    return f"claims {status['claims']['state']} · agent {status['agent']['status']} · snapshot {_snapshot(status['snapshot'])}"


def paragraph(status: dict[str, Any]) -> str:
    """A line for the daemon and one for each of its jobs."""
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
    waits = [f"{one['name']}: {one['detail']}" for one in receipt["destinations"] if one["detail"]]
    return "; ".join([f"pending ({size})", *waits])


def _at(stamp: str | None) -> str:
    if not stamp:
        return "never"
    moment = datetime.fromisoformat(stamp)
    form = "%H:%M:%S" if moment.date() == datetime.now(UTC).date() else "%Y-%m-%d %H:%M:%S"
    return moment.strftime(form)
