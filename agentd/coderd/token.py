"""The sources of the agent's session token, and its renewal after a 401."""

import os
import stat
from pathlib import Path
from typing import Final, Protocol

from agentd import log
from agentd.errors import ConfigError

FILE_MAX_BYTES: Final = 4096
"""Limit of a token file. A session token is a UUID of 36 characters; a larger file is a different file."""


class TokenSource(Protocol):
    """A session token that may change while agentd runs."""

    async def current(self) -> str:
        """The token for the next request.

        Raises `ConfigError` if there is none, a `CoderdError` if it must be fetched and cannot be.
        """
        ...

    async def renew(self, rejected: str) -> bool:
        """Read or fetch the token again after a 401 for `rejected`. True if the token is a different one now.

        False is not an error: after a claim job coderd accepts the same token again.
        """
        ...


class StaticToken:
    """A token from the environment. It cannot change while agentd runs."""

    def __init__(self, token: str) -> None:
        log.register_secret(token)
        self._token = token

    async def current(self) -> str:
        return self._token

    async def renew(self, rejected: str) -> bool:
        return rejected != self._token


class FileToken:
    """A token in a file, which a credential manager or a new build can replace while agentd runs.

    The constructor raises `ConfigError` for an unreadable file. Later the last valid token stays.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = _read(path)

    async def current(self) -> str:
        return self._token

    async def renew(self, rejected: str) -> bool:
        # The file can be absent or empty for a moment while it is replaced.
        try:
            self._token = _read(self._path)
        except ConfigError as exc:
            log.get("token").warning("token.unreadable", error=str(exc))
        return rejected != self._token


def _read(path: Path) -> str:
    try:
        content = _content(path)
    except OSError as exc:
        raise ConfigError(
            f"coder.token_file: {path} cannot be read: {exc.strerror}",
            hint="check the path and that agentd's user may read it",
        ) from exc
    token = content.decode("utf-8-sig", "replace").strip()
    if len(content) > FILE_MAX_BYTES:
        problem = f"is longer than {FILE_MAX_BYTES} bytes"
    elif not token:
        problem = "is empty"
    elif not (token.isascii() and token.isprintable()):
        problem = "contains characters that are not allowed in a header"
    else:
        log.register_secret(token)
        return token
    # The error does not quote the content, which may be a secret.
    raise ConfigError(
        f"coder.token_file: {path} {problem}",
        hint="write the agent's session token into it, on one line and nothing else",
    )


def _content(path: Path) -> bytes:
    # Non-blocking, because a FIFO without a writer would block. It is rejected: the file is read repeatedly.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(None, "not a regular file")
        return os.read(fd, FILE_MAX_BYTES + 1)
    finally:
        os.close(fd)
