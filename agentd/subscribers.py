"""Who is called when something happens. `daemon/wiring.py` has one line for each subscription."""

from collections.abc import Callable
from typing import Generic, TypeVar

from agentd import log

_T = TypeVar("_T")


class Subscribers(Generic[_T]):
    """An ordered list of callables with one argument. They are called synchronously and must be quick."""

    def __init__(self) -> None:
        self._calls: list[Callable[[_T], object]] = []

    def add(self, call: Callable[[_T], object]) -> None:
        """Call `call` with each value from now on, after those that were added before."""
        self._calls.append(call)

    def notify(self, value: _T) -> None:
        """Call them all, in the order in which they were added. An exception of one is logged; the others are called."""
        for call in self._calls:
            try:
                call(value)
            except Exception as exc:  # noqa: BLE001 - a defect of one subscriber must not reach the others; it is logged
                log.get("daemon").error("agentd.subscriber_failed", subscriber=repr(call), exc_info=exc)
