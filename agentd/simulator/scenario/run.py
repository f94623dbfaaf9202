"""One run of a scenario: its directory, the two peers on loopback ports, and the daemon."""

import asyncio
import string
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from agentd.simulator.agent_debug import SimulatedAgentDebug
from agentd.simulator.agentapi import SimulatedAgentApi, script
from agentd.simulator.agentapi.control import AgentControl
from agentd.simulator.coderd import SimulatedCoderd
from agentd.simulator.coderd.control import CoderdControl
from agentd.simulator.coderd.workspaces import Workspace
from agentd.simulator.daemon_process import DaemonProcess, inherited_environ
from agentd.simulator.faults import SimulatorError
from agentd.simulator.scenario.definition import Scenario

HOOK_FOLDER: Final = "hooks/on-claim.d"
COUNT: Final = 'echo "$AGENTD_HOOK $AGENTD_ATTEMPT" >> "$SCENARIO_RUNS"'
"""The hook `count`: it appends its name and attempt to the file of hook runs."""
QUICK: Final = {
    # Tenths of a second where production uses seconds, in the same proportions.
    "AGENTD_AGENTAPI_POLL_INTERVAL_S": "0.05",
    "AGENTD_STABILITY_SETTLE_S": "0.2",
    "AGENTD_SNAPSHOTS_CHECKPOINT_S": "0.1",
    "AGENTD_SHUTDOWN_BUDGET_S": "10",
    "AGENTD_LOG_LEVEL": "debug",
}
_CODERD_SETTINGS: Final = ("era", "build_version", "flush", "rate_limit", "enable_tasks", "hold_builds")
PING_S: Final = 0.5
LONG_TEXT: Final = "長い答え " * 20_000


@dataclass(slots=True)
class CommandResult:
    """The exit code and the output of an `agentd` command."""

    code: int
    out: str
    err: str


class ScenarioRun:
    """Peers, daemon and files of one run, for `async with`.

    At its end, all processes and servers are stopped.
    """

    def __init__(self, scenario: Scenario, home: Path) -> None:
        self.scenario = scenario
        self.home = home
        self.daemon: DaemonProcess | None = None
        self.daemons: list[DaemonProcess] = []
        self.mark = 0
        """The index of the daemon's first log line that counts."""
        self.command: CommandResult | None = None
        self.answer: object = None
        self._scripts: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        scenario = self.scenario
        # Construct first: an invalid setting is refused before anything has started.
        given = scenario.agent
        self.agent = SimulatedAgentApi(
            **{name: given[name] for name in ("mode", "version", "agent_type") if name in given},
            reply=(lambda prompt: f"You said: {prompt}") if "echo_s" in given else None,
            turn_s=given.get("echo_s", 0.0),
        )
        self._use_coderd(self._new_coderd(scenario.coderd))
        regular = scenario.coderd.get("workspace") == "regular"
        self.workspace: Workspace = self.coderd.add_workspace() if regular else self.coderd.add_prebuild()
        self.agent_control = AgentControl(self.agent)
        if "messages" in given:
            self.agent.load(given["messages"])
        await self.coderd.start()
        await self.agent.start()
        self.task_id = self.coderd.add_task(self.workspace, app_url=self.agent.url)
        self.manifest = SimulatedAgentDebug(self.workspace)
        if scenario.coderd.get("manifest"):
            await self.manifest.start()
        for name, text in scenario.hooks.items():
            self.write_hook(name, text)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._scripts:
            task.cancel()
        await asyncio.gather(*self._scripts, return_exceptions=True)
        for daemon in self.daemons:
            await daemon.__aexit__(None, None, None)
        await self.manifest.stop()
        await self.agent.stop()
        await self.coderd.__aexit__(None, None, None)

    @property
    def hook_runs(self) -> list[str]:
        """The lines that the hooks `count` wrote, in order: name and attempt."""
        record = self.home / "runs"
        return record.read_text().splitlines() if record.exists() else []

    @property
    def environ(self) -> dict[str, str]:
        """The daemon's environment: quick settings, the peers' addresses, then `[daemon.env]`."""
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
        filled: dict[str, str] = self.fill(own | dict(self.scenario.daemon_env))
        return filled

    def fill(self, value: Any) -> Any:  # noqa: ANN401 - any JSON value
        """Replace the variables in the strings of `value`.

        The variables are `${home}`, `${token}`, `${task_id}`, `${workspace_id}`, `${user_id}`, the URLs
        `${coderd}` and `${agent}`, and `${long_text}` (260 KB).
        """
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
                    long_text=LONG_TEXT,
                )
            case Mapping():
                return {key: self.fill(item) for key, item in value.items()}
            case list():
                return [self.fill(item) for item in value]
        return value

    async def start_daemon(self, environ: Mapping[str, str], arguments: tuple[str, ...]) -> DaemonProcess:
        """Start the daemon. Raises `SimulatorError` when one runs."""
        if self.daemon is not None and self.daemon.running:
            raise SimulatorError("the daemon already runs", hint="use daemon.stop or daemon.kill first")
        self.mark = 0
        self.daemon = DaemonProcess(
            self.environ | dict(environ),
            state_dir=self.home / "state",
            arguments=(*self.scenario.daemon_args, *arguments),
        )
        self.daemons.append(self.daemon)
        return await self.daemon.start()

    def require_daemon(self) -> DaemonProcess:
        """The newest daemon, running or not. Raises `SimulatorError` when none was started."""
        if self.daemon is None:
            raise SimulatorError("no daemon was started", hint="use daemon.start first")
        return self.daemon

    async def run_command(self, words: list[str], environ: Mapping[str, str]) -> None:
        """Run an `agentd` command with the daemon's environment and keep its result."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agentd", *words, env={**inherited_environ(), **self.environ, **environ},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            out, err = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        self.command = CommandResult(
            process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace")
        )

    def write_hook(self, name: str, text: str) -> None:
        """Write a hook. The text `count` stands for the hook that only records its run."""
        path = self.path(f"{HOOK_FOLDER}/{name}")
        script_text = COUNT if text.strip() == "count" else text
        path.write_text(f"#!/bin/sh\n{script_text}\n", encoding="utf-8")
        path.chmod(0o755)

    def path(self, name: str) -> Path:
        """A path in the home; its directory is created.

        Raises `SimulatorError` for a path outside the home.
        """
        path = (self.home / name).resolve()
        if not path.is_relative_to(self.home.resolve()):
            raise SimulatorError(f"{name!r} is outside the scenario's home")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    async def set_listening(self, peer: str, *, up: bool) -> None:
        """Start or stop a peer. Idempotent."""
        server = self.coderd if peer == "coderd" else self.agent
        if up and not server.listening:
            await server.start()
        elif server.listening and not up:
            await server.stop()

    async def replace_coderd(self, settings: Mapping[str, Any]) -> None:
        """Start another coderd on the same port with the same records, as an upgrade does.

        Its fault plan is empty.
        """
        port, workspace_id = self.coderd.port, self.workspace.id
        await self.coderd.__aexit__(None, None, None)
        self._use_coderd(self._new_coderd({**self.scenario.coderd, **settings}, port=port))
        self.workspace = next(ws for ws in self.coderd.workspaces if ws.id == workspace_id)
        await self.coderd.start()

    def play_script(self) -> None:
        """Start the agent's script in the background."""
        task = asyncio.create_task(
            script.play(self.agent, self.scenario.agent.get("script", [])), name="the agent's script"
        )
        self._scripts.add(task)
        task.add_done_callback(self._scripts.discard)

    @property
    def playing(self) -> bool:
        """Whether the agent's script runs."""
        return bool(self._scripts)

    def _use_coderd(self, coderd: SimulatedCoderd) -> None:
        self.coderd = coderd
        self.coderd_control = CoderdControl(coderd)

    def _new_coderd(self, settings: Mapping[str, Any], port: int = 0) -> SimulatedCoderd:
        known = {name: settings[name] for name in _CODERD_SETTINGS if name in settings}
        return SimulatedCoderd(
            ping_s=settings.get("ping_s", PING_S), port=port, state=self.home / "coderd.sqlite", **known
        )
