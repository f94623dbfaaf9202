"""The extra headers of requests to coderd: `coder.headers`, and those that `coder.header_command` prints.

The command is that of the Coder agent (`--agent-header-command`, coder `cli/root.go`): `sh -c` runs it with the
environment of agentd, the token included, and CODER_URL, and it prints one `Name=value` per line. Its standard error is discarded.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from typing import Final

from agentd import log
from agentd.coderd.errors import HeaderCommandError
from agentd.config import formats
from agentd.programs import program_environment

TIMEOUT_S: Final = 10.0
KILL_TIMEOUT_S: Final = 1.0
OUTPUT_MAX_BYTES: Final = 64 * 1024


class ExtraHeaders:
    """The headers by name. Registers their values as secrets, so that logs mask them.

    The command runs at the first request and at each `renew`. A header that it prints replaces the one of the same
    name in `headers`.
    """

    def __init__(
        self, headers: Mapping[str, str] | None = None, *, command: str = "", coder_url: str = ""
    ) -> None:
        self._configured = dict(headers or {})
        _register(self._configured)
        self._command = command
        self._coder_url = coder_url
        self._all = None if command else self._configured
        # The stream and an upload can need the headers at the same time.
        self._running = asyncio.Lock()

    async def current(self) -> Mapping[str, str]:
        """The headers for the next request. Raises `HeaderCommandError`; the next call runs the command again."""
        async with self._running:
            if self._all is None:
                self._all = await self._run()
            return self._all

    async def renew(self) -> None:
        """Run the command again. Raises `HeaderCommandError` and keeps the headers if it fails."""
        async with self._running:
            if self._command:
                self._all = await self._run()

    async def _run(self) -> dict[str, str]:
        printed = _parse(await _output(self._command, self._coder_url))
        _register(printed)
        replaced = {name.lower() for name in printed}
        kept = {name: value for name, value in self._configured.items() if name.lower() not in replaced}
        return kept | printed


def _register(headers: Mapping[str, str]) -> None:
    for value in headers.values():
        log.register_secret(value)


def _parse(output: bytes) -> dict[str, str]:
    """The headers in the output. An error does not quote it, because the values are secrets."""
    headers = {}
    for number, line in enumerate(output.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            name, _, value = formats.header(line).partition("=")
        except formats.FormatError as exc:
            raise _error(f"line {number} of its output {exc}") from None
        headers[name] = value
    return headers


async def _output(command: str, coder_url: str) -> bytes:
    try:
        process = await asyncio.create_subprocess_exec(
            "sh",
            "-c",
            command,
            env={**program_environment(os.environ, pass_token=True), "CODER_URL": coder_url},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as exc:
        raise _error(f"cannot be run: {exc.strerror}") from exc
    output = bytearray()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while process.stdout is not None and (chunk := await process.stdout.read(OUTPUT_MAX_BYTES)):
                output += chunk
                if len(output) > OUTPUT_MAX_BYTES:
                    raise _error(f"prints more than {OUTPUT_MAX_BYTES} bytes")
            code = await process.wait()
    except TimeoutError as exc:
        raise _error(f"did not end within {TIMEOUT_S:g} s") from exc
    finally:
        # Kills also the processes that the command left running.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        # asyncio reports the exit only after the end of the output, and reads no further while much of it is unread.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_TIMEOUT_S):
                while process.stdout is not None and await process.stdout.read(OUTPUT_MAX_BYTES):
                    pass
                await process.wait()
    if code != 0:
        raise _error(f"exit {code}" if code > 0 else f"killed by signal {-code}")
    return bytes(output)


def _error(fault: str) -> HeaderCommandError:
    return HeaderCommandError(
        f"coder.header_command: {fault}",
        hint="run it with `sh -c` as agentd's user; it must print one Name=value per line and exit with 0",
    )
