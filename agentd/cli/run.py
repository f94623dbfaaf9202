"""`agentd run`: the daemon. The only place that handles signals."""

import argparse
import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from agentd import config, log, stop_timeout
from agentd.clock import Clock
from agentd.config import Config
from agentd.errors import ExitCode
from agentd.sdnotify import Notifier
from agentd.startup import collector_paused

if TYPE_CHECKING:
    from agentd.daemon.run import Daemon
    from agentd.snapshots.spool import Spool

THREADS_END_S: Final = 0.3
"""Time for threads to return from the disk at the end. A finished one needs none."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--foreground",
        action="store_true",
        help="for debugging: no talk with systemd; readable log on stderr with debug level, unless configured otherwise",
    )


def run(args: argparse.Namespace) -> int:
    """0 clean stop, 1 a step of the stop failed, 73 state directory, 75 a snapshot is kept undelivered, 78 configuration."""
    unit = stop_timeout.of_unit(os.getpid())

    def read_config() -> Config:
        loaded = config.load(file=args.config, flags=args.flags)
        if args.foreground:
            loaded = in_foreground(loaded)
        return stop_timeout.fit_budget(loaded, stop_timeout.configured_or(loaded, unit))

    settings = read_config()
    settings.require_coder()
    log.configure(level=settings.log.level, fmt=settings.log.format)
    timeout = stop_timeout.configured_or(settings, unit)
    if timeout.is_enough_for(settings.shutdown.budget_s) is False:
        log.get("daemon").warning(
            "shutdown.grace_short",
            budget_s=settings.shutdown.budget_s,
            grace_s=timeout.seconds,
            told_by=timeout.source,
            hint="a stop may be cut off: raise the grace or lower shutdown.budget_s",
        )
    return asyncio.run(_serve(settings, read_config, Notifier({} if args.foreground else os.environ)))


def in_foreground(settings: Config) -> Config:
    """`settings` with a readable debug log where neither the level nor the format is configured."""
    wanted = {"level": "debug", "format": "console"}
    changed = {key: value for key, value in wanted.items() if settings.origins[f"log.{key}"] == "default"}
    origins = {**settings.origins, **{f"log.{key}": "flag --foreground" for key in changed}}
    return settings._replace(log=settings.log.with_values(**changed), origins=origins)


async def _serve(settings: Config, read_config: Callable[[], Config], notifier: Notifier) -> ExitCode:
    with collector_paused():
        from agentd.daemon.build import build  # noqa: PLC0415 - after the configuration is known to be valid
        from agentd.daemon.run import Daemon  # noqa: PLC0415 - as above

    async with build(settings, Clock()) as components:
        daemon = Daemon(components, notifier=notifier, read_config=read_config)
        with _signals(daemon):
            code = await daemon.run()
            await _leave_if_disk_hangs(components.spool, code)
    return code


async def _leave_if_disk_hangs(spool: "Spool", code: ExitCode) -> None:
    """Exit at once if a thread does not return from the disk: a normal exit would wait for it without end."""
    loop = asyncio.get_running_loop()
    threads = {
        asyncio.create_task(loop.shutdown_default_executor(), name="end of threads"),
        asyncio.create_task(spool.in_thread(int), name="end of the spool's thread"),
    }
    _, hanging = await asyncio.wait(threads, timeout=THREADS_END_S)
    if not hanging:
        return
    log.get("daemon").error(
        "agentd.exit_forced", reason="a disk operation does not return", exit_code=int(code)
    )
    os._exit(code)


@contextlib.contextmanager
def _signals(daemon: "Daemon") -> Iterator[None]:
    """TERM and INT: the first stops, the second skips waiting, the third exits now. HUP reloads."""
    loop = asyncio.get_running_loop()
    count = 0
    reloads: set[asyncio.Task[None]] = set()

    def end(number: signal.Signals) -> None:
        nonlocal count
        count += 1
        if count == 1:
            daemon.stop(number.name)
        elif count == 2:
            daemon.skip_waiting()
        else:
            # Third signal. The spool is on disk, and the next start ends running hooks.
            os._exit(ExitCode.PENDING)

    def reload() -> None:
        task = loop.create_task(daemon.reload(), name="reload")
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, number)
    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
