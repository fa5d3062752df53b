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

"""The runs of the front-end that a batch's operations need, and what each writes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib import import_module
from types import TracebackType
from typing import Any, ClassVar

import numpy as np

from aliked_ros.camera import CameraModel
from aliked_ros.errors import OutputError, SourceError
from aliked_ros.evaluation.sequences import calibrate, offered_mode, open_calibrated
from aliked_ros.exporting.recording import RecordedFrame, RecordedMatches
from aliked_ros.fleet.plan import NO_MATTER, Plan
from aliked_ros.fleet.storage import Store
from aliked_ros.fleet.tables import KEYFRAMES, TRACKS, TableFile, keyframe_row, track_rows
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.io.bags import SETTINGS
from aliked_ros.io.drawing import Trails, draw_tracks
from aliked_ros.io.results import TrackStatistics, caption_of, write_picture
from aliked_ros.sources import Source, open_source
from aliked_ros.types import FrameResult, Image

TRACKS_FILE, KEYFRAMES_FILE = "tracks.parquet", "keyframes.parquet"
RECORDING_FILE, POSES_FILE = "recording.mcap", "trajectory.tum"
DATABASE_FILE, PICTURE_FILE = "database.db", "tracks.jpg"
_TRAIL = 30  # images before the picture's whose tracks are drawn
_NODE, _FRAME = "/aliked_frontend", "camera"  # names as the node and the player have by default

logger = logging.getLogger(__name__)


class Pass:
    """One run of the front-end over a recording.

    operations: those it serves. source: the images. images: how many were added. files: written, in
    the recording's folder. pixels_as_stored: whether the images are those that parts were made of.
    """

    operations: ClassVar[set[str]]

    def __init__(
        self, plan: Plan, name: str, local: str, length: int | None, store: Store, stack: ExitStack
    ) -> None:
        """Open source and files; what ``stack`` closes has its final name only then."""
        self.plan, self.name, self.length, self.store, self.stack = plan, name, length, store, stack
        self.images = 0
        self.files: list[str] = []
        self.pixels_as_stored = True
        self.source: Source = self.open_source(local)
        self.open()

    def open_source(self, local: str) -> Source:
        """The images that the pass needs."""
        return open_source(local, self.plan.limit)

    def open(self) -> None:
        """Open the files."""
        raise NotImplementedError

    def prepare(self, pipeline: Pipeline) -> None:
        """Tell the front-end what is known of the camera."""

    def add(self, number: int, stamp: int, image: Image, result: FrameResult) -> None:
        """An image; number: in the recording. stamp: nanoseconds."""
        self.images += 1

    def finish(self) -> dict[str, Any]:
        """Complete the files; returns the figures."""
        return {}

    def writing(self, file: str) -> Any:
        """Path of a file of the recording, until the pass ends."""
        self.files.append(file)
        return self.stack.enter_context(self.store.writing(f"{self.name}/{file}"))


class TrackPass(Pass):
    """``track`` and ``keyframes``: as the command ``track`` runs it."""

    operations: ClassVar[set[str]] = {"track", "keyframes"}

    def open(self) -> None:
        """See ``Pass``."""
        self._statistics, self._keyframes = TrackStatistics(), 0
        self._trails, self._middle = Trails(), (self.length or 2 * _TRAIL) // 2
        self._picture: Any = None
        self._tables = {
            operation: self.stack.enter_context(TableFile(self.writing(file), schema, ""))
            for operation, file, schema in (
                ("track", TRACKS_FILE, TRACKS), ("keyframes", KEYFRAMES_FILE, KEYFRAMES),
            )
            if operation in self.plan.operations
        }  # fmt: skip

    def add(self, number: int, stamp: int, image: Image, result: FrameResult) -> None:
        """See ``Pass``."""
        super().add(number, stamp, image, result)
        self._statistics.add(result)
        self._keyframes += result.is_keyframe
        if self._middle - _TRAIL <= number <= self._middle:
            self._trails.update(result)
            self._picture = image.pixels, result
        if "track" in self._tables:
            self._tables["track"].add(**track_rows(number, stamp, result))
        if result.is_keyframe and "keyframes" in self._tables:
            self._tables["keyframes"].add(**keyframe_row(number, stamp, result))

    def finish(self) -> dict[str, Any]:
        """See ``Pass``; also writes a picture of the middle."""
        if self._picture is not None:
            pixels, result = self._picture
            picture = draw_tracks(pixels, result, self._trails, caption=caption_of(result))
            write_picture(self.writing(PICTURE_FILE), picture)
        return {"track": self._statistics.summary() | {"keyframes": self._keyframes}}


class RecordPass(Pass):
    """``record``: what the recorder writes of a running front-end, made by the node's own code.

    With depth where the recording has depth images. Needs the ROS 2 packages, but starts no node.
    """

    operations: ClassVar[set[str]] = {"record"}

    def open_source(self, local: str) -> Source:
        """See ``Pass``."""
        try:
            return open_source(local, self.plan.limit, "depth")
        except SourceError:
            return open_source(local, self.plan.limit)

    def open(self) -> None:
        """See ``Pass``."""
        from nav_msgs.msg import Odometry
        from sensor_msgs.msg import CameraInfo

        from aliked_ros.ros.calibration import Calibration
        from aliked_ros.ros.camera_output import camera_info
        from aliked_ros.ros.frame import OutputContext
        from aliked_ros.ros.numbering import Epochs, Numbering
        from aliked_ros.ros.outputs import OUTPUTS
        from aliked_ros.ros.recording import Recording
        from aliked_ros.ros.warnings import Warnings

        warnings = Warnings(logger.warning, lambda _: None)
        self._calibration = Calibration("camera_info", "right/camera_info", False, warnings)
        self._info = camera_info(self.source.calibration)
        if self._info is not None:
            self._calibration.set_info(self._info)
        settings = {
            "publish_descriptors": True,
            "descriptor_encoding": self.plan.descriptors,
            "keyframe_descriptor_encoding": "same",
            "publish_matches": True,
        }
        context = OutputContext(settings, warnings, self._calibration, "", Trails())
        self._recording = Recording(self.writing(RECORDING_FILE))
        self.stack.push(self._discard)
        # Also what stays empty, so that the definitions of a map's messages are in the file.
        self._recording.add_topic("/camera_info", CameraInfo)
        self._recording.add_topic("/odometry/odometry", Odometry)
        self._makers = {}
        for output in OUTPUTS:
            topic = output.topic.removeprefix("~/")
            if topic in self.plan.topics and (kind := output.kind()) is not None:
                name = f"{_NODE}/{topic}"
                self._recording.add_topic(name, kind)
                self._makers[name] = output.maker(context)
        values = asdict(self.plan.config)
        facts = {name: str(value) for name, value in values.items() if name not in NO_MATTER}
        self._recording.add_facts(SETTINGS, facts)
        # The node's epochs tell recordings apart by the time of its start; these by their name.
        digest = hashlib.sha256(self.name.encode()).digest()
        self._numbering = Numbering(Epochs(int.from_bytes(digest[:4], "little")))
        self._time = 0

    def prepare(self, pipeline: Pipeline) -> None:
        """See ``Pass``."""
        self._pipeline, pipeline.camera = pipeline, self._calibration.camera

    def add(self, number: int, stamp: int, image: Image, result: FrameResult) -> None:
        """See ``Pass``."""
        from sensor_msgs.msg import Image as ImageMessage
        from std_msgs.msg import Header

        from aliked_ros.ros.conversions import stamp_from_nanoseconds
        from aliked_ros.ros.frame import Frame

        super().add(number, stamp, image, result)
        header = Header(stamp=stamp_from_nanoseconds(stamp), frame_id=_FRAME)
        frame = Frame(ImageMessage(header=header), received=0.0)
        frame.image = image
        frame.result = self._numbering.renumbered(result, header.stamp, self._pipeline.keyframes)
        frame.reference_stamp = self._numbering.reference_stamp(frame.result)
        self._time = max(self._time, stamp)  # readers sort by it
        if self._info is not None:
            self._info.header = header
            self._write("/camera_info", self._info, stamp)
        for topic, maker in self._makers.items():
            if (message := maker.message(frame)) is not None:
                self._write(topic, message, stamp)

    def finish(self) -> dict[str, Any]:
        """See ``Pass``."""
        with self._failing():
            self._recording.finish()
        return {"record": {"messages": self._recording.count}}

    def _write(self, topic: str, message: Any, stamp: int) -> None:
        from rclpy.serialization import serialize_message

        with self._failing():
            self._recording.add(topic, serialize_message(message), self._time, stamp)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Name the file as users know it, and promise no partial one: it is removed."""
        try:
            yield
        except OutputError as error:
            path, cause = self.store.path(f"{self.name}/{RECORDING_FILE}"), error.__cause__
            reason = getattr(cause, "strerror", None) or cause
            raise OutputError(f"cannot write {path}: {reason}; free space.") from error

    def _discard(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if kind is not None:
            self._recording.discard()


class OdometryPass(Pass):
    """``odometry``: the reference back-end's trajectory, with depth or stereo where there is."""

    operations: ClassVar[set[str]] = {"odometry"}

    def open_source(self, local: str) -> Source:
        """See ``Pass``."""
        self._evaluation: Any = import_module("aliked_ros.evaluation.odometry")  # needs evo
        self._mode = offered_mode(local)
        self.pixels_as_stored = self._mode != "stereo"  # pairs may be rectified
        return open_calibrated(local, self._mode, self.plan.limit)

    def open(self) -> None:
        """See ``Pass``."""
        from aliked_ros.odometry import Odometry

        self._odometry, self._estimates = Odometry(), list[Any]()
        self._path = self.writing(POSES_FILE)

    def prepare(self, pipeline: Pipeline) -> None:
        """See ``Pass``."""
        calibrate(self.source, pipeline)

    def add(self, number: int, stamp: int, image: Image, result: FrameResult) -> None:
        """See ``Pass``."""
        super().add(number, stamp, image, result)
        estimate = self._odometry.process(self._evaluation.as_observation(result))
        if estimate is not None:
            self._estimates += [*self._odometry.earlier, estimate]

    def finish(self) -> dict[str, Any]:
        """See ``Pass``; SourceError if there is no pose."""
        found = self._estimates
        if not found:
            raise SourceError(
                f"the odometry found no pose in {self.name}: too few tracks last, or nothing moves."
            )
        stamps, cameras = [one.stamp for one in found], [one.camera for one in found]
        self._evaluation.write_tum(self._path, self._evaluation.trajectory(stamps, cameras))
        places = np.array([one.camera.translation for one in found])
        steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
        return {
            "odometry": {
                "mode": self._mode,
                "poses": len(found),
                "maps": len({one.map_index for one in found}),
                "metric": all(one.metric for one in found),
                "length": round(float(steps.sum()), 3),
            }
        }


class ExportPass(Pass):
    """``export``: a COLMAP database, whose images are named RECORDING/SECONDS.NANOSECONDS.png."""

    operations: ClassVar[set[str]] = {"export"}

    def open(self) -> None:
        """See ``Pass``."""
        colmap: Any = import_module("aliked_ros.exporting.colmap")  # needs pycolmap
        self._colmap, self._path = colmap, self.writing(DATABASE_FILE)
        self._database = colmap.pycolmap.Database.open(self._path)
        self.stack.callback(self._database.close)
        camera = None
        if self.source.calibration is not None:
            camera = CameraModel.from_calibration(self.source.calibration)
        self._camera, self._stamps = camera, dict[int, int]()
        self._writer = colmap.DatabaseWriter(self._database, camera, prefix=f"{self.name}/")

    def prepare(self, pipeline: Pipeline) -> None:
        """See ``Pass``."""
        pipeline.camera = self._camera

    def add(self, number: int, stamp: int, image: Image, result: FrameResult) -> None:
        """See ``Pass``."""
        if self.images % self.plan.every == 0:
            frame = RecordedFrame(
                stamp, result.index, result.features, result.tracks, result.normalized
            )
            self._writer.add(frame)
            if (before := result.reference_index) is not None and before in self._stamps:
                reference = self._stamps[before], before
                self._writer.add_matches(
                    RecordedMatches((stamp, result.index), reference, result.matches)
                )
        self._stamps = {result.index: stamp}
        super().add(number, stamp, image, result)

    def finish(self) -> dict[str, Any]:
        """See ``Pass``."""
        pairs = self._writer.add_shared_tracks()
        self._database.close()
        self._colmap.verify_pairs(self._path, pairs)
        with self._colmap.pycolmap.Database.open(self._path) as database:
            return {
                "export": {
                    "images": database.num_images(),
                    "keypoints": database.num_keypoints(),
                    "verified_pairs": database.num_verified_image_pairs(),
                    "inliers": database.num_inlier_matches(),
                }
            }


PASSES: tuple[type[Pass], ...] = (TrackPass, RecordPass, OdometryPass, ExportPass)
