"""Flags, environment and file become one checked `Config`.

Precedence: flag > environment > file > default. `[section] key` in the file is `AGENTD_SECTION_KEY` in the environment;
the names Coder itself sets (`CODER_AGENT_URL`, …) come first where there is one. An unknown key is an error that names
the nearest known one, because a misspelt `task_id` would otherwise show itself on the day the conversation is lost.
"""

import dataclasses
import difflib
import os
import re
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentd.config.schema import Config, Key, keys
from agentd.config.values import parse
from agentd.errors import ConfigError

SYSTEM_FILE = Path("/etc/agentd/agentd.toml")

# Ours, but not settings: what hooks are told, the file's own name, and what tests read.
_NOT_SETTINGS = {
    "AGENTD_CONFIG", "AGENTD_EVENT_ID", "AGENTD_ATTEMPT", "AGENTD_HOOK", "AGENTD_REASON", "AGENTD_OWNER_ID",
    "AGENTD_RUN_ID", "AGENTD_TEST_DATA",
}  # fmt: skip
# Kubernetes puts these into every pod that can see a Service named "agentd".
_KUBERNETES = re.compile(r"AGENTD_(SERVICE_(HOST|PORT).*|PORT(_\d+_.*)?)")


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

    def take(source: Mapping[str, tuple[Any, str]]) -> None:
        for name, (raw, origin) in source.items():
            values[name] = parse(known[name], raw, origin)
            origins[name] = origin

    take(_from_file(_chosen_file(file, env, system_file), known))
    take(_from_environment(env, known))
    take(_from_flags(flags, known))
    _fill_places(values, origins, env)
    _one_token(values, origins)
    sections = {}
    for section in dataclasses.fields(Config):
        if section.name != "origins":
            own = {n.split(".")[1]: v for n, v in values.items() if n.split(".")[0] == section.name}
            sections[section.name] = typing.cast("Any", section.type)(**own)
    return Config(**sections, origins={name: origins.get(name, "default") for name in known})


def _chosen_file(file: Path | None, env: Mapping[str, str], system_file: Path) -> Path | None:
    if file is not None:
        return file
    if env.get("AGENTD_CONFIG"):
        return Path(env["AGENTD_CONFIG"])
    return system_file if system_file.exists() else None


def _from_file(path: Path | None, known: Mapping[str, Key]) -> dict[str, tuple[Any, str]]:
    if path is None:
        return {}
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(
            f"configuration file {path} cannot be read: {exc.strerror}",
            hint="check --config or AGENTD_CONFIG",
        ) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"configuration file {path} is not valid TOML: {exc}") from exc
    found: dict[str, tuple[Any, str]] = {}
    for section, table in document.items():
        if not isinstance(table, dict):
            raise _unknown(section, known, f"file {path}")
        for key, raw in table.items():
            name = f"{section}.{key}"
            if name not in known:
                raise _unknown(name, known, f"file {path}")
            found[name] = (raw, f"file {path}")
    return found


def _from_environment(env: Mapping[str, str], known: Mapping[str, Key]) -> dict[str, tuple[Any, str]]:
    by_env = {env_name: name for name, key in known.items() for env_name in key.env}
    for env_name in env:
        if not env_name.startswith("AGENTD_") or env_name in by_env or env_name in _NOT_SETTINGS:
            continue
        if not _KUBERNETES.fullmatch(env_name):
            nearest = difflib.get_close_matches(env_name, by_env, n=1, cutoff=0.0)[0]
            raise ConfigError(f"environment {env_name}: unknown setting", hint=f"did you mean {nearest}?")
    found = {}
    for name, key in known.items():
        # An empty variable counts as unset: scripts export `X=""` when they have nothing to say.
        for env_name in key.env:
            if env.get(env_name):
                found[name] = (env[env_name], f"environment {env_name}")
                break
    return found


def _from_flags(flags: Sequence[str], known: Mapping[str, Key]) -> dict[str, tuple[Any, str]]:
    found = {}
    for flag in flags:
        name, equals, raw = flag.partition("=")
        if not equals:
            raise ConfigError(f"--set {flag}: has no value", hint="write --set section.key=value")
        if name not in known:
            raise _unknown(name, known, "--set")
        if known[name].spec.kind == "secret":
            # Anyone on the machine can read a process's arguments.
            raise ConfigError(
                f"--set {name}: secrets are not taken from the command line", hint=f"set {known[name].env[0]}"
            )
        found[name] = (raw, "flag --set")
    return found


def _unknown(name: str, known: Mapping[str, Key], where: str) -> ConfigError:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    return ConfigError(f"{name}: unknown key in {where}", hint=f"did you mean {nearest}?")


def _fill_places(values: dict[str, Any], origins: dict[str, str], env: Mapping[str, str]) -> None:
    """Places whose default depends on where we run."""
    credentials = env.get("CREDENTIALS_DIRECTORY")
    if credentials and "coder.token" not in values and "coder.token_file" not in values:
        credential = Path(credentials) / "coder-agent-token"
        if credential.exists():
            values["coder.token_file"] = credential
            origins["coder.token_file"] = "environment CREDENTIALS_DIRECTORY"
    if "state.dir" not in values:
        values["state.dir"], origins["state.dir"] = _default_state_dir(env)
    if "local_api.socket" not in values:
        runtime = env.get("RUNTIME_DIRECTORY", "").split(":")[0]
        values["local_api.socket"] = Path(runtime or values["state.dir"]) / "agentd.sock"
        origins["local_api.socket"] = "environment RUNTIME_DIRECTORY" if runtime else "default"


def _default_state_dir(env: Mapping[str, str]) -> tuple[Path, str]:
    # systemd may list several directories, separated by colons; ours is the first.
    if env.get("STATE_DIRECTORY"):
        return Path(env["STATE_DIRECTORY"].split(":")[0]), "environment STATE_DIRECTORY"
    if env.get("XDG_STATE_HOME"):
        return Path(env["XDG_STATE_HOME"]) / "agentd", "environment XDG_STATE_HOME"
    if os.geteuid() == 0:
        return Path("/var/lib/agentd"), "default"
    # An arbitrary uid without a passwd entry (OpenShift) may have no home at all.
    home = env.get("HOME") or "/"
    return Path(home) / ".local" / "state" / "agentd", "default"


_STRENGTH = ("file", "environment", "flag")


def _one_token(values: dict[str, Any], origins: dict[str, str]) -> None:
    """A token and a token file may come from different places; the stronger place wins, the token within one place."""
    if "coder.token" not in values or "coder.token_file" not in values:
        return
    strength = {
        name: _STRENGTH.index(origins[name].split(" ")[0]) for name in ("coder.token", "coder.token_file")
    }
    weaker = "coder.token" if strength["coder.token"] < strength["coder.token_file"] else "coder.token_file"
    del values[weaker], origins[weaker]
