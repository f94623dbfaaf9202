"""The URL of each task's snapshot at a destination that stores many snapshots."""

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, urlsplit, urlunsplit


@dataclass(frozen=True, slots=True)
class UrlTemplate:
    """A URL that may contain `{task_id}` and `{workspace_id}`. A URL that ends in "/" is a folder.

    In a folder the file is `<task id>.json`, without a task `workspace-<workspace id>.json`, and without
    either `snapshot.json`. Both ids are percent-encoded, so that neither can name another folder.
    """

    url: str
    workspace_id: Callable[[], str]

    @property
    def name(self) -> str:
        """The URL for receipts, logs and metrics, without user info, query and fragment (secrets)."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    def expand(self, task_id: str) -> str:
        """The URL of the snapshot of `task_id`, "" for a snapshot without a task."""
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
