"""`agentd demo`: runs agentd against simulated peers and prints each step.

The daemon is the real one, as a child process; coderd and AgentAPI are simulated, on loopback ports. Each
step checks its result, and the first failed step ends the demo with exit code 1.
"""

import argparse
import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentd.cli.demo_page import DemoPage
from agentd.errors import AgentdError, ExitCode

if TYPE_CHECKING:
    from agentd.simulator.daemon_process import DaemonProcess

BUDGET_S: Final = 60.0
SNAPSHOT_MAX_BYTES: Final = 65_536

_READ_LOGS: Final = "run again with --keep and read daemon-*.log"

HOOK: Final = """#!/bin/sh
echo "$AGENTD_HOOK attempt $AGENTD_ATTEMPT for owner $AGENTD_OWNER_ID" | tee -a "{record}"
"""


class DemoError(AgentdError):
    """A step of the demo failed."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep",
        action="store_true",
        help="keep the demo's directory: state directory, hooks and the daemon's logs",
    )
    parser.add_argument(
        "--ui",
        type=int,
        nargs="?",
        const=0,
        metavar="PORT",
        help="show the demo on a page on 127.0.0.1 (default: any free port); afterwards the simulators run until Enter",
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0 when every step succeeded, 1 after the first that failed."""
    home = Path(tempfile.mkdtemp(prefix="agentd-demo-"))
    demo = Demo(home, None if args.ui is None else DemoPage(args.ui))
    try:
        asyncio.run(demo.run())
    except AgentdError as exc:
        print(f"\n✗ {exc}", file=sys.stderr)
        return ExitCode.FAILED
    finally:
        demo.write_logs()
        if args.keep:
            print(f"kept: {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)
    return ExitCode.OK


class Demo:
    """The steps of the demo, with one coderd, one agent and several daemons. `page` shows the steps."""

    def __init__(self, home: Path, page: DemoPage | None) -> None:
        self._home = home
        self._page = page
        self._record = home / "hooks.log"
        self._started = time.monotonic()
        self._daemons: list[DaemonProcess] = []
        self._last = "the start"
        """The last sentence, for the report of a timeout."""

    async def run(self) -> None:
        """Run the demo. Raises `DemoError`, also after `BUDGET_S` (twice that with a page, which pauses)."""
        from agentd.simulator.agentapi import SimulatedAgentApi  # noqa: PLC0415 - not needed to parse arguments
        from agentd.simulator.coderd import SimulatedCoderd  # noqa: PLC0415 - not needed to parse arguments

        self._write_hooks()
        async with (
            SimulatedCoderd(ping_s=1.0) as self._coderd,
            SimulatedAgentApi() as self._agent,
            contextlib.AsyncExitStack() as daemons,
        ):
            daemons.push_async_callback(self._kill_daemons)
            self._workspace = self._coderd.add_prebuild()
            self._task_id = self._coderd.add_task(self._workspace)
            if self._page is None:
                await self._run_steps_within(BUDGET_S)
                return
            async with self._page.serve(self._coderd, self._agent):
                await self._run_steps_within(2 * BUDGET_S)
                await self._agent.start()
                await self._start("The demo is over. Use the page's buttons, or press Enter to exit")
                await self._page.until_enter()
                with contextlib.suppress(ProcessLookupError):  # Ctrl-C stops the daemon, too
                    await self._daemon.stop()

    async def _run_steps_within(self, limit_s: float) -> None:
        try:
            await asyncio.wait_for(self._run_steps(), limit_s)
        except TimeoutError:
            raise DemoError(f"the demo exceeded {limit_s:g} s after: {self._last}", hint=_READ_LOGS) from None

    async def _kill_daemons(self) -> None:
        """End the daemon of a demo that failed."""
        for daemon in self._daemons:
            if daemon.running:
                await daemon.kill()

    async def _run_steps(self) -> None:
        await self._announce(
            "The daemon is the real one; coderd and AgentAPI are simulated, on loopback ports."
        )
        await self._start("agentd starts in a prebuilt workspace")
        await self._claim()
        await self._replay_on_reconnect()
        await self._settle()
        await self._kill_daemon_and_stop_agent()
        await self._start("agentd starts again; the agent is stopped")
        await self._replay_after_restart()
        await self._deliver_from_spool()
        await self._agent.start()
        await self._stop_with_coderd()
        await self._start("agentd starts again, and coderd will be down at the next stop")
        await self._stop_without_coderd()
        await self._start("agentd starts again; coderd is reachable")
        await self._deliver_after_restart()
        await self._announce(
            f"Done in {time.monotonic() - self._started:.1f} s. No hook ran twice, and no message was lost."
        )

    async def _claim(self) -> None:
        await self._daemon.status_until(
            lambda s: s["claims"]["state"] == "listening", what="an open claim stream"
        )
        await self._passed("the claim stream is open: listening")
        self._coderd.claim_start(self._workspace)
        await self._announce(
            "A user claims the workspace. While the claim job runs, coderd answers new requests with 401."
        )
        await self._coderd.claim_finish(self._workspace)
        await self._daemon.status_until(lambda s: s["claims"]["state"] == "settled", what="the claim settled")
        await self._expect(
            self._hook_runs() == 2,
            f"two hooks ran once each, in the order of their names: {self._hook_names()}",
        )

    async def _replay_on_reconnect(self) -> None:
        before = len(self._coderd.calls("reinit"))
        await self._coderd.drop_connections("eof")
        await self._announce("The connection drops. coderd replays the claim on every connection.")
        await self._coderd.until(
            lambda: (
                len(self._coderd.calls("reinit")) > before and self._coderd.open_streams(self._workspace) > 0
            )
        )
        await self._daemon.log("claim.replayed")
        await self._expect(
            self._hook_runs() == 2, "coderd replayed the claim after the reconnect: no hook ran"
        )

    async def _settle(self) -> None:
        mark = len(self._daemon.lines)
        self._agent.set_status("running")
        self._agent.add_message("user", "Please make the build green. 请修好构建。")
        self._agent.add_message("agent", "Looking at it …")
        await self._daemon.log("agent.status", where=lambda line: line["new"] == "running", after=mark)
        await self._passed("the agent is running")
        self._agent.rewrite_last("Fixed the import and ran the tests: all green. ✅")
        self._agent.set_status("stable")
        seen = await self._daemon.log("agent.status", where=lambda line: line["new"] == "stable", after=mark)
        await self._passed(f"the agent is settling, then stable ({seen['evidence']})")

    async def _kill_daemon_and_stop_agent(self) -> None:
        await self._coderd.until(lambda: self._task_id in self._coderd.snapshots)
        await self._coderd.stop()
        mark = len(self._daemon.lines)
        self._agent.set_status("running")
        self._agent.add_message("user", "Now deploy it.")
        self._agent.add_message("agent", "Deploying: step 3 of 7 …")
        await self._daemon.log("snapshot.spooled", where=lambda line: line["messages"] >= 5, after=mark)
        await self._daemon.kill()
        await self._agent.stop()
        await self._coderd.start()
        await self._passed(
            "kill -9 during the conversation, while coderd was down; the agent was stopped, too"
        )

    async def _replay_after_restart(self) -> None:
        await self._daemon.log("claim.replayed")
        await self._expect(self._hook_runs() == 2, "coderd replayed the claim after the restart: no hook ran")

    async def _deliver_from_spool(self) -> None:
        await self._coderd.until(lambda: self._last_message().startswith("Deploying: step 3"))
        await self._passed(
            "the conversation was delivered from the spool, with the last message before the kill"
        )

    async def _stop_with_coderd(self) -> None:
        await self._daemon.status_until(
            lambda s: s["agent"]["status"] != "unreachable", what="a reachable agent"
        )
        self._agent.add_message("agent", "長い答え " * 20_000 + "the very last words")
        code = await self._daemon.stop()
        body = self._coderd.snapshots[self._task_id].body
        await self._expect(
            code == ExitCode.OK
            and len(body) <= SNAPSHOT_MAX_BYTES
            and self._last_message().endswith("the very last words"),
            f"SIGTERM: exit {code}; a 300 KB message was truncated to fit: {len(body):,} of 65,536 bytes, newest text kept",
        )

    async def _stop_without_coderd(self) -> None:
        await self._daemon.log("claim.replayed")
        await self._coderd.stop()
        self._agent.add_message("user", "thanks, that is all")
        code = await self._daemon.stop()
        await self._expect(
            code == ExitCode.PENDING,
            f"SIGTERM while coderd is down: exit {code}, the snapshot is in the spool",
        )
        await self._agent.stop()
        await self._coderd.start()
        await self._expect(
            not self._last_message().startswith("thanks"), "coderd does not have the last message yet"
        )

    async def _deliver_after_restart(self) -> None:
        await self._coderd.until(lambda: self._last_message() == "thanks, that is all")
        await self._daemon.status_until(lambda s: not s["snapshot"]["pending"], what="no pending snapshot")
        code = await self._daemon.stop()
        await self._expect(
            code == ExitCode.OK, f"the next start delivered the snapshot from the spool; exit {code}"
        )
        await self._expect(self._hook_runs() == 2, "each hook ran once in the whole demo")

    async def _start(self, why: str) -> None:
        from agentd.simulator.daemon_process import DaemonProcess  # noqa: PLC0415 - imports aiohttp

        daemon = DaemonProcess(self._environ(), state_dir=self._home / "state")
        self._daemons.append(daemon)
        await daemon.start()
        await daemon.log("agentd.started")
        await self._announce(f"{why} (pid {daemon.pid}).")

    @property
    def _daemon(self) -> "DaemonProcess":
        """The daemon that was started last."""
        return self._daemons[-1]

    def _environ(self) -> dict[str, str]:
        page = {"AGENTD_LOCAL_API_LISTEN": self._page.daemon_listen} if self._page else {}
        return page | {
            "CODER_AGENT_URL": self._coderd.url,
            "CODER_AGENT_TOKEN": self._workspace.token,
            "AGENTD_AGENTAPI_URL": self._agent.url,
            "AGENTD_AGENTAPI_POLL_INTERVAL_S": "0.2",
            "AGENTD_STABILITY_SETTLE_S": "1.5",
            "AGENTD_SNAPSHOTS_CHECKPOINT_S": "0.5",
            "AGENTD_SNAPSHOTS_TASK_ID": self._task_id,
            "AGENTD_CLAIMS_HOOKS_DIR": str(self._home / "hooks"),
            "AGENTD_SHUTDOWN_BUDGET_S": "4",
            "AGENTD_LOG_LEVEL": "debug",
        }

    def _write_hooks(self) -> None:
        folder = self._home / "hooks" / "on-claim.d"
        folder.mkdir(parents=True, mode=0o755)
        for name in ("10-git-identity", "20-dotfiles"):
            hook = folder / name
            hook.write_text(HOOK.format(record=self._record))
            hook.chmod(0o755)

    def _hook_names(self) -> str:
        return ", ".join(line.split()[0] for line in self._record.read_text().splitlines())

    def _hook_runs(self) -> int:
        return len(self._record.read_text().splitlines()) if self._record.exists() else 0

    def _last_message(self) -> str:
        """The content of the last message that coderd stored, or an empty string."""
        stored = self._coderd.snapshots.get(self._task_id)
        messages = stored.envelope["data"]["messages"] if stored else []
        return str(messages[-1]["content"]) if messages else ""

    async def _announce(self, sentence: str) -> None:
        print(f"\n[{time.monotonic() - self._started:5.1f} s] {sentence}", flush=True)
        await self._show(sentence)

    async def _passed(self, sentence: str) -> None:
        print(f"          ✓ {sentence}", flush=True)
        await self._show(sentence, "good")

    async def _show(self, sentence: str, tone: str = "") -> None:
        self._last = sentence
        if self._page is not None:
            await self._page.show(sentence, tone)

    async def _expect(self, truth: bool, sentence: str) -> None:
        if not truth:
            await self._show(f"This is not true: {sentence}", "bad")
            raise DemoError(f"this is not true: {sentence}", hint=_READ_LOGS)
        await self._passed(sentence)

    def write_logs(self) -> None:
        """Write the daemons' logs beside the state directory."""
        for number, daemon in enumerate(self._daemons, 1):
            daemon.write_log(self._home / f"daemon-{number}.log")
