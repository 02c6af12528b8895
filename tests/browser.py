"""A page in headless Chromium, driven over its DevTools protocol."""

import asyncio
import base64
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# Of every element with a text of its own: what it says, where its color and its background are too alike.
_FAINT = """(() => {
  const parse = color => color.match(/[\\d.]+/g).map(Number);
  const light = color => { const [r, g, b] = parse(color).slice(0, 3).map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const behind = element => { for (let e = element; e; e = e.parentElement) { const color = getComputedStyle(e)
    .backgroundColor, p = parse(color); if (p.length < 4 || p[3] === 1) return color; } return 'rgb(255, 255, 255)'; };
  const faint = [];
  for (const element of document.body.querySelectorAll('*')) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility() || ['title', 'style'].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const color = element instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(color), light(behind(element))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) faint.push(`${element.tagName} ${element.textContent.slice(0, 40)} ${color}`);
  }
  return faint; })()"""

_MEASURES = (
    """({width: innerWidth, scroll_width: document.scrollingElement.scrollWidth,
  height: document.scrollingElement.scrollHeight, text: document.body.innerText,
  pictures: document.querySelectorAll('svg, img').length,
  unnamed: [...document.querySelectorAll('svg:not([aria-label]), img:not([alt])')].length,
  cut: [...document.querySelectorAll('svg text')].filter(t => { const [a, b] = [t, t.ownerSVGElement]
    .map(e => e.getBoundingClientRect()); return a.left < b.left - 8 || a.right > b.right + 8; })
    .map(t => t.textContent),
  outside: performance.getEntriesByType('resource').map(r => r.name),
  faint: """
    + _FAINT
    + "})"
)


def look(path, *, width, dark=False, screenshot=None, pdf=None, seconds=300):
    """Open a page of this machine and measure it.

    Args:
        path: The HTML file.
        width: Of the window, in pixels.
        dark: Whether the reader prefers dark pages.
        screenshot: A PNG file for a picture of the whole page.
        pdf: A PDF file for the page as it is printed.
        seconds: How long this may take.

    Returns:
        `width`, `scroll_width`, `height`, `text`, `pictures`, `unnamed` (pictures without a name), `cut` (texts that
        leave their picture), `outside` (addresses that the page has loaded), `faint` (texts too alike their background)
        and `messages`, those of the console and of the page's errors.
    """
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    pytest.importorskip("aiohttp", reason="needs aiohttp, of gam-kg[cluster]")
    with tempfile.TemporaryDirectory() as profile:
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        command += ["--remote-debugging-address=127.0.0.1", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
        browser = subprocess.Popen([*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            found = _look(Path(profile), Path(path).resolve().as_uri(), width, dark, screenshot, pdf)
            return asyncio.run(asyncio.wait_for(found, seconds))
        finally:
            browser.kill()
            browser.wait()


async def _look(profile, address, width, dark, screenshot, pdf):
    import aiohttp

    port_file = profile / "DevToolsActivePort"
    while not port_file.exists() or not port_file.read_text().strip():
        await asyncio.sleep(0.05)
    port = port_file.read_text().split()[0]
    async with aiohttp.ClientSession() as session:
        tab = {}
        while not tab:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                tab = next((one for one in await answer.json() if one["type"] == "page"), {})
        async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            events, number = [], 0

            async def call(method, **parameters):
                nonlocal number
                number += 1
                await socket.send_json({"id": number, "method": method, "params": parameters})
                while True:
                    message = await socket.receive_json()
                    if message.get("id") == number:
                        assert "error" not in message, message
                        return message["result"]
                    events.append(message)

            async def event(method):
                while not any(message.get("method") == method for message in events):
                    events.append(await socket.receive_json())

            for domain in ("Page", "Runtime", "Log"):
                await call(f"{domain}.enable")
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 700}
            await call("Emulation.setDeviceMetricsOverride", **size)
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            await call("Emulation.setEmulatedMedia", features=[scheme])
            await call("Page.navigate", url=address)
            await event("Page.loadEventFired")
            measured = await call("Runtime.evaluate", expression=_MEASURES, returnByValue=True)
            if screenshot is not None:
                taken = await call("Page.captureScreenshot", captureBeyondViewport=True)
                Path(screenshot).write_bytes(base64.b64decode(taken["data"]))
            if pdf is not None:
                printed = await call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
                Path(pdf).write_bytes(base64.b64decode(printed["data"]))
    of_page = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
    messages = [str(message["params"]) for message in events if message.get("method") in of_page]
    return measured["result"]["value"] | {"messages": messages}
