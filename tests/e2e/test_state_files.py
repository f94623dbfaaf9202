"""The real daemon with state files that another program planted, cut or removed."""

import os
import shutil

import pytest

NAMES = ("agentd.lock", "agentd.sock", "claims.jsonl", "claims.mark", "task.json", "last-stop.json", "spool")
PLANTS = {
    "FIFOs": os.mkfifo,
    "links": lambda path: path.symlink_to("/dev/zero"),
    "deep JSON": lambda path: path.write_bytes(b'{"state":"running","turn":' + b"[" * 100_000),
    "infinite numbers": lambda path: path.write_bytes(b'{"state":"running","budget_s":1e999,"turn":1e999}'),
}


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
async def test_a_daemon_starts_and_stops_whatever_is_planted_at_its_files(testbed, plant):
    testbed.state_dir.mkdir(mode=0o700)
    for name in NAMES:
        plant(testbed.state_dir / name)
    daemon = await testbed.start()
    assert (await daemon.ask("/healthz"))["ok"] is True
    assert await daemon.stop() == 0


@pytest.mark.parametrize("loss", ["removed", "emptied", "two records cut"])
async def test_a_claim_whose_records_were_lost_is_held_until_an_operator_retries_it(testbed, loss):
    testbed.counting_hook("10-setup")
    daemon = await testbed.start()
    await testbed.claim(daemon)
    await daemon.stop()
    ledger = testbed.state_dir / "claims.jsonl"
    if loss == "removed":
        ledger.unlink()
    else:
        lines = ledger.read_bytes().splitlines(keepends=True)
        ledger.write_bytes(b"".join(lines[: 0 if loss == "emptied" else -2]))

    daemon = await testbed.start()
    status = await daemon.status_until(lambda s: s["claims"]["state"] == "claim_failed", what="held")
    assert "held: the ledger file was damaged" in status["claims"]["reason"]
    [claim] = (await daemon.ask("/v1/claims"))["claims"]
    assert f"agentd claims retry {claim['id']}" in status["claims"]["reason"]
    assert testbed.runs() == ["10-setup 1"]
    assert (await testbed.run("claims", "retry", claim["id"])).code == 0
    await daemon.status_until(lambda s: s["claims"]["state"] == "settled", what="settled")
    await daemon.stop()


async def test_an_emptied_state_directory_is_a_fresh_start(testbed):
    testbed.counting_hook("10-setup")
    daemon = await testbed.start()
    await testbed.claim(daemon)
    await daemon.stop()
    shutil.rmtree(testbed.state_dir)
    daemon = await testbed.start()
    await daemon.status_until(lambda s: s["claims"]["state"] == "settled", what="settled")
    assert testbed.runs() == ["10-setup 1", "10-setup 1"]


async def test_without_its_lock_file_a_daemon_still_refuses_a_second_one(testbed):
    daemon = await testbed.start()
    (testbed.state_dir / "agentd.lock").unlink()
    result = await testbed.run("run", AGENTD_LOCAL_API_SOCKET=str(testbed.home / "other.sock"))
    assert result.code == 73, result
    assert (await daemon.ask("/healthz"))["ok"] is True
    assert (testbed.state_dir / "agentd.lock").read_text().strip() == str(daemon.pid)
