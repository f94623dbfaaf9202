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
from agentd.claims.ledger import Ledger, LedgerFullError
from agentd.claims.ledger_file import LEDGER_NAME, LedgerWriteError
from agentd.claims.ledger_format import NewerLedgerError, decode, encode, scan
from agentd.claims.ledger_mark import MARK_NAME, NO_RECORD, LastRecord, MarkFile
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


def write_mark(directory: Path, records: int) -> None:
    """Write the mark as it is after the first `records` records of the ledger."""
    checksums = scan((directory / LEDGER_NAME).read_bytes()).checksums
    last = LastRecord(records, checksums[records - 1]) if records else NO_RECORD
    mark = MarkFile(directory / MARK_NAME)
    mark.write(last)
    mark.close()


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
        kept = sum(size <= cut for size in sizes)
        path.write_bytes(whole)
        write_mark(state_dir, kept)
        path.write_bytes(whole[:cut])
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
        write_mark(state_dir, 1)
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


def test_an_unreadable_ledger_raises_an_error(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(ledger_file, "read_file", refuse)
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


# --- the mark: records that the ledger lost at its end ---


@pytest.mark.parametrize("kept", [*range(7), "removed", "FIFO", "directory", "link"])
def test_a_ledger_that_lost_whole_records_is_damaged_and_a_replay_is_held(state_dir: Path, kept: Any) -> None:
    write_done_claim(state_dir)
    path = state_dir / LEDGER_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    if isinstance(kept, int):
        path.write_bytes(b"".join(lines[:kept]))
    else:
        path.rename(state_dir / "away")
        {
            "removed": lambda: None,
            "FIFO": lambda: os.mkfifo(path),
            "directory": path.mkdir,
            "link": lambda: path.symlink_to(state_dir / "away"),
        }[kept]()
    assert Ledger.read(state_dir).damage
    for _ in range(2):  # the repair does not make it look whole
        ledger = opened(state_dir)
        assert "the ledger file was damaged" in ledger.damage
        replay = ledger.admit(EVENT).claim
        assert replay.state is ClaimState.HELD
        assert "retry" in replay.why
        assert ledger.unfinished() == ()
        ledger.close()
    ledger = opened(state_dir)
    assert ledger.retry(replay.id).state is ClaimState.ADMITTED
    assert not ledger.damage
    ledger.close()
    assert not Ledger.read(state_dir).damage


def test_a_mark_that_is_records_behind_is_no_damage(state_dir: Path) -> None:
    write_done_claim(state_dir)
    for behind in range(8):
        write_mark(state_dir, 7 - behind)
        opened(state_dir).close()
        assert not Ledger.read(state_dir).damage
        assert (state_dir / MARK_NAME).read_bytes().startswith(b"0000000007 "), (
            "the start brings it up to date"
        )


@pytest.mark.parametrize("lost", [b"", b"\0" * 49, b"x" * 49, b"x" * 5000, None])
def test_a_lost_mark_is_damage_only_without_records(state_dir: Path, lost: bytes | None) -> None:
    write_done_claim(state_dir)
    mark = state_dir / MARK_NAME
    if lost is None:
        mark.unlink()
        os.mkfifo(mark)
    else:
        mark.write_bytes(lost)
    opened(state_dir).close()
    assert states(state_dir) == [(ClaimState.DONE, [HookState.SUCCEEDED] * 2)]
    assert mark.read_bytes().startswith(b"0000000007 ")
    (state_dir / LEDGER_NAME).write_bytes(b"")
    mark.write_bytes(b"?" if lost is None else lost)
    is_never_written = lost is not None and not lost.strip(b"\0")  # as a power cut leaves it
    assert ("damaged" in opened(state_dir).damage) is not is_never_written


def test_a_ledger_of_an_agentd_without_a_mark_is_accepted(state_dir: Path) -> None:
    write_done_claim(state_dir)
    (state_dir / MARK_NAME).unlink()
    assert not opened(state_dir).damage
    assert (state_dir / MARK_NAME).exists()


def test_an_emptied_state_directory_is_a_fresh_start(state_dir: Path) -> None:
    write_done_claim(state_dir)
    for file in state_dir.iterdir():
        file.unlink()
    ledger = opened(state_dir)
    assert not ledger.damage
    assert ledger.admit(EVENT).claim.state is ClaimState.ADMITTED


def test_a_replaced_record_is_damage(state_dir: Path) -> None:
    write_done_claim(state_dir)
    path = state_dir / LEDGER_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    other = encode({"kind": "waiting", "at": 1.0, "workspace": W}, 7)
    path.write_bytes(b"".join([*lines[:6], other]))
    assert "record 7 is not the one that was written" in Ledger.read(state_dir).damage


@pytest.mark.parametrize("loss", ["cut", "emptied", "removed", "replaced by a FIFO"])
def test_records_that_vanish_while_agentd_runs_are_written_again(state_dir: Path, loss: str) -> None:
    path = state_dir / LEDGER_NAME
    ledger = opened(state_dir)
    claim = ledger.admit(EVENT).claim
    ledger.plan_hooks(claim.id, ["10-a"])
    if loss in ("cut", "emptied"):
        os.truncate(path, 0 if loss == "emptied" else path.stat().st_size // 2)
    else:
        path.unlink()
        if loss != "removed":
            os.mkfifo(path)
    after = ledger.start(claim.id, "10-a", "run-1")
    ledger.close()
    state = Ledger.read(state_dir)
    assert not state.damage
    assert state.claims == {after.id: after}


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_compaction_that_a_crash_interrupts_is_no_damage(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    ledger = opened(state_dir)
    claim = ledger.admit(EVENT).claim
    before = ledger.plan_hooks(claim.id, ["10-a"])
    steps: list[str] = []

    def crashing(call: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if len(steps) == failing:
                raise OSError(errno.EIO, "crashed")
            steps.append(call.__name__)
            return call(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as broken:
        broken.setattr(MarkFile, "write", crashing(MarkFile.write))
        broken.setattr(ledger_file, "replace_file", crashing(ledger_file.replace_file))
        with pytest.raises(OSError, match="crashed"):
            ledger._file._rewrite()
    assert len(steps) == failing
    assert Ledger.read(state_dir).claims == {claim.id: before}
    assert not Ledger.read(state_dir).damage
    after = opened(state_dir).start(claim.id, "10-a", "run-1")
    assert Ledger.read(state_dir).claims == {claim.id: after}


def test_a_compaction_during_a_read_is_no_damage(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = opened(state_dir)
    claim = ledger.admit(EVENT).claim
    after = ledger.plan_hooks(claim.id, ["10-a"])
    real = ledger_file.read_file

    def compacting(path: Path, limit: int) -> bytes:
        monkeypatch.setattr(ledger_file, "read_file", real)
        ledger._file._rewrite()
        return real(path, limit)

    monkeypatch.setattr(ledger_file, "read_file", compacting)
    state = Ledger.read(state_dir)
    assert (state.damage, state.claims) == ("", {claim.id: after})


def test_the_mark_adds_no_fsync_between_a_claim_and_its_hook(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = opened(state_dir)
    ledger.note_unclaimed(W, "main")  # creates the ledger
    synced: list[str] = []
    for call in ("fsync", "fdatasync"):
        real = getattr(os, call)
        monkeypatch.setattr(os, call, lambda fd, real=real: (synced.append("sync"), real(fd)))
    claim = ledger.admit(EVENT).claim
    ledger.plan_hooks(claim.id, ["10-a"])
    ledger.start(claim.id, "10-a", "run-1")
    assert len(synced) == 3, "one for each record"


def test_a_mark_that_cannot_be_written_is_a_record_that_was_not_written(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = opened(state_dir)
    claim = ledger.admit(EVENT).claim
    with monkeypatch.context() as full:
        full.setattr(MarkFile, "write", refuse)
        with pytest.raises(LedgerWriteError, match="No space left"):
            ledger.plan_hooks(claim.id, ["10-a"])
    assert ledger.all_claims() == (claim,)
    after = ledger.plan_hooks(claim.id, ["10-b"])
    assert Ledger.read(state_dir).claims == {claim.id: after}


def test_a_ledger_in_a_replaced_directory_is_not_written(state_dir: Path) -> None:
    ledger = opened(state_dir)
    claim = ledger.admit(EVENT).claim
    state_dir.rename(state_dir.with_name("old"))
    state_dir.mkdir()
    other = opened(state_dir)
    other.admit(EVENT)
    with pytest.raises(LedgerWriteError, match="its directory was replaced"):
        ledger.plan_hooks(claim.id, ["10-a"])
    assert [one.hooks for one in Ledger.read(state_dir).claims.values()] == [()]


# --- the limit of claims ---


def owner_of(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000"


def settle(ledger: Ledger, number: int, step: ClaimStep = ClaimStep.FINISH) -> str:
    claim = ledger.admit(ClaimEvent(W, owner_of(number), "prebuild_claimed")).claim
    ledger.plan_hooks(claim.id, [])
    ledger.settle(claim.id, step)
    return claim.id


def test_new_claims_replace_settled_ones_which_are_still_replays(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentd.claims.ledger.MAX_CLAIMS", 6)
    monkeypatch.setattr("agentd.claims.ledger.COMPACTED_CLAIMS", 2)
    ledger = opened(state_dir)
    failed = settle(ledger, 0, ClaimStep.FAIL)
    waiting = ledger.admit(ClaimEvent(W, owner_of(1), "prebuild_claimed")).claim.id
    done = [settle(ledger, number) for number in range(2, 20)]
    kept = {claim.id for claim in ledger.all_claims()}
    assert len(kept) <= 6
    assert {failed, waiting, done[-1]} <= kept, "the oldest done ones go first, the newest claim stays"
    ledger.close()
    ledger = opened(state_dir)
    assert not ledger.damage
    for number in range(20):
        event = ClaimEvent(W, owner_of(number), "prebuild_claimed")
        replay = ledger.admit(event)
        assert replay.is_replay, number
        assert replay.claim.is_final or number == 1
        known = ledger.find(event)
        assert known is not None
        assert not ledger.new_facts(event, known)
    ledger._file._rewrite()
    assert Ledger.read(state_dir) == ledger._file.state, "also after the file is compacted"


def test_a_ledger_full_of_ids_admits_no_more(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MAX_CLAIMS", 4), ("COMPACTED_CLAIMS", 2), ("MAX_SETTLED_IDS", 6)):
        monkeypatch.setattr(f"agentd.claims.ledger.{name}", value)
    ledger = opened(state_dir)
    for number in range(10):
        settle(ledger, number)
    with pytest.raises(LedgerFullError):
        settle(ledger, 10)
    assert ledger.admit(ClaimEvent(W, owner_of(0), "prebuild_claimed")).is_replay


def test_a_claim_without_an_owner_is_not_removed(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentd.claims.ledger.MAX_CLAIMS", 2)
    ledger = opened(state_dir, workspace_id=None)
    for workspace in (W, OWNER):
        claim = ledger.admit(ClaimEvent(workspace, None, "prebuild_claimed")).claim
        ledger.plan_hooks(claim.id, [])
        ledger.settle(claim.id, ClaimStep.FINISH)
    with pytest.raises(LedgerFullError):
        ledger.admit(ClaimEvent("33333333-3333-4333-8333-333333333333", None, "prebuild_claimed"))


@pytest.mark.parametrize("number", ["NaN", "1e999", "-1", "1e300", '"x"', "9" * 5000, "[" * 5000])
@pytest.mark.parametrize("kind", ["admit", "claim"])
def test_a_record_with_an_impossible_number_is_damage(state_dir: Path, kind: str, number: str) -> None:
    write_done_claim(state_dir)
    path = state_dir / LEDGER_NAME
    [claim] = Ledger.read(state_dir).claims.values()
    record = claim.to_record() | {"admitted_at": 0.5, "at": 0.5, "kind": kind, "id": "x", "claim": "x"}
    body = encode(record | {"workspace": W, "owner": W, "held": ""}, 8)[18:-1].replace(
        b":0.5", b":" + number.encode()
    )
    body = b"{" + body
    path.write_bytes(path.read_bytes() + b'{"crc":"%08x",%s\n' % (zlib.crc32(body), body[1:]))
    state = opened(state_dir)._file.state
    assert state.damage
    assert [one.state for one in state.claims.values()] == [ClaimState.DONE]
