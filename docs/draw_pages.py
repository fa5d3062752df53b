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

"""Take the pictures of docs/viewing.md: the live page and the report, of one recording.

.venv/bin/python docs/draw_pages.py demo_output/demo.mcap
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
from browser import Browser, find_chromium

IMAGES = Path(__file__).parent / "images"
PATIENCE = 40.0  # seconds that the page has for all of a recording


def take(address: str, target: Path, size: tuple[int, int], wait: float, heading: int = 0) -> None:
    """Open a page, wait, and write its picture from a heading on, of 256 colours."""
    command = find_chromium()
    if command is None:
        raise SystemExit("error: no Chromium: apt install chromium")
    with Browser(command, *size) as browser:
        browser.open(address)
        end = time.monotonic() + wait
        while time.monotonic() < end:
            browser.evaluate("1")
            time.sleep(0.2)
        browser.evaluate(f"document.querySelectorAll('h1, h2')[{heading}]?.scrollIntoView()")
        picture = Image.open(BytesIO(browser.picture())).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)


def main() -> None:
    """Take both."""
    recording = sys.argv[1]
    command = [sys.executable, "-m", "aliked_ros.cli"]
    view = subprocess.Popen(
        [*command, "view", recording, "--no-open", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert view.stdout is not None
        address = next(
            found[0] for line in view.stdout if (found := re.search(r"http://\S+", line))
        )
        take(address, IMAGES / "view.png", (1400, 800), PATIENCE)
    finally:
        view.terminate()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        subprocess.run([*command, "report", recording, "--output", page], check=True)
        take(page.as_uri(), IMAGES / "report.png", (1200, 1430), 5.0, heading=2)


if __name__ == "__main__":
    main()
