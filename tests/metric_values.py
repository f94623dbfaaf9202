"""Reads a value from the text of the metrics, as a scrape does."""

from agentd.metrics import Registry


def value_of(metrics: Registry, name: str, **labels: str) -> float:
    """The value of the series, 0 if it is not in the text."""
    suffix = ",".join(f'{label}="{text}"' for label, text in labels.items())
    series = f"{name}{{{suffix}}} " if labels else f"{name} "
    found = [line for line in metrics.render().splitlines() if line.startswith(series)]
    return float(found[0].rpartition(" ")[2]) if found else 0.0
