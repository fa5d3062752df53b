#!/usr/bin/env python3

# Copyright 2026 aliked_ros maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""A headless Chromium, driven over its DevTools pipe: opens a page and takes its picture.

    tools/browser.py http://localhost:9090 page.png --wait 20

Only the standard library is used. WebGL is computed on the CPU (SwiftShader), and the browser
cannot resolve any name but localhost: a page that works here works on a robot without a network.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_OPTIONS = (
    "--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--no-first-run",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-default-apps", "--disable-dev-shm-usage", "--mute-audio",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
)  # fmt: skip
_ANSWER_TIMEOUT = 120.0  # seconds; rendering on a loaded machine without a GPU is slow


def find_chromium() -> str | None:
    """The command of an installed Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of a headless Chromium. Use as a context manager.

    requests: addresses that the page asked for, all of them since the start.
    console: the warnings and errors that the page wrote to its console.
    loaded: whether the page that was asked for last has been loaded.
    """

    def __init__(
        self, command: str, width: int = 1600, height: int = 900, dark: bool = False
    ) -> None:
        self.requests: list[str] = []
        self.console: list[str] = []
        self.loaded = False
        self._profile = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()

        def wire() -> None:  # DevTools reads descriptor 3 and writes to 4
            spare = os.dup(to_browser), os.dup(from_browser)
            os.dup2(spare[0], 3)
            os.dup2(spare[1], 4)

        self._process = subprocess.Popen(
            [
                command, *_OPTIONS, f"--user-data-dir={self._profile.name}",
                f"--window-size={width},{height}", "about:blank",
            ],
            pass_fds=(3, 4, to_browser, from_browser), preexec_fn=wire, start_new_session=True,
            env=os.environ | {"TMPDIR": self._profile.name},  # where it leaves folders behind
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._received = b""
        self._number = 0
        self._session: str | None = None
        pages = self.call("Target.getTargets")["targetInfos"]
        target = next(page["targetId"] for page in pages if page["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and remove what it has written."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    def open(self, address: str) -> None:
        """Go to an address, and wait until its page is there."""
        self.loaded = False
        self.call("Page.navigate", url=address)
        self.wait(lambda: self.loaded, _ANSWER_TIMEOUT, address)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def picture(self, whole: bool = False) -> bytes:
        """The page as PNG: what the window shows, or the whole of it."""
        return base64.b64decode(
            self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        )

    def wait(self, condition: Callable[[], Any], timeout: float, what: str) -> Any:
        """Ask until a condition holds. Raises TimeoutError, with the page's console."""
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            self.evaluate("1")  # takes the events that have come
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: waited {timeout:.0f} s; console: {self.console[-5:]}")
            time.sleep(0.2)
        return value

    def call(self, method: str, **parameters: Any) -> Any:
        """One DevTools command and its answer; events that come before it are kept."""
        self._number += 1
        command: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            command["sessionId"] = self._session
        os.write(self._out, json.dumps(command).encode() + b"\0")
        deadline = time.monotonic() + _ANSWER_TIMEOUT
        while True:
            message = self._next(deadline)
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self._keep(message.get("method"), message.get("params", {}))

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._received:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._in], [], [], left)[0]:
                raise TimeoutError("the browser does not answer.")
            data = os.read(self._in, 1 << 20)
            if not data:
                raise RuntimeError("the browser has ended.")
            self._received += data
        text, self._received = self._received.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        return message

    def _keep(self, event: str | None, facts: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self.loaded = True
        elif event == "Network.requestWillBeSent":
            self.requests.append(facts["request"]["url"])
        elif event == "Runtime.consoleAPICalled" and facts["type"] in ("warning", "error"):
            self.console.append(" ".join(str(a.get("value", "")) for a in facts["args"]))
        elif event == "Runtime.exceptionThrown":
            self.console.append(str(facts["exceptionDetails"].get("exception", facts)))
        elif event == "Log.entryAdded":
            self.console.append(facts["entry"]["text"])


def main() -> int:
    """Open a page, wait, and write its picture."""
    parser = argparse.ArgumentParser(description="Take the picture of a page with Chromium.")
    parser.add_argument("address")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--wait", type=float, default=2.0, help="seconds before the picture")
    parser.add_argument("--size", default="1600x900", help="of the window, pixels")
    parser.add_argument("--dark", action="store_true", help="the page's dark colours")
    parser.add_argument("--whole", action="store_true", help="all of the page, not the window")
    arguments = parser.parse_args()
    command = find_chromium()
    if command is None:
        print(f"error: none of {', '.join(NAMES)} is installed: apt install chromium",
              file=sys.stderr)  # fmt: skip
        return 1
    width, height = (int(number) for number in arguments.size.split("x"))
    with Browser(command, width, height, arguments.dark) as browser:
        browser.open(arguments.address)
        end = time.monotonic() + arguments.wait
        while time.monotonic() < end:
            time.sleep(0.2)
            browser.evaluate("1")  # takes the events that have come
        arguments.picture.write_bytes(browser.picture(arguments.whole))
        for line in browser.console[-5:]:
            print(line, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
