import json

import aiohttp
import pytest
from aiohttp import web
from ui import accessibility
from ui.hostile import HOSTILE, PROXY


async def opened(browser, setup):
    page = await browser.page(setup.url)
    await page.shows("live", "#link")
    return page


async def test_the_page_shows_a_claim_and_a_conversation_live(browser, setup, shots):
    page = await opened(browser, setup)
    await page.shows("listening", "#claims-state")
    await page.tall_screenshot(shots / "1-listening.png")
    await setup.claim()
    await page.shows("settled", "#claims-state")
    await page.shows("10-hostile", "#claims")
    await page.shows("owner ", "#claims pre")
    setup.agent.set_status("running")
    setup.agent.add_message("user", "Make the build green.")
    await page.shows("running", "#agent")
    await page.shows("Make the build green.", "#talk")
    setup.agent.add_message("agent", "All green.")
    setup.agent.set_status("stable")
    await page.shows("stable", "#agent")
    await page.until("[...document.querySelectorAll('#strip rect')].map((one) => one.getAttribute('class'))",
                     lambda seen: {"running", "settling", "stable"} <= set(seen))  # fmt: skip
    await page.shows("delivered", "#outcome")
    await page.shows("answered 204", "#deliveries")
    stored = len(setup.coderd.snapshots[setup.task_id].body)
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


async def test_hostile_output_is_shown_as_text_and_no_other_site_gets_a_request(browser, setup):
    page = await opened(browser, setup)
    await setup.claim()
    setup.agent.add_message("agent", HOSTILE)
    await page.shows(HOSTILE, "#claims pre")
    await page.shows(HOSTILE, "#talk")
    await page.js("document.getElementById('show').click()")
    await page.until("document.getElementById('payload').textContent.includes('onerror')")
    assert await page.js("document.title") == "agentd"
    assert await page.js("document.querySelectorAll('main img, main script').length") == 0
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith(setup.url)] == []


async def test_texts_have_enough_contrast_and_controls_have_names(browser, setup):
    page = await opened(browser, setup)
    await setup.claim()
    setup.agent.add_message("user", "Hello")
    await page.shows("settled", "#claims-state")
    await page.shows("Hello", "#talk")
    await page.js("document.getElementById('show').click()")
    for scheme in ("light", "dark"):
        await page.prefer(scheme)
        assert await accessibility.low_contrast(page) == [], scheme
    assert await accessibility.unnamed(page) == []


async def test_the_page_can_be_used_with_the_keyboard(browser, setup):
    page = await opened(browser, setup)
    await setup.claim()
    await page.shows("settled", "#claims-state")
    steps = await accessibility.tab_order(page)
    assert steps[0]["name"] == "Skip to the content"
    names = [step["name"] for step in steps]
    for name in ("Capture and deliver", "Show exact bytes", "Output", "Rehearse a shutdown", "Stop agentd …"):
        assert name in names
    assert [step for step in steps if step["ring"] < 2] == []

    async def to(name):
        await page.js("document.body.focus(), document.activeElement.blur()")
        for _ in range(40):
            await page.press("Tab")
            if (await page.js(accessibility.FOCUS))["name"] == name:
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
    assert await setup.daemon.exit_code() == 0
    await page.shows("agentd does not answer", "#link")


@pytest.fixture
async def proxy(setup):
    """Coder's path-based app proxy: another host, a path prefix, and the Host of the browser."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def forward(request: web.Request) -> web.StreamResponse:
            target = f"{setup.url}{request.match_info['path']}"
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
        app.router.add_route("*", "/@user/ws.main/apps/agentd/{path:.*}", forward)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/@user/ws.main/apps/agentd/"
        await runner.cleanup()


async def test_the_page_works_behind_a_proxy_with_a_path_prefix(browser, setup, proxy):
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


async def test_a_page_of_another_site_can_neither_send_commands_nor_read(browser, setup):
    async def evil(_request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><body>win a prize", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", evil)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    page = await browser.page(f"http://localhost:{runner.addresses[0][1]}/")
    tried = await page.js(ATTACK.replace("TARGET", json.dumps(setup.url)))
    assert tried == {
        "simple": "opaque",  # sent, and answered with a 403 that the page cannot read
        "cors": "failed",
        "read": "failed",
        "stream": "failed",
        "module": "failed",
    }
    assert (await setup.daemon.ask("/v1/status"))["phase"] == "running"
    await runner.cleanup()
