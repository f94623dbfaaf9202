"""`agentd demo`: the whole main job on this machine, told as it happens.

The daemon is the real one, as a child process; coderd and AgentAPI are the simulator on loopback ports. Every step
checks what it says, and the first that fails ends the demo with exit code 1.
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from agentd.cli.audience import Audience
from agentd.errors import AgentdError, ExitCode

if TYPE_CHECKING:
    from agentd.simulator.agentapi import SimulatedAgentApi
    from agentd.simulator.coderd import SimulatedCoderd
    from agentd.simulator.coderd.workspaces import Workspace
    from agentd.simulator.daemon_process import DaemonProcess

BUDGET_S = 60.0
SNAPSHOT_MAX_BYTES = 65_536

HOOK = """#!/bin/sh
echo "$AGENTD_HOOK attempt $AGENTD_ATTEMPT for owner $AGENTD_OWNER_ID" | tee -a "{record}"
"""


class StepFailedError(AgentdError):
    """A step of the demo did not do what it should."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep",
        action="store_true",
        help="keep the demo's folder (state directory, hooks, the daemon's log)",
    )
    parser.add_argument(
        "--ui",
        type=int,
        nargs="?",
        const=0,
        metavar="PORT",
        help="a page to watch it (default: any free port); afterwards it is yours to play with, until Enter",
    )


def run(args: argparse.Namespace) -> int:
    """0 when every step did what it should, 1 at the first that did not."""
    home = Path(tempfile.mkdtemp(prefix="agentd-demo-"))
    story = Story(home, None if args.ui is None else Audience(args.ui))
    try:
        asyncio.run(story.perform())
    except (AgentdError, TimeoutError) as exc:
        print(f"\n✗ {str(exc) or 'the demo took longer than a minute'}", file=sys.stderr)
        return ExitCode.FAILED
    finally:
        story.write_logs()
        if args.keep:
            print(f"kept: {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)
    return ExitCode.OK


class Story:
    """The demo's steps, in order, on one set of peers."""

    def __init__(self, home: Path, audience: Audience | None) -> None:
        self._home = home
        self._audience = audience
        self._record = home / "hooks.log"
        self._started = time.monotonic()
        self._daemons: list[DaemonProcess] = []

    async def perform(self) -> None:
        """Raises `TimeoutError` when the story takes too long; who looks on has time of their own."""
        from agentd.simulator.agentapi import SimulatedAgentApi  # noqa: PLC0415 - only the demo needs servers
        from agentd.simulator.coderd import SimulatedCoderd  # noqa: PLC0415 - only the demo needs servers

        self._write_hooks()
        async with SimulatedCoderd(ping_s=1.0) as coderd, SimulatedAgentApi() as agent:
            workspace = coderd.add_prebuild()
            task_id = coderd.add_task(workspace)
            environ = self._environ(coderd, agent, workspace.token, task_id)
            if self._audience is None:
                await asyncio.wait_for(self.tell(coderd, agent, task_id, environ), BUDGET_S)
                return
            async with self._audience.seated(coderd, agent):
                await asyncio.wait_for(self.tell(coderd, agent, task_id, environ), 2 * BUDGET_S)
                await agent.start()
                daemon = await self._start(environ, "Now it is yours: press the buttons. Enter ends it")
                await self._audience.leave()
                with contextlib.suppress(ProcessLookupError):  # Ctrl-C reaches the daemon, too
                    await daemon.stop()

    async def tell(
        self, coderd: "SimulatedCoderd", agent: "SimulatedAgentApi", task_id: str, environ: dict[str, str]
    ) -> None:
        workspace = coderd.workspaces[0]
        await self._say(
            "A simulated coderd and a simulated AgentAPI on loopback; the daemon is the real one."
        )
        daemon = await self._start(environ, "agentd starts in a prebuilt workspace")
        await self._claim(daemon, coderd, workspace)
        await self._replay_on_reconnect(daemon, coderd, workspace)
        await self._settle(daemon, agent)
        await self._kill_and_lose_the_agent(daemon, coderd, agent, task_id)
        daemon = await self._start(environ, "agentd starts again; the agent is gone")
        await self._replay_after_restart(daemon)
        await self._deliver_from_spool(coderd, task_id)
        await agent.start()
        await self._stop_politely(daemon, coderd, agent, task_id)
        daemon = await self._start(environ, "once more, and now coderd goes down")
        await self._stop_without_coderd(daemon, coderd, agent, task_id)
        daemon = await self._start(environ, "the next start")
        await self._deliver_what_was_kept(daemon, coderd, task_id)
        await self._say(
            f"Done in {time.monotonic() - self._started:.1f} s. Nothing ran twice, nothing was lost."
        )

    async def _claim(
        self, daemon: "DaemonProcess", coderd: "SimulatedCoderd", workspace: "Workspace"
    ) -> None:
        await daemon.status_until(lambda s: s["claims"]["state"] == "listening", what="the stream listening")
        await self._ok("it holds the claim stream: listening")
        coderd.claim_start(workspace)
        await self._say(
            "A user claims the workspace; while the claim job runs coderd refuses new requests with 401."
        )
        await coderd.claim_finish(workspace)
        await daemon.status_until(lambda s: s["claims"]["state"] == "settled", what="the claim settled")
        await self._expect(
            self._hook_runs() == 2,
            f"two hooks ran, once each, in name order: {self._hook_names()}",
            "both hooks run once",
        )

    async def _replay_on_reconnect(
        self, daemon: "DaemonProcess", coderd: "SimulatedCoderd", workspace: "Workspace"
    ) -> None:
        before = len(coderd.calls("reinit"))
        await coderd.drop_connections("eof")
        await self._say("The connection drops. coderd replays the claim on every connection.")
        await coderd.until(
            lambda: len(coderd.calls("reinit")) > before and coderd.open_streams(workspace) > 0
        )
        await daemon.log("claim.replayed")
        await self._expect(
            self._hook_runs() == 2,
            "the same claim replayed on reconnect: no hook ran",
            "no hook runs on a replay",
        )

    async def _settle(self, daemon: "DaemonProcess", agent: "SimulatedAgentApi") -> None:
        mark = len(daemon.lines)
        agent.set_status("running")
        agent.add_message("user", "Please make the build green. 请修好构建。")
        agent.add_message("agent", "Looking at it …")
        await daemon.log("agent.status", where=lambda line: line["new"] == "running", after=mark)
        await self._ok("the agent works: running")
        agent.rewrite_last("Fixed the import and ran the tests: all green. ✅")
        agent.set_status("stable")
        seen = await daemon.log("agent.status", where=lambda line: line["new"] == "stable", after=mark)
        await self._ok(f"the agent is quiet: settling, then stable ({seen['evidence']})")

    async def _kill_and_lose_the_agent(
        self, daemon: "DaemonProcess", coderd: "SimulatedCoderd", agent: "SimulatedAgentApi", task_id: str
    ) -> None:
        await coderd.until(lambda: task_id in coderd.snapshots)
        await coderd.stop()
        mark = len(daemon.lines)
        agent.set_status("running")
        agent.add_message("user", "Now deploy it.")
        agent.add_message("agent", "Deploying: step 3 of 7 …")
        await daemon.log("snapshot.spooled", where=lambda line: line["messages"] >= 5, after=mark)
        await daemon.kill()
        await agent.stop()
        await coderd.start()
        await self._ok("kill -9 in the middle of the conversation; the agent is gone too, coderd was away")

    async def _replay_after_restart(self, daemon: "DaemonProcess") -> None:
        await daemon.log("claim.replayed")
        await self._expect(
            self._hook_runs() == 2,
            "the claim replayed after the restart: no hook ran",
            "no hook runs after a restart",
        )

    async def _deliver_from_spool(self, coderd: "SimulatedCoderd", task_id: str) -> None:
        await coderd.until(lambda: _last(coderd, task_id).startswith("Deploying: step 3"))
        await self._ok(
            "the conversation was delivered from the spool, down to the last words before the kill"
        )

    async def _stop_politely(
        self, daemon: "DaemonProcess", coderd: "SimulatedCoderd", agent: "SimulatedAgentApi", task_id: str
    ) -> None:
        await daemon.status_until(lambda s: s["agent"]["status"] != "unreachable", what="the agent back")
        agent.add_message("agent", "長い答え " * 20_000 + "the very last words")
        code = await daemon.stop()
        body = coderd.snapshots[task_id].body
        await self._expect(
            code == ExitCode.OK
            and len(body) <= SNAPSHOT_MAX_BYTES
            and _last(coderd, task_id).endswith("the very last words"),
            f"SIGTERM: exit {code}, a 300 KB message fitted into {len(body):,} of 65,536 bytes, the newest words last",
            "the snapshot arrives at SIGTERM",
        )

    async def _stop_without_coderd(
        self, daemon: "DaemonProcess", coderd: "SimulatedCoderd", agent: "SimulatedAgentApi", task_id: str
    ) -> None:
        await daemon.log("claim.replayed")
        await coderd.stop()
        agent.add_message("user", "thanks, that is all")
        code = await daemon.stop()
        await self._expect(
            code == ExitCode.PENDING,
            f"SIGTERM while coderd is down: exit {code}, kept in the spool",
            "exit 75",
        )
        await agent.stop()
        await coderd.start()
        await self._expect(
            not _last(coderd, task_id).startswith("thanks"), "coderd does not have it yet", "coderd lacks it"
        )

    async def _deliver_what_was_kept(
        self, daemon: "DaemonProcess", coderd: "SimulatedCoderd", task_id: str
    ) -> None:
        await coderd.until(lambda: _last(coderd, task_id) == "thanks, that is all")
        await daemon.status_until(lambda s: not s["snapshot"]["pending"], what="nothing pending")
        code = await daemon.stop()
        await self._expect(
            code == ExitCode.OK, f"delivered what the last run had kept; exit {code}", "a clean stop"
        )
        await self._expect(
            self._hook_runs() == 2, "and in all of this each hook ran once", "two hook runs in all"
        )

    async def _start(self, environ: dict[str, str], why: str) -> "DaemonProcess":
        from agentd.simulator.daemon_process import DaemonProcess  # noqa: PLC0415 - imports aiohttp

        daemon = DaemonProcess(environ, state_dir=self._home / "state")
        self._daemons.append(daemon)
        await daemon.start()
        await daemon.log("agentd.started")
        await self._say(f"{why} (pid {daemon.pid}).")
        return daemon

    def _environ(
        self, coderd: "SimulatedCoderd", agent: "SimulatedAgentApi", token: str, task_id: str
    ) -> dict[str, str]:
        page = {"AGENTD_LOCAL_API_LISTEN": self._audience.daemon_listen} if self._audience else {}
        return page | {
            "CODER_AGENT_URL": coderd.url,
            "CODER_AGENT_TOKEN": token,
            "AGENTD_AGENTAPI_URL": agent.url,
            "AGENTD_AGENTAPI_POLL_INTERVAL_S": "0.2",
            "AGENTD_STABILITY_SETTLE_S": "1.5",
            "AGENTD_SNAPSHOTS_CHECKPOINT_S": "0.5",
            "AGENTD_SNAPSHOTS_TASK_ID": task_id,
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

    async def _say(self, sentence: str) -> None:
        print(f"\n[{time.monotonic() - self._started:5.1f} s] {sentence}", flush=True)
        await self._show(sentence)

    async def _ok(self, sentence: str) -> None:
        print(f"          ✓ {sentence}", flush=True)
        await self._show(sentence, "good")

    async def _show(self, sentence: str, tone: str = "") -> None:
        if self._audience is not None:
            await self._audience.tell(sentence, tone)

    async def _expect(self, truth: bool, sentence: str, what: str) -> None:
        if not truth:
            await self._show(f"Expected: {what}; seen: {sentence}", "bad")
            raise StepFailedError(
                f"expected: {what}; seen: {sentence}", hint="run again with --keep and read daemon-*.log"
            )
        await self._ok(sentence)

    def write_logs(self) -> None:
        """Leave the daemons' log lines beside the state directory, for --keep."""
        for number, daemon in enumerate(self._daemons, 1):
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in daemon.lines)
            (self._home / f"daemon-{number}.log").write_text(text)


def _last(coderd: "SimulatedCoderd", task_id: str) -> str:
    """The last stored message's content, or an empty string."""
    stored = coderd.snapshots.get(task_id)
    messages = stored.envelope["data"]["messages"] if stored else []
    return str(messages[-1]["content"]) if messages else ""
