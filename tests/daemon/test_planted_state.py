"""Another program of the same user plants something at the name of a state file: nothing hangs, nothing crashes."""

import contextlib
import json
import os
import shutil
import socket
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from agentd import config
from agentd.claims.events import ClaimEvent
from agentd.claims.ledger import Ledger, claim_as_json
from agentd.clock import Clock
from agentd.conversation.message import Message
from agentd.daemon import last_stop
from agentd.daemon.build import build
from agentd.doctor import bundle
from agentd.doctor import state as doctor_state
from agentd.local_api import unix_socket
from agentd.snapshots.spool_files import read_without_lock
from agentd.stability.status_report import Source

EVENT = ClaimEvent(
    "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222", "prebuild_claimed"
)

NAMES = (
    "agentd.lock", "agentd.sock", "claims.jsonl", "claims.mark", "task.json", "last-stop.json",
    "spool", "spool/no-task.snapshot", "spool/quarantine",
)  # fmt: skip


def tmp_name(name: str) -> str:
    folder, _, last = name.rpartition("/")
    return f"{folder}/.tmp-{last}".lstrip("/")


def spooled(header: bytes) -> bytes:
    return b"agentd-snapshot 1 %08x %b\n{}" % (zlib.crc32(b"1 " + header), header)


def ledger_line(body: bytes) -> bytes:
    return b'{"crc":"%08x",%b\n' % (zlib.crc32(body), body[1:])


DEEP = b'{"a":' + b"[" * 100_000
NUMBERS = [b"1e999", b"-1e999", b"NaN", b"Infinity", b"9" * 5000, b"9" * 19, b"-1", b"1e300"]
TASK = b'{"turn":%b,"user":{"id":%b,"digest":1,"at":%b},"told":null,"claims":[{"word":"idle","source":"report","at":%b,"message":"","uri":""}]}'
STOP = (
    b'{"state":"running","started_at":"","reason":"","began_at":"","ended_at":"","budget_s":%b,"outcome":""}'
)
HEADER = (
    b'{"task_id":"","serial":%b,"captured_at":"","messages":%b,"truncated":false,"bytes":2,'
    b'"sha256":"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","receipts":[]}'
)
CONTENTS: dict[str, bytes] = {
    "nothing": b"",
    "NUL bytes": b"\0" * 4096,
    "bad UTF-8": b'{"state":"\xff\xfe","turn":"\xc3\x28"}',
    "a lone surrogate": rb'{"turn":1,"user":null,"told":{"word":"idle","message":"\ud800","uri":""},"claims":[]}',
    "deep JSON": DEEP,
    "deep JSON in a text": STOP.replace(b'"reason":""', b'"reason":' + b"[" * 900 + b"]" * 900) % b"1",
    "a list": b"[]",
    "null": b"null",
    "wrong types": b'{"state":["running"],"turn":{},"user":7,"told":[1],"claims":{"a":1}}',
    "a spool header of wrong types": spooled(b'{"task_id":5,"serial":"x","receipts":[]}'),
    "a deep spool header": spooled(DEEP),
    "a ledger of deep JSON": ledger_line(DEEP),
    "a mark of digits": b"9" * 49,
    **{f"a task with {number[:9]!r}": TASK % (number, number, number, number) for number in NUMBERS},
    **{f"a stop with {number[:9]!r}": STOP % number for number in NUMBERS},
    **{f"a spool header with {number[:9]!r}": spooled(HEADER % (number, number)) for number in NUMBERS},
    **{
        f"a ledger with {number[:9]!r}": ledger_line(
            b'{"v":1,"seq":1,"kind":"admit","at":%b,"claim":"x","workspace":null,"owner":null,"reason":"r","token":"","held":""}'
            % number
        )
        for number in NUMBERS
    },
}


def plant_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound, contextlib.chdir(path.parent):
        bound.bind(path.name)


def plant_full_directory(path: Path) -> None:
    (path / "a" / "b").mkdir(parents=True)


PLANTS: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a socket": plant_socket,
    "a directory": Path.mkdir,
    "a full directory": plant_full_directory,
    "a link to an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a link to a terminal": lambda path: path.symlink_to("/dev/ptmx"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a file of 1 TiB": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
    "an unreadable file": lambda path: path.touch(mode=0),
    **{name: (lambda path, content=content: path.write_bytes(content)) for name, content in CONTENTS.items()},
}
if os.geteuid() == 0:
    PLANTS["a device"] = lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    PLANTS["a file of another user"] = lambda path: (path.touch(), os.chown(path, 12345, -1))


@pytest.fixture
def settings(tmp_path: Path) -> config.Config:
    environ = {
        "AGENTD_STATE_DIR": str(tmp_path / "state"),
        "CODER_AGENT_URL": "http://127.0.0.1:9",
        "CODER_AGENT_TOKEN": "11111111-1111-4111-8111-111111111111",
        "CODER_WORKSPACE_ID": str(EVENT.workspace_id),
    }
    return config.load(environ=environ, system_file=tmp_path / "none")


async def use(settings: config.Config) -> None:
    """Start, write every state file, and read them as the commands do."""
    state = settings.state.dir
    read_as_commands(state)
    async with build(settings, Clock()) as components:
        unix_socket.bind(settings.local_api.socket).close()
        components.last_stop.warn_if_killed()
        await components.last_stop.running(timeout_s=5)
        ledger = components.ledger
        ledger.token_fingerprint = "token"
        claim = ledger.admit(EVENT).claim
        components.recorder.record_messages([Message(1, "agent", "hello", "2026-03-02T09:00:00Z")])
        entry = await components.recorder.flush_to_disk()
        assert entry is not None
        assert entry.durable
        await components.task_reports.report({"state": "working"}, Source.REPORT)
        json.dumps(components.last_stop.previous and components.last_stop.previous.as_json(), allow_nan=False)
        assert components.state.writable()
    for name in ("claims.jsonl", "claims.mark", "task.json", "last-stop.json", "spool/no-task.snapshot"):
        assert stat.S_ISREG((state / name).lstat().st_mode), name
    assert claim.id in Ledger.read(state).claims
    read_as_commands(state)


def read_as_commands(state: Path) -> None:
    for claim in Ledger.read(state).claims.values():
        json.dumps(claim_as_json(claim, tails=True), allow_nan=False)
    last_stop.read(state)
    read_without_lock(state / "spool")
    doctor_state.check(state, state / "spool")
    bundle.list_files(state)
    bundle.spool_headers(state / "spool")


@pytest.fixture
def descriptors() -> Iterator[None]:
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 4, "no plant leaves a file open"


async def start_with(settings: config.Config, what: str, names: Sequence[str]) -> None:
    """Start with the thing `what` at each of `names`."""
    state = settings.state.dir
    state.mkdir(mode=0o700)
    if "spool" not in names:
        (state / "spool").mkdir()
    for name in names:
        PLANTS[what](state / name)
    try:
        await use(settings)
    except BaseException as exc:
        exc.add_note(f"planted at {names}: {what}")
        raise
    shutil.rmtree(state)


ALL_NAMES = [*NAMES, *map(tmp_name, NAMES)]


@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize("first", range(8))
async def test_no_thing_at_all_names_at_once_hangs_or_crashes_a_start(settings, first):
    for what in [*PLANTS][first::8]:
        await start_with(settings, what, [name for name in ALL_NAMES if name != "spool"])
        await start_with(settings, what, ["spool"])


@pytest.mark.long
@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize("name", ALL_NAMES)
async def test_no_thing_at_any_one_name_hangs_or_crashes_a_start(settings, name):
    for what in PLANTS:
        await start_with(settings, what, [name])


async def test_what_was_planted_is_kept_for_an_operator_in_a_bounded_number_of_files(settings):
    state = settings.state.dir
    for number in range(10):
        state.mkdir(mode=0o700, exist_ok=True)
        (state / "task.json").write_bytes(b"[%d]" % number)
        (state / "last-stop.json").write_bytes(b"[%d]" % number)
        await use(settings)
    assert 1 < len(list(state.glob("task.json.corrupt*"))) <= 4
    assert (state / "task.json.corrupt").read_bytes() == b"[0]"
