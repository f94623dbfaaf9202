"""Checks what belongs to each agent kind, destination, hook event, command and doctor check.

Configuration keys and metrics have their own tests. docs/contributing.md lists the files for each addition.
"""

import ast
import re
from pathlib import Path

import pytest
from agents.kinds import KINDS
from drawing.source import Source

from agentd import cli, config
from agentd.claims.lifecycle import ClaimState
from agentd.daemon.wiring import HOOK_EVENTS
from agentd.errors import ExitCode
from agentd.hooks.event_hooks import HookEvent
from agentd.snapshots.destinations.by_url import SCHEMES
from agentd.snapshots.receipts import DestinationOutcome

ROOT = Path(__file__).parents[1]
DOCS = {path.name: path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
README = (ROOT / "README.md").read_text("utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")
SOURCE = Source()
KEYS = config.keys()


def rows(text: str, header: str) -> list[str]:
    """The first cells of the table whose header row starts with `header`."""
    assert f"\n{header}" in text, f"no table with the header {header}"
    table = re.match(r".*\n((\|.*\n)*)", text.partition(f"\n{header}")[2])[1]
    return [line.split("|")[1].strip() for line in table.splitlines()[1:]]


# Agent kinds.


def test_every_package_of_agents_is_a_kind():
    assert KINDS["agentapi"] == "agentapi"
    packages = {
        name.split(".")[1]
        for name, path in SOURCE.paths.items()
        if name.startswith("agents.") and path.name == "__init__.py"
    }
    assert packages == set(KINDS), "a package without `kind = …` in its agent.py, or without __init__.py"


def imported_modules(path: Path) -> dict[str, str]:
    """Name → module, for each name that a file imports from a module."""
    tree = ast.parse(path.read_text("utf-8"))
    return {
        alias.asname or alias.name: str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize("package", KINDS)
def test_an_agent_kind_has_a_contract_test_class(package):
    path = ROOT / "tests" / "agents" / "test_contract.py"
    own = {
        name
        for name, module in imported_modules(path).items()
        if f"{module}.".startswith(f"agentd.agents.{package}.")
    }
    classes = [
        node
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef) and "AgentContract" in map(ast.unparse, node.bases)
    ]
    tested = [
        one.name for one in classes if {node.id for node in ast.walk(one) if isinstance(node, ast.Name)} & own
    ]
    assert tested, f"tests/agents/test_contract.py has no subclass of AgentContract that builds {package}"


@pytest.mark.parametrize("package", KINDS)
def test_an_agent_kind_is_built_by_discovery(package):
    assert f"agentd.agents.{package}" in SOURCE.text("agents.discovery")


@pytest.mark.parametrize("package", KINDS)
def test_an_agent_kind_imports_no_other_kind(package):
    others = [f"agentd.agents.{other}" for other in KINDS if other != package]
    own = [name for name in SOURCE.paths if name.startswith(f"agents.{package}")]
    assert [name for name in own if any(other in SOURCE.text(name) for other in others)] == []


@pytest.mark.parametrize("kind", KINDS.values())
def test_an_agent_kind_is_described(kind):
    headings = re.findall(r"^#+ (.*)$", DOCS["compatibility.md"], re.MULTILINE)
    names = [re.sub(r"\W", "", heading).lower() for heading in headings]
    assert kind.replace("-", "") in names, "no section in docs/compatibility.md"
    assert f"`{kind}`" in DOCS["status.md"], "not in docs/status.md"


# Destinations.


@pytest.mark.parametrize("scheme", sorted(SCHEMES.keys() - {"http"}))
def test_a_destination_is_described(scheme):
    names = rows(DOCS["snapshots.md"], "| destination |")
    assert [name for name in names if name.startswith(f"`{scheme}://")], "no row in docs/snapshots.md"


@pytest.mark.parametrize("scheme", sorted(SCHEMES.keys() - {"http"}))
def test_a_destination_is_in_the_description_of_its_key(scheme):
    [row] = [
        line
        for line in DOCS["configuration.md"].splitlines()
        if line.startswith("| `snapshots.destinations`")
    ]
    assert f"`{scheme}://`" in row, "not in docs/configuration.md"
    assert f"{scheme}://" in KEYS["snapshots.destinations"].doc, "not in agentd/config/schema.py"


def test_every_described_destination_exists():
    described = {
        name.strip("`").partition("://")[0] for name in rows(DOCS["snapshots.md"], "| destination |")
    }
    assert described == {"coder", *SCHEMES} - {"http"}
    named = set(re.findall(r"(\w+)://", KEYS["snapshots.destinations"].doc))
    assert named == SCHEMES.keys() - {"http"}


def test_every_destination_class_is_created_for_a_scheme():
    by_url = SOURCE.tree("snapshots.destinations.by_url")
    named = {node.id for node in ast.walk(by_url) if isinstance(node, ast.Name)}
    imported = imported_modules(SOURCE.paths["snapshots.destinations.by_url"])
    created = {module.rpartition(".")[2] for name, module in imported.items() if name in named}
    modules = set(SOURCE.implementations("Destination", "snapshots.destinations"))
    assert modules - created == {"coder"}, "not in SCHEMES of agentd/snapshots/destinations/by_url.py"


def test_every_destination_class_is_tested():
    tests = (ROOT / "tests" / "snapshots" / "test_destinations.py").read_text("utf-8")
    created = {
        create: [scheme for scheme in SCHEMES if SCHEMES[scheme] is create] for create in SCHEMES.values()
    }
    untested = [schemes for schemes in created.values() if not any(f"{one}://" in tests for one in schemes)]
    assert untested == [], "no test in tests/snapshots/test_destinations.py"


# Hook events.


@pytest.mark.parametrize("event", HookEvent)
def test_a_hook_event_is_described(event):
    assert f"`on-{event}.d/`" in rows(DOCS["status.md"], "| directory | event |"), "no row in docs/status.md"


def test_every_described_hook_event_exists():
    described = rows(DOCS["status.md"], "| directory | event |")
    assert set(described) - {"`on-claim.d/`"} == {f"`on-{event}.d/`" for event in HookEvent}


def test_every_hook_event_is_triggered():
    assert {*HOOK_EVENTS.values(), HookEvent.STOP} == set(HookEvent), (
        "not in HOOK_EVENTS of agentd/daemon/wiring.py"
    )


# Configuration keys.

OUTSIDE_OF_CONFIG = "\n".join(SOURCE.text(name) for name in SOURCE.paths if not name.startswith("config"))


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_read(key):
    assert re.search(rf"\.{key.rpartition('.')[2]}\b", OUTSIDE_OF_CONFIG), "no module uses it"


# Commands.


def test_every_module_with_a_command_line_is_a_command():
    modules = {
        name.removeprefix("cli.")
        for name in SOURCE.paths
        if name.startswith("cli.") and f"{name.removeprefix('cli.')}.configure" in SOURCE.functions
    }
    assert modules == set(cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_command_is_described(command):
    listed = " ".join(rows(README, "| command | what it does |"))
    assert f"`agentd {command}" in listed, "no row in README.md"
    pages = [text for name, text in DOCS.items() if name != "architecture.md"]
    assert any(f"agentd {command}" in text for text in pages), "in no page of docs/"


def test_every_described_command_exists():
    listed = " ".join(rows(README, "| command | what it does |"))
    assert set(re.findall(r"`agentd ([a-z]+)", listed)) == set(cli.COMMANDS)


# Exit codes.

EXIT_CODES = {int(code) for code in ExitCode}


def test_every_exit_code_is_described():
    sentence = re.search(r"^Exit codes: (.*?)\.$", README, re.MULTILINE | re.DOTALL)[1]
    assert {int(part.split()[0]) for part in sentence.split("·")} == EXIT_CODES
    [epilog] = [
        node.value.value
        for node in ast.walk(SOURCE.tree("cli"))
        if isinstance(node, ast.keyword) and node.arg == "epilog" and isinstance(node.value, ast.Constant)
    ]
    assert {int(code) for code in re.findall(r"\b\d+\b", epilog)} == EXIT_CODES


# Routes of the local API.


def routes() -> set[str]:
    """`METHOD /path` of each route that the local API adds."""
    return {
        f"{node.func.attr.upper()} {node.args[0].value}"
        for node in ast.walk(SOURCE.tree("local_api.server"))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("web.get", "web.post", "web.put", "web.patch", "web.delete")
        and isinstance(node.args[0], ast.Constant)
    }


ROUTES = sorted(routes())


def test_the_routes_are_found():
    assert {"GET /v1/status", "POST /v1/stop", "DELETE /v1/claims/{id}"} <= set(ROUTES)


def test_every_route_is_described():
    described = rows(DOCS["operations.md"], "| route | answer |")
    assert sorted(name.strip("`") for name in described) == ROUTES


# Log events.


def log_events() -> dict[str, set[str]]:
    """Each dotted event that a module logs → the names of the methods that log it."""
    found: dict[str, set[str]] = {}
    for module in SOURCE.paths:
        if module.startswith("simulator"):
            continue
        for node in ast.walk(SOURCE.tree(module)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr not in LOGGERS:
                continue
            for text in (text for argument in node.args for text in strings(argument)):
                if re.fullmatch(r"[a-z_]+\.[a-z_]+", text):
                    found.setdefault(text, set()).add(node.func.attr)
    return found


# The events whose second part is a state or an outcome.
COMPUTED = {f"claim.{state}" for state in ClaimState} | {
    f"snapshot.{outcome}" for outcome in DestinationOutcome
}
LOGGERS = {"debug", "info", "warning", "error", "exception", "log", "_log_once"}


def strings(node: ast.expr) -> set[str]:
    """The values that an expression may have: a text, or one of two texts."""
    match node:
        case ast.Constant(value=str() as text):
            return {text}
        case ast.IfExp(body=body, orelse=orelse):
            return strings(body) | strings(orelse)
    return set()


def test_every_error_in_the_log_is_described_and_every_described_event_is_logged():
    events = log_events()
    cells = rows(DOCS["operations.md"], "| event | meaning |")
    described = {name for cell in cells for name in re.findall(r"`([\w.]+)`", cell)}
    errors = {event for event, methods in events.items() if methods & {"error", "exception"}}
    assert sorted(errors - described) == [], "no row in docs/operations.md"
    assert sorted(described - events.keys() - COMPUTED - {"snapshot.delivery_failed"}) == [], (
        "in docs/operations.md, but never logged"
    )


# Doctor checks.


def doctor_checks() -> set[str]:
    """The names that the doctor's modules give to findings."""
    findings = (
        node
        for module in SOURCE.paths
        if module.startswith("doctor.")
        for node in ast.walk(SOURCE.tree(module))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("ok", "warn", "fail", "Finding")
    )
    return {name for finding in findings for name in strings(finding.args[0])} | set(KINDS.values())


CHECKS = sorted(doctor_checks())


def test_the_doctor_checks_are_found():
    assert {"config", "token", "state", "coderd", "hooks", "agentapi"} <= set(CHECKS)


def test_every_doctor_check_is_described():
    assert sorted(rows(DOCS["doctor.md"], "| check | what it checks |")) == CHECKS


# The changelog.

# Names that are older than the rule that the changelog names each addition. A name may leave the list, none may join it.
OLDER = """
    run stop status report snapshot claims doctor drill debug completion config install uninstall simulate
    demo coder.url coder.token coder.token_file coder.auth coder.agent_name coder.debug_address
    coder.metadata_url coder.ca_file coder.headers workspace.id agentapi.url agentapi.poll_interval_s
    agentapi.state_file agentapi.pid_file claims.enabled claims.hooks_dir claims.hook_timeout_s
    claims.max_attempts claims.on_interrupted claims.pass_token stability.settle_s stability.hook_timeout_s
    status.app_slug snapshots.task_id snapshots.max_messages snapshots.max_bytes snapshots.checkpoint_s
    snapshots.upload snapshots.destinations snapshots.http_method snapshots.http_headers_file
    snapshots.redact snapshots.redact_env snapshots.redact_patterns state.dir local_api.socket
    local_api.listen local_api.allowed_hosts shutdown.budget_s shutdown.grace_s shutdown.stop_agent
    log.level log.format on-stable.d on-busy.d on-stop.d https:// http:// file:// exec:// s3:// gs:// az://
    agentapi doctor:clock doctor:coderd doctor:config doctor:daemon doctor:grace
    doctor:hooks doctor:ledger doctor:reinit doctor:spool doctor:state doctor:task doctor:tls doctor:token
    agentd_info agentd_start_time_seconds agentd_last_run_cut_off agentd_state_writable agentd_claims_state
    agentd_claim_connections_total agentd_claim_events_total agentd_hook_runs_total
    agentd_occasion_hook_runs_total agentd_agent_reachable agentd_agent_idle agentd_app_status_sent_total
    agentd_app_status_dropped_total agentd_snapshot_writes_total agentd_snapshot_deliveries_total
    agentd_snapshot_pending agentd_snapshot_bytes
    GET:/healthz GET:/readyz GET:/metrics GET:/v1/status GET:/v1/claims GET:/v1/snapshot POST:/v1/snapshot
    POST:/v1/drill POST:/v1/stop POST:/v1/claims/{id}/retry DELETE:/v1/claims/{id}
    exit:0 exit:1 exit:64 exit:69 exit:73 exit:75 exit:78
"""


def public_names() -> dict[str, str]:
    """What people use by name → how the changelog writes it."""
    return {
        **{command: rf"`(agentd )?{command}\b" for command in cli.COMMANDS},
        **{key: rf"`{re.escape(key)}\b" for key in KEYS},
        **{f"on-{event}.d": rf"`on-{event}\.d" for event in HookEvent},
        **{f"{scheme}://": rf"`{scheme}://" for scheme in SCHEMES},
        **{kind: rf"(?i)\b{kind}\b" for kind in KINDS.values()},
        **{
            f"doctor:{check}": rf"`agentd doctor`.*`{check}`"
            for check in CHECKS
            if check not in KINDS.values()
        },
        **{
            metric: rf"`{metric}\b"
            for metric in (row.strip("`") for row in rows(DOCS["metrics.md"], "| metric | kind |"))
        },
        **{route.replace(" ", ":"): rf"`{re.escape(route)}(?!\w)" for route in ROUTES},
        **{f"exit:{code}": rf"exit code {code}\b" for code in EXIT_CODES},
    }


def test_the_changelog_names_every_addition():
    missing = {name for name, written in public_names().items() if not re.search(written, CHANGELOG)}
    assert sorted(missing - set(OLDER.split())) == [], "add a line to CHANGELOG.md"


# The instructions.


def test_the_files_and_tests_of_the_instructions_exist():
    text = DOCS["contributing.md"]
    files = set(re.findall(r"`((?:agentd|tests|docs)/[\w./]+|[\w.]+\.(?:md|toml))`", text))
    assert len(files) > 20
    placeholder = re.compile(r"NAME|KIND")
    assert [name for name in files if not placeholder.search(name) and not (ROOT / name).exists()] == []
    tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(tests) > 20
    missing = [
        name for file, name in tests if not re.search(rf"def {name}\b", (ROOT / file).read_text("utf-8"))
    ]
    assert missing == []


def test_the_make_targets_of_the_instructions_exist():
    named = set(re.findall(r"`make ([\w-]+)`", DOCS["contributing.md"]))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert len(named) > 8
    assert named <= targets
