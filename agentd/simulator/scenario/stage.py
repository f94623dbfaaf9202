"""Where a scenario plays: a home of its own, the two peers on loopback ports, and the daemon between them."""

import asyncio
import string
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agentd.simulator.agent_debug import SimulatedAgentDebug
from agentd.simulator.agentapi import SimulatedAgentApi, script
from agentd.simulator.agentapi.admin import Admin as AgentAdmin
from agentd.simulator.coderd import SimulatedCoderd
from agentd.simulator.coderd.admin import Admin as CoderdAdmin
from agentd.simulator.coderd.workspaces import Workspace
from agentd.simulator.daemon_process import DaemonProcess
from agentd.simulator.faults import SimulatorError
from agentd.simulator.scenario.file import Scenario

HOOK_FOLDER = "hooks/on-claim.d"
COUNT = 'echo "$AGENTD_HOOK $AGENTD_ATTEMPT" >> "$SCENARIO_RUNS"'
"""What the hook `count` does: it leaves its name and attempt in the list of runs."""
QUICK = {
    # What takes seconds in production takes tenths here, in the same order.
    "AGENTD_AGENTAPI_POLL_INTERVAL_S": "0.05",
    "AGENTD_STABILITY_SETTLE_S": "0.2",
    "AGENTD_SNAPSHOTS_CHECKPOINT_S": "0.1",
    "AGENTD_SHUTDOWN_BUDGET_S": "10",
    "AGENTD_LOG_LEVEL": "debug",
}
_PEER_SETTINGS = ("era", "build_version", "flush", "rate_limit", "enable_tasks", "hold_builds")
PING_S = 0.5


@dataclass(slots=True)
class Typed:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


class Stage:
    """Everything a step can reach. For `async with`; what still runs at the end is ended."""

    def __init__(self, scenario: Scenario, home: Path) -> None:
        self.scenario = scenario
        self.home = home
        self.daemon: DaemonProcess | None = None
        self.daemons: list[DaemonProcess] = []
        self.mark = 0
        """Log lines of the daemon before this one do not count."""
        self.typed: Typed | None = None
        self.answer: object = None
        self.agent_up = self.coderd_up = False
        self._acts: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        scenario = self.scenario
        # What a file can get wrong is refused before anything has to be put away again.
        given = scenario.agent
        self.agent = SimulatedAgentApi(
            **{name: given[name] for name in ("mode", "version", "agent_type") if name in given},
            reply=(lambda prompt: f"You said: {prompt}") if "echo_s" in given else None,
            turn_s=given.get("echo_s", 0.0),
        )
        self._take(self._new_coderd(scenario.coderd))
        regular = scenario.coderd.get("workspace") == "regular"
        self.workspace: Workspace = self.coderd.add_workspace() if regular else self.coderd.add_prebuild()
        self.agent_door = AgentAdmin(self.agent)
        if "messages" in given:
            self.agent.load(given["messages"])
        await self.set_up("coderd", up=True)
        await self.set_up("agent", up=True)
        self.task_id = self.coderd.add_task(self.workspace, app_url=self.agent.url)
        self.manifest = SimulatedAgentDebug(self.workspace)
        if scenario.coderd.get("manifest"):
            await self.manifest.__aenter__()
        for name, text in scenario.hooks.items():
            self.write_hook(name, text)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for act in self._acts:
            act.cancel()
        await asyncio.gather(*self._acts, return_exceptions=True)
        for daemon in self.daemons:
            await daemon.__aexit__(None, None, None)
        await self.manifest.__aexit__(None, None, None)
        await self.agent.stop()
        await self.coderd.__aexit__(None, None, None)

    @property
    def runs(self) -> list[str]:
        """The lines hooks left, in order: name and attempt."""
        record = self.home / "runs"
        return record.read_text().splitlines() if record.exists() else []

    @property
    def environ(self) -> dict[str, str]:
        """The daemon's environment: quick settings, where the peers are, then what the scenario says."""
        own = {
            **QUICK,
            "CODER_AGENT_URL": self.coderd.url,
            "CODER_AGENT_TOKEN": "${token}",
            "AGENTD_AGENTAPI_URL": self.agent.url,
            "AGENTD_SNAPSHOTS_TASK_ID": self.task_id,
            "AGENTD_CLAIMS_HOOKS_DIR": str(self.home / "hooks"),
            "AGENTD_STATE_DIR": str(self.home / "state"),
            "SCENARIO_HOME": str(self.home),
            "SCENARIO_RUNS": str(self.home / "runs"),
        }
        if self.scenario.coderd.get("manifest"):
            own["CODER_AGENT_DEBUG_ADDRESS"] = self.manifest.url.removeprefix("http://")
        filled: dict[str, str] = self.filled(own | dict(self.scenario.daemon_env))
        return filled

    def filled(self, value: Any) -> Any:  # noqa: ANN401 - any JSON value
        """`value` with `${home}`, `${token}`, `${task_id}`, `${workspace_id}`, `${user_id}`, `${coderd}`, `${agent}`."""
        match value:
            case str():
                return string.Template(value).safe_substitute(
                    home=str(self.home),
                    token=self.workspace.token,
                    task_id=self.task_id,
                    workspace_id=self.workspace.id,
                    user_id=self.coderd.user_id,
                    coderd=self.coderd.url,
                    agent=self.agent.url,
                )
            case Mapping():
                return {key: self.filled(item) for key, item in value.items()}
            case list():
                return [self.filled(item) for item in value]
        return value

    async def launch(self, environ: Mapping[str, str], arguments: tuple[str, ...]) -> DaemonProcess:
        """Start the daemon; one at a time."""
        if self.daemon is not None and self.daemon.running:
            raise SimulatorError("the daemon runs already", hint="daemon.stop or daemon.kill it first")
        self.mark = 0
        self.daemon = DaemonProcess(
            self.environ | dict(environ),
            state_dir=self.home / "state",
            arguments=(*self.scenario.daemon_args, *arguments),
        )
        self.daemons.append(self.daemon)
        return await self.daemon.start()

    def require_daemon(self) -> DaemonProcess:
        if self.daemon is None:
            raise SimulatorError("no daemon was started yet")
        return self.daemon

    async def type(self, words: list[str], environ: Mapping[str, str]) -> Typed:
        """Type an `agentd` command with the daemon's environment."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agentd", *words, env={**DaemonProcess.inherited(), **self.environ, **environ},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            out, err = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        self.typed = Typed(
            process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace")
        )
        return self.typed

    def write_hook(self, name: str, text: str) -> None:
        """Put a hook in its place; `count` stands for the hook that only leaves its line."""
        path = self.path(f"{HOOK_FOLDER}/{name}")
        script_text = COUNT if text.strip() == "count" else text
        path.write_text(f"#!/bin/sh\n{script_text}\n", encoding="utf-8")
        path.chmod(0o755)

    def path(self, name: str) -> Path:
        """A file of the stage; its folder is there. Raises `SimulatorError` for one outside the home."""
        path = (self.home / name).resolve()
        if not path.is_relative_to(self.home.resolve()):
            raise SimulatorError(f"{name!r} is outside the scenario's home")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    async def set_up(self, peer: str, *, up: bool) -> None:
        """Let a peer listen, or be gone. Doing it twice is harmless."""
        if peer == "coderd" and up != self.coderd_up:
            await (self.coderd.start() if up else self.coderd.stop())
            self.coderd_up = up
        if peer == "agent" and up != self.agent_up:
            await (self.agent.start() if up else self.agent.stop())
            self.agent_up = up

    async def exchange_coderd(self, settings: Mapping[str, Any]) -> None:
        """Another coderd on the same port with the same state: an upgrade, or a restart that forgets its faults."""
        port, workspace_id = self.coderd.port, self.workspace.id
        await self.coderd.__aexit__(None, None, None)
        self._take(self._new_coderd({**self.scenario.coderd, **settings}, port=port))
        self.workspace = next(ws for ws in self.coderd.workspaces if ws.id == workspace_id)
        await self.coderd.start()
        self.coderd_up = True

    def play_script(self) -> None:
        """Let the agent begin its script."""
        task = asyncio.create_task(
            script.play(self.agent, self.scenario.agent.get("script", [])), name="the agent's script"
        )
        self._acts.add(task)
        task.add_done_callback(self._acts.discard)

    @property
    def playing(self) -> bool:
        """Whether the agent's script is under way."""
        return bool(self._acts)

    def _take(self, coderd: SimulatedCoderd) -> None:
        self.coderd = coderd
        self.coderd_door = CoderdAdmin(coderd)

    def _new_coderd(self, settings: Mapping[str, Any], port: int = 0) -> SimulatedCoderd:
        known = {name: settings[name] for name in _PEER_SETTINGS if name in settings}
        return SimulatedCoderd(
            ping_s=settings.get("ping_s", PING_S), port=port, state=self.home / "coderd.sqlite", **known
        )
