"""`agentd simulate`: the simulated peers as stand-alone servers, and scenarios."""

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agentd.cli import scenarios
from agentd.errors import AgentdError, ExitCode

if TYPE_CHECKING:
    from agentd.simulator.agentapi import SimulatedAgentApi
    from agentd.simulator.coderd import SimulatedCoderd
    from agentd.simulator.coderd.workspaces import Workspace

_FILE: Final[dict[str, Any]] = {"type": Path, "metavar": "FILE"}
_STOPS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands coderd, agentapi, run and list."""
    peers = parser.add_subparsers(dest="peer", required=True, metavar="coderd|agentapi|run|list")
    _configure_coderd(
        peers.add_parser("coderd", help="serve a simulated coderd with one prebuilt workspace and one task")
    )
    _configure_agentapi(peers.add_parser("agentapi", help="serve a simulated AgentAPI with a conversation"))
    scenarios.configure_run(
        peers.add_parser("run", help="run scenarios with the real daemon between simulated peers")
    )
    peers.add_parser("list", help="list the scenarios that come with agentd")


def _configure_coderd(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--port", type=int, default=0, help="port on 127.0.0.1 (default: any free one)")
    add(
        "--era",
        default="E3",
        choices=("E1", "E2", "E3", "E4", "E5"),
        help="the range of releases to simulate (default E3)",
    )
    add("--build-version", help="the value of X-Coder-Build-Version, like v2.29.1")
    add("--ping-s", type=float, default=15.0, help="seconds between pings (default 15, as in coderd)")
    add(
        "--eager",
        action="store_true",
        help="send a stream's headers at once; coderd sends them with the first event or ping",
    )
    add("--rate-limit", type=int, default=512, help="requests per minute and path (default 512; 0: no limit)")
    add("--no-tasks", action="store_true", help="serve no task routes, as E4 without CODER_ENABLE_AI_TASKS")
    add(
        "--regular",
        action="store_true",
        help="start with a user's workspace instead of an unclaimed prebuild",
    )
    add("--token", help="the agent's token (default: a random one)")
    add("--workspace-id", help="the workspace's id (default: a random one)")
    add("--task-id", help="the task's id (default: a random one)")
    add("--app-url", default="", help="the URL of the task's AgentAPI, for live task logs")
    add("--state", **_FILE, help="store all records in this sqlite file, and load them at start")
    add(
        "--hold-builds",
        action="store_true",
        help="keep the build of a resume pending until /_sim/run-job and /_sim/start-finish",
    )
    _add_admin(parser)


def _configure_agentapi(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--port", type=int, default=0, help="port on 127.0.0.1 (default: any free one)")
    add("--transcript", **_FILE, help='start with the conversation in FILE, {"messages": [...]}')
    add("--mode", default="pty", choices=("pty", "acp"), help="the transport (default pty)")
    add("--agent-version", default="0.12.1", help="the version to simulate (default 0.12.1)")
    add(
        "--allowed-hosts",
        nargs="+",
        metavar="HOST",
        help="hosts that the Host check accepts (default: localhost 127.0.0.1 [::1])",
    )
    add(
        "--send-s",
        type=float,
        default=2.2,
        help="seconds until the simulated terminal accepts a message (default 2.2)",
    )
    add(
        "--script",
        **_FILE,
        help="run the [[script]] steps of this TOML file: the agent's actions and their timing",
    )
    add("--echo", type=float, metavar="SECONDS", help="answer each message after SECONDS")
    add("--state-file", **_FILE, help="load this state file at start, save it at exit and on SIGUSR1")
    add("--pid-file", **_FILE, help="write the pid to this file while running")
    _add_admin(parser)


def _add_admin(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--admin",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="serve the /_sim/ control endpoint (default: on)",
    )
    add(
        "--ui",
        type=int,
        nargs="?",
        const=0,
        metavar="PORT",
        help="serve a page that shows and drives the peer, on 127.0.0.1 (default: any free port)",
    )
    add(
        "--ui-host",
        action="append",
        default=[],
        metavar="HOST",
        help="a host under which a proxy serves that page, like coder.example.com",
    )


def run(args: argparse.Namespace) -> int:
    """Serve a peer until a signal, or run or list scenarios."""
    if args.peer == "list":
        return scenarios.show()
    try:
        if args.peer == "run":
            return scenarios.run(args)
        return asyncio.run(_serve_coderd(args) if args.peer == "coderd" else _serve_agentapi(args))
    except (OSError, AgentdError) as exc:
        print(f"agentd simulate {args.peer}: {exc}", file=sys.stderr)
        return exc.exit_code if isinstance(exc, AgentdError) else ExitCode.FAILED


async def _serve_coderd(args: argparse.Namespace) -> int:
    from agentd.simulator.coderd import SimulatedCoderd  # noqa: PLC0415 - not needed to parse arguments
    from agentd.simulator.coderd.control import CoderdControl  # noqa: PLC0415 - not needed to parse arguments

    coderd = SimulatedCoderd(
        era=args.era,
        ping_s=args.ping_s,
        flush="eager" if args.eager else "lazy",
        rate_limit=args.rate_limit,
        enable_tasks=not args.no_tasks,
        port=args.port,
        build_version=args.build_version,
        state=args.state,
        hold_builds=args.hold_builds,
    )
    if args.admin:
        CoderdControl(coderd).mount()
    stopping = _stop_event()
    async with coderd:
        _print_coderd(coderd, args)
        async with _page(args, coderd=coderd):
            await stopping.wait()
    return ExitCode.OK


def _print_coderd(coderd: "SimulatedCoderd", args: argparse.Namespace) -> None:
    """Print the settings that connect agentd to this coderd, and the commands that drive it."""
    ws, task_id = _workspace_and_task(coderd, args)
    kind = f"workspace with {len(ws.builds)} builds" if len(ws.builds) > 1 else "unclaimed prebuild"
    if args.regular:
        kind = "regular workspace"
    logs = f"{coderd.url}/api/v2/tasks/me/{task_id}/logs"
    lines = [
        f"simulated coderd ({coderd.era}) on {coderd.url}: {kind} {ws.id}",
        "",
        "connect agentd:",
        f"  export CODER_AGENT_URL={coderd.url}",
        f"  export CODER_AGENT_TOKEN={ws.token}",
        f"  export CODER_WORKSPACE_ID={ws.id}",
        f"  export AGENTD_SNAPSHOTS_TASK_ID={task_id}",
        "",
        "read the task's logs as its user:",
        f"  curl -H 'Coder-Session-Token: {coderd.user_token}' {logs}",
    ]
    if args.admin:
        lines += [
            "",
            "send commands:",
            f"  curl {coderd.url}/_sim/state",
            f"  curl -X POST {coderd.url}/_sim/claim-start",
            f"  curl -X POST {coderd.url}/_sim/claim-finish",
            f'  curl -X POST {coderd.url}/_sim/drop -d \'{{"how":"reset"}}\'',
            f'  curl -X POST {coderd.url}/_sim/fail-next -d \'{{"route":"log-snapshot","status":500,"times":2}}\'',
        ]
    print("\n".join(lines), flush=True)


def _workspace_and_task(coderd: "SimulatedCoderd", args: argparse.Namespace) -> "tuple[Workspace, str]":
    """The newest workspace and its newest task, from the state file or new ones."""
    if not coderd.workspaces:
        add = coderd.add_workspace if args.regular else coderd.add_prebuild
        add(token=args.token, workspace_id=args.workspace_id)
    ws = coderd.workspaces[-1]
    known = [task.id for task in coderd.tasks.values() if task.workspace is ws and not task.deleted]
    return ws, known[-1] if known else coderd.add_task(ws, args.task_id, app_url=args.app_url)


async def _serve_agentapi(args: argparse.Namespace) -> int:
    from agentd.simulator.agentapi import SimulatedAgentApi, script  # noqa: PLC0415 - as above
    from agentd.simulator.agentapi.control import AgentControl  # noqa: PLC0415 - as above
    from agentd.simulator.agentapi.process import AgentProcess  # noqa: PLC0415 - as above
    from agentd.simulator.agentapi.server import DEFAULT_HOSTS  # noqa: PLC0415 - as above

    agent = SimulatedAgentApi(
        port=args.port,
        mode=args.mode,
        version=args.agent_version,
        allowed_hosts=args.allowed_hosts or DEFAULT_HOSTS,
        reply=None if args.echo is None else lambda prompt: f"You said: {prompt}",
        send_s=args.send_s,
        turn_s=args.echo or 0.0,
    )
    if args.admin:
        AgentControl(agent).mount()
    if args.transcript is not None:
        try:
            agent.load(args.transcript)
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise AgentdError(f"--transcript {args.transcript}: {exc!r}") from None
    steps = script.load(args.script) if args.script is not None else []
    process = AgentProcess(agent, state_file=args.state_file, pid_file=args.pid_file)
    stopping = _stop_event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, process.save)
    await process.begin()
    _print_agentapi(agent, args)
    playing = asyncio.create_task(script.play(agent, steps), name="the agent's script")
    async with _page(args, agent=agent):
        await stopping.wait()
    playing.cancel()
    return await process.end()


def _print_agentapi(agent: "SimulatedAgentApi", args: argparse.Namespace) -> None:
    """Print the setting that connects agentd to this agent, and the commands that drive it."""
    lines = [
        f"simulated AgentAPI {agent.version} ({agent.mode}) on {agent.url}",
        "",
        "connect agentd:",
        f"  export AGENTD_AGENTAPI_URL={agent.url}",
    ]
    if args.admin:
        lines += [
            "",
            "send commands:",
            f'  curl -X POST {agent.url}/_sim/status -d \'{{"status":"running"}}\'',
            f'  curl -X POST {agent.url}/_sim/message -d \'{{"role":"agent","content":"done"}}\'',
            f"  curl -X POST {agent.url}/_sim/hang",
            f"  curl -X POST {agent.url}/_sim/release",
        ]
    print("\n".join(lines), flush=True)


@contextlib.asynccontextmanager
async def _page(
    args: argparse.Namespace,
    *,
    coderd: "SimulatedCoderd | None" = None,
    agent: "SimulatedAgentApi | None" = None,
) -> AsyncIterator[None]:
    """Serve the page if --ui is set."""
    if args.ui is None:
        yield
        return
    from agentd.simulator.page import Page  # noqa: PLC0415 - not needed without --ui

    async with Page(coderd=coderd, agent=agent, port=args.ui, proxies=args.ui_host) as page:
        print(f"\npage:\n  {page.url}", flush=True)
        yield


def _stop_event() -> asyncio.Event:
    """An event that the first SIGINT, SIGTERM or SIGHUP sets. The second signal ends the process."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        stopping.set()
        for one in _STOPS:
            loop.remove_signal_handler(one)

    for one in _STOPS:
        loop.add_signal_handler(one, stop)
    return stopping
