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

"""The real node, in a process of its own, fed with real images over DDS by this one."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.parameter import parameter_value_to_python
from sensor_msgs.msg import CameraInfo, CompressedImage
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_msgs.msg import FeatureFrame
from aliked_msgs.srv import Relocalize
from aliked_ros.camera import CameraModel
from aliked_ros.evaluation.moving import Overlay, standing
from aliked_ros.io.messages import descriptors_from_message
from aliked_ros.ros.conversions import (
    image_message,
)
from aliked_ros.ros.parameters import DECLARATIONS, Change
from aliked_ros.sources import open_source
from aliked_ros.types import Image, UInt8Array
from helpers import ROOT
from helpers.ros import BEST_EFFORT, RELIABLE, START_TIMEOUT, Probe, RosProcess

pytestmark = [pytest.mark.ros, pytest.mark.long]

MODULE = "aliked_ros.ros.frontend_node"
FAST = [
    *("-p", "matcher:=nearest"),
    *("-p", "max_keypoints:=300"),
    *("-p", "status_period:=0.1"),
]


@pytest.fixture(scope="module")
def frames() -> list[UInt8Array]:
    """Consecutive images of a moving camera, 320×240 RGB."""
    images = open_source("virtual", 12)
    return [cv2.resize(image.pixels, (320, 240)) for image in images]


class Camera:
    """Makes image messages with stamps that grow, 50 ms apart."""

    def __init__(self) -> None:
        self.nanoseconds = 1_700_000_000_123_456_789

    def header(self) -> Header:
        self.nanoseconds += 50_000_000
        sec, nanosec = divmod(self.nanoseconds, 10**9)
        return Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id="left_camera")

    def message(self, pixels: UInt8Array) -> ImageMessage:
        return image_message(pixels, self.header())


@pytest.fixture(scope="module")
def camera() -> Camera:
    return Camera()


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    probe = Probe()
    yield probe
    probe.close()


@pytest.fixture(scope="module")
def process(probe: Probe, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RosProcess]:
    process = RosProcess(MODULE, tmp_path_factory.mktemp("node") / "log", *FAST)
    probe.wait_for_state("active")
    yield process
    assert process.stop() == 0, process.text()
    assert "Traceback" not in process.text()


@pytest.fixture
def node(process: RosProcess, probe: Probe) -> Iterator[RosProcess]:
    """The node, freshly activated; it must outlive every test."""
    if probe.state() == "active":
        assert probe.transition("deactivate")
    assert probe.transition("activate")
    probe.wait_connected()
    probe.received.clear()
    yield process
    assert process.alive(), process.text()


def test_features_have_the_images_header_and_lasting_ids(node, probe, camera, frames):
    sent = [camera.message(pixels) for pixels in frames[:6]]
    results = [probe.send(message) for message in sent]
    probe.wait(lambda: len(probe.matches) == len(sent))
    for index, (message, result) in enumerate(zip(sent, results, strict=True)):
        assert result.header == message.header
        assert (result.width, result.height, result.frame_index) == (320, 240, index)
        assert result.model == "aliked-n16"
        ids = np.array(result.track_ids)
        assert len(np.unique(ids)) == len(ids) > 100
        norms = np.linalg.norm(descriptors_from_message(result), axis=1)
        np.testing.assert_allclose(norms, 1.0, atol=1e-3)
    for before, after, matches in zip(results, results[1:], probe.matches[1:], strict=False):
        assert matches.header == after.header
        assert matches.reference_stamp == before.header.stamp  # to the nanosecond
        assert (matches.reference_index, matches.frame_index) == (
            before.frame_index,
            after.frame_index,
        )
        inliers = np.array(matches.inliers, bool)
        assert len(inliers) == len(matches.scores)
        references = np.array(matches.reference_indices)[inliers]
        currents = np.array(matches.current_indices)[inliers]
        assert len(currents) > 60
        assert [before.track_ids[i] for i in references] == [after.track_ids[i] for i in currents]
        assert [before.track_lengths[i] + 1 for i in references] == [
            after.track_lengths[i] for i in currents
        ]
    assert max(results[-1].track_lengths) == 6


def test_bad_images_are_counted_and_the_next_good_one_is_processed(node, probe, camera, frames):
    first = probe.send(camera.message(frames[0]))
    truncated = camera.message(frames[1])
    truncated.data = truncated.data[:-1000]
    unknown = camera.message(frames[1])
    unknown.encoding = "nonsense"
    empty = ImageMessage(header=camera.header())
    tiny = camera.message(np.zeros((8, 8), np.uint8))
    nan = ImageMessage(header=camera.header(), height=64, width=64, step=256, encoding="32FC1")
    nan.data.frombytes(np.full((64, 64), np.nan, "<f4").tobytes())
    depth = ImageMessage(header=camera.header(), height=64, width=64, step=128, encoding="16UC1")
    depth.data.frombytes(bytes(64 * 128))
    bad = [truncated, unknown, empty, tiny, nan, depth]
    for count, message in enumerate(bad, start=1):
        probe.images.publish(message)
        probe.wait(lambda count=count: probe.status.frames_refused == count)
        assert probe.status.last_error
    assert "16UC1" in probe.status.last_error
    good = probe.send(camera.message(frames[1]))
    assert good.epoch == first.epoch
    assert max(good.track_lengths) == 2  # followed across the bad ones
    probe.wait(lambda: probe.status.frames_processed == 2)
    assert probe.status.frames_received == 2 + len(bad)
    assert "Image refused" in node.text()


def test_the_newest_image_wins_and_the_others_are_counted(node, probe, camera, frames):
    deadline = time.monotonic() + 120.0
    dropped = 0
    # On a busy machine the middleware may replace images before the node has a chance to.
    while not dropped and time.monotonic() < deadline:
        burst = [camera.message(frames[i % len(frames)]) for i in range(30)]
        for message in burst:
            probe.images.publish(message)
            time.sleep(0.005)  # faster than the pipeline, slow enough for the transport
        last = burst[-1].header
        probe.wait(lambda last=last: probe.features and probe.features[-1].header == last)
        probe.wait(lambda: probe.status.frames_processed == len(probe.features))
        dropped = probe.status.frames_dropped
    assert dropped > 0
    assert probe.status.frames_received == probe.status.frames_processed + dropped
    indices = [feature.frame_index for feature in probe.features]
    assert indices == list(range(len(indices)))


def test_reference_stamps_are_exact_also_when_matches_were_off(node, probe, camera, frames):
    for pixels in frames[:3]:
        probe.send(camera.message(pixels))
    probe.wait(lambda: len(probe.matches) == 3)
    assert probe.set_parameter("publish_matches", False) == ""
    assert probe.transition("deactivate")
    assert probe.transition("activate")  # indices start at 0 again: those stamps are history
    probe.wait_connected()
    references = [probe.send(camera.message(pixels)) for pixels in frames[3:6]]
    assert len(probe.matches) == 3
    assert probe.set_parameter("publish_matches", True) == ""
    current = probe.send(camera.message(frames[6]))
    probe.wait(lambda: len(probe.matches) == 4)
    assert probe.matches[-1].header == current.header
    assert probe.matches[-1].reference_index == references[-1].frame_index == 2
    assert probe.matches[-1].reference_stamp == references[-1].header.stamp


def test_another_size_begins_a_new_epoch(node, probe, camera, frames):
    before = probe.send(camera.message(frames[0]))
    after = probe.send(camera.message(cv2.resize(frames[1], (260, 200))))
    assert (after.width, after.height) == (260, 200)
    assert after.epoch == before.epoch + 1
    assert set(after.track_lengths) == {1}


def camera_info(width: int, height: int, focal: float) -> CameraInfo:
    matrix = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
    return CameraInfo(
        width=width, height=height, distortion_model="plumb_bob", d=[-0.2, 0.05, 0.0, 0.0, 0.0],
        k=matrix, p=[*matrix[:3], 0.0, *matrix[3:6], 0.0, *matrix[6:], 0.0],
    )  # fmt: skip


def test_camera_info(node, probe, camera, frames):
    """Good, zero, for another size: only the good one fills ``normalized``, none stops the node."""
    infos = probe.node.create_publisher(CameraInfo, "camera_info", RELIABLE)
    probe.wait(infos.get_subscription_count)
    assert len(probe.send(camera.message(frames[0])).normalized) == 0

    def features_with(info: CameraInfo, filled: bool) -> FeatureFrame:
        deadline = time.monotonic() + 120.0
        while True:  # the two topics have no common order
            infos.publish(info)
            probe.spin(0.1)
            frame = probe.send(camera.message(frames[1]))
            if bool(frame.normalized) == filled:
                return frame
            assert time.monotonic() < deadline

    good = camera_info(320, 240, 260.0)
    frame = features_with(good, filled=True)
    model = CameraModel.from_info(good, rectified=False)
    pixels = np.array(frame.keypoints, np.float32).reshape(-1, 2)
    normalized = np.array(frame.normalized, np.float32).reshape(-1, 2)
    np.testing.assert_allclose(model.project(normalized), pixels, atol=0.02)
    assert np.abs(normalized).max() > 0.4
    features_with(CameraInfo(width=320, height=240), filled=False)
    probe.wait(lambda: "not calibrated" in probe.status.last_error)
    features_with(good, filled=True)
    features_with(camera_info(640, 480, 520.0), filled=False)
    assert "CameraInfo is for 640×480 images, these are 320×240" in node.text()
    probe.node.destroy_publisher(infos)


def test_a_stamp_that_jumps_back_begins_a_new_epoch(node, probe, camera, frames):
    before = probe.send(camera.message(frames[0]))
    old = camera.message(frames[1])
    old.header.stamp.sec -= 100
    after = probe.send(old)
    assert after.epoch == before.epoch + 1
    assert set(after.track_lengths) == {1}
    probe.wait(lambda: len(probe.matches) == 2)
    assert len(probe.matches[-1].scores) == 0


def test_reset_pause_and_resume(node, probe, camera, frames):
    before = probe.send(camera.message(frames[0]))
    answer = probe.trigger("reset")
    assert answer.success
    assert f"epoch {before.epoch + 1}" in answer.message
    probe.wait(lambda: probe.status.epoch == before.epoch + 1)  # without another image
    assert probe.send(camera.message(frames[1])).epoch == before.epoch + 1

    assert probe.trigger("pause").success
    probe.wait_for_state("paused")
    count = len(probe.features)
    probe.images.publish(camera.message(frames[2]))
    probe.spin(1.0)
    assert len(probe.features) == count
    assert probe.trigger("resume").success
    after = probe.send(camera.message(frames[3]))
    assert after.epoch == before.epoch + 1
    assert max(after.track_lengths) == 2


def test_tracks_are_drawn_for_whoever_looks(node, probe, camera, frames):
    subscription = probe.listen(ImageMessage, "aliked_frontend/tracks/image")
    probe.wait(lambda: probe.node.count_publishers("/aliked_frontend/tracks/image"))
    probe.wait_discovered("aliked_frontend")
    message = camera.message(frames[0])
    probe.send(message)
    probe.wait(lambda: probe.received["tracks/image"])
    drawing = probe.received["tracks/image"][-1]
    assert drawing.header == message.header
    assert (drawing.width, drawing.height, drawing.encoding) == (320, 240, "rgb8")
    pixels = np.frombuffer(drawing.data, np.uint8).reshape(240, 320, 3).astype(int)
    assert (np.ptp(pixels, axis=2) > 60).sum() > 300  # coloured dots on a grey image
    probe.node.destroy_subscription(subscription)


def test_parameters_that_may_change_do_so_at_once(node, probe, camera, frames):
    assert len(probe.send(camera.message(frames[0])).descriptors) > 0
    assert probe.set_parameter("descriptor_encoding", "float16") == ""
    half = probe.send(camera.message(frames[0]))
    assert half.descriptor_encoding == half.FLOAT16
    assert len(half.descriptors) == 2 * 128 * len(half.scores)
    assert probe.set_parameter("descriptor_encoding", "binary256") == ""
    assert len(probe.send(camera.message(frames[0])).descriptors) == 32 * len(half.scores)
    assert probe.set_parameter("publish_descriptors", False) == ""
    assert len(probe.send(camera.message(frames[0])).descriptors) == 0
    assert probe.set_parameter("score_threshold", 0.5) == ""
    scores = probe.send(camera.message(frames[0])).scores
    assert 0 < len(scores) < len(half.scores)
    probe.wait(lambda: len(probe.matches) == 5)
    assert len(probe.matches[-1].inliers) == len(probe.matches[-1].scores) > 0
    assert probe.set_parameter("verification", "none") == ""
    probe.send(camera.message(frames[0]))
    probe.wait(lambda: len(probe.matches) == 6)
    assert len(probe.matches[-1].scores) > len(probe.matches[-1].inliers) == 0
    for name, value in (
        ("score_threshold", 0.0), ("publish_descriptors", True), ("descriptor_encoding", "float32"),
        ("verification", "fundamental"),
    ):  # fmt: skip
        assert probe.set_parameter(name, value) == ""


def test_moving_objects_are_flagged_or_left_out(node, probe, camera, frames):
    texture = np.ascontiguousarray(frames[6][60:150, 180:280, 1])
    images = Overlay(texture, (5.0, 2.0), 2).over(standing(Image(frames[0]), 14, 20.0))
    results = []
    assert probe.set_parameter("moving_objects", "flag") == ""
    for image, _ in images:
        results.append(probe.send(camera.message(image.pixels)))
    assert len(results[0].object_ids) == 0
    flagged = results[-1]
    assert len(flagged.object_ids) == len(flagged.track_ids)
    assert max(flagged.object_ids) == 1
    assert 10 < np.count_nonzero(flagged.object_ids) < len(flagged.object_ids) / 2
    assert probe.set_parameter("moving_objects", "drop") == ""
    left = probe.send(camera.message(image.pixels))
    assert len(left.object_ids) == 0
    assert 0 < len(left.track_ids) < len(flagged.track_ids)
    assert len(left.keypoints) == 2 * len(left.track_ids)
    assert probe.set_parameter("moving_objects", "ignore") == ""


def test_services_answer_in_every_state(node, probe, camera, frames):
    """What cannot be done is answered with the state; pause and resume may be said twice."""
    names = ("reset", "pause", "resume")

    def answers() -> dict[str, bool]:
        found = {}
        for name in names:
            answer = probe.trigger(name)
            assert answer.message
            assert answer.success or probe.state() in answer.message
            found[name] = answer.success
        request = Relocalize.Request()
        relocalized = probe.call(Relocalize, "aliked_frontend/relocalize", request)
        assert not relocalized.success
        assert relocalized.message
        return found

    assert answers() == {"reset": True, "pause": True, "resume": True}
    for name in ("pause", "pause", "reset", "resume", "resume"):
        assert probe.trigger(name).success
    assert len(probe.send(camera.message(frames[0])).scores) > 0
    assert probe.transition("deactivate")
    assert answers() == {"reset": True, "pause": False, "resume": False}
    assert probe.transition("cleanup")
    assert answers() == {"reset": False, "pause": False, "resume": False}
    assert probe.transition("configure")


def test_the_answer_to_a_locked_parameter_holds_the_commands(node, probe):
    reason = probe.set_parameter("max_keypoints", 100)
    for label in ("deactivate", "cleanup", "configure", "activate"):
        assert f"ros2 lifecycle set /aliked_frontend {label}" in reason
    assert "--ros-args -p autostart:=VALUE" in probe.set_parameter("autostart", False)


def test_a_request_that_ros_cannot_read_does_not_end_the_node(node, probe, camera, frames):
    """Rclpy raises at a parameter of a type that there is not; the executor must survive it."""
    value = ParameterValue(type=99)
    request = SetParameters.Request(parameters=[ParameterMessage(name="model", value=value)])
    client = probe.node.create_client(SetParameters, "aliked_frontend/set_parameters")
    assert client.wait_for_service(20.0)
    client.call_async(request)
    probe.wait(lambda: "ROS could not read something" in probe.status.last_error)
    probe.node.destroy_client(client)
    assert len(probe.send(camera.message(frames[0])).scores) > 0
    assert probe.set_parameter("publish_matches", True) == ""


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("descriptor_encoding", "float64", "choose one of float32, float16"),
        ("match_threshold", 1.5, "1.5"),
        ("match_threshold", float("nan"), "nan"),
        ("status_period", "often", "parameter type"),
        ("model", "aliked-n32", "may be set while unconfigured"),
        ("autostart", False, "read-only"),
    ],
)
def test_bad_parameter_values_are_answered_with_the_reason(node, probe, name, value, words):
    assert words in probe.set_parameter(name, value)


def test_the_nodes_own_values_can_be_set_again_while_it_works(node, probe):
    """As ``ros2 param load`` does with what ``ros2 param dump`` wrote."""
    names = [item.name for item in DECLARATIONS if item.change is not Change.AT_START]
    request = GetParameters.Request(names=names)
    values = probe.call(GetParameters, "aliked_frontend/get_parameters", request).values
    for name, value in zip(names, values, strict=True):
        assert probe.set_parameter(name, parameter_value_to_python(value)) == ""


def test_lifecycle_leaves_no_threads_and_no_old_identities(node, probe, camera, frames):
    before = probe.send(camera.message(frames[0]))
    working = node.thread_count()
    assert not probe.transition("cleanup")  # not possible while active: answered, not fatal
    assert probe.transition("deactivate")
    assert probe.state() == "inactive"
    assert "Inactive: " in node.text()
    count = len(probe.features)
    probe.images.publish(camera.message(frames[1]))
    probe.spin(1.0)
    assert len(probe.features) == count
    assert node.thread_count() <= working - 2  # worker and drawing
    assert not probe.trigger("pause").success

    assert probe.status.model_checksum
    assert probe.transition("cleanup")
    assert probe.state() == "unconfigured"
    assert "Unconfigured: the networks are freed" in node.text()
    status = probe.wait_for_state("unconfigured")
    assert (status.backend, status.model_checksum) == ("", "")  # nothing is loaded any more
    assert not probe.trigger("reset").success
    assert probe.set_parameter("image_transport", "compressed") == ""
    assert probe.transition("configure")
    assert probe.transition("activate")
    probe.wait_connected(compressed=True)
    _, data = cv2.imencode(".jpg", frames[0])
    message = CompressedImage(header=camera.header(), format="jpeg", data=data.tobytes())
    after = probe.send(message)
    assert after.epoch > before.epoch  # a new pipeline's ids are not the old one's
    assert after.frame_index == 0

    assert probe.transition("deactivate")
    assert probe.transition("cleanup")
    assert probe.set_parameter("image_transport", "raw") == ""
    assert probe.transition("configure")


def test_results_reach_a_subscriber_within_five_milliseconds(node, probe, camera):
    """From the last inference stage to the callback, at 640×480 with descriptors.

    The lower quartile: what others do on this machine meanwhile is no fault of ours.
    """
    pixels = next(iter(open_source("virtual", 1))).pixels
    assert pixels.shape[:2] == (480, 640)
    overheads = []
    for _ in range(30):
        message = camera.message(pixels)
        message.header.stamp = probe.node.get_clock().now().to_msg()
        probe.send(message)
        arrival = probe.times["features"][-1]
        count = len(probe.features)
        probe.wait(lambda count=count: probe.status.frames_processed == count)
        stages = dict(zip(probe.status.stage_names, probe.status.stage_last, strict=True))
        inferred = sum(
            stages[name]
            for name in ("receive", "wait", "convert", "extract", "match", "verify", "track")
        )
        stamp = message.header.stamp
        overheads.append(arrival - (stamp.sec + stamp.nanosec * 1e-9) - inferred)
    assert np.percentile(overheads, 25) < 5e-3, overheads


def test_shutdown_ends_the_node_from_any_state(node, probe):
    """Runs last: afterwards the module's node is finalized, and must still end with status 0."""
    assert probe.transition("shutdown")
    assert "Finalized: " in node.text()
    assert probe.state() == "finalized"


@pytest.fixture
def private(tmp_path: Path) -> Iterator[tuple[Probe, list[RosProcess]]]:
    """A probe for a node of another name, and the processes to stop afterwards."""
    probe = Probe("private_frontend")
    processes: list[RosProcess] = []
    yield probe, processes
    for process in processes:
        process.wait(0.1) if not process.alive() else process.stop()
    probe.close()


def start(private, tmp_path: Path, *arguments: str, **env: str) -> tuple[Probe, RosProcess]:
    probe, processes = private
    rename = ("-r", "__node:=private_frontend")
    processes.append(RosProcess(MODULE, tmp_path / "log", *FAST, *rename, *arguments, **env))
    return probe, processes[0]


def test_missing_weights_leave_the_node_alive_and_are_named(private, tmp_path):
    missing = {"ALIKED_ROS_CACHE": str(tmp_path / "cache"), "ALIKED_ROS_WEIGHTS": str(tmp_path)}
    probe, process = start(private, tmp_path, **missing)
    probe.listen(DiagnosticArray, "/diagnostics")
    status = probe.wait(
        lambda: probe.status.last_error and probe.status.state == "unconfigured" and probe.status
    )
    assert "aliked-n16" in status.last_error
    assert "aliked_ros models" in status.last_error  # the remedy
    assert status.last_error.split("configure failed: ")[1] in process.text()
    report = probe.wait(
        lambda: [
            entry
            for array in probe.received["/diagnostics"]
            for entry in array.status
            if entry.name.startswith("private_frontend") and entry.level == DiagnosticStatus.ERROR
        ]
    )[0]
    assert report.message == status.last_error
    assert not probe.transition("configure")  # still the same
    assert process.alive()
    assert process.stop(signal.SIGTERM) == 0


def test_bad_parameters_at_start_are_named_and_can_be_mended(private, tmp_path):
    arguments = ("-p", "model:=aliked-x", "-p", "score_threshold:=high", "-p", "max_keypoints:=200")
    probe, process = start(private, tmp_path, *arguments)
    status = probe.wait(lambda: probe.status.last_error and probe.status)
    assert "model is 'aliked-x'; choose one of aliked-t16" in status.last_error
    assert "score_threshold is 'high'" in status.last_error
    assert probe.set_parameter("model", "aliked-t16") == ""
    assert probe.set_parameter("score_threshold", 0.1) == ""
    assert probe.transition("configure"), process.text()
    assert process.stop() == 0


def test_without_autostart_it_waits(private, tmp_path):
    probe, process = start(private, tmp_path, "-p", "autostart:=false")
    probe.wait(lambda: "Unconfigured: autostart is false" in process.text())
    status = probe.wait_for_state("unconfigured")
    assert status.last_error == ""
    assert probe.state() == "unconfigured"
    assert process.stop(signal.SIGTERM) == 0


def test_a_failed_activation_says_why_and_leaves_the_node_alive(private, tmp_path):
    """The image topic is remapped to one that the node itself has, with another type."""
    remap = ("-r", "image:=/private_frontend/status")
    probe, process = start(private, tmp_path, *remap)
    status = probe.wait(
        lambda: "activate failed" in probe.status.last_error and probe.status, START_TIMEOUT
    )
    assert status.state == probe.state() == "unconfigured"
    assert status.last_error in process.text()
    assert "Not started: the node stays unconfigured" in process.text()
    assert probe.transition("configure")
    assert not probe.transition("activate")
    assert probe.state() == "unconfigured"
    assert process.stop() == 0


def test_a_camera_of_another_qos_is_named(private, tmp_path, frames):
    probe, process = start(private, tmp_path, "-p", "input_reliability:=reliable")
    probe.wait_for_state("active")
    camera = probe.node.create_publisher(ImageMessage, "image", BEST_EFFORT)
    probe.wait(lambda: "/image offers another QoS (reliability)" in probe.status.last_error)
    probe.node.destroy_publisher(camera)
    probe.wait_connected()
    # of the probe's own camera: all is well
    probe.send(image_message(frames[0], Header(stamp=Time(sec=1))))
    probe.listen(DiagnosticArray, "/diagnostics")
    report = probe.wait(
        lambda: [
            entry
            for array in probe.received["/diagnostics"]
            for entry in array.status
            if entry.name.startswith("private_frontend")
        ]
    )[0]
    assert (report.level, report.message) == (DiagnosticStatus.OK, "active")
    assert probe.transition("deactivate")
    assert process.stop() == 0


def test_detections_that_fail_or_hang_cost_no_image(tmp_path, frames):
    """``detection: behind``: optical flow carries the tracks, and the node says why."""
    fault = tmp_path / "fault"
    probe, camera = Probe("faulty_frontend"), Camera()
    process = RosProcess(
        "helpers.faulty_frontend", tmp_path / "log", *FAST, "-r", "__node:=faulty_frontend",
        "-p", "detection:=behind", PYTHONPATH=str(ROOT / "test"), ALIKED_ROS_FAULT=str(fault),
    )  # fmt: skip
    pixels = cycle([*frames, *frames[-2:0:-1]])  # there and back
    try:
        probe.wait_for_state("active")
        probe.wait_connected()
        first = probe.send(camera.message(next(pixels)))
        assert len(first.scores) > 100, "the first image waits for its detection"
        assert not any(first.detection_age)

        def send_until(condition) -> FeatureFrame:
            deadline = time.monotonic() + 120.0
            while True:
                frame = probe.send(camera.message(next(pixels)))
                if condition(frame):
                    return frame
                assert time.monotonic() < deadline, probe.status
                probe.spin(0.05)

        fault.write_text("fail")
        words = "A detection failed: unexpected RuntimeError: the accelerator is gone"
        send_until(lambda _: words in probe.status.last_error)
        failing = send_until(lambda frame: min(frame.detection_age) > 10)
        assert len(failing.scores) > 30
        assert failing.epoch == first.epoch
        assert probe.status.frames_refused == 0
        assert process.text().count(words) == 1, "said once while it stands"

        fault.write_text("hang")
        send_until(lambda _: "A detection takes more than 3 s" in probe.status.last_error)
        send_until(lambda _: probe.status.detection_rate == 0.0)
        probe.wait(lambda: probe.status.age_shares[-1] == 1.0)
        fault.unlink()
        recovered = send_until(lambda frame: min(frame.detection_age, default=99) < 5)
        assert recovered.epoch == first.epoch

        fault.write_text("fail")
        send_until(lambda _: words in probe.status.last_error)
        assert probe.trigger("reset").success
        probe.images.publish(camera.message(next(pixels)))
        probe.wait(lambda: probe.status.frames_refused == 1)  # rather than a blind image
        fault.unlink()
        fresh = probe.send(camera.message(next(pixels)))
        assert fresh.epoch == first.epoch + 1
        assert len(fresh.scores) > 100
        assert process.stop() == 0, process.text()
    finally:
        process.wait(0.1) if not process.alive() else process.stop()
        probe.close()
