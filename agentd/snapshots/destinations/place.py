"""The name of a snapshot at a place that holds many: one per task, the newest replacing the one before."""

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, urlsplit, urlunsplit

from agentd.snapshots.entry import SpoolEntry


@dataclass(frozen=True, slots=True)
class Place:
    """A URL that may hold `{task_id}` and `{workspace_id}`; one that ends in "/" is a folder.

    In a folder the file is `<task id>.json`, without a task `workspace-<workspace id>.json`, and with neither
    `snapshot.json`. Both ids are quoted, so that neither can name another folder.
    """

    url: str
    workspace_id: Callable[[], str]

    @property
    def name(self) -> str:
        """The URL without its query, which may be a signature: for receipts, logs and metrics."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    def of(self, entry: SpoolEntry) -> str:
        """The URL of the entry's snapshot."""
        return self.of_task(entry.task_id)

    def of_task(self, task_id: str) -> str:
        """The URL of a task's snapshot; "" for one that belongs to no task."""
        task, workspace = _segment(task_id), _segment(self.workspace_id())
        parts = urlsplit(self.url)
        path = parts.path
        if path.endswith("/") or not path:
            path = f"{path or '/'}{task or (f'workspace-{workspace}' if workspace else 'snapshot')}.json"
        path = path.replace("{task_id}", task or "no-task").replace(
            "{workspace_id}", workspace or "no-workspace"
        )
        return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def _segment(text: str) -> str:
    return quote(text, safe="").replace(".", "%2E")
