"""Reads the configuration. Precedence: flag > environment > file > default.

An unknown key is an error that names the nearest known key; otherwise a misspelt `task_id` is noticed only
after a conversation is lost.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from agentd.config.schema import Config, keys, sections
from agentd.config.section import Key
from agentd.config.values import parse
from agentd.errors import ConfigError

SYSTEM_FILE: Final = Path("/etc/agentd/agentd.toml")
FILE_MAX_BYTES: Final = 1 << 20

# Variables that agentd defines and that are not keys.
_NOT_SETTINGS: Final = {
    # The configuration file, the environment of a hook, and the tests' data.
    "AGENTD_CONFIG", "AGENTD_EVENT_ID", "AGENTD_ATTEMPT", "AGENTD_HOOK", "AGENTD_REASON", "AGENTD_OWNER_ID",
    "AGENTD_RUN_ID", "AGENTD_AGENT", "AGENTD_SESSION_ID", "AGENTD_TEST_DATA",
    # The environment of an exec:// destination, which may call agentd.
    "AGENTD_TASK_ID", "AGENTD_CAPTURED_AT", "AGENTD_MESSAGES", "AGENTD_SHA256",
}  # fmt: skip
# Kubernetes sets these in every pod of a namespace that has a Service named "agentd" or "agentd-…".
_KUBERNETES: Final = re.compile(
    r"AGENTD_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_SOURCES: Final = ("file", "environment", "flag")
"""In increasing precedence. The origin of a value starts with one of them."""

RawValues = dict[str, tuple[Any, str]]
"""Raw value and origin, by `section.key`."""


def load(
    *,
    file: Path | None = None,
    flags: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    system_file: Path = SYSTEM_FILE,
) -> Config:
    """Read and check the configuration. Raises `ConfigError` with the key, the value and what is allowed.

    `flags` are `section.key=value`. `file` (or `$AGENTD_CONFIG`) must exist; `system_file` need not.
    """
    env = os.environ if environ is None else environ
    known = keys()
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source in (
        _from_file(file, env, system_file, known),
        _from_environment(env, known),
        _from_flags(flags, known),
    ):
        for name, (raw, origin) in source.items():
            values[name] = parse(known[name], raw, origin)
            origins[name] = origin
    _keep_one_token(values, origins)
    _use_older_name(values, origins, "agentapi.poll_interval_s", "agent.poll_interval_s")
    _add_machine_defaults(values, origins, env)
    tables: dict[str, Any] = {
        section: kind(
            **{name.split(".")[1]: value for name, value in values.items() if name.startswith(f"{section}.")}
        )
        for section, kind in sections().items()
    }
    return Config(**tables, origins={name: origins.get(name, "default") for name in known})


def _from_file(
    file: Path | None, env: Mapping[str, str], system_file: Path, known: Mapping[str, Key]
) -> RawValues:
    chosen = file or (Path(env["AGENTD_CONFIG"]) if env.get("AGENTD_CONFIG") else None)
    path = chosen or system_file
    try:
        with path.open("rb") as opened:
            content = opened.read(FILE_MAX_BYTES + 1)
    except OSError as exc:
        if chosen is None and isinstance(exc, FileNotFoundError | NotADirectoryError):
            return {}
        raise ConfigError(
            f"configuration file {path} cannot be read: {exc.strerror}",
            hint="check --config or AGENTD_CONFIG, and that agentd's user may read the file",
        ) from exc
    if len(content) > FILE_MAX_BYTES:
        raise ConfigError(f"configuration file {path} is longer than {FILE_MAX_BYTES} bytes")
    found: RawValues = {}
    for section, table in _parse_toml(path, content).items():
        if section not in sections():
            raise _unknown(section, sections(), f"section in file {path}")
        if not isinstance(table, dict):
            raise ConfigError(
                f"{section}: is not a table in file {path}", hint=f"write [{section}] and its keys below it"
            )
        for key, raw in table.items():
            name = f"{section}.{key}"
            if name not in known:
                raise _unknown(name, known, f"key in file {path}")
            found[name] = (raw, f"file {path}")
    return found


def _parse_toml(path: Path, content: bytes) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - takes 3 ms, and most workspaces have no file

    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as exc:
        raise ConfigError(
            f"configuration file {path} is not UTF-8 text: {exc.reason} at byte {exc.start}"
        ) from exc
    except (ValueError, RecursionError) as exc:
        # tomllib raises a plain ValueError for a number with thousands of digits.
        raise ConfigError(f"configuration file {path} is not valid TOML: {exc}") from exc


def _from_environment(env: Mapping[str, str], known: Mapping[str, Key]) -> RawValues:
    by_env = {env_name: name for name, key in known.items() for env_name in key.env}
    for env_name in env:
        if env_name.startswith("AGENTD_") and not (
            env_name in by_env or env_name in _NOT_SETTINGS or _KUBERNETES.fullmatch(env_name)
        ):
            raise _unknown(env_name, by_env, "variable in the environment")
    found = {}
    for name, key in known.items():
        # An empty variable counts as unset, because scripts export `X=""` for a value that they do not have.
        for env_name in key.env:
            if env.get(env_name):
                found[name] = (env[env_name], f"environment {env_name}")
                break
    return found


def _from_flags(flags: Sequence[str], known: Mapping[str, Key]) -> RawValues:
    found = {}
    for flag in flags:
        name, equals, raw = flag.partition("=")
        if not equals:
            # The argument is not quoted: it may be a secret whose key is missing.
            raise ConfigError("--set: an argument has no value", hint="write --set section.key=value")
        if name not in known:
            raise _unknown(name, known, "key in --set")
        if known[name].secret:
            # Every local user can read the arguments of a process.
            raise ConfigError(
                f"{name}: secrets are not accepted on the command line (flag --set)",
                hint=f"set {known[name].env[0]}",
            )
        found[name] = (raw, "flag --set")
    return found


def _unknown(name: str, known: Iterable[str], what: str) -> ConfigError:
    # Escaped, because the file may contain any name. Truncated, because the search takes quadratic time.
    name = ascii(name)[1:-1][:80]
    known = list(known)
    # The right key in a wrong or missing section is nearer than a key with similar letters.
    field = name.removeprefix("AGENTD_").rpartition(".")[2]
    same_field = [other for other in known if other.endswith(field)]
    import difflib  # noqa: PLC0415 - only this error needs it

    nearest = difflib.get_close_matches(name, same_field or known, n=1, cutoff=0.0)[0]
    return ConfigError(f"{name}: unknown {what}", hint=f"did you mean {nearest}?")


def _keep_one_token(values: dict[str, Any], origins: dict[str, str]) -> None:
    """Keep the token or the token file, the one with the higher precedence; the token if that is equal."""
    names = ("coder.token", "coder.token_file")
    if not all(values.get(name) for name in names):
        return
    token, token_file = (_SOURCES.index(origins[name].split(" ")[0]) for name in names)
    dropped = "coder.token" if token < token_file else "coder.token_file"
    del values[dropped], origins[dropped]


def _use_older_name(values: dict[str, Any], origins: dict[str, str], older: str, name: str) -> None:
    """Give the key `name` the value of its older name, unless it has one."""
    if older in values and name not in values:
        values[name], origins[name] = values[older], origins[older]


def _add_machine_defaults(values: dict[str, Any], origins: dict[str, str], env: Mapping[str, str]) -> None:
    """Add the defaults that depend on the machine: token file, home, state directory and socket."""
    credentials = env.get("CREDENTIALS_DIRECTORY")
    if credentials and not values.get("coder.token") and not values.get("coder.token_file"):
        credential = Path(credentials, "coder-agent-token")
        # The unit provides a blank credential if there is no token file. It counts as unset, as a blank
        # variable does.
        if os.path.lexists(credential) and not _is_blank(credential):
            values["coder.token_file"] = credential
            origins["coder.token_file"] = "environment CREDENTIALS_DIRECTORY"
    if "agent.home" not in values:
        values["agent.home"], origins["agent.home"] = Path(env.get("HOME") or "/"), "default"
    if "state.dir" not in values:
        values["state.dir"], origins["state.dir"] = _default_state_dir(env)
    if "local_api.socket" not in values:
        runtime = _first_directory(env, "RUNTIME_DIRECTORY")
        values["local_api.socket"] = (runtime or values["state.dir"]) / "agentd.sock"
        origins["local_api.socket"] = "environment RUNTIME_DIRECTORY" if runtime else "default"


def _is_blank(path: Path) -> bool:
    try:
        return path.stat().st_size <= len("\n")
    except OSError:
        return False  # reading the token reports the error


def _default_state_dir(env: Mapping[str, str]) -> tuple[Path, str]:
    directory = _first_directory(env, "STATE_DIRECTORY")
    if directory:
        return directory, "environment STATE_DIRECTORY"
    # The XDG specification requires that a relative path is ignored.
    if env.get("XDG_STATE_HOME", "").startswith("/"):
        return Path(env["XDG_STATE_HOME"], "agentd"), "environment XDG_STATE_HOME"
    if os.geteuid() == 0:
        return Path("/var/lib/agentd"), "default"
    # A uid without a passwd entry (OpenShift) may have no home. Then opening the directory fails with a hint.
    return Path(env.get("HOME") or "/", ".local", "state", "agentd"), "default"


def _first_directory(env: Mapping[str, str], name: str) -> Path | None:
    # systemd separates several directories with colons.
    first = next((part for part in env.get(name, "").split(":") if part), "")
    return Path(first).absolute() if first else None
