import errno
import os
import stat
import threading
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agentd.conversation.fit import fit
from agentd.conversation.message import Message
from agentd.errors import StateError
from agentd.snapshots import entry as entry_format
from agentd.snapshots.entry import DamagedError, NewerSpoolSchemaError, SpoolEntry
from agentd.snapshots.receipts import DestinationOutcome, DestinationReceipt
from agentd.snapshots.spool import MAX_TASKS, Spool
from agentd.snapshots.spool_files import MAX_QUARANTINED

TASK = "11111111-1111-4111-8111-111111111111"
WHEN = "2026-03-02T09:00:00.000000Z"
DELIVERED = DestinationReceipt("coder", DestinationOutcome.DELIVERED, 204, "", 1, WHEN)


def fitted(text="hello"):
    return fit([Message(0, "agent", text, WHEN)], max_messages=10)


def put(spool, text="hello", task_id=TASK, captured_at=WHEN):
    spool.put(task_id, fitted(text), captured_at=captured_at)
    write(spool)
    return spool.get(task_id)


def add_receipt(spool, entry, receipt=DELIVERED):
    with_receipt = spool.add_receipt(entry, receipt)
    write(spool)
    return with_receipt


def write(spool):
    failure = spool.start_write().result(timeout=10)
    if failure is not None:
        raise failure


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool")


def reopened(spool):
    return Spool(spool.path)


def files(spool):
    return sorted(path.name for path in spool.path.iterdir())


def test_a_snapshot_is_read_back_byte_for_byte(spool):
    put(spool, "漢字 😀")
    assert reopened(spool).get(TASK) == spool.get(TASK)
    assert spool.get(TASK).payload == fitted("漢字 😀").payload
    assert (spool.path / f"{TASK}.snapshot").read_bytes().split(b"\n", 1)[1] == fitted("漢字 😀").payload


def test_the_newest_snapshot_of_each_task_and_of_all_is_found(spool):
    put(spool, "one")
    put(spool, "other", task_id="")
    put(spool, "two")
    again = reopened(spool)
    assert again.get(TASK).payload == fitted("two").payload
    assert [entry.task_id for entry in again.entries()] == ["", TASK]
    assert again.newest().task_id == TASK


def test_the_newest_snapshot_does_not_depend_on_the_wall_clock(spool):
    put(spool, "first", captured_at="2030-01-01T00:00:00Z")
    put(spool, "second", task_id="", captured_at="2020-01-01T00:00:00Z")
    assert reopened(spool).newest().task_id == ""


def test_files_are_private(spool):
    put(spool)
    assert stat.S_IMODE(spool.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in spool.path.iterdir()} == {0o600}


def test_the_same_payload_is_not_written_again(spool):
    first = put(spool)
    inode = (spool.path / f"{TASK}.snapshot").stat().st_ino
    assert put(spool) == first
    assert (spool.path / f"{TASK}.snapshot").stat().st_ino == inode


@pytest.mark.parametrize(
    "task_id", ["", "../../etc/passwd", "a/b", ".", "x" * 5000, "ü\ud800\0", TASK.upper()]
)
def test_any_task_id_names_a_file_in_the_spool(spool, task_id):
    put(spool, task_id=task_id)
    assert len(files(spool)) == 1
    assert reopened(spool).get(task_id).payload == fitted().payload


# --- receipts ---


def test_a_receipt_belongs_to_one_snapshot(spool):
    assert add_receipt(spool, put(spool)).delivered_to("coder")
    again = reopened(spool)
    assert again.get(TASK).receipts == {"coder": DELIVERED}
    assert again.get(TASK).payload == fitted().payload, "it stays readable"
    assert not put(again, "more").delivered_to("coder")
    assert not put(again).delivered_to("coder"), "the first text again is a new snapshot"


def test_a_receipt_for_a_replaced_snapshot_is_dropped(spool):
    old = put(spool)
    put(spool, "newer")
    assert add_receipt(spool, old) is None
    assert not reopened(spool).get(TASK).delivered_to("coder")


def test_each_destination_has_its_own_receipt(spool):
    add_receipt(spool, put(spool))
    add_receipt(
        spool,
        spool.get(TASK),
        DestinationReceipt("file", DestinationOutcome.PENDING, None, "disk full", 3, WHEN),
    )
    entry = reopened(spool).get(TASK)
    assert entry.delivered_to("coder")
    assert not entry.delivered_to("file")
    assert set(entry.receipts) == {"coder", "file"}


# --- damage ---


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_every_damaged_byte_is_detected(data):
    whole = entry_format.encode(
        SpoolEntry(TASK, fitted("x" * 50).payload, 1, False, WHEN, 3, {"coder": DELIVERED})
    )
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DamagedError):
        entry_format.decode(bytes(damaged))
    with pytest.raises(DamagedError):
        entry_format.decode(whole[:at])
    with pytest.raises(DamagedError):
        entry_format.decode(whole + whole[: at + 1])


def test_a_damaged_file_is_quarantined_and_logged_and_the_others_are_read(spool):
    put(spool)
    put(spool, "kept", task_id="")
    path = spool.path / f"{TASK}.snapshot"
    damaged = path.read_bytes()[:-3]
    path.write_bytes(damaged)
    with capture_logs() as logs:
        again = reopened(spool)
    assert again.get(TASK) is None
    assert again.get("").payload == fitted("kept").payload
    kept = spool.path / "quarantine" / path.name
    assert kept.read_bytes() == damaged
    assert [(line["event"], line["file"]) for line in logs] == [("spool.quarantined", str(kept))]
    assert list(kept.parent.iterdir()) == [kept]
    put(again, "anew")
    assert reopened(spool).get(TASK).payload == fitted("anew").payload


def test_the_quarantine_keeps_a_limited_number_of_files(spool):
    for number in range(MAX_QUARANTINED + 5):
        (spool.path / f"{TASK}.snapshot").write_bytes(b"damage %d" % number)
        reopened(spool)
    kept = [path.read_bytes() for path in (spool.path / "quarantine").iterdir()]
    assert len(kept) == MAX_QUARANTINED
    assert b"damage %d" % (MAX_QUARANTINED + 4) in kept


def test_a_header_without_its_fields_is_damaged_although_its_checksum_is_right():
    head = b"agentd-snapshot 1 %08x {}\n" % zlib.crc32(b"1 {}")
    with pytest.raises(DamagedError, match="lacks"):
        entry_format.decode(head)


def test_an_unreadable_file_is_not_changed_and_is_logged(spool, monkeypatch):
    put(spool)
    real = os.open

    def locked(path, flags, *args, **kwargs):
        if str(path).endswith(".snapshot") and not flags & os.O_WRONLY:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, *args, **kwargs)

    with monkeypatch.context() as broken, capture_logs() as logs:
        broken.setattr(os, "open", locked)
        assert reopened(spool).entries() == []
    assert [(line["event"], line["reason"]) for line in logs] == [("spool.unreadable", "Permission denied")]
    assert reopened(spool).get(TASK).payload == fitted().payload


@pytest.mark.parametrize("kind", ["directory", "pipe", "symlink", "huge", "empty", "other task"])
def test_a_file_of_another_kind_does_not_prevent_the_start(spool, kind, tmp_path):
    path = spool.path / f"{TASK}.snapshot"
    match kind:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "symlink":
            (tmp_path / "elsewhere").write_bytes(b"precious")
            path.symlink_to(tmp_path / "elsewhere")
        case "huge":
            path.touch()
            os.truncate(path, 10 << 30)
        case "empty":
            path.touch()
        case "other task":
            put(spool, task_id="")
            (spool.path / "no-task.snapshot").rename(path)
    with capture_logs() as logs:
        assert reopened(spool).entries() == []
    assert len(logs) == 1
    if kind == "symlink":
        assert (tmp_path / "elsewhere").read_bytes() == b"precious"


def test_a_file_of_a_newer_agentd_is_not_overwritten(spool, monkeypatch):
    monkeypatch.setattr(entry_format, "SCHEMA", 2)
    put(spool)
    monkeypatch.undo()
    path = spool.path / f"{TASK}.snapshot"
    newer = path.read_bytes()
    with pytest.raises(NewerSpoolSchemaError, match="schema 2"):
        entry_format.decode(newer)
    with capture_logs() as logs:
        again = reopened(spool)
    assert again.get(TASK) is None
    assert path.read_bytes() == newer
    assert [line["event"] for line in logs] == ["spool.newer_schema"]
    put(again)
    assert (spool.path / f"{TASK}.snapshot.schema2").read_bytes() == newer
    assert reopened(spool).get(TASK).payload == fitted().payload


def test_the_temporary_file_of_an_interrupted_write_is_removed(spool):
    put(spool)
    (spool.path / f".tmp-{TASK}.snapshot").write_bytes(b"half")
    assert reopened(spool).get(TASK).payload == fitted().payload
    assert files(spool) == [f"{TASK}.snapshot"]


def test_the_spool_is_bounded_and_drops_delivered_snapshots_first(spool):
    for number in range(MAX_TASKS):
        put(spool, str(number), task_id=f"task {number}")
    add_receipt(spool, spool.get("task 5"))
    with capture_logs() as logs:
        put(spool, "one more", task_id="task 16")
        put(spool, "and more", task_id="task 17")
    kept = {entry.task_id for entry in reopened(spool).entries()}
    assert kept == {f"task {number}" for number in range(18)} - {"task 5", "task 0"}
    assert [(line["task_id"], line["delivered"]) for line in logs] == [("task 5", True), ("task 0", False)]
    assert len(files(spool)) == MAX_TASKS


def test_tasks_above_the_limit_in_memory_are_evicted_by_the_next_write(spool):
    for number in range(MAX_TASKS + 2):
        spool.put(f"task {number}", fitted(str(number)), captured_at=WHEN)
    write(spool)
    kept = [f"task {number}" for number in range(2, MAX_TASKS + 2)]
    assert [entry.task_id for entry in spool.entries()] == kept
    assert [entry.task_id for entry in reopened(spool).entries()] == kept


# --- a disk that refuses a write ---


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_after_a_failed_write_the_old_snapshot_is_on_disk_and_the_new_one_in_memory(
    spool, monkeypatch, call, code
):
    put(spool, "old")
    real = getattr(os, call)

    def failing(*args, **kwargs):
        if call == "open" and not args[1] & os.O_WRONLY:
            return real(*args, **kwargs)
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as broken:
        broken.setattr(os, call, failing)
        with pytest.raises(OSError, match=os.strerror(code)):
            put(spool, "new")
    assert (spool.get(TASK).payload, spool.get(TASK).durable) == (fitted("new").payload, False)
    assert reopened(spool).get(TASK).payload == fitted("old").payload
    assert files(spool) == [f"{TASK}.snapshot"], "no temporary file that fills the disk"
    assert put(spool, "new").durable
    assert reopened(spool).get(TASK).payload == fitted("new").payload


def test_a_receipt_that_a_full_disk_refused_is_written_later(spool, monkeypatch):
    entry = put(spool)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", lambda _fd: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="full"):
            add_receipt(spool, entry)
    assert spool.get(TASK).delivered_to("coder")
    assert not reopened(spool).get(TASK).delivered_to("coder"), (
        "delivered again after a restart, which is harmless"
    )
    put(spool)
    assert reopened(spool).get(TASK).delivered_to("coder")


def test_short_writes_are_completed(spool, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    put(spool)
    assert reopened(spool).get(TASK).payload == fitted().payload


@pytest.mark.parametrize("blocked", ["immovable file", "unlistable"])
def test_the_error_for_an_unusable_directory_has_a_hint(tmp_path, blocked, monkeypatch):
    path = tmp_path / "spool"
    if blocked == "immovable file":
        path.touch()
        monkeypatch.setattr(
            type(path), "rename", lambda _path, _to: (_ for _ in ()).throw(OSError(errno.EROFS, "read-only"))
        )
    else:
        monkeypatch.setattr(
            os, "listdir", lambda _path: (_ for _ in ()).throw(PermissionError(errno.EACCES, "no"))
        )
        monkeypatch.setattr(
            os, "scandir", lambda _path: (_ for _ in ()).throw(PermissionError(errno.EACCES, "no"))
        )
    with pytest.raises(StateError, match="AGENTD_STATE_DIR"):
        Spool(path)


async def test_writes_run_in_the_spools_thread(spool, monkeypatch):
    threads = set()
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (threads.add(threading.current_thread().name), real(fd))[1])
    for number in range(3):
        spool.put(TASK, fitted(str(number)), captured_at=WHEN)
        await spool.flush_to_disk(10)
    assert threads == {"agentd-disk"}
    assert spool.close()
