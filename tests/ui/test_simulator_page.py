import pytest
from ui import accessibility
from ui.hostile import HOSTILE

from agentd.simulator.page import Page


@pytest.fixture
async def page(browser, setup):
    async with Page(coderd=setup.coderd, agent=setup.agent) as server:
        page = await browser.page(server.url)
        await page.shows("live", "#link")
        yield page


async def press(page, label, within="body"):
    """Focus the button with this label and press Enter."""
    await page.js(
        f"[...document.querySelectorAll('{within} button')].find((one) => one.textContent === '{label}').focus()"
    )
    await page.press("Enter")


async def test_the_buttons_drive_the_peers_and_the_page_shows_the_result(page, setup, shots):
    await page.tall_screenshot(shots / "1-before.png")
    await press(page, "Start the claim")
    await page.shows("the claim", "#builds")
    await press(page, "Finish the claim")
    await page.shows("2 start claim succeeded", "#log")
    await setup.daemon.status_until(lambda s: s["claims"]["state"] == "settled", what="the claim settled")
    await press(page, "Running")
    await page.shows("running", "#agent")
    await press(page, "Add as user message")
    await press(page, "Stable")
    await page.shows("204 stored", "#deliveries")
    await press(page, "500", "#coderd-controls")
    await page.shows("log-snapshot: respond", "#coderd-waiting")
    await press(page, "Start an outage", "#coderd-controls")
    await page.shows("stopped", "#coderd-there")
    await page.tall_screenshot(shots / "2-outage.png")
    await press(page, "End the outage", "#coderd-controls")
    await page.shows("listening", "#coderd-there")
    await page.until(
        "document.getElementById('streams').textContent", lambda seen: seen == "1 open claim stream"
    )
    await press(page, "Show exact bytes")
    await page.shows("SHA-256", "#payload-facts")
    await page.tall_screenshot(shots / "3-after.png")
    await page.prefer("dark")
    await page.tall_screenshot(shots / "4-dark.png")
    await page.resize(400, 800)
    assert await page.js("document.documentElement.scrollWidth <= innerWidth")
    await page.tall_screenshot(shots / "5-narrow.png")
    assert page.complaints == []


async def test_the_page_is_accessible(page, setup):
    setup.agent.add_message("agent", HOSTILE)
    await page.shows(HOSTILE, "#talk")
    assert await page.js("document.title") == "agentd simulator"
    for scheme in ("light", "dark"):
        await page.prefer(scheme)
        assert await accessibility.low_contrast(page) == [], scheme
    assert await accessibility.unnamed(page) == []
    steps = await accessibility.tab_order(page)
    reached = {step["name"] for step in steps}
    labels = await page.js(
        "[...document.querySelectorAll('button')].filter((one) => one.checkVisibility() && !one.disabled).map((one) => one.textContent)"
    )
    assert set(labels) <= reached
    assert len(labels) > 80
    assert [step for step in steps if step["ring"] < 2] == []
    origin = await page.js("location.origin")
    assert [url for url in page.requests if not url.startswith(origin)] == []
    assert page.complaints == []
