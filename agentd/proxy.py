"""Decides which proxy a request goes through, by the rules of Go's `golang.org/x/net/http/httpproxy`.

The Coder agent is a Go program, so a workspace whose proxy variables work for it works for agentd too. The
variables are HTTPS_PROXY for https URLs, HTTP_PROXY for http URLs and NO_PROXY, or their lower-case forms; the
upper-case form precedes. `proxy_of` is the only reader of these variables.
"""

import base64
import ipaddress
import os
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import SplitResult, quote, unquote, urlsplit

from agentd import log
from agentd.errors import ConfigError

NAMES: Final[Mapping[str, tuple[str, str]]] = {
    "http": ("HTTP_PROXY", "http_proxy"),
    "https": ("HTTPS_PROXY", "https_proxy"),
}
"""The scheme of a request's URL → the variables that name its proxy."""
_PORTS: Final = {"http": 80, "https": 443}

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


class Proxy(NamedTuple):
    """The proxy of a URL. `url` is `scheme://host:port` without credentials.

    `authorization` is the value of `Proxy-Authorization`, "" without credentials. `tunnels` is True if requests go
    through a tunnel (CONNECT), and False if the proxy gets them in absolute form. `variable` is the environment
    variable that names the proxy. `user` is for display.
    """

    url: str
    variable: str
    tunnels: bool
    authorization: str = ""
    user: str = ""

    def __str__(self) -> str:
        """The URL as in the variable, with the password masked."""
        if not self.authorization:
            return self.url
        scheme, _, address = self.url.partition("://")
        return f"{scheme}://{quote(self.user, safe='')}:{log.MASK}@{address}"

    def __repr__(self) -> str:
        return str(self)

    @property
    def url_with_credentials(self) -> str:
        """For a library that takes one URL. It must not be shown."""
        if not self.authorization:
            return self.url
        scheme, _, address = self.url.partition("://")
        pair = base64.b64decode(self.authorization.removeprefix("Basic ")).decode()
        user, _, password = pair.partition(":")
        return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{address}"

    @property
    def is_tls(self) -> bool:
        return self.url.startswith("https:")

    @property
    def headers(self) -> dict[str, str]:
        """The headers for the proxy: of the CONNECT request, or of a request in absolute form."""
        return {"Proxy-Authorization": self.authorization} if self.authorization else {}

    @property
    def hint(self) -> str:
        """What to do if the proxy is unreachable or refuses to connect."""
        return f"check {self.variable}, or name the host in NO_PROXY if it needs no proxy"

    @property
    def login_hint(self) -> str:
        """What to do after the proxy's 407."""
        if self.authorization:
            return f"correct user and password in {self.variable}; percent-encode special characters"
        return f"write user and password into {self.variable}: http://USER:PASSWORD@HOST:PORT"


def proxy_of(url: str, environ: Mapping[str, str] | None = None) -> Proxy | None:
    """The proxy for requests to `url`, None for a direct connection. Registers its credentials as secrets.

    A loopback address and `localhost` have no proxy. Raises `ConfigError` for a value that is not a URL, for a proxy
    that agentd cannot use, such as a SOCKS proxy, and for HTTP_PROXY in a CGI environment (REQUEST_METHOD is set),
    where a client of the web server could have set it.
    """
    env = os.environ if environ is None else environ
    target = urlsplit(url)
    variable = next((name for name in NAMES.get(target.scheme, ()) if env.get(name)), "")
    if not variable:
        return None
    if target.scheme == "http" and env.get("REQUEST_METHOD"):
        raise ConfigError(
            f"{variable}: not used, because REQUEST_METHOD is set: a web client could have set {variable}",
            hint="unset REQUEST_METHOD or HTTP_PROXY in agentd's environment (golang.org/s/cgihttpproxy)",
        )
    for secret in secrets_of(env):
        log.register_secret(secret)
    if not _uses_proxy(target, no_proxy_entries(env)):
        return None
    parts = _proxy_url(env[variable])
    if parts is None:
        raise ConfigError(
            f"{variable}: is not the URL of a proxy",
            hint="write http://USER:PASSWORD@HOST:PORT, with special characters percent-encoded",
        )
    if parts.scheme not in _PORTS:
        raise ConfigError(
            f"{variable}: a proxy with the scheme {parts.scheme!a} is not supported",
            hint=f"set {variable} to an http:// or https:// proxy, or name {target.hostname} in NO_PROXY",
        )
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return Proxy(
        url=f"{parts.scheme}://{host}:{parts.port or _PORTS[parts.scheme]}",
        variable=variable,
        tunnels=target.scheme == "https",
        authorization=_authorization(parts),
        user=unquote(parts.username or ""),
    )


def request_options(proxy: Proxy | None, headers: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of an aiohttp request with `headers` that goes through `proxy`."""
    if proxy is None:
        return {"headers": headers}
    if proxy.tunnels:
        return {"headers": headers, "proxy": proxy.url, "proxy_headers": proxy.headers}
    return {"headers": {**headers, **proxy.headers}, "proxy": proxy.url}


def tls_url(url: str, proxy: Proxy | None) -> str:
    """The URL that needs a TLS context, of `url` and its proxy; one context serves both."""
    return proxy.url if proxy is not None and proxy.is_tls else url


def secrets_of(environ: Mapping[str, str]) -> Iterator[str]:
    """The passwords and credentials in the proxy variables."""
    for names in NAMES.values():
        for name in names:
            parts = _proxy_url(environ.get(name, ""))
            if parts is not None:
                yield from _secrets(parts)


def no_proxy_entries(environ: Mapping[str, str]) -> list[str]:
    """The entries of NO_PROXY, in lower case."""
    text = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    return [entry for entry in (part.strip().lower() for part in text.split(",")) if entry]


def _proxy_url(text: str) -> SplitResult | None:
    """The URL of a proxy; `http://` is added to a value without a scheme. None if it is not a URL."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        return parts if parts.scheme and parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


def _authorization(parts: SplitResult) -> str:
    if parts.username is None:
        return ""
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _secrets(parts: SplitResult) -> Iterator[str]:
    if parts.password:
        yield parts.password
        yield unquote(parts.password)
    yield _authorization(parts).removeprefix("Basic ")


# NO_PROXY.


def _uses_proxy(target: SplitResult, entries: list[str]) -> bool:
    host = _ascii(target.hostname or "")
    port = str(target.port or _PORTS[target.scheme])
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return False
    return "*" not in entries and not any(_excludes(entry, host, port, address) for entry in entries)


def _excludes(entry: str, host: str, port: str, address: _Address | None) -> bool:
    """Whether an entry of NO_PROXY names the host: a CIDR, an IP or a domain, the latter two with a port."""
    network = _network(entry)
    if network is not None:
        return address is not None and address in network
    name, entry_port = _split_port(entry)
    if entry_port not in ("", port):
        return False
    excluded = _address(name)
    if excluded is not None:
        return excluded == address
    if address is not None or not name:
        return False
    # `x.y` names the host and its subdomains, `.x.y` and `*.x.y` only the subdomains.
    name = name[1:] if name.startswith("*.") else name
    if name.startswith("."):
        return host.endswith(_ascii(name))
    return host == _ascii(name) or host.endswith(f".{_ascii(name)}")


def _split_port(entry: str) -> tuple[str, str]:
    """Host and port of `host:port` or `[IPv6]:port` as Go's SplitHostPort; the whole entry if it is neither."""
    host, colon, port = entry.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], port
    return (host, port) if colon and ":" not in host else (entry, "")


def _address(text: str) -> _Address | None:
    """The IP address, None if it is not one. An IPv4 address mapped to IPv6 equals the IPv4 address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The network of a CIDR, None if it is not one. A netmask after the slash is not a CIDR."""
    prefix = text.partition("/")[2]
    if not (prefix.isascii() and prefix.isdigit()):
        return None
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _ascii(host: str) -> str:
    """The ASCII form of an internationalized name."""
    if host.isascii():
        return host
    from yarl import URL  # noqa: PLC0415 - rare, and loaded anyway with the first request

    dot, name = ("." if host.startswith(".") else ""), host.removeprefix(".")
    try:
        return dot + (URL.build(scheme="http", host=name).raw_host or name)
    except ValueError:
        return host
