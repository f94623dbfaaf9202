"""`agentd demo --ui`: both pages show every step."""

import asyncio
import re
import sys

SHOWN = {
    # Step of the demo → selector and text on the daemon's page, selector and text on the simulator's page.
    # The logs of the pages keep states that pass quickly.
    "the claim stream is open": ("#log", "listening", "#log", "claim stream is open"),
    "two hooks ran": ("#claims", "20-dotfiles", "#builds", "the claim"),
    "the agent is running": ("#log", "The agent is running", "#log", "The agent is running"),
    "the agent is settling": ("#log", "The agent is stable", "#log", "The agent is stable"),
    "kill -9": ("#log", "agentd does not answer", "#log", "agentapi has stopped"),
    "coderd replayed the claim after the restart": (
        "#log",
        "agentd answers again",
        "#log",
        "claim stream is open",
    ),
    "the conversation was delivered from the spool": (
        "#deliveries",
        "answered 204",
        "#deliveries",
        "204 stored",
    ),
    "SIGTERM: exit 0": ("#log", "agentd does not answer", "#log", "snapshot of 65,"),
    "SIGTERM while coderd is down": ("#log", "agentd does not answer", "#log", "coderd has stopped"),
    "the next start delivered the snapshot": ("#claims", "20-dotfiles", "#talk", "thanks, that is all"),
}


async def test_both_pages_show_each_step_of_the_demo(browser, shots):
    demo = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentd", "demo", "--ui",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert demo.stdout is not None
    assert demo.stdin is not None
    printed: list[str] = []
    page = own = None
    met = set()
    urls: list[str] = []
    async for raw in demo.stdout:
        line = raw.decode().strip()
        printed.append(line)
        urls += re.findall(r"http://127\.0\.0\.1:\d+/", line)
        if len(urls) == 2 and page is None:
            page = await browser.page(urls[0], height=1000)
        if "agentd starts in" in line:
            own = await browser.page(urls[1], height=1000)
        for begin, (selector, text, its_selector, its_text) in SHOWN.items():
            if begin in line and own is not None and page is not None:
                await asyncio.gather(own.shows(text, selector), page.shows(its_text, its_selector))
                met.add(begin)
        if line.startswith("✓") and own is not None and page is not None:
            name = re.sub(r"\W+", "-", line)[:48].strip("-")
            number = sum(one.startswith("✓") for one in printed)
            await asyncio.gather(
                own.screenshot(shots / f"{number:02}-daemon-{name}.png"),
                page.screenshot(shots / f"{number:02}-simulator-{name}.png"),
            )
        if "The demo is over" in line:
            await own.shows("live", "#link")
            await own.tall_screenshot(shots / "99-daemon-end.png")
            await page.tall_screenshot(shots / "99-simulator-end.png")
            demo.stdin.write(b"\n")
    assert await demo.wait() == 0, "\n".join(printed)
    assert met == set(SHOWN), "\n".join(printed)
