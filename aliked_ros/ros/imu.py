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


"""Angular velocities from sensor_msgs/Imu, for the prediction of where features go."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Imu

from aliked_ros.errors import ConfigurationError
from aliked_ros.frontend.alignment import Alignment
from aliked_ros.frontend.gyroscope import LONGEST_GAP, Gyroscope
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.ros.compatibility import publisher_count
from aliked_ros.ros.declarations import Settings
from aliked_ros.ros.imu_messages import QOS, Sample
from aliked_ros.ros.subscriptions import Subscriptions, unheard_by
from aliked_ros.ros.transforms import TransformError, Transforms
from aliked_ros.ros.warnings import Warnings
from aliked_ros.types import Float64Array

_WAIT = 0.005  # seconds that an image waits for the samples up to its stamp
_NEAR = 0.05  # seconds: samples older than that by more are not about to come
_SILENCE = 1.0  # seconds without samples that are worth a warning
_OTHER_CLOCK = 1.0  # seconds between the stamps of image and IMU
_RECENT = 2.0  # seconds of samples whose rate is looked at
_SETTLED = 10  # images before a missing calibration is worth a warning


def given_rotation(settings: Settings) -> Float64Array | None:
    """The parameter ``imu_rotation`` as a matrix, camera_from_imu; None where it is empty.

    Raises ConfigurationError for another text, and where ``imu_frame`` is set, too.
    """
    text = settings["imu_rotation"]
    if not text:
        return None
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not 0.99 < math.hypot(*numbers) < 1.01:
        raise ConfigurationError(
            f"parameter imu_rotation is {text!r}; give the unit quaternion x,y,z,w that leads from "
            "the IMU's axes to the camera's, such as 0.5,-0.5,0.5,-0.5, or leave it empty."
        )
    if settings["imu_frame"]:
        raise ConfigurationError(
            "parameters imu_rotation and imu_frame are both set; leave one of them empty."
        )
    return np.asarray(Rotation.from_quat(numbers).as_matrix())


class ImuInput:
    """Receives the IMU's messages in a thread of its own, so that no image waits for them.

    ``before`` and ``after`` are for the thread that processes images.
    """

    def __init__(
        self, node: Node, settings: Settings, warnings: Warnings, say: Callable[[str], None]
    ) -> None:
        """Subscribe. say: logs what was estimated."""
        self.topic = node.resolve_topic_name(settings["imu_topic"])
        self._gyroscope = Gyroscope()
        offset: str = settings["imu_time_offset"]
        self._alignment = Alignment(
            given_rotation(settings), None if offset == "auto" else float(offset)
        )
        self._frame = settings["imu_frame"]
        self._by_arrival = settings["stamps"] == "arrival"
        self._warnings, self._say = warnings, say
        self._arrived = self._looked = self._checked = time.monotonic()
        self._uncalibrated = 0
        self._clock = node.get_clock()
        # A node of its own: the front-end's executor is too slow for a kilohertz.
        self._node = rclpy.create_node(
            f"_{node.get_name()}_imu", namespace=node.get_namespace(), context=node.context,
            use_global_arguments=False, start_parameter_services=False, enable_rosout=False,
        )  # fmt: skip
        self._subscriptions = Subscriptions(self._node, warnings)
        self._transforms = Transforms(self._node, node.resolve_topic_name) if self._frame else None
        self._subscription = self._subscriptions.add(Imu, self.topic, self._on_imu, QOS)
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(self._node)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="imu", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Unsubscribe and end the thread."""
        # Not by the executor's shutdown: it takes away what a thread that begins to wait uses.
        self._executor.create_task(self._ended.set)
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()

    def _serve(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            while not self._ended.is_set():
                try:
                    self._executor.spin_once()
                except ExternalShutdownException:
                    raise
                except Exception as error:  # of one message
                    self._warnings.warn(
                        "imu messages",
                        f"A message on {self.topic} could not be read ({error}): it is ignored. "
                        "Is its publisher of the same ROS distribution?",
                    )

    def _on_imu(self, message: Imu, info: Mapping[str, Any]) -> None:
        self._arrived = time.monotonic()
        sample = Sample.of(message)
        if sample.rate is None:
            self._warnings.warn(
                "imu rates",
                f"Imu on {self.topic} has no angular velocity (its covariance is -1, or it is not "
                "finite): it is ignored. Set imu_topic to the topic of a gyroscope.",
            )
            return
        self._warnings.clear("imu rates")
        stamp = self._clock.now().nanoseconds * 1e-9 if self._by_arrival else sample.stamp
        self._gyroscope.add(stamp, sample.rate)

    def before(self, pipeline: Pipeline, stamp: float, frame: str) -> None:
        """An image of this stamp (seconds) and frame is about to be processed."""
        prediction = pipeline.prediction
        if prediction.gyroscope is not self._gyroscope:
            prediction.use(self._gyroscope, self._alignment)
        self._look_up(frame)
        needed, end = stamp + self._alignment.offset, time.monotonic() + _WAIT
        while 0.0 < needed - self._gyroscope.newest < _NEAR and time.monotonic() < end:
            time.sleep(_WAIT / 10)

    def after(self, pipeline: Pipeline, stamp: float, received: float) -> None:
        """The image has been processed: report what is wrong, and what was learnt.

        received: when it came (``time.perf_counter``).
        """
        self._check_stamps(stamp + time.perf_counter() - received)
        self._check_publishers()
        self._uncalibrated = 0 if pipeline.camera is not None else self._uncalibrated + 1
        if self._uncalibrated > _SETTLED:
            self._warnings.warn(
                "imu camera",
                f"{self.topic} is not used: the prediction of features needs a CameraInfo. Publish "
                "one, or leave imu_topic empty.",
            )
        else:
            self._warnings.clear("imu camera")
        if problem := self._alignment.problem:
            self._warnings.warn("imu", f"{self.topic}: {problem}")
        else:
            self._warnings.clear("imu")
        news, self._alignment.news = self._alignment.news, ""
        if news:
            self._say(f"{self.topic}: {news}")

    def _check_stamps(self, stamp: float) -> None:
        """Warn of an IMU that is silent, or of another clock; stamp: of an image that comes now."""
        apart = stamp + self._alignment.offset - self._gyroscope.newest
        silent = time.monotonic() - self._arrived > _SILENCE
        if abs(apart) <= _OTHER_CLOCK:
            self._warnings.clear("imu silence")
            self._warnings.clear("imu clock")
        elif silent:
            self._warnings.clear("imu clock")
            self._warnings.warn(
                "imu silence",
                f"No Imu on {self.topic} for more than {_SILENCE:g} s "
                f"({publisher_count(self._node, self._subscription)} matching publishers): "
                "features are predicted without it. "
                + (
                    unheard_by(self._node, self._subscription)
                    or "Check the topic's name, and the IMU's driver."
                ),
            )
        elif math.isfinite(apart):
            self._warnings.clear("imu silence")
            self._warnings.warn(
                "imu clock",
                f"The stamps of Imu on {self.topic} are {abs(apart):.1f} s "
                f"{'before' if apart > 0.0 else 'after'} those of the images: another clock. "
                "Features are predicted without it. Synchronise the clocks, or set "
                "stamps to arrival.",
            )

    def _check_publishers(self) -> None:
        """Warn of an IMU that is too slow, or of several; once a second."""
        now = time.monotonic()
        if now - self._checked < _SILENCE:
            return
        self._checked = now
        publishers = publisher_count(self._node, self._subscription)
        if publishers > 1:
            self._warnings.warn(
                "imu publishers",
                f"{self.topic} has {publishers} publishers: their samples mix, and predictions are "
                "wrong. Stop all but one, or give each IMU its own topic.",
            )
        else:
            self._warnings.clear("imu publishers")
        newest = self._gyroscope.newest
        stamps, _ = self._gyroscope.samples(newest - _RECENT, newest)
        step = float(np.median(np.diff(stamps))) if len(stamps) > 2 else 0.0
        if step > LONGEST_GAP:
            self._warnings.warn(
                "imu rate",
                f"Imu on {self.topic} comes at {1.0 / step:.1f} Hz: gaps of more than "
                f"{LONGEST_GAP:g} s are not bridged, and features are predicted without it. "
                "Publish at 100 Hz or more.",
            )
        else:
            self._warnings.clear("imu rate")

    def _look_up(self, frame: str) -> None:
        """The rotation by tf, once a second."""
        now = time.monotonic()
        if self._transforms is None or now - self._looked < _SILENCE:
            return
        self._looked = now
        try:
            found = self._transforms.lookup(frame, self._frame)
        except TransformError as error:
            self._warnings.warn(
                "imu tf",
                f"imu_frame: {error}. The rotation between camera and IMU is estimated from the "
                "images meanwhile. Publish the transform, or leave imu_frame empty.",
            )
            return
        self._warnings.clear("imu tf")
        if self._alignment.given_rotation is None:
            x, y, z, w = Rotation.from_matrix(found[:3, :3]).as_quat()
            self._say(f"tf: rotation {frame} from {self._frame}: {x:.4f},{y:.4f},{z:.4f},{w:.4f}")
        self._alignment.given_rotation = found[:3, :3]
