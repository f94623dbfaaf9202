"""TLS contexts, made only for peers that need one.

Parsing the system's CA bundle costs 40 % of a start and some megabytes. aiohttp parses it when imported and httpx when
a client is built; most agents talk to a plain-http AgentAPI on loopback and many to coderd behind a local proxy. So
aiohttp is imported through here, and every client is handed its own context.
"""

import ssl
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agentd.errors import ConfigError
from agentd.startup import aiohttp_without_certificates

__all__ = ["aiohttp", "client_context"]


if TYPE_CHECKING:
    import aiohttp
else:
    aiohttp = aiohttp_without_certificates()


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
