"""Counters and gauges in the Prometheus text format.

The format is small, and the usual client library costs 1.1 MB of memory in every workspace.
"""

import math
import re
import threading
from collections.abc import Callable
from typing import Final, Literal

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[str, ...]

_NAME: Final = re.compile(r"agentd_[a-z0-9_]+")
_LABEL: Final = re.compile(r"[a-z][a-z0-9_]*")


class Metric:
    """One metric family. `labels` are the label names; every call passes a value for each of them.

    Label values must come from short lists in the code, never from a peer, because each distinct value stays
    in memory. Every method raises `ValueError` if the call does not match the family, a bug of the caller.
    """

    def __init__(self, name: str, help_text: str, kind: Literal["counter", "gauge"], labels: Labels) -> None:
        if not _NAME.fullmatch(name) or not all(_LABEL.fullmatch(label) for label in labels):
            raise ValueError(f"metric {name} with labels {labels} does not match agentd_… in lower case")
        self.name = name
        self.help_text = help_text
        self.kind = kind
        self.labels = labels
        self._values: dict[Labels, float] = {} if labels else {(): 0.0}
        self._read: Callable[[], float] | None = None
        self._lock = threading.Lock()

    def inc(self, by: float = 1.0, /, **labels: str) -> None:
        key = self._key(labels)
        with self._lock:
            self._values[key] = self._values.get(key, 0.0) + by

    def set(self, value: float, **labels: str) -> None:
        if self.kind == "counter":
            raise ValueError(f"counter {self.name} cannot be set")
        key = self._key(labels)
        with self._lock:
            self._values[key] = value

    def read_from(self, read: Callable[[], float]) -> None:
        """Call `read` at each scrape instead of storing a value (only for gauges without labels)."""
        if self.labels or self.kind == "counter":
            raise ValueError(f"{self.name} must be a gauge without labels")
        self._read = read

    def render(self) -> list[str]:
        if self._read is not None:
            self.set(self._read())
        with self._lock:
            samples = sorted(self._values.items())
        # The text format escapes backslash and newline in a help text, and also the quote in a label value.
        help_text = self.help_text.replace("\\", "\\\\").replace("\n", "\\n")
        head = [f"# HELP {self.name} {help_text}", f"# TYPE {self.name} {self.kind}"]
        return head + [f"{self.name}{self._suffix(key)} {_number(value)}" for key, value in samples]

    def _key(self, labels: dict[str, str]) -> Labels:
        if set(labels) != set(self.labels):
            raise ValueError(f"{self.name} takes labels {self.labels}, not {tuple(labels)}")
        return tuple(labels[name] for name in self.labels)

    def _suffix(self, key: Labels) -> str:
        pairs = (f'{name}="{_escape(value)}"' for name, value in zip(self.labels, key, strict=True))
        return "{" + ",".join(pairs) + "}" if key else ""


class Registry:
    """All metric families of one daemon. Names start with `agentd_`; counters end in `_total`."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}

    def counter(self, name: str, help_text: str, *labels: str) -> Metric:
        if not name.endswith("_total"):
            raise ValueError(f"counter {name} must end in _total")
        return self._family(Metric(name, help_text, "counter", labels))

    def gauge(self, name: str, help_text: str, *labels: str) -> Metric:
        return self._family(Metric(name, help_text, "gauge", labels))

    def render(self) -> str:
        lines = [line for name in sorted(self._families) for line in self._families[name].render()]
        return "\n".join(lines) + "\n"

    def _family(self, metric: Metric) -> Metric:
        known = self._families.setdefault(metric.name, metric)
        if (known.kind, known.labels) != (metric.kind, metric.labels):
            raise ValueError(f"{metric.name} is already a {known.kind} with labels {known.labels}")
        return known


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else f"{value:.15g}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
