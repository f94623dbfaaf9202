"""`file:///folder/`: a directory, for example on a volume that outlives the workspace."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from agentd.durable import replace_file
from agentd.snapshots.destinations.destination import Accepted, RetryableError
from agentd.snapshots.destinations.url_template import DestinationContext, UrlTemplate
from agentd.snapshots.entry import SpoolEntry
from agentd.worker_thread import WorkerThread


class DirectoryDestination:
    """Writes the payload durably to a file and replaces the previous one. Creates missing directories."""

    needs_task = False

    def __init__(self, template: UrlTemplate, _context: DestinationContext) -> None:
        template.require_absolute_path()
        self._template = template
        self.name = template.name
        # Not the spool's thread: a network file system that hangs must not block the spool. One thread: a
        # write that hung cannot replace a newer file later.
        self._thread = WorkerThread("agentd-file")

    async def deliver(self, entry: SpoolEntry) -> Accepted:
        path = path_of(self._template.expand(entry.task_id))
        try:
            await self._thread.run(lambda: _write(path, entry.payload))
        except OSError as exc:
            raise RetryableError(f"{path} cannot be written: {exc.strerror}") from exc
        return Accepted(detail=str(path))


def path_of(url: str) -> Path:
    """The path of a `file://` URL."""
    return Path(unquote(urlsplit(url).path))


def _write(path: Path, payload: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, payload)
