"""Flags, environment and file become one checked `Config`.

Precedence: flag > environment > file > default. `[section] key` in the file is `AGENTD_SECTION_KEY` in the environment;
the names Coder itself sets (`CODER_AGENT_URL`, …) come first where there is one. An unknown key is an error that names
the nearest known one, because a misspelt `task_id` would otherwise show itself on the day the conversation is lost.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from agentd.config.schema import Config, Key, keys, sections
from agentd.config.values import parse
from agentd.errors import ConfigError

SYSTEM_FILE = Path("/etc/agentd/agentd.toml")
FILE_MAX_BYTES = 1 << 20

# Ours, but not settings: what hooks are told, the file's own name, and what tests read.
_NOT_SETTINGS: Final = {
    "AGENTD_CONFIG", "AGENTD_EVENT_ID", "AGENTD_ATTEMPT", "AGENTD_HOOK", "AGENTD_REASON", "AGENTD_OWNER_ID",
    "AGENTD_RUN_ID", "AGENTD_TEST_DATA",
    # And what a program that takes snapshots (exec://) is told: it may call agentd.
    "AGENTD_TASK_ID", "AGENTD_CAPTURED_AT", "AGENTD_MESSAGES", "AGENTD_SHA256",
}  # fmt: skip
# Kubernetes puts these into every pod that can see a Service named "agentd" or "agentd-…".
_KUBERNETES: Final = re.compile(
    r"AGENTD_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_STRENGTH: Final = ("file", "environment", "flag")

Found = dict[str, tuple[Any, str]]
"""Raw value and origin, by `section.key`."""


def load(
    *,
    file: Path | None = None,
    flags: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    system_file: Path = SYSTEM_FILE,
) -> Config:
    """Read flags (`section.key=value`), environment and file into one checked `Config`.

    `file` (or `$AGENTD_CONFIG`) must exist; `system_file` is read only where it exists. Raises `ConfigError` naming the
    key, the value and what would be right.
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
    _one_token(values, origins)
    _fill_places(values, origins, env)
    tables: dict[str, Any] = {
        section: kind(
            **{name.split(".")[1]: value for name, value in values.items() if name.startswith(f"{section}.")}
        )
        for section, kind in sections().items()
    }
    return Config(**tables, origins={name: origins.get(name, "default") for name in known})


def _from_file(
    file: Path | None, env: Mapping[str, str], system_file: Path, known: Mapping[str, Key]
) -> Found:
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
            hint="check --config or AGENTD_CONFIG, and that agentd's user may read it",
        ) from exc
    if len(content) > FILE_MAX_BYTES:
        raise ConfigError(f"configuration file {path} is longer than {FILE_MAX_BYTES} bytes")
    found: Found = {}
    for section, table in _document(path, content).items():
        if section not in sections():
            raise _unknown(section, sections(), f"section in file {path}")
        if not isinstance(table, dict):
            raise ConfigError(
                f"{section}: is not a table in file {path}", hint=f"write [{section}] and its keys below"
            )
        for key, raw in table.items():
            name = f"{section}.{key}"
            if name not in known:
                raise _unknown(name, known, f"key in file {path}")
            found[name] = (raw, f"file {path}")
    return found


def _document(path: Path, content: bytes) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - 3 ms, and most workspaces have no file

    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as exc:
        raise ConfigError(
            f"configuration file {path} is not UTF-8 text: {exc.reason} at byte {exc.start}"
        ) from exc
    except (ValueError, RecursionError) as exc:
        # tomllib lets the ValueError of a number with thousands of digits through as it is.
        raise ConfigError(f"configuration file {path} is not valid TOML: {exc}") from exc


def _from_environment(env: Mapping[str, str], known: Mapping[str, Key]) -> Found:
    by_env = {env_name: name for name, key in known.items() for env_name in key.env}
    for env_name in env:
        if env_name.startswith("AGENTD_") and not (
            env_name in by_env or env_name in _NOT_SETTINGS or _KUBERNETES.fullmatch(env_name)
        ):
            raise _unknown(env_name, by_env, "variable in the environment")
    found = {}
    for name, key in known.items():
        # An empty variable counts as unset: scripts export `X=""` when they have nothing to say.
        for env_name in key.env:
            if env.get(env_name):
                found[name] = (env[env_name], f"environment {env_name}")
                break
    return found


def _from_flags(flags: Sequence[str], known: Mapping[str, Key]) -> Found:
    found = {}
    for flag in flags:
        name, equals, raw = flag.partition("=")
        if not equals:
            # Not quoted: it may be a value, and a secret one, that lost its key.
            raise ConfigError("--set: an argument has no value", hint="write --set section.key=value")
        if name not in known:
            raise _unknown(name, known, "key in --set")
        if known[name].spec.kind in ("secret", "headers"):
            # Anyone on the machine can read a process's arguments.
            raise ConfigError(
                f"{name}: secrets are not taken from the command line (flag --set)",
                hint=f"set {known[name].env[0]}",
            )
        found[name] = (raw, "flag --set")
    return found


def _unknown(name: str, known: Iterable[str], what: str) -> ConfigError:
    # Bounded and escaped: a name comes from whoever wrote the file, and the nearest is searched in quadratic time.
    name = ascii(name)[1:-1][:80]
    known = list(known)
    # A right field in a wrong or forgotten section is nearer than what merely has similar letters.
    field = name.removeprefix("AGENTD_").rpartition(".")[2]
    same_field = [other for other in known if other.endswith(field)]
    import difflib  # noqa: PLC0415 - only a refusal needs it

    nearest = difflib.get_close_matches(name, same_field or known, n=1, cutoff=0.0)[0]
    return ConfigError(f"{name}: unknown {what}", hint=f"did you mean {nearest}?")


def _one_token(values: dict[str, Any], origins: dict[str, str]) -> None:
    """A token and a token file may come from different places; the stronger place wins, the token within one place."""
    if not values.get("coder.token") or not values.get("coder.token_file"):
        return
    strength = {
        name: _STRENGTH.index(origins[name].split(" ")[0]) for name in ("coder.token", "coder.token_file")
    }
    weaker = "coder.token" if strength["coder.token"] < strength["coder.token_file"] else "coder.token_file"
    del values[weaker], origins[weaker]


def _fill_places(values: dict[str, Any], origins: dict[str, str], env: Mapping[str, str]) -> None:
    """Places whose default depends on where we run."""
    credentials = env.get("CREDENTIALS_DIRECTORY")
    if credentials and not values.get("coder.token") and not values.get("coder.token_file"):
        credential = Path(credentials, "coder-agent-token")
        # A blank one is the unit's stand-in for a token file that is not there, and counts as unset like a blank variable.
        if os.path.lexists(credential) and not _blank(credential):
            values["coder.token_file"] = credential
            origins["coder.token_file"] = "environment CREDENTIALS_DIRECTORY"
    if "state.dir" not in values:
        values["state.dir"], origins["state.dir"] = _default_state_dir(env)
    if "local_api.socket" not in values:
        runtime = _first_directory(env, "RUNTIME_DIRECTORY")
        values["local_api.socket"] = (runtime or values["state.dir"]) / "agentd.sock"
        origins["local_api.socket"] = "environment RUNTIME_DIRECTORY" if runtime else "default"


def _blank(path: Path) -> bool:
    try:
        return path.stat().st_size <= len("\n")
    except OSError:
        return False  # whoever reads the token says what is wrong with it


def _default_state_dir(env: Mapping[str, str]) -> tuple[Path, str]:
    given = _first_directory(env, "STATE_DIRECTORY")
    if given:
        return given, "environment STATE_DIRECTORY"
    # The XDG specification wants a relative path ignored.
    if env.get("XDG_STATE_HOME", "").startswith("/"):
        return Path(env["XDG_STATE_HOME"], "agentd"), "environment XDG_STATE_HOME"
    if os.geteuid() == 0:
        return Path("/var/lib/agentd"), "default"
    # An arbitrary uid without a passwd entry (OpenShift) may have no home at all; opening the directory then says what
    # to set.
    return Path(env.get("HOME") or "/", ".local", "state", "agentd"), "default"


def _first_directory(env: Mapping[str, str], name: str) -> Path | None:
    # systemd lists several directories separated by colons; ours is the first.
    first = next((part for part in env.get(name, "").split(":") if part), "")
    return Path(first).absolute() if first else None
