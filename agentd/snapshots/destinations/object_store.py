"""`s3://`, `gs://`, `az://`: object storage through the library obstore, which the extra `agentd[objects]` brings.

Credentials come from where the clouds' own tools look for them: the environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`) or the
machine's identity. `AWS_ENDPOINT` names another S3 server.
"""

import asyncio
import importlib.util
import os
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from agentd.errors import ConfigError
from agentd.snapshots.destinations.destination import Accepted, RefusedError, RetryableError
from agentd.snapshots.destinations.place import Place
from agentd.snapshots.entry import SpoolEntry

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES: Final = ("s3", "gs", "az")

_CONNECT_TIMEOUT_S: Final = 5


class ObjectStoreDestination:
    """Puts the payload as an object over the one before.

    Raises `ConfigError` at once when the library is missing; it is loaded with the first snapshot (16 MB of code).
    """

    needs_task = False

    def __init__(self, place: Place) -> None:
        _require_library(place.name)
        self._place = place
        self.name = place.name

    async def deliver(self, entry: SpoolEntry, *, timeout_s: float) -> Accepted:
        import obstore  # noqa: PLC0415 - an optional extra, loaded where it is used
        from obstore.exceptions import BaseError  # noqa: PLC0415 - the same

        key = _key(self._place.of(entry))
        try:
            async with asyncio.timeout(timeout_s):
                await obstore.put_async(self._store, key, entry.payload)
        except TimeoutError as error:
            raise RetryableError(f"no answer within {timeout_s:.1f}s") from error
        except FileNotFoundError as error:
            raise RefusedError(_first_line(error), hint="create the bucket, or name another") from error
        except (BaseError, OSError) as error:
            # Also denied and unauthenticated: credentials of a machine's identity are renewed behind our back.
            raise RetryableError(_first_line(error)) from error
        return Accepted(detail=key)

    @cached_property
    def _store(self) -> "ObjectStore":
        return _open(self._place.url)


async def get(url: str, *, max_bytes: int) -> bytes:
    """The object at `url`; of a larger one, at most one byte more than `max_bytes`.

    Raises `ConfigError` when the library is missing, `FileNotFoundError` when there is no such object, `OSError` for
    any other refusal.
    """
    _require_library(url)
    import obstore  # noqa: PLC0415 - an optional extra, loaded where it is used
    from obstore.exceptions import BaseError  # noqa: PLC0415 - the same

    body = b""
    try:
        found = await obstore.get_async(_open(url), _key(url))
        async for chunk in found.stream():
            body += bytes(chunk)
            if len(body) > max_bytes:
                break
    except FileNotFoundError as error:
        raise FileNotFoundError(_first_line(error)) from error
    except BaseError as error:
        raise OSError(_first_line(error)) from error
    return body[: max_bytes + 1]


def _open(url: str) -> "ObjectStore":
    from obstore.store import from_url  # noqa: PLC0415 - an optional extra, loaded where it is used

    parts = urlsplit(url)
    plain = os.environ.get("AWS_ENDPOINT", os.environ.get("AWS_ENDPOINT_URL", "")).startswith("http:")
    return from_url(
        f"{parts.scheme}://{parts.netloc}",
        client_options={"connect_timeout": timedelta(seconds=_CONNECT_TIMEOUT_S), "allow_http": plain},
        # Trying again is the uploader's business, and so is the time for it.
        retry_config={"max_retries": 0},
    )


def _key(url: str) -> str:
    return unquote(urlsplit(url).path).lstrip("/")


def _require_library(name: str) -> None:
    if importlib.util.find_spec("obstore") is None:
        raise ConfigError(
            f"snapshots.destinations: {name} needs the library obstore",
            hint="install agentd with it: pip install 'agentd[objects]'",
        )


def _first_line(error: Exception) -> str:
    # The rest of it is a debug print of the library's objects.
    return str(error).split("\n", 1)[0]
