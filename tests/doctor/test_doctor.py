"""Each planted fault is named in one line that says what to do, and nothing else is found to be broken."""

import asyncio

import pytest
from doctor import certificates
from doctor.faults import FAULTS

from agentd.doctor import agent, examination
from agentd.doctor.finding import Finding, Level, fail
from agentd.simulator.coderd import SimulatedCoderd
from agentd.state_dir import StateDir

EXPECTED_WARNINGS = {"daemon"}  # none runs in these tests


async def test_an_installation_in_good_health_is_found_so(patient):
    findings = await patient.examined()
    assert [one.check for one in findings if one.level is not Level.OK] == ["daemon"]
    assert [one.check for one in findings] == [
        "config", "state", "ledger", "spool", "daemon", "grace",
        "coderd", "clock", "token", "reinit", "task", "agentapi", "hooks",
    ]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_planted_fault_is_named_in_one_line_that_says_what_to_do(patient, fault):
    await fault.plant(patient)
    findings = await patient.examined()
    [found] = [one for one in findings if one.check == fault.check]
    assert found.level.value == fault.level, found
    assert fault.words in found.cause, found
    assert fault.remedy in found.remedy, found
    assert [one for one in findings if one.level is Level.FAIL and one is not found] == []
    unexpected = (
        {one.check for one in findings if one.level is Level.WARN} - EXPECTED_WARNINGS - {fault.check}
    )
    assert unexpected == set()


async def test_nothing_a_peer_says_brings_a_secret_or_a_second_line_to_the_terminal(patient):
    said = f'{{"message":"bad\\u001b[2J\\nok all is well {patient.workspace.token}"}}'
    patient.coderd.fail_next("log-snapshot", 403, said)
    [found] = [one for one in await patient.examined() if one.check == "task"]
    assert "all is well" in found.cause
    assert patient.workspace.token not in found.cause
    assert found.cause.isprintable()


async def test_the_doctor_stores_nothing_at_coderd_and_leaves_nothing_on_disk(patient):
    await patient.examined()
    assert patient.coderd.snapshots == {}
    assert list(patient.state_dir.iterdir()) == []


async def test_a_good_certificate_of_the_configured_ca_is_fine(patient):
    ca_file = patient.home / "ca.pem"
    await patient.behind_tls(certificates.trusted(ca_file))
    patient.environ["AGENTD_CODER_CA_FILE"] = str(ca_file)
    assert {one.level for one in await patient.examined() if one.check in ("coderd", "token", "task")} == {
        Level.OK
    }


@pytest.mark.parametrize("era", ["E2", "E3", "E4"])
async def test_a_regular_workspace_is_fine(patient, era):
    coderd = await patient.stack.enter_async_context(SimulatedCoderd(era=era))
    workspace = coderd.add_workspace()
    patient.environ |= {
        "CODER_AGENT_URL": coderd.url,
        "CODER_AGENT_TOKEN": workspace.token,
        "AGENTD_SNAPSHOTS_TASK_ID": coderd.add_task(workspace),
    }
    findings = {one.check: one for one in await patient.examined()}
    assert findings["reinit"].level is Level.OK
    assert "no prebuild" in findings["reinit"].cause
    assert findings["task"].level is Level.OK


async def test_a_claim_handled_by_an_earlier_build_is_fine(patient):
    patient.coderd.claim_start(patient.workspace)
    await patient.coderd.claim_finish(patient.workspace)
    patient.environ["CODER_AGENT_TOKEN"] = patient.coderd.start_build(patient.workspace)
    findings = {one.check: one for one in await patient.examined()}
    assert findings["reinit"].level is Level.OK
    assert "handled by an earlier build" in findings["reinit"].cause


@pytest.mark.parametrize("flush", ["lazy", "eager"])
async def test_a_stream_that_is_accepted_is_fine_whenever_its_headers_come(patient, flush):
    coderd = await patient.stack.enter_async_context(SimulatedCoderd(flush=flush))
    workspace = coderd.add_prebuild()
    patient.environ |= {"CODER_AGENT_URL": coderd.url, "CODER_AGENT_TOKEN": workspace.token}
    findings = {one.check: one for one in await patient.examined()}
    assert findings["reinit"].level is Level.OK
    assert "accepts" in findings["reinit"].cause


async def test_what_is_switched_off_is_not_asked_for(patient):
    patient.environ |= {
        "AGENTD_CLAIMS_ENABLED": "false",
        "AGENTD_SNAPSHOTS_DESTINATIONS": f"file://{patient.home}/kept",
    }
    findings = {one.check: one for one in await patient.examined()}
    assert patient.coderd.calls("reinit") == []
    assert {findings[name].level for name in ("reinit", "task", "hooks")} == {Level.OK}


async def test_an_agent_in_the_middle_of_a_message_is_busy_and_not_broken(patient, monkeypatch):
    monkeypatch.setattr("agentd.agents.agentapi.client.STATUS_TIMEOUT_S", 0.1)
    patient.agent.hang()
    [found] = [one for one in await patient.examined() if one.check == "agentapi"]
    assert (found.level, "while it delivers a message" in found.cause) == (Level.WARN, True)


async def test_a_running_daemon_is_found_by_its_lock_and_its_answer(patient):
    with StateDir.open(patient.state_dir):
        findings = {one.check: one for one in await patient.examined()}
    assert findings["daemon"].level is Level.FAIL  # holds the lock and answers nowhere
    assert findings["state"].level is Level.OK


async def test_a_check_that_hangs_is_a_finding_and_holds_up_no_other(patient, monkeypatch):
    async def hang(_agent):
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(agent, "examine", hang)
    monkeypatch.setattr(examination, "CHECK_TIMEOUT_S", 1.0)
    findings = {one.check: one for one in await patient.examined()}
    assert "was not known within 1 s" in findings["agentapi"].cause
    assert findings["agentapi"].remedy
    assert findings["coderd"].level is Level.OK


def test_a_finding_is_one_line_whatever_it_is_made_of():
    found = fail("x", "a\nb\x1b[31m\u2028" + "c" * 1000, "d\n e")
    assert found.cause.startswith("a b\\x1b[31m")
    assert len(found.cause) == 400
    assert found == Finding("x", Level.FAIL, found.cause, "d e")
