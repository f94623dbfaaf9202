"""TLS contexts, made only for peers that need one.

Parsing the system's CA bundle costs 40 % of a start and some megabytes. aiohttp parses it when imported and httpx when
a client is built; most agents talk to a plain-http AgentAPI on loopback and many to coderd behind a local proxy. So
aiohttp is imported through here, and every client is handed its own context.
"""

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from agentd.errors import ConfigError

__all__ = ["aiohttp", "client_context"]


@contextlib.contextmanager
def _without_certificates() -> Iterator[None]:
    """Let contexts be made empty. aiohttp makes two at import, one verifying and one not, and loads the bundle into
    both; ours are passed explicitly, so neither is ever used.
    """
    load, set_default = ssl.SSLContext.load_default_certs, ssl.SSLContext.set_default_verify_paths
    ssl.SSLContext.load_default_certs = lambda *_args: None  # type: ignore[method-assign]  # put back below
    ssl.SSLContext.set_default_verify_paths = lambda *_args: None  # type: ignore[method-assign]  # put back below
    try:
        yield
    finally:
        ssl.SSLContext.load_default_certs = load  # type: ignore[method-assign]  # the real one
        ssl.SSLContext.set_default_verify_paths = set_default  # type: ignore[method-assign]  # the real one


with _without_certificates():
    import aiohttp


def client_context(url: str, ca_file: Path | None = None) -> ssl.SSLContext | None:
    """A verifying context for an `https` url, trusting `ca_file` as well as the system's CAs; None for plain http.

    Raises `ConfigError` when `ca_file` cannot be read as PEM.
    """
    if urlsplit(url).scheme != "https":
        return None
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=str(ca_file))
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(
                f"coder.ca_file: {ca_file} cannot be read as PEM certificates ({exc})",
                hint="point it at the CA bundle of your Coder deployment",
            ) from exc
    return context
