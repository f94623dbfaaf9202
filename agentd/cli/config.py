"""`agentd config show|check`."""

import argparse
import json

from agentd import config
from agentd.cli import add_config_options
from agentd.errors import ExitCode

MASK = "[hidden]"
MASKED_KINDS = ("secret", "headers")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", nargs="?", choices=("show", "check"), default="show", help="show (default), or check only"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Raises `ConfigError` (78) when the configuration is wrong or incomplete."""
    effective = config.load(file=args.config, flags=args.flags)
    if args.action == "check":
        effective.require_coder()
        print("{}" if args.json else "configuration is complete")
        return ExitCode.OK
    explanation = explained(effective)
    if args.json:
        print(json.dumps(explanation, indent=2))
        return ExitCode.OK
    width = max(len(name) for name in explanation)
    for name, row in explanation.items():
        print(f"{name:{width}}  {_in_words(row['value'])}  ({row['origin']})")
    return ExitCode.OK


def explained(effective: config.Config) -> dict[str, dict[str, object]]:
    """Every key with its value, secrets masked, and where it comes from."""
    return {
        name: {"value": _shown(effective, key), "origin": effective.origins[name]}
        for name, key in config.keys().items()
    }


def _shown(effective: config.Config, key: config.Key) -> object:
    section, field = key.name.split(".")
    value = getattr(getattr(effective, section), field)
    if key.spec.kind in MASKED_KINDS and value:
        return MASK
    if isinstance(value, tuple):
        return [_without_query(word) for word in value]
    return value if isinstance(value, str | int | float) or value is None else str(value)


def _without_query(destination: str) -> str:
    # The address of a pre-signed upload is a password.
    address, question, _ = destination.partition("?")
    return f"{address}?{MASK}" if question else address


def _in_words(value: object) -> str:
    match value:
        case None | "" | []:
            return "-"
        case bool():
            return "true" if value else "false"
        case list():
            return ", ".join(value)
        case _:
            # A path may hold a newline, which would look like another key.
            text = str(value)
            return text if text.isprintable() else ascii(text)
