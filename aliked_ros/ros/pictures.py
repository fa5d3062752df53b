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

"""``~/tracks/image``, and the thread that draws what people look at."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rclpy.lifecycle import LifecyclePublisher
from sensor_msgs.msg import Image as ImageMessage

from aliked_ros.io.drawing import draw_tracks
from aliked_ros.ros.conversions import image_message
from aliked_ros.ros.frame import Frame, Maker, OutputContext
from aliked_ros.ros.status import Rate
from aliked_ros.ros.warnings import reason
from aliked_ros.ros.worker import LatestWorker
from aliked_ros.types import FrameResult


class Pictures:
    """Draws the newest image in its own thread, and only what somebody subscribes to.

    At most ``picture_rate`` times a second: drawing takes processor time from the next images.
    """

    def __init__(
        self,
        makers: Sequence[tuple[LifecyclePublisher, Maker]],
        context: OutputContext,
        ok: Callable[[], bool],
    ) -> None:
        """Start the thread. ``ok``: whether anything can be published still."""
        self._makers = makers
        self._context = context
        self._ok = ok
        self._rate = Rate()
        self._due = 0.0  # when the next picture may be drawn
        self._took: float | None = None
        self._worker = LatestWorker("drawing", self._draw)

    def submit(self, frame: Frame) -> None:
        """Draw an image soon if somebody subscribes; a newer one may replace it."""
        now = time.monotonic()
        self._rate.add(now)
        if now < self._due:
            return
        if any(publisher.get_subscription_count() for publisher, _ in self._makers):
            rate = self._context.settings["picture_rate"]
            if rate > 0.0:  # from when it was due, so that the mean rate is what was asked for
                self._due = max(self._due + 1.0 / rate, now)
            self._context.rate = self._rate.hertz(now)
            self._worker.submit(frame)

    def took(self) -> dict[str, float]:
        """The stage ``draw``: seconds for the image drawn since the last call; empty = none was."""
        duration, self._took = self._took, None
        return {} if duration is None else {"draw": duration}

    def close(self) -> None:
        """End the thread."""
        self._worker.stop()
        if self._ok():
            for publisher, maker in self._makers:
                if (message := maker.last()) is not None:
                    publisher.publish(message)

    def _draw(self, frame: Frame) -> None:
        """Drawing thread: never in the way of the next image."""
        begin = time.perf_counter()
        try:
            self._context.trails.update(frame.result)
            for publisher, maker in self._makers:
                message = maker.message(frame) if publisher.get_subscription_count() else None
                if message is not None:
                    publisher.publish(message)
        except Exception as error:
            if self._ok():  # else the node is shutting down
                self._context.warnings.warn("drawing", f"Drawing failed: {reason(error)}")
        else:
            self._context.warnings.clear("drawing")
        self._took = time.perf_counter() - begin


class TrackImage(Maker):
    """``~/tracks/image``: the image with its tracks."""

    def message(self, frame: Frame) -> ImageMessage:
        """The picture."""
        settings, trails = self.context.settings, self.context.trails
        caption = None
        if settings["draw_text"]:
            caption = _caption(frame.result, self.context.rate, self.context.backend)
        picture = draw_tracks(
            frame.image.pixels, frame.result, trails,
            caption=caption, legend=settings["draw_legend"],
        )  # fmt: skip
        return image_message(picture, frame.header)


def _caption(result: FrameResult, rate: float, backend: str) -> str:
    """The line of text, the most wanted first: what has no room in the picture is left out."""
    parts = [
        f"{rate:.1f} Hz",
        f"{len(result.features)} features",
        f"{int((result.tracks.lengths > 1).sum())} tracked",
    ]
    if result.matches.inliers is not None:
        parts.append(f"{int(result.matches.inliers.sum())} inliers")
    return "  ".join([*parts, result.features.model, backend])
