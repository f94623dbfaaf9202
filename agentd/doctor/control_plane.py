"""coderd and whatever stands in between: the way there, the clock, the token, the claim stream, the task.

Two questions are asked at the same time: a log snapshot that is not stored (`Coderd.rehearse_log_snapshot`), whose
answer tells of everything up to the task, and the claim stream. This module asks and puts the answers into findings
(`coderd_answers` names them); it changes nothing at coderd.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from agentd.claims.answers import CLAIM_FAILED_WORDS, HANDLED_WORDS
from agentd.coderd import errors
from agentd.coderd.client import Coderd
from agentd.coderd.reinit_stream import ReinitStream
from agentd.coderd.token import TokenSource
from agentd.doctor import coderd_answers
from agentd.doctor.finding import Finding, fail, ok, warn
from agentd.errors import AgentdError

ANSWER_TIMEOUT_S = 4.0
# coderd sends nothing before its first event or ping, which is 15 s later: no answer by now means accepted and waiting.
ACCEPTED_AFTER_S = 2.0
SKEW_WARN_S = 30.0
SKEW_FAIL_S = 300.0

NO_TASK = "00000000-0000-0000-0000-000000000000"
TASK_HINT = 'pass data.coder_task.me.enabled ? data.coder_task.me.id : "" from the template as AGENTD_SNAPSHOTS_TASK_ID'


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of coderd this configuration uses: the claim stream, the task's log and which."""

    claims: bool
    snapshots: bool
    task_id: str


async def examine(
    coderd: Coderd, stream: ReinitStream, token: TokenSource, wanted: Wanted, *, wall: Callable[[], float]
) -> list[Finding]:
    """Findings about everything on coderd's side. Takes `ANSWER_TIMEOUT_S` at most."""
    log_answer, stream_answer = await asyncio.gather(
        _rehearse(coderd, wanted.task_id or NO_TASK),
        _connect(stream, token) if wanted.claims else _nothing(),
    )
    findings = [coderd_answers.reached(log_answer, coderd.build_version)]
    if coderd.date:
        findings.append(_clock(coderd.date, wall()))
    if not coderd_answers.is_coderds(log_answer):
        return findings
    findings.append(coderd_answers.token(log_answer))
    if not isinstance(log_answer, errors.UnauthorizedError):
        findings += [_reinit(stream_answer, wanted), _task(log_answer, wanted)]
    return findings


async def _nothing() -> None:
    return None


async def _rehearse(coderd: Coderd, task_id: str) -> AgentdError | None:
    try:
        await coderd.rehearse_log_snapshot(task_id, size_bytes=0, timeout_s=ANSWER_TIMEOUT_S)
    except AgentdError as error:
        return error
    return None


async def _connect(stream: ReinitStream, token: TokenSource) -> AgentdError | None:
    """What the claim stream says to a connection; None when it is accepted."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await _first_answer(stream, await token.current())
    except TimeoutError:
        return errors.ConnectError(f"no connection within {ANSWER_TIMEOUT_S:g} s")
    except AgentdError as error:
        return error


async def _first_answer(stream: ReinitStream, token: str) -> AgentdError | None:
    sent, opened = asyncio.Event(), asyncio.Event()

    async def listen() -> None:
        async with contextlib.aclosing(stream.events(token, on_sent=sent.set, on_open=opened.set)) as items:
            await anext(items)

    async def accepted() -> None:
        await sent.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(opened.wait(), ACCEPTED_AFTER_S)

    listening = asyncio.create_task(listen(), name="doctor's claim stream")
    accepting = asyncio.create_task(accepted(), name="doctor's patience")
    try:
        await asyncio.wait({listening, accepting}, return_when=asyncio.FIRST_COMPLETED)
        if listening.done() and not listening.cancelled() and not opened.is_set():
            error = listening.exception()
            if error is not None and not isinstance(error, AgentdError):
                raise error
            return error
        return None
    finally:
        listening.cancel()
        accepting.cancel()
        await asyncio.gather(listening, accepting, return_exceptions=True)


def _clock(date: str, now_unix_s: float) -> Finding:
    try:
        skew_s = now_unix_s - parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return warn("clock", "coderd's Date header cannot be read", "check the proxy in between")
    if abs(skew_s) < SKEW_WARN_S:
        return ok("clock", f"agrees with coderd's within {abs(skew_s):.0f} s")
    cause = f"this machine's clock is {abs(skew_s):,.0f} s {'ahead of' if skew_s > 0 else 'behind'} coderd's"
    remedy = "set the clock (systemctl enable --now systemd-timesyncd, or the host's): certificates and times go wrong"
    return (fail if abs(skew_s) >= SKEW_FAIL_S else warn)("clock", cause, remedy)


def _reinit(error: AgentdError | None, wanted: Wanted) -> Finding:
    """The claim stream's answer. The 409s are coderd's `workspaceAgentReinit`, told apart by its words."""
    if not wanted.claims:
        return ok("reinit", "claims.enabled is false: no claim is waited for")
    match error:
        case None:
            return ok("reinit", "coderd accepts the claim stream")
        case errors.ConflictError(body_message=message) if message == CLAIM_FAILED_WORDS:
            return fail(
                "reinit",
                f"the claim's build failed: {error.detail}",
                "look at the build's log and build again",
            )
        case errors.ConflictError(detail=detail) if HANDLED_WORDS in detail:
            return ok("reinit", "the claim of this workspace has been handled by an earlier build")
        case errors.ConflictError():
            return ok("reinit", "this workspace is no prebuild: no claim is to be expected")
        case errors.RouteNotFoundError():
            return warn(
                "reinit",
                "this Coder has no claim stream",
                "upgrade Coder to 2.22 or later, or set AGENTD_CLAIMS_ENABLED=false",
            )
        case errors.RateLimitedError():
            return warn(
                "reinit", str(error), "wait a minute; behind one NAT all workspaces share coderd's limit"
            )
        case errors.HtmlPageError() | errors.WrongContentTypeError() | errors.ContentEncodedError():
            return fail(
                "reinit",
                str(error),
                "let the proxy pass /api/v2/workspaceagents/me/reinit unbuffered, uncompressed and unchanged",
            )
        case _:
            return fail(
                "reinit", str(error), "let the proxy pass /api/v2/workspaceagents/me/reinit; see coderd's log"
            )


def _task(error: AgentdError | None, wanted: Wanted) -> Finding:
    """Whether a log snapshot would be stored: no route, no such task and not in a task are three things."""
    if not wanted.snapshots:
        return ok("task", "snapshots.destinations does not name coder: nothing is uploaded to a task")
    if isinstance(error, errors.RouteNotFoundError):
        return warn(
            "task",
            "this Coder has no log-snapshot route (before 2.30, from 2.37 on, or AI tasks are off)",
            "name another place in snapshots.destinations, or start coderd with CODER_ENABLE_AI_TASKS=true",
        )
    if not wanted.task_id:
        return warn(
            "task",
            "snapshots.task_id is not set: conversations stay on this machine",
            f"nothing, when this workspace is no task; else {TASK_HINT}",
        )
    match error:
        case None:
            return ok("task", f"coderd would store a log snapshot of task {wanted.task_id}")
        case errors.NotFoundError():
            return fail(
                "task",
                f"coderd knows no task {wanted.task_id} of this workspace",
                f"{TASK_HINT}: outside a task the provider makes up an id",
            )
        case _:
            return fail("task", str(error), "see coderd's log for the request named here")
