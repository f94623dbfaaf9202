"""Where the agent's session token comes from, and how to get another one after a 401."""

from pathlib import Path
from typing import Protocol

from agentd import log
from agentd.errors import ConfigError


class TokenSource(Protocol):
    """A session token that may change while we run."""

    def current(self) -> str:
        """The token to send now. Raises `ConfigError` when there is none."""
        ...

    async def renew(self, rejected: str) -> bool:
        """The peer refused `rejected` with 401: look again. True when the token is now another one.

        A 401 is normal while a claim job runs (the same token works again afterwards), so False is no error.
        """
        ...


class StaticToken:
    """A token given in the environment. It cannot change while the process lives."""

    def __init__(self, token: str) -> None:
        log.conceal(token)
        self._token = token

    def current(self) -> str:
        return self._token

    async def renew(self, rejected: str) -> bool:
        return rejected != self._token


class FileToken:
    """A token in a file, which a credential manager or a new build may replace under us."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = self._read()

    def current(self) -> str:
        return self._token

    async def renew(self, rejected: str) -> bool:
        # A file being replaced may be absent or empty for a moment: the old token stays until a new one is there.
        try:
            self._token = self._read()
        except ConfigError as exc:
            log.get("token").warning("token.unreadable", error=str(exc))
        return rejected != self._token

    def _read(self) -> str:
        try:
            token = self._path.read_text(encoding="utf-8", errors="replace").strip()
        except OSError as exc:
            raise ConfigError(
                f"coder.token_file: {self._path} cannot be read: {exc.strerror}",
                hint="check the path and that agentd's user may read it",
            ) from exc
        if not token:
            raise ConfigError(
                f"coder.token_file: {self._path} is empty", hint="write the agent's session token into it"
            )
        log.conceal(token)
        return token
