"""The destinations except coderd: an HTTP server, a directory, a program, an object store. All are real."""

import asyncio
import json
import os
import stat
import sys
import time
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from agentd import log
from agentd.clock import Clock
from agentd.conversation.fit import fit
from agentd.conversation.message import Message
from agentd.errors import ConfigError
from agentd.metrics import Registry
from agentd.snapshots.delivery import Delivery
from agentd.snapshots.destinations.by_url import SCHEMES, from_url, from_urls
from agentd.snapshots.destinations.destination import RejectedError, RetryableError
from agentd.snapshots.destinations.url_template import DestinationContext, UrlTemplate
from agentd.snapshots.entry import SpoolEntry
from agentd.snapshots.receipts import DestinationOutcome, DestinationReceipt
from agentd.snapshots.spool import Spool

TASK = "11111111-1111-4111-8111-111111111111"
WORKSPACE = "22222222-2222-4222-8222-222222222222"
WHEN = "2026-03-02T09:00:00.000000Z"
SECRET = "Bearer s3cr3t-value"


def entry_of(text="hello", task_id=TASK):
    fitted = fit([Message(0, "agent", text, WHEN)], max_messages=10)
    return SpoolEntry(task_id, fitted.payload, fitted.messages, fitted.truncated, WHEN, serial=1)


@pytest.fixture
def context(session, tmp_path):
    return DestinationContext(
        session=session, folder=tmp_path, environ=dict(os.environ), workspace_id=lambda: WORKSPACE
    )


# --- names ---


@pytest.mark.parametrize(
    ("url", "task_id", "place"),
    [
        ("https://h/x/", TASK, f"https://h/x/{TASK}.json"),
        ("https://h/x/", "", f"https://h/x/workspace-{WORKSPACE}.json"),
        ("https://h", TASK, f"https://h/{TASK}.json"),
        ("https://h/x", TASK, "https://h/x"),
        ("s3://b/{workspace_id}/{task_id}/last.json", TASK, f"s3://b/{WORKSPACE}/{TASK}/last.json"),
        ("file:///d/{task_id}.json", "", "file:///d/no-task.json"),
        ("file:///d/", "../../etc/passwd", "file:///d/%2E%2E%2F%2E%2E%2Fetc%2Fpasswd.json"),
        ("https://h/x/?sig=abc", TASK, f"https://h/x/{TASK}.json?sig=abc"),
    ],
)
def test_each_task_has_one_url_inside_the_configured_folder(url, task_id, place):
    assert UrlTemplate(url, lambda: WORKSPACE).expand(task_id) == place


def test_without_any_id_the_file_has_a_fixed_name():
    assert UrlTemplate("file:///d/", str).expand("") == "file:///d/snapshot.json"


def test_the_name_of_a_destination_has_no_credentials_and_no_query():
    assert UrlTemplate("https://user:pw@h:8/x?sig=abc#y", str).name == "https://h:8/x"


QUERIES = st.text("abcdefgh0123456789=&", min_size=8, max_size=12)
URLS = st.lists(
    st.builds(
        "{}{}".format,
        st.sampled_from(["http://h/x/", "http://h/y", "http://k/x/"]),
        st.one_of(st.just(""), QUERIES.map("?{}".format)),
    ),
    unique=True,
    max_size=5,
)


@given(urls=URLS, order=st.randoms(use_true_random=False))
def test_every_destination_has_its_own_stable_name_without_its_query(urls, order):
    context = DestinationContext(session=None, folder=Path(), environ={})
    names = {url: destination.name for url, destination in zip(urls, from_urls(urls, context), strict=True)}
    assert len(set(names.values())) == len(urls)
    shuffled = list(urls)
    order.shuffle(shuffled)
    assert names == {
        url: destination.name for url, destination in zip(shuffled, from_urls(shuffled, context), strict=True)
    }
    for url, name in names.items():
        address, _, query = url.partition("?")
        assert not query or query not in name
        alone = [other for other in urls if other.partition("?")[0] == address] == [url]
        assert alone == (name == address)


async def test_urls_that_differ_only_in_the_query_get_every_snapshot_also_after_an_upgrade(
    http, context, tmp_path
):
    """Before, they shared a name, and so the receipt of one was taken for the other's."""
    urls = [f"{http.url}/x?sig=one", f"{http.url}/x?sig=two"]
    spool = Spool(tmp_path / "spool")
    spool.put(TASK, fit([Message(0, "agent", "hello", WHEN)], max_messages=10), captured_at=WHEN)
    plain = DestinationReceipt(f"{http.url}/x", DestinationOutcome.DELIVERED)
    spool.add_receipt(spool.get(TASK), plain)
    delivery = Delivery(
        spool=spool, destinations=from_urls(urls, context), upload="settle", clock=Clock(), metrics=Registry()
    )
    receipt = await delivery.flush(time.monotonic() + 8)
    assert sorted(path for _, path, _, _ in http.requests) == ["/x?sig=one", "/x?sig=two"]
    assert [one.outcome for one in receipt.destinations] == [DestinationOutcome.DELIVERED] * 2
    assert "sig" not in json.dumps(receipt.as_json())
    await delivery.flush(time.monotonic() + 8)
    assert len(http.requests) == 2
    spool.close()


@given(
    scheme=st.sampled_from([*SCHEMES, "ftp", "x-y.z"]),
    user=st.sampled_from(["", "user:pw@", "tok@en@"]),
    host=st.sampled_from(["", "h", "h:8", "[::1]:8"]),
    path=st.sampled_from(["", "/", "/x", "/a//b/"]),
    rest=st.sampled_from(["", "?sig=s3cr3t", "#s3cr3t", "?a=1&k=s3cr3t#s3cr3t"]),
)
def test_a_name_is_the_url_without_its_secrets_for_every_scheme(scheme, user, host, path, rest):
    assert UrlTemplate(f"{scheme}://{user}{host}{path}{rest}", str).name == f"{scheme}://{host}{path}"


def test_the_name_of_a_path_is_the_path():
    assert UrlTemplate("/tmp/kept/it.json", str).name == "/tmp/kept/it.json"


@pytest.mark.parametrize("scheme", ["https://h", "http://h", "file://", "exec://"])
def test_the_query_of_a_url_is_in_no_name_of_a_destination(scheme, context):
    assert from_url(f"{scheme}/path/to?sig=s3cr3t", context).name == f"{scheme}/path/to"


def test_an_error_about_a_url_does_not_contain_its_query(context):
    for url in ("exec://tool?sig=s3cr3t", "ftp://h/x?sig=s3cr3t"):
        with pytest.raises(ConfigError) as caught:
            from_url(url, context)
        assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["ftp://h/x", "file://relative/x", "file:///", "exec://tool", "gopher:///x", "https2://x"]
)
def test_an_invalid_destination_url_is_a_config_error(url, context):
    with pytest.raises(ConfigError, match=r"snapshots\.destinations"):
        from_url(url, context)


# --- a directory ---


async def test_a_directory_gets_the_payload_as_a_file_of_mode_0600(context, tmp_path):
    destination = from_url(f"file://{tmp_path}/deep/er/", context)
    await destination.deliver(entry_of("older"))
    accepted = await destination.deliver(entry_of())
    path = tmp_path / "deep" / "er" / f"{TASK}.json"
    assert path.read_bytes() == entry_of().payload
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert accepted.detail == str(path)
    assert [child.name for child in path.parent.iterdir()] == [path.name]


async def test_a_directory_that_cannot_be_written_is_retryable(context, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RetryableError, match="cannot be written"):
        await from_url(f"file://{tmp_path}/file/x/", context).deliver(entry_of())


# --- an HTTP server ---


class Server:
    """Answers with `status`, `headers` and `body` and stores the requests."""

    def __init__(self):
        self.status, self.body, self.headers = 200, b"", {}
        self.hang = None
        self.requests = []

    async def handle(self, request):
        self.requests.append((request.method, request.path_qs, dict(request.headers), await request.read()))
        if self.hang is not None:
            await self.hang.wait()
        return web.Response(status=self.status, body=self.body, headers=self.headers)


@pytest.fixture
async def http(aiohttp_server):
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    running = await aiohttp_server(app)
    server.url = f"http://127.0.0.1:{running.port}"
    return server


@pytest.fixture
def headers_file(tmp_path):
    path = tmp_path / "headers"
    path.write_text(f"# for the archive\nAuthorization: {SECRET}\n\nX-Team: blue\n")
    return path


def with_options(context, **options):
    return DestinationContext(
        session=context.session,
        folder=context.folder,
        environ=context.environ,
        workspace_id=context.workspace_id,
        **options,
    )


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_a_server_gets_the_payload_and_the_headers_of_the_headers_file(
    http, context, headers_file, method
):
    destination = from_url(
        f"{http.url}/in/?sig=1", with_options(context, method=method, headers_file=headers_file)
    )
    http.status = 201
    assert (await destination.deliver(entry_of())).status == 201
    [(sent_method, path, headers, body)] = http.requests
    assert (sent_method, path) == (method, f"/in/{TASK}.json?sig=1")
    assert (headers["Authorization"], headers["X-Team"]) == (SECRET, "blue")
    assert headers["Content-Type"] == "application/json"
    assert body == entry_of().payload


async def test_renewed_credentials_are_used_at_the_next_attempt(http, context, headers_file):
    destination = from_url(http.url + "/x", with_options(context, headers_file=headers_file))
    http.status = 401
    with pytest.raises(RetryableError):
        await destination.deliver(entry_of())
    headers_file.write_text("Authorization: Bearer renewed\n")
    http.status = 204
    await destination.deliver(entry_of())
    assert [headers["Authorization"] for _, _, headers, _ in http.requests] == [SECRET, "Bearer renewed"]


@pytest.mark.parametrize("status", [401, 403, 408, 425, 429, 500, 502, 503, 507])
async def test_a_temporary_status_is_retryable(http, context, status):
    http.status = status
    with pytest.raises(RetryableError) as caught:
        await from_url(http.url + "/x", context).deliver(entry_of())
    assert caught.value.status == status


@pytest.mark.parametrize("status", [400, 404, 405, 409, 413, 415, 302, 307])
async def test_a_permanent_status_is_rejected_and_no_redirect_is_followed(http, context, status):
    http.status, http.headers = status, {"Location": http.url + "/elsewhere"} if status < 400 else {}
    with pytest.raises(RejectedError) as caught:
        await from_url(http.url + "/x", context).deliver(entry_of())
    assert caught.value.status == status
    assert len(http.requests) == 1


async def test_a_server_that_hangs_is_given_up_and_one_that_is_down_is_retryable(http, context):
    http.hang = asyncio.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await from_url(http.url + "/x", context).deliver(entry_of())
    http.hang.set()
    with pytest.raises(RetryableError):
        await from_url("http://127.0.0.1:9/x", context).deliver(entry_of())


async def test_the_error_does_not_contain_headers_that_the_server_returns(http, context, headers_file):
    http.status, http.body = 400, f"bad header {SECRET} and s3cr3t-value".encode()
    with pytest.raises(RejectedError) as caught:
        await from_url(http.url + "/x?sig=abc", with_options(context, headers_file=headers_file)).deliver(
            entry_of()
        )
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("text", [None, "no colon here", "Name : value", "X: a\0b"])
async def test_an_invalid_headers_file_is_retryable_and_nothing_is_sent(http, context, tmp_path, text):
    path = tmp_path / "broken"
    if text is not None:
        path.write_bytes(f"# ok\n{text}".encode())
    with pytest.raises(RetryableError, match="headers file") as caught:
        await from_url(http.url + "/x", with_options(context, headers_file=path)).deliver(entry_of())
    assert http.requests == []
    assert text is None or "line " in str(caught.value)


# --- a program ---


@pytest.fixture
def program(tmp_path, context):
    def program(code):
        path = tmp_path / "upload"
        path.write_text(f"#!{sys.executable}\nimport os, sys, time\n{code}\n")
        path.chmod(0o755)
        return from_url(f"exec://{path}", context)

    return program


async def test_a_program_gets_the_payload_in_a_file_and_the_facts_in_its_environment(program, tmp_path):
    code = (
        (
            "import json, shutil; shutil.copy(sys.argv[1], 'OUT')\n"
            "json.dump([sys.argv[1], sys.stdin.read(), dict(os.environ)], open('FACTS', 'w')); print('stored  it')"
        )
        .replace("OUT", f"{tmp_path}/out")
        .replace("FACTS", f"{tmp_path}/facts")
    )
    accepted = await program(code).deliver(entry_of())
    assert (accepted.status, accepted.detail) == (0, "stored it")
    assert (tmp_path / "out").read_bytes() == entry_of().payload
    path, stdin, environ = json.loads((tmp_path / "facts").read_text())
    assert stdin == ""
    assert not Path(path).exists(), "deleted afterwards"
    assert environ["AGENTD_TASK_ID"] == TASK
    assert environ["AGENTD_SHA256"] == entry_of().sha256
    assert (environ["AGENTD_CAPTURED_AT"], environ["AGENTD_MESSAGES"]) == (WHEN, "1")


async def test_a_program_gets_the_environment_of_a_hook_without_the_token(session, tmp_path):
    path = tmp_path / "upload"
    path.write_text("#!/bin/sh\nenv\n")
    path.chmod(0o755)
    environ = {
        "CODER_AGENT_TOKEN": "topsecret", "CODER_AGENT_TOKEN_FILE": "/f", "AGENTD_CODER_TOKEN": "topsecret",
        "COPY": "topsecret", "CODER_AGENT_HEADER": "A=b", "NOTIFY_SOCKET": "/n", "API_KEY": "k", "PATH": "/usr/bin:/bin",
    }  # fmt: skip
    context = DestinationContext(session=session, folder=tmp_path, environ=environ, redact_env=("API_KEY",))
    accepted = await from_url(f"exec://{path}", context).deliver(entry_of())
    got = {variable.partition("=")[0] for variable in accepted.detail.split()} - {
        "PWD",
        "SHLVL",
        "_",
        "OLDPWD",
    }
    assert got == {
        "PATH", "AGENTD_TASK_ID", "AGENTD_CAPTURED_AT", "AGENTD_MESSAGES", "AGENTD_SHA256", "AGENTD_RUN_ID"
    }  # fmt: skip


async def test_a_program_that_another_user_can_write_is_not_run(program, tmp_path):
    destination = program(f"open('{tmp_path}/ran', 'w')")
    (tmp_path / "upload").chmod(0o777)
    with pytest.raises(RetryableError, match="may be written by other users"):
        await destination.deliver(entry_of())
    assert not (tmp_path / "ran").exists()


async def test_a_program_that_exits_0_is_done_although_a_child_holds_its_output_open(program, tmp_path):
    code = (
        f"print('stored', flush=True)\nif os.fork() == 0:\n    os.setsid()\n"
        f"    open('{tmp_path}/pid', 'w').write(f'{{os.getpid()}} ')\n    time.sleep(600)\n"
        f"while not os.path.exists('{tmp_path}/pid'): time.sleep(0.01)"
    )
    async with asyncio.timeout(10):
        accepted = await program(code).deliver(entry_of())
    assert (accepted.status, accepted.detail) == (0, "stored")
    deadline = time.monotonic() + 5
    while _alive(int((tmp_path / "pid").read_text())):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_registered_secret_in_the_output_of_a_program_is_masked_before_the_output_is_cut(program):
    log.register_secret("a-secret-of-the-daemon")
    accepted = await program("print('a-secret-of-the-daemon' + ' x' * 1020)").deliver(entry_of())
    assert "daemon" not in accepted.detail
    assert len(accepted.detail) <= 2048


@pytest.mark.parametrize(
    ("code", "error", "text"),
    [
        ("print('try later'); sys.exit(75)", RetryableError, "exit 75: try later"),
        ("sys.exit(1)", RetryableError, "exit 1"),
        ("print('not JSON', file=sys.stderr); sys.exit(65)", RejectedError, "exit 65: not JSON"),
        ("os.kill(os.getpid(), 9)", RetryableError, "killed by signal 9"),
        ("print('x' * 1_000_000, 'the end'); sys.exit(1)", RetryableError, "x the end"),
    ],
)
async def test_the_exit_code_of_a_program_decides_about_a_retry(program, code, error, text):
    with pytest.raises(error) as caught:
        await program(code).deliver(entry_of())
    assert text in str(caught.value)
    assert len(str(caught.value)) < 3000


async def test_a_program_that_hangs_is_killed_with_its_child_processes(program, tmp_path):
    code = f"pid = os.fork()\nopen('{tmp_path}/pid', 'a').write(f'{{os.getpid()}} ')\ntime.sleep(600)"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await program(code).deliver(entry_of())
    pids = [int(pid) for pid in (tmp_path / "pid").read_text().split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 5
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_program_that_cannot_be_run_is_retryable_with_a_hint(context, tmp_path):
    (tmp_path / "upload").touch()
    for name in ("upload", "absent"):
        with pytest.raises(RetryableError, match="executable"):
            await from_url(f"exec://{tmp_path}/{name}", context).deliver(entry_of())


# --- an object store ---


def test_without_the_library_an_object_store_is_a_config_error(context, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"agentd\[objects\]"):
        from_url("s3://bucket/x/", context)


@pytest.mark.filterwarnings("ignore")  # the S3 server is third-party code with warnings of its own
async def test_a_bucket_gets_the_payload_as_an_object(s3, context):
    destination = from_url("s3://archive/team a/{workspace_id}/", context)
    await destination.deliver(entry_of("older"))
    await destination.deliver(entry_of())
    [item] = s3.list_objects_v2(Bucket="archive")["Contents"]
    assert item["Key"] == f"team a/{WORKSPACE}/{TASK}.json"
    stored = s3.get_object(Bucket="archive", Key=item["Key"])["Body"]
    assert stored.read() == entry_of().payload
    stored.close()


@pytest.mark.filterwarnings("ignore")  # the S3 server is third-party code with warnings of its own
async def test_a_missing_bucket_is_rejected_and_a_server_that_is_down_is_retryable(s3, context, monkeypatch):
    with pytest.raises(RejectedError, match="bucket"):
        await from_url("s3://no-such-bucket/", context).deliver(entry_of())
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RetryableError) as caught:
        await from_url("s3://archive/", context).deliver(entry_of())
    assert "\n" not in str(caught.value)
