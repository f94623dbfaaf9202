"""`agentd debug bundle`: write an archive for a support ticket, without secrets and message texts."""

import argparse
import dataclasses
import importlib.metadata
import os
import platform
import ssl
import sys
import time
from pathlib import Path
from typing import Any, Final

from agentd import __version__, config, log
from agentd.claims.ledger import Ledger, claim_as_json
from agentd.cli.config import explained
from agentd.cli.doctor import diagnose
from agentd.cli.local_client import call, daemon_socket, fetch
from agentd.config import Config
from agentd.daemon import last_stop
from agentd.daemon.build import SPOOL_DIR
from agentd.doctor import bundle
from agentd.doctor.scrub import Scrubber, secrets_of
from agentd.errors import AgentdError, ExitCode

PACKAGES: Final = ("aiohttp", "httpx", "httpx-sse", "structlog", "tenacity")
STDOUT: Final = Path("-")

CONTENTS: Final = """\
The contents of this bundle, which was written by `agentd debug bundle`. Secrets are replaced by [hidden].
Hook output and message texts are replaced by their sizes.

versions.json   agentd, Python, packages, kernel
config.json     every setting with its value and origin
environment.json names of the Coder and agentd variables that are set, without their values
doctor.json     the findings of `agentd doctor`
status.json     the daemon's /v1/status; if it does not answer, daemon.txt has the reason
ready.json      the daemon's /readyz
metrics.txt     the daemon's /metrics
claims.json     the ledger
spool.json      the snapshots on disk, without the conversations
files.json      names, sizes and modes in the state directory and the hooks directory
last-stop.json  how the last run ended, from the state directory
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("bundle",), help="bundle: write everything to one archive")
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        help="output file (default: agentd-debug-TIME.tar.gz in this directory; - for standard output)",
    )
    parser.add_argument(
        "--with-conversation",
        action="store_true",
        help="include the stored messages; warn the recipient",
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises `ConfigError` (78) if the configuration is invalid."""
    settings = config.load(file=args.config, flags=args.flags)
    now = time.time()
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    files = _collected(settings, args)
    if args.with_conversation:
        files |= bundle.conversations(settings.state.dir / SPOOL_DIR)
    scrubber = Scrubber(secrets_of(settings, os.environ))
    texts = {
        name: scrubber.text(value) if isinstance(value, str) else bundle.as_text(scrubber.json(value))
        for name, value in files.items()
    }
    archive = bundle.pack(texts, folder=f"agentd-debug-{stamp}", at_unix_s=int(now))
    _write(args.output or Path(f"agentd-debug-{stamp}.tar.gz"), archive)
    return ExitCode.OK


def _collected(settings: Config, args: argparse.Namespace) -> dict[str, Any]:
    state = settings.state.dir
    last = last_stop.read(state)
    return {
        "README.txt": CONTENTS,
        "versions.json": _versions(),
        "config.json": _shareable(explained(settings)),
        "environment.json": sorted(name for name in os.environ if name.startswith(("AGENTD_", "CODER"))),
        "doctor.json": [dataclasses.asdict(finding) for finding in diagnose(args)],
        **_from_daemon(settings),
        "spool.json": bundle.spool_headers(state / SPOOL_DIR),
        "files.json": {
            "state": bundle.list_files(state),
            "hooks": bundle.list_files(settings.claims.hooks_dir),
        },
        "last-stop.json": None if last is None else last._asdict(),
    }


def _shareable(explanation: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The configuration without `snapshots.redact_patterns`, because a pattern may contain the secret."""
    patterns = explanation["snapshots.redact_patterns"]
    hidden = {**patterns, "value": log.MASK if patterns["value"] else patterns["value"]}
    return {**explanation, "snapshots.redact_patterns": hidden}


def _from_daemon(settings: Config) -> dict[str, Any]:
    """The daemon's status, readiness, metrics and claims; without a daemon the ledger from disk."""
    socket = daemon_socket(settings)
    try:
        return {
            "status.json": bundle.without_texts(call(socket, "GET", "/v1/status")),
            "ready.json": bundle.without_texts(_readiness(socket)),
            "metrics.txt": fetch(socket, "GET", "/metrics").decode("utf-8", "replace"),
            "claims.json": bundle.without_texts(call(socket, "GET", "/v1/claims")),
        }
    except AgentdError as exc:
        return {"daemon.txt": f"{exc}\n", "claims.json": _ledger(settings)}


def _readiness(socket: Path) -> Any:  # noqa: ANN401 - JSON
    try:
        return call(socket, "GET", "/readyz")
    except AgentdError as exc:
        return {"ok": False, "error": exc.message}


def _ledger(settings: Config) -> Any:  # noqa: ANN401 - JSON
    try:
        book = Ledger.read(settings.state.dir)
    except AgentdError as exc:
        return {"error": str(exc)}
    claims = [claim_as_json(claim, tails=True) for claim in book.claims.values()]
    return {"claims": bundle.without_texts(claims), "damage": book.damage}


def _versions() -> dict[str, Any]:
    return {
        "agentd": __version__,
        "python": sys.version,
        "openssl": ssl.OPENSSL_VERSION,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "libc": "-".join(platform.libc_ver()),
        "frozen": bool(getattr(sys, "frozen", False)),
        "uid": os.geteuid(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None  # the single file contains the packages without their metadata


def _write(output: Path, archive: bytes) -> None:
    if output == STDOUT:
        sys.stdout.buffer.write(archive)
        sys.stdout.buffer.flush()
        return
    try:
        # Mode 0600. O_EXCL fails on an existing file or symbolic link.
        fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(archive)
    except OSError as exc:
        raise AgentdError(
            f"cannot write {output}: {exc.strerror}", hint="choose another file with --output"
        ) from exc
    print(
        f"{output}: {len(archive):,} bytes; check the contents before you send it: tar -xOzf {output} | less"
    )
