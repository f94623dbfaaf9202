"""The real daemon in a network whose only way out is a proxy with a login."""

from urllib.parse import urlsplit

import pytest
from httpproxy import ForwardProxy

NAME = "coder.invalid"
PASSWORD = "hunter2/hunter2"


@pytest.fixture
async def proxy(testbed):
    port = urlsplit(testbed.coderd.url).port
    async with ForwardProxy({NAME: port}, login=("me", PASSWORD)) as proxy:
        yield proxy


def environ(proxy, user_info):
    return {"CODER_AGENT_URL": f"http://{NAME}", "http_proxy": f"http://{user_info}@{proxy.address}"}


async def test_claims_and_snapshots_go_through_the_proxy_and_its_password_is_shown_nowhere(testbed, proxy):
    through = environ(proxy, "me:hunter2%2Fhunter2")
    testbed.counting_hook("10-hook")
    daemon = await testbed.start(CODER_AGENT_HEADER_COMMAND="echo X-Gate=open-sesame", **through)
    testbed.agent.set_status("running")
    testbed.agent.add_message("agent", "said behind a proxy")
    await daemon.status_until(lambda s: s["agent"]["status"] == "running", what="running")
    testbed.agent.set_status("stable")
    await daemon.log("snapshot.delivered")
    await testbed.claim(daemon)
    assert testbed.coderd.calls("reinit")[0].headers["X-Gate"] == "open-sesame"
    assert testbed.coderd.calls("log-snapshot")[0].headers["X-Gate"] == "open-sesame"
    shown = [await testbed.run(*words, **through) for words in (("status",), ("config",), ("doctor",))]
    assert await daemon.stop() == 0
    assert testbed.runs() == ["10-hook 1"]
    assert testbed.stored()[-1]["content"] == "said behind a proxy"
    assert {line.split("/")[2] for line in proxy.requests} == {NAME}
    assert f"http://me:[hidden]@{proxy.address}" in shown[2].out
    texts = [*(one.out + one.err for one in shown), str(daemon.lines)]
    assert not any(secret in text for text in texts for secret in (PASSWORD, "hunter2%2F", "open-sesame"))


async def test_with_wrong_credentials_the_daemon_runs_and_says_so(testbed, proxy):
    through = environ(proxy, "me:wrongwrong")
    daemon = await testbed.start(AGENTD_SHUTDOWN_BUDGET_S="1", **through)
    lost = await daemon.log("stream.lost")
    assert "407" in lost["reason"]
    assert "HTTP_PROXY" in lost["reason"]
    testbed.agent.set_status("running")
    testbed.agent.add_message("agent", "kept")
    await daemon.log("snapshot.spooled")
    assert await daemon.stop() == 75
