import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metric_values import value_of

from agentd.metrics import Registry


def test_the_text_format_is_that_of_prometheus():
    registry = Registry()
    runs = registry.counter("agentd_hook_runs_total", "Hook runs.", "outcome")
    for _ in range(3):
        runs.inc(outcome="done")
    runs.inc(outcome="failed")
    registry.gauge("agentd_spool_bytes", "Size of the spool.").set(1234.5)
    registry.counter("agentd_events_total", "Events.")
    assert registry.render() == (
        "# HELP agentd_events_total Events.\n"
        "# TYPE agentd_events_total counter\n"
        "agentd_events_total 0\n"
        "# HELP agentd_hook_runs_total Hook runs.\n"
        "# TYPE agentd_hook_runs_total counter\n"
        'agentd_hook_runs_total{outcome="done"} 3\n'
        'agentd_hook_runs_total{outcome="failed"} 1\n'
        "# HELP agentd_spool_bytes Size of the spool.\n"
        "# TYPE agentd_spool_bytes gauge\n"
        "agentd_spool_bytes 1234.5\n"
    )


def test_registering_a_family_twice_returns_the_same():
    registry = Registry()
    registry.counter("agentd_x_total", "X.", "a").inc(a="1")
    registry.counter("agentd_x_total", "X.", "a").inc(a="1")
    assert value_of(registry, "agentd_x_total", a="1") == 2


def test_a_family_cannot_change_its_kind_or_labels():
    registry = Registry()
    registry.gauge("agentd_x", "X.", "a")
    with pytest.raises(ValueError, match=r"already a gauge with labels \('a',\)"):
        registry.gauge("agentd_x", "X.")


@pytest.mark.parametrize(
    "use",
    [
        lambda r: r.counter("agentd_x", "Without _total."),
        lambda r: r.counter("x_total", "Without the prefix."),
        lambda r: r.gauge("agentd_X", "Upper case."),
        lambda r: r.gauge("agentd_x", "A label with a dash.", "a-b"),
        lambda r: r.counter("agentd_x_total", "X.").set(1),
        lambda r: r.counter("agentd_x_total", "X.").read_from(lambda: 1),
        lambda r: r.gauge("agentd_x", "X.", "a").read_from(lambda: 1),
        lambda r: r.gauge("agentd_x", "X.", "a").set(1),
        lambda r: r.gauge("agentd_x", "X.", "a").inc(b="1"),
        lambda r: r.gauge("agentd_x", "X.").inc(a="1"),
    ],
)
def test_a_wrong_call_raises_an_error_with_the_name(use):
    with pytest.raises(ValueError, match=r"agentd_|x_total"):
        use(Registry())


def test_a_gauge_can_go_down_and_can_be_read_at_the_scrape():
    registry = Registry()
    gauge = registry.gauge("agentd_x", "X.")
    gauge.set(3)
    gauge.set(2)
    assert value_of(registry, "agentd_x") == 2
    now = [1.0]
    gauge.read_from(lambda: now[0])
    now[0] = 7.0
    assert value_of(registry, "agentd_x") == 7
    assert "\nagentd_x 7\n" in registry.render()


@pytest.mark.parametrize(
    ("value", "text"),
    [(float("inf"), "+Inf"), (float("-inf"), "-Inf"), (float("nan"), "NaN"), (1e20, "1e+20"), (0.1, "0.1")],
)
def test_numbers_are_formatted_as_prometheus_expects(value, text):
    registry = Registry()
    registry.gauge("agentd_x", "X.").set(value)
    assert registry.render().endswith(f"agentd_x {text}\n")


@given(st.text(), st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\\"\n')))
def test_help_texts_and_label_values_are_escaped(help_text, value):
    registry = Registry()
    registry.gauge("agentd_x", help_text, "a").set(1, a=value)
    head, kind, sample, end = registry.render().split("\n")
    assert head.startswith("# HELP agentd_x ")
    assert (kind, end) == ("# TYPE agentd_x gauge", "")
    found = re.fullmatch(r'agentd_x\{a="((?:[^"\\]|\\[\\n"])*)"\} 1', sample, re.DOTALL)
    assert re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), found[1]) == value


def test_increments_from_threads_are_all_counted():
    registry = Registry()
    counter = registry.counter("agentd_x_total", "X.", "a")

    def count() -> None:
        for _ in range(5_000):
            counter.inc(a="1")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value_of(registry, "agentd_x_total", a="1") == 20_000
