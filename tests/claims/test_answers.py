"""The class of each answer, and the length of the pauses."""

import inspect

import pytest

from agentd import sse as event_stream
from agentd.claims.answers import (
    ANSWER_CLASSES,
    ClaimsState,
    RetryClass,
    RetrySchedule,
    classify,
    fleet_offset,
)
from agentd.coderd import errors
from agentd.errors import ConfigError, PeerError

# Texts of coderd (`workspaceAgentReinit`). The three meanings of 409 differ only in them.
NOT_WAITING = "Workspace is not a prebuilt workspace waiting to be claimed."
REGULAR = "This endpoint is only for agents running in prebuilt workspaces."
HANDLED = "The prebuild claim for this workspace has already been handled by an earlier build."
FAILED = "Claim build failed permanently."


@pytest.mark.parametrize(
    ("message", "detail", "state", "why"),
    [
        (NOT_WAITING, REGULAR, ClaimsState.NOT_A_PREBUILD, "coderd will not send a claim to this workspace"),
        (NOT_WAITING, HANDLED, ClaimsState.NOT_A_PREBUILD, "an earlier build has handled the claim"),
        (FAILED, "terraform apply: exit 1", ClaimsState.CLAIM_FAILED, "the claim's build failed"),
        ("Something new.", "", ClaimsState.NOT_A_PREBUILD, "coderd will not send a claim to this workspace"),
        ("", "", ClaimsState.NOT_A_PREBUILD, "coderd will not send a claim to this workspace"),
    ],
)
def test_every_409_is_terminal_and_its_text_decides_the_state(
    message: str, detail: str, state: ClaimsState, why: str
) -> None:
    answer = classify(
        errors.ConflictError("the server answered 409", status=409, body_message=message, detail=detail)
    )
    assert (answer.state, answer.retry, answer.why) == (state, RetryClass.NEVER, why)


STREAM_LABELS = {
    errors.UnauthorizedError: "Unauthorized",
    errors.ConflictError: "Conflict",
    errors.RouteNotFoundError: "RouteAbsent",
    errors.NotFoundError: "NotFound",
    errors.ProxyAuthError: "ProxyAuthRequired",
    errors.RateLimitedError: "RateLimited",
    errors.ServerFaultError: "ServerFailed",
    errors.RedirectError: "Redirected",
    errors.NoContentError: "StopAsked",
    errors.UnexpectedStatusError: "UnexpectedStatus",
    errors.WrongContentTypeError: "WrongContentType",
    errors.HtmlPageError: "HtmlPage",
    errors.ContentEncodedError: "ContentEncoded",
    errors.DnsError: "DnsFailed",
    errors.ConnectRefusedError: "ConnectionRefused",
    errors.TlsError: "TlsFailed",
    errors.ConnectError: "ConnectFailed",
    errors.ProxyError: "ProxyFailed",
    errors.HeaderCommandError: "HeaderCommandFailed",
    errors.HeadersTimeoutError: "HeadersLate",
    errors.HeadersTooLargeError: "HeadersTooLarge",
    errors.StreamIdleError: "StreamIdle",
    errors.EventTimeoutError: "EventLate",
    errors.StreamCutError: "StreamCut",
    errors.StreamEndedError: "StreamEnded",
    errors.ProtocolError: "ProtocolBroken",
    event_stream.LineTooLongError: "LineTooLong",
    event_stream.EventTooLargeError: "EventTooLarge",
    event_stream.NoiseFloodError: "NoiseFlood",
}
# Errors of calls, and classes that only group others. Those of a token source can also end a connection
# attempt.
OTHER_LABELS = {
    errors.IdentityError: "IdentityError",
    errors.MetadataError: "MetadataError",
    errors.NotCoderdError: "NotCoderd",
    errors.TooLargeError: "TooLarge",
    errors.InvalidRequestError: "Invalid",
    errors.UnreachableError: "Unreachable",
}


def test_the_values_of_the_metric_label_end_are_fixed() -> None:
    known = {
        error
        for module in (errors, event_stream)
        for _, error in inspect.getmembers(module, inspect.isclass)
        if issubclass(error, PeerError)
    }
    assert known - {PeerError, errors.CoderdError, event_stream.StreamTooLargeError} == {
        *STREAM_LABELS,
        *OTHER_LABELS,
    }
    for error, label in (STREAM_LABELS | OTHER_LABELS).items():
        assert error("message").label == label
    assert ConfigError("coder.token_file: gone").label == "ConfigError"


def test_every_error_of_the_stream_has_a_class() -> None:
    assert len(STREAM_LABELS) >= 25
    for error in STREAM_LABELS.keys() - {errors.ConflictError}:
        assert any(kind in ANSWER_CLASSES for kind in error.__mro__[:3]), error


@pytest.mark.parametrize(
    ("error", "state", "retry"),
    [
        (errors.UnauthorizedError("401", status=401), ClaimsState.UNAUTHORIZED, RetryClass.SLOW),
        (ConfigError("coder.token_file: gone"), ClaimsState.UNAUTHORIZED, RetryClass.SLOW),
        (errors.RouteNotFoundError("404", status=404), ClaimsState.UNSUPPORTED, RetryClass.EVERY_TEN_MINUTES),
        (errors.NotFoundError("404", status=404), ClaimsState.CONNECTING, RetryClass.SLOW),
        (errors.NoContentError("204", status=204), ClaimsState.UNSUPPORTED, RetryClass.EVERY_TEN_MINUTES),
        (errors.ServerFaultError("502", status=502), ClaimsState.CONNECTING, RetryClass.SOON),
        (errors.StreamEndedError("end"), ClaimsState.CONNECTING, RetryClass.SOON),
        (event_stream.LineTooLongError("long"), ClaimsState.CONNECTING, RetryClass.SLOW),
        (PeerError("a cloud's metadata service"), ClaimsState.CONNECTING, RetryClass.SLOW),
    ],
)
def test_the_state_and_retry_class_of_an_answer(
    error: Exception, state: ClaimsState, retry: RetryClass
) -> None:
    answer = classify(error)  # type: ignore[arg-type]  # each is an AgentdError
    assert (answer.state, answer.retry) == (state, retry)


def pause(schedule: RetrySchedule, retry: RetryClass = RetryClass.SOON, **options: object) -> float:
    wanted = {"claim_is_final": False, "retry_after_s": None, "stream_retry_s": 0.0, **options}
    seconds = schedule.pause_s(retry, **wanted)  # type: ignore[arg-type]  # as the defaults above
    assert seconds is not None
    return seconds


def test_pauses_grow_with_jitter_between_floor_and_cap() -> None:
    for retry, floor_s, cap_s in (
        (RetryClass.SOON, 0.25, 30),
        (RetryClass.SLOW, 1, 30),
        (RetryClass.EVERY_TEN_MINUTES, 480, 720),
    ):
        schedule = RetrySchedule()
        pauses = [pause(schedule, retry) for _ in range(300)]
        assert all(floor_s <= one <= cap_s for one in pauses)
        assert len(set(pauses)) > 290
    early, late = RetrySchedule(), RetrySchedule()
    for _ in range(10):
        pause(late)
    assert sum(pause(RetrySchedule()) for _ in range(200)) / 200 < 1
    assert max(pause(early) for _ in range(3)) <= 4
    assert sum(pause(late) for _ in range(200)) / 200 > 10


def test_after_a_claim_a_stream_that_only_fails_is_opened_every_few_minutes() -> None:
    schedule = RetrySchedule()
    pauses = [pause(schedule, claim_is_final=True) for _ in range(300)]
    assert sum(pauses[20:]) / 280 > 100
    assert max(pauses) <= 300
    assert pause(schedule, RetryClass.SLOW, claim_is_final=True) <= 4, "a refusal keeps its own schedule"


def test_a_pause_is_not_shorter_than_the_server_asks() -> None:
    assert 60.25 <= pause(RetrySchedule(), retry_after_s=60.0) <= 61
    assert 7 <= pause(RetrySchedule(), stream_retry_s=7.0) <= 7
    assert (
        RetrySchedule().pause_s(RetryClass.NEVER, claim_is_final=False, retry_after_s=1.0, stream_retry_s=1.0)
        is None
    )


def test_the_offsets_of_a_fleet_are_even_and_stable() -> None:
    offsets = [fleet_offset(f"workspace-{n}") for n in range(2000)]
    assert offsets == [fleet_offset(f"workspace-{n}") for n in range(2000)]
    for tenth in range(10):
        assert 140 < sum(tenth / 10 <= offset < (tenth + 1) / 10 for offset in offsets) < 260
