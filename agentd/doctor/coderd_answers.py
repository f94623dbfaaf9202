"""Explains the result of a request to coderd: what it shows about the connection and the token. No I/O."""

import errno
import socket
import ssl
from collections.abc import Iterator
from typing import Final

from agentd.coderd.errors import (
    CoderdError,
    HeaderCommandError,
    NotCoderdError,
    ProxyAuthError,
    ProxyError,
    RateLimitedError,
    RedirectError,
    ServerFaultError,
    UnauthorizedError,
    UnreachableError,
)
from agentd.doctor.finding import Finding, fail, ok, warn
from agentd.errors import AgentdError

# Parts of the messages of coderd's agent middleware (`httpmw/workspaceagent.go`), each with cause and remedy.
_401: Final = {
    "Workspace agent token invalid.": (
        "the configured token is not an agent token: it is not a UUID",
        "set CODER_AGENT_TOKEN, or the token file, to the token of this workspace's agent",
    ),
    "Workspace agent not authorized.": (
        "coderd does not accept the token: it is from an older build, or a claim or build is running",
        "wait for the build to end; if the error stays, use the current CODER_AGENT_TOKEN of the Coder agent",
    ),
    "must be provided.": (
        "a proxy removes the header Coder-Session-Token, so the token does not reach coderd",
        "let the proxy pass Coder-Session-Token",
    ),
}
WAIT: Final = "wait a minute; all workspaces behind one NAT share coderd's limit"
_UNKNOWN_CA: Final = "is signed by a CA that this machine does not trust"
_SET_CA: Final = "set coder.ca_file (AGENTD_CODER_CA_FILE) to that"

# OpenSSL's verify codes (x509_vfy.h) that have a remedy of their own, with cause and remedy.
_CERTIFICATES: Final = {
    9: ("is not valid yet", "check this machine's clock, or renew the certificate"),
    10: ("has expired", "renew the certificate; if a browser accepts it, check this machine's clock"),
    18: ("is self-signed", f"{_SET_CA} certificate"),
    19: (_UNKNOWN_CA, f"{_SET_CA} CA"),
    20: (_UNKNOWN_CA, f"{_SET_CA} CA, or let the server send the whole chain"),
    62: ("is for another host name", "set coder.url to a name in the certificate"),
    64: ("is not for this address", "set coder.url to a name in the certificate"),
}


def connection_finding(answer: AgentdError | None, version: str) -> Finding:
    """The finding about the connection: DNS, TCP, TLS, proxies, and whether coderd answers.

    `ok` if coderd itself answered, so that the answer also shows the state of token and routes.
    """
    match answer:
        case ProxyAuthError() | ProxyError():
            return fail("proxy", answer.message, answer.hint)
        case HeaderCommandError():
            return fail("coderd", answer.message, answer.hint)
        case UnreachableError():
            return _unreachable(answer)
        case RedirectError():
            return fail("coderd", answer.message, answer.hint)
        case NotCoderdError():
            return fail(
                "coderd",
                "not coderd, but a proxy, a login page or another server answers at coder.url:"
                f" {answer.message}",
                "set coder.url (CODER_AGENT_URL) to the address of the deployment without a path,"
                " or correct the proxy in between",
            )
        case ServerFaultError():
            return fail(
                "coderd", f"coderd or a proxy failed: {answer.message}", "see coderd's log and the proxy's"
            )
        case RateLimitedError():
            return warn("coderd", answer.message, WAIT)
        case UnauthorizedError() if not any(_of_401(answer)):
            return fail(
                "coderd",
                f"a proxy in between requires a login: {answer.message}",
                "set its header in coder.headers (CODER_AGENT_HEADER),"
                " or let it pass /api/v2/workspaceagents",
            )
        case None | CoderdError():
            return ok("coderd", f"answers, version {version or 'unknown'}")
        case _:
            # Reading or fetching the token failed, so no request was sent.
            hint = answer.hint or "check coder.auth and the source of the token"
            return fail("token", answer.message, hint)


def token_finding(answer: AgentdError | None) -> Finding:
    """The finding about the token, if coderd itself answered (`connection_finding` is ok)."""
    if not isinstance(answer, UnauthorizedError):
        return ok("token", "coderd accepts it")
    return fail("token", *_of_401(answer))


def _of_401(answer: UnauthorizedError) -> tuple[str, str]:
    """Cause and remedy; empty if a proxy in front of coderd sent the answer."""
    return next((found for text, found in _401.items() if text in answer.message), ("", ""))


def _unreachable(answer: UnreachableError) -> Finding:
    for cause in _causes(answer):
        match cause:
            case ssl.SSLCertVerificationError():
                other = (f"is invalid: {cause.verify_message}", "have the certificate corrected")
                fault, remedy = _CERTIFICATES.get(cause.verify_code, other)
                return fail("tls", f"coderd's certificate {fault}", remedy)
            case ssl.SSLError():
                return fail(
                    "tls",
                    f"the TLS handshake with coder.url failed: {cause.reason or cause}",
                    "if the deployment uses plain HTTP on this port, write http:// in coder.url;"
                    " else check port and proxy",
                )
            case socket.gaierror():
                return fail(
                    "coderd",
                    f"DNS: the host of coder.url does not resolve ({cause.strerror or cause})",
                    "check coder.url (CODER_AGENT_URL) and this machine's resolver (/etc/resolv.conf)",
                )
            case ConnectionRefusedError():
                return fail(
                    "coderd",
                    "connection refused: no program listens at coder.url",
                    "check host and port of coder.url (CODER_AGENT_URL), and that coderd or its proxy runs",
                )
            case OSError(errno=errno.ENETUNREACH | errno.EHOSTUNREACH):
                fault = f"no route to coder.url: {cause.strerror}"
                return fail("coderd", fault, "check the network of this machine")
    remedy = "check coder.url, the network and any firewall in between"
    return fail("coderd", f"no answer: {answer.message}", remedy)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The causes of `error`, the deepest first, including those that aiohttp wraps."""
    seen: list[BaseException] = []
    pending: list[BaseException | None] = [error.__cause__]
    while pending and len(seen) < 32:
        cause = pending.pop(0)
        if cause is None or any(cause is known for known in seen):
            continue
        seen.append(cause)
        pending += [cause.__cause__, cause.__context__, getattr(cause, "os_error", None)]
        if isinstance(cause, BaseExceptionGroup):
            pending += cause.exceptions
    # aiohttp's errors inherit from SSL and OS errors, and have less information than the errors that they
    # wrap.
    return reversed(seen)
