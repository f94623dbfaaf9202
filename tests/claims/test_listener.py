"""The claim side against the simulated coderd: every era, every state, every answer and fault."""

import asyncio
import gc
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from claims.conftest import UNSHORTENED_S
from fakeclock import FakeClock
from metric_values import value_of

from agentd import log
from agentd.claims import ledger_file, listener
from agentd.claims.events import ClaimEvent
from agentd.claims.ledger import Ledger
from agentd.claims.ledger_state import UnknownClaimError
from agentd.claims.lifecycle import ClaimState, IllegalClaimStepError
from agentd.clock import Clock
from agentd.coderd.token import FileToken
from agentd.simulator.coderd import SimulatedCoderd
from agentd.simulator.coderd.workspaces import Workspace


def coderd_of(era: str = "E3", **options: Any) -> SimulatedCoderd:
    return SimulatedCoderd(**{"era": era, "ping_s": 0.05, "rate_limit": 0, **options})


async def claimed(coderd: SimulatedCoderd, ws: Workspace) -> None:
    coderd.claim_start(ws)
    await coderd.claim_finish(ws)


async def soon(predicate: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not predicate():
            await asyncio.sleep(0.005)


def descriptors_open() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_a_connected_stream_does_not_say_later_that_it_waits_for_the_first_byte(
    hooks: Any, start_side: Any
) -> None:
    hooks.add("10-a")
    async with coderd_of("E3", ping_s=3600) as coderd:
        ws = coderd.add_prebuild()
        await claimed(coderd, ws)
        async with start_side(coderd.url, ws.token) as side:
            await side.until("settled")
            # Each sleep of this clock is short, so the time to wait for a refusal is over.
            for _ in range(20):
                await asyncio.sleep(0.005)
                assert side.listener.view().reason.endswith("; connected")


# A claim, its replays and its resumption.


@pytest.mark.parametrize("era", ["E1", "E2", "E3", "E4", "E5"])
async def test_a_claim_runs_its_hooks_once_in_every_era_and_replays_run_nothing(
    era: str, hooks: Any, start_side: Any
) -> None:
    hooks.add("10-a")
    hooks.add("20-b")
    async with coderd_of(era) as coderd:
        ws = coderd.add_prebuild()
        for _ in range(2):  # the second time with a new agentd on the same state directory
            async with start_side(coderd.url, ws.token) as side:
                await coderd.until(lambda: coderd.open_streams(ws) == 1)
                if not hooks.runs():
                    await claimed(coderd, ws)
                if era != "E1" or not side.ledger.all_claims():
                    await side.until("settled")
                for _ in range(3):
                    await coderd.drop_connections()
                    await coderd.until(lambda: coderd.open_streams(ws) == 1)
        assert hooks.runs() == ["10-a 1", "20-b 1"]


async def test_a_claim_made_while_disconnected_runs_its_hooks_after_connecting(
    hooks: Any, start_side: Any
) -> None:
    hooks.add("10-a")
    async with coderd_of() as coderd:
        ws = coderd.add_prebuild()
        await claimed(coderd, ws)
        async with start_side(coderd.url, ws.token) as side:
            view = await side.until("settled")
    assert hooks.runs() == ["10-a 1"]
    assert "is done" in view.reason


async def test_a_claim_that_an_old_server_does_not_repeat_is_found_by_its_owner(
    hooks: Any, start_side: Any
) -> None:
    hooks.add("10-a")
    async with coderd_of("E1") as coderd:
        ws = coderd.add_prebuild()
        await claimed(coderd, ws)

        async def agents_manifest() -> ClaimEvent:
            return ClaimEvent(ws.id, None, "prebuild_claimed")

        async with start_side(coderd.url, ws.token, find_missed=agents_manifest) as side:
            await side.until("settled")
            # A later event adds the owner to the same claim.
            await coderd.publish(
                ws, {"workspace_id": ws.id, "owner_id": coderd.user_id, "reason": "prebuild_claimed"}
            )
            await soon(lambda: side.ledger.all_claims()[0].owner_id == coderd.user_id)
    assert hooks.runs() == ["10-a 1"]


async def test_ten_thousand_replays_run_hooks_once_with_constant_memory_and_descriptors(
    hooks: Any, start_side: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure(fmt="json")
    hooks.add("10-a")
    async with coderd_of() as coderd:
        ws = coderd.add_prebuild()
        async with start_side(coderd.url, ws.token) as side:
            await coderd.until(lambda: coderd.open_streams(ws) == 1)
            await claimed(coderd, ws)
            await side.until("settled")
            event = {"workspace_id": ws.id, "owner_id": coderd.user_id, "reason": "prebuild_claimed"}
            block = b"event: data\ndata: %s\n\n" % json.dumps(event).encode()
            await coderd.publish(ws, block * 100)
            await soon(lambda: side.listener.view().replays >= 100)
            gc.collect()
            before, descriptors = len(gc.get_objects()), descriptors_open()
            size = sum(path.stat().st_size for path in (tmp_path / "state").iterdir())
            for _ in range(99):
                await coderd.publish(ws, block * 100)
            await soon(lambda: side.listener.view().replays >= 10_000)
            gc.collect()
            assert len(gc.get_objects()) - before < 500
            assert descriptors_open() == descriptors
            assert sum(path.stat().st_size for path in (tmp_path / "state").iterdir()) == size
            assert value_of(side.metrics, "agentd_claim_events_total", outcome="replayed") >= 10_000
    assert hooks.runs() == ["10-a 1"]
    assert capsys.readouterr().err.count("claim.replayed") <= 2, "logged once per connection"


@pytest.mark.parametrize("reconnects", [100, pytest.param(950, marks=pytest.mark.long)])
async def test_many_reconnects_run_hooks_once_with_constant_memory_and_descriptors(
    reconnects: int, hooks: Any, start_side: Any
) -> None:
    hooks.add("10-a")
    async with coderd_of("E2") as coderd:
        ws = coderd.add_prebuild()
        await claimed(coderd, ws)

        async def briskly(_seconds: float) -> None:
            await asyncio.sleep(0)

        async with start_side(coderd.url, ws.token, clock=Clock(sleep=briskly)) as side:
            await side.until("settled")

            async def reconnect(times: int) -> None:
                for _ in range(times):
                    seen = side.listener.view().replays
                    await coderd.drop_connections()
                    await soon(lambda seen=seen: side.listener.view().replays > seen)
                assert len(coderd.calls("reinit")) >= times
                coderd.requests.clear()
                gc.collect()

            await reconnect(50)
            before, descriptors = len(gc.get_objects()), descriptors_open()
            await reconnect(reconnects)
            assert descriptors_open() <= descriptors + 2
            assert len(gc.get_objects()) - before < 1_000
    assert hooks.runs() == ["10-a 1"]


async def test_an_unfinished_claim_resumes_at_the_next_start_without_an_event(
    hooks: Any, start_side: Any, state_dir: Path
) -> None:
    hooks.add("10-a")
    async with coderd_of("E1") as coderd:
        ws = coderd.add_prebuild()
        async with start_side(coderd.url, ws.token) as side:
            await soon(lambda: side.ledger.token_fingerprint is not None)
            side.ledger.admit(ClaimEvent(ws.id, None, "prebuild_claimed"))
        async with start_side(coderd.url, ws.token) as side:
            await side.until("settled")
    assert hooks.runs() == ["10-a 1"]


async def test_the_stream_is_read_while_hooks_run(hooks: Any, start_side: Any, tmp_path: Path) -> None:
    hooks.add("10-a", f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done")
    async with coderd_of() as coderd:
        ws = coderd.add_prebuild()
        async with start_side(coderd.url, ws.token) as side:
            await coderd.until(lambda: coderd.open_streams(ws) == 1)
            await claimed(coderd, ws)
            view = await side.until("acting")
            await soon(lambda: "hook 10-a" in side.listener.view().reason)
            await coderd.publish(ws, {"workspace_id": "nonsense", "reason": "prebuild_claimed"})
            await soon(lambda: side.listener.view().ignored == 1)
            assert side.listener.view().since == view.since
            (tmp_path / "go").touch()
            await side.until("settled")


# The rows of the state table and the answers of coderd.


@pytest.mark.parametrize(
    ("era", "make", "state"),
    [
        pytest.param("E3", lambda c: c.add_workspace(), "not_a_prebuild", id="regular workspace"),
        pytest.param("E2", lambda c: c.add_workspace(), "not_a_prebuild", id="regular workspace, E2"),
        pytest.param("E1", lambda c: c.add_workspace(), "listening", id="regular workspace, old server"),
        pytest.param("E3", lambda c: c.add_prebuild(), "listening", id="unclaimed prebuild"),
        pytest.param("E2", lambda c: c.add_prebuild(), "listening", id="unclaimed prebuild, E2"),
        pytest.param("E1", lambda c: c.add_prebuild(), "listening", id="unclaimed prebuild, old server"),
    ],
)
async def test_an_unclaimed_workspace(era: str, make: Any, state: str, hooks: Any, start_side: Any) -> None:
    hooks.add("10-a")
    async with coderd_of(era) as coderd:
        ws = make(coderd)
        async with start_side(coderd.url, ws.token) as side:
            await side.until(state)
            if state == "not_a_prebuild":
                for _ in range(50):
                    await asyncio.sleep(0.002)
                assert len(coderd.calls("reinit")) == 1, "there is no reconnect after a terminal answer"
                assert side.listener.view().next_attempt_at is None
    assert hooks.runs() == []


async def test_401_is_retried_while_the_claim_job_runs(
    hooks: Any, start_side: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The test's clock shortens every wait, but not the time that a refusal takes on a busy machine.
    monkeypatch.setattr(listener, "LISTENING_AFTER_S", UNSHORTENED_S)
    monkeypatch.setattr(listener, "LISTENING_AFTER_FAILURE_S", UNSHORTENED_S)
    hooks.add("10-a")
    async with coderd_of() as coderd:
        ws = coderd.add_prebuild()
        coderd.claim_start(ws)
        async with start_side(coderd.url, ws.token) as side:
            view = await side.until("unauthorized")
            assert "normal while a claim" in view.reason
            await soon(lambda: len(coderd.calls("reinit")) >= 5)
            assert "listening" not in side.states, "the state does not alternate between refusals"
            await coderd.claim_finish(ws)
            await side.until("settled")
    assert hooks.runs() == ["10-a 1"]


async def test_a_claim_event_reaches_a_stream_that_was_open_before_the_401(
    hooks: Any, start_side: Any
) -> None:
    hooks.add("10-a")
    async with coderd_of("E1") as coderd:
        ws = coderd.add_prebuild()
        async with start_side(coderd.url, ws.token) as side:
            await coderd.until(lambda: coderd.open_streams(ws) == 1)
            coderd.claim_start(ws)
            await coderd.claim_finish(ws)
            await side.until("settled")


@pytest.mark.parametrize(
    ("era", "recorded", "state"),
    [("E3", True, "claim_failed"), ("E2", True, "claim_failed"), ("E3", False, "unauthorized")],
)
async def test_a_failed_claim_build(
    era: str, recorded: bool, state: str, hooks: Any, start_side: Any
) -> None:
    hooks.add("10-a")
    async with coderd_of(era) as coderd:
        ws = coderd.add_prebuild()
        coderd.claim_start(ws)
        coderd.claim_fail(ws, "terraform apply: no quota", agents_recorded=recorded)
        async with start_side(coderd.url, ws.token) as side:
            view = await side.until(state)
            assert ("no quota" in view.reason) == recorded
    assert hooks.runs() == []


@pytest.mark.parametrize(("era", "state"), [("E3", "not_a_prebuild"), ("E2", "settled")])
async def test_a_later_build_of_a_claimed_workspace(
    era: str, state: str, hooks: Any, start_side: Any
) -> None:
    """E3 answers that the claim was handled. E2 repeats the event, and a new ledger admits it once."""
    hooks.add("10-a")
    async with coderd_of(era) as coderd:
        ws = coderd.add_prebuild()
        await claimed(coderd, ws)
        coderd.start_build(ws)
        for _ in range(2):
            async with start_side(coderd.url, ws.token) as side:
                await side.until(state)
    assert hooks.runs() == ([] if era == "E3" else ["10-a 1"])


async def test_a_claim_handled_here_is_settled_when_coderd_says_it_was_handled(
    hooks: Any, start_side: Any
) -> None:
    async with coderd_of() as coderd:
        ws = coderd.add_prebuild()
        async with start_side(coderd.url, ws.token, workspace_id=ws.id) as side:
            await coderd.until(lambda: coderd.open_streams(ws) == 1)
            await claimed(coderd, ws)
            await side.until("settled")
        coderd.start_build(ws)
        async with start_side(coderd.url, ws.token, workspace_id=ws.id) as side:
            await soon(lambda: "handled by an earlier build" in side.listener.view().reason)
            assert side.listener.view().state == "settled"


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        pytest.param({"status": 404, "body": '{"message":"Route not found."}'}, "unsupported", id="404 route"),
        pytest.param({"status": 204}, "unsupported", id="204"),
        pytest.param({"status": 409, "body": '{"message":"New.","detail":""}'}, "not_a_prebuild", id="unknown 409"),
        pytest.param({"status": 404, "body": "<html>", "content_type": "text/html"}, "connecting", id="proxy 404"),
        pytest.param({"status": 429, "body": '{"message":"limited"}', "headers": {"Retry-After": "0"}}, "connecting", id="429"),
        pytest.param({"status": 500, "body": '{"message":"An internal server error occurred."}'}, "connecting", id="500"),
        pytest.param({"status": 302, "headers": {"Location": "http://127.0.0.1:9/login"}}, "connecting", id="302"),
        pytest.param({"status": 418}, "connecting", id="418"),
    ],
)  # fmt: skip
async def test_each_answer_has_its_state_and_is_retried_unless_terminal(
    answer: dict[str, Any], state: str, hooks: Any, start_side: Any
) -> None:
    async with coderd_of() as coderd:
        ws = coderd.add_prebuild()
        coderd.fail_next("reinit", times=3, **answer)
        async with start_side(coderd.url, ws.token) as side:
            await soon(lambda: side.listener.view().failures > 0)
            assert (side.listener.view().state) == state
            if state != "not_a_prebuild":
                await side.until("listening")
                # The request counts as sent before the server has read it.
                await soon(lambda: len(coderd.calls("reinit")) >= 4)
                await soon(lambda: side.listener.view().failures == 0)
                assert len(coderd.calls("reinit")) == 4


@pytest.mark.parametrize(
    "fault", ["html_502", "redirect", "reset_before_body", "eof", "header_flood", "wrong_content_type", "gzip", "big_line", "endless_comment", "eof_after_event", "duplicate"],
)  # fmt: skip
async def test_after_every_network_fault_the_hooks_of_a_claim_run_once(
    fault: str, hooks: Any, start_side: Any
) -> None:
    hooks.add("10-a")
    async with coderd_of() as coderd:
        ws = coderd.add_prebuild()
        await claimed(coderd, ws)
        coderd.fault("reinit", fault, times=2)
        async with start_side(coderd.url, ws.token) as side:
            await side.until("settled")
            await soon(lambda: coderd.open_streams(ws) == 1)
    assert hooks.runs() == ["10-a 1"]


async def test_a_rate_limited_connection_waits_for_retry_after(
    start_side: Any, fake_clock: FakeClock
) -> None:
    async with coderd_of() as coderd:
        ws = coderd.add_prebuild()
        coderd.fail_next("reinit", 429, "{}", headers={"Retry-After": "60"})
        async with start_side(coderd.url, ws.token, clock=fake_clock.as_clock()) as side:
            await soon(lambda: side.listener.view().failures == 1)
            due = side.listener.view().next_attempt_at
            assert due is not None
            assert 60 < due - fake_clock.wall_now < 65
            await fake_clock.advance(59)
            assert len(coderd.calls("reinit")) == 1
            await fake_clock.advance(6)
            await soon(lambda: len(coderd.calls("reinit")) == 2)


async def test_reconnects_to_a_server_that_accepts_and_closes_use_backoff(
    start_side: Any, fake_clock: FakeClock
) -> None:
    """A client that reset its backoff on connect made 1,633 connections in a second to such a server."""
    async with coderd_of(flush="eager") as coderd:
        ws = coderd.add_prebuild()
        coderd.fault("reinit", "eof", times=10_000)
        async with start_side(coderd.url, ws.token, clock=fake_clock.as_clock()):
            for second in range(600):
                await fake_clock.advance(1)
                # Let bytes arrive over the real socket before the fake clock advances.
                await asyncio.sleep(0.003 if second < 60 else 0)
            assert 5 < len(coderd.calls("reinit")) < 80


async def test_a_closed_port_is_retried_until_coderd_is_back(hooks: Any, start_side: Any) -> None:
    hooks.add("10-a")
    async with coderd_of() as coderd:
        ws = coderd.add_prebuild()
        await coderd.stop()
        async with start_side(coderd.url, ws.token) as side:
            await soon(lambda: side.listener.view().failures >= 2)
            assert "refused" in side.listener.view().reason
            await coderd.start()
            await side.until("listening")
            await coderd.until(lambda: coderd.open_streams(ws) == 1)
            await claimed(coderd, ws)
            await side.until("settled")


async def test_each_change_is_logged_once_and_never_with_the_token(
    start_side: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure(fmt="json")
    async with coderd_of() as coderd:
        ws = coderd.add_prebuild()
        coderd.fail_next("reinit", 500, '{"message":"An internal server error occurred."}', times=6)
        async with start_side(coderd.url, ws.token) as side:
            await side.until("listening")
            await soon(lambda: side.listener.view().failures == 0)
    text = capsys.readouterr().err
    events = [json.loads(line)["event"] for line in text.splitlines()]
    assert events == ["stream.lost", "stream.open", "stream.restored"]
    assert ws.token not in text


# Invalid events, full disks, and actions of the operator.


async def test_invalid_events_are_counted_and_end_nothing(hooks: Any, start_side: Any) -> None:
    hooks.add("10-a")
    async with coderd_of() as coderd:
        ws = coderd.add_prebuild()
        async with start_side(coderd.url, ws.token, workspace_id=ws.id) as side:
            await coderd.until(lambda: coderd.open_streams(ws) == 1)
            await coderd.publish(ws, b'event: error\ndata: {"message":"x"}\n\n')
            await coderd.publish(ws, b"event: data\ndata: {\n\n")
            await coderd.publish(ws, b"event: surprise\ndata: {}\n\n")
            await coderd.publish(ws, {"workspace_id": coderd.user_id, "reason": "prebuild_claimed"})
            await soon(lambda: side.listener.view().ignored == 4)
            assert hooks.runs() == []
            await claimed(coderd, ws)
            await side.until("settled")
            assert len(coderd.calls("reinit")) == 1
    assert hooks.runs() == ["10-a 1"]


async def test_an_event_that_comes_once_survives_a_full_disk(
    hooks: Any, start_side: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure(fmt="json")
    hooks.add("10-a")
    refused: list[int] = []

    def full(*_args: object) -> int:
        refused.append(1)
        raise OSError(28, os.strerror(28))

    async with coderd_of("E1") as coderd:
        ws = coderd.add_prebuild()
        async with start_side(coderd.url, ws.token) as side:
            await coderd.until(lambda: coderd.open_streams(ws) == 1)
            with monkeypatch.context() as broken:
                broken.setattr(ledger_file.os, "pwrite", full)
                await claimed(coderd, ws)
                await soon(lambda: len(refused) >= 3)
                assert hooks.runs() == []
            await side.until("settled")
    assert hooks.runs() == ["10-a 1"]
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    retries = [line for line in lines if line["event"] == "claim.retry_scheduled"]
    assert len(retries) >= 3
    assert all(
        "No space left on device" in line["reason"] and 0.5 <= line["retry_in_s"] <= 30 for line in retries
    )


async def test_a_failed_claim_is_shown_and_retry_runs_it_at_once(
    hooks: Any, start_side: Any, tmp_path: Path
) -> None:
    hooks.add("10-a", f"[ -e {tmp_path}/repaired ]")
    async with coderd_of() as coderd:
        ws = coderd.add_prebuild()
        await claimed(coderd, ws)
        async with start_side(coderd.url, ws.token, max_attempts=1) as side:
            view = await side.until("claim_failed")
            assert "hook 10-a failed 1 times, last: exit code 1" in view.reason
            [claim] = side.ledger.all_claims()
            (tmp_path / "repaired").touch()
            await side.listener.retry(claim.id)
            await side.until("settled")
            with pytest.raises(IllegalClaimStepError):
                await side.listener.retry(claim.id)
            with pytest.raises(UnknownClaimError):
                await side.listener.forget("beef")
            await side.listener.forget(claim.id)
            assert side.ledger.all_claims() == ()


async def test_a_held_claim_is_shown_as_held_with_the_command_to_retry(hooks: Any, start_side: Any) -> None:
    hooks.add("10-a")
    hooks.directory.chmod(0o777)
    async with coderd_of() as coderd:
        ws = coderd.add_prebuild()
        await claimed(coderd, ws)
        async with start_side(coderd.url, ws.token) as side:
            view = await side.until("claim_failed")
            [claim] = side.ledger.all_claims()
            assert claim.state is ClaimState.HELD
            assert view.reason == f"held: {claim.why}; `agentd claims retry {claim.id}`"
            assert "may be written by other users" in claim.why


async def test_a_token_file_replaced_after_401_is_used_at_once(
    hooks: Any, start_side: Any, tmp_path: Path
) -> None:
    async with coderd_of() as coderd:
        ws = coderd.add_prebuild()
        path = tmp_path / "token"
        path.write_text("2f6c1c1e-6d0a-4f0c-9a55-2f0b3e5f7a11\n")
        async with start_side(coderd.url, "", tokens=FileToken(path)) as side:
            await side.until("unauthorized")
            path.write_text(ws.token)
            await side.until("listening")


async def test_reconnect_connects_again_after_a_terminal_answer(
    start_side: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure(fmt="json")
    async with coderd_of() as coderd:
        ws = coderd.add_workspace()
        async with start_side(coderd.url, ws.token) as side:
            await side.until("not_a_prebuild")
            side.listener.reconnect("")
            await soon(lambda: len(coderd.calls("reinit")) == 2)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    parked = [line for line in lines if line["event"] == "stream.parked"]
    assert [line["state"] for line in parked] == ["not_a_prebuild"]


async def test_a_live_stream_is_opened_again_with_a_new_token_and_only_then(
    hooks: Any, start_side: Any, tmp_path: Path
) -> None:
    hooks.add("10-a")
    async with coderd_of() as coderd:
        ws = coderd.add_prebuild()
        path = tmp_path / "token"
        path.write_text(ws.token)
        tokens = FileToken(path)
        async with start_side(coderd.url, "", tokens=tokens) as side:
            await side.until("listening")
            await soon(lambda: coderd.open_streams(ws) == 1)
            side.listener.reconnect(await tokens.current())
            await asyncio.sleep(0.05)
            assert len(coderd.calls("reinit")) == 1, "the token is the same"
            before = ws.token
            path.write_text(coderd.start_build(ws))
            # A 401 of another request may have renewed the token while the stream was open.
            await tokens.renew(before)
            side.listener.reconnect(await tokens.current())
            await soon(lambda: len(coderd.calls("reinit")) == 2)
            await soon(lambda: coderd.open_streams(ws) == 1)
            assert coderd.calls("reinit")[-1].headers["Coder-Session-Token"] == path.read_text() != before
            assert side.listener.view().failures == 0
            await claimed(coderd, ws)
            await side.until("settled")
    assert hooks.runs() == ["10-a 1"]


async def test_a_cancellation_ends_the_stream_and_records_the_running_hook_as_interrupted(
    hooks: Any, start_side: Any, state_dir: Path
) -> None:
    hooks.add("10-a", "exec sleep 600")
    async with coderd_of() as coderd:
        ws = coderd.add_prebuild()
        await claimed(coderd, ws)
        async with start_side(coderd.url, ws.token):
            await soon(lambda: hooks.runs() == ["10-a 1"])
        await soon(lambda: coderd.open_streams(ws) == 0)
    [claim] = Ledger.read(state_dir).claims.values()
    assert claim.state is ClaimState.ACTING
    assert claim.hook("10-a").state == "interrupted"


async def test_the_view_has_the_fields_of_status(start_side: Any) -> None:
    async with coderd_of() as coderd:
        ws = coderd.add_prebuild()
        async with start_side(coderd.url, ws.token) as side:
            await side.until("listening")
            shown = side.listener.view().as_json()
    assert set(shown) == {
        "state", "reason", "since", "last_event_at", "next_attempt_at", "failures", "replays", "ignored",
    }  # fmt: skip
    assert shown["state"] == "listening"
    assert shown["since"].endswith("Z")
    assert shown["last_event_at"] is None


async def test_a_host_that_never_answers_is_disconnected_after_three_ping_intervals(
    start_side: Any, fake_clock: FakeClock
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        clock = fake_clock.as_clock()
        async with start_side(url, "unknown-token", clock=clock, stream_clock=clock) as side:
            await fake_clock.next_sleep()
            while not side.listener.view().failures:
                await asyncio.sleep(0.005)
                await fake_clock.advance(5)
            assert "no response headers within 45 s" in side.listener.view().reason
