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

"""Covariances and velocities against Monte Carlo: errors squared, in units of what is claimed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.odometry import Room

pytest.importorskip("pycolmap", reason="pycolmap is not installed")

from scipy.spatial.transform import Rotation

from aliked_ros.odometry import Estimate, Noise, Observation, Odometry
from aliked_ros.odometry.geometry import Transform
from aliked_ros.odometry.uncertainty import image_covariance, moved, turned
from aliked_ros.odometry.velocity import Velocity
from aliked_ros.odometry.views import View

NOISE = Noise(ray=0.0006, inverse_depth=0.002)  # the room's
RATE = 30.0


def followed(room: Room, count: int, metric: bool) -> list[Estimate]:
    odometry, found = Odometry(NOISE), []
    for index in range(count):
        seen = room.observation(index)
        estimate = odometry.process(seen if metric else replace(seen, depth=None))
        if estimate is not None:
            found += [*odometry.earlier, estimate]
    return found


def truths(room: Room, estimates: list[Estimate]) -> list[Transform]:
    """The true poses, from where the first estimate is, at the estimates' scale."""
    cameras = [room.camera(round(one.stamp * RATE)).inverse() for one in estimates]
    start = estimates[0].camera @ cameras[0].inverse()
    cameras = [start @ camera for camera in cameras]
    true, found = (
        np.array([one.translation for one in poses])
        for poses in (cameras, [one.camera for one in estimates])
    )
    scale = 1.0
    if not estimates[0].metric:
        there, here = true - true[0], found - found[0]
        scale = float((there * here).sum() / (there**2).sum())
    return [Transform(c.rotation, true[0] + scale * (c.translation - true[0])) for c in cameras]


def nees(error: np.ndarray, covariance: np.ndarray) -> float:
    """Normalised error squared, a degree of freedom."""
    return float(error @ np.linalg.solve(covariance, error)) / len(error)


@pytest.mark.parametrize("metric", [True, False])
def test_errors_of_poses_and_velocities_are_as_large_as_claimed(metric):
    poses, velocities = [], []
    for seed in range(3):
        room = Room(seed)
        estimates = followed(room, 60, metric)
        velocity, before = Velocity(), None
        for one, true in zip(estimates, truths(room, estimates), strict=True):
            np.linalg.cholesky(one.covariance)  # symmetric and positive definite
            turn = Rotation.from_matrix(one.camera.rotation @ true.rotation.T).as_rotvec()
            error = np.concatenate([one.camera.translation - true.translation, turn])
            poses.append(nees(error, one.covariance))
            mean, covariance = velocity.update(one.stamp, one.camera, one.noise)
            if before is not None:
                way = true.rotation.T @ (true.translation - before.translation)
                turn = Rotation.from_matrix(before.rotation.T @ true.rotation).as_rotvec()
                error = mean - RATE * np.concatenate([way, turn])
                velocities.append(nees(error, covariance))
            before = true
    print(f"NEES: poses {np.mean(poses):.2f}, velocities {np.mean(velocities):.2f}")
    assert 0.4 < np.median(poses) < 2.5
    assert 0.4 < np.mean(poses) < 4.0
    assert 0.4 < np.mean(velocities) < 4.0


def test_doubt_grows_along_the_way_and_less_with_better_rays():
    def last(noise: float) -> float:
        room = Room()
        odometry = Odometry(NOISE)
        for index in range(40):
            seen = room.observation(index)
            shaken = seen.rays + room.rng.normal(0.0, noise, seen.rays.shape)
            estimate = odometry.process(replace(seen, rays=shaken.astype(np.float32)))
            sizes.append(np.trace(estimate.covariance[:3, :3]))
        return sizes[-1]

    sizes: list[float] = []
    good = last(0.0)
    assert good > sizes[0]
    assert last(0.002) > 3.0 * good


def test_errors_that_neighbours_share_are_seen_in_the_residuals():
    rng, room = np.random.default_rng(3), Room()
    local = room.points
    rays = local[:, :2] / local[:, 2:]
    camera = Transform.identity()
    independent, shared = [], []
    for _ in range(30):
        noise = rng.normal(0.0, 0.0006, rays.shape)
        sheared = noise + 0.002 * rays[:, ::-1]  # as a rolling shutter does
        for kind, error in ((independent, noise), (shared, sheared)):
            seen = Observation(0.0, room.ids, (rays + error).astype(np.float32))
            view = View.of([seen], camera, {"": 0}, {"": NOISE.ray})
            kind.append(image_covariance(view, view.sights(view.rows), room.points)[1])
    assert 0.5 < np.mean(independent) < 1.6
    assert np.mean(shared) > 3.0


def test_covariances_are_carried_to_another_place_and_to_other_axes():
    covariance = np.diag([1.0, 2.0, 3.0, 0.01, 0.02, 0.03])
    there = moved(covariance, np.array([10.0, 0.0, 0.0]))
    np.testing.assert_allclose(np.diag(there)[:3], [1.0, 2.0 + 3.0, 3.0 + 2.0])  # (10 m · rad)²
    np.testing.assert_allclose(there[3:, 3:], covariance[3:, 3:])
    turn = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    np.testing.assert_allclose(np.diag(turned(covariance, turn)), [2, 1, 3, 0.02, 0.01, 0.03])


def test_between_two_maps_the_doubt_is_that_of_an_unknown_motion():
    room, odometry = Room(), Odometry(NOISE)
    first = odometry.process(room.observation(0))
    later = odometry.process(replace(room.observation(30), epoch=1))
    added = np.diag(later.covariance - first.covariance)
    np.testing.assert_allclose(added, np.ones(6), rtol=0.05)  # (1 m/s, 1 rad/s · 1 s)²


def test_velocity_is_smoothed_only_where_poses_are_noisy():
    exact, noisy = Velocity(), Velocity()
    rng = np.random.default_rng(0)
    for index in range(60):
        speed = 1.0 if index < 30 else 2.0
        place = index / RATE if index < 30 else (2 * index - 30) / RATE
        pose = Transform(np.eye(3), np.array([place, 0.0, 0.0]))
        mean, _ = exact.update(index / RATE, pose, 1e-12 * np.eye(6))
        if index > 0:
            assert mean[0] == pytest.approx(speed, abs=1e-3) or index == 30
        shaken = Transform(np.eye(3), pose.translation + rng.normal(0.0, 0.01, 3))
        found, covariance = noisy.update(index / RATE, shaken, 1e-4 * np.eye(6))
    assert abs(found[0] - 2.0) < 3.0 * np.sqrt(covariance[0, 0]) < 0.9
    raw = 0.01 * np.sqrt(2.0) * RATE
    assert np.sqrt(covariance[0, 0]) < 0.7 * raw
    again, _ = noisy.update(59 / RATE, shaken, 1e-4 * np.eye(6))  # the same stamp: nothing new
    np.testing.assert_array_equal(again, found)
