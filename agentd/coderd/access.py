"""How coderd is reached: the token, the client and the headers a proxy in between wants."""

from agentd import log
from agentd.coderd.client import Coderd
from agentd.coderd.token import FileToken, StaticToken, TokenSource
from agentd.config import Config
from agentd.tls import aiohttp, client_context

__all__ = ["coderd_client", "proxy_headers", "token_source"]


def token_source(config: Config, session: aiohttp.ClientSession) -> TokenSource | None:
    """Where the token comes from, None when nothing is configured. Raises `ConfigError` for an unreadable token file."""
    if config.coder.auth != "token":
        from agentd.coderd.identity import InstanceIdentityToken  # noqa: PLC0415 - few workspaces run on a bare instance

        return InstanceIdentityToken(
            config.coder.auth,
            coder_url=config.coder.url,
            session=session,
            agent_name=config.coder.agent_name,
            headers=proxy_headers(config),
            tls=client_context(config.coder.url, config.coder.ca_file),
            metadata_url=config.coder.metadata_url,
        )
    if config.coder.token_file is not None:
        return FileToken(config.coder.token_file)
    return StaticToken(config.coder.token) if config.coder.token else None


def coderd_client(config: Config, token: TokenSource, session: aiohttp.ClientSession) -> Coderd:
    """Raises `ConfigError` for an unreadable CA file."""
    return Coderd(
        config.coder.url,
        token=token,
        session=session,
        headers=proxy_headers(config),
        tls=client_context(config.coder.url, config.coder.ca_file),
    )


def proxy_headers(config: Config) -> dict[str, str]:
    """`coder.headers` by name; from now on their values are masked in every log line."""
    headers = dict(header.split("=", 1) for header in config.coder.headers)
    for value in headers.values():
        log.register_secret(value)
    return headers
