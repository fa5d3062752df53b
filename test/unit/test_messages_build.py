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

"""The built messages are those of the .msg files, for rclpy and for rosbags alike."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from helpers import ROOT

aliked_msgs = pytest.importorskip("aliked_msgs.msg", reason="aliked_msgs is not built: make setup")

SOURCES = sorted((ROOT / "aliked_msgs" / "msg").glob("*.msg"))
NAMES = [path.stem for path in SOURCES]


@pytest.fixture(scope="module")
def typestore():
    """A typestore of rosbags with this tree's messages, which it parses by itself."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types = {}
    for path in SOURCES:
        types.update(get_types_from_msg(path.read_text(), f"aliked_msgs/msg/{path.stem}"))
    store.register(types)
    return store


def test_every_message_file_is_built():
    assert {"FeatureFrame", "FeatureMatches", "FrontendStatus", "Keyframe"} < set(NAMES)
    built = [name for name in vars(aliked_msgs) if name[0].isupper()]
    assert sorted(built) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_fields_are_those_of_the_file(typestore, name):
    built = getattr(aliked_msgs, name).get_fields_and_field_types()
    _, fields = typestore.fielddefs[f"aliked_msgs/msg/{name}"]
    assert list(built) == [field for field, _ in fields]


@pytest.mark.parametrize("name", NAMES)
def test_hash_of_rosidl_equals_hash_of_rosbags(typestore, name):
    package = Path(aliked_msgs.__file__).parent
    described = next(
        prefix / "share" / "aliked_msgs" / "msg" / f"{name}.json"
        for prefix in package.parents
        if (prefix / "share" / "aliked_msgs").is_dir()
    )
    hashes = {
        row["type_name"]: row["hash_string"]
        for row in json.loads(described.read_text())["type_hashes"]
    }
    full = f"aliked_msgs/msg/{name}"
    assert typestore.hash_rihs01(full) == hashes[full]


def test_encodings_of_descriptors_have_the_documented_values():
    frame = aliked_msgs.FeatureFrame
    assert (frame.FLOAT32, frame.FLOAT16, frame.BINARY256) == (0, 1, 2)


def test_bytes_of_rclpy_are_read_by_rosbags(typestore):
    rclpy = pytest.importorskip("rclpy.serialization")
    descriptors = np.random.default_rng(0).random((3, 128), np.float32)
    frame = aliked_msgs.FeatureFrame(frame_index=7, width=640, height=480, model="aliked-n16")
    frame.header.frame_id = "camera"
    frame.header.stamp.sec, frame.header.stamp.nanosec = 12, 34
    frame.track_ids.extend([1, 2**40, 3])
    frame.keypoints.frombytes(np.arange(6, dtype=np.float32).tobytes())
    frame.descriptors.frombytes(descriptors.tobytes())

    read = typestore.deserialize_cdr(rclpy.serialize_message(frame), "aliked_msgs/msg/FeatureFrame")
    assert (read.frame_index, read.width, read.height, read.model) == (7, 640, 480, "aliked-n16")
    assert (read.header.frame_id, read.header.stamp.sec) == ("camera", 12)
    np.testing.assert_array_equal(read.track_ids, [1, 2**40, 3])
    np.testing.assert_array_equal(read.keypoints, np.arange(6))
    np.testing.assert_array_equal(read.descriptors.view(np.float32).reshape(3, 128), descriptors)
