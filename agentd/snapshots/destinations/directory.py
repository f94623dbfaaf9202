"""`file:///folder/`: a directory, such as a volume that outlives the workspace."""

import asyncio
from pathlib import Path
from urllib.parse import unquote, urlsplit

from agentd.durable import replace_file
from agentd.snapshots.destinations.destination import Accepted, RetryableError
from agentd.snapshots.destinations.place import Place
from agentd.snapshots.entry import SpoolEntry


class DirectoryDestination:
    """Writes the payload as a file, durably, over the one before. Missing folders are made."""

    needs_task = False

    def __init__(self, place: Place) -> None:
        self._place = place
        self.name = place.name

    async def deliver(self, entry: SpoolEntry, *, timeout_s: float) -> Accepted:
        path = Path(unquote(urlsplit(self._place.of(entry)).path))
        try:
            async with asyncio.timeout(timeout_s):
                # Not in the spool's thread: a network file system that hangs must not stop the spool.
                await asyncio.to_thread(_write, path, entry.payload)
        except TimeoutError as error:
            raise RetryableError(f"{path} was not written within {timeout_s:.1f}s") from error
        except OSError as error:
            raise RetryableError(f"{path} cannot be written: {error.strerror}") from error
        return Accepted(detail=str(path))


def _write(path: Path, payload: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, payload)
