"""What the tables of the configuration are made of: typed, frozen, each key with its range and its explanation.

A dataclass would do, and does cost: a dozen of them take 5 ms of every start.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, NoReturn, Self, dataclass_transform


class Spec(NamedTuple):
    """What a key needs beyond its type: how it is called elsewhere, its range, and what to say about it."""

    doc: str
    env: tuple[str, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    kind: Literal[
        "plain",
        "url",
        "uuid",
        "secret",
        "listen",
        "headers",
        "destinations",
        "variables",
        "patterns",
        "hosts",
    ] = "plain"


class _Declared(NamedTuple):
    default: Any
    spec: Spec


def key(default: Any, doc: str, **spec: Any) -> Any:  # noqa: ANN401 - the key's own annotation is the type
    """Declare a key of a section; `spec` as in `Spec`."""
    return _Declared(default, Spec(doc, **spec))


@dataclass_transform(frozen_default=True, eq_default=False, kw_only_default=True)
class Section:
    """One table. Its keys are those declared with `key`; they are given by name and stay as they are.

    Sections compare by identity and do not print their values: one of them is the token.
    """

    specs: ClassVar[Mapping[str, Spec]]

    def __init_subclass__(cls) -> None:
        declared = {name: value for name, value in vars(cls).items() if isinstance(value, _Declared)}
        cls.specs = {name: value.spec for name, value in declared.items()}
        for name, value in declared.items():
            setattr(cls, name, value.default)

    def __init__(self, **values: Any) -> None:  # noqa: ANN401 - the keys' own annotations are the types
        """Keys that are not given have their defaults. Raises `TypeError` for a name that is no key."""
        for name in values:
            if name not in self.specs:
                raise TypeError(f"{type(self).__name__} has no key {name!r}")
        vars(self).update(values)

    def with_values(self, **values: Any) -> Self:  # noqa: ANN401 - as above
        """The same section with other values."""
        return type(self)(**{**vars(self), **values})

    def __setattr__(self, name: str, _value: object = None) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")

    __delattr__ = __setattr__
