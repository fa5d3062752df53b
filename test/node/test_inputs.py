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

"""Stereo, depth, masks, keyframes: a real node, fed by the player and by this process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, PointCloud
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_msgs.msg import FeatureFrame, Keyframe
from aliked_msgs.srv import Relocalize
from aliked_ros.frontend.codes import distances, encode
from aliked_ros.io.images import grey
from aliked_ros.io.messages import (
    codes_from_message,
    descriptors_from_message,
    optional_rows,
    seconds,
)
from aliked_ros.ros.calibration import Calibration
from aliked_ros.ros.conversions import (
    image_from_message,
    image_message,
)
from aliked_ros.ros.own_camera import OwnCamera
from aliked_ros.ros.warnings import Warnings
from aliked_ros.sources import open_source
from aliked_ros.types import UInt8Array
from helpers.ros import RELIABLE, Probe, RosProcess

pytestmark = [pytest.mark.ros, pytest.mark.long]

NODE, PLAYER = "aliked_ros.ros.frontend_node", "aliked_ros.ros.player"
ARGUMENTS = [
    *("-p", "matcher:=nearest", "-p", "max_keypoints:=300", "-p", "status_period:=0.1"),
    *("-p", "publish_vins:=true", "-p", "input_reliability:=reliable", "-p", "input_depth:=100"),
]
INPUTS = {
    "input": "mono", "sync": "exact", "sync_wait": 0.1, "rectified": False, "mask_border": False,
    "depth_transport": "raw", "image_transport": "raw",
    "mask_file": "", "mask_sync": "latched", "mask_missing": "latest", "mask_values": "0",
}  # fmt: skip


class Rig:
    """A node that is reconfigured between tests, and what sends to it."""

    def __init__(self, log: Path) -> None:
        self.probe = Probe()
        node = self.probe.node
        for kind, name in ((Keyframe, "keyframes"), (PointCloud, "vins_feature")):
            self.probe.listen(kind, f"aliked_frontend/{name}")
        self.probe.listen(DiagnosticArray, "/diagnostics")
        topics = {
            "right": (ImageMessage, "right/image"), "depth": (ImageMessage, "depth/image"),
            "packed_depth": (CompressedImage, "depth/image/compressedDepth"),
            "mask": (ImageMessage, "mask"), "info": (CameraInfo, "camera_info"),
            "right_info": (CameraInfo, "right/camera_info"),
        }  # fmt: skip
        self.publishers = {
            name: node.create_publisher(kind, topic, RELIABLE)
            for name, (kind, topic) in topics.items()
        }
        self.nanoseconds = 1_700_000_000_123_456_789
        self.process = RosProcess(NODE, log, *ARGUMENTS)
        self.settings = dict(INPUTS)
        self.probe.wait_for_state("active")

    def restart(self, **settings) -> Probe:
        """The node, active anew with these inputs."""
        probe, wanted = self.probe, INPUTS | settings
        if probe.state() == "active":
            assert probe.transition("deactivate")
        # so that the old subscription is not taken for the one to come
        probe.wait(lambda: probe.images.get_subscription_count() == 0)
        if wanted != self.settings:
            self.settings = {}  # unknown until all is done: a failure here is not the next test's
            if probe.state() == "inactive":
                assert probe.transition("cleanup")
            for name, value in wanted.items():
                assert probe.set_parameter(name, value) == ""
            assert probe.transition("configure"), self.process.text()
            self.settings = wanted
        assert probe.transition("activate"), self.process.text()
        probe.wait_connected()
        depth = "depth" if wanted["depth_transport"] == "raw" else "packed_depth"
        names = {"stereo": ("right", "right_info"), "rgbd": (depth,)}.get(wanted["input"], ())
        for name in ("info", "mask", *names):
            probe.wait(self.publishers[name].get_subscription_count)
        probe.received.clear()
        return probe

    def header(self, step: float = 0.1) -> Header:
        self.nanoseconds += round(step * 1e9)
        sec, nanosec = divmod(self.nanoseconds, 10**9)
        return Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id="left")

    def send(
        self, pixels: UInt8Array, offset: float = 0.0, **partner: ImageMessage | CompressedImage
    ):
        """An image and its partner ``offset`` seconds from it; returns the image's features."""
        message = image_message(pixels, self.header())
        for name, image in partner.items():
            nanoseconds = self.nanoseconds + round(offset * 1e9)
            image.header.stamp = Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)
            self.publishers[name].publish(image)
        return self.probe.send(message)

    def tell(self, name: str, message: CameraInfo | ImageMessage) -> None:
        """Publish what the following images depend on, and see that it has arrived."""
        self.publishers[name].publish(message)
        self.probe.spin(0.15)
        self.probe.state()  # the node answers after it has taken what came before the question

    def warning(self, words: str) -> None:
        """Wait until log, status and diagnostics have said this."""
        probe = self.probe

        def diagnosed() -> bool:
            reports = [r for array in probe.received["/diagnostics"] for r in array.status]
            return any(words in report.message and report.level == b"\1" for report in reports)

        probe.wait(lambda: any(words in s.last_error for s in probe.received["status"]))
        probe.wait(diagnosed)
        assert words in self.process.text()

    def play(self, count: int, *arguments: str) -> list[FeatureFrame]:
        """The features of a sequence, as the player shows it; on a busy machine not of all."""
        log, probe = self.process.log.with_name("player"), self.probe
        options = [f"limit:={count}", "rate:=3.0", "reliability:=reliable", *arguments]
        player = RosProcess(PLAYER, log, *(word for o in options for word in ("-p", o)))
        probe.wait(lambda: not player.alive())
        assert player.wait(1) == 0, player.text()
        probe.wait(lambda: probe.status.frames_received == count)
        probe.wait(
            lambda: (
                probe.status.frames_processed + probe.status.frames_dropped == count
                and len(probe.features) == probe.status.frames_processed
            )
        )
        assert len(probe.features) >= 2
        return probe.features


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("inputs") / "log")
    yield rig
    rig.probe.close()
    assert rig.process.stop() == 0, rig.process.text()
    assert "Traceback" not in rig.process.text()


@pytest.fixture(autouse=True)
def lives(rig: Rig) -> Iterator[None]:
    yield
    assert rig.process.alive(), rig.process.text()
    assert "unexpected" not in rig.process.text()


@pytest.fixture(scope="module")
def pair() -> tuple[UInt8Array, UInt8Array]:
    """A rectified pair of a wall, 620×188: every point is 12 pixels further left on the right."""
    pixels = grey(next(iter(open_source("virtual"))).pixels)
    return tuple(np.ascontiguousarray(pixels[100:288, left : left + 620]) for left in (0, 12))


def info_of(width: int, height: int, focal: float, shift: float = 0.0) -> CameraInfo:
    matrix = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
    return CameraInfo(
        width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5, k=matrix,
        r=np.eye(3).ravel(), p=[*matrix[:3], shift, *matrix[3:6], 0.0, *matrix[6:], 0.0],
    )  # fmt: skip


def depth_image(pixels: UInt8Array, metres: float = 2.0) -> ImageMessage:
    height, width = pixels.shape[:2]
    values = np.full((height, width), metres, np.float32)
    values[:, : width // 2] = np.nan
    message = ImageMessage(height=height, width=width, step=4 * width, encoding="32FC1")
    message.data.frombytes(values.tobytes())
    return message


def test_stereo_of_kitti(rig, shared):
    probe = rig.restart(input="stereo", sync_wait=5.0)  # however busy the machine is
    source = shared / "data" / "kitti_00_first40"
    frames = rig.play(6, f"source:={source}", "publish:=stereo")
    for frame in frames[1:]:
        x = np.array(frame.keypoints).reshape(-1, 2)[:, 0]
        right_x, depth = optional_rows(frame, "right_x"), optional_rows(frame, "depth")
        assert len(right_x) == len(depth) == len(frame.scores)
        known = np.isfinite(right_x)
        print(f"right_x: {known.mean():.2f}, depth {np.nanpercentile(depth, [5, 50, 95])} m")
        assert known.mean() > 0.4
        assert (x - right_x)[known].min() > 0.0
        np.testing.assert_array_equal(known, np.isfinite(depth))
        assert frame.focal_length == pytest.approx(718.856)
        assert frame.baseline == pytest.approx(0.5371657)
        np.testing.assert_allclose(
            depth[known], frame.focal_length * frame.baseline / (x - right_x)[known], rtol=1e-4
        )
        assert 3.0 < np.nanpercentile(depth, 5) < np.nanmedian(depth) < 40.0
    status = probe.status
    assert status.frames_alone == 0
    assert status.sync_offset == 0.0
    assert status.calibrated
    assert status.with_depth == np.isfinite(optional_rows(frames[-1], "depth")).sum()
    assert "stereo" in status.stage_names
    assert (status.nearest_share, status.lightglue_share) == (1.0, 0.0)
    assert status.geometry in ("epipolar", "homography")
    assert 0 < status.inliers <= status.matches

    clouds = probe.wait(lambda: len(probe.received["vins_feature"]) == len(frames) and
                        probe.received["vins_feature"])  # fmt: skip
    cloud, frame, before = clouds[-1], frames[-1], frames[-2]
    assert cloud.header == frame.header
    table = np.array([channel.values for channel in cloud.channels]).T
    points = np.array([(p.x, p.y, p.z) for p in cloud.points])
    places = {tuple(place): i for i, place in enumerate(np.reshape(frame.keypoints, (-1, 2)))}
    left = table[:, 1] == 0
    rows = np.array([places[tuple(place)] for place in table[left, 2:4]])
    followed = np.isin(frame.track_ids, before.track_ids)
    assert 50 < len(rows) == min(followed.sum(), 400)
    assert followed[rows].all()
    rays, rays_before = (np.reshape(f.normalized, (-1, 2)) for f in (frame, before))
    np.testing.assert_array_equal(points[left, :2], rays[rows])
    assert (~left).sum() == np.isfinite(optional_rows(frame, "right_x")[rows]).sum()
    known = {track: i for i, track in enumerate(before.track_ids)}
    rows_before = [known[frame.track_ids[i]] for i in rows]
    elapsed = (frame.header.stamp.sec - before.header.stamp.sec) + (
        frame.header.stamp.nanosec - before.header.stamp.nanosec
    ) * 1e-9
    expected = (rays[rows] - rays_before[rows_before]) / elapsed
    np.testing.assert_allclose(table[left, 4:6], expected, atol=1e-3)


def test_depth_of_tum(rig, shared):
    probe = rig.restart(input="rgbd", sync_wait=5.0)
    source = shared / "data" / "tum_fr1_xyz"
    frames = rig.play(6, f"source:={source}", "publish:=rgbd")
    for frame in frames:
        depth = optional_rows(frame, "depth")
        assert len(frame.right_x) == frame.baseline == 0
        assert frame.focal_length == pytest.approx(517.306, abs=1e-3)
        assert np.isfinite(depth).mean() > 0.6
        assert 0.4 < np.nanmin(depth) < np.nanmedian(depth) < 3.0
    assert probe.status.frames_alone == 0


def test_a_right_image_that_never_comes(rig, pair):
    probe = rig.restart(input="stereo")
    for _ in range(11):
        frame = rig.send(pair[0])
        assert len(frame.scores) > 100
        assert len(frame.right_x) == 0
    rig.warning("no message on /right/image for")
    probe.wait(lambda: probe.status.frames_alone == 11)
    assert np.isnan(probe.status.sync_offset)
    assert len(rig.send(pair[0], right=image_message(pair[1], Header())).right_x) > 0
    probe.wait(lambda: probe.status.sync_offset == 0.0)


def test_a_right_image_that_comes_later(rig, pair):
    probe = rig.restart(input="stereo", sync_wait=5.0)
    rig.send(pair[0], right=image_message(pair[1], Header()))
    late = image_message(pair[1], rig.header())
    probe.images.publish(image_message(pair[0], late.header))
    probe.state()  # it has the left image
    probe.spin(0.05)
    rig.publishers["right"].publish(late)
    probe.wait(lambda: len(probe.features) == 2 and probe.status.frames_processed == 2)
    assert probe.features[-1].header == late.header
    assert len(probe.features[-1].right_x) > 0
    stages = dict(zip(probe.status.stage_names, probe.status.stage_last, strict=True))
    assert 0.02 < stages["pair"] < 5.0


def test_a_right_image_that_comes_too_late(rig, pair):
    probe = rig.restart(input="stereo")
    for _ in range(12):
        late = image_message(pair[1], rig.header())
        frame = probe.send(image_message(pair[0], late.header))  # after sync_wait, 0.1 s
        assert len(frame.right_x) == 0
        rig.publishers["right"].publish(late)
        probe.spin(0.03)
    rig.warning(
        "s after its /image, sync_wait is 0.100 s: images are processed alone. Raise sync_wait."
    )


def test_cameras_that_are_not_synchronised(rig, pair):
    right = image_message(pair[1], Header())
    probe = rig.restart(input="stereo")
    for _ in range(12):
        assert len(rig.send(pair[0], 0.03, right=right).right_x) == 0
    rig.warning("/right/image is 0.030 s later than /image (tolerance 0.000 s)")
    assert probe.status.sync_offset == pytest.approx(0.03)
    probe = rig.restart(input="stereo", sync="approximate")  # with 0.02 s
    for _ in range(3):
        assert len(rig.send(pair[0], -0.015, right=right).right_x) > 0
    probe.wait(lambda: probe.status.sync_offset == pytest.approx(-0.015))
    assert probe.status.frames_alone == 0


def test_bad_partners_leave_the_image_alone(rig, pair):
    left, right = pair
    probe = rig.restart(input="stereo")
    small = image_message(right[:100, :300].copy(), Header())
    assert len(rig.send(left, right=small).right_x) == 0
    rig.warning("/right/image has 300×100 pixels, /image 620×188")
    odd = image_message(right, Header())
    odd.encoding = "nonsense"
    assert len(rig.send(left, right=odd).right_x) == 0
    probe.wait(lambda: "/right/image refused" in probe.status.last_error)
    assert len(rig.send(left, right=image_message(right, Header())).right_x) > 0
    assert probe.wait(lambda: probe.status.frames_processed == 3)
    assert (probe.status.frames_alone, probe.status.frames_refused) == (2, 0)

    probe = rig.restart(input="rgbd")
    assert np.isfinite(optional_rows(rig.send(left, depth=depth_image(left)), "depth")).any()
    assert len(rig.send(left, depth=depth_image(left[:100])).depth) == 0
    rig.warning("/depth/image has 620×100 pixels, /image 620×188")
    colour = image_message(np.dstack([right] * 3), Header())
    assert len(rig.send(left, depth=colour).depth) == 0
    probe.wait(lambda: "depth image has encoding 'rgb8'" in probe.status.last_error)
    truncated = depth_image(left)
    truncated.data = truncated.data[:100]
    assert len(rig.send(left, depth=truncated).depth) == 0
    probe.wait(lambda: "step × height" in probe.status.last_error)
    assert (probe.status.frames_alone, probe.status.frames_refused) == (3, 0)


def test_bad_camera_infos_leave_the_images_alone(rig, pair):
    left, right = pair

    def send() -> FeatureFrame:
        return rig.send(left, right=image_message(right, Header()))

    rig.restart(input="stereo")
    rig.tell("right_info", info_of(620, 188, 359.0, shift=0.0))
    rig.tell("info", info_of(620, 188, 359.0))
    frame = send()
    assert len(frame.normalized) > len(frame.right_x) > len(frame.depth) == 0
    rig.warning("CameraInfo on /right/camera_info has no baseline (P[3] is 0)")
    rig.tell("right_info", info_of(620, 188, 359.0, shift=-359.0 * 0.5))
    depth = optional_rows(send(), "depth")
    assert 2.0 < np.nanmedian(depth) < 40.0
    rig.tell("info", info_of(640, 480, 359.0))
    frame = send()
    assert len(frame.right_x) > len(frame.normalized) == 0
    rig.warning("CameraInfo is for 640×480 images, these are 620×188")
    rig.warning("CameraInfo on /camera_info has changed")
    rig.tell("info", CameraInfo(width=620, height=188))
    assert len(send().normalized) == 0
    rig.warning("CameraInfo refused")
    rig.tell("info", info_of(620, 188, 359.0))
    frame = send()
    assert len(frame.normalized) > 0
    rig.tell("info", info_of(620, 188, 359.0))  # it stays: all is well
    rig.probe.received["/diagnostics"].clear()
    reports = rig.probe.wait(lambda: rig.probe.received["/diagnostics"])
    assert reports[-1].status[0].message == "active"


def test_masks(rig, pair, tmp_path):
    left, _ = pair
    probe = rig.restart()
    everywhere = np.reshape(rig.send(left).keypoints, (-1, 2))
    assert (everywhere[:, 0] < 300).sum() > 20
    mask = np.full(left.shape, 255, np.uint8)
    mask[:, :310] = 0
    rig.tell("mask", image_message(mask, Header()))
    for _ in range(2):  # it holds until another comes
        kept = np.reshape(rig.send(left).keypoints, (-1, 2))
        assert kept[:, 0].min() > 307
    rig.tell("mask", image_message(mask[:100], Header()))
    frame = rig.send(left)
    assert min(frame.keypoints[::2]) < 300  # ignored
    rig.warning("The mask of mask topic is 620×100 pixels, the images are 620×188")
    rig.tell("mask", image_message(np.dstack([mask] * 3), Header()))
    probe.wait(lambda: "mask has encoding 'rgb8'" in probe.status.last_error)

    bottom = np.full(left.shape, 255, np.uint8)
    bottom[94:] = 0
    file = tmp_path / "mask.png"
    cv2.imwrite(str(file), bottom)
    probe = rig.restart(mask_file=str(file), rectified=True, mask_border=True)
    info = info_of(620, 188, 359.0)
    info.p[0] = info.p[5] = 300.0  # rectified images show the raw one smaller: 519×157
    rig.tell("info", info)
    rig.tell("mask", image_message(mask, Header()))
    x, y = np.reshape(rig.send(left).keypoints, (-1, 2)).T
    assert len(x) > 20
    assert x.min() > 307
    assert x.max() < 310 + 310 * 300 / 359
    assert 94 - 94 * 300 / 359 < y.min() < y.max() < 97
    rig.restart(mask_border=True)
    rig.send(left)
    rig.warning("No mask_border: only rectified images have one")
    assert probe.transition("deactivate")
    assert probe.transition("cleanup")
    for value, words in ((str(tmp_path / "none.png"), "none.png"), (__file__, "test_inputs.py")):
        assert probe.set_parameter("mask_file", value) == ""
        assert not probe.transition("configure")
        probe.wait(lambda words=words: words in probe.status.last_error)
    rig.settings = {}


def test_a_camera_that_rolls_is_told_which_model_bears_it(rig):
    pixels = grey(next(iter(open_source("virtual"))).pixels)
    height, width = pixels.shape
    rig.restart()
    for number in range(10):
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), 6.0 * number, 1.0)
        rig.send(cv2.warpAffine(pixels, turn, (width, height)))
        said = "set model to aliked-n16rot" in rig.process.text()
        assert not (said and number < 7)
    rig.probe.wait(lambda: "set model to aliked-n16rot" in rig.process.text())


def labels_of(shape: tuple[int, ...], side: int) -> ImageMessage:
    """A segmentation: class 11 on one half of the image, 3 on the other."""
    labels = np.full(shape, 3, np.uint8)
    labels[:, : shape[1] // 2] = (11, 3)[side]
    labels[:, shape[1] // 2 :] = (3, 11)[side]
    return image_message(labels, Header())


@pytest.mark.parametrize("missing", ["latest", "none"])
def test_each_image_waits_for_the_mask_of_its_own_stamp(rig, pair, missing):
    left, _ = pair
    half = left.shape[1] // 2
    rig.restart(mask_sync="stamped", mask_values="7,11", mask_missing=missing, sync_wait=5.0)
    for side in (0, 1, 0):
        x = rig.send(left, mask=labels_of(left.shape, side)).keypoints[::2]
        assert len(x) > 20
        assert min(x) > half - 3 if side == 0 else max(x) < half + 3
    rig.restart(mask_sync="stamped", mask_values="7,11", mask_missing=missing, sync_wait=0.05)
    rig.send(left, mask=labels_of(left.shape, 0))
    x = rig.send(left, offset=-0.03, mask=labels_of(left.shape, 1)).keypoints[::2]  # of another
    assert (min(x) > half - 3) == (missing == "latest")
    for _ in range(10):
        rig.send(left)
    without = {"latest": "images use the mask before", "none": "images are not masked"}
    rig.warning(without[missing])


def test_mask_values_that_are_no_numbers_are_refused(rig, pair):
    probe = rig.restart()
    rig.settings = {}
    assert probe.transition("deactivate")
    assert probe.transition("cleanup")
    assert probe.set_parameter("mask_values", "person") == ""
    assert not probe.transition("configure")
    probe.wait(lambda: "mask_values is 'person'; give whole numbers" in probe.status.last_error)
    assert probe.set_parameter("mask_values", "0") == ""


def test_what_is_fixed_to_the_camera_is_reported(rig, tum_images):
    probe = rig.restart(mask_static=False)
    part = np.random.default_rng(0).integers(0, 2, (15, 20), np.uint8) * 255
    part = np.dstack([cv2.resize(part, (160, 120), interpolation=cv2.INTER_NEAREST)] * 3)
    for index in range(25):
        pixels = tum_images(index).copy()
        pixels[-120:, :160] = part
        frame = rig.send(pixels)
    rig.warning("Part of the image is fixed to the camera")
    print(f"static share: {probe.status.static_share:.3f}")

    def on_the_part(frame: FeatureFrame) -> int:
        x, y = np.reshape(frame.keypoints, (-1, 2)).T
        return int(((x < 150) & (y > 370)).sum())

    assert probe.set_parameter("mask_static", True) == ""
    masked = rig.send(pixels)
    print(f"keypoints on it: {on_the_part(frame)}, masked {on_the_part(masked)}")
    assert on_the_part(masked) < on_the_part(frame)
    probe.received["/diagnostics"].clear()
    probe.wait(  # one that was under way may still come
        lambda: any(
            "fixed to the camera" not in array.status[0].message
            for array in probe.received["/diagnostics"]
        )
    )
    assert probe.set_parameter("mask_static", False) == ""


def test_keyframes_and_relocalization(rig, tum_images):
    probe = rig.restart()
    rig.tell("info", info_of(640, 480, 517.0))
    images = [tum_images(index) for index in range(0, 120, 6)]
    frames = [rig.send(image) for image in images]
    flagged = [frame for frame in frames if frame.is_keyframe]
    keyframes = probe.wait(
        lambda: len(probe.received["keyframes"]) == len(flagged) and probe.received["keyframes"]
    )
    assert 2 <= len(keyframes) < len(frames)
    assert keyframes[0].reason == "first"
    probe.wait(lambda: probe.status.keyframes == len(flagged))
    for frame, keyframe in zip(flagged, keyframes, strict=True):
        assert keyframe.reason in ("first", "tracks", "parallax", "time", "lost")
        assert keyframe.features == frame
        assert keyframe.header == keyframe.image.header == frame.header
        sent = images[frames.index(frame)].astype(int)
        shown = image_from_message(keyframe.image).pixels.astype(int)
        assert np.abs(shown - sent).mean() < 8

    name = "aliked_frontend/relocalize"
    answer = probe.call(Relocalize, name)
    assert answer.success, answer.message
    assert answer.features.header == frames[-1].header
    assert answer.features.frame_index == frames[-1].frame_index
    stamps = {k.features.frame_index: k.header.stamp for k in keyframes}
    counts = [candidate.inlier_count for candidate in answer.candidates]
    assert counts == sorted(counts, reverse=True)
    for candidate in answer.candidates:
        assert candidate.keyframe_index != frames[-1].frame_index
        if candidate.keyframe_index in stamps:  # else the last view before tracks were lost
            assert candidate.keyframe_stamp == stamps[candidate.keyframe_index]
        assert sum(candidate.inliers) == candidate.inlier_count >= 16

    shown = next(k for k in reversed(keyframes) if k.features.frame_index != 0)
    request = Relocalize.Request(image=image_message(images[shown.features.frame_index], Header()))
    request.max_candidates = 1
    answer = probe.call(Relocalize, name, request)
    assert answer.success
    (best,) = answer.candidates
    assert best.keyframe_index == shown.features.frame_index
    assert best.inlier_count > 0.8 * len(shown.features.scores)
    assert set(answer.features.track_ids) == {0}
    assert len(answer.features.normalized) == 2 * len(answer.features.scores)
    upright = best
    turned = np.ascontiguousarray(images[shown.features.frame_index][::-1, ::-1])
    request.image = image_message(turned, Header())
    answer = probe.call(Relocalize, name, request)
    (best,) = answer.candidates
    assert best.keyframe_index == shown.features.frame_index
    assert best.inlier_count > 0.8 * upright.inlier_count
    rows = np.array(best.current_indices)[np.array(best.inliers, bool)]
    there = np.array(best.keyframe_indices)[np.array(best.inliers, bool)]
    moved = [639, 479] - np.reshape(answer.features.keypoints, (-1, 2))[rows]
    known = np.reshape(shown.features.keypoints, (-1, 2))[there]
    assert np.median(np.linalg.norm(moved - known, axis=1)) < 1.0
    request.image = image_message(np.zeros((480, 640), np.uint8), Header())
    assert not probe.call(Relocalize, name, request).success
    request.image.encoding = "nonsense"
    answer = probe.call(Relocalize, name, request)
    assert (answer.success, "nonsense" in answer.message) == (False, True)


def test_keyframes_may_have_other_descriptors(rig, tum_images):
    probe = rig.restart(descriptor_encoding="binary256", keyframe_descriptor_encoding="float16")
    frame = rig.send(tum_images(0))
    keyframe = probe.wait(lambda: probe.received["keyframes"])[0].features
    assert frame.descriptor_encoding == frame.BINARY256
    assert keyframe.descriptor_encoding == keyframe.FLOAT16
    floats = descriptors_from_message(keyframe)
    codes = codes_from_message(frame)
    assert np.diag(distances(encode(floats), codes)).max() < 3  # rounded to float16
    assert (frame.focal_length, frame.baseline) == (0, 0)  # no CameraInfo


def test_images_go_on_while_relocalization_works(rig, tum_images):
    """The service must not hold the executor: status, calls and images come through."""
    probe = rig.restart()
    client = probe.node.create_client(Relocalize, "aliked_frontend/relocalize")
    assert client.wait_for_service(10.0)
    for index in range(0, 60, 10):
        rig.send(tum_images(index))
    request = Relocalize.Request(image=image_message(tum_images(3), Header()))
    pending = [client.call_async(request) for _ in range(20)]
    count, since = 0, time.monotonic()
    while not all(future.done() for future in pending):
        rig.send(tum_images(count % 20))
        count += 1
        assert time.monotonic() - since < 60
    assert count >= 2
    assert all(future.result().success for future in pending)
    probe.wait(lambda: probe.status.frames_processed == 6 + count)
    assert probe.status.frames_dropped == 0
    assert probe.transition("deactivate")
    answer = probe.call(Relocalize, "aliked_frontend/relocalize", request)
    assert (answer.success, "state inactive" in answer.message) == (False, True)
    probe.node.destroy_client(client)


@pytest.mark.skipif(find_spec("rtabmap_msgs") is not None, reason="rtabmap_msgs is here")
def test_rtabmap_without_its_messages_is_refused(rig):
    assert "rtabmap_msgs" in rig.probe.set_parameter("publish_rtabmap", True)


def test_depth_of_the_transport_compressed_depth(rig, tum_images):
    probe = rig.restart(input="rgbd", depth_transport="compressedDepth")
    millimetres = np.full((480, 640), 1500, np.uint16)
    png = cv2.imencode(".png", millimetres)[1].tobytes()
    message = CompressedImage(format="16UC1; compressedDepth png", data=bytes(12) + png)
    features = rig.send(tum_images(0), packed_depth=message)
    np.testing.assert_allclose(features.depth, 1.5)
    assert len(features.depth) > 100
    message.data = bytes(12) + png[:100]
    assert not rig.send(tum_images(1), packed_depth=message).depth
    probe.wait(lambda: "16UC1; compressedDepth png" in probe.status.last_error)


@pytest.mark.skipif(find_spec("foxglove_msgs") is not None, reason="foxglove_msgs is here")
def test_video_without_its_messages_is_refused(rig):
    probe = rig.restart()
    assert probe.transition("deactivate")
    assert probe.transition("cleanup")
    rig.settings = {}
    for name, value in (("image_transport", "h264"), ("video_messages", "foxglove")):
        assert probe.set_parameter(name, value) == ""
    assert not probe.transition("configure")
    assert "video_messages foxglove needs ROS's package foxglove_msgs" in rig.process.text()


def test_a_camera_that_stops_and_comes_back_is_subscribed_to_again(rig, tum_images):
    probe = rig.restart()
    first = rig.send(tum_images(0))
    assert probe.set_parameter("diagnostics.max_silence_error", 1.0) == ""
    assert probe.set_parameter("silence_action", "resubscribe") == ""
    words = "Subscribed again, as silence_action says."
    probe.wait(lambda: rig.process.text().count(words) >= 2)
    assert "no image on /image for " in rig.process.text()
    assert probe.set_parameter("silence_action", "report") == ""
    probe.wait(probe.images.get_subscription_count)
    probe.wait_discovered("aliked_frontend")
    second = rig.send(tum_images(1))
    assert (second.epoch, second.frame_index) == (first.epoch, first.frame_index + 1)
    assert max(second.track_lengths) == 2
    assert probe.set_parameter("diagnostics.max_silence_error", 15.0) == ""


def test_a_node_without_images_ends_for_respawn_to_start_it_again(tmp_path):
    arguments = ("-p", "silence_action:=end", "-p", "diagnostics.max_silence_error:=1.0")
    process = RosProcess(NODE, tmp_path / "node.log", *ARGUMENTS, *arguments)
    assert process.wait(300.0) == 1
    assert "no image on /image for 1 s" in process.text()
    assert "The node ends, as silence_action says." in process.text()
    assert "Traceback" not in process.text()


def test_a_node_reads_its_camera_itself(rig):
    """In one process: nobody publishes images but the node, and it only for those who listen."""
    probe, process = rig.restart(), rig.process

    def configure(**settings) -> bool:
        if probe.state() == "active":
            assert probe.transition("deactivate")
        if probe.state() == "inactive":
            assert probe.transition("cleanup")
        rig.settings = {}
        for name, value in settings.items():
            assert probe.set_parameter(name, value) == ""
        return probe.transition("configure")

    assert configure(camera_source="virtual", camera_frame="lens")
    assert probe.transition("activate")
    probe.wait(lambda: probe.status.frames_processed > 3)
    assert probe.images.get_subscription_count() == 0
    features = probe.wait(lambda: probe.features)[-1]
    assert features.header.frame_id == "lens"
    assert abs(features.header.stamp.sec - time.time()) < 10
    assert features.focal_length > 100
    assert len(features.normalized) == len(features.keypoints) > 0
    for kind, topic in ((ImageMessage, "image"), (CameraInfo, "camera_info")):
        probe.listen(kind, topic, qos_profile_sensor_data)
    image = probe.wait(lambda: probe.received["image"])[0]
    assert image_from_message(image).pixels.shape == (480, 640, 3)
    probe.wait(lambda: probe.received["camera_info"])
    assert configure(camera_source="camera:97")
    probe.received["features"].clear()
    assert probe.transition("activate")
    probe.wait(lambda: "camera:97 cannot be opened" in process.text())
    assert "It is tried again every 2 s." in process.text()
    assert not probe.features
    refused = ("house.mp4", "camera", "realsense:desk.bag", "virtual:1")
    for source, images in (*((source, "mono") for source in refused), ("camera:0", "stereo")):
        assert not configure(camera_source=source, input=images)
        assert f"camera_source is '{source}'" in process.text()
    assert configure(camera_source="", input="mono")
    assert probe.transition("activate")


def test_images_of_the_own_camera_that_wait_too_long_are_reported_as_dropped():
    """All that were read reach the front-end or are counted, while the executor is busy."""
    probe, taken, dropped, seen = Probe(), [], [], []
    settings = {
        "camera_source": "virtual", "camera_frame": "lens", "input": "mono", "stamps": "image",
    }  # fmt: skip
    warnings = Warnings(seen.append, seen.append)
    camera = OwnCamera(
        probe.node, settings, warnings, Calibration("", "", False, warnings),
        lambda image, _: taken.append(seconds(image.header.stamp)), lambda *_: None,
        lambda: dropped.append(time.time()),
    )  # fmt: skip
    camera.start()
    deadline = time.monotonic() + 60
    while len(dropped) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)  # the executor does nothing
    assert len(dropped) >= 3, seen
    assert not taken
    probe.wait(lambda: len(taken) >= 10)
    camera.close()
    assert taken == sorted(taken)
    probe.close()
