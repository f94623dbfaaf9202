"""`agentd hook`: hand an event of an agent's own hook to the daemon, or print how to install it.

The agent waits for its hook. So an event is one datagram that nothing waits for, the payload is awaited for a limited time,
nothing is printed, and the exit code is 0 whatever happens.
"""

import argparse
import contextlib
import json
import os
import select
import socket
import sys
import time
from typing import Final

from agentd import config
from agentd.agents.hook_events import PAYLOAD_MAX_BYTES, SOCKET_SUFFIX, HookEvent, reduced
from agentd.cli.local_client import daemon_socket
from agentd.errors import AgentdError, ExitCode, UsageError

STDIN_WAIT_S: Final = 0.06
"""Agents write the payload at once. With the start of Python (50 to 100 ms) this is below 200 ms."""
_CHUNK_BYTES: Final = 1 << 16

INSTALL: Final = "install"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "agent",
        metavar="AGENT",
        help="the agent that calls this: claude-code, codex, gemini or another name; or `install`",
    )
    parser.add_argument(
        "payload",
        metavar="JSON",
        nargs="?",
        help="the event, by default on stdin (codex's `notify` passes it here); after `install` the agent",
    )
    parser.add_argument(
        "--print",
        dest="shown",
        action="store_true",
        help="with `install`: print the settings of the agent that call agentd; nothing is written",
    )


def run(args: argparse.Namespace) -> int:
    """Raises `UsageError` (64) with `install` only."""
    if args.agent == INSTALL:
        return _install(args)
    # Nothing depends on a hook, and the agent shows errors of its hooks to its user.
    with contextlib.suppress(AgentdError, OSError, ValueError):
        data = _stdin() if args.payload is None else args.payload.encode(errors="replace")
        event = reduced(args.agent, data[:PAYLOAD_MAX_BYTES])
        if event is not None:
            _send(event, str(daemon_socket(config.load(file=args.config, flags=args.flags))))
    return ExitCode.OK


def _send(event: HookEvent, api_socket: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        sender.connect(api_socket + SOCKET_SUFFIX)
        sender.send(event.encode())


def _stdin() -> bytes:
    """What comes within `STDIN_WAIT_S`. The rest of a long payload is read and dropped: the agent may wait to write it."""
    data = bytearray()
    deadline = time.monotonic() + STDIN_WAIT_S
    readable = select.poll()
    readable.register(0, select.POLLIN)
    while (left_s := deadline - time.monotonic()) > 0 and readable.poll(left_s * 1000):
        chunk = os.read(0, _CHUNK_BYTES)
        if not chunk:
            break
        if len(data) < PAYLOAD_MAX_BYTES:
            data += chunk
    return bytes(data)


# Installing: only events that the agent's releases are known to have; an unknown one could be refused.

_CLAUDE_CODE: Final = (
    "UserPromptSubmit",
    "PermissionRequest",
    "Notification",
    "Stop",
    "StopFailure",
    "SessionEnd",
)
_CODEX: Final = ("UserPromptSubmit", "PermissionRequest", "PostToolUse", "Stop", "SessionEnd")
_GEMINI: Final = ("BeforeAgent", "AfterTool", "AfterAgent", "Notification", "SessionEnd")


def _install(args: argparse.Namespace) -> int:
    if args.payload not in _SETTINGS:
        raise UsageError(
            f"agentd hook install: no settings for {args.payload!a}",
            hint=f"write one of {', '.join(_SETTINGS)}",
        )
    if not args.shown:
        raise UsageError(
            "agentd hook install: agentd writes no settings of an agent",
            hint="add --print and copy the output",
        )
    place, settings = _SETTINGS[args.payload]
    print(f"Write this to {place}.", file=sys.stderr)
    print(settings)
    return ExitCode.OK


def _as_json(agent: str, events: tuple[str, ...]) -> str:
    call = {"name": "agentd", "type": "command", "command": f"agentd hook {agent}"}
    if agent == "claude-code":
        del call["name"]  # it has none there
    return json.dumps({"hooks": {event: [{"hooks": [call]}] for event in events}}, indent=2)


def _as_toml(agent: str, events: tuple[str, ...]) -> str:
    tables = [
        f'[[hooks.{event}]]\n[[hooks.{event}.hooks]]\ntype = "command"\ncommand = "agentd hook {agent}"'
        for event in events
    ]
    return "\n\n".join(tables)


_SETTINGS: Final = {
    "claude-code": (
        "/etc/claude-code/managed-settings.d/50-agentd.json, or merge it into ~/.claude/settings.json",
        _as_json("claude-code", _CLAUDE_CODE),
    ),
    "codex": (
        "the end of ~/.codex/config.toml, and let Codex trust the hooks when it asks",
        _as_toml("codex", _CODEX),
    ),
    "gemini": ("~/.gemini/settings.json: merge it with what is there", _as_json("gemini", _GEMINI)),
}
"""By agent: where the settings belong, and the settings."""
