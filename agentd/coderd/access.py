"""Creates the token source, the clients and the extra headers for coderd from the configuration."""

import ssl

from agentd.clock import Clock
from agentd.coderd.client import Coderd
from agentd.coderd.extra_headers import ExtraHeaders
from agentd.coderd.reinit_stream import ReinitStream
from agentd.coderd.token import FileToken, StaticToken, TokenSource
from agentd.config import Config
from agentd.proxy import Proxy, proxy_of, tls_url
from agentd.tls import aiohttp, client_context


def token_source(config: Config, session: aiohttp.ClientSession, headers: ExtraHeaders) -> TokenSource | None:
    """The source of the token, None without one. Raises `ConfigError` for an unreadable file or an unusable proxy."""
    if config.coder.auth != "token":
        from agentd.coderd.identity import InstanceIdentityToken  # noqa: PLC0415 - few workspaces use it

        proxy = proxy_of(config.coder.url)
        return InstanceIdentityToken(
            config.coder.auth,
            coder_url=config.coder.url,
            session=session,
            agent_name=config.coder.agent_name,
            headers=headers,
            tls=_tls(config, proxy),
            proxy=proxy,
            metadata_url=config.coder.metadata_url,
            metadata_proxy=proxy_of(config.coder.metadata_url),
        )
    if config.coder.token_file is not None:
        return FileToken(config.coder.token_file)
    return StaticToken(config.coder.token) if config.coder.token else None


def coderd_client(
    config: Config,
    token: TokenSource,
    session: aiohttp.ClientSession,
    headers: ExtraHeaders,
    clock: Clock | None = None,
) -> Coderd:
    """The client for coderd. Raises `ConfigError` for an unreadable certificate or an unusable proxy."""
    proxy = proxy_of(config.coder.url)
    return Coderd(
        config.coder.url,
        token=token,
        session=session,
        headers=headers,
        tls=_tls(config, proxy),
        proxy=proxy,
        clock=clock,
    )


def claim_stream(config: Config, headers: ExtraHeaders, clock: Clock) -> ReinitStream:
    """The claim stream of coderd. Raises `ConfigError` as `coderd_client`."""
    proxy = proxy_of(config.coder.url)
    return ReinitStream(
        config.coder.url, context=_tls(config, proxy), clock=clock, headers=headers, proxy=proxy
    )


def extra_headers(config: Config) -> ExtraHeaders:
    """The headers of `coder.headers` and `coder.header_command`; the parts of one process share them."""
    return ExtraHeaders(
        dict(header.split("=", 1) for header in config.coder.headers),
        command=config.coder.header_command,
        coder_url=config.coder.url,
    )


def _tls(config: Config, proxy: Proxy | None) -> ssl.SSLContext | None:
    return client_context(
        tls_url(config.coder.url, proxy),
        config.coder.ca_file,
        cert_file=config.coder.client_cert_file,
        key_file=config.coder.client_key_file,
    )
