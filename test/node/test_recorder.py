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

"""Recordings are read back whole, by readers that do not know our messages."""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import CameraInfo, Imu
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header, String

from aliked_msgs.msg import FeatureFrame, FeatureMatches, FrontendStatus, Keyframe
from aliked_ros.errors import ConfigurationError, OutputError
from aliked_ros.exporting.recording import RecordingReader
from aliked_ros.io.bags import Bag, stream_mcap
from aliked_ros.ros import recording as recording_module
from aliked_ros.ros.conversions import feature_frame, feature_matches, image_message
from aliked_ros.ros.demo_report import read_recording, report_of
from aliked_ros.ros.recording import Recording, message_definition
from aliked_ros.types import Features, FrameResult, Matches, Tracks
from helpers.ros import BEST_EFFORT, RELIABLE, Probe, RosProcess, environment, refusals

MODULE = "aliked_ros.ros.recorder"
KINDS = (FeatureFrame, FeatureMatches, FrontendStatus)


def features(seed: int) -> FeatureFrame:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 300))
    result = FrameResult(
        index=seed,
        stamp=float(seed),
        features=Features(
            rng.random((count, 2), np.float32),
            rng.random(count, np.float32),
            rng.random((count, 128), np.float32),
            640,
            480,
            "aliked-n16",
        ),
        matches=Matches.empty(),
        tracks=Tracks(np.arange(count, dtype=np.uint64), np.ones(count, np.uint32), 2),
    )
    return feature_frame(result, Header(stamp=Time(sec=seed, nanosec=5), frame_id="camera"))


def matches(seed: int) -> FeatureMatches:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 300))
    found = Matches(
        rng.permutation(count).astype(np.uint32),
        rng.permutation(count).astype(np.uint32),
        rng.random(count, np.float32),
        rng.random(count) < 0.5,
    )
    none = np.zeros(0, np.float32)
    empty = Features(none.reshape(0, 2), none, none.reshape(0, 128), 640, 480, "aliked-n16")
    tracks = Tracks(np.zeros(0, np.uint64), np.zeros(0, np.uint32), 2)
    result = FrameResult(seed, 1.0, empty, found, tracks, seed - 1, 0.9)
    return feature_matches(result, Header(), Time(sec=3))


def status(seed: int) -> FrontendStatus:
    message = FrontendStatus(state="active", frames_received=seed, backend="cpu: ä test")
    message.stage_names = ["extract", "match"]
    message.stage_last.extend([0.1, float(seed)])
    return message


@pytest.fixture
def recording(tmp_path: Path) -> tuple[Recording, dict[str, list]]:
    """An unfinished recording of each kind of message, and what is in it by topic."""
    recording = Recording(tmp_path / "run.mcap")
    messages: dict[str, list] = {}
    for kind, make in zip(KINDS, (features, matches, status), strict=True):
        topic = f"/frontend/{kind.__name__}"
        recording.add_topic(topic, kind)
        messages[topic] = [make(seed) for seed in range(1, 21)]
        for seed, message in enumerate(messages[topic]):
            recording.add(topic, serialize_message(message), 10**9 + seed, 10**9)
    return recording, messages


def test_rosbags_reads_what_was_recorded(recording):
    file, messages = recording
    file.finish()
    assert not file.partial.exists()
    with AnyReader([file.output]) as reader:
        assert reader.message_count == sum(map(len, messages.values()))
        read: dict[str, list] = {topic: [] for topic in messages}
        for connection, _, raw in reader.messages():
            read[connection.topic].append((reader.deserialize(raw, connection.msgtype), raw))
    for topic, sent in messages.items():
        for message, (decoded, raw) in zip(sent, read[topic], strict=True):
            assert deserialize_message(raw, type(message)) == message
            for name in message.get_fields_and_field_types():
                ours, theirs = getattr(message, name), getattr(decoded, name)
                if isinstance(theirs, np.ndarray):
                    np.testing.assert_array_equal(np.array(ours), theirs)
                elif isinstance(theirs, (int, float, str, bool, list)):
                    assert ours == theirs
                else:
                    assert str(getattr(ours, "stamp", ours)).count("=") == 2  # header, time
    first = read["/frontend/FeatureFrame"][0][0]
    assert (first.header.stamp.sec, first.header.frame_id) == (1, "camera")


def test_definitions_hash_to_what_rosidl_computed(recording):
    """The RIHS01 hash of the recorded definition is that of the installed message package."""
    file, _ = recording
    file.finish()
    with AnyReader([file.output]) as reader:
        for kind in KINDS:
            name = f"aliked_msgs/msg/{kind.__name__}"
            hashes = json.loads(_description(kind).read_text())["type_hashes"]
            expected = {entry["type_name"]: entry["hash_string"] for entry in hashes}[name]
            assert reader.typestore.hash_rihs01(name) == expected


def _description(kind: type) -> Path:
    package, name = kind.__module__.split(".")[0], kind.__name__
    module = Path(sys.modules[package].__file__)
    paths = (p / "share" / package / "msg" / f"{name}.json" for p in module.parents)
    return next(path for path in paths if path.is_file())


def test_definitions_hold_every_type_once():
    text = message_definition(FeatureMatches)
    assert text.count("MSG: std_msgs/Header") == 1
    assert text.count("MSG: builtin_interfaces/Time") == 1
    assert text.startswith("# Correspondences")


def test_what_is_safe_can_be_read_from_the_unfinished_file(recording):
    """Also what fills no chunk yet; and a new recording leaves the unfinished file alone."""
    file, messages = recording
    count = sum(map(len, messages.values()))
    assert (file.count, file.safe) == (count, 0)
    deadline = time.monotonic() + 120.0
    while file.safe < count:
        file.flush()
        assert time.monotonic() < deadline
    assert not file.output.exists()
    with Bag(file.partial) as bag:
        assert {topic.name: topic.count for topic in bag.topics} == dict.fromkeys(messages, 20)
        for kind in KINDS:
            name = f"/frontend/{kind.__name__}"
            read = [message for _, _, message in bag.messages([name])]
            assert len(read) == 20
    with RecordingReader(file.partial) as reader:
        assert reader.frame_count() == len(list(reader.frames())) == 20
    assert len(list(read_recording(file.partial, (FeatureFrame,)))) == 20
    other = Recording(file.output)
    assert other.left_over == file.partial
    assert other.partial == file.output.with_suffix(".partial2.mcap")
    other.finish()
    assert other.output.exists()
    assert file.partial.exists()


def test_recordings_from_before_a_field_was_added_still_load(tmp_path, monkeypatch):
    """As they define their messages, not as ours are now; `recovered` is in the middle of one."""
    text = message_definition(FeatureFrame)
    older = "".join(line for line in text.splitlines(True) if "bool[] recovered" not in line)
    assert len(older) < len(text)
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(older, "aliked_msgs/msg/FeatureFrame"))
    made = message_definition
    monkeypatch.setattr(
        recording_module,
        "message_definition",
        lambda kind: older if kind is FeatureFrame else made(kind),
    )
    recording = Recording(tmp_path / "run.mcap")
    topics = {"features": FeatureFrame, "matches": FeatureMatches, "status": FrontendStatus}
    for topic, kind in topics.items():
        recording.add_topic(f"/aliked_frontend/{topic}", kind)
    sent = [features(seed) for seed in range(3)]
    for index, message in enumerate(sent):
        message.frame_index = index
        name = "aliked_msgs/msg/FeatureFrame"
        data = store.serialize_cdr(_in(store, message, name), name)
        now = 10**9 + index
        recording.add("/aliked_frontend/features", bytes(data), now, now)
        matches = FeatureMatches(header=message.header, frame_index=index, reference_index=index)
        recording.add("/aliked_frontend/matches", serialize_message(matches), now, now)
    recording.finish()
    with RecordingReader(recording.output) as reader:
        frames = list(reader.frames())
    for frame, message in zip(frames, sent, strict=True):
        np.testing.assert_array_equal(frame.tracks.ids, message.track_ids)
        np.testing.assert_array_equal(frame.features.descriptors.ravel(),
                                      np.frombuffer(message.descriptors, np.float32))  # fmt: skip
        assert frame.tracks.recovered is None
    assert report_of(recording.output)["frames"]
    read = [item.message for item in read_recording(recording.output, (FeatureFrame,))]
    assert [message.descriptor_dim for message in read] == [128] * 3


def _in(store, message, name: str):
    """A message as rosbags has it, with the fields that the store knows."""
    values = {}
    for field, (kind, detail) in store.fielddefs[name][1]:
        value = getattr(message, field)
        if kind == Nodetype.NAME:
            value = _in(store, value, detail)
        elif kind == Nodetype.SEQUENCE:
            value = np.array(value)
        values[field] = value
    return store.types[name](**values)


def test_outputs_that_cannot_be_are_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*Free space") as error:
        Recording(tmp_path / "file" / "run.mcap")
    assert "What was recorded" not in str(error.value)
    with pytest.raises(ConfigurationError, match=r"must end in \.mcap"):
        Recording(tmp_path / "run.bag")


@pytest.fixture(scope="module")
def probe() -> Iterator[Probe]:
    probe = Probe()
    yield probe
    probe.close()


@pytest.mark.ros
def test_the_node_records_topics_of_another_process(probe, tmp_path):
    output = tmp_path / "made" / "run.mcap"
    process = RosProcess(
        MODULE, tmp_path / "log", "-p", f"output:={output}", "-p", "record_images:=jpeg",
        "-p", "image_reliability:=reliable", "-r", "image:=/eye/image",
        "-p", "topics:=/latched imu /nobody /eye/image/compressed",
    )  # fmt: skip
    publishers = {
        "/aliked_frontend/features": probe.node.create_publisher(
            FeatureFrame, "aliked_frontend/features", RELIABLE
        ),
        "/aliked_frontend/keyframes": probe.node.create_publisher(
            Keyframe, "aliked_frontend/keyframes", RELIABLE
        ),
        "/odometry/odometry": probe.node.create_publisher(Odometry, "odometry/odometry", RELIABLE),
        "/eye/image": probe.node.create_publisher(ImageMessage, "/eye/image", RELIABLE),
        "/camera_info": probe.node.create_publisher(CameraInfo, "camera_info", RELIABLE),
        "/right/camera_info": probe.node.create_publisher(
            CameraInfo, "right/camera_info", RELIABLE
        ),
        "/imu": probe.node.create_publisher(Imu, "imu", BEST_EFFORT),
    }
    lasting = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    latched = probe.node.create_publisher(String, "latched", lasting)
    latched.publish(String(data="said once, before anybody listened"))
    probe.wait(lambda: all(p.get_subscription_count() for p in publishers.values()))
    probe.wait_discovered("recorder")
    sent = [features(seed) for seed in range(5)]
    picture = np.full((64, 96, 3), (200, 100, 50), np.uint8)
    for message in sent:
        publishers["/aliked_frontend/features"].publish(message)
        publishers["/eye/image"].publish(image_message(picture, message.header))
        publishers["/eye/image"].publish(ImageMessage(header=message.header))  # no image at all
        publishers["/camera_info"].publish(CameraInfo(header=message.header, width=96))
        publishers["/right/camera_info"].publish(CameraInfo(header=message.header, width=97))
        publishers["/odometry/odometry"].publish(Odometry(header=message.header))
        publishers["/imu"].publish(Imu(header=message.header))
    keyframe = Keyframe(header=sent[-1].header, reason="parallax", features=sent[-1])
    publishers["/aliked_frontend/keyframes"].publish(keyframe)
    probe.wait_arrived(*publishers.values())
    probe.spin(1.0)
    for _ in range(3):  # of somebody who is impatient
        process.process.send_signal(signal.SIGINT)
        probe.spin(0.01)
    assert process.wait(60) == 0, process.text()
    assert "Image not recorded" in process.text()
    with AnyReader([output]) as reader:
        counts = {c.topic: c.msgcount for c in reader.connections if c.msgcount}
        assert counts == {
            "/aliked_frontend/features": 5, "/eye/image/compressed": 5, "/camera_info": 5,
            "/aliked_frontend/keyframes": 1, "/odometry/odometry": 5, "/latched": 1, "/imu": 5,
            "/right/camera_info": 5,
        }  # fmt: skip
        raws = {topic: [] for topic in counts}
        for connection, _, raw in reader.messages():
            raws[connection.topic].append(raw)
    read = [deserialize_message(raw, FeatureFrame) for raw in raws["/aliked_frontend/features"]]
    assert read == sent
    (raw,) = raws["/aliked_frontend/keyframes"]
    assert deserialize_message(raw, Keyframe) == keyframe
    (raw,) = raws["/latched"]
    assert deserialize_message(raw, String).data.startswith("said once")


@pytest.mark.ros
@pytest.mark.long
def test_nothing_that_it_called_safe_is_lost_when_it_is_killed(probe, tmp_path):
    """SIGKILL at random moments; the last word on /diagnostics holds."""
    output = tmp_path / "run.mcap"
    probe.listen(DiagnosticArray, "/diagnostics")
    frames = [features(seed) for seed in range(40)]
    rng = random.Random()
    partials = []
    for attempt in range(4):
        probe.received["/diagnostics"].clear()
        process = RosProcess(
            MODULE, tmp_path / f"log{attempt}", "-p", f"output:={output}", "-p",
            "flush_period:=0.1", "-p", f"frontend:=victim{attempt}",
        )  # fmt: skip
        features_topic, status_topic = (
            probe.node.create_publisher(kind, f"victim{attempt}/{name}", RELIABLE)
            for kind, name in ((FeatureFrame, "features"), (FrontendStatus, "status"))
        )
        for topic in (features_topic, status_topic):
            probe.wait(topic.get_subscription_count)
        sent = [0, 0]

        def said() -> dict[str, str]:
            arrays = probe.received["/diagnostics"]
            return {v.key: v.value for a in arrays[-1:] for s in a.status for v in s.values}

        def safe() -> int:
            return int(said().get("safe", 0))

        end = time.monotonic() + rng.uniform(0.2, 1.5)
        while time.monotonic() < end or not safe():
            if attempt % 2:  # small messages, which fill no chunk
                status_topic.publish(status(sent[1]))
                sent[1] += 1
            else:
                features_topic.publish(frames[sent[0] % len(frames)])
                sent[0] += 1
            probe.spin(0.005)
        process.process.kill()
        process.wait(60)
        probe.spin(0.2)  # what it said just before
        partials.append(Path(said()["file"]))
        assert not output.exists()
        with Bag(partials[-1]) as bag:
            whole = sum(topic.count for topic in bag.topics)
            assert safe() <= whole <= sum(sent)
            print(f"killed: {safe()} called safe, {whole} read, {sum(sent)} sent")
        raws: dict[str, list[bytes]] = {"features": [], "status": []}
        for _, channel, message in stream_mcap(partials[-1]):
            raws[channel.topic.split("/")[-1]].append(message.data)
        for raw in raws["features"]:
            message = deserialize_message(raw, FeatureFrame)
            assert message == frames[message.header.stamp.sec]
        read = [deserialize_message(raw, FrontendStatus) for raw in raws["status"]]
        numbers = [message.frames_received for message in read]
        assert all(after - before == 1 for before, after in pairwise(numbers))
        assert read == [status(number) for number in numbers]
        for topic in (features_topic, status_topic):
            probe.node.destroy_publisher(topic)
    assert len(set(partials)) == 4  # none was written over by the next run
    assert f"{partials[0]} is from a recording that was cut short" in process.text()


@pytest.mark.ros
def test_what_has_arrived_when_it_is_asked_to_end_is_recorded(probe, tmp_path):
    output = tmp_path / "run.mcap"
    process = RosProcess(
        MODULE, tmp_path / "log", "-p", f"output:={output}", "-p", "record_images:=jpeg",
        "-p", "image_reliability:=reliable",
    )  # fmt: skip
    noise = np.random.default_rng(0).integers(0, 256, (1080, 1920), np.uint8)  # slow to encode
    message = image_message(noise, Header(frame_id="camera"))
    probe.wait(lambda: probe.images.get_subscription_count() == 1)
    probe.spin(1.0)
    for number in range(60):
        message.header.stamp.sec = number
        probe.images.publish(message)
    assert probe.images.wait_for_all_acked(Duration(seconds=60))
    assert process.stop() == 0, process.text()
    with Bag(output) as bag:
        stamps = [image.header.stamp.sec for _, _, image in bag.messages(["/image/compressed"])]
    assert stamps == list(range(60))


@pytest.mark.ros
def test_a_full_disk_is_said_and_spares_the_older_recording(probe, tmp_path):
    output = tmp_path / "run.mcap"
    output.write_bytes(b"older")
    limit = 300_000  # bytes: stands for a full disk, the same OSError from the same write
    process = subprocess.Popen(
        [sys.executable, "-m", MODULE, "--ros-args", "-p", f"output:={output}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    publisher = probe.node.create_publisher(FeatureFrame, "aliked_frontend/features", RELIABLE)
    try:
        probe.wait(lambda: publisher.get_subscription_count() == 1)
        deadline = time.monotonic() + 120
        seed = 0
        while process.poll() is None and time.monotonic() < deadline:
            seed += 1
            publisher.publish(features(seed % 50))
            probe.spin(0.02)
        assert process.wait(60) == 1
    finally:
        process.kill()
        said = process.communicate()[0]
        probe.node.destroy_publisher(publisher)
    assert f"cannot write {tmp_path / 'run.partial.mcap'}" in said
    assert "Free space" in said
    assert "Traceback" not in said
    assert output.read_bytes() == b"older"


@pytest.mark.ros
def test_a_bad_name_is_one_clear_line_and_leaves_no_file(tmp_path):
    parameters = ("frontend", "odometry", "topics")
    output = f"output:={tmp_path / 'run.mcap'}"
    said = refusals(MODULE, [[output, f"{parameter}:=no-name"] for parameter in parameters])
    for parameter, text in zip(parameters, said, strict=True):
        assert f"{parameter} is 'no-name'" in text
    assert not list(tmp_path.iterdir())
