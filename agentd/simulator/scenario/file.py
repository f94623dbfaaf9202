"""A scenario file: read, checked against what a scenario can say, and frozen. The format is docs/scenarios.md."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from agentd.simulator.agentapi import script
from agentd.simulator.faults import SimulatorError

Verb: TypeAlias = Literal["do", "wait", "expect"]
VERBS: tuple[Verb, ...] = ("do", "wait", "expect")
WITHIN_S = 20.0
"""What a wait is given: only what hangs takes this long."""
SHIPPED = Path(__file__).parent.parent / "scenarios"

_TOP = {
    "title": str,
    "about": str,
    "coderd": dict,
    "agent": dict,
    "daemon": dict,
    "hooks": dict,
    "step": list,
}
_CODERD = {
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
_AGENT = {
    "mode": str,
    "version": str,
    "agent_type": str,
    "messages": list,
    "script": list,
    "echo_s": (int, float),
}
_DAEMON = {"args": list, "env": dict}
_TIMING = frozenset({"say", "after_s", "within_s"})


class ScenarioError(SimulatorError):
    """The file is no scenario: which file, where in it, and what was expected."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is done, waited for or expected. `fields` are its parameters or what it wants."""

    number: int
    verb: Verb
    what: str
    fields: Mapping[str, Any]
    say: str = ""
    after_s: float = 0.0
    within_s: float = WITHIN_S

    def __str__(self) -> str:
        wants = ", ".join(f"{name} = {value!r}" for name, value in self.fields.items())
        return f"{self.verb} {self.what}" + (f" ({wants})" if wants else "")


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a file says. `name` is the file's, without its ending."""

    name: str
    title: str
    about: str
    coderd: Mapping[str, Any]
    agent: Mapping[str, Any]
    daemon_args: tuple[str, ...]
    daemon_env: Mapping[str, str]
    hooks: Mapping[str, str]
    steps: tuple[Step, ...]


def shipped() -> list[Path]:
    """The scenarios that come with agentd, by name."""
    return sorted(SHIPPED.glob("*.toml"))


def find(name: str) -> Path:
    """A file by its path, or a shipped one by its name. Raises `ScenarioError` when there is neither."""
    path = SHIPPED / f"{name}.toml"
    if "/" not in name and path.is_file():
        return path
    if Path(name).is_file():
        return Path(name)
    raise ScenarioError(f"no scenario {name!r}", hint="`agentd simulate list` names those that are shipped")


def load(path: Path) -> Scenario:
    """Read and check `path`. Raises `ScenarioError`."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as wrong:
        raise ScenarioError(f"{path}: {wrong}") from None
    try:
        return _scenario(path.stem, given)
    except SimulatorError as wrong:
        raise ScenarioError(f"{path}: {wrong.message}", hint=wrong.hint) from None


def _scenario(name: str, given: dict[str, Any]) -> Scenario:
    _check("", given, _TOP)
    for section, known in (("coderd", _CODERD), ("agent", _AGENT), ("daemon", _DAEMON)):
        _check(section, given.get(section, {}), known)
    if not given.get("title"):
        raise ScenarioError("title: missing")
    workspace = given.get("coderd", {}).get("workspace", "prebuild")
    if workspace not in ("prebuild", "regular"):
        raise ScenarioError(f"coderd.workspace: {workspace!r}", hint="prebuild or regular")
    script.check(given.get("agent", {}).get("script", []))
    daemon = given.get("daemon", {})
    steps = tuple(_steps(given.get("step", [])))
    if not any(step.verb != "do" for step in steps):
        raise ScenarioError("a scenario expects something", hint="add a [[step]] with wait or expect")
    return Scenario(
        name,
        given["title"],
        given.get("about", "").strip(),
        given.get("coderd", {}),
        given.get("agent", {}),
        tuple(_texts("daemon.args", daemon.get("args", []))),
        {key: _text(f"daemon.env.{key}", value) for key, value in daemon.get("env", {}).items()},
        {key: _text(f"hooks.{key}", value) for key, value in given.get("hooks", {}).items()},
        steps,
    )


def _steps(given: list[Any]) -> Iterator[Step]:
    # Here and not above: what can be done and looked at imports the peers.
    from agentd.simulator.scenario import actions, subjects  # noqa: PLC0415 - they import this module's errors

    for number, table in enumerate(given, 1):
        where = f"step {number}"
        if not isinstance(table, dict):
            raise ScenarioError(f"{where}: a table was expected")
        verbs = [verb for verb in VERBS if verb in table]
        if len(verbs) != 1:
            raise ScenarioError(f"{where}: exactly one of do, wait and expect was expected")
        verb = verbs[0]
        what = _text(f"{where}: {verb}", table[verb])
        known = actions.names() if verb == "do" else subjects.names()
        if what not in known:
            raise ScenarioError(f"{where}: cannot {verb} {what!r}", hint=f"known: {', '.join(sorted(known))}")
        fields = {key: value for key, value in table.items() if key not in _TIMING and key != verb}
        yield Step(
            number,
            verb,
            what,
            fields,
            _text(f"{where}: say", table.get("say", "")),
            _seconds(f"{where}: after_s", table.get("after_s", 0.0)),
            _seconds(f"{where}: within_s", table.get("within_s", WITHIN_S)),
        )


def _check(section: str, given: dict[str, Any], known: Mapping[str, Any]) -> None:
    for key, value in given.items():
        name = f"{section}.{key}" if section else key
        if key not in known:
            raise ScenarioError(f"{name}: unknown", hint=f"known here: {', '.join(known)}")
        if not isinstance(value, known[key]) or (isinstance(value, bool) and known[key] is not bool):
            raise ScenarioError(f"{name}: {value!r} is of the wrong type")


def _text(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise ScenarioError(f"{where}: a text was expected, not {value!r}")
    return value


def _texts(where: str, values: list[object]) -> Iterator[str]:
    for value in values:
        yield _text(where, value)


def _seconds(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ScenarioError(f"{where}: a number of seconds was expected, not {value!r}")
    return float(value)
