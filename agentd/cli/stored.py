"""`agentd snapshot fetch`: a stored conversation, from wherever it lies, without daemon, agent or lock."""

import argparse
import asyncio
import sys
from pathlib import Path
from urllib.parse import urlsplit

from agentd.cli import transcript
from agentd.config import Config
from agentd.daemon.build import SPOOL_DIR
from agentd.errors import ExitCode
from agentd.snapshots import fetching, reading
from agentd.snapshots.destinations.place import Place


def show(args: argparse.Namespace, settings: Config) -> int:
    """Print it in the form that was asked for. Raises `AgentdError` when there is none or it is something else."""
    stored = _last(settings) if args.last else reading.parse_document(*_document(args.url, settings))
    if stored.skipped:
        print(f"agentd: {stored.skipped} entries are no messages and are left out", file=sys.stderr)
    if args.raw:
        sys.stdout.buffer.write(stored.document)
        sys.stdout.buffer.flush()
    else:
        print(transcript.as_json(stored) if args.json else transcript.readable(stored), end="\n" * args.json)
    return ExitCode.OK


def _last(settings: Config) -> reading.StoredConversation:
    return reading.newest_in_spool(settings.state.dir / SPOOL_DIR)


def _document(url: str, settings: Config) -> tuple[bytes, str]:
    """The bytes, and what to call their source."""
    if url == "-":
        return sys.stdin.buffer.read(reading.DOCUMENT_MAX_BYTES + 1), "standard input"
    place = Place(url, lambda: settings.workspace.id)
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
    """The headers file, for the servers that it was written for: those of the configured destinations."""
    servers = {urlsplit(one)[:2] for one in settings.snapshots.destinations if "://" in one}
    return settings.snapshots.http_headers_file if urlsplit(url)[:2] in servers else None
