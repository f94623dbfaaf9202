"""The real daemon against every hostile input of `answers.py`, one daemon for each kind of input (`make attack`).

After the attack the daemon must still be the same process and do its work: run the hooks of a claim once, and deliver
the conversation at a stop. Its log must be whole JSON lines without a traceback and without its token.
"""

import asyncio
import contextlib
import os
import re
import resource
import shutil
import signal
import stat
import time
from collections import Counter
from pathlib import Path

import pytest
from e2e.attack import answers
from e2e.attack.gate import Gate
from test_attack_docs import counted

from agentd.simulator.daemon_process import ChildError, DaemonProcess

pytestmark = [pytest.mark.e2e, pytest.mark.long]

RSS_MAX_MB = 150
"""A daemon needs 42 MB. An attack may cost what its bounds allow, not what the peer sends."""

DEFECTS = {
    "agentd.task_failed", "agentd.subscriber_failed", "agent.kind_failed", "snapshot.destination_failed",
    "local_api.answer_failed", "agentd.stop_step_failed", "text",
}  # fmt: skip
"""Log events that show a defect of agentd. `text` is a line that is not JSON, such as a traceback."""


@pytest.fixture
async def coderd_gate(testbed):
    async with Gate(port_of(testbed.coderd.url)) as gate:
        yield gate


@pytest.fixture
async def agent_gate(testbed):
    async with Gate(port_of(testbed.agent.url)) as gate:
        yield gate


def port_of(url):
    return int(url.rsplit(":", 1)[1])


def rss_mb(pid):
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024


async def holds(testbed, daemon, *, is_claimed=False):
    """The daemon still does its work, and its log shows no defect."""
    assert rss_mb(daemon.pid) < RSS_MAX_MB
    testbed.agent.add_message("agent", "the last words")
    if not is_claimed:
        await testbed.claim(daemon)
    assert await daemon.stop() == 0
    assert testbed.stored()[-1]["content"] == "the last words"
    assert testbed.runs() == ["10-count 1"]
    assert [line for line in daemon.lines if line["event"] in DEFECTS or "exception" in line] == []
    assert testbed.workspace.token not in str(daemon.lines)


async def until_met(gate, path, *, wait_s, poke=None):
    """Wait until a request has met each attack on `path`. `poke` makes the daemon send its next request."""
    async with asyncio.timeout(wait_s):
        while gate.waiting(path):
            if poke is not None:
                await poke()
            await asyncio.sleep(0.02)


async def attacked(testbed, name, daemon, count, **options):
    print(f"attack: {count} {name}, {rss_mb(daemon.pid):.0f} MB at most")
    await holds(testbed, daemon, **options)


async def test_hostile_answers_to_the_claim_stream(testbed, coderd_gate):
    testbed.counting_hook("10-count")
    hostile = answers.series(testbed.workspace.id)["answers to the claim stream"]
    for each in hostile:
        coderd_gate.attack("/reinit", each)
    daemon = await testbed.start(CODER_AGENT_URL=coderd_gate.url)

    async def connect_now():
        daemon.signal(signal.SIGHUP)  # it connects again at once, also after a refusal

    await until_met(coderd_gate, "/reinit", wait_s=300, poke=connect_now)
    await attacked(testbed, "answers to the claim stream", daemon, len(hostile))


async def test_hostile_answers_to_an_upload(testbed, coderd_gate):
    testbed.counting_hook("10-count")
    testbed.agent.add_message("user", "hello")
    hostile = answers.series()["answers to an upload"]
    daemon = await testbed.start(CODER_AGENT_URL=coderd_gate.url, AGENTD_SHUTDOWN_BUDGET_S="1")
    await daemon.status_until(lambda s: s["snapshot"]["messages"], what="a snapshot")
    count = 0
    for each in hostile:
        coderd_gate.attack("/log-snapshot", each)
        count += 1
        testbed.agent.add_message("agent", f"message {count}")
        while coderd_gate.waiting("/log-snapshot"):
            await daemon.ask("/v1/snapshot", method="POST")
    await attacked(testbed, "answers to an upload", daemon, count)


async def test_hostile_answers_to_a_status_update(testbed, coderd_gate):
    testbed.counting_hook("10-count")
    hostile = [*answers.json_answers(answers.CODERD_FIELDS, answers.STATUSES), *answers.broken_http()]
    for each in hostile:
        coderd_gate.attack("/app-status", each)
    daemon = await testbed.start(CODER_AGENT_URL=coderd_gate.url, AGENTD_STATUS_APP_SLUG="agent")
    async with asyncio.timeout(60):
        for turn in range(100):
            state = ("working", "idle")[turn % 2]
            await daemon.ask("/v1/events", method="POST", body={"state": state, "message": f"turn {turn}"})
            await asyncio.sleep(0.1)
    print(f"attack: {coderd_gate.answered} answers to a status update")
    assert coderd_gate.answered >= 1
    await holds(testbed, daemon)


@pytest.mark.parametrize("path", ["/status", "/messages", "/events"])
async def test_hostile_answers_of_agentapi(testbed, agent_gate, path):
    testbed.counting_hook("10-count")
    hostile = answers.series()["answers of AgentAPI to `/status`"]
    for each in hostile:
        agent_gate.attack(path, each)
    daemon = await testbed.start(AGENTD_AGENTAPI_URL=agent_gate.url)
    turn = 0

    async def change():
        nonlocal turn
        turn += 1
        testbed.agent.add_message("agent", f"message {turn}")
        if path == "/events":
            agent_gate.drop()  # it connects again, after a pause
        if path == "/messages":
            await daemon.ask("/v1/snapshot", method="POST")

    if path == "/events":
        for _ in range(100):
            await change()
            await asyncio.sleep(0.05)
        count = agent_gate.answered
        agent_gate.clear()
    else:
        await until_met(agent_gate, path, wait_s=300, poke=change)
        count = len(hostile)
    await attacked(testbed, f"answers of AgentAPI to {path}", daemon, count)


@pytest.mark.parametrize("over", ["unix", "tcp"])
async def test_hostile_requests_to_the_local_api(testbed, over, unused_tcp_port):
    testbed.counting_hook("10-count")
    address = f"127.0.0.1:{unused_tcp_port}"
    daemon = await testbed.start(**({"AGENTD_LOCAL_API_LISTEN": address} if over == "tcp" else {}))
    hostile = answers.series(host="agentd" if over == "unix" else address)["requests over TCP"]

    async def connect():
        if over == "unix":
            return await asyncio.open_unix_connection(str(daemon.socket))
        return await asyncio.open_connection("127.0.0.1", unused_tcp_port)

    for each in hostile:
        reader, writer = await connect()
        writer.write(each)
        writer.write_eof()
        async with asyncio.timeout(10):
            try:
                answer = await reader.read(1 << 20)
            except ConnectionError:
                answer = b""
        writer.close()
        assert b" 500 " not in answer.split(b"\r\n", 1)[0], (each[:200], answer[:500])
    await attacked(testbed, f"requests over {over}", daemon, len(hostile))


@pytest.fixture
def many_descriptors():
    """The test holds more connections than most shells allow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_idle_connections_do_not_delay_a_claim(testbed, unused_tcp_port, many_descriptors):
    started = testbed.home / "started"
    testbed.hook(
        "10-count", f'date +%s.%N > {started}\necho "$AGENTD_HOOK $AGENTD_ATTEMPT" >> {testbed.home}/runs'
    )
    daemon = await testbed.start(AGENTD_LOCAL_API_LISTEN=f"127.0.0.1:{unused_tcp_port}")
    await daemon.status_until(lambda s: s["claims"]["state"] == "listening", what="listening")
    tcp = [
        asyncio.open_connection("127.0.0.1", unused_tcp_port)
        for _ in range(answers.CONNECTIONS["idle connections to the TCP port"])
    ]
    unix = [
        asyncio.open_unix_connection(str(daemon.socket))
        for _ in range(answers.CONNECTIONS["idle connections to the unix socket"])
    ]
    testbed.coderd.claim_start(testbed.workspace)
    idle = await asyncio.wait_for(asyncio.gather(*tcp[100:], *unix), 30)
    # The others arrive with the claim.
    late = asyncio.gather(*tcp[:100])
    published = time.time()
    await testbed.coderd.claim_finish(testbed.workspace)
    idle += await asyncio.wait_for(late, 30)
    status = await testbed.run("status")
    await daemon.status_until(lambda s: s["claims"]["state"] == "settled", what="settled")
    delay_s = float(started.read_text()) - published
    print(f"attack: {len(idle)} idle connections, the hook of a claim started after {1000 * delay_s:.0f} ms")
    assert status.code == 0, status
    assert delay_s < 1
    await attacked(testbed, "idle connections", daemon, len(idle), is_claimed=True)
    for _, writer in idle:
        writer.close()


async def test_large_posts_cost_bounded_memory(testbed, unused_tcp_port, many_descriptors):
    testbed.counting_hook("10-count")
    address = f"127.0.0.1:{unused_tcp_port}"
    daemon = await testbed.start(AGENTD_LOCAL_API_LISTEN=address)
    body = b'{"state":"working","message":"' + b"x" * 1_000_000 + b'"}'
    head = f"POST /v1/events HTTP/1.1\r\nHost: {address}\r\n"
    head += "Content-Type: application/json\r\nConnection: close\r\n"
    # One half names its length, the other half comes in chunks.
    named = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    chunked = f"{head}Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    codes = Counter()

    async def post(request):
        reader, writer = await asyncio.open_connection("127.0.0.1", unused_tcp_port)
        answer = b""
        with contextlib.suppress(OSError):
            writer.write(request)
            await writer.drain()
        with contextlib.suppress(OSError):
            answer = await asyncio.wait_for(reader.read(4096), 30)
        codes[answer[9:12].decode() or "closed"] += 1
        writer.close()

    count = answers.CONNECTIONS["posts of 1 MB"]
    await asyncio.gather(*(post((named, chunked)[number % 2]) for number in range(count)))
    print(f"attack: {dict(codes)}")
    assert codes.keys() <= {"413", "closed"}
    assert codes["413"] > 0
    await attacked(testbed, "posts of 1 MB", daemon, count)


# Files.

PLANTED = {
    "a named pipe": os.mkfifo,
    "a directory": lambda path: path.mkdir(),
    "a link to an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("/nonexistent/x"),
    "a socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
    "nothing": lambda path: path.touch(),
    "deep JSON": lambda path: path.write_text(answers.DEEP),
    "an endless number": lambda path: path.write_text('{"v":1,"at":1e999,"state":1e999,"pid":1e999}'),
    "a huge integer": lambda path: path.write_text('{"v":' + answers.HUGE_INT + "}"),
    "bytes that are no text": lambda path: path.write_bytes(b"\xff\xfe\x00" * 1000),
    "4 GB": lambda path: (path.touch(), os.truncate(path, 4 << 30)),
}
EXITS = {0, 73, 75, 78}
"""A start may be refused with an error for the operator, and a stop may leave a snapshot undelivered."""


async def planted(testbed, folder, name, plant):
    """Start and stop a daemon whose state directory has a planted file. Returns what went wrong, None if nothing did."""
    state_dir = testbed.home / "planted" / f"{name.replace('/', '-')}-{plant.replace(' ', '-')}"
    shutil.copytree(folder, state_dir, symlinks=True, ignore=shutil.ignore_patterns("*.sock"))
    path = state_dir / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    PLANTED[plant](path)
    daemon = DaemonProcess(testbed.environ | {"AGENTD_STATE_DIR": str(state_dir)}, state_dir=state_dir)
    async with daemon:
        try:
            with contextlib.suppress(ChildError):  # a start that is refused
                await daemon.log("agentd.started", wait_s=15)
                daemon.signal(signal.SIGTERM)
            code = await daemon.exit_code(wait_s=15)
        except ChildError as exc:
            return f"{name}, {plant}: {exc}"
    defects = [line for line in daemon.lines if line["event"] in DEFECTS or "exception" in line]
    refusal = [line["text"] for line in daemon.lines if line["event"] == "text"]
    if code in {73, 78} and refusal:
        defects = []  # one line for the operator
    return None if code in EXITS and not defects else f"{name}, {plant}: exit {code}, {defects} {refusal}"


async def test_planted_files_in_the_state_directory(testbed):
    testbed.counting_hook("10-count")
    testbed.agent.add_message("user", "hello")
    daemon = await testbed.start()
    await testbed.claim(daemon)
    await daemon.status_until(lambda s: s["snapshot"]["messages"], what="a snapshot")
    await daemon.ask("/v1/events", method="POST", body={"state": "working", "message": "x"})
    assert await daemon.stop() == 0
    names = sorted(
        str(path.relative_to(testbed.state_dir))
        for path in testbed.state_dir.rglob("*")
        if not path.is_socket()
    )
    limit = asyncio.Semaphore(4)

    async def one(name, plant):
        async with limit:
            return await planted(testbed, testbed.state_dir, name, plant)

    wrong = await asyncio.gather(*(one(name, plant) for name in names for plant in PLANTED))
    print(f"attack: {len(wrong)} planted files: {', '.join(names)}")
    assert len(wrong) == counted()["files planted in the state directory"]
    assert [each for each in wrong if each] == []
