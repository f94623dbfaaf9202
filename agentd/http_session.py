"""The one kind of HTTP session that agentd has towards its peers, and the name it gives them."""

from typing import Final

from agentd import __version__
from agentd.tls import aiohttp

USER_AGENT: Final = f"agentd/{__version__}"


def client_session(*, trust_env: bool = False) -> aiohttp.ClientSession:
    """A session to be closed by the caller; every call on it brings its own deadline and TLS context.

    It keeps no cookies, and the environment's proxies do not count unless `trust_env`: they would take requests for
    loopback to a corporate proxy.
    """
    return aiohttp.ClientSession(
        headers={"User-Agent": USER_AGENT},
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=trust_env,
        timeout=aiohttp.ClientTimeout(total=None),
    )
