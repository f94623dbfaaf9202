"""`agentd config`: print or check the effective configuration."""

import argparse
import asyncio
import json
from typing import Final

from agentd import config
from agentd.clock import Clock
from agentd.errors import ExitCode

MASK: Final = "[hidden]"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        nargs="?",
        choices=("show", "check"),
        default="show",
        help="show (default): print every key; check: only check that the daemon accepts the configuration",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Raises `ConfigError` (78) if the configuration is invalid or incomplete."""
    effective = config.load(file=args.config, flags=args.flags)
    if args.action == "check":
        from agentd.daemon.build import check  # noqa: PLC0415 - `agentd config show` does not need the daemon

        asyncio.run(check(effective, Clock()))
        print("{}" if args.json else "configuration is complete")
        return ExitCode.OK
    explanation = explained(effective)
    if args.json:
        print(json.dumps(explanation, indent=2))
        return ExitCode.OK
    width = max(len(name) for name in explanation)
    for name, row in explanation.items():
        print(f"{name:{width}}  {_as_text(row['value'])}  ({row['origin']})")
    return ExitCode.OK


def explained(effective: config.Config) -> dict[str, dict[str, object]]:
    """Every key with its value (secrets are masked) and its origin."""
    return {
        name: {"value": _masked(effective, key), "origin": effective.origins[name]}
        for name, key in config.keys().items()
    }


def _masked(effective: config.Config, key: config.Key) -> object:
    value = effective.value(key.name)
    if key.secret and value:
        return MASK
    if isinstance(value, tuple):
        return [_without_query(word) for word in value]
    return value if isinstance(value, str | int | float) or value is None else str(value)


def _without_query(destination: str) -> str:
    # The query of a pre-signed upload URL is a credential.
    address, question, _ = destination.partition("?")
    return f"{address}?{MASK}" if question else address


def _as_text(value: object) -> str:
    match value:
        case None | "" | []:
            return "-"
        case bool():
            return "true" if value else "false"
        case list():
            return ", ".join(value)
        case _:
            # A newline in a path would look like another key.
            text = str(value)
            return text if text.isprintable() else ascii(text)
