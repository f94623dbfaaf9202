"""Creates TLS contexts, only for peers that need one, and provides aiohttp without its own TLS contexts.

Loading the system's CA bundle takes 40 % of the startup time and some megabytes. aiohttp loads it at import,
httpx when a client is created. Most agents talk to AgentAPI by plain http on loopback, and many to coderd
through a local proxy. So all modules import aiohttp from here, and each client gets its own context.
"""

import contextlib
import os
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


def client_context(
    url: str, ca_file: Path | None = None, *, cert_file: Path | None = None, key_file: Path | None = None
) -> ssl.SSLContext | None:
    """A context with the system's CAs and `ca_file`, and a client certificate; None for plain http.

    SSL_CERT_FILE and SSL_CERT_DIR replace the system's CAs as in Go (`crypto/x509`). `key_file` may be None if
    `cert_file` also has the key. Raises `ConfigError` for a file that is not PEM.
    """
    if urlsplit(url).scheme != "https":
        return None
    # OpenSSL reads SSL_CERT_FILE itself, and from the directories only files with a hash as their name.
    context = ssl.create_default_context()
    _load_directories(context, os.environ.get("SSL_CERT_DIR", ""))
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=str(ca_file))
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(
                f"coder.ca_file: {ca_file} cannot be read as PEM certificates ({exc})",
                hint="point it at the CA bundle of your Coder deployment",
            ) from exc
    if cert_file is not None:
        _load_client_certificate(context, cert_file, key_file)
    return context


def _load_directories(context: ssl.SSLContext, directories: str) -> None:
    """Load every PEM file of the directories, which colons separate. Go ignores other files, and so does agentd."""
    for directory in filter(None, directories.split(":")):
        with contextlib.suppress(OSError):
            for path in sorted(Path(directory).iterdir()):
                # `c_rehash` adds links to files of the same directory.
                is_rehashed = path.is_symlink() and "/" not in str(path.readlink())
                if path.is_file() and not is_rehashed:
                    with contextlib.suppress(OSError, ssl.SSLError):
                        context.load_verify_locations(cafile=str(path))


def _load_client_certificate(context: ssl.SSLContext, cert_file: Path, key_file: Path | None) -> None:
    try:
        # Without a password OpenSSL would ask for one on the terminal.
        context.load_cert_chain(cert_file, key_file, password=b"")
    except (OSError, ssl.SSLError) as exc:
        files = f"{cert_file} and {key_file}" if key_file else str(cert_file)
        raise ConfigError(
            f"coder.client_cert_file: {files} cannot be read as a PEM certificate and its key ({exc})",
            hint="coder.client_key_file must be the unencrypted key of the certificate",
        ) from exc
