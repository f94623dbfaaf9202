"""Finds, reads and validates scenario files. The format is docs/scenarios.md."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from agentd.simulator.agentapi import script
from agentd.simulator.faults import SimulatorError
from agentd.simulator.scenario import actions, subjects
from agentd.simulator.scenario.definition import (
    SHIPPED,
    VERBS,
    WITHIN_S,
    Scenario,
    ScenarioError,
    ScenarioStep,
)

_TOP: Final = {
    "title": str,
    "about": str,
    "coderd": dict,
    "agent": dict,
    "daemon": dict,
    "hooks": dict,
    "step": list,
}
_CODERD: Final = {
    "era": str,
    "build_version": str,
    "ping_s": (int, float),
    "flush": str,
    "rate_limit": int,
    "enable_tasks": bool,
    "hold_builds": bool,
    "workspace": str,
    "manifest": bool,
}
_AGENT: Final = {
    "mode": str,
    "version": str,
    "agent_type": str,
    "messages": list,
    "script": list,
    "echo_s": (int, float),
}
_DAEMON: Final = {"args": list, "env": dict}
_TIMING: Final = frozenset({"say", "after_s", "within_s"})


def shipped() -> list[Path]:
    """The scenarios that come with agentd, sorted by name."""
    return sorted(SHIPPED.glob("*.toml"))


def find(name: str) -> Path:
    """The shipped scenario `name`, or the file at that path. Raises `ScenarioError` if neither exists."""
    path = SHIPPED / f"{name}.toml"
    if "/" not in name and path.is_file():
        return path
    if Path(name).is_file():
        return Path(name)
    raise ScenarioError(f"no scenario {name!r}", hint="`agentd simulate list` prints the shipped ones")


def load(path: Path) -> Scenario:
    """Read and validate `path`. Raises `ScenarioError`."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ScenarioError(f"{path}: {exc}") from None
    try:
        return _scenario(path.stem, given)
    except SimulatorError as exc:
        raise ScenarioError(f"{path}: {exc.message}", hint=exc.hint) from None


def _scenario(name: str, given: dict[str, Any]) -> Scenario:
    _check("", given, _TOP)
    for section, known in (("coderd", _CODERD), ("agent", _AGENT), ("daemon", _DAEMON)):
        _check(section, given.get(section, {}), known)
    if not given.get("title"):
        raise ScenarioError("title: missing")
    workspace = given.get("coderd", {}).get("workspace", "prebuild")
    if workspace not in ("prebuild", "regular"):
        raise ScenarioError(f"coderd.workspace: unknown value {workspace!r}", hint="use prebuild or regular")
    script.check(given.get("agent", {}).get("script", []))
    daemon = given.get("daemon", {})
    steps = tuple(_steps(given.get("step", [])))
    if not any(step.verb != "do" for step in steps):
        raise ScenarioError("the scenario checks nothing", hint="add a [[step]] with wait or expect")
    return Scenario(
        name,
        given["title"],
        given.get("about", "").strip(),
        given.get("coderd", {}),
        given.get("agent", {}),
        tuple(_text("daemon.args", value) for value in daemon.get("args", [])),
        {key: _text(f"daemon.env.{key}", value) for key, value in daemon.get("env", {}).items()},
        {key: _text(f"hooks.{key}", value) for key, value in given.get("hooks", {}).items()},
        steps,
    )


def _steps(given: list[Any]) -> Iterator[ScenarioStep]:
    for number, table in enumerate(given, 1):
        where = f"step {number}"
        if not isinstance(table, dict):
            raise ScenarioError(f"{where}: {table!r} is not a table")
        verbs = [verb for verb in VERBS if verb in table]
        if len(verbs) != 1:
            raise ScenarioError(f"{where}: exactly one of do, wait and expect is required")
        verb = verbs[0]
        what = _text(f"{where}: {verb}", table[verb])
        kind, known = ("action", actions.names()) if verb == "do" else ("subject", subjects.names())
        if what not in known:
            raise ScenarioError(
                f"{where}: unknown {kind} {what!r}", hint=f"known: {', '.join(sorted(known))}"
            )
        fields = {key: value for key, value in table.items() if key not in _TIMING and key != verb}
        yield ScenarioStep(
            number,
            verb,
            what,
            fields,
            _text(f"{where}: say", table.get("say", "")),
            _seconds(f"{where}: after_s", table.get("after_s", 0.0)),
            _seconds(f"{where}: within_s", table.get("within_s", WITHIN_S)),
        )


def _check(section: str, given: dict[str, Any], known: Mapping[str, Any]) -> None:
    """Raises `ScenarioError` for an unknown key or a value of the wrong type."""
    for key, value in given.items():
        name = f"{section}.{key}" if section else key
        if key not in known:
            raise ScenarioError(f"{name}: unknown key", hint=f"known here: {', '.join(known)}")
        if not isinstance(value, known[key]) or (isinstance(value, bool) and known[key] is not bool):
            raise ScenarioError(f"{name}: {value!r} has the wrong type")


def _text(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise ScenarioError(f"{where}: {value!r} is not a string")
    return value


def _seconds(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ScenarioError(f"{where}: {value!r} is not a number of seconds")
    return float(value)
