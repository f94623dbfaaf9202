"""`agentd debug bundle` of a real daemon, with a secret planted in every possible place."""

import asyncio
import base64
import io
import json
import os
import sys
import tarfile
from urllib.parse import quote

import pytest

from agentd.cli import main
from agentd.simulator.agentapi import SimulatedAgentApi
from agentd.simulator.coderd import SimulatedCoderd
from agentd.simulator.daemon_process import DaemonProcess

HEADER = "proxy-p4ssw0rd/+with=signs"
IN_HOOK = "hook-output-s3cret"
IN_ENVIRONMENT = "env-s3cret-value"
IN_FILE = "headers-file-s3cret"
IN_TALK = "conversation-s3cret-words"
IN_PATH = "T0/web-hook-s3cret"


def unpacked(archive):
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {
            member.name.partition("/")[2]: tar.extractfile(member).read().decode()
            for member in tar.getmembers()
        }


def written(secret):
    yield from (secret, quote(secret, safe=""), json.dumps(secret)[1:-1], secret.encode().hex())
    yield from (base64.b64encode(secret.encode()).decode().rstrip("="),)
    for shift in (1, 2):
        yield base64.b64encode(b"\0" * shift + secret.encode()).decode()[4:-4]


def test_without_a_daemon_the_bundle_has_the_files_and_the_findings(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AGENTD_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("AGENTD_AGENTAPI_URL", "http://127.0.0.1:1")
    output = tmp_path / "bundle.tar.gz"
    assert main(["debug", "bundle", "--output", str(output)]) == 0
    assert "check the contents" in capsys.readouterr().out
    assert output.stat().st_mode & 0o777 == 0o600
    files = unpacked(output.read_bytes())
    assert "no agentd listens" in files["daemon.txt"]
    assert json.loads(files["claims.json"]) == {"claims": [], "damage": ""}
    assert any(finding["level"] == "fail" for finding in json.loads(files["doctor.json"]))
    assert main(["debug", "bundle", "--output", str(output)]) == 1
    assert "File exists" in capsys.readouterr().err


@pytest.fixture
async def planted(tmp_path):
    """A daemon with a finished claim and a captured conversation, and a secret in every possible place."""
    hooks = tmp_path / "hooks" / "on-claim.d"
    hooks.mkdir(parents=True)
    (hooks / "10-setup").write_text(f"#!/bin/sh\necho {IN_HOOK}; echo {IN_HOOK} >&2\n")
    (hooks / "10-setup").chmod(0o755)
    (tmp_path / "headers").write_text(f"Authorization: Bearer {IN_FILE}\n")
    program = tmp_path / "place"
    program.write_text(f"#!/bin/sh\necho {IN_HOOK}; exit 1\n")
    program.chmod(0o755)
    async with SimulatedCoderd(ping_s=0.5) as coderd, SimulatedAgentApi() as agent:
        workspace = coderd.add_prebuild()
        agent.add_message("user", IN_TALK)
        environ = {
            "CODER_AGENT_URL": coderd.url,
            "CODER_AGENT_TOKEN": workspace.token,
            "CODER_AGENT_HEADER": f"X-Proxy={HEADER}",
            "AGENTD_AGENTAPI_URL": agent.url,
            "AGENTD_AGENTAPI_POLL_INTERVAL_S": "0.05",
            "AGENTD_STABILITY_SETTLE_S": "0.1",
            "AGENTD_SNAPSHOTS_TASK_ID": coderd.add_task(workspace),
            "AGENTD_SNAPSHOTS_DESTINATIONS": f"coder,exec://{program},http://127.0.0.1:1/{IN_PATH}?key=query-s3cret-value",
            "AGENTD_SNAPSHOTS_HTTP_HEADERS_FILE": str(tmp_path / "headers"),
            "AGENTD_CLAIMS_HOOKS_DIR": str(tmp_path / "hooks"),
            "AGENTD_STATE_DIR": str(tmp_path / "state"),
            "MY_API_KEY": IN_ENVIRONMENT,
        }
        async with DaemonProcess(environ, state_dir=tmp_path / "state") as daemon:
            await daemon.status_until(lambda s: s["claims"]["state"] == "listening", what="listening")
            coderd.claim_start(workspace)
            await coderd.claim_finish(workspace)
            await daemon.status_until(lambda s: s["claims"]["state"] == "settled", what="settled")
            await daemon.status_until(lambda s: s["snapshot"]["messages"], what="a snapshot")
            await daemon.log("snapshot.delivery_failed")
            yield environ, workspace.token


async def bundled(environ, *words):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentd", "debug", "bundle", "--output", "-", *words,
        env={**os.environ, **environ}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    return unpacked(out)


async def test_the_bundle_has_no_planted_secret_in_any_encoding_and_no_message(planted):
    environ, token = planted
    files = await bundled(environ)
    secrets = (token, HEADER, IN_HOOK, IN_ENVIRONMENT, IN_FILE, IN_TALK, IN_PATH, "query-s3cret-value")
    for secret in secrets:
        for form in written(secret):
            assert [name for name, text in files.items() if form.lower() in text.lower()] == [], form


async def test_the_bundle_has_every_file(planted):
    environ, _token = planted
    files = await bundled(environ)
    assert set(files) == {
        "README.txt", "versions.json", "config.json", "environment.json", "doctor.json", "status.json", "ready.json",
        "metrics.txt", "claims.json", "spool.json", "files.json", "last-stop.json",
    }  # fmt: skip
    [claim] = json.loads(files["claims.json"])["claims"]
    assert claim["hooks"][0]["state"] == "succeeded"
    assert claim["hooks"][0]["tail"].startswith("[withheld, ")
    assert json.loads(files["status.json"])["claims"]["state"] == "settled"
    assert json.loads(files["config.json"])["coder.token"]["value"] == "[hidden]"
    assert json.loads(files["spool.json"])[0]["messages"] == 2
    assert "claims.jsonl" in {row["name"] for row in json.loads(files["files.json"])["state"]}
    assert "agentd_claims_state" in files["metrics.txt"]
    assert {row["check"] for row in json.loads(files["doctor.json"])} >= {
        "coderd",
        "token",
        "agentapi",
        "hooks",
    }


async def test_the_bundle_has_the_conversation_only_on_request(planted):
    environ, token = planted
    files = await bundled(environ, "--with-conversation")
    [talk] = [text for name, text in files.items() if name.startswith("conversation-")]
    assert IN_TALK in talk
    assert all(token not in text for text in files.values())
