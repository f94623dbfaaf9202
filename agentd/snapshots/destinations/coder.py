"""coderd's log snapshot: the conversation that a user of a paused task reads."""

from typing import Final

from agentd.coderd import errors
from agentd.coderd.client import Coderd
from agentd.conversation.fit import MAX_BYTES, fit, messages_of
from agentd.errors import ConfigError
from agentd.snapshots.destinations.destination import (
    Accepted,
    DeliveryError,
    NotAuthorizedError,
    RejectedError,
    RetryableError,
    UnsupportedError,
)
from agentd.snapshots.entry import SpoolEntry

# Below this size a 413 is not caused by size: shrinking further would only lose the conversation.
_NEVER_TOO_LARGE_BYTES: Final = 2048
# The uploader ends an attempt sooner.
_CALL_MAX_S: Final = 3600.0


class CoderDestination:
    """The log snapshot of a Coder task, which coderd shows while the workspace is paused.

    coderd accepts 65,536 bytes, a proxy possibly less. A payload that is too large is shrunk until it is
    accepted. Later payloads are shrunk to the accepted size at once, until agentd exits.
    """

    name = "coder"
    needs_task = True

    def __init__(self, coderd: Coderd) -> None:
        self._coderd = coderd
        self._max_bytes = MAX_BYTES

    async def deliver(self, entry: SpoolEntry) -> Accepted:
        payload = _at_most(entry, self._max_bytes)
        while True:
            try:
                await self._coderd.put_log_snapshot(entry.task_id, payload, timeout_s=_CALL_MAX_S)
            except errors.TooLargeError as exc:
                if len(payload) <= _NEVER_TOO_LARGE_BYTES:
                    message = f"{exc.message}, but the payload has only {len(payload)} bytes"
                    raise RetryableError(message, status=exc.status) from exc
                payload = _at_most(entry, len(payload) * 3 // 4)
            except errors.CoderdError as exc:
                raise _as_delivery_error(exc) from exc
            except ConfigError as exc:
                raise RetryableError(exc.message, hint=exc.hint) from exc
            else:
                return self._accepted(entry, payload)

    def _accepted(self, entry: SpoolEntry, payload: bytes) -> Accepted:
        if payload == entry.payload:
            return Accepted(204)
        self._max_bytes = len(payload)
        return Accepted(204, f"cut from {len(entry.payload)} to {len(payload)} bytes")


def _at_most(entry: SpoolEntry, max_bytes: int) -> bytes:
    if len(entry.payload) <= max_bytes:
        return entry.payload
    return fit(messages_of(entry.payload), max_messages=max(1, entry.messages), max_bytes=max_bytes).payload


def _as_delivery_error(error: errors.CoderdError) -> DeliveryError:
    message = error.message + (f" (request {error.request_id})" if error.request_id else "")
    match error:
        case errors.RouteNotFoundError():
            return UnsupportedError(
                message,
                status=error.status,
                hint="this Coder release has no Tasks; add another destination to snapshots.destinations",
            )
        case errors.NotFoundError():
            return RejectedError(
                message,
                status=error.status,
                hint="check snapshots.task_id: a template passes"
                ' data.coder_task.me.enabled ? data.coder_task.me.id : ""',
            )
        case errors.CoderdError(retryable=False):
            return RejectedError(message, status=error.status, hint=error.hint or "check snapshots.task_id")
        case errors.UnauthorizedError(token_can_change=False):
            return NotAuthorizedError(
                message, status=error.status, retry_after_s=error.retry_after_s, hint=error.hint
            )
        case _:
            return RetryableError(
                message, status=error.status, retry_after_s=error.retry_after_s, hint=error.hint
            )
