import json

import aiohttp
import pytest
from aiohttp import web
from ui import looks
from ui.strangers import HOSTILE, PROXY


async def opened(browser, stage):
    page = await browser.page(stage.url)
    await page.shows("live", "#link")
    return page


async def test_a_claim_and_a_conversation_are_seen_as_they_happen(browser, stage, shots):
    page = await opened(browser, stage)
    await page.shows("listening", "#claims-state")
    await page.tall_screenshot(shots / "1-listening.png")
    await stage.claim()
    await page.shows("settled", "#claims-state")
    await page.shows("10-hostile", "#claims")
    await page.shows("owner ", "#claims pre")
    stage.agent.set_status("running")
    stage.agent.add_message("user", "Make the build green.")
    await page.shows("running", "#agent")
    await page.shows("Make the build green.", "#talk")
    stage.agent.add_message("agent", "All green.")
    stage.agent.set_status("stable")
    await page.shows("stable", "#agent")
    await page.until("[...document.querySelectorAll('#strip rect')].map((one) => one.getAttribute('class'))",
                     lambda seen: {"running", "settling", "stable"} <= set(seen))  # fmt: skip
    await page.shows("delivered", "#outcome")
    await page.shows("answered 204", "#deliveries")
    stored = len(stage.coderd.snapshots[stage.task_id].body)
    await page.until(
        "document.getElementById('budget').getAttribute('aria-valuenow')", lambda now: now == str(stored)
    )
    await page.js("document.getElementById('show').click()")
    await page.shows(f"{stored:,} of 65,536 bytes", "#payload-facts")
    await page.tall_screenshot(shots / "2-delivered.png")
    await page.prefer("dark")
    await page.tall_screenshot(shots / "3-dark.png")
    await page.resize(400, 800)
    assert await page.js("document.documentElement.scrollWidth <= innerWidth")
    await page.tall_screenshot(shots / "4-narrow.png")
    assert page.complaints == []


async def test_what_hooks_and_agents_say_stays_text_and_nothing_is_asked_of_anybody_else(browser, stage):
    page = await opened(browser, stage)
    await stage.claim()
    stage.agent.add_message("agent", HOSTILE)
    await page.shows(HOSTILE, "#claims pre")
    await page.shows(HOSTILE, "#talk")
    await page.js("document.getElementById('show').click()")
    await page.until("document.getElementById('payload').textContent.includes('onerror')")
    assert await page.js("document.title") == "agentd"
    assert await page.js("document.querySelectorAll('main img, main script').length") == 0
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith(stage.url)] == []


async def test_every_text_is_readable_and_everything_has_a_name(browser, stage):
    page = await opened(browser, stage)
    await stage.claim()
    stage.agent.add_message("user", "Hello")
    await page.shows("settled", "#claims-state")
    await page.shows("Hello", "#talk")
    await page.js("document.getElementById('show').click()")
    for scheme in ("light", "dark"):
        await page.prefer(scheme)
        assert await looks.too_faint(page) == [], scheme
    assert await looks.unnamed(page) == []


async def test_all_of_it_can_be_done_with_the_keyboard(browser, stage):
    page = await opened(browser, stage)
    await stage.claim()
    await page.shows("settled", "#claims-state")
    steps = await looks.walk(page)
    assert steps[0]["name"] == "Skip to the content"
    names = [step["name"] for step in steps]
    for name in ("Capture and deliver", "Show exact bytes", "Output", "Rehearse a shutdown", "Stop agentd …"):
        assert name in names
    assert [step for step in steps if step["ring"] < 2] == []

    async def to(name):
        await page.js("document.body.focus(), document.activeElement.blur()")
        for _ in range(40):
            await page.press("Tab")
            if (await page.js(looks.FOCUS))["name"] == name:
                return
        raise AssertionError(name)

    await to("Show exact bytes")
    await page.press("Enter")
    await page.until("document.activeElement.id === 'payload'")
    await page.press("Tab", shift=True)
    await page.press("Enter")
    await page.until("document.activeElement.id === 'show'")
    await to("Stop agentd …")
    await page.press("Enter")
    await page.until("document.activeElement.textContent === 'Keep it running'")
    await page.press("Escape")
    await page.until("!document.getElementById('sure').open")
    await page.press("Enter")
    await page.until("document.getElementById('sure').open")
    await page.press("Tab")
    await page.press("Enter")
    assert await stage.daemon.exit_code() == 0
    await page.shows("agentd does not answer", "#link")


@pytest.fixture
async def proxy(stage):
    """Coder's path-based app proxy: another host, a path in front, the browser's Host passed on."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def pass_on(request: web.Request) -> web.StreamResponse:
            target = f"{stage.url}{request.match_info['path']}"
            headers = {name: value for name, value in request.headers.items() if name != "Host"}
            headers["Host"] = PROXY
            if "Origin" in headers:
                headers["Origin"] = f"https://{PROXY}"
            async with session.request(
                request.method, target, headers=headers, data=await request.read()
            ) as answer:
                response = web.StreamResponse(status=answer.status, headers={
                    name: value for name, value in answer.headers.items() if name not in ("Transfer-Encoding", "Content-Length")
                })  # fmt: skip
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                return response

        app = web.Application()
        app.router.add_route("*", "/@user/ws.main/apps/agentd/{path:.*}", pass_on)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/@user/ws.main/apps/agentd/"
        await runner.cleanup()


async def test_it_works_behind_a_proxy_that_serves_it_under_a_path(browser, stage, proxy):
    page = await browser.page(proxy)
    await page.shows("live", "#link")
    await page.js("document.getElementById('capture').click()")
    await page.shows("Captured", "#log")
    assert [url for url in page.requests if not url.startswith(proxy)] == []
    assert page.complaints == []


ATTACK = """(async () => {
  const tried = {};
  const send = async (name, options) => {
    try { tried[name] = (await fetch(TARGET + "v1/stop", { method: "POST", ...options })).type; }
    catch (error) { tried[name] = "failed"; }
  };
  await send("simple", { mode: "no-cors", headers: { "Content-Type": "text/plain" }, body: "{}" });
  await send("cors", { headers: { "X-Agentd": "page", "Content-Type": "application/json" }, body: "{}" });
  const frame = document.createElement("iframe");
  frame.name = "framed"; document.body.append(frame);
  const form = document.createElement("form");
  form.method = "POST"; form.action = TARGET + "v1/stop"; form.target = "framed"; document.body.append(form);
  form.submit();
  tried.read = await fetch(TARGET + "v1/messages").then((answer) => answer.text(), () => "failed");
  tried.stream = await new Promise((done) => {
    const source = new EventSource(TARGET + "v1/events");
    source.onopen = () => done("open");
    source.onerror = () => done("failed");
  });
  tried.module = await import(TARGET + "base.js").then(() => "loaded", () => "failed");
  return tried;
})()"""


async def test_no_other_page_can_drive_or_read_it(browser, stage):
    async def evil(_request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><body>win a prize", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", evil)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    page = await browser.page(f"http://localhost:{runner.addresses[0][1]}/")
    tried = await page.js(ATTACK.replace("TARGET", json.dumps(stage.url)))
    assert tried == {
        "simple": "opaque",  # sent, and answered 403, which the page cannot see
        "cors": "failed",
        "read": "failed",
        "stream": "failed",
        "module": "failed",
    }
    assert (await stage.daemon.ask("/v1/status"))["phase"] == "running"
    await runner.cleanup()
