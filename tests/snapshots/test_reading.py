"""Reads stored conversations back in every form and from every place. The servers are real."""

import json
import os
from dataclasses import replace

import pytest
from aiohttp import web

from agentd.conversation.fit import fit
from agentd.conversation.message import Message
from agentd.errors import AgentdError, ConfigError, ExitCode, UnavailableError
from agentd.snapshots import entry as entry_format
from agentd.snapshots import fetching, reading
from agentd.snapshots.destinations.url_template import UrlTemplate
from agentd.snapshots.entry import SpoolEntry
from agentd.snapshots.spool import Spool
from agentd.snapshots.spool_files import read_without_lock

TASK = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"
WHEN = "2026-03-02T09:00:00.000000Z"
TALK = (Message(0, "agent", "ready", WHEN), Message(1, "user", "do <it> \U0001f600", WHEN))
FITTED = fit(TALK, max_messages=10)
ENTRY = SpoolEntry(TASK, FITTED.payload, FITTED.messages, FITTED.truncated, WHEN, serial=1)
ENVELOPE = json.dumps({"format": "agentapi", "data": json.loads(FITTED.payload)}).encode()


# --- forms ---


@pytest.mark.parametrize(
    "document",
    [FITTED.payload, ENVELOPE, entry_format.encode(ENTRY)],
    ids=["payload", "envelope", "spool file"],
)
def test_each_form_has_the_same_messages(document):
    assert reading.parse_document(document, "here").messages == TALK


def test_a_spool_file_has_task_time_and_the_payload_as_document():
    found = reading.parse_document(entry_format.encode(ENTRY), "here")
    assert (found.task_id, found.captured_at, found.document) == (TASK, WHEN, FITTED.payload)


def test_an_answer_of_agentapi_can_be_read():
    body = (
        b'{"$schema":"http://localhost/x.json","messages":[{"id":7,"content":"a","role":"agent","time":"t"}]}'
    )
    assert reading.parse_document(body, "here").messages == (Message(7, "agent", "a", "t"),)


def test_a_missing_field_has_its_zero_value_and_entries_that_are_not_messages_are_counted():
    found = reading.parse_document(
        b'{"messages":[{"role":"user"},{"role":"system"},7,null,{"role":"user","id":"1"}]}', "here"
    )
    assert (len(found.messages), found.skipped) == (1, 4)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"", "not JSON"),
        (b"<!DOCTYPE html>", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"7" * 100_000, "not JSON"),
        (b"[]", 'without a list of "messages"'),
        (b'{"messages":null}', 'without a list of "messages"'),
        (b'{"logs":[]}', 'without a list of "messages"'),
        (b'{"format":"agentapi"}', 'without a list of "messages"'),
        (b'{"format":"tty\\u001b[2J","data":{"messages":[]}}', r'expected format "agentapi", got "tty\u001b'),
        (entry_format.encode(ENTRY)[:-1], "payload has"),
        (entry_format.encode(ENTRY).replace(b"ready", b"reaby"), "checksum"),
        (b'{"messages":[' + b" " * (1 << 20) + b"]}", "larger than"),
    ],
)
def test_the_error_for_another_document_names_its_source(document, reason):
    with pytest.raises(reading.NoConversationError) as caught:
        reading.parse_document(document, "s3://b/k")
    assert str(caught.value).startswith("s3://b/k: ")
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


# --- the spool ---


def put(spool, task_id, text):
    spool.put(task_id, fit([Message(0, "agent", text, WHEN)], max_messages=1), captured_at=WHEN)
    assert spool.start_write().result(timeout=10) is None


def test_the_newest_snapshot_of_all_tasks_is_read_while_a_daemon_holds_the_spool(spool):
    for task_id, text in ((TASK, "one"), (OTHER, "two"), (TASK, "three")):
        put(spool, task_id, text)
    assert reading.newest_in_spool(spool.path).messages[0].content == "three"


def test_reading_the_spool_changes_nothing(spool):
    put(spool, TASK, "kept")
    (spool.path / "damaged.snapshot").write_bytes(b"agentd-snapshot 1 00000000 {}\n")
    (spool.path / f".tmp-{TASK}.snapshot").write_bytes(b"agentd-snap")
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in spool.path.iterdir()}
    assert reading.newest_in_spool(spool.path).messages[0].content == "kept"
    assert {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in spool.path.iterdir()
    } == before


def test_the_error_for_an_unreadable_spool_names_each_file(tmp_path):
    (tmp_path / f"{TASK}.snapshot").write_bytes(entry_format.encode(ENTRY)[:-1])
    (tmp_path / f"{OTHER}.snapshot").write_bytes(entry_format.encode(ENTRY))
    os.mkfifo(tmp_path / "no-task.snapshot")
    with pytest.raises(UnavailableError) as caught:
        reading.newest_in_spool(tmp_path)
    assert caught.value.exit_code == ExitCode.UNAVAILABLE
    assert f"{TASK}.snapshot: payload has" in str(caught.value)
    assert f"{OTHER}.snapshot: holds the snapshot of task '{TASK}'" in str(caught.value)
    assert "no-task.snapshot: not a regular file" in str(caught.value)


def test_the_temporary_file_of_a_crash_is_ignored(spool):
    put(spool, TASK, "kept")
    (spool.path / f".tmp-{TASK}.snapshot").write_bytes(entry_format.encode(ENTRY)[:40])
    entries, wrong = read_without_lock(spool.path)
    assert ([entry.task_id for entry in entries], wrong) == ([TASK], [])


def test_a_missing_spool_is_an_error(tmp_path):
    with pytest.raises(UnavailableError, match="No such file"):
        reading.newest_in_spool(tmp_path / "nowhere")


def test_a_file_of_a_newer_agentd_is_not_reported_as_damaged(tmp_path):
    spool = Spool(tmp_path / "spool")
    put(spool, TASK, "x")
    spool.close()
    path = next(spool.path.glob("*.snapshot"))
    header = path.read_bytes().partition(b"{")[2].partition(b"\n")[0]
    newer = entry_format.zlib.crc32(b"2 {" + header)
    path.write_bytes(b"agentd-snapshot 2 %08x {%b\n" % (newer, header))
    with pytest.raises(UnavailableError, match="schema 2, this agentd reads 1"):
        reading.newest_in_spool(spool.path)


# --- places ---


async def fetched(url, task_id=TASK, **options):
    return await fetching.fetch(UrlTemplate(url, lambda: OTHER), task_id, **options)


async def test_a_path_and_a_file_url_are_read_and_a_folder_is_the_tasks(tmp_path):
    path = tmp_path / f"{TASK}.json"
    path.write_bytes(FITTED.payload)
    for url in (str(path), f"file://{path}", f"file://{tmp_path}/", f"file://{tmp_path}/{{task_id}}.json"):
        assert await fetched(url) == FITTED.payload


class Server:
    """Answers with `status`, `headers` and `body`; keeps the requests."""

    def __init__(self):
        self.status, self.headers, self.body = 200, {}, FITTED.payload
        self.requests = []

    async def answer(self, request):
        self.requests.append((request.path, dict(request.headers)))
        return web.Response(status=self.status, headers=self.headers, body=self.body)


@pytest.fixture
async def http(aiohttp_server):
    served = Server()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", served.answer)
    served.url = str((await aiohttp_server(app)).make_url("/")).rstrip("/")
    return served


async def test_an_http_server_is_asked_with_the_headers_of_the_file(http, tmp_path):
    headers = tmp_path / "headers"
    headers.write_text("Authorization: Bearer s3cr3t-value\n")
    assert await fetched(f"{http.url}/x/", headers_file=headers) == FITTED.payload
    [(path, sent)] = http.requests
    assert (path, sent["Authorization"]) == (f"/x/{TASK}.json", "Bearer s3cr3t-value")


@pytest.mark.parametrize(
    ("status", "said"),
    [(404, "404 Not Found"), (401, "http_headers_file"), (302, "not followed"), (599, "599")],
)
async def test_another_answer_than_200_is_named_and_no_redirect_followed(http, status, said):
    http.status, http.headers = status, {"Location": f"{http.url}/elsewhere"}
    with pytest.raises(fetching.NotFetchedError, match=said):
        await fetched(f"{http.url}/x?sig=s3cr3t")
    assert len(http.requests) == 1


async def test_an_error_names_no_query_and_does_nothing_to_a_terminal():
    with pytest.raises(fetching.NotFetchedError) as caught:
        await fetched("http://127.0.0.1:9/x?sig=s3cr3t")
    assert "s3cr3t" not in str(caught.value)
    assert str(caught.value).isprintable()


async def test_a_body_without_end_is_cut_off_where_it_cannot_be_a_snapshot_any_more(http):
    http.body = b" " * (8 << 20)
    assert len(await fetched(f"{http.url}/x")) == reading.DOCUMENT_MAX_BYTES + 1


@pytest.mark.parametrize("url", ["exec:///bin/true", "ftp://h/x", "coder://x"])
async def test_a_place_that_cannot_be_read_from_is_named(url):
    with pytest.raises(fetching.NotFetchedError, match="cannot read from"):
        await fetched(url)


async def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(fetching.NotFetchedError, match="No such file"):
        await fetched(f"file://{tmp_path}/none.json")
    with pytest.raises(fetching.NotFetchedError, match="Is a directory"):
        await fetched(str(tmp_path))


@pytest.mark.filterwarnings("ignore")  # the S3 server is third-party code with warnings of its own
async def test_an_object_is_read_from_a_bucket(s3):
    s3.put_object(Bucket="archive", Key=f"team a/{TASK}.json", Body=FITTED.payload)
    assert await fetched("s3://archive/team a/") == FITTED.payload
    s3.put_object(Bucket="archive", Key="huge", Body=b" " * (3 << 20))
    assert len(await fetched("s3://archive/huge")) == reading.DOCUMENT_MAX_BYTES + 1
    with pytest.raises(AgentdError) as caught:
        await fetched("s3://archive/none")
    assert str(caught.value).isprintable()


async def test_without_the_library_an_object_store_is_a_config_error(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"agentd\[objects\]"):
        await fetched("s3://bucket/x")


def test_the_newest_snapshot_is_found_by_its_serial_and_not_by_a_clock(tmp_path):
    for task_id, serial, when in ((TASK, 2, "1999-01-01T00:00:00Z"), (OTHER, 1, "2030-01-01T00:00:00Z")):
        entry = replace(ENTRY, task_id=task_id, serial=serial, captured_at=when)
        (tmp_path / f"{task_id}.snapshot").write_bytes(entry_format.encode(entry))
    assert reading.newest_in_spool(tmp_path).task_id == TASK
