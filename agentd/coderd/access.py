"""Creates the token source, the clients and the proxy headers for coderd from the configuration."""

from agentd import log
from agentd.clock import Clock
from agentd.coderd.client import Coderd
from agentd.coderd.reinit_stream import ReinitStream
from agentd.coderd.token import FileToken, StaticToken, TokenSource
from agentd.config import Config
from agentd.tls import aiohttp, client_context


def token_source(config: Config, session: aiohttp.ClientSession) -> TokenSource | None:
    """The source of the token, None without one. Raises `ConfigError` for an unreadable token or CA file."""
    if config.coder.auth != "token":
        from agentd.coderd.identity import InstanceIdentityToken  # noqa: PLC0415 - few workspaces use it

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


def coderd_client(
    config: Config, token: TokenSource, session: aiohttp.ClientSession, clock: Clock | None = None
) -> Coderd:
    """The client for coderd. Raises `ConfigError` for an unreadable CA file."""
    return Coderd(
        config.coder.url,
        token=token,
        session=session,
        headers=proxy_headers(config),
        tls=client_context(config.coder.url, config.coder.ca_file),
        clock=clock,
    )


def claim_stream(config: Config, clock: Clock) -> ReinitStream:
    """The claim stream of coderd. Raises `ConfigError` for an unreadable CA file."""
    return ReinitStream(
        config.coder.url,
        context=client_context(config.coder.url, config.coder.ca_file),
        clock=clock,
        headers=proxy_headers(config),
    )


def proxy_headers(config: Config) -> dict[str, str]:
    """`coder.headers` by name. Registers their values as secrets, so that logs mask them."""
    headers = dict(header.split("=", 1) for header in config.coder.headers)
    for value in headers.values():
        log.register_secret(value)
    return headers
