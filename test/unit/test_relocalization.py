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

"""Images against recent keyframes: which ones, and from where."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from aliked_ros.camera import CameraModel
from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.sources import open_source
from aliked_ros.types import UInt8Array

Images = Callable[[int], UInt8Array]


def _truth(folder: Path, index: int) -> np.ndarray:
    """Pose of an image, 4×4 from the camera to the world."""
    with (folder / "frames.csv").open() as file:
        rows = [row for row in csv.reader(file) if not row[0].startswith("#")]
    x, y, z, *quaternion = map(float, rows[index][3:10])
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat(quaternion).as_matrix()
    pose[:3, 3] = x, y, z
    return pose


@pytest.fixture(params=[True, False], ids=["depth", "mono"])
def pipeline(request: pytest.FixtureRequest, shared: Path) -> Pipeline:
    """After the images 0, 5, ..., 25 of fr1_xyz, with or without their depth."""
    folder = shared / "data" / "tum_fr1_xyz"
    pipeline = Pipeline(FrontendConfig(max_keypoints=512, matcher="nearest"))
    calibration = json.loads((folder / "calib.json").read_text())
    pipeline.camera = CameraModel.from_calibration(calibration)
    source = open_source(str(folder), 30, "depth" if request.param else "none")
    for image in islice(source, 0, None, 5):
        pipeline.process(image)
    return pipeline


def test_pose_relative_to_keyframes(pipeline: Pipeline, shared: Path, tum_images: Images) -> None:
    """Metric within 2 cm where the keyframe has depth; else the direction, within 15°."""
    folder = shared / "data" / "tum_fr1_xyz"
    index = 33
    candidates = pipeline.relocalize(tum_images(index))[1]
    assert candidates
    assert [c.inliers for c in candidates] == sorted((c.inliers for c in candidates), reverse=True)
    poses = [(c.keyframe, c.pose) for c in candidates if c.pose is not None]
    assert poses
    indices = [5 * k.index for k, _ in poses]
    for (keyframe, pose), keyframe_index in zip(poses, indices, strict=True):
        truth = np.linalg.inv(_truth(folder, keyframe_index)) @ _truth(folder, index)
        turn = Rotation.from_matrix(pose.rotation.T @ truth[:3, :3]).magnitude()
        assert np.degrees(turn) < 2.0
        assert pose.metric == (keyframe.depth is not None)
        distance = np.linalg.norm(truth[:3, 3])
        if pose.metric:
            assert np.linalg.norm(pose.translation - truth[:3, 3]) < 0.02
        elif distance > 0.05:
            cosine = pose.translation @ truth[:3, 3] / distance
            assert np.degrees(np.arccos(cosine)) < 15.0
            assert np.linalg.norm(pose.translation) == pytest.approx(1.0)


def test_another_place_has_no_candidate(pipeline: Pipeline, shared_kitti: Images) -> None:
    assert pipeline.relocalize(shared_kitti(0))[1] == []


def test_without_calibration_there_are_matches_but_no_poses(
    pipeline: Pipeline, tum_images: Images
) -> None:
    pipeline.camera = None
    candidates = pipeline.relocalize(tum_images(27))[1]
    assert candidates
    assert all(c.pose is None for c in candidates)
    assert candidates[0].inliers > 100


def test_a_turning_camera_has_no_direction(pipeline: Pipeline, tum_images: Images) -> None:
    """The last keyframe's own image: no parallax, so no made-up translation without depth."""
    keyframe = pipeline.keyframes[-1]
    candidates = pipeline.relocalize(tum_images(5 * keyframe.index))[1]
    same = next(c for c in candidates if c.keyframe is keyframe)
    assert same.pose is None or (same.pose.metric and np.linalg.norm(same.pose.translation) < 0.003)
