# SPDX-License-Identifier: Apache-2.0
"""A page in a real headless Chromium, driven through its debugging pipe: keys, pointer, pixels, console messages."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="no Chromium: apt-get install chromium")
_KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35, " ": 32}
_TIMEOUT = 60.0  # s
_OWN_READING = "Canvas2D: Multiple readback operations"  # a warning about tests that look at pixels, not about the page
# The browser reads commands from descriptor 3 and answers on 4, whatever ours are
_LAUNCH = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Page:
    """A page that is open; a context manager that closes the browser.

    Attributes:
        problems: console messages of level warning or error, exceptions and requests to the network so far.
    """

    def __init__(self, path: Path, width: int, height: int = 900, dark: bool = False) -> None:
        assert PROGRAM is not None
        self.problems: list[str] = []
        self._profile = tempfile.mkdtemp(prefix="rvrt-chromium-")
        read, ours_out = os.pipe()
        ours_in, write = os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio", "--remote-debugging-pipe"]
        options += ["--no-first-run", "--disable-extensions", "--autoplay-policy=no-user-gesture-required"]
        launch = [sys.executable, "-c", _LAUNCH, str(read), str(write)]
        command = [*launch, PROGRAM, *options, f"--user-data-dir={self._profile}", "about:blank"]
        self._browser = subprocess.Popen(
            command, pass_fds=(read, write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(read)
        os.close(write)
        self._out, self._in, self._buffer, self._number = ours_out, ours_in, b"", 0
        target = next(
            item["targetId"] for item in self.send("Target.getTargets")["targetInfos"] if item["type"] == "page"
        )
        self._session = ""
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Page", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=path.resolve().as_uri())
        self.wait_for("document.readyState === 'complete' && document.querySelector('video')?.readyState >= 2")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if getattr(self, "_session", ""):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data = os.read(self._in, 1 << 20)
            assert data, "Chromium has ended"
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, event: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(event["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning", "assert"):
            self.problems.append(str(event["args"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            if not event["entry"]["text"].startswith(_OWN_READING):
                self.problems.append(event["entry"]["text"])
        elif method == "Network.requestWillBeSent" and event["request"]["url"].startswith(("http", "ws")):
            self.problems.append(f"request to {event['request']['url']}")

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + _TIMEOUT
        while not self.value(f"!!({expression})"):
            assert time.monotonic() < end, f"{expression}: still false; {self.problems}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press and release a key."""
        text = {"text": key} if len(key) == 1 else {}
        code = _KEYS.get(key, ord(key.upper()[0]))
        for kind in ("keyDown", "keyUp"):
            more = text if kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)

    def drag(self, begin: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag the pointer from one place to another [CSS px]."""
        for kind, (x, y) in (("mousePressed", begin), ("mouseMoved", end), ("mouseReleased", end)):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def resize(self, width: int, height: int) -> None:
        """Give the page another size [CSS px]."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Save what the page looks like, all of it or what is in view, as PNG."""
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self._browser.kill()
        self._browser.wait()
        os.close(self._out)
        os.close(self._in)
        shutil.rmtree(self._profile, ignore_errors=True)
