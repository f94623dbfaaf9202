"""Where the agent's session token comes from, and how to get another one after a 401."""

import os
import stat
from pathlib import Path
from typing import Protocol

from agentd import log
from agentd.errors import ConfigError

# A session token is a UUID of 36 characters; whatever is longer than this is another file.
FILE_MAX_BYTES = 4096


class TokenSource(Protocol):
    """A session token that may change while we run."""

    async def current(self) -> str:
        """The token to send now.

        Raises `ConfigError` when there is none, and a `PeerError` that says whether to try again (`retryable`) when it
        has to be fetched first and cannot be.
        """
        ...

    async def renew(self, rejected: str) -> bool:
        """The peer refused `rejected` with 401: look again. True when the token is now another one.

        A 401 is normal while a claim job runs (the same token works again afterwards), so False is no error.
        """
        ...


class StaticToken:
    """A token given in the environment. It cannot change while the process lives."""

    def __init__(self, token: str) -> None:
        log.register_secret(token)
        self._token = token

    async def current(self) -> str:
        return self._token

    async def renew(self, rejected: str) -> bool:
        return rejected != self._token


class FileToken:
    """A token in a file, which a credential manager or a new build may replace under us.

    Raises `ConfigError` when made from a file that cannot be read as a token; later a broken file only means that the
    last good token stays.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = _read(path)

    async def current(self) -> str:
        return self._token

    async def renew(self, rejected: str) -> bool:
        # A file being replaced may be absent or empty for a moment: the old token stays until a new one is there.
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
    if len(content) > FILE_MAX_BYTES:
        raise ConfigError(
            f"coder.token_file: {path} is longer than {FILE_MAX_BYTES} bytes",
            hint="it should hold the session token and nothing else",
        )
    token = content.decode("utf-8-sig", "replace").strip()
    if not token:
        raise ConfigError(
            f"coder.token_file: {path} is empty", hint="write the agent's session token into it"
        )
    if not (token.isascii() and token.isprintable()):
        # Several lines, or binary: it would break the request that carries it. The content itself is not quoted.
        raise ConfigError(
            f"coder.token_file: {path} holds characters that cannot stand in a header",
            hint="it should hold the session token on one line and nothing else",
        )
    log.register_secret(token)
    return token


def _content(path: Path) -> bytes:
    # Non-blocking, because opening a FIFO that nobody writes to would stop the daemon; a token file is read again
    # on every 401, which a FIFO or a device cannot do anyway.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(None, "not a regular file")
        return os.read(fd, FILE_MAX_BYTES + 1)
    finally:
        os.close(fd)
