"""Each fault has one finding with its cause and remedy, and no other check fails."""

import asyncio
from pathlib import Path

import pytest
from agents.kinds import KINDS
from doctor import certificates
from doctor.faults import FAULTS
from httpproxy import ForwardProxy

from agentd.doctor import checks
from agentd.doctor.finding import Finding, Level, fail
from agentd.simulator.coderd import SimulatedCoderd
from agentd.state_dir import StateDir

DOCUMENT = Path(__file__).parents[2] / "docs" / "doctor.md"
# The agent of these tests is an AgentAPI. The contract tests check the diagnosis of every kind.
OTHER_KINDS = set(KINDS.values()) - {"agentapi"}
EXPECTED_WARNINGS = {"daemon"}  # no daemon runs in these tests


def documented_checks():
    """The first column of the table of checks in docs/doctor.md."""
    table = DOCUMENT.read_text("utf-8").partition("| check | what it checks")[2].partition("\n\n")[0]
    return [line.split("|")[1].strip() for line in table.splitlines()[2:]]


async def test_an_installation_without_faults_has_only_the_warning_about_the_daemon(installation):
    findings = await installation.findings()
    assert [one.check for one in findings if one.level is not Level.OK] == ["daemon"]


async def test_the_document_lists_exactly_the_checks_in_order(installation):
    checked = [one.check for one in await installation.findings()]
    documented = [name for name in documented_checks() if name not in OTHER_KINDS]
    assert [name for name in documented if name != "tls"] == checked
    assert {fault.check.split()[0] for fault in FAULTS} == set(documented)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_fault_has_one_finding_with_its_cause_and_remedy(installation, fault):
    await fault.add(installation)
    findings = await installation.findings()
    [found] = [one for one in findings if one.check == fault.check]
    assert found.level.value == fault.level, found
    assert fault.cause in found.cause, found
    assert fault.remedy in found.remedy, found
    assert [one for one in findings if one.level is Level.FAIL and one is not found] == []
    unexpected = (
        {one.check for one in findings if one.level is Level.WARN} - EXPECTED_WARNINGS - {fault.check}
    )
    assert unexpected == set()


async def test_the_proxy_in_use_is_shown_without_its_password(installation, monkeypatch):
    async with ForwardProxy(
        {"coder.invalid": installation.coderd.port}, login=("me", "hunter2hunter2")
    ) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:hunter2hunter2@{proxy.address}")
        installation.environ["CODER_AGENT_URL"] = "http://coder.invalid"
        findings = {one.check: one for one in await installation.findings()}
    assert findings["proxy"].cause == f"coderd is reached by http://me:[hidden]@{proxy.address} (HTTP_PROXY)"
    assert {findings[name].level for name in ("proxy", "coderd", "token", "reinit", "task")} == {Level.OK}


async def test_a_finding_that_quotes_a_peer_is_one_line_without_secrets(installation):
    body = f'{{"message":"bad\\u001b[2J\\nok all is well {installation.workspace.token}"}}'
    installation.coderd.fail_next("log-snapshot", 403, body)
    [found] = [one for one in await installation.findings() if one.check == "task"]
    assert "all is well" in found.cause
    assert installation.workspace.token not in found.cause
    assert found.cause.isprintable()


async def test_the_checks_store_nothing_at_coderd_and_leave_no_file(installation):
    await installation.findings()
    assert installation.coderd.snapshots == {}
    assert list(installation.state_dir.iterdir()) == []


async def test_a_valid_certificate_of_the_configured_ca_is_ok(installation):
    ca_file = installation.home / "ca.pem"
    await installation.behind_tls(certificates.trusted(ca_file))
    installation.environ["AGENTD_CODER_CA_FILE"] = str(ca_file)
    assert {
        one.level for one in await installation.findings() if one.check in ("coderd", "token", "task")
    } == {Level.OK}


@pytest.mark.parametrize("era", ["E2", "E3", "E4"])
async def test_a_regular_workspace_is_ok(installation, era):
    coderd = await installation.stack.enter_async_context(SimulatedCoderd(era=era))
    workspace = coderd.add_workspace()
    installation.environ |= {
        "CODER_AGENT_URL": coderd.url,
        "CODER_AGENT_TOKEN": workspace.token,
        "AGENTD_SNAPSHOTS_TASK_ID": coderd.add_task(workspace),
    }
    findings = {one.check: one for one in await installation.findings()}
    assert findings["reinit"].level is Level.OK
    assert "not a prebuild" in findings["reinit"].cause
    assert findings["task"].level is Level.OK


async def test_a_claim_handled_by_an_earlier_build_is_ok(installation):
    installation.coderd.claim_start(installation.workspace)
    await installation.coderd.claim_finish(installation.workspace)
    installation.environ["CODER_AGENT_TOKEN"] = installation.coderd.start_build(installation.workspace)
    findings = {one.check: one for one in await installation.findings()}
    assert findings["reinit"].level is Level.OK
    assert "handled by an earlier build" in findings["reinit"].cause


@pytest.mark.parametrize("flush", ["lazy", "eager"])
async def test_an_accepted_stream_is_ok_with_early_and_late_headers(installation, flush):
    coderd = await installation.stack.enter_async_context(SimulatedCoderd(flush=flush))
    workspace = coderd.add_prebuild()
    installation.environ |= {"CODER_AGENT_URL": coderd.url, "CODER_AGENT_TOKEN": workspace.token}
    findings = {one.check: one for one in await installation.findings()}
    assert findings["reinit"].level is Level.OK
    assert "accepts" in findings["reinit"].cause


async def test_a_disabled_feature_is_ok_and_sends_no_request(installation):
    installation.environ |= {
        "AGENTD_CLAIMS_ENABLED": "false",
        "AGENTD_SNAPSHOTS_DESTINATIONS": f"file://{installation.home}/kept",
    }
    findings = {one.check: one for one in await installation.findings()}
    assert installation.coderd.calls("reinit") == []
    assert {findings[name].level for name in ("reinit", "task", "hooks")} == {Level.OK}


async def test_an_agent_that_delivers_a_message_is_a_warning(installation, monkeypatch):
    monkeypatch.setattr("agentd.agents.agentapi.client.STATUS_TIMEOUT_S", 0.1)
    installation.agent.hang()
    [found] = [one for one in await installation.findings() if one.check == "agentapi"]
    assert (found.level, "while it delivers a message" in found.cause) == (Level.WARN, True)


async def test_a_daemon_that_holds_the_lock_and_does_not_answer_is_a_failure(installation):
    with StateDir.open(installation.state_dir):
        findings = {one.check: one for one in await installation.findings()}
    assert findings["daemon"].level is Level.FAIL
    assert findings["state"].level is Level.OK


async def test_a_check_that_hangs_fails_and_does_not_delay_others(installation, monkeypatch):
    async def hang(_agent):
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(checks, "_check_agent", hang)
    monkeypatch.setattr(checks, "CHECK_TIMEOUT_S", 1.0)
    findings = {one.check: one for one in await installation.findings()}
    assert "timed out after 1 s" in findings["agentapi"].cause
    assert findings["agentapi"].remedy
    assert findings["coderd"].level is Level.OK


def test_a_finding_is_one_printable_line_of_limited_length():
    found = fail("x", "a\nb\x1b[31m\u2028" + "c" * 1000, "d\n e")
    assert found.cause.startswith("a b\\x1b[31m")
    assert len(found.cause) == 400
    assert found == Finding("x", Level.FAIL, found.cause, "d e")
