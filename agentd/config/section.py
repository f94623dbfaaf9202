"""Base class of the configuration's tables: immutable, with a type and a `Key` for each key.

Not dataclasses: the decorator takes 5 ms for a dozen of them, at every start.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, NoReturn, Self, dataclass_transform

from agentd.config import formats


class Key(NamedTuple):
    """One key, `section.key`. `config.keys()` returns all of them, with `name`, `annotation` and every `env`.

    `doc` is its help text. `env` are its environment variables, in decreasing precedence; `keys()` adds
    `AGENTD_SECTION_KEY` to the declared ones. `low` and `high` limit a number. `format` checks and normalizes
    a text, or each entry of a list. `csv` splits a string as CSV instead of at each comma, because entries may
    contain commas. `unique` refuses a list that has an entry twice. `secret` hides the value in every output.
    """

    default: Any
    doc: str
    env: tuple[str, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    format: Callable[[str], str] = formats.printable
    csv: bool = False
    unique: bool = False
    secret: bool = False
    name: str = ""
    annotation: Any = None


def key(default: Any, doc: str, **fields: Any) -> Any:  # noqa: ANN401 - the key's own annotation is the type
    """Declare a key of a section. `fields` are further fields of `Key`."""
    return Key(default, doc, **fields)


@dataclass_transform(frozen_default=True, eq_default=False, kw_only_default=True)
class Section:
    """One table. Its keys are declared with `key`, passed by name, and cannot be changed.

    Sections compare by identity and have no `repr` of their values, because one of them contains the token.
    """

    declared: ClassVar[Mapping[str, Key]]

    def __init_subclass__(cls) -> None:
        cls.declared = {name: value for name, value in vars(cls).items() if isinstance(value, Key)}
        for name, declared in cls.declared.items():
            setattr(cls, name, declared.default)

    def __init__(self, **values: Any) -> None:  # noqa: ANN401 - the keys' own annotations are the types
        """A key that is not passed has its default. Raises `TypeError` for an unknown name."""
        for name in values:
            if name not in self.declared:
                raise TypeError(f"{type(self).__name__} has no key {name!r}")
        vars(self).update(values)

    def with_values(self, **values: Any) -> Self:  # noqa: ANN401 - as above
        """A copy with other values for some keys."""
        return type(self)(**{**vars(self), **values})

    def __setattr__(self, name: str, _value: object = None) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")

    __delattr__ = __setattr__
