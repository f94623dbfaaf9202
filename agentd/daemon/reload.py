"""SIGHUP: read the token, the extra headers and the configuration again, and apply what can change in a running daemon."""

from collections.abc import Awaitable, Callable
from typing import Final

from agentd import log
from agentd.claims.listener import ClaimListener
from agentd.coderd.extra_headers import ExtraHeaders
from agentd.coderd.token import TokenSource
from agentd.config import Config
from agentd.errors import ConfigError, PeerError
from agentd.snapshots.recorder import Recorder

LIVE_KEYS: Final = frozenset({"snapshots.task_id", "log.level", "log.format"})
"""Keys that are applied at once. Others need a restart; the log names those that changed."""


async def reload_config(
    config: Config,
    *,
    read_config: Callable[[], Config],
    check: Callable[[Config], Awaitable[None]],
    token: TokenSource | None,
    headers: ExtraHeaders,
    listener: ClaimListener | None,
    recorder: Recorder,
) -> Config:
    """Apply what `read_config` reads, and return the configuration in force: `config` is the one before.

    A configuration that `check` refuses is logged and changes nothing. If a key changed that needs a restart, `config` stays in
    force for the next comparison.
    """
    daemon_log = log.get("daemon")
    try:
        fresh = read_config()
        await check(fresh)
        if token is not None and listener is not None:
            await headers.renew()
            await token.renew(await token.current())
            listener.reconnect(await token.current())
    except (ConfigError, PeerError) as exc:
        daemon_log.error("config.rejected", error=str(exc), kept="the configuration in force")
        return config
    changed = fresh.differences(config)
    if "snapshots.task_id" in changed:
        recorder.set_task(fresh.snapshots.task_id)
    if changed & {"log.level", "log.format"}:
        log.configure(level=fresh.log.level, fmt=fresh.log.format)
    daemon_log.info("config.reloaded", needs_restart=sorted(changed - LIVE_KEYS) or None)
    return fresh if changed <= LIVE_KEYS else config
