"""`exec:///path/to/program`: a program that gets the path of a file with the payload."""

import asyncio
import contextlib
import os
import secrets
import signal
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from agentd.durable import TMP_PREFIX
from agentd.snapshots.destinations.destination import Accepted, RejectedError, RetryableError
from agentd.snapshots.destinations.url_template import DestinationContext, UrlTemplate
from agentd.snapshots.entry import SpoolEntry
from agentd.worker_thread import WorkerThread

EX_DATAERR: Final = 65
"""sysexits.h: the input is wrong. The program is not run again for the same snapshot."""

_TAIL_MAX_BYTES: Final = 2048
_REMOVE_TIMEOUT_S: Final = 0.5


class CommandDestination:
    """Runs `program FILE`. Exit code 0: accepted; 65: rejected; any other: agentd retries.

    The file contains exactly the payload and is deleted afterwards. Standard input is closed. The receipt
    contains the end of the output. Environment: agentd's own without agent tokens, and `AGENTD_TASK_ID`,
    `AGENTD_CAPTURED_AT`, `AGENTD_MESSAGES` and `AGENTD_SHA256`. At the end of the attempt
    the process group of the program is killed.
    """

    needs_task = False

    def __init__(self, template: UrlTemplate, context: DestinationContext) -> None:
        template.require_absolute_path()
        self.name = template.name
        self._program = unquote(urlsplit(template.url).path)
        self._folder = context.folder
        self._thread = WorkerThread("agentd-exec")
        self._environ = {
            name: value for name, value in context.environ.items() if not name.startswith("CODER_AGENT_TOKEN")
        }

    async def deliver(self, entry: SpoolEntry) -> Accepted:
        # The next start of agentd deletes files with this prefix.
        path = self._folder / f"{TMP_PREFIX}deliver-{secrets.token_hex(8)}.json"
        try:
            # In a thread: a disk that hangs must not block the event loop.
            await self._thread.run(lambda: _write(path, entry.payload))
            code, output = await self._run(entry, str(path))
        except OSError as exc:
            raise RetryableError(
                f"cannot be run: {exc.strerror}", hint=f"{self._program} must be an executable file"
            ) from exc
        finally:
            removing = asyncio.wrap_future(self._thread.submit(lambda: _remove(path)))
            await asyncio.wait({removing}, timeout=_REMOVE_TIMEOUT_S)
        text = " ".join(output.decode("utf-8", "replace").split())
        if code == 0:
            return Accepted(0, text)
        ended = f"exit {code}" if code > 0 else f"killed by signal {-code}"
        failure = RejectedError if code == EX_DATAERR else RetryableError
        raise failure(f"{ended}: {text}" if text else ended, status=code)

    async def _run(self, entry: SpoolEntry, path: str) -> tuple[int, bytes]:
        process = await asyncio.create_subprocess_exec(
            self._program,
            path,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={
                **self._environ,
                "AGENTD_TASK_ID": entry.task_id,
                "AGENTD_CAPTURED_AT": entry.captured_at,
                "AGENTD_MESSAGES": str(entry.messages),
                "AGENTD_SHA256": entry.sha256,
            },
            start_new_session=True,
        )
        try:
            output = await _tail(process.stdout)
            return await process.wait(), output
        finally:
            # Kills also the processes that the program left running.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def _write(path: Path, payload: bytes) -> None:
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(payload)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


async def _tail(stream: asyncio.StreamReader | None) -> bytes:
    tail = b""
    while stream is not None and (chunk := await stream.read(65_536)):
        tail = (tail + chunk)[-_TAIL_MAX_BYTES:]
    return tail
