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

"""Matches between cameras whose poses are known, the check of these poses, and one id space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from aliked_ros.camera import CameraModel, create_camera
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import SourceError
from aliked_ros.frontend.landmarks import Landmarks
from aliked_ros.frontend.rig import Rig, RigResult
from aliked_ros.frontend.rig_geometry import TwoCameras, View, overlap
from aliked_ros.sources.calibration_files import read_camchain
from aliked_ros.types import Features, Tracks

CONFIG = FrontendConfig(matcher="nearest")
MATRIX = np.array([[400.0, 0, 319.5], [0, 410.0, 239.5], [0, 0, 1]])
PINHOLE = create_camera(640, 480, MATRIX, "plumb_bob", np.array([-0.2, 0.05, 1e-3, -5e-4]))
FISHEYE = create_camera(640, 480, 0.7 * MATRIX + np.diag([0, 0, 0.3]) + np.array(
    [[0, 0, 96.0], [0, 0, 72.0], [0, 0, 0]]), "equidistant", np.array([0.02, -0.01, 0.0, 0.0])
)  # fmt: skip


def pose(x: float, y: float, z: float, *degrees: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees or (0, 0, 0), degrees=True).as_matrix()
    matrix[:3, 3] = x, y, z
    return matrix


LEFT, RIGHT, BESIDE = pose(0, 0, 0), pose(0.3, 0.02, -0.05, 2, -10, 3), pose(-0.4, 0, 0, 0, 25, 0)


class World:
    """Points with descriptors of their own, and what cameras see of them."""

    def __init__(self, count: int = 600, seed: int = 0, depth: tuple[float, float] = (1, 12)):
        self.random = np.random.default_rng(seed)
        z = self.random.uniform(*depth, count)
        self.points = np.column_stack([z * self.random.uniform(-0.9, 0.9, (2, count))[i]
                                       for i in (0, 1)] + [z])  # fmt: skip
        self.descriptors = unit(self.random.standard_normal((count, 128)))

    def view(
        self, camera: CameraModel, rig_from_camera: np.ndarray, noise: float = 0.2
    ) -> tuple[View, np.ndarray, np.ndarray]:
        """The view, and of its rows the point and its depth."""
        there = np.linalg.inv(rig_from_camera)
        points = self.points @ there[:3, :3].T + there[:3, 3]
        ahead = points[:, 2] > 0.1
        rays = (points[:, :2] / np.where(ahead, points[:, 2], 1.0)[:, None]).astype(np.float32)
        wide = np.abs(rays).max(1) > 1.5  # where the polynomial turns
        pixels = camera.project(rays) + self.random.normal(0, noise, rays.shape)
        inside = ((pixels >= 0) & (pixels < (camera.width, camera.height))).all(1) & ahead & ~wide
        which = self.random.permutation(np.flatnonzero(inside))
        keypoints = pixels[which].astype(np.float32)
        seen = self.descriptors[which] + 0.05 * self.random.standard_normal((len(which), 128))
        features = Features(
            keypoints, np.ones(len(which), np.float32), unit(seen), camera.width, camera.height, "t"
        )
        view = View(features, camera, rig_from_camera, camera.normalize(keypoints))
        return view, which, points[which, 2]


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def tracks(ids: np.ndarray, epoch: int = 0) -> Tracks:
    return Tracks(ids.astype(np.uint64), np.ones(len(ids), np.uint32), epoch)


Seen = tuple[View, np.ndarray, np.ndarray]


def processed(rig: Rig, seen: list[Seen]) -> RigResult:
    """Tracks are numbered by the points, differently in each camera."""
    names = [f"camera{number}" for number in range(len(seen))]
    ids = [tracks(which + 1 + 1000 * n) for n, (_, which, _) in enumerate(seen)]
    return rig.process(names, ids, [view for view, _, _ in seen])


@pytest.mark.parametrize("cameras", [(PINHOLE, PINHOLE), (PINHOLE, FISHEYE), (FISHEYE, FISHEYE)])
def test_matches_depth_and_ids_agree_with_the_world(cameras: tuple[CameraModel, CameraModel]):
    world = World()
    seen = [world.view(c, p, 0.05) for c, p in zip(cameras, (LEFT, RIGHT), strict=True)]
    result = processed(Rig(CONFIG), seen)
    common = np.intersect1d(seen[0][1], seen[1][1])
    assert len(common) > 150
    rows = result.matches.rows
    same = seen[0][1][rows[:, 0]] == seen[1][1][rows[:, 1]]
    assert same.mean() > 0.99
    assert len(rows) > 0.95 * len(common)
    for (_, _, truth), depth in zip(seen, result.depths, strict=True):
        known = np.isfinite(depth)
        assert known.sum() > 0.9 * len(common)
        error = np.abs(depth[known] / truth[known] - 1.0)
        assert np.median(error) < 0.01
    first, second = result.landmark_ids
    assert (first[rows[:, 0]] == second[rows[:, 1]]).all()
    for ids in result.landmark_ids:
        assert ids.min() > 0
        assert len(np.unique(ids)) == len(ids), "at most once a camera"
    assert len(np.intersect1d(first, second)) == len(rows), "no other rows share one"


def test_similar_points_off_the_epipolar_line_do_not_match():
    world = World(400)
    world.descriptors[1::2] = world.descriptors[::2]  # each looks like another one
    seen = [world.view(PINHOLE, p) for p in (LEFT, RIGHT)]
    rows = processed(Rig(CONFIG), seen).matches.rows
    same = seen[0][1][rows[:, 0]] == seen[1][1][rows[:, 1]]
    assert len(rows) > 60
    assert same.mean() > 0.95


def test_cameras_at_one_place_match_without_depth():
    world = World()
    seen = [world.view(PINHOLE, p) for p in (LEFT, pose(0, 0, 0, 0, 20, 0))]
    result = processed(Rig(CONFIG), seen)
    assert len(result.matches) > 100
    assert all(np.isnan(depth).all() for depth in result.depths)


def test_only_cameras_that_look_at_the_same_overlap():
    views = [World().view(PINHOLE, p)[0] for p in (LEFT, RIGHT, pose(0, 0, 0, 0, 180, 0))]
    assert overlap(views[0], views[1])
    assert not overlap(views[0], views[2])


def swapped(seen: list[Seen]) -> list[Seen]:
    views = [seen[1][0].rig_from_camera, seen[0][0].rig_from_camera]
    return [(replace(s[0], rig_from_camera=p), *s[1:]) for s, p in zip(seen, views, strict=True)]


def turned(seen: list[Seen]) -> list[Seen]:
    view = seen[1][0]
    wrong = replace(view, rig_from_camera=view.rig_from_camera @ pose(0, 0, 0, 4, 0, 0))
    return [seen[0], (wrong, *seen[1][1:])]


@pytest.mark.parametrize(("harm", "is_swapped"), [(swapped, True), (turned, False)])
@pytest.mark.parametrize("right", [RIGHT, pose(0.5, 0, 0)])  # the second: a rectified pair
def test_wrong_extrinsics_are_found_and_give_no_matches(
    harm: Callable[[list[Seen]], list[Seen]], is_swapped: bool, right: np.ndarray
):
    world, rig = World(), Rig(CONFIG)
    for number in range(3):
        seen = [world.view(PINHOLE, p) for p in (LEFT, right)]
        result = processed(rig, harm(seen))
        assert len(result.matches) == 0
        assert len(result.problems) == (number == 2)
    (problem,) = result.problems
    assert problem.names == ("camera0", "camera1")
    assert problem.swapped == is_swapped
    assert problem.share < 0.2 < 0.8 < problem.better
    result = processed(rig, seen)  # corrected
    assert len(result.matches) > 100
    assert not result.problems


def test_right_extrinsics_of_cameras_that_see_different_things_are_not_blamed():
    rig = Rig(CONFIG)
    for seed in range(4):
        seen = [World(seed=seed + 10 * n).view(PINHOLE, p)
                for n, p in enumerate((LEFT, RIGHT))]  # fmt: skip
        assert not processed(rig, seen).problems


def test_ids_last_while_any_camera_sees_the_landmark():
    world, rig = World(300), Rig(CONFIG)
    before: dict[int, int] = {}
    for step in range(4):
        moved = pose(0.05 * step, 0, 0)
        seen = [world.view(PINHOLE, moved @ p) for p in (LEFT, RIGHT, BESIDE)]
        seen = [(replace(v, rig_from_camera=p), *r)
                for (v, *r), p in zip(seen, (LEFT, RIGHT, BESIDE), strict=True)]  # fmt: skip
        result = processed(rig, seen)
        now: dict[int, int] = {}
        for (_, which, _), ids in zip(seen, result.landmark_ids, strict=True):
            for point, landmark in zip(which.tolist(), ids.tolist(), strict=True):
                now.setdefault(point, landmark)
        merged = dict(result.merged.tolist())
        kept = [merged.get(before[p], before[p]) == now[p] for p in now.keys() & before.keys()]
        assert np.mean(kept or [True]) > 0.97
        before |= now


def update(
    landmarks: Landmarks, its: list[Tracks], pairs: list[tuple[int, int]]
) -> tuple[list[list[int]], list[list[int]], list[bool]]:
    """Two cameras; pairs: matched rows."""
    ids = landmarks.known("ab", its)
    cameras = np.tile(np.array([0, 1], np.uint8), (len(pairs), 1))
    rows = np.array(pairs, np.uint32).reshape(-1, 2)
    found, merged, held = landmarks.update("ab", its, ids, cameras, rows)
    return [ids.tolist() for ids in found], merged.tolist(), held.tolist()


def test_tracks_that_turn_out_to_be_one_landmark_are_merged_and_reported():
    landmarks = Landmarks()
    its = [tracks(np.array([1, 2])), tracks(np.array([1, 2, 3]))]
    assert update(landmarks, its, [(0, 0)]) == ([[1, 2], [1, 4, 5]], [], [True])
    ids, merged, held = update(landmarks, its, [(0, 0), (1, 2)])
    assert (ids, merged, held) == ([[1, 2], [1, 4, 2]], [[5, 2]], [True, True])
    assert update(landmarks, its, [])[0] == ids, "also without a match"


def test_a_match_that_would_give_a_landmark_two_rows_of_a_camera_does_not_hold():
    landmarks = Landmarks()
    its = [tracks(np.array([1, 2])), tracks(np.array([1, 2]))]
    ids, _, _ = update(landmarks, its, [(0, 0)])
    again, merged, held = update(landmarks, its, [(0, 1)])
    assert (again, merged, held) == (ids, [], [False])


def test_a_track_that_returns_beside_its_successor_gets_another_id():
    landmarks = Landmarks()
    update(landmarks, [tracks(np.array([1])), tracks(np.array([1]))], [(0, 0)])
    update(landmarks, [tracks(np.array([9])), tracks(np.array([1]))], [(0, 0)])
    ids, _, _ = update(landmarks, [tracks(np.array([9, 1])), tracks(np.array([1]))], [])
    assert ids[0][0] == ids[1][0] != ids[0][1]


def test_a_new_epoch_of_one_camera_ends_its_tracks_alone():
    landmarks = Landmarks()
    ids, _, _ = update(landmarks, [tracks(np.array([1, 2])), tracks(np.array([1]))], [(0, 0)])
    its = [tracks(np.array([1, 2]), epoch=1), tracks(np.array([1]))]
    again, merged, _ = update(landmarks, its, [(1, 0)])
    assert again[1] == ids[1], "the other camera has seen it all the time"
    assert again[0][1] == ids[1][0]
    assert again[0][0] not in ids[0]
    assert not merged


CAMCHAIN = """
cam0:
  camera_model: pinhole
  intrinsics: [458.7, 457.3, 367.2, 248.4]
  distortion_model: radtan
  distortion_coeffs: [-0.28, 0.07, 0.0002, 0.00002]
  resolution: [752, 480]
cam1:
  T_cn_cnm1:
  - [0.0, -1.0, 0.0, 0.1]
  - [1.0, 0.0, 0.0, 0.2]
  - [0.0, 0.0, 1.0, 0.3]
  - [0.0, 0.0, 0.0, 1.0]
  camera_model: pinhole
  intrinsics: [457.6, 456.1, 379.9, 255.2]
  distortion_model: equidistant
  distortion_coeffs: [-0.02, 0.01, 0.0, 0.0]
  resolution: [752, 480]
cam2:
  T_cn_cnm1: [[1, 0, 0, -0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
  camera_model: ds
  intrinsics: [-0.2, 0.55, 300.0, 301.0, 320.0, 240.0]
  distortion_model: none
  distortion_coeffs: []
  resolution: [640, 480]
"""


def test_the_chain_of_a_camchain_leads_to_the_first_camera(tmp_path: Path):
    path = tmp_path / "camchain.yaml"
    path.write_text(CAMCHAIN, encoding="utf-8")
    chain = read_camchain(path)
    assert [camera["width"] for camera, _ in chain] == [752, 752, 640]
    np.testing.assert_array_equal(chain[0][1], np.eye(4))
    point = np.array([0.3, -0.2, 2.0, 1.0])  # in cam0
    in_cam1 = np.array([0.2 + 0.1, 0.3 + 0.2, 2.3, 1.0])
    np.testing.assert_allclose(chain[1][1] @ in_cam1, point, atol=1e-12)
    np.testing.assert_allclose(
        chain[2][1] @ (in_cam1 - np.array([0.5, 0, 0, 0])), point, atol=1e-12
    )


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("cam0:", "cam7:", "is no camchain: it has no cam0"),
        ("T_cn_cnm1:\n", "T_else:\n", "cam1 is no complete calibration: 'T_cn_cnm1' is missing"),
        ("[1.0, 0.0, 0.0, 0.2]", "[2.0, 0.0, 0.0, 0.2]", "not a rotation"),
        ("camera_model: ds", "camera_model: cube", "cam2 is no complete calibration: camera_model"),
        ("[458.7,", "[-458.7,", "cam0 is no complete calibration: The focal lengths"),
        ("  resolution", " resolution", "is not valid YAML"),
    ],
)
def test_a_camchain_that_cannot_be_used_is_refused(
    tmp_path: Path, before: str, after: str, said: str
):
    path = tmp_path / "camchain.yaml"
    path.write_text(CAMCHAIN.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(SourceError, match=said):
        read_camchain(path)


def test_agreement_is_measured_in_pixels_of_the_images():
    """Beside the lens's centre too: OpenCV's undistortion and triangulation say the same."""
    world = World(200)
    seen = [world.view(PINHOLE, p, noise=0.0) for p in (LEFT, RIGHT)]
    (first, which, _), (second, other, _) = seen
    _, rows, columns = np.intersect1d(which, other, return_indices=True)
    moved = first.features.keypoints.copy()
    moved[:, 1] += 3.0  # across the epipolar lines, nearly
    wrong = View(replace(first.features, keypoints=moved), PINHOLE, LEFT, PINHOLE.normalize(moved))
    for view, expected in ((first, 1.0), (wrong, 0.0)):
        agree, depth, _ = TwoCameras(view, second).agree(rows, columns, 1.5)
        assert agree.mean() == pytest.approx(expected, abs=0.05)
    motion = (np.linalg.inv(RIGHT) @ LEFT)[:3]
    points = cv2.triangulatePoints(
        np.eye(3, 4), motion, first.rays[rows].T.astype(float), second.rays[columns].T.astype(float)
    )
    agree, depth, _ = TwoCameras(first, second).agree(rows, columns, 1.5)
    np.testing.assert_allclose(depth[agree], (points[2] / points[3])[agree], rtol=2e-3)
