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

"""The content of the page: one method per kind of message, live or recorded.

Messages come from rclpy or rosbags. Times are arrival times in nanoseconds since the epoch, from
one clock.
"""

from __future__ import annotations

import threading
import webbrowser
from collections import deque
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
import rerun as rr

from aliked_ros.io.drawing import LONG_TRACK, MOVING_COLOUR, Trails
from aliked_ros.io.messages import matches_from_message
from aliked_ros.types import Float32Array, FrameResult, UInt8Array
from aliked_ros.viewing import layout
from aliked_ros.viewing.recorded import result_of
from aliked_ros.viewing.server import PageServer

_PICTURE_WIDTH = 960  # pixels; larger images are scaled down to save memory
_RATE_WINDOW = 2e9  # nanoseconds over which drops a second are averaged
_LEAST_STAGE = 5e-4  # seconds; stages that never take longer are not shown
_TRAJECTORY = 5000  # poses
_TRAJECTORY_PERIOD = 500_000_000  # nanoseconds between two updates
_MAP_POINTS = 50_000
_ASSUMED_FOCAL = 0.8  # of the width, without a CameraInfo
_STAGE_COLOURS = (  # neighbouring stages differ clearly
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189),
    (140, 86, 75), (227, 119, 194), (188, 189, 34), (23, 190, 207), (60, 50, 120),
)  # fmt: skip
_POINT_SIZE, _TAIL_SIZE = 2.5, 0.8  # radii on the screen


class Page:
    """The content of the page. Close it at the end.

    live: plots show the last seconds, and images are sent raw, because the browser decodes JPEGs in
    the background and would show none of a fast sequence.
    """

    def __init__(self, name: str, port: int, memory_limit: str, live: bool) -> None:
        """Serve an empty page; PortError if the port is taken."""
        self._live = live
        self._stream = rr.RecordingStream("aliked_ros")
        self._server = PageServer(self._stream, port, memory_limit, newest_first=live)
        self.url = self._server.url
        self._stream.send_recording_name(name)
        self._stream.send_blueprint(layout.layout(live))
        self._trails = Trails()
        self._frame_index = 0
        self._scale = 1.0  # page pixels per image pixel
        self._size = (0, 0)
        self._pinhole: tuple[Any, ...] = ()
        self._matrix: Float32Array | None = None
        self._plane = 0.2
        self._received = 0
        self._counts: deque[tuple[int, int, int]] = deque()
        self._stages: set[str] = set()
        self._processed = -1
        self._about = ""
        self._poses: deque[Any] = deque(maxlen=_TRAJECTORY)
        self._drawn = 0
        self._log_static()

    def close(self) -> None:
        """Take the page away."""
        self._server.close()
        self._stream.disconnect()

    def stay(self, open_browser: bool) -> None:
        """Print the page's address and serve it until Ctrl-C."""
        print(f"The page is at {self.url} (Ctrl-C ends it)", flush=True)
        if open_browser:
            webbrowser.open(self.url)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
        self.close()

    def flush(self) -> None:
        """Wait until the server has all data."""
        self._stream.flush()

    def image(self, time: int, pixels: UInt8Array | None = None, file: bytes = b"") -> None:
        """An image: H×W or H×W×3 RGB, or a JPEG or PNG file."""
        self._at(time)
        if pixels is None:
            kind = "image/png" if file.startswith(b"\x89PNG") else "image/jpeg"
            self._stream.log(layout.IMAGE, rr.EncodedImage(contents=file, media_type=kind))
            return
        self._scale = min(1.0, _PICTURE_WIDTH / pixels.shape[1])
        if self._scale < 1.0:
            size = round(pixels.shape[1] * self._scale), round(pixels.shape[0] * self._scale)
            pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
        self._stream.log(layout.IMAGE, rr.Image(pixels))

    def frame(self, time: int, message: Any) -> None:
        """A FeatureFrame: the features and tracks of an image."""
        self._at(time)
        result = self.follow(message)
        features, tracks = result.features, result.tracks
        self._size = (features.width, features.height)
        self._log_camera()
        colours = length_colours(tracks.lengths)
        colours[~tracks.at_rest] = MOVING_COLOUR
        order = np.argsort(tracks.lengths, kind="stable")  # long tracks on top
        places = self._on_page(features.keypoints)
        self._stream.log(
            layout.POINTS,
            rr.Points2D(
                places[order],
                colors=colours[order],
                radii=rr.Radius.ui_points(_POINT_SIZE),
                draw_order=30.0,
            ),
        )
        tails = self._on_page(self._trails.positions(tracks.ids))
        moving = (tails != tails[:, :1]).any(axis=(1, 2)) & np.isfinite(tails).all(axis=(1, 2))
        chosen = order[moving[order]]
        self._stream.log(
            layout.TAILS,
            rr.LineStrips2D(
                tails[chosen],
                colors=colours[chosen],
                radii=rr.Radius.ui_points(_TAIL_SIZE),
                draw_order=20.0,
            ),
        )
        histogram = np.bincount(np.minimum(tracks.lengths, LONG_TRACK), minlength=LONG_TRACK + 1)
        lengths = np.arange(1, LONG_TRACK + 1)
        self._stream.log(
            layout.LENGTHS, rr.BarChart(histogram[1:], abscissa=lengths, color=(138, 99, 210))
        )
        followed = int((tracks.lengths > 1).sum())
        self._scalar(f"{layout.COUNTS}/features", len(features))
        self._scalar(f"{layout.COUNTS}/tracked", followed)
        if message.is_keyframe:
            self._scalar(f"{layout.COUNTS}/keyframe", followed)

    def follow(self, message: Any) -> FrameResult:
        """A FeatureFrame that is not shown, but extends the tails."""
        if message.frame_index < self._frame_index:  # another run, whose ids restart
            self._trails = Trails()
        self._frame_index = message.frame_index
        result = result_of(message)
        self._trails.update(result)
        return result

    def matches(self, time: int, message: Any) -> None:
        """A FeatureMatches: the matches of an image with its reference."""
        self._at(time)
        matches = matches_from_message(message)
        self._scalar(f"{layout.COUNTS}/matches", len(matches))
        if matches.inliers is not None and len(matches):
            self._scalar(f"{layout.INLIERS}/share", float(matches.inliers.mean()))

    def status(self, time: int, status: Any) -> None:
        """A FrontendStatus: rates, drops, stage times, identity."""
        self._at(time)
        self._scalar(f"{layout.RATES}/received", status.input_rate)
        self._scalar(f"{layout.RATES}/processed", status.output_rate)
        if self._counts and status.frames_received < self._received:  # restarted
            self._counts.clear()
            self._processed = -1
        self._received = status.frames_received
        self._counts.append((time, status.frames_dropped, status.frames_refused))
        while len(self._counts) > 2 and self._counts[1][0] <= time - _RATE_WINDOW:
            self._counts.popleft()
        since, dropped, refused = self._counts[0]
        if time > since:
            rate = 1e9 / (time - since)
            self._scalar(f"{layout.RATES}/dropped", (status.frames_dropped - dropped) * rate)
            self._scalar(f"{layout.RATES}/refused", (status.frames_refused - refused) * rate)
        if status.frames_processed > self._processed:
            self._processed = status.frames_processed
            times = zip(status.stage_names, status.stage_last, strict=True)
            for number, (stage, duration) in enumerate(times):
                if duration > _LEAST_STAGE or stage in self._stages:
                    if stage not in self._stages:
                        self._stages.add(stage)
                        self._log_stage(stage, number)
                    self._scalar(f"{layout.STAGES}/{stage}", duration * 1e3)
        about = about_text(status)
        if about != self._about:
            self._about = about
            self._stream.log(layout.ABOUT, rr.TextDocument(about, media_type="text/markdown"))

    def camera(self, time: int, info: Any) -> None:
        """A CameraInfo: the camera's frustum in the 3D view."""
        matrix = np.array(info.k, np.float32).reshape(3, 3)
        if matrix[0, 0] > 0.0 and matrix[1, 1] > 0.0:
            self._matrix = matrix

    def pose(self, time: int, message: Any) -> None:
        """A nav_msgs/Odometry: the camera pose."""
        self._at(time)
        place, turn = message.pose.pose.position, message.pose.pose.orientation
        position = [place.x, place.y, place.z]
        quaternion = [turn.x, turn.y, turn.z, turn.w]
        if not np.isfinite([*position, *quaternion]).all():
            return
        pose = rr.Transform3D(translation=position, quaternion=rr.Quaternion(xyzw=quaternion))
        self._stream.log(layout.CAMERA, pose)
        self._poses.append(position)
        if time - self._drawn > _TRAJECTORY_PERIOD or time < self._drawn:
            self._drawn = time
            self._stream.log(
                f"{layout.TRAJECTORY}/line",
                rr.LineStrips3D(
                    [list(self._poses)], radii=rr.Radius.ui_points(1.0), colors=(220, 40, 40)
                ),
            )

    def map(self, time: int, cloud: Any) -> None:
        """A PointCloud2: the points of the map, coloured by height."""
        points = points_of_cloud(cloud)[-_MAP_POINTS:]
        if not len(points):
            return
        self._at(time)
        low, high = np.percentile(points[:, 2], (5, 95))
        share = np.clip((points[:, 2] - low) / max(high - low, 1e-9), 0.0, 1.0)
        self._stream.log(
            layout.MAP,
            rr.Points3D(points, colors=_turbo(share), radii=rr.Radius.ui_points(1.5)),
        )
        eye = np.asarray(self._poses[-1] if self._poses else [0.0, 0.0, 0.0])
        plane = 0.15 * float(np.median(np.linalg.norm(points - eye, axis=1)))
        if plane > 0.0 and not 0.5 < plane / self._plane < 2.0:
            self._plane = plane

    def forget(self, time: int) -> None:
        """Remove the last tracks from the image."""
        self._at(time)
        for entity in (layout.POINTS, layout.TAILS):
            self._stream.log(entity, rr.Clear(recursive=False))

    def _log_static(self) -> None:
        log = self._stream.log
        log("world", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        for name, colour in (
            ("received", (110, 110, 110)),
            ("processed", (40, 160, 70)),
            ("dropped", (230, 140, 20)),
            ("refused", (220, 40, 40)),
        ):
            line = rr.SeriesLines(colors=colour, names=name, widths=1.5)
            log(f"{layout.RATES}/{name}", line, static=True)
        for name, colour in (
            ("features", (110, 110, 110)),
            ("tracked", (40, 160, 70)),
            ("matches", (50, 110, 220)),
        ):
            line = rr.SeriesLines(colors=colour, names=name, widths=1.5)
            log(f"{layout.COUNTS}/{name}", line, static=True)
        keyframe = rr.SeriesPoints(
            colors=(220, 40, 40), names="keyframe", markers="circle", marker_sizes=4
        )
        log(f"{layout.COUNTS}/keyframe", keyframe, static=True)
        line = rr.SeriesLines(colors=(40, 160, 70), names="inliers", widths=1.5)
        log(f"{layout.INLIERS}/share", line, static=True)

    def _log_stage(self, stage: str, number: int) -> None:
        colour = _STAGE_COLOURS[number % len(_STAGE_COLOURS)]
        line = rr.SeriesLines(colors=(110, 110, 110), names=stage, widths=2.5)
        if stage != "total":
            line = rr.SeriesLines(colors=colour, names=stage, widths=1.5)
        self._stream.log(f"{layout.STAGES}/{stage}", line, static=True)

    def _log_camera(self) -> None:
        width, height = (round(side * self._scale) for side in self._size)
        matrix = self._matrix
        if matrix is None:
            focal = _ASSUMED_FOCAL * self._size[0]
            matrix = np.array(
                [[focal, 0, self._size[0] / 2], [0, focal, self._size[1] / 2], [0, 0, 1]],
                np.float32,
            )
        pinhole = (width, height, matrix.tobytes(), self._plane)
        if pinhole == self._pinhole:
            return
        self._pinhole = pinhole
        scaled = np.diag([self._scale, self._scale, 1.0]) @ matrix
        self._stream.log(
            layout.CAMERA,
            rr.Pinhole(
                image_from_camera=scaled,
                width=width,
                height=height,
                image_plane_distance=self._plane,
            ),
            static=True,  # rare data must not be dropped by the memory limit
        )

    def _on_page(self, points: Float32Array) -> Float32Array:
        """Page pixels, where the centre of the top-left pixel is (0.5, 0.5)."""
        return np.asarray((points + 0.5) * self._scale, np.float32)

    def _at(self, time: int) -> None:
        self._stream.set_time(layout.TIMELINE, timestamp=np.datetime64(time, "ns"))

    def _scalar(self, entity: str, value: float) -> None:
        self._stream.log(entity, rr.Scalars(float(value)))


def length_colours(lengths: Any) -> UInt8Array:
    """N×3 RGB of track lengths, with the colours of the drawn pictures."""
    share = np.clip((np.asarray(lengths, np.float32) - 1.0) / (LONG_TRACK - 1.0), 0.0, 1.0)
    return _turbo(0.14 + 0.72 * share)


def _turbo(share: Any) -> UInt8Array:
    values = np.asarray(np.rint(np.asarray(share) * 255), np.uint8)[:, None]
    if not len(values):
        return np.zeros((0, 3), np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(values, cv2.COLORMAP_TURBO)[:, 0, ::-1])


def points_of_cloud(cloud: Any) -> Float32Array:
    """N×3 finite points of a PointCloud2 with float32 fields x, y, z; otherwise empty."""
    offsets = {field.name: field.offset for field in cloud.fields if field.datatype == 7}
    count = int(cloud.width) * int(cloud.height)
    data = np.frombuffer(cloud.data, np.uint8)
    if not offsets.keys() >= {"x", "y", "z"} or len(data) < count * cloud.point_step:
        return np.zeros((0, 3), np.float32)
    rows = data[: count * cloud.point_step].reshape(count, cloud.point_step)
    order = ">f4" if cloud.is_bigendian else "<f4"
    columns = [
        np.ascontiguousarray(rows[:, offsets[a] : offsets[a] + 4]).view(order) for a in "xyz"
    ]
    points = np.concatenate(columns, axis=1).astype(np.float32)
    return points[np.isfinite(points).all(axis=1)]


def about_text(status: Any) -> str:
    """State, counts and identity of a FrontendStatus as Markdown."""
    model = f"{status.model} on {status.backend}"
    if status.precision not in status.backend:
        model += f", {status.precision}"
    lines = [f"**{status.state}**, {model if status.model else 'no model yet'}"]
    lines.append(
        f"received {status.frames_received}, processed {status.frames_processed}, "
        f"dropped {status.frames_dropped}, refused {status.frames_refused}; "
        f"{status.keyframes} keyframes"
    )
    if status.last_error:
        lines.append(f"last error: {status.last_error}")
    return "\n\n".join(lines)
