"""Creates TLS contexts, only for peers that need one, and provides aiohttp without its own TLS contexts.

Loading the system's CA bundle takes 40 % of the startup time and some megabytes. aiohttp loads it at import,
httpx when a client is created. Most agents talk to AgentAPI by plain http on loopback, and many to coderd
through a local proxy. So all modules import aiohttp from here, and each client gets its own context.
"""

import ssl
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agentd.errors import ConfigError
from agentd.startup import aiohttp_without_certificates

if TYPE_CHECKING:
    import aiohttp as aiohttp  # noqa: PLC0414 - marks the re-export for mypy
else:
    aiohttp = aiohttp_without_certificates()


def client_context(url: str, ca_file: Path | None = None) -> ssl.SSLContext | None:
    """A context with the system's CAs and `ca_file`; None for plain http. `ConfigError` if it is not PEM."""
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
