"""`agentd snapshot fetch`: print a stored conversation. Needs no daemon, no agent and no lock."""

import argparse
import asyncio
import contextlib
import sys
from pathlib import Path
from urllib.parse import urlsplit

from agentd import log
from agentd.cli import transcript
from agentd.config import Config
from agentd.conversation.redaction import Redactor
from agentd.daemon.build import SPOOL_DIR, redactor
from agentd.errors import ExitCode
from agentd.snapshots import fetching, reading
from agentd.snapshots.destinations.url_template import UrlTemplate


def show(args: argparse.Namespace, settings: Config) -> int:
    """Print the conversation as text, JSON or raw bytes. Raises `AgentdError` without a valid one."""
    if args.last:
        stored = reading.newest_in_spool(settings.state.dir / SPOOL_DIR)
    else:
        stored = reading.parse_document(*_document(args.url, settings))
    if stored.skipped:
        print(f"agentd: skipped {stored.skipped} entries that are not valid messages", file=sys.stderr)
    redact = _redactor(settings)
    if redact is not None:
        stored = stored._replace(messages=tuple(redact(stored.messages)))
    if args.raw:
        sys.stdout.buffer.write(stored.document)
        sys.stdout.buffer.flush()
    else:
        print(transcript.as_json(stored) if args.json else transcript.as_text(stored), end="\n" * args.json)
    return ExitCode.OK


def _redactor(settings: Config) -> Redactor | None:
    """An archive may be older than `snapshots.redact`, so the known secrets are removed from what is printed."""
    for secret in (settings.coder.token, *(one.partition("=")[2] for one in settings.coder.headers)):
        log.register_secret(secret)
    with contextlib.suppress(OSError):
        if settings.coder.token_file is not None:
            log.register_secret(settings.coder.token_file.read_text("utf-8", "replace").strip())
    return redactor(settings)


def _document(url: str, settings: Config) -> tuple[bytes, str]:
    """The bytes and the name of their source."""
    if url == "-":
        return sys.stdin.buffer.read(reading.DOCUMENT_MAX_BYTES + 1), "standard input"
    place = UrlTemplate(url, lambda: settings.workspace.id)
    document = asyncio.run(
        fetching.fetch(
            place,
            settings.snapshots.task_id,
            headers_file=_headers_for(url, settings),
            ca_file=settings.coder.ca_file,
        )
    )
    return document, place.name


def _headers_for(url: str, settings: Config) -> Path | None:
    """The headers file, if `url` has the scheme and host of a configured destination; None otherwise."""
    servers = {urlsplit(one)[:2] for one in settings.snapshots.destinations if "://" in one}
    return settings.snapshots.http_headers_file if urlsplit(url)[:2] in servers else None
