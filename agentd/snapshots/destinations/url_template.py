"""What a destination with a URL is made from: the URL of each task's snapshot, and the rest of the configuration."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import quote, urlsplit

from agentd.errors import ConfigError
from agentd.tls import aiohttp


class UrlTemplate(NamedTuple):
    """A URL that may contain `{task_id}` and `{workspace_id}`. A URL that ends in "/" is a folder.

    In a folder the file is `<task id>.json`, without a task `workspace-<workspace id>.json`, and without
    either `snapshot.json`. Both ids are percent-encoded, so that neither can name another folder.
    """

    url: str
    workspace_id: Callable[[], str]
    name_suffix: str = ""

    @property
    def name(self) -> str:
        """The URL for receipts, logs and metrics, without user info, query and fragment (secrets)."""
        parts = urlsplit(self.url)
        return _joined(parts.scheme, parts.netloc.rpartition("@")[2], parts.path) + self.name_suffix

    def require_absolute_path(self) -> None:
        """Raises `ConfigError` unless the URL has an absolute path and no host."""
        parts = urlsplit(self.url)
        if parts.netloc or len(parts.path) < 2:
            raise ConfigError(
                f"snapshots.destinations: {self.name} has no absolute path",
                hint=f"write {parts.scheme}:///path",
            )

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
        return _joined(parts.scheme, parts.netloc, path, parts.query)


class DestinationContext(NamedTuple):
    """What destinations need in addition to their URL.

    `folder` is for temporary files. `workspace_id` is called at each delivery, because agentd may learn the id late.
    `method`, `headers_file` and `ca_file` are for https destinations, `environ` and `redact_env` (the names of secrets
    in it) for programs.
    """

    session: aiohttp.ClientSession
    folder: Path
    environ: Mapping[str, str]
    workspace_id: Callable[[], str] = str
    method: Literal["PUT", "POST"] = "PUT"
    headers_file: Path | None = None
    ca_file: Path | None = None
    redact_env: Sequence[str] = ()


def _segment(text: str) -> str:
    return quote(text, safe="").replace(".", "%2E")


def _joined(scheme: str, host: str, path: str, query: str = "") -> str:
    # urlunsplit would remove the "//" of a URL without a host, unless it knows the scheme. A plain path has no scheme.
    return f"{scheme}://{host}{path}"[0 if scheme else 3 :] + (f"?{query}" if query else "")
