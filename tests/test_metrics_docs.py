"""Every metric is documented; alerts and dashboard use only metrics that exist."""

import json
import re
from pathlib import Path

import promql_parser
import pytest
import yaml

from agentd import config
from agentd.clock import Clock
from agentd.daemon.build import build
from agentd.daemon.run import Daemon
from agentd.sdnotify import Notifier

ROOT = Path(__file__).parents[1]
RULES = ROOT / "deploy" / "monitoring" / "agentd.rules.yaml"
DASHBOARD = ROOT / "deploy" / "monitoring" / "agentd.dashboard.json"
NAME = re.compile(r"\bagentd_[a-z0-9_]+\b")
NOT_OURS = {"up"}


def documented():
    """Metric → (kind, labels) in docs/metrics.md."""
    text = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    table = text.partition("<!-- metrics -->")[2].partition("<!-- end -->")[0]
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in table.splitlines()
        if line.startswith("| `agentd_")
    ]
    return {name.strip("`"): (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows}


def in_code():
    """Metric → kind, from the source code."""
    made = re.compile(r"\.(counter|gauge)\(\s*\"(agentd_[a-z0-9_]+)\"")
    sources = (path.read_text("utf-8") for path in (ROOT / "agentd").rglob("*.py"))
    return {name: kind for text in sources for kind, name in made.findall(text)}


@pytest.fixture
async def registered(tmp_path):
    """Metric → (kind, labels) of a daemon with every component."""
    environ = {
        "HOME": str(tmp_path),
        "AGENTD_STATE_DIR": str(tmp_path / "state"),
        "CODER_AGENT_URL": "http://127.0.0.1:1",
        "CODER_AGENT_TOKEN": "11111111-1111-4111-8111-111111111111",
        "AGENTD_STATUS_APP_SLUG": "agentapi",
        "AGENTD_SNAPSHOTS_TASK_ID": "22222222-2222-4222-8222-222222222222",
    }
    settings = config.load(environ=environ)
    async with build(settings, Clock()) as components:
        Daemon(components, notifier=Notifier({}), read_config=lambda: settings)
        return {name: (family.kind, family.labels) for name, family in components.metrics._families.items()}


def test_the_document_lists_exactly_the_metrics_of_the_code():
    assert {name: kind for name, (kind, _labels) in documented().items()} == in_code()


async def test_the_document_has_the_labels_that_a_daemon_registers(registered):
    assert len(registered) >= 14
    assert {name: documented()[name] for name in registered} == registered


def expressions():
    """Each alert or panel, with its expression."""
    for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]
    for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", target["expr"]


EXPRESSIONS = list(expressions())


def selectors(node):
    """The vector selectors of a parsed expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("lhs", "rhs", "expr", "arg", "param", "vector_selector", "vs"):
        child = getattr(node, name, None)
        if child is not None:
            yield from selectors(child)
    for child in getattr(node, "args", None) or ():
        yield from selectors(child)


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_an_expression_parses_and_uses_metrics_and_labels_that_exist(where, expression):
    known = documented()
    found = list(selectors(promql_parser.parse(expression.replace("$__rate_interval", "5m"))))
    assert found
    for selector in found:
        if selector.name in NOT_OURS:
            continue
        assert selector.name in known
        labels = {matcher.name for matcher in selector.matchers.matchers}
        assert labels <= {*known[selector.name][1], "instance", "job"}


def test_every_metric_name_in_the_files_exists():
    for path in (RULES, DASHBOARD):
        assert set(NAME.findall(path.read_text("utf-8"))) <= set(documented())


def test_the_parsed_tree_contains_every_metric_name_of_the_text():
    for where, expression in EXPRESSIONS:
        parsed = promql_parser.parse(expression.replace("$__rate_interval", "5m"))
        names = [one.name for one in selectors(parsed) if one.name.startswith("agentd_")]
        assert sorted(names) == sorted(NAME.findall(expression)), where


def test_every_alert_has_a_severity_a_summary_and_a_description():
    rules = [rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 10
    for rule in rules:
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert all(len(text) > 20 for text in rule["annotations"].values())


def test_the_dashboard_has_the_form_that_grafana_imports():
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    panels = dashboard["panels"]
    assert dashboard["uid"] == "agentd"
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == {"datasource", "instance"}
    assert len({panel["id"] for panel in panels}) == len(panels)
    # Grafana moves a panel that overlaps another.
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _y in cells) < 24
