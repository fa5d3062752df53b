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

"""A recording on the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from aliked_ros.errors import ImageError
from aliked_ros.io.image_messages import image_from_message
from aliked_ros.viewing import recorded
from aliked_ros.viewing.page import Page
from aliked_ros.viewing.recorded import Item, RecordedRun

_QUALITY = 85  # JPEG quality for raw images


def serve_recording(
    path: Path, frontend: str, port: int, memory_limit: str, report: Callable[[str, float], None]
) -> Page:
    """A page that shows a recording at its own times; close it at the end.

    Raises SourceError if it cannot be read or has no features, PortError if the port is taken.
    """
    with RecordedRun(path, frontend) as run:
        page = Page(path.name, port, memory_limit, live=False)
        total = max(1, sum(run.count.values()))
        try:
            for number, item in enumerate(run.items()):
                _show(item, page)
                report(path.name, number / total)
        except BaseException:
            page.close()
            raise
        page.flush()
        report(path.name, 1.0)
    return page


def _show(item: Item, page: Page) -> None:
    if item.kind == recorded.IMAGE:
        if (data := jpeg_of(item.message)) is not None:
            page.image(item.time, file=data)
        return
    show = {
        recorded.FEATURES: page.frame,
        recorded.MATCHES: page.matches,
        recorded.STATUS: page.status,
        recorded.CAMERA: page.camera,
        recorded.ODOMETRY: page.pose,
        recorded.MAP: page.map,
    }[item.kind]
    show(item.time, item.message)


def jpeg_of(message: Any) -> bytes | None:
    """A message's image as JPEG (or PNG, as recorded); None if it is damaged."""
    if not hasattr(message, "encoding"):
        return bytes(message.data)
    try:
        pixels = image_from_message(message).pixels
    except ImageError:
        return None
    if pixels.ndim == 3:
        pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), np.uint8)
    data: bytes = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
    return data
