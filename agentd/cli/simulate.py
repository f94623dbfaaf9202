"""`agentd simulate`: the two peers as servers to debug against, driven with curl; and stories played between them."""

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

from agentd.cli import scenarios
from agentd.errors import AgentdError, ExitCode

if TYPE_CHECKING:
    from agentd.simulator.agentapi import SimulatedAgentApi
    from agentd.simulator.agentapi.process import AgentProcess
    from agentd.simulator.coderd import SimulatedCoderd
    from agentd.simulator.coderd.workspaces import Workspace

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def configure(parser: argparse.ArgumentParser) -> None:
    """The two peers and what can be said about them at the start; the rest is said through `/_sim/`."""
    peers = parser.add_subparsers(dest="peer", required=True, metavar="coderd|agentapi|run|list")
    _configure_coderd(
        peers.add_parser("coderd", help="a control plane with one prebuilt workspace and one task")
    )
    _configure_agentapi(peers.add_parser("agentapi", help="an agent's HTTP server with a conversation"))
    scenarios.configure_run(peers.add_parser("run", help="play scenarios with the real daemon, headless"))
    peers.add_parser("list", help="the scenarios that come with agentd")


def _configure_coderd(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; default: any free one")
    parser.add_argument(
        "--era", default="E3", choices=("E1", "E2", "E3", "E4", "E5"), help="which releases to play"
    )
    parser.add_argument("--build-version", help="what X-Coder-Build-Version says, like v2.29.1")
    parser.add_argument(
        "--ping-s", type=float, default=15.0, help="seconds between pings (default 15, as coderd)"
    )
    parser.add_argument(
        "--eager", action="store_true", help="send a stream's headers at once, as coderd does not"
    )
    parser.add_argument(
        "--rate-limit", type=int, default=512, help="requests per minute and path; 0: no limit"
    )
    parser.add_argument("--no-tasks", action="store_true", help="E4 without CODER_ENABLE_AI_TASKS")
    parser.add_argument(
        "--regular", action="store_true", help="a workspace of a user instead of an unclaimed prebuild"
    )
    parser.add_argument("--token", help="the agent's token; default: a random one")
    parser.add_argument("--workspace-id", help="default: a random one")
    parser.add_argument("--task-id", help="default: a random one")
    parser.add_argument("--app-url", default="", help="the task's AgentAPI, for live task logs")
    parser.add_argument(
        "--state", type=Path, metavar="FILE", help="keep everything in this sqlite file, and go on from it"
    )
    parser.add_argument(
        "--hold-builds",
        action="store_true",
        help="leave a resume's build pending for /_sim/run-job and start-finish",
    )
    _add_admin(parser)


def _configure_agentapi(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; default: any free one")
    parser.add_argument("--transcript", type=Path, metavar="FILE", help='start with {"messages": [...]}')
    parser.add_argument("--mode", default="pty", choices=("pty", "acp"))
    parser.add_argument("--agent-version", default="0.12.1", help="which AgentAPI to play (default 0.12.1)")
    parser.add_argument(
        "--allowed-hosts", nargs="+", metavar="HOST", help="replaces localhost 127.0.0.1 [::1]"
    )
    parser.add_argument(
        "--send-s", type=float, default=2.2, help="how long a terminal takes a message (default 2.2)"
    )
    parser.add_argument(
        "--script",
        type=Path,
        metavar="FILE",
        help="a TOML file of [[script]] steps: what the agent does, and when",
    )
    parser.add_argument("--echo", type=float, metavar="SECONDS", help="answer every message after SECONDS")
    parser.add_argument(
        "--state-file", type=Path, metavar="FILE", help="load at the start, save at the end and on USR1"
    )
    parser.add_argument("--pid-file", type=Path, metavar="FILE")
    _add_admin(parser)


def _add_admin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--admin", action=argparse.BooleanOptionalAction, default=True, help="the /_sim/ door (default: open)"
    )
    parser.add_argument(
        "--ui",
        type=int,
        nargs="?",
        const=0,
        metavar="PORT",
        help="a page to watch and drive it, on 127.0.0.1 (default: any free port)",
    )
    parser.add_argument(
        "--ui-host",
        action="append",
        default=[],
        metavar="HOST",
        help="a host under which a proxy shows that page, like coder.example.com",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes; or play scenarios, which end by themselves."""
    if args.peer == "list":
        return scenarios.show()
    try:
        if args.peer == "run":
            return scenarios.run(args)
        return asyncio.run(_serve_coderd(args) if args.peer == "coderd" else _serve_agentapi(args))
    except OSError as failed:
        print(f"agentd simulate {args.peer}: {failed}", file=sys.stderr)
        return ExitCode.FAILED
    except AgentdError as failed:
        print(f"agentd simulate {args.peer}: {failed}", file=sys.stderr)
        return failed.exit_code


async def _serve_coderd(args: argparse.Namespace) -> int:
    from agentd.simulator.coderd import SimulatedCoderd  # noqa: PLC0415 - a server is not needed to parse arguments

    coderd = SimulatedCoderd(
        era=args.era,
        ping_s=args.ping_s,
        flush="eager" if args.eager else "lazy",
        rate_limit=args.rate_limit,
        enable_tasks=not args.no_tasks,
        port=args.port,
        build_version=args.build_version,
        admin=args.admin,
        state=args.state,
        hold_builds=args.hold_builds,
    )
    stopping = _stop_event()
    async with coderd:
        _introduce_coderd(coderd, args)
        async with _page(args, coderd=coderd):
            await stopping.wait()
    return ExitCode.OK


def _introduce_coderd(coderd: "SimulatedCoderd", args: argparse.Namespace) -> None:
    ws, task_id = _furnish(coderd, args)
    kind = f"workspace with {len(ws.builds)} builds" if len(ws.builds) > 1 else "unclaimed prebuild"
    if args.regular:
        kind = "regular workspace"
    logs = f"{coderd.url}/api/v2/tasks/me/{task_id}/logs"
    lines = [
        f"simulated coderd ({coderd.era}) on {coderd.url}: {kind} {ws.id}",
        "",
        "point agentd at it:",
        f"  export CODER_AGENT_URL={coderd.url}",
        f"  export CODER_AGENT_TOKEN={ws.token}",
        f"  export CODER_WORKSPACE_ID={ws.id}",
        f"  export AGENTD_SNAPSHOTS_TASK_ID={task_id}",
        "",
        "what its user would read:",
        f"  curl -H 'Coder-Session-Token: {coderd.user_token}' {logs}",
    ]
    if args.admin:
        lines += [
            "",
            "drive it:",
            f"  curl {coderd.url}/_sim/state",
            f"  curl -X POST {coderd.url}/_sim/claim-start",
            f"  curl -X POST {coderd.url}/_sim/claim-finish",
            f'  curl -X POST {coderd.url}/_sim/drop -d \'{{"how":"reset"}}\'',
            f'  curl -X POST {coderd.url}/_sim/fail-next -d \'{{"route":"log-snapshot","status":500,"times":2}}\'',
        ]
    print("\n".join(lines), flush=True)


def _furnish(coderd: "SimulatedCoderd", args: argparse.Namespace) -> "tuple[Workspace, str]":
    """One workspace with one task: those a state file brought along, if it did."""
    if not coderd.workspaces:
        add = coderd.add_workspace if args.regular else coderd.add_prebuild
        add(token=args.token, workspace_id=args.workspace_id)
    ws = coderd.workspaces[-1]
    known = [task.id for task in coderd.tasks.values() if task.workspace is ws and not task.deleted]
    return ws, known[-1] if known else coderd.add_task(ws, args.task_id, app_url=args.app_url)


async def _serve_agentapi(args: argparse.Namespace) -> int:
    from agentd.simulator.agentapi import SimulatedAgentApi, script  # noqa: PLC0415 - as above
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
        admin=args.admin,
    )
    if args.transcript is not None:
        try:
            agent.load(args.transcript)
        except (OSError, ValueError, KeyError, TypeError) as wrong:
            raise AgentdError(f"--transcript {args.transcript}: {wrong!r}") from None
    steps = script.load(args.script) if args.script is not None else []
    process = AgentProcess(agent, state_file=args.state_file, pid_file=args.pid_file)
    stopping = _stop_event()
    _save_on_usr1(process)
    await process.begin()
    _introduce_agentapi(agent, args)
    speaking = asyncio.create_task(script.play(agent, steps), name="the agent's script")
    async with _page(args, agent=agent):
        await stopping.wait()
    speaking.cancel()
    return await process.end()


def _introduce_agentapi(agent: "SimulatedAgentApi", args: argparse.Namespace) -> None:
    lines = [
        f"simulated AgentAPI {agent.version} ({agent.mode}) on {agent.url}",
        "",
        "point agentd at it:",
        f"  export AGENTD_AGENTAPI_URL={agent.url}",
    ]
    if args.admin:
        lines += [
            "",
            "drive it:",
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
    """The page, where it was asked for."""
    if args.ui is None:
        yield
        return
    from agentd.simulator.page import Page  # noqa: PLC0415 - who does not watch does not pay for it

    async with Page(coderd=coderd, agent=agent, port=args.ui, proxies=args.ui_host) as page:
        print(f"\nwatch it:\n  {page.url}", flush=True)
        yield


def _stop_event() -> asyncio.Event:
    """Set by the first signal that asks to stop; a second one is not handled any more and ends the process."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        stopping.set()
        for one in _STOPS:
            loop.remove_signal_handler(one)

    for one in _STOPS:
        loop.add_signal_handler(one, stop)
    return stopping


def _save_on_usr1(process: "AgentProcess") -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, process.save)
