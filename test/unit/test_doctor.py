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

"""The doctor finds what is amiss, names a remedy, and never stumbles over it."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

from aliked_ros.cli import doctor
from aliked_ros.cli.doctor import FAIL, OK, WARN, Check, examine
from aliked_ros.errors import BackendError
from aliked_ros.models.registry import MODELS, weights_dir
from aliked_ros.system import packages, transport
from aliked_ros.system.packages import require
from aliked_ros.system.share import share_path
from helpers import ROOT

PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def findings() -> dict[str, Check]:
    """What the doctor says now, by name."""
    checks = examine()
    by_name = {check.name: check for check in checks}
    assert len(by_name) == len(checks)
    for check in checks:
        assert check.state in (OK, WARN, FAIL)
        assert check.finding
        assert bool(check.remedy) == (check.state != OK), check
    return by_name


def test_on_a_machine_that_is_set_up_nothing_fails():
    found = findings()
    assert [check for check in found.values() if check.state == FAIL] == []
    assert "float" in found["backend"].finding
    assert found.keys() >= {"rerun", "Plotly"}  # what page and report need
    assert str(len(MODELS)) in found["weights"].finding


def test_an_empty_cache_means_weights_to_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIKED_ROS_CACHE", str(tmp_path))
    monkeypatch.delenv("ALIKED_ROS_WEIGHTS", raising=False)
    found = findings()
    assert found["cache"].state == OK
    assert found["weights"].state == FAIL
    assert "aliked_ros models fetch" in found["weights"].remedy
    assert not any(tmp_path.iterdir())


def test_damaged_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIKED_ROS_CACHE", str(tmp_path))
    monkeypatch.delenv("ALIKED_ROS_WEIGHTS", raising=False)
    weights_dir().mkdir()
    for entry in MODELS.values():
        (weights_dir() / entry.file).write_bytes(b"damaged")
    found = findings()["weights"]
    assert found.state == FAIL
    assert f"0 of {len(MODELS)}" in found.finding
    assert "SHA-256 expected" in found.finding


def test_a_cache_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ALIKED_ROS_CACHE", str(tmp_path / "file" / "cache"))
    found = findings()["cache"]
    assert found.state == WARN
    assert "ALIKED_ROS_CACHE" in found.remedy


def test_images_are_compared_with_the_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PROFILE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("RMW_IMPLEMENTATION", raising=False)
    transport.segment.cache_clear()
    assert transport.too_large(640 * 480) == ""
    sentence = transport.too_large(1241 * 376 * 3)
    assert "1.4 MB each" in sentence
    assert "export FASTRTPS_DEFAULT_PROFILES_FILE=/" in sentence
    for variable, value in (
        (PROFILE_VARIABLES[0], str(share_path("config/fastdds_large_messages.xml"))),
        ("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp"),
    ):
        with monkeypatch.context() as changed:
            changed.setenv(variable, value)
            transport.segment.cache_clear()
            assert transport.too_large(1241 * 376 * 3) == ""
    transport.segment.cache_clear()


def test_every_package_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is absent with what needs it, and how to get it."""
    found = findings()
    locked = (share_path("requirements/robot.in")).read_text(encoding="utf-8")
    names = re.findall(r"^[\w-]+", locked, re.M)
    assert {"rosbags", "mcap", "psutil", "typer", "pycolmap", "scikit-image"} <= set(names)
    listed = {"opencv-python-headless" if name == "cv2" else name for name in found}
    assert set(names) <= listed
    for module, state in (("psutil", FAIL), ("mcap", OK), ("pycolmap", OK)):
        with monkeypatch.context() as changed:
            changed.setitem(sys.modules, module, None)
            changed.setattr(importlib.util, "find_spec", lambda name, absent=module: None)
            checks = {check.name: check for check in doctor._libraries()}
        assert checks[module].state == state
        assert "not installed" in checks[module].finding
        assert "install" in checks[module].finding + checks[module].remedy


def test_a_command_names_the_packages_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    require("the page", "view", "json", "email")
    monkeypatch.setattr(
        packages, "find_spec", lambda name: json.__spec__ if name == "json" else None
    )
    with pytest.raises(BackendError) as raised:
        require("the page", "view", "json", "rerun", "lightning_fabric", "ray")
    assert str(raised.value) == (
        "the page needs rerun-sdk, lightning-fabric, ray[client]: make setup GROUP=view, or "
        "pip install rerun-sdk lightning-fabric 'ray[client]'."
    )


@pytest.mark.parametrize(
    ("content", "state", "said"),
    [
        (None, WARN, "cannot be read"),
        ("<profiles><broken", WARN, "cannot be read"),
        ("<profiles><segment_size>524288</segment_size></profiles>", WARN, "no segment_size"),
        ("<profiles><segment_size>8388608</segment_size></profiles>", OK, "8 MiB"),
    ],
)
def test_a_fast_dds_profile_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, state: str, said: str
) -> None:
    profile = tmp_path / "profile.xml"
    if content is not None:
        profile.write_text(content)
    monkeypatch.delenv("RMW_IMPLEMENTATION", raising=False)
    for variable in PROFILE_VARIABLES:
        monkeypatch.setenv(variable, str(profile))
    found = findings()["large messages"]
    assert (found.state, said in found.finding) == (state, True), found


def test_the_profile_in_the_remedy_is_one_the_doctor_accepts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RMW_IMPLEMENTATION", raising=False)
    for variable in PROFILE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    profile = str(share_path("config/fastdds_large_messages.xml"))
    assert profile in findings()["large messages"].remedy
    monkeypatch.setenv(PROFILE_VARIABLES[0], profile)
    assert findings()["large messages"].state == OK


def test_missing_build_tools_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = findings()["build tools"]
    assert found.state == WARN
    assert "no C++ compiler" in found.finding
    assert "apt install build-essential" in found.remedy


def test_engines_that_are_not_what_was_built_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALIKED_ROS_CACHE", str(tmp_path))
    assert findings()["engines"].state == OK
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "foreign.engine").write_bytes(b"whatever")
    found = findings()["engines"]
    assert found.state == WARN
    assert found.finding == "foreign (refused: it has no foreign.json)"
    assert str(tmp_path / "engines") in found.remedy


def test_what_tensorrt_needs_is_listed_also_without_a_gpu() -> None:
    found = findings()
    assert {"TensorRT", "pycuda", "GPU", "engines"} <= found.keys()


def test_a_middleware_that_is_not_installed_is_named_and_the_rest_still_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rclpy's import would end the process with status 102."""
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_unheard_of_cpp")
    found = findings()
    assert found["rclpy"].state == WARN
    assert "rmw_unheard_of_cpp" in found["rclpy"].finding
    assert "unset RMW_IMPLEMENTATION" in found["rclpy"].remedy
    assert "ros-$ROS_DISTRO-rmw-unheard-of-cpp" in found["rclpy"].remedy
    assert found["backend"].state == OK


def test_an_rclpy_that_ends_its_process_does_not_end_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rclpy.py").write_text(
        "import os, sys; print('no', file=sys.stderr); os._exit(102)"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    found = findings()["rclpy"]
    assert (found.state, "(no)" in found.finding) == (WARN, True), found
