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

"""Parameters: the reference page is current, the profiles are valid, descriptors say it all."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
import yaml

from helpers import ROOT

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from aliked_ros.configuration import SETTINGS, FrontendConfig
from aliked_ros.errors import ConfigurationError
from aliked_ros.ros.parameters import DECLARATIONS, reference

BY_NAME = {declaration.name: declaration for declaration in DECLARATIONS}
RELEASED = """
    model backend allow_fallback precision image_size workspace max_keypoints
    score_threshold grid matcher match_threshold depth_confidence width_confidence
    min_similarity verification inlier_threshold recover_tracks keyframe_tracked
    keyframe_parallax keyframe_interval keyframe_count epipolar_band max_disparity
    mask_static threads autostart input sync sync_tolerance sync_wait image_transport
    input_reliability stamps input_depth rectified mask_file mask_border publish_descriptors
    descriptor_encoding publish_matches publish_vins publish_rtabmap status_period
    trail_length picture_rate draw_text draw_legend
"""
FIGURES = "max_silence max_refused min_tracked min_rate max_latency max_dropped max_memory"


def test_the_reference_page_is_current():
    page = (ROOT / "docs" / "parameters.md").read_text(encoding="utf-8")
    assert page == reference(), "run: python -m aliked_ros.ros.parameters > docs/parameters.md"


def test_old_parameter_files_load():
    """What was released stays: a name that goes makes a user's file an error."""
    figures = [
        f"diagnostics.{one}_{level}" for one in FIGURES.split() for level in ("warn", "error")
    ]
    assert {*RELEASED.split(), *figures} <= BY_NAME.keys()


@pytest.mark.parametrize("profile", ["cpu", "desktop", "robot"])
def test_profiles_hold_valid_values_of_known_parameters(profile):
    content = yaml.safe_load((ROOT / "config" / f"{profile}.yaml").read_text(encoding="utf-8"))
    values = content["/**"]["ros__parameters"]
    checked = {name: BY_NAME[name].checked(value) for name, value in values.items()}
    FrontendConfig(**{name: value for name, value in checked.items() if name in SETTINGS})


def test_every_parameter_is_described():
    for declaration in DECLARATIONS:
        descriptor = declaration.descriptor()
        assert len(descriptor.description) > 10, declaration.name
        assert re.match(r"[A-Z'~/0-9]", descriptor.description), descriptor.description
        assert descriptor.description.endswith("."), descriptor.description
        assert re.fullmatch(r"([A-Z0-9-].*\. )?May be set .*\.", descriptor.additional_constraints)
        if declaration.limits:
            limits = [*descriptor.integer_range, *descriptor.floating_point_range]
            assert (limits[0].from_value, limits[0].to_value) == declaration.limits
    assert BY_NAME["autostart"].descriptor().read_only
    assert set(SETTINGS) <= BY_NAME.keys()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("max_keypoints", 0, "it must lie in 1 to 8192"),
        ("max_keypoints", 2.5, "it must be of type int"),
        ("max_keypoints", True, "it must be of type int"),
        ("score_threshold", float("nan"), "it must lie in 0 to 1"),
        ("model", "superpoint", "choose one of aliked-t16"),
        ("publish_matches", "yes", "it must be of type bool"),
        ("imu_time_offset", "nan", "choose one of auto, or seconds from -10 to 10"),
        ("imu_time_offset", 11.0, "choose one of auto, or seconds from -10 to 10"),
    ],
)
def test_bad_values_are_named(name, value, words):
    with pytest.raises(ConfigurationError, match=words):
        BY_NAME[name].checked(value)


def test_whole_numbers_are_welcome_as_floats():
    value = BY_NAME["score_threshold"].checked(0)
    assert value == 0.0
    assert isinstance(value, float)


def test_numbers_are_welcome_as_texts():
    """YAML reads ``detection: 3`` as a number."""
    assert BY_NAME["detection"].checked(3) == "3"
    assert [BY_NAME["imu_time_offset"].checked(v) for v in (0, -0.02)] == ["0", "-0.02"]
    with pytest.raises(ConfigurationError, match="'0'; choose one of every"):
        BY_NAME["detection"].checked(0)


def test_the_fast_dds_profile_is_the_default_and_large():
    profiles = ET.parse(ROOT / "config" / "fastdds_large_messages.xml").getroot()
    space = {"dds": "http://www.eprosima.com"}
    assert int(profiles.find(".//dds:segment_size", space).text) >= 16 * 2**20
    participant = profiles.find("dds:participant", space)
    assert participant.get("is_default_profile") == "true"
    used = {item.text for item in participant.findall(".//dds:userTransports/*", space)}
    assert used == {
        item.text
        for item in profiles.findall(".//dds:transport_descriptor/dds:transport_id", space)
    }
