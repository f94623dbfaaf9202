"""What an answer, or none, says about the way to coderd and about the token. No I/O."""

import errno
import socket
import ssl
from collections.abc import Iterator

from agentd.coderd.errors import (
    CoderdError,
    NotCoderdError,
    RateLimitedError,
    RedirectError,
    ServerFaultError,
    UnauthorizedError,
    UnreachableError,
)
from agentd.doctor.finding import Finding, fail, ok, warn
from agentd.errors import AgentdError

NOT_A_UUID_WORDS = "Workspace agent token invalid."
NOT_ALLOWED_WORDS = "Workspace agent not authorized."
NOTHING_SENT_WORDS = "must be provided."

# OpenSSL's reasons for refusing a certificate (x509_vfy.h), as far as an operator does something else about each.
_CERTIFICATES = {
    9: (
        "coderd's certificate is not valid yet",
        "check this machine's clock; else have the certificate renewed",
    ),
    10: (
        "coderd's certificate has expired",
        "have it renewed; if it is good in a browser, check this machine's clock",
    ),
    18: ("coderd's certificate is self-signed", "set coder.ca_file (AGENTD_CODER_CA_FILE) to it"),
    19: (
        "coderd's certificate comes from a CA this machine does not trust",
        "set coder.ca_file (AGENTD_CODER_CA_FILE) to that CA",
    ),
    20: (
        "coderd's certificate comes from a CA this machine does not trust",
        "set coder.ca_file (AGENTD_CODER_CA_FILE) to that CA, or let the server send its whole chain",
    ),
    62: ("coderd's certificate is for another host name", "set coder.url to a name the certificate has"),
    64: ("coderd's certificate is not for this address", "set coder.url to a name the certificate has"),
}


def is_coderds(answer: AgentdError | None) -> bool:
    """Whether coderd itself has answered, so that there is something to say about token and routes."""
    if isinstance(answer, UnauthorizedError):
        return _is_coderds_401(answer)
    if isinstance(answer, UnreachableError | NotCoderdError | ServerFaultError | RateLimitedError):
        return False
    return answer is None or isinstance(answer, CoderdError)


def reached(answer: AgentdError | None, version: str) -> Finding:
    """The way to coderd: name, connection, TLS, proxies, and whether it is coderd that answers."""
    match answer:
        case UnreachableError():
            return _unreachable(answer)
        case RedirectError():
            return fail("coderd", answer.message, answer.hint)
        case NotCoderdError():
            return fail(
                "coderd",
                f"what answers at coder.url is not coderd, but a proxy, a login page or another server: {answer.message}",
                "set coder.url (CODER_AGENT_URL) to the address of the deployment alone, or mend the proxy in between",
            )
        case ServerFaultError():
            return fail(
                "coderd", f"coderd or a proxy fails: {answer.message}", "see coderd's log and the proxy's"
            )
        case RateLimitedError():
            return warn(
                "coderd", answer.message, "wait a minute; behind one NAT all workspaces share the limit"
            )
        case UnauthorizedError() if not _is_coderds_401(answer):
            return fail(
                "coderd",
                f"a proxy in between wants a login: {answer.message}",
                "give its header in coder.headers (CODER_AGENT_HEADER), or let it pass /api/v2/workspaceagents",
            )
        case None | CoderdError():
            return ok("coderd", f"answers, version {version or 'not named'}")
        case _:
            # The token had to be fetched first, which failed before coderd was asked anything.
            return fail("token", answer.message, answer.hint or "check coder.auth and the token's source")


def token(answer: AgentdError | None) -> Finding:
    """The token, as coderd's agent middleware (`httpmw/workspaceagent.go`) finds it: three kinds of 401."""
    if not isinstance(answer, UnauthorizedError):
        return ok("token", "coderd accepts it")
    if NOT_A_UUID_WORDS in answer.message:
        return fail(
            "token",
            "what is configured is no agent token: it is not a UUID",
            "set CODER_AGENT_TOKEN, or the token file, to what Coder gave this workspace's agent",
        )
    if NOT_ALLOWED_WORDS in answer.message:
        return fail(
            "token",
            "coderd does not accept the token: it is of an older build, or a claim or build is running",
            "wait for the build to end; if it stays so, take the present CODER_AGENT_TOKEN from the Coder agent",
        )
    if NOTHING_SENT_WORDS in answer.message:
        return fail(
            "token",
            "the token did not reach coderd: something in between drops the header Coder-Session-Token",
            "let the proxy pass Coder-Session-Token",
        )
    return fail("token", answer.message, "see coderd's log for the request named here")


def _is_coderds_401(answer: UnauthorizedError) -> bool:
    return any(words in answer.message for words in (NOT_A_UUID_WORDS, NOT_ALLOWED_WORDS, NOTHING_SENT_WORDS))


def _unreachable(answer: UnreachableError) -> Finding:
    for cause in _causes(answer):
        match cause:
            case ssl.SSLCertVerificationError():
                what, remedy = _CERTIFICATES.get(
                    cause.verify_code,
                    (f"coderd's certificate is refused: {cause.verify_message}", "have it mended"),
                )
                return fail("tls", what, remedy)
            case ssl.SSLError():
                return fail(
                    "tls",
                    f"no TLS at coder.url: {cause.reason or cause}",
                    "if the deployment speaks plain http there, write http:// in coder.url; else check port and proxy",
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
                    "connection refused: nobody listens at coder.url",
                    "check host and port of coder.url (CODER_AGENT_URL), and that coderd or its proxy is up",
                )
            case OSError(errno=errno.ENETUNREACH | errno.EHOSTUNREACH):
                return fail(
                    "coderd", f"no route to coder.url: {cause.strerror}", "check this machine's network"
                )
    return fail(
        "coderd", f"no answer: {answer.message}", "check coder.url, the network and any firewall in between"
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What `error` came from, the deepest last, the wrapped ones of aiohttp included."""
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
    # aiohttp's own errors are SSL and OS errors too by inheritance, and say less than what they wrap.
    return reversed(seen)
