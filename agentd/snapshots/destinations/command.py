"""`exec:///path/to/program`: a program that gets the path of a file with the payload."""

import asyncio
import contextlib
import secrets
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from agentd.clock import Clock
from agentd.durable import TMP_PREFIX
from agentd.hooks.processes import RUN_ID
from agentd.hooks.run import HookPolicy, HookResult, HookRun, HookSurvivedError
from agentd.programs import program_environment
from agentd.snapshots.destinations.destination import Accepted, RejectedError, RetryableError
from agentd.snapshots.destinations.url_template import DestinationContext, UrlTemplate
from agentd.snapshots.entry import SpoolEntry
from agentd.worker_thread import WorkerThread

EX_DATAERR: Final = 65
"""sysexits.h: the input is wrong. The program is not run again for the same snapshot."""

_TAIL_MAX_CHARS: Final = 2048
_REMOVE_TIMEOUT_S: Final = 0.5
# The uploader cancels an attempt much earlier.
_TIMEOUT_S: Final = 3600.0


class CommandDestination:
    """Runs `program FILE`. Exit code 0: accepted; 65: rejected; any other: agentd retries.

    The file contains exactly the payload and is deleted afterwards. Standard input is closed. The receipt
    contains the end of the output. Environment: as a hook's, never with the agent's token, and `AGENTD_TASK_ID`,
    `AGENTD_CAPTURED_AT`, `AGENTD_MESSAGES` and `AGENTD_SHA256`. When the program exits or the attempt ends, the
    processes that it left are killed. A program that another user can write is not run.
    """

    needs_task = False

    def __init__(self, template: UrlTemplate, context: DestinationContext) -> None:
        template.require_absolute_path()
        self.name = template.name
        self._program = Path(unquote(urlsplit(template.url).path))
        self._folder = context.folder
        self._thread = WorkerThread("agentd-exec")
        self._environ = program_environment(context.environ, redact=context.redact_env)
        self._policy = HookPolicy(
            self._program.parent, context.folder, {}, timeout_s=_TIMEOUT_S, grace_s=0.0, stop_grace_s=0.0
        )

    async def deliver(self, entry: SpoolEntry) -> Accepted:
        # The next start of agentd deletes files with this prefix.
        path = self._folder / f"{TMP_PREFIX}deliver-{secrets.token_hex(8)}.json"
        try:
            # In a thread: a disk that hangs must not block the event loop.
            await self._thread.run(lambda: _write(path, entry.payload))
            result = await self._run(entry, str(path))
        except OSError as exc:
            raise RetryableError(f"cannot write the file for the program: {exc.strerror}") from exc
        except HookSurvivedError as exc:
            raise RetryableError(str(exc)) from exc
        finally:
            removing = asyncio.wrap_future(self._thread.submit(lambda: _remove(path)))
            await asyncio.wait({removing}, timeout=_REMOVE_TIMEOUT_S)
        code = result.exit_code
        if code is None:
            hint = f"{self._program} must be an executable file that only root and agentd's user may write"
            raise RetryableError(result.why, hint=hint)
        text = " ".join(result.tail.split())[-_TAIL_MAX_CHARS:]
        if code == 0:
            return Accepted(0, text)
        ended = f"exit {code}" if code > 0 else f"killed by signal {-code}"
        failure = RejectedError if code == EX_DATAERR else RetryableError
        raise failure(f"{ended}: {text}" if text else ended, status=code)

    async def _run(self, entry: SpoolEntry, path: str) -> HookResult:
        env = {
            **self._environ,
            "AGENTD_TASK_ID": entry.task_id,
            "AGENTD_CAPTURED_AT": entry.captured_at,
            "AGENTD_MESSAGES": str(entry.messages),
            "AGENTD_SHA256": entry.sha256,
            RUN_ID: secrets.token_hex(12),
        }
        run = HookRun(
            self._program,
            path,
            policy=self._policy,
            env=env,
            clock=Clock(),
            leaves_processes=False,
            logs_output=False,
        )
        return await run.execute()


def _write(path: Path, payload: bytes) -> None:
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(payload)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
