"""Checks coderd: the connection, the clock, the token, the claim stream and the task.

It sends two requests at the same time: a log snapshot that coderd does not store
(`Coderd.rehearse_log_snapshot`), and a connection to the claim stream. It changes nothing at coderd.
"""

import asyncio
import contextlib
from typing import Final

from agentd.claims.answers import CLAIM_FAILED_WORDS, HANDLED_WORDS
from agentd.clock import Clock
from agentd.coderd import errors
from agentd.coderd.access import claim_stream, coderd_client
from agentd.coderd.client import Coderd
from agentd.coderd.extra_headers import ExtraHeaders
from agentd.coderd.reinit_stream import ReinitStream
from agentd.coderd.token import TokenSource
from agentd.config import Config
from agentd.doctor import coderd_answers
from agentd.doctor.finding import Finding, Level, fail, ok, warn
from agentd.errors import AgentdError, ConfigError
from agentd.http_client import http_date_unix_s
from agentd.proxy import Proxy, proxy_of
from agentd.tls import aiohttp

ANSWER_TIMEOUT_S: Final = 4.0
# coderd sends its first byte with its first event or ping, up to 15 s later. A stream without a refusal by
# this time counts as accepted.
ACCEPTED_AFTER_S: Final = 2.0
SKEW_WARN_S: Final = 30.0
SKEW_FAIL_S: Final = 300.0

TASK_HINT: Final = (
    'pass data.coder_task.me.enabled ? data.coder_task.me.id : "" from the template'
    " as AGENTD_SNAPSHOTS_TASK_ID"
)
_LET_THROUGH: Final = "let the proxy pass /api/v2/workspaceagents/me/reinit"
_CLAIMS_OFF: Final = "claims.enabled is false: agentd does not wait for a claim"
_TASK_OFF: Final = "snapshots.destinations does not name coder: agentd uploads nothing to a task"


async def check(
    config: Config, token: TokenSource, session: aiohttp.ClientSession, headers: ExtraHeaders, clock: Clock
) -> list[Finding]:
    """The findings about coderd. Takes at most `ANSWER_TIMEOUT_S`."""
    try:
        proxy = proxy_of(config.coder.url)
    except ConfigError as exc:
        return [fail("proxy", exc.message, exc.hint)]
    try:
        coderd = coderd_client(config, token, session, headers, clock)
        stream = claim_stream(config, headers, clock)
    except ConfigError as exc:
        return [fail("tls", exc.message, exc.hint)]
    task_id, claims = config.snapshots.task_id, config.claims.enabled
    log_error, stream_error = await asyncio.gather(
        _rehearse(coderd, task_id), _connect(stream, token) if claims else asyncio.sleep(0, None)
    )
    connection = coderd_answers.connection_finding(log_error, coderd.build_version)
    findings = [connection] if connection.check == "proxy" else [_proxy_finding(proxy), connection]
    if coderd.date:
        findings.append(_check_clock(coderd.date, clock.wall()))
    if connection.level is not Level.OK:
        return findings  # the answer is not coderd's: it shows nothing about the token and the routes
    findings.append(coderd_answers.token_finding(log_error))
    if not isinstance(log_error, errors.UnauthorizedError):
        uses_task = "coder" in config.snapshots.destinations
        findings.append(_reinit_finding(stream_error) if claims else ok("reinit", _CLAIMS_OFF))
        findings.append(_task_finding(log_error, task_id) if uses_task else ok("task", _TASK_OFF))
    return findings


def _proxy_finding(proxy: Proxy | None) -> Finding:
    if proxy is not None:
        return ok("proxy", f"coderd is reached by {proxy} ({proxy.variable})")
    return ok("proxy", "none: coderd is reached directly")


async def _rehearse(coderd: Coderd, task_id: str) -> AgentdError | None:
    """The error of a log snapshot; None if coderd would store it."""
    try:
        await coderd.rehearse_log_snapshot(task_id, size_bytes=0, timeout_s=ANSWER_TIMEOUT_S)
    except AgentdError as exc:
        return exc
    return None


async def _connect(stream: ReinitStream, token: TokenSource) -> AgentdError | None:
    """The error of a connection to the claim stream; None if coderd accepts it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + ANSWER_TIMEOUT_S
    reached = ""

    def reach(step: str, timeout_s: float) -> None:
        nonlocal reached
        if loop.time() + timeout_s < deadline:
            reached = step
            limit.reschedule(loop.time() + timeout_s)

    try:
        async with asyncio.timeout_at(deadline) as limit:
            items = stream.events(
                await token.current(),
                on_sent=lambda: reach("sent", ACCEPTED_AFTER_S),
                on_open=lambda: reach("open", 0),
            )
            async with contextlib.aclosing(items):
                await anext(items)
    except TimeoutError:
        return None if reached else errors.ConnectError(f"no connection within {ANSWER_TIMEOUT_S:g} s")
    except AgentdError as exc:
        return None if reached == "open" else exc
    return None


def _check_clock(date: str, now_unix_s: float) -> Finding:
    """Compare this machine's clock with the `Date` header of coderd."""
    unix_s = http_date_unix_s(date)
    if unix_s is None:
        return warn("clock", "coderd's Date header is invalid", "check the proxy between agentd and coderd")
    skew_s = now_unix_s - unix_s
    if abs(skew_s) < SKEW_WARN_S:
        return ok("clock", f"this machine's clock differs from coderd's by {abs(skew_s):.0f} s")
    cause = f"this machine's clock is {abs(skew_s):,.0f} s {'ahead of' if skew_s > 0 else 'behind'} coderd's"
    remedy = (
        "set the clock (systemctl enable --now systemd-timesyncd, or that of the host):"
        " certificates are refused and times are wrong"
    )
    return (fail if abs(skew_s) >= SKEW_FAIL_S else warn)("clock", cause, remedy)


def _reinit_finding(error: AgentdError | None) -> Finding:
    """The finding about the claim stream. The text of a 409 (`workspaceAgentReinit`) has three meanings."""
    match error:
        case None:
            return ok("reinit", "coderd accepts the claim stream")
        case errors.ConflictError(body_message=message) if message == CLAIM_FAILED_WORDS:
            remedy = "read the log of the build and build again"
            return fail("reinit", f"the build of the claim failed: {error.detail}", remedy)
        case errors.ConflictError(detail=detail) if HANDLED_WORDS in detail:
            return ok("reinit", "the claim of this workspace was handled by an earlier build")
        case errors.ConflictError():
            return ok("reinit", "this workspace is not a prebuild; coderd will not send a claim")
        case errors.RouteNotFoundError():
            remedy = "upgrade Coder to 2.22 or later, or set AGENTD_CLAIMS_ENABLED=false"
            return warn("reinit", "this version of Coder has no claim stream", remedy)
        case errors.RateLimitedError():
            return warn("reinit", str(error), coderd_answers.WAIT)
        case errors.HtmlPageError() | errors.WrongContentTypeError() | errors.ContentEncodedError():
            remedy = f"{_LET_THROUGH} unbuffered, uncompressed and unchanged"
            return fail("reinit", str(error), remedy)
        case _:
            return fail("reinit", str(error), f"{_LET_THROUGH}; see coderd's log")


def _task_finding(error: AgentdError | None, task_id: str) -> Finding:
    """Whether coderd would store a log snapshot of the task. `error` is the result of the rehearsal."""
    if isinstance(error, errors.RouteNotFoundError):
        return warn(
            "task",
            "this version of Coder has no log-snapshot route"
            " (before 2.30, from 2.37 on, or AI tasks are off)",
            "add another destination to snapshots.destinations,"
            " or start coderd with CODER_ENABLE_AI_TASKS=true",
        )
    if not task_id:
        remedy = f"outside a task: nothing; in a task: {TASK_HINT}"
        return warn("task", "snapshots.task_id is not set: conversations stay on this machine", remedy)
    match error:
        case None:
            return ok("task", f"coderd would store a log snapshot of task {task_id}")
        case errors.NotFoundError():
            remedy = f"{TASK_HINT}: outside a task the provider generates a random id"
            return fail("task", f"coderd knows no task {task_id} of this workspace", remedy)
        case _:
            return fail("task", str(error), "find the request named here in coderd's log")
