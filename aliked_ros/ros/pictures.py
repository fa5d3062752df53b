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

"""What people look at: the image with its tracks, markers for rviz, annotations for Foxglove."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from aliked_ros.io.drawing import Trails, draw_tracks
from aliked_ros.ros import annotations
from aliked_ros.ros.conversions import image_message
from aliked_ros.ros.markers import TrackMarkers, no_markers
from aliked_ros.ros.parameters import NodeParameters
from aliked_ros.ros.status import Rate
from aliked_ros.ros.warnings import Complaints, reason
from aliked_ros.ros.worker import LatestWorker
from aliked_ros.types import FrameResult, UInt8Array


@dataclass(frozen=True, slots=True)
class Scene:
    """One processed image, to be drawn. rate: images processed a second."""

    header: Header
    pixels: UInt8Array
    result: FrameResult
    rate: float


class Pictures:
    """Draws the newest image in a thread of its own, and only what somebody subscribes to.

    At most ``picture_rate`` times a second: drawing takes processor time from the next images.
    """

    def __init__(
        self,
        advertise: Callable[[type, str], Any],
        settings: NodeParameters,
        complaints: Complaints,
        backend: str,
    ) -> None:
        """``advertise`` makes a publisher; ``backend`` is named in the line of text."""
        self._settings = settings
        self._complaints = complaints
        self._backend = backend
        self._image = advertise(ImageMessage, "~/tracks/image")
        self._markers = advertise(MarkerArray, "~/tracks/markers")
        self._kinds = [(self._image, self._drawing), (self._markers, self._marked)]
        kind = annotations.message_type()
        if kind is not None:
            self._kinds.append((advertise(kind, "~/annotations"), self._annotated))

    def start(self) -> None:
        """Begin a sequence of images."""
        self._rate = Rate()
        self._due = 0.0  # when the next picture may be drawn
        self._took: float | None = None
        self._trails = Trails(self._settings["trail_length"])
        self._track_markers = TrackMarkers()
        self._marked_last: Header | None = None
        self._worker = LatestWorker("drawing", self._draw)

    def stop(self) -> None:
        """End it."""
        self._worker.stop()
        if self._marked_last is not None and self._settings.node.context.ok():
            self._markers.publish(no_markers(self._marked_last))

    def submit(self, header: Header, pixels: UInt8Array, result: FrameResult) -> None:
        """Show an image, soon, unless nobody looks; a newer one may take its place."""
        now = time.monotonic()
        self._rate.add(now)
        if now < self._due:
            return
        if any(publisher.get_subscription_count() for publisher, _ in self._kinds):
            rate = self._settings["picture_rate"]
            if rate > 0.0:  # from when it was due, so that the mean rate is what was asked for
                self._due = max(self._due + 1.0 / rate, now)
            self._worker.submit(Scene(header, pixels, result, self._rate.hertz(now)))

    def took(self) -> dict[str, float]:
        """The stage ``draw``: seconds for the image drawn since the last call; empty = none was."""
        duration, self._took = self._took, None
        return {} if duration is None else {"draw": duration}

    def _draw(self, scene: Scene) -> None:
        """Drawing thread: never in the way of the next image."""
        begin = time.perf_counter()
        try:
            self._trails.update(scene.result)
            for publisher, make in self._kinds:
                message = make(scene) if publisher.get_subscription_count() else None
                if message is not None:
                    publisher.publish(message)
        except Exception as error:
            if self._settings.node.context.ok():  # else nobody is left to tell
                self._complaints.file("drawing", f"Drawing failed: {reason(error)}")
        else:
            self._complaints.settle("drawing")
        self._took = time.perf_counter() - begin

    def _drawing(self, scene: Scene) -> ImageMessage:
        caption = caption_of(scene, self._backend) if self._settings["draw_text"] else None
        legend = self._settings["draw_legend"]
        picture = draw_tracks(
            scene.pixels, scene.result, self._trails, caption=caption, legend=legend
        )
        return image_message(picture, scene.header)

    def _marked(self, scene: Scene) -> MarkerArray | None:
        if scene.result.normalized is None:
            self._complaints.mention(
                "Nothing on ~/tracks/markers for images without a CameraInfo that fits them."
            )
        elif not scene.header.frame_id:
            self._complaints.mention(
                "The images have no frame_id: rviz cannot place ~/tracks/markers. Let the camera "
                "driver name its optical frame."
            )
        self._marked_last = scene.header
        return self._track_markers.message(scene.result, scene.header)

    def _annotated(self, scene: Scene) -> Any:
        return annotations.image_annotations(scene.result, self._trails, scene.header)


def caption_of(scene: Scene, backend: str) -> str:
    """The line of text, the most wanted first: what has no room in the picture is left out."""
    tracks, matches = scene.result.tracks, scene.result.matches
    parts = [
        f"{scene.rate:.1f} Hz",
        f"{len(scene.result.features)} features",
        f"{int((tracks.lengths > 1).sum())} tracked",
    ]
    if matches.inliers is not None:
        parts.append(f"{int(matches.inliers.sum())} inliers")
    return "  ".join([*parts, scene.result.features.model, backend])
