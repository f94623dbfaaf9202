"""A headless Chromium, driven over the DevTools protocol."""

import asyncio
import base64
import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-port=0"
    " --disable-features=Translate,OptimizationHints,MediaRouter"
)
WAIT_S = 30.0


def executable() -> str | None:
    """The path of the installed browser; None if there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Chromium:
    """One browser with its own profile, for `async with`. `page(url)` opens a tab."""

    def __init__(self, profile: Path) -> None:
        self._profile = profile
        self._process: asyncio.subprocess.Process | None = None
        self._http = aiohttp.ClientSession()
        self._port = 0
        self._pages: list[Page] = []

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            executable() or "chromium",
            *FLAGS.split(),
            f"--user-data-dir={self._profile}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        port_file = self._profile / "DevToolsActivePort"
        async with asyncio.timeout(WAIT_S):
            while not port_file.exists() or not port_file.read_text():
                await asyncio.sleep(0.05)
        self._port = int(port_file.read_text().splitlines()[0])
        return self

    async def __aexit__(self, *_error: object) -> None:
        for page in self._pages:
            await page.close()
        await self._http.close()
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()

    async def page(self, url: str, *, width: int = 1280, height: int = 900) -> "Page":
        """Open a tab and load `url`."""
        async with self._http.put(f"http://127.0.0.1:{self._port}/json/new?about:blank") as answer:
            target = await answer.json(content_type=None)
        page = Page(await self._http.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0))
        self._pages.append(page)
        await page.begin(width, height)
        await page.open(url)
        return page


class Page:
    """A tab. `requests` are its URLs, `complaints` its exceptions and errors, also of its security policy."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        self._reader = asyncio.create_task(self._read(), name="devtools")
        self.requests: list[str] = []
        self.complaints: list[str] = []

    async def begin(self, width: int, height: int) -> None:
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.send(f"{domain}.enable")
        # The pages poll only when they are visible, and several tabs are used at once.
        await self.send("Emulation.setFocusEmulationEnabled", enabled=True)
        await self.resize(width, height)

    async def resize(self, width: int, height: int) -> None:
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    async def open(self, url: str) -> None:
        self._loaded.clear()
        await self.send("Page.navigate", url=url)
        async with asyncio.timeout(WAIT_S):
            await self._loaded.wait()

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._socket.close()

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        try:
            async with asyncio.timeout(WAIT_S):
                answer = await self._waiting[number]
        finally:
            del self._waiting[number]
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        return answer["result"]

    async def js(self, expression: str) -> Any:
        """The value of an expression, or of its promise, in the page."""
        answer = await self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def until(self, expression: str, holds: Callable[[Any], bool] = bool) -> Any:
        """Wait until `holds(value)` is true, and return the value.

        Raises AssertionError with the last value after WAIT_S.
        """
        seen = None
        try:
            async with asyncio.timeout(WAIT_S):
                while not holds(seen := await self.js(expression)):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{expression} stayed {seen!r}; complaints: {self.complaints}") from None
        return seen

    async def shows(self, text: str, selector: str = "body") -> None:
        """Wait until the element contains `text`."""
        await self.until(
            f"document.querySelector({json.dumps(selector)})?.innerText ?? ''", lambda seen: text in seen
        )

    async def press(self, key: str, *, shift: bool = False) -> None:
        """Press one key."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}
        more = {"text": {"Enter": "\r", " ": " "}.get(key, "")} if key in ("Enter", " ") else {}
        common = {"key": key, "code": {" ": "Space"}.get(key, key), "windowsVirtualKeyCode": codes[key]}
        await self.send(
            "Input.dispatchKeyEvent", type="keyDown", modifiers=8 if shift else 0, **common, **more
        )
        await self.send("Input.dispatchKeyEvent", type="keyUp", modifiers=8 if shift else 0, **common)

    async def prefer(self, scheme: str) -> None:
        """Set the preferred color scheme: `light` or `dark`."""
        await self.send(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    async def screenshot(self, path: Path) -> None:
        """Save a picture of the window."""
        picture = await self.send("Page.captureScreenshot", format="png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(picture["data"]))

    async def tall_screenshot(self, path: Path) -> None:
        """Save a picture of the whole page, in a window of its height (at most 6,000 px)."""
        size = await self.js("[innerWidth, document.documentElement.scrollHeight]")
        await self.resize(size[0], max(600, min(6000, size[1])))
        await self.screenshot(path)

    async def _read(self) -> None:
        async for message in self._socket:
            received = json.loads(message.data)
            if "id" in received:
                if (waiting := self._waiting.get(received["id"])) is not None and not waiting.done():
                    waiting.set_result(received)
                continue
            match received["method"], received["params"]:
                case "Page.loadEventFired", _:
                    self._loaded.set()
                case "Network.requestWillBeSent", sent:
                    self.requests.append(sent["request"]["url"])
                case "Runtime.exceptionThrown", thrown:
                    self.complaints.append(str(thrown["exceptionDetails"]))
                case "Log.entryAdded", {"entry": entry} if entry["level"] == "error":
                    self.complaints.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")
