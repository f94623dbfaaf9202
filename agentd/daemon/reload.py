"""SIGHUP: read the token and the configuration again, and apply what can change in a running daemon."""

from collections.abc import Callable
from typing import Final

from agentd import log
from agentd.config import Config
from agentd.daemon.build import Components
from agentd.errors import ConfigError, PeerError
from agentd.sdnotify import Notifier

LIVE_KEYS: Final = frozenset({"snapshots.task_id", "log.level", "log.format"})
"""Keys that are applied at once. Others need a restart; the log names those that changed."""


class Reloader:
    """Reloads the parts of one daemon. `read_config` reads the new configuration."""

    def __init__(self, parts: Components, *, read_config: Callable[[], Config], notifier: Notifier) -> None:
        self._parts = parts
        self._config = parts.config
        self._read_config = read_config
        self._notifier = notifier
        self._log = log.get("daemon")

    async def reload(self) -> None:
        """Reload, and tell systemd. An invalid configuration is logged and changes nothing."""
        # The time distinguishes this reload from an earlier one (sd_notify(3), Type=notify-reload).
        self._notifier.send(RELOADING=1, MONOTONIC_USEC=int(self._parts.clock.monotonic() * 1_000_000))
        try:
            fresh = self._read_config()
            fresh.require_coder()
            needs_restart = await self._apply(fresh)
        except (ConfigError, PeerError) as exc:
            self._log.error("config.rejected", error=str(exc), kept="the configuration in force")
        else:
            self._log.info("config.reloaded", needs_restart=needs_restart or None)
        finally:
            self._notifier.send(READY=1)

    async def _apply(self, fresh: Config) -> list[str]:
        """Apply the live keys. Returns the names of the other changed keys."""
        changed = fresh.differences(self._config)
        token, listener = self._parts.token, self._parts.listener
        if token is not None and listener is not None:
            await token.renew(await token.current())
            listener.reconnect()
        if "snapshots.task_id" in changed:
            self._parts.recorder.set_task(fresh.snapshots.task_id)
        if changed & {"log.level", "log.format"}:
            log.configure(level=fresh.log.level, fmt=fresh.log.format)
        if changed <= LIVE_KEYS:
            self._config = fresh
        return sorted(changed - LIVE_KEYS)
