"""The rate limit and the agent's authentication, which precede every handler."""

import math
from collections.abc import Callable
from typing import Final

from aiohttp import web

from agentd.simulator.coderd import answers
from agentd.simulator.coderd.workspaces import Caller, Workspaces

WINDOW_S: Final = 60


class RateLimit:
    """httprate's sliding window of the current and the previous minute, by client address and path."""

    def __init__(self, limit: int, now: Callable[[], float]) -> None:
        self._limit = limit
        self._now = now
        self._counts: dict[tuple[str, str, int], int] = {}

    def check(self, address: str, path: str) -> tuple[dict[str, str], bool]:
        """Count one request.

        Returns the headers of its answer, and whether it is allowed. A limit of 0 or less is off.
        """
        if self._limit <= 0:
            return {}, True
        now = self._now()
        window = int(now // WINDOW_S)
        self._counts = {key: count for key, count in self._counts.items() if key[2] >= window - 1}
        current = self._counts.get((address, path, window), 0)
        previous = self._counts.get((address, path, window - 1), 0)
        rate = _round(previous * (1 - (now % WINDOW_S) / WINDOW_S) + current)
        headers = {"X-Ratelimit-Limit": str(self._limit), "X-Ratelimit-Reset": str((window + 1) * WINDOW_S)}
        if rate + 1 > self._limit:
            return headers | {
                "X-Ratelimit-Remaining": str(self._limit - rate),
                "Retry-After": str(WINDOW_S),
            }, False
        self._counts[address, path, window] = current + 1
        return headers | {"X-Ratelimit-Remaining": str(self._limit - rate - 1)}, True

    def refusal(self) -> web.Response:
        return answers.error(
            429, f"You've been rate limited for sending more than {self._limit} requests in 1m0s."
        )


def _round(value: float) -> int:
    return math.floor(value + 0.5)  # Go rounds halves away from zero, Python to even


def token_of(request: web.Request) -> str:
    """The token of a request, from the places that coderd reads, in its order (`APITokenFromRequest`)."""
    bearer = request.headers.get("Authorization", "")
    places = (
        request.cookies.get("coder_session_token", ""),
        request.query.get("coder_session_token", ""),
        request.headers.get("Coder-Session-Token", ""),
        bearer[len("Bearer ") :] if bearer.lower().startswith("bearer ") else "",
        request.query.get("access_token", ""),
    )
    return next((token for token in places if token), "")


def authenticate(request: web.Request, workspaces: Workspaces, *, stop_auth: bool) -> Caller | web.Response:
    """The calling agent, or the 401 with the reason. coderd never answers 403 here."""
    token = token_of(request)
    if not token:
        return answers.error(401, 'Cookie "coder_session_token" must be provided.')
    try:
        canonical = answers.parse_uuid(token)
    except ValueError:
        return answers.error(
            401,
            "Workspace agent token invalid.",
            detail=f"An agent token must be a valid UUIDv4. (len {len(token.encode())})",
        )
    caller = workspaces.authenticate(canonical, stop_auth=stop_auth)
    if caller is None:
        return answers.error(
            401,
            "Workspace agent not authorized.",
            detail="The agent cannot authenticate until the workspace provision job has been completed."
            " If the job is no longer running, this agent is invalid.",
        )
    return caller


def signed_out(url: str) -> web.Response:
    """The 401 of a user-facing route for a missing or invalid API key. `url` is the access URL."""
    response = answers.error(
        401,
        "You are signed out or your session has expired. Please sign in again to continue.",
        detail='Cookie "coder_session_token" or query parameter must be provided.',
    )
    # RFC 9728. coderd chooses the description by the word "expired" in the message.
    response.headers["WWW-Authenticate"] = (
        'Bearer realm="coder", error="invalid_token", error_description="The access token has expired",'
        f' resource_metadata="{url}/.well-known/oauth-protected-resource"'
    )
    return response
