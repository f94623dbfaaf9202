"""`s3://`, `gs://`, `az://`: object storage through the library obstore of the extra `agentd[objects]`.

obstore takes the credentials where the clouds' own tools do: from the environment (`AWS_*`, `GOOGLE_*`,
`AZURE_*`) or from the identity of the instance. `AWS_ENDPOINT` sets another S3 server. agentd chooses the proxy,
because obstore reads NO_PROXY by other rules than Go.
"""

import importlib.util
import os
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from agentd import log
from agentd.errors import ConfigError
from agentd.http_client import one_line, read_start
from agentd.proxy import no_proxy_entries, proxy_of
from agentd.snapshots.destinations.destination import Accepted, RejectedError, RetryableError
from agentd.snapshots.destinations.url_template import DestinationContext, UrlTemplate
from agentd.snapshots.entry import SpoolEntry

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore

SCHEMES: Final = ("s3", "gs", "az")

_CONNECT_TIMEOUT_S: Final = 5
_REASON_MAX_CHARS: Final = 300
_METADATA_HOSTS: Final = (
    "169.254.0.0/16",
    "fd00:ec2::254",
    "metadata.google.internal",
    "localhost",
    "127.0.0.0/8",
    "::1",
)


class ObjectStoreDestination:
    """Stores the payload as an object and replaces the previous one.

    The constructor raises `ConfigError` if the library is missing. The library (16 MB of code) is loaded with
    the first snapshot.
    """

    needs_task = False

    def __init__(self, template: UrlTemplate, _context: DestinationContext) -> None:
        _require_library(template.name)
        _proxy_options(template.url)  # raises `ConfigError` for an unusable proxy
        self._template = template
        self.name = template.name

    async def deliver(self, entry: SpoolEntry) -> Accepted:
        import obstore  # noqa: PLC0415 - an optional extra, loaded where it is used
        from obstore.exceptions import BaseError  # noqa: PLC0415 - the same

        key = _key(self._template.expand(entry.task_id))
        try:
            await obstore.put_async(self._store, key, entry.payload)
        except FileNotFoundError as exc:
            raise RejectedError(_reason(exc), hint="create the bucket, or configure another") from exc
        except (BaseError, OSError) as exc:
            # Also for 401 and 403: the credentials of an instance identity are renewed while agentd runs.
            raise RetryableError(_reason(exc)) from exc
        return Accepted(detail=key)

    @cached_property
    def _store(self) -> "ObjectStore":
        return _open(self._template.url)


async def get(url: str, *, max_bytes: int) -> bytes:
    """The first `max_bytes` of the object at `url`.

    Raises `ConfigError` if the library is missing, and `OSError`.
    """
    _require_library(url)
    import obstore  # noqa: PLC0415 - an optional extra, loaded where it is used
    from obstore.exceptions import BaseError  # noqa: PLC0415 - the same

    try:
        found = await obstore.get_async(_open(url), _key(url))
        return await read_start(found.stream(), max_bytes)
    except (FileNotFoundError, BaseError) as exc:
        raise OSError(_reason(exc)) from exc


def _open(url: str) -> "ObjectStore":
    from obstore.store import from_url  # noqa: PLC0415 - an optional extra, loaded where it is used

    parts = urlsplit(url)
    options: ClientConfig = {
        "connect_timeout": timedelta(seconds=_CONNECT_TIMEOUT_S),
        "allow_http": _endpoint(parts.scheme).startswith("http:"),
        **_proxy_options(url),
    }
    return from_url(
        f"{parts.scheme}://{parts.netloc}",
        client_options=options,
        # The uploader retries, within its own time limits.
        retry_config={"max_retries": 0},
    )


def _endpoint(scheme: str) -> str:
    """The URL of the store's server, exact enough to choose its proxy."""
    if scheme == "s3":
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        own = os.environ.get("AWS_ENDPOINT") or os.environ.get("AWS_ENDPOINT_URL")
        return own or f"https://s3.{region}.amazonaws.com"
    if scheme == "az":
        account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "account")
        return os.environ.get("AZURE_STORAGE_ENDPOINT") or f"https://{account}.blob.core.windows.net"
    return "https://storage.googleapis.com"


def _proxy_options(url: str) -> "ClientConfig":
    """The options that let obstore use the proxy of `proxy_of`, and never for the cloud's metadata server."""
    endpoint = urlsplit(_endpoint(urlsplit(url).scheme))
    environ = {name: value for name, value in os.environ.items() if name not in ("NO_PROXY", "no_proxy")}
    # For the requests for credentials, which go to another host than the endpoint.
    proxy = proxy_of(f"{endpoint.scheme}://other.invalid", environ)
    if proxy is None:
        return {}
    excluded = [
        *_METADATA_HOSTS,
        *(entry if entry == "*" else entry.removeprefix("*") for entry in no_proxy_entries(os.environ)),
    ]
    if proxy_of(endpoint.geturl()) is None:
        excluded.append(endpoint.hostname or "")
    return {"proxy_url": proxy.url_with_credentials, "proxy_excludes": ",".join(filter(None, excluded))}


def _key(url: str) -> str:
    return unquote(urlsplit(url).path).lstrip("/")


def _require_library(name: str) -> None:
    if importlib.util.find_spec("obstore") is None:
        raise ConfigError(
            f"snapshots.destinations: {name} needs the library obstore",
            hint="install agentd with it: pip install 'agentd[objects]'",
        )


def _reason(exc: Exception) -> str:
    # The other lines are debug output of the library's objects.
    return one_line(log.masked(str(exc).split("\n", 1)[0]), _REASON_MAX_CHARS)
