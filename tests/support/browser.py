"""A real browser without a screen and without a network, driven over a pipe by the DevTools protocol.

It is Debian's chromium-headless-shell (:data:`PACKAGES`), or a Chromium or Chrome that is there. Nothing but the standard
library talks to it: messages are JSON that ends with a zero byte; the browser reads file descriptor 3 and writes to 4
(``--remote-debugging-pipe``).
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PACKAGES = "chromium-headless-shell"
_PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    "--headless",
    "--no-sandbox",  # root's browsers have none, and the only page is ours
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--proxy-server=127.0.0.1:9",  # where nobody listens
    "--remote-debugging-pipe",
)
_PATIENCE_S = 120.0


def missing() -> str:
    """Why there is no browser here; empty if there is one."""
    return "" if _program() else f"no browser found; Debian: apt-get install --no-install-recommends {PACKAGES}"


def _program() -> str | None:
    return next((found for name in _PROGRAMS if (found := shutil.which(name)) is not None), None)


@dataclass
class Page:
    """A page that has been loaded.

    Attributes:
        errors: what its console said of mistakes, and what its scripts raised.
        requests: the addresses that it asked for, its own first.
    """

    browser: Browser
    session: str
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript is, once it is known.

        Raises:
            RuntimeError: it raised.
        """
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise RuntimeError(str(done["exceptionDetails"]))
        return done["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """All of the page, as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        done = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(done["data"]))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A method of the protocol."""
        return self.browser.call(method, parameters, self.session)

    def take(self, event: dict[str, Any]) -> None:
        """An event of the protocol."""
        method, parameters = event["method"], event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.errors.append(str(parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.errors.append(parameters["entry"]["text"])


class Browser:
    """Use it as a context: on exit every process of it is gone."""

    def __init__(self) -> None:
        self._pages: dict[str, Page] = {}
        self._loaded: set[str] = set()
        self._read = b""
        self._last = 0

    def __enter__(self) -> Browser:
        program = _program()
        assert program is not None, missing()
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        their_in, self._out = os.pipe()
        self._in, their_out = os.pipe()
        enter = f'exec "$0" "$@" 3<&{their_in} 4>&{their_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", enter, program, *_OPTIONS, f"--user-data-dir={self._folder.name}", "about:blank"],
            pass_fds=(their_in, their_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(their_in)
        os.close(their_out)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._folder.cleanup()

    def open(self, file: Path | str, width: int, *, dark: bool = False, scripts: bool = True) -> Page:
        """Load a file, with the network off; or a page of a server on 127.0.0.1, which alone can be reached then.

        Args:
            file: of the page; or its address.
            width: of the window, CSS pixels.
            dark: whether its reader prefers dark pages.
            scripts: whether scripts may run.
        """
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        offline = isinstance(file, Path)
        page.call(
            "Network.emulateNetworkConditions", offline=offline, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )
        page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        page.call("Page.navigate", url=file.resolve().as_uri() if isinstance(file, Path) else file)
        while session not in self._loaded:
            self._take(self._message())
        return page

    def call(self, method: str, parameters: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        """A method of the protocol and its result.

        Raises:
            RuntimeError: it failed.
        """
        self._last += 1
        number = self._last
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self._out, content) :]
        while (answer := self._message()).get("id") != number:
            self._take(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _take(self, event: dict[str, Any]) -> None:
        session = event.get("sessionId", "")
        if event.get("method") == "Page.loadEventFired":
            self._loaded.add(session)
        elif session in self._pages and "method" in event:
            self._pages[session].take(event)

    def _message(self) -> dict[str, Any]:
        deadline = time.monotonic() + _PATIENCE_S
        while b"\0" not in self._read:
            if not select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"the browser has not answered within {_PATIENCE_S:g} s")
            content = os.read(self._in, 1 << 20)
            if not content:
                raise RuntimeError(f"the browser has ended: exit code {self._process.wait()}")
            self._read += content
        message, _, self._read = self._read.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found
