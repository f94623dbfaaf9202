"""A scenario as a frozen value, and the directory of the shipped ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from agentd.simulator.faults import SimulatorError

Verb: TypeAlias = Literal["do", "wait", "expect"]
VERBS: Final[tuple[Verb, ...]] = ("do", "wait", "expect")
WITHIN_S: Final = 20.0
"""The default limit of a `wait` or a `do`. Only a hang reaches it."""
SHIPPED: Final = Path(__file__).parent.parent / "scenarios"


class ScenarioError(SimulatorError):
    """A scenario file is missing or invalid. The message has the file and the place in it."""


@dataclass(frozen=True, slots=True)
class ScenarioStep:
    """One `[[step]]`. `what` is an action (do) or a subject (wait, expect); `fields` are its parameters."""

    number: int
    verb: Verb
    what: str
    fields: Mapping[str, Any]
    say: str = ""
    after_s: float = 0.0
    within_s: float = WITHIN_S

    def __str__(self) -> str:
        fields = ", ".join(f"{name} = {value!r}" for name, value in self.fields.items())
        return f"{self.verb} {self.what}" + (f" ({fields})" if fields else "")


@dataclass(frozen=True, slots=True)
class Scenario:
    """The content of a scenario file. `name` is the file name without its suffix."""

    name: str
    title: str
    about: str
    coderd: Mapping[str, Any]
    agent: Mapping[str, Any]
    daemon_args: tuple[str, ...]
    daemon_env: Mapping[str, str]
    hooks: Mapping[str, str]
    steps: tuple[ScenarioStep, ...]
