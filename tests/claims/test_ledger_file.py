"""The ledger file: torn records, flipped bytes, full disks, other formats, a file removed while open."""

import errno
import json
import os
import stat
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest

from agentd.claims import ledger_file
from agentd.claims.events import ClaimEvent
from agentd.claims.ledger import Ledger
from agentd.claims.ledger_file import LEDGER_NAME, LedgerWriteError
from agentd.claims.ledger_format import NewerLedgerError, decode, encode, scan
from agentd.claims.ledger_state import LedgerState, apply_record
from agentd.claims.lifecycle import ClaimState, ClaimStep, HookState, HookStep
from agentd.errors import StateError

W = "11111111-1111-4111-8111-111111111111"
OWNER = "22222222-2222-4222-8222-222222222222"
EVENT = ClaimEvent(W, OWNER, "prebuild_claimed")


def opened(directory: Path, **options: Any) -> Ledger:
    ledger = Ledger(directory, **{"workspace_id": W, **options})
    ledger.token_fingerprint = "token-one"
    return ledger


def write_done_claim(directory: Path) -> list[int]:
    """Write one done claim with two hooks; return the size of the file after each record."""
    sizes = []
    ledger = opened(directory)

    def step(verb: Any, *args: Any, **kwargs: Any) -> Any:
        result = verb(*args, **kwargs)
        sizes.append((directory / LEDGER_NAME).stat().st_size)
        return result

    claim = step(ledger.admit, EVENT).claim
    step(ledger.plan_hooks, claim.id, ["10-a", "20-b"])
    for name in ("10-a", "20-b"):
        step(ledger.start, claim.id, name, f"run-{name}")
        step(ledger.end, claim.id, name, f"run-{name}", HookStep.SUCCEED, exit_code=0, why="", tail="out")
    step(ledger.settle, claim.id, ClaimStep.FINISH)
    ledger.close()
    return sizes


def states(directory: Path) -> list[tuple[ClaimState, list[HookState]]]:
    return [
        (claim.state, [hook.state for hook in claim.hooks])
        for claim in Ledger.read(directory).claims.values()
    ]


def test_records_survive_a_restart(state_dir: Path) -> None:
    write_done_claim(state_dir)
    ledger = opened(state_dir)
    assert ledger.admit(EVENT).is_replay
    assert states(state_dir) == [(ClaimState.DONE, [HookState.SUCCEEDED] * 2)]


def test_the_file_is_private_and_each_line_is_json(state_dir: Path) -> None:
    write_done_claim(state_dir)
    path = state_dir / LEDGER_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["seq"] for record in records] == list(range(1, 8))
    assert {record["v"] for record in records} == {1}


def test_a_tear_at_any_byte_keeps_the_records_before_it_and_is_not_damage(state_dir: Path) -> None:
    sizes = write_done_claim(state_dir)
    path = state_dir / LEDGER_NAME
    whole = path.read_bytes()
    expected: list[LedgerState] = [LedgerState()]
    for line in whole.splitlines():
        record = decode(line)
        assert record is not None
        expected.append(apply_record(expected[-1], record))
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        kept = sum(size <= cut for size in sizes)
        # A record that lacks only its newline is whole.
        kept += cut + 1 in sizes
        ledger = opened(state_dir)
        assert not ledger.damage, cut
        assert ledger.all_claims() == tuple(expected[kept].claims.values()), cut
        ledger.close()


def test_the_next_record_replaces_a_torn_one(state_dir: Path) -> None:
    sizes = write_done_claim(state_dir)
    path = state_dir / LEDGER_NAME
    for torn in (b"", b"\0" * 700, b"garbage without an end"):
        path.write_bytes(path.read_bytes()[: sizes[0]] + b'{"crc":"' + torn)
        ledger = opened(state_dir)
        claim = ledger.plan_hooks(ledger.all_claims()[0].id, ["10-a"])
        ledger.close()
        assert Ledger.read(state_dir).claims == {claim.id: claim}
        assert scan(path.read_bytes()).damage == ""


def test_any_flipped_byte_is_detected_and_no_successful_hook_runs_again(state_dir: Path) -> None:
    write_done_claim(state_dir)
    path = state_dir / LEDGER_NAME
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        for flip in (0x01, 0x80, whole[at]):  # the last one gives NUL
            path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
            state = Ledger.read(state_dir)
            damaged = bool(state.damage)
            for claim in state.claims.values():
                assert claim.state in (ClaimState.DONE, ClaimState.HELD), (at, flip)
                assert claim.state is ClaimState.DONE or damaged
            # A flip of the last newline is not damage, because the record before it is whole.
            assert damaged or at == len(whole) - 1, (at, flip)


def test_a_damaged_file_is_quarantined_and_claims_not_provably_done_are_held_until_retried(
    state_dir: Path,
) -> None:
    sizes = write_done_claim(state_dir)
    path = state_dir / LEDGER_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4] + lines[5:6]))  # without the second start, but with its success
    damaged = path.read_bytes()
    assert sizes
    ledger = opened(state_dir)
    [claim] = ledger.all_claims()
    assert claim.state is ClaimState.HELD
    assert "damaged" in claim.why
    assert [hook.state for hook in claim.hooks] == [HookState.SUCCEEDED, HookState.SUCCEEDED]
    [kept] = state_dir.glob("ledger.corrupt-*")
    assert kept.read_bytes() == damaged
    assert ledger.admit(EVENT).is_replay
    other = ledger.admit(ClaimEvent(W, W, "prebuild_claimed"))
    assert not other.is_replay
    assert other.claim.state is ClaimState.HELD
    assert ledger.unfinished() == ()
    ledger.close()

    ledger = opened(state_dir)
    assert len(list(state_dir.glob("ledger.corrupt-*"))) == 1, "the second start repairs nothing"
    ledger.retry(claim.id)
    assert ledger.damage, "the other claim is still held for the damage"
    ledger.forget(other.claim.id)
    assert not ledger.damage
    assert not ledger.admit(ClaimEvent(W, W, "prebuild_claimed")).is_replay


def test_a_lost_admission_does_not_lose_recorded_successes(state_dir: Path) -> None:
    write_done_claim(state_dir)
    path = state_dir / LEDGER_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[1:]))
    ledger = opened(state_dir)
    replay = ledger.admit(EVENT)
    assert replay.is_replay
    assert replay.claim.state is ClaimState.DONE
    assert replay.claim.owner_id == OWNER


def test_a_file_of_garbage_is_quarantined_and_new_claims_are_held(state_dir: Path) -> None:
    (state_dir / LEDGER_NAME).write_bytes(os.urandom(4096) + b"\n")
    ledger = opened(state_dir)
    admitted = ledger.admit(EVENT)
    assert not admitted.is_replay
    assert admitted.claim.state is ClaimState.HELD
    ledger.retry(admitted.claim.id)
    assert [claim.state for claim in ledger.unfinished()] == [ClaimState.ADMITTED]


def test_an_invalid_record_with_a_good_checksum_is_damage(state_dir: Path) -> None:
    write_done_claim(state_dir)
    path = state_dir / LEDGER_NAME
    claim_id = next(iter(Ledger.read(state_dir).claims))
    with path.open("ab") as file:
        file.write(encode({"kind": "start", "at": 1.0, "claim": claim_id, "hook": "10-a", "run": "x"}, 8))
    state = Ledger.read(state_dir)
    assert "not valid after the previous records" in state.damage
    assert states(state_dir) == [(ClaimState.DONE, [HookState.SUCCEEDED] * 2)]


def test_a_newer_format_is_refused_and_not_changed(state_dir: Path) -> None:
    path = state_dir / LEDGER_NAME
    write_done_claim(state_dir)
    body = json.dumps({"v": 9, "seq": 8, "kind": "wonder"}).encode()
    newer = path.read_bytes() + b'{"crc":"%08x",%s\n' % (zlib.crc32(body), body[1:])
    path.write_bytes(newer)
    with pytest.raises(NewerLedgerError, match=r"format 9; this agentd reads formats up to 1"):
        opened(state_dir)
    assert path.read_bytes() == newer


def test_an_unreadable_ledger_raises_an_error(state_dir: Path) -> None:
    (state_dir / LEDGER_NAME).mkdir()
    with pytest.raises(StateError, match="cannot be read"):
        opened(state_dir)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "open"])
def test_a_failed_write_changes_nothing_and_a_later_one_succeeds(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    ledger = opened(state_dir)
    before = ledger.admit(EVENT).claim
    if call == "open":
        ledger.close()

    def refuse(*_args: object, **_kwargs: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as broken:
        broken.setattr(ledger_file.os, call, refuse)
        with pytest.raises(LedgerWriteError, match=os.strerror(code)):
            ledger.plan_hooks(before.id, ["10-a"])
    assert ledger.all_claims() == (before,)
    after = ledger.plan_hooks(before.id, ["10-b"])
    ledger.close()
    assert Ledger.read(state_dir).claims == {after.id: after}


def test_a_short_write_is_completed_or_removed(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = opened(state_dir)
    claim = ledger.admit(EVENT).claim
    real = os.pwrite
    wrote: list[int] = []

    def piecewise(fd: int, data: bytes, offset: int) -> int:
        if len(wrote) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        wrote.append(real(fd, data[:10], offset))
        return wrote[-1]

    with monkeypatch.context() as broken:
        broken.setattr(ledger_file.os, "pwrite", piecewise)
        with pytest.raises(LedgerWriteError):
            ledger.plan_hooks(claim.id, ["10-a"])
    ledger.plan_hooks(claim.id, ["20-b"])
    assert scan((state_dir / LEDGER_NAME).read_bytes()).damage == ""
    assert [hook.name for hook in Ledger.read(state_dir).claims[claim.id].hooks] == ["20-b"]


def test_a_file_that_was_removed_while_open_is_rewritten(state_dir: Path) -> None:
    ledger = opened(state_dir)
    claim = ledger.admit(EVENT).claim
    (state_dir / LEDGER_NAME).unlink()
    after = ledger.plan_hooks(claim.id, ["10-a"])
    assert Ledger.read(state_dir).claims == {after.id: after}


def test_compaction_keeps_the_state_and_bounds_the_file(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_file, "COMPACT_BYTES", 30_000)
    ledger = opened(state_dir)
    claim = ledger.admit(EVENT).claim
    ledger.plan_hooks(claim.id, ["10-a"])
    for attempt in range(40):
        ledger.start(claim.id, "10-a", f"run-{attempt}")
        ledger.end(
            claim.id, "10-a", f"run-{attempt}", HookStep.FAIL, exit_code=1, why="exit code 1", tail="x" * 8000
        )
        assert (state_dir / LEDGER_NAME).stat().st_size < 60_000
    [kept] = ledger.all_claims()
    assert kept.hooks[0].attempt == 40
    ledger.close()
    assert Ledger.read(state_dir).claims == {kept.id: kept}
    assert not list(state_dir.glob("*.new"))


def test_the_names_in_a_claim_record_are_fixed(state_dir: Path) -> None:
    write_done_claim(state_dir)
    [claim] = Ledger.read(state_dir).claims.values()
    record = claim.to_record()
    assert set(record) == {
        "kind", "at", "id", "workspace_id", "owner_id", "reason", "token", "state", "admitted_at", "changed_at", "why",
        "hooks",
    }  # fmt: skip
    assert set(record["hooks"][0]) == {
        "name", "state", "attempt", "failures", "interruptions", "run_id", "process", "exit_code", "why", "tail",
        "started_at", "ended_at",
    }  # fmt: skip
    records = [json.loads(line) for line in (state_dir / LEDGER_NAME).read_text().splitlines()]
    assert [sorted(one.keys() - {"crc", "v", "seq", "kind", "at"}) for one in records[:4]] == [
        ["claim", "held", "owner", "reason", "token", "workspace"],
        ["claim", "hooks"],
        ["claim", "hook", "run"],
        ["claim", "exit", "hook", "run", "step", "tail", "why"],
    ]
    assert [one["kind"] for one in records] == ["admit", "act", "start", "end", "start", "end", "settle"]
    assert (records[-1]["step"], records[-1]["why"]) == ("finish", "")


def test_a_claim_record_gives_the_same_claim(state_dir: Path) -> None:
    write_done_claim(state_dir)
    for claim in Ledger.read(state_dir).claims.values():
        record = decode(encode(claim.to_record(), 1).rstrip(b"\n"))
        assert record is not None
        assert apply_record(LedgerState(), record).claims == {claim.id: claim}


def test_records_from_many_threads_do_not_mix(state_dir: Path) -> None:
    ledger = opened(state_dir, workspace_id=None)
    owners = [f"{n:08x}-0000-4000-8000-000000000000" for n in range(1, 11)]
    threads = [
        threading.Thread(
            target=lambda owner=owner: [
                ledger.admit(ClaimEvent(W, owner, "prebuild_claimed")) for _ in range(20)
            ]
        )
        for owner in owners
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.close()
    state = Ledger.read(state_dir)
    assert not state.damage
    assert {claim.owner_id for claim in state.claims.values()} == set(owners)


def refuse(*_args: object, **_kwargs: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_without_disk_space_a_repair_waits_and_claims_are_held(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = state_dir / LEDGER_NAME
    path.write_bytes(b"garbage\n")
    with monkeypatch.context() as full:
        for call in ("pwrite", "write"):
            full.setattr(ledger_file.os, call, refuse)
        ledger = opened(state_dir)
        assert ledger.damage
        with pytest.raises(LedgerWriteError):
            ledger.admit(EVENT)
        assert path.read_bytes() == b"garbage\n", "the next start must find the damaged file"
    assert ledger.admit(EVENT).claim.state is ClaimState.HELD
    ledger.close()
    assert Ledger.read(state_dir).damage
    assert [kept.read_bytes() for kept in state_dir.glob("ledger.corrupt-*")] == [b"garbage\n"]


def test_without_hard_links_the_damaged_file_is_copied(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state_dir / LEDGER_NAME).write_bytes(b"garbage\n")
    monkeypatch.setattr(ledger_file.os, "link", refuse)
    opened(state_dir).close()
    assert [kept.read_bytes() for kept in state_dir.glob("ledger.corrupt-*")] == [b"garbage\n"]


def test_a_failed_compaction_loses_no_record(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_file, "COMPACT_BYTES", 100)
    ledger = opened(state_dir)
    ledger._file._compact_bytes = 100
    monkeypatch.setattr(ledger_file.os, "fsync", refuse)
    (state_dir / LEDGER_NAME).touch()
    claim = ledger.admit(EVENT).claim
    monkeypatch.undo()
    after = ledger.plan_hooks(claim.id, ["10-a"])
    ledger.close()
    assert Ledger.read(state_dir).claims == {after.id: after}
