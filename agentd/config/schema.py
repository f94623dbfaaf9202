"""Every key of the configuration: its name, type, default, environment variables, range and help text."""

import typing
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from agentd.config import formats
from agentd.config.section import Key, Section, key
from agentd.errors import ConfigError

SNAPSHOT_MAX_BYTES: Final = 65_536  # coderd's taskSnapshotMaxSize: a body of exactly this size is accepted


class CoderSection(Section):
    url: str = key("", "Access URL of the Coder deployment.", env=("CODER_AGENT_URL",), format=formats.url)
    token: str = key(
        "", "Session token of the agent.", env=("CODER_AGENT_TOKEN",), format=formats.header_safe, secret=True
    )
    token_file: Path | None = key(
        None,
        "File that contains the session token; read again on 401 and SIGHUP."
        " Default: $CREDENTIALS_DIRECTORY/coder-agent-token.",
        env=("CODER_AGENT_TOKEN_FILE",),
    )
    auth: Literal["token", "aws-instance-identity", "azure-instance-identity", "google-instance-identity"] = (
        key(
            "token",
            "How the agent authenticates: a token, or the identity of the cloud instance.",
            env=("CODER_AGENT_AUTH",),
        )
    )
    agent_name: str = key(
        "", "Name of the agent, if one cloud instance has several agents.", env=("CODER_AGENT_NAME",)
    )
    debug_address: str = key(
        "127.0.0.1:2113",
        "HOST:PORT of the Coder agent's debug server, which returns the owner of the workspace.",
        env=("CODER_AGENT_DEBUG_ADDRESS",),
    )
    metadata_url: str = key(
        "http://169.254.169.254", "Metadata server of the cloud, for instance identity.", format=formats.url
    )
    ca_file: Path | None = key(
        None, "PEM file of CA certificates to trust in addition to those of the system."
    )
    client_cert_file: Path | None = key(
        None, "PEM file with the client certificate for coderd, and its chain."
    )
    client_key_file: Path | None = key(None, "PEM file with the key of the client certificate.")
    headers: tuple[str, ...] = key(
        (),
        "Extra headers `Name=value`, comma-separated; quote a value that contains a comma, as in CSV.",
        env=("CODER_AGENT_HEADER",),
        format=formats.header,
        csv=True,
        secret=True,
    )
    header_command: str = key(
        "",
        "Shell command that prints further extra headers, one Name=value per line.",
        env=("CODER_AGENT_HEADER_COMMAND",),
        secret=True,
    )


class WorkspaceSection(Section):
    id: str = key(
        "",
        "Id of the workspace; if unset, taken from the first claim event.",
        env=("CODER_WORKSPACE_ID",),
        format=formats.uuid,
    )


class AgentSection(Section):
    sources: tuple[str, ...] = key(
        ("auto",),
        "Agents to observe: `auto` (AgentAPI where it answers, and every agent found in agent.home), `none`,"
        " or a list of agentapi, claude-code, codex.",
        format=formats.agent_source,
    )
    home: Path = key(
        Path(), "Home directory of the user who runs the agent. Default: $HOME of agentd's user."
    )
    directory: Path | None = key(
        None, "The current session is one in or below this directory, if there is one."
    )
    poll_interval_s: float = key(
        1.0, "Seconds between two polls of the agent while its status can change.", low=0.05, high=60
    )


class AgentApiSection(Section):
    url: str = key("http://localhost:3284", "URL of AgentAPI.", format=formats.url)
    poll_interval_s: float = key(1.0, "Older name of agent.poll_interval_s.", low=0.05, high=60)
    state_file: Path | None = key(
        None,
        "State file of AgentAPI; the conversation is read from it if AgentAPI does not run.",
        env=("AGENTAPI_STATE_FILE",),
    )
    pid_file: Path | None = key(
        None, "Pid file of AgentAPI, for shutdown.stop_agent.", env=("AGENTAPI_PID_FILE",)
    )


class ClaimsSection(Section):
    enabled: bool = key(True, "Listen to the claim stream and run the hooks of a claim.")
    hooks_dir: Path = key(
        Path("/etc/agentd/hooks"),
        "Directory that contains on-claim.d/ and the directories of the other events.",
    )
    hook_timeout_s: float = key(
        300.0, "Seconds that a hook may run before its processes are terminated.", low=0.1, high=86_400
    )
    max_attempts: int = key(3, "Attempts of a failing hook.", low=1, high=100)
    on_interrupted: Literal["retry", "hold"] = key(
        "retry",
        "What agentd does with a hook that was running when agentd exited: `retry` at the next start,"
        " or `hold` until `agentd claims retry`.",
    )
    pass_token: bool = key(False, "Pass CODER_AGENT_TOKEN to hooks.")


class StabilitySection(Section):
    settle_s: float = key(5.0, "Seconds without a change before the agent counts as idle.", low=0, high=3600)
    hook_timeout_s: float = key(
        60.0,
        "Seconds that a hook of another event than a claim may run before it is terminated.",
        low=0.1,
        high=86_400,
    )


class StatusSection(Section):
    app_slug: str = key("", "Slug of the app whose status agentd reports to coderd; empty: no reports.")
    working_max_s: float = key(
        3600.0,
        "Seconds without a changed message after which a working agent no longer extends the workspace's deadline.",
        low=0,
        high=604_800,
    )


class SnapshotsSection(Section):
    task_id: str = key("", "Id of the Coder task; empty: no upload to coderd.", format=formats.uuid)
    max_messages: int = key(10, "Number of newest messages in a snapshot.", low=1, high=1000)
    max_bytes: int = key(
        SNAPSHOT_MAX_BYTES, "Largest size of a snapshot in bytes of JSON.", low=256, high=SNAPSHOT_MAX_BYTES
    )
    checkpoint_s: float = key(
        5.0,
        "While messages change, the snapshot on disk is at most this many seconds old.",
        low=0.1,
        high=3600,
    )
    upload: Literal["settle", "stop"] = key(
        "settle",
        "`settle`: upload when the agent becomes stable (at most every 30 s) and at stop; `stop`: at stop.",
    )
    destinations: tuple[str, ...] = key(
        ("coder",),
        "Destinations of snapshots: `coder`, or URLs (https://, file://, exec://, s3://, gs://, az://).",
        format=formats.destination,
        unique=True,
    )
    http_method: Literal["PUT", "POST"] = key("PUT", "HTTP method for https:// destinations.")
    http_headers_file: Path | None = key(
        None, "File with extra headers for https:// destinations, one `Name: value` per line."
    )
    redact: bool = key(True, "Remove the agent token and other known secrets from snapshots.")
    redact_env: tuple[str, ...] = key(
        (), "Names of environment variables whose values are removed from snapshots.", format=formats.variable
    )
    redact_patterns: tuple[str, ...] = key(
        (), "Regular expressions; their matches are removed from snapshots.", format=formats.pattern, csv=True
    )


class StateSection(Section):
    dir: Path = key(
        Path(),
        "State directory. Default: $STATE_DIRECTORY, $XDG_STATE_HOME/agentd or ~/.local/state/agentd;"
        " for root /var/lib/agentd.",
    )


class LocalApiSection(Section):
    socket: Path = key(
        Path(), "Unix socket of the local API. Default: agentd.sock in $RUNTIME_DIRECTORY, else in state.dir."
    )
    listen: str = key(
        "",
        "127.0.0.1:PORT to serve the local API and a web page on TCP as well; empty: no TCP.",
        format=formats.listen_address,
    )
    allowed_hosts: tuple[str, ...] = key(
        (),
        "Host names of proxies that may forward requests to local_api.listen, such as coder.example.com.",
        format=formats.host,
    )


class ShutdownSection(Section):
    budget_s: float = key(
        8.0, "Seconds that the whole shutdown may take, from the first signal.", low=0.5, high=3600
    )
    grace_s: float = key(
        0.0,
        "Seconds between SIGTERM and SIGKILL, if systemd does not report them; 0: unknown.",
        low=0,
        high=86_400,
    )
    stop_agent: bool = key(
        False,
        "At stop, when the snapshot is on disk, let AgentAPI save its state and exit (agentapi.pid_file).",
    )


class LogSection(Section):
    level: Literal["debug", "info", "warning", "error"] = key("info", "Lowest level that is logged.")
    format: Literal["auto", "json", "console"] = key(
        "auto", "`json` lines, readable `console` lines, or `auto`: console on a terminal, JSON elsewhere."
    )


class Config(NamedTuple):
    """The effective configuration. `origins` has the source of each value, by `section.key`."""

    coder: CoderSection = CoderSection()
    workspace: WorkspaceSection = WorkspaceSection()
    agent: AgentSection = AgentSection()
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

    def value(self, name: str) -> Any:  # noqa: ANN401 - the key decides the type
        """The value of the key `name` (`section.key`)."""
        section, field = name.split(".")
        return getattr(getattr(self, section), field)

    def differences(self, other: "Config") -> set[str]:
        """The keys (`section.key`) whose values differ."""
        return {name for name in keys() if self.value(name) != other.value(name)}

    def require_coder(self) -> None:
        """Raise `ConfigError` unless there is a Coder URL and a source of a token."""
        if not self.coder.url:
            raise ConfigError("coder.url: missing", hint="set CODER_AGENT_URL or [coder] url")
        if self.coder.client_key_file is not None and self.coder.client_cert_file is None:
            raise ConfigError(
                "coder.client_cert_file: missing", hint="coder.client_key_file is the key of its certificate"
            )
        if self.coder.auth == "token" and not self.coder.token and self.coder.token_file is None:
            raise ConfigError(
                "coder.token: missing",
                hint="set CODER_AGENT_TOKEN, or CODER_AGENT_TOKEN_FILE to a file that contains the token",
            )


def sections() -> dict[str, type[Section]]:
    """Every section by name, in the order of the documentation."""
    return {name: type(section) for name, section in Config()._asdict().items() if name != "origins"}


def keys() -> dict[str, Key]:
    """Every key by `section.key`, in the order of the documentation."""
    found = {}
    for section, kind in sections().items():
        hints = typing.get_type_hints(kind)
        for field, declared in kind.declared.items():
            name = f"{section}.{field}"
            env = (*declared.env, "AGENTD_" + name.upper().replace(".", "_"))
            found[name] = declared._replace(name=name, annotation=hints[field], env=env)
    return found
