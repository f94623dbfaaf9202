"""Every setting: its name, type, default, environment name, range and explanation, written once."""

import typing
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from agentd.config.section import Section, Spec, key
from agentd.errors import ConfigError

SNAPSHOT_MAX_BYTES = 65_536  # coderd's taskSnapshotMaxSize: a body of exactly this size is accepted


class CoderSection(Section):
    url: str = key("", "Access URL of the Coder deployment.", env=("CODER_AGENT_URL",), kind="url")
    token: str = key("", "The agent's session token.", env=("CODER_AGENT_TOKEN",), kind="secret")
    token_file: Path | None = key(
        None,
        "File holding the session token; read again on 401 and SIGHUP. Default: $CREDENTIALS_DIRECTORY/coder-agent-token.",
        env=("CODER_AGENT_TOKEN_FILE",),
    )
    auth: Literal["token", "aws-instance-identity", "azure-instance-identity", "google-instance-identity"] = (
        key("token", "How the agent proves who it is.", env=("CODER_AGENT_AUTH",))
    )
    agent_name: str = key("", "Agent name, when one instance has several agents.", env=("CODER_AGENT_NAME",))
    debug_address: str = key(
        "127.0.0.1:2113",
        "HOST:PORT of the Coder agent's debug server, which says whose workspace this is.",
        env=("CODER_AGENT_DEBUG_ADDRESS",),
    )
    metadata_url: str = key(
        "http://169.254.169.254", "Metadata server that proves an instance's identity.", kind="url"
    )
    ca_file: Path | None = key(None, "CA bundle (PEM) trusted in addition to the system's.")
    headers: tuple[str, ...] = key(
        (),
        "Extra request headers for a proxy in between: Name=value, separated by commas; quote as in CSV what holds one.",
        env=("CODER_AGENT_HEADER",),
        kind="headers",
    )


class WorkspaceSection(Section):
    id: str = key(
        "", "Workspace id; learnt from the first event when unset.", env=("CODER_WORKSPACE_ID",), kind="uuid"
    )


class AgentApiSection(Section):
    url: str = key("http://localhost:3284", "Where AgentAPI listens.", kind="url")
    poll_interval_s: float = key(
        1.0, "Seconds between looks at the agent's status near a change.", low=0.05, high=60
    )
    state_file: Path | None = key(
        None,
        "AgentAPI's own state file: where the conversation is read from when AgentAPI is gone.",
        env=("AGENTAPI_STATE_FILE",),
    )
    pid_file: Path | None = key(
        None, "AgentAPI's pid file, for shutdown.stop_agent.", env=("AGENTAPI_PID_FILE",)
    )


class ClaimsSection(Section):
    enabled: bool = key(True, "Hold the claim stream and act on claims.")
    hooks_dir: Path = key(Path("/etc/agentd/hooks"), "Folder of on-claim.d/ and its like.")
    hook_timeout_s: float = key(
        300.0, "Seconds a hook may take before its process group is ended.", low=0.1, high=86_400
    )
    max_attempts: int = key(3, "How often a failing hook is tried.", low=1, high=100)
    on_interrupted: Literal["retry", "hold"] = key(
        "retry",
        "What becomes of a hook that agentd's own end interrupted: tried again, or held for `agentd claims retry`.",
    )
    pass_token: bool = key(False, "Let hooks see CODER_AGENT_TOKEN.")


class StabilitySection(Section):
    settle_s: float = key(5.0, "Seconds of quiet before the agent counts as idle.", low=0, high=3600)
    hook_timeout_s: float = key(
        60.0,
        "Seconds a hook of on-stable.d, on-busy.d or on-stop.d may take before its process group is ended.",
        low=0.1,
        high=86_400,
    )


class StatusSection(Section):
    app_slug: str = key("", "Slug of the app whose status is reported to coderd; empty: no reports.")


class SnapshotsSection(Section):
    task_id: str = key("", "Id of the Coder task; empty: nothing is uploaded to it.", kind="uuid")
    max_messages: int = key(10, "Newest messages kept.", low=1, high=1000)
    max_bytes: int = key(
        SNAPSHOT_MAX_BYTES, "Size of a snapshot in encoded bytes.", low=256, high=SNAPSHOT_MAX_BYTES
    )
    checkpoint_s: float = key(
        5.0, "While messages change, the spool is at most this old.", low=0.1, high=3600
    )
    upload: Literal["settle", "stop"] = key(
        "settle", "Upload at each settle (at most every 30 s) and at stop, or only at stop."
    )
    destinations: tuple[str, ...] = key(
        ("coder",),
        "Where snapshots go: `coder`, or URLs (https://, file://, exec://, s3://, gs://, az://).",
        kind="destinations",
    )
    http_method: Literal["PUT", "POST"] = key("PUT", "Method for https:// destinations.")
    http_headers_file: Path | None = key(
        None, "File of extra headers (`Name: value` lines) for https:// destinations."
    )
    redact: bool = key(True, "Take the agent token and other known secrets out of snapshots.")
    redact_env: tuple[str, ...] = key(
        (),
        "Names of environment variables whose values are secrets to take out of snapshots.",
        kind="variables",
    )
    redact_patterns: tuple[str, ...] = key(
        (), "Regular expressions; what they match is taken out of snapshots.", kind="patterns"
    )


class StateSection(Section):
    dir: Path = key(
        Path(),
        "State directory. Default: $STATE_DIRECTORY, $XDG_STATE_HOME/agentd or ~/.local/state/agentd; root: /var/lib/agentd.",
    )


class LocalApiSection(Section):
    socket: Path = key(
        Path(),
        "Unix socket of the local API. Default: $RUNTIME_DIRECTORY/agentd.sock, else <state.dir>/agentd.sock.",
    )
    listen: str = key(
        "", "127.0.0.1:PORT to serve the local API and a page on TCP as well; empty: no TCP.", kind="listen"
    )
    allowed_hosts: tuple[str, ...] = key(
        (),
        "Hosts under which a proxy may pass requests on to local_api.listen, as a browser names them: coder.example.com.",
        kind="hosts",
    )


class ShutdownSection(Section):
    budget_s: float = key(
        8.0, "Seconds the whole shutdown may take, from the first signal.", low=0.5, high=3600
    )
    grace_s: float = key(
        0.0,
        "Seconds the runtime waits before it kills agentd, where systemd cannot tell; 0: not known.",
        low=0,
        high=86_400,
    )
    stop_agent: bool = key(
        False,
        "At stop, once the snapshot is safe, let AgentAPI save its state and end it (agentapi.pid_file).",
    )


class LogSection(Section):
    level: Literal["debug", "info", "warning", "error"] = key("info", "Lowest level printed.")
    format: Literal["auto", "json", "console"] = key(
        "auto", "JSON lines, console, or console on a terminal and JSON elsewhere."
    )


class Config(NamedTuple):
    """The effective configuration. `origins` says where each value came from, by `section.key`."""

    coder: CoderSection = CoderSection()
    workspace: WorkspaceSection = WorkspaceSection()
    agentapi: AgentApiSection = AgentApiSection()
    claims: ClaimsSection = ClaimsSection()
    stability: StabilitySection = StabilitySection()
    status: StatusSection = StatusSection()
    snapshots: SnapshotsSection = SnapshotsSection()
    state: StateSection = StateSection()
    local_api: LocalApiSection = LocalApiSection()
    shutdown: ShutdownSection = ShutdownSection()
    log: LogSection = LogSection()
    origins: Mapping[str, str] = MappingProxyType({})

    def differences(self, other: "Config") -> set[str]:
        """The `section.key`s whose values differ."""

        def value(config: "Config", name: str) -> object:
            section, field = name.split(".")
            return getattr(getattr(config, section), field)

        return {name for name in keys() if value(self, name) != value(other, name)}

    def require_coder(self) -> None:
        """Raise `ConfigError` unless there is a Coder URL and some way to a token."""
        if not self.coder.url:
            raise ConfigError("coder.url: missing", hint="set CODER_AGENT_URL or [coder] url")
        if self.coder.auth == "token" and not self.coder.token and self.coder.token_file is None:
            raise ConfigError(
                "coder.token: missing",
                hint="set CODER_AGENT_TOKEN, or CODER_AGENT_TOKEN_FILE to a file holding the token",
            )


class Key(NamedTuple):
    """One setting, as `keys()` lists them."""

    name: str
    annotation: Any
    default: Any
    spec: Spec

    @property
    def env(self) -> tuple[str, ...]:
        """Environment names, the strongest first."""
        return (*self.spec.env, "AGENTD_" + self.name.upper().replace(".", "_"))


def sections() -> dict[str, type[Section]]:
    """Every table of the configuration by name, in the order of the documentation."""
    return {name: type(section) for name, section in Config()._asdict().items() if name != "origins"}


def keys() -> dict[str, Key]:
    """Every setting by `section.key`, in the order of the documentation."""
    found = {}
    for section, kind in sections().items():
        hints = typing.get_type_hints(kind)
        for key_, spec in kind.specs.items():
            name = f"{section}.{key_}"
            found[name] = Key(name, hints[key_], getattr(kind, key_), spec)
    return found
