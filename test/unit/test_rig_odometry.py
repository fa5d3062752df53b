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

"""The reference back-end with all cameras of a rig, in a room where every answer is known."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from helpers.odometry import PIXEL, RigRoom, mount

pytest.importorskip("pycolmap", reason="pycolmap is not installed")

from scipy.spatial.transform import Rotation

from aliked_ros.odometry import Estimate, Noise, Observation, Odometry
from aliked_ros.odometry.adjustment import adjust
from aliked_ros.odometry.geometry import Transform, locate
from aliked_ros.odometry.views import View

NUMBERS = {"left": 0, "right": 1, "back": 2}


@pytest.fixture
def room() -> RigRoom:
    return RigRoom()


def follow(
    room: RigRoom, sets: Callable[[int], list[Observation]], count: int = 60
) -> dict[int, Estimate]:
    """The estimates, by image; each must be near the truth, in one map in metres."""
    odometry, found = Odometry(), {}
    for index in range(count):
        estimate = odometry.process(*sets(index))
        if estimate is not None:
            found[index] = estimate
            assert estimate.metric
            assert estimate.map_index == 0
            assert room.error(index, estimate) < 0.015
            turn = estimate.camera.rotation.T @ room.camera(index).inverse().rotation
            assert Rotation.from_matrix(turn).magnitude() < np.radians(0.5)
    return found


def test_a_rig_is_located_by_cameras_of_which_none_sees_enough(room):
    """Six rays a camera, of which some are wrong; the rig's frame is no camera's."""
    seen = [replace(one, ids=one.ids[:12], rays=one.rays[:12].copy()) for one in room.rig(7)]
    seen[0].rays[:3] += 0.1
    noise = dict.fromkeys(room.mounts, PIXEL)
    view = View.of(seen, Transform.identity(), NUMBERS, noise)
    sights = view.sights(view.rows)
    points = np.array([room.points[track - 1] for track, _ in sights])
    rows = view.at(sights)
    numbers = np.array([number for _, number in sights])
    found = locate(points, view.rays[rows], 3 * view.noise[rows], view.mounts[rows], numbers)
    assert found is not None
    assert np.linalg.norm(found[0].translation - room.camera(7).translation) < 0.01
    assert found[1].sum() == len(sights) - 3


def test_without_depth_a_rig_is_followed_in_metres_by_all_cameras(room):
    found = follow(room, room.rig)
    assert len(found) == 60
    alone = follow(room, lambda index: room.rig(index, "left", "right"))
    gain = np.trace(alone[40].noise) / np.trace(found[40].noise)
    assert gain > 1.5, "the camera that looks back overlaps with none, and still helps"


def test_cameras_die_and_return(room):
    """First one of the two that overlap, then both, so that one without overlap is left."""

    def dead(index: int) -> set[str]:
        return {"left"} if 15 <= index < 30 else {"left", "right"} if 35 <= index < 45 else set()

    def sets(index: int) -> list[Observation]:
        return room.rig(index, *(room.mounts.keys() - dead(index)))

    assert len(follow(room, sets)) == 60


def test_a_camera_that_pans_is_where_its_set_says(room):
    def sets(index: int) -> list[Observation]:
        pan = mount(0.05, 180 + 20 * np.sin(index / 10), -0.2, 10 * np.sin(index / 7))
        return [*room.rig(index, "left", "right"), room.seen(index, "back", pan)]

    assert len(follow(room, sets)) == 60


def test_cameras_without_overlap_say_why_there_is_no_map(room, caplog):
    odometry = Odometry()
    with caplog.at_level(logging.WARNING):
        found = [odometry.process(*room.rig(index, "left", "back")) for index in range(60)]
    assert not any(found)
    assert "no map after 60 images: cameras of the rig see 0 landmarks in common" in caplog.text
    assert odometry.process(*room.rig(60)) is not None


def test_landmarks_that_turn_out_to_be_one_keep_their_point(room):
    odometry, new = Odometry(), np.uint64(10_000)
    for index in range(20):
        odometry.process(*room.rig(index))
    for index in range(20, 40):  # all ids are others; the old and the new ones are merged
        seen = [replace(one, ids=one.ids + new) for one in room.rig(index)]
        pairs = [(track, track + 10_000) for track in room.ids.tolist()] if index == 20 else []
        estimate = odometry.process(*seen, merged=pairs)
        assert estimate is not None
        assert estimate.map_index == 0
        assert room.error(index, estimate) < 0.015


def test_lenses_of_different_lengths_have_their_own_noise(room):
    """Rays of a camera that is ten times less precise do not spoil those of the others."""

    def sets(index: int) -> list[Observation]:
        *precise, rough = room.rig(index)
        noise = room.rng.normal(0, 3 * PIXEL, rough.rays.shape)
        rays = (rough.rays + noise).astype(np.float32)
        return [*precise, replace(rough, rays=rays, pixel=10 * PIXEL)]

    assert len(follow(room, sets)) == 60


def test_adjusting_a_window_of_rigs_finds_poses_and_scale(room):
    views, noise = [], dict.fromkeys(room.mounts, PIXEL)
    for index in (0, 6, 12, 18):
        true = room.camera(index)
        shift = 1.1 * true.translation + room.rng.normal(0, 0.02, 3) if index else np.zeros(3)
        disturbed = Transform(true.rotation, shift)
        views.append(View.of(room.rig(index), disturbed, NUMBERS, noise))
    tracks = set.intersection(*(set(view.rows) for view in views))
    points = {track: 1.1 * room.points[track - 1] for track in tracks}
    cameras, _ = adjust(views, points, Noise(), fixed=1, metric=True)
    for index, camera in zip((0, 6, 12, 18), cameras, strict=True):
        np.testing.assert_allclose(camera.translation, room.camera(index).translation, atol=0.01)


@pytest.mark.parametrize("names", [(), ("left", "right")])
def test_errors_are_as_large_as_claimed(names):
    found = []
    for seed in range(3):
        room, odometry = RigRoom(seed), Odometry(Noise(0.3 * PIXEL))
        for index in range(40):
            estimate = odometry.process(*room.rig(index, *names))
            true = room.camera(index).inverse()
            turn = Rotation.from_matrix(estimate.camera.rotation @ true.rotation.T).as_rotvec()
            error = np.concatenate([estimate.camera.translation - true.translation, turn])
            found.append(float(error @ np.linalg.solve(estimate.covariance, error)) / 6)
    print(f"NEES of a rig: {np.mean(found):.2f}")
    assert 0.3 < np.median(found) < 3.0
