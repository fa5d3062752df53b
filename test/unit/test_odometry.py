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

"""The reference back-end on a made-up room, where every answer is known."""

from __future__ import annotations

import logging
from dataclasses import replace

import cv2
import numpy as np
import pytest

from helpers.odometry import COUNT, PIXEL, Room

pytest.importorskip("pycolmap", reason="pycolmap is not installed")

from aliked_ros.camera import CameraModel
from aliked_ros.errors import SourceError
from aliked_ros.odometry import Estimate, Noise, Observation, Odometry, pixel_size
from aliked_ros.odometry.adjustment import adjust
from aliked_ros.odometry.geometry import (
    Transform,
    locate,
    relative_pose,
    reprojection_errors,
    triangulate,
)
from aliked_ros.odometry.local_map import LocalMap
from aliked_ros.odometry.views import View


def view(observation: Observation, camera: Transform) -> View:
    return View.of([observation], camera, {"": 0}, {"": PIXEL})


def without_depth(observation: Observation) -> Observation:
    return replace(observation, depth=None)


@pytest.fixture
def room() -> Room:
    return Room()


def test_a_camera_is_located_among_wrong_points(room):
    camera = room.camera(7)
    local = camera(room.points)
    rays = local[:, :2] / local[:, 2:]
    rays[::3] += 0.1
    found = locate(room.points, rays, 3 * PIXEL)
    assert found is not None
    np.testing.assert_allclose(found[0].translation, camera.translation, atol=1e-5)
    assert found[1].sum() == COUNT - len(rays[::3])


@pytest.mark.parametrize("points", [np.zeros((0, 3)), np.ones((5, 3)), np.ones((50, 3))])
def test_no_camera_is_located_where_points_do_not_tell(points):
    assert locate(points, np.zeros((len(points), 2)), PIXEL) is None


def test_two_views_give_their_motion_and_points(room):
    cameras = room.camera(0), room.camera(15)
    before, after = (c(room.points)[:, :2] / c(room.points)[:, 2:] for c in cameras)
    pose = relative_pose(before, after, PIXEL)
    assert pose is not None
    length = np.linalg.norm(cameras[1].translation)
    np.testing.assert_allclose(pose.rotation, cameras[1].rotation, atol=1e-4)
    np.testing.assert_allclose(pose.translation * length, cameras[1].translation, atol=1e-3)
    points, good = triangulate(*cameras, before, after, PIXEL, 0.02)
    assert good.mean() > 0.9
    np.testing.assert_allclose(points[good], room.points[good], atol=1e-6)
    assert np.isinf(reprojection_errors(cameras[0], -points[good], before[good])).all()


def test_two_views_from_one_place_give_no_points(room):
    ray = room.points[:, :2] / room.points[:, 2:]
    _, good = triangulate(room.camera(0), room.camera(0), ray, ray, PIXEL, 0.02)
    assert not good.any()


def test_bundle_adjustment_finds_poses_points_and_by_depth_the_scale(room):
    views = []
    for index in (0, 5, 10, 15):
        seen = room.observation(index)
        disturbed = room.camera(index)
        if index:
            disturbed = Transform(
                disturbed.rotation, 1.2 * disturbed.translation + room.rng.normal(0, 0.02, 3)
            )
        views.append(view(seen, disturbed))
    points = dict(zip(room.ids.tolist(), 1.2 * room.points, strict=True))
    cameras, found = adjust(views, points, Noise(), fixed=1, metric=True)
    for index, camera in zip((0, 5, 10, 15), cameras, strict=True):
        np.testing.assert_allclose(camera.translation, room.camera(index).translation, atol=0.01)
    assert np.median(np.linalg.norm(np.array(list(found.values())) - room.points, axis=1)) < 0.03


def test_bundle_adjustment_keeps_a_view_that_sees_none_of_the_points(room):
    views = [view(room.observation(i, seen=90), room.camera(i)) for i in (0, 5, 10)]
    views[1].rows = {}
    points = dict(zip(range(1, 91), room.points[:90], strict=True))
    for fixed, metric in ((0, False), (1, True), (2, True)):
        cameras, found = adjust(views, points, Noise(), fixed, metric)
        np.testing.assert_allclose(cameras[1].translation, views[1].camera.translation, atol=1e-9)
        assert len(found) == 90


def test_depth_that_is_wrong_in_the_same_way_in_every_view_does_not_outweigh_the_rays(room):
    """As at a depth edge: a tenth of the points look 30 % farther, from wherever they are seen."""
    wrong = np.arange(COUNT) % 10 == 0
    moved = []
    for share in (1.0, 1.3):
        views = []
        for index in range(0, 20, 2):
            seen = room.observation(index)
            depth = np.where(wrong[: len(seen.ids)], share, 1.0) * seen.depth.astype(float)
            views.append(view(replace(seen, depth=depth), room.camera(index)))
        points = dict(zip(room.ids.tolist(), room.points, strict=True))
        cameras, _ = adjust(views, points, Noise(), fixed=1, metric=True)
        error = cameras[-1].translation - room.camera(18).translation
        moved.append(float(np.linalg.norm(error)))
    assert moved[1] < moved[0] + 0.003, moved


def test_with_depth_poses_are_metric_from_the_first_image_on(room):
    odometry = Odometry()
    for index in range(60):
        estimate = odometry.process(room.observation(index))
        assert estimate is not None
        assert estimate.metric
        assert estimate.map_index == 0
        assert room.error(index, estimate) < 0.02
    assert len(odometry.points()) > 0.9 * COUNT


def test_without_depth_poses_are_right_up_to_scale(room):
    odometry = Odometry()
    estimates = {i: odometry.process(without_depth(room.observation(i))) for i in range(60)}
    assert estimates[0] is None  # one view shows no depth
    known = [i for i, estimate in estimates.items() if estimate is not None]
    assert len(known) > 40
    assert not estimates[known[0]].metric
    truth = np.array([room.camera(i).inverse().translation for i in known])
    found = np.array([estimates[i].camera.translation for i in known])
    scale = (found * truth).sum() / (found**2).sum()
    assert np.linalg.norm(scale * found - truth, axis=1).max() < 0.03
    assert np.median(odometry.points()[:, 2]) == pytest.approx(1.0, rel=0.5)


def test_tracks_that_come_back_find_their_points_again(room):
    odometry = Odometry()
    for index in range(30):
        odometry.process(room.observation(index))
    for index in range(30, 33):
        assert odometry.process(room.observation(index, seen=5)) is None
    estimate = odometry.process(room.observation(33))
    assert estimate is not None
    assert estimate.map_index == 0
    assert room.error(33, estimate) < 0.02


def test_tracks_that_jump_to_other_points_do_no_harm(room):
    odometry = Odometry()
    for index in range(60):
        seen = room.observation(index)
        ids = seen.ids.copy()
        if index >= 20:
            ids[:60] = np.roll(ids[:60], 7)  # a fifth of the tracks is on another point
        estimate = odometry.process(replace(seen, ids=ids))
        assert estimate is not None
        assert room.error(index, estimate) < 0.02
    # and the tracks give points where they are now
    assert estimate.points > 0.9 * COUNT


def test_what_cannot_be_used_is_left_out(room):
    odometry = Odometry()
    for index in range(20):
        seen = room.observation(index)
        ids, rays, depth = seen.ids.copy(), seen.rays.copy(), seen.depth.copy()
        ids[:20] = 0
        ids[20:40] = ids[41]  # one id, many places
        rays[40:60] = np.nan
        depth[60:80] = np.inf
        depth[80:100] = -1.0
        estimate = odometry.process(replace(seen, ids=ids, rays=rays, depth=depth))
        assert estimate is not None
        assert room.error(index, estimate) < 0.02


def test_a_stamp_that_is_not_newer_is_ignored(room):
    odometry = Odometry()
    for index in range(10):
        odometry.process(room.observation(index))
        assert odometry.process(room.observation(index)) is None
    estimate = odometry.process(room.observation(10))
    assert room.error(10, estimate) < 0.02


@pytest.mark.parametrize("seen", [0, 3])
def test_images_that_show_nothing_are_survived(room, seen):
    odometry = Odometry()
    assert odometry.process(room.observation(0, seen)) is None
    assert odometry.process(room.observation(1)) is not None
    assert odometry.process(room.observation(2, seen)) is None
    assert odometry.process(room.observation(3)) is not None


def test_lost_for_long_a_new_map_goes_on_from_the_last_pose(room, caplog):
    odometry = Odometry()
    for index in range(20):
        odometry.process(room.observation(index))
    with caplog.at_level(logging.WARNING):
        for index in range(20, 30):
            assert odometry.process(room.observation(index, seen=3)) is None
    assert "map 0 ends: 5 images in a row have no pose" in caplog.text
    estimate = odometry.process(room.observation(30))
    assert estimate.map_index == 1
    last = room.camera(19).inverse().translation
    assert np.linalg.norm(estimate.camera.translation - last) < 0.02


def test_a_new_epoch_begins_a_new_map_even_with_an_older_stamp(room):
    odometry = Odometry()
    for index in range(20):
        odometry.process(room.observation(index))
    estimate = odometry.process(room.observation(5, epoch=1))
    assert estimate.map_index == 1
    later = odometry.process(room.observation(10, epoch=1))
    moved = later.camera.translation - estimate.camera.translation
    truth = room.camera(10).inverse().translation - room.camera(5).inverse().translation
    assert np.linalg.norm(moved) == pytest.approx(np.linalg.norm(truth), abs=0.02)


def test_depth_that_comes_late_makes_the_map_metric(room):
    odometry = Odometry()
    for index in range(40):
        estimate = odometry.process(without_depth(room.observation(index)))
    assert not estimate.metric
    estimate = odometry.process(room.observation(40))
    assert estimate.metric
    assert estimate.map_index == 1


def test_a_metric_map_goes_on_without_depth(room):
    odometry = Odometry()
    for index in range(60):
        seen = room.observation(index)
        estimate = odometry.process(seen if index < 5 else without_depth(seen))
        assert estimate.metric
        assert room.error(index, estimate) < 0.03


@pytest.mark.parametrize("focal", [262.5, 525.0, 5000.0])
def test_the_size_of_a_pixel_follows_from_the_features(focal):
    camera = CameraModel.from_calibration(
        {
            "width": 640, "height": 480, "fx": focal, "fy": focal, "cx": 300.0, "cy": 250.0,
            "distortion_model": "radtan", "distortion": [-0.1, 0.02, 0.0, 0.0],
        }
    )  # fmt: skip
    keypoints = np.random.default_rng(0).uniform(0, [639, 479], (300, 2)).astype(np.float32)
    rays = camera.normalize(keypoints)
    rays[::7] = np.nan
    assert pixel_size(keypoints, rays) == pytest.approx(1 / focal, rel=0.1)
    assert pixel_size(keypoints[:3], rays[:3]) == 0.0


def test_the_noise_of_a_long_lens_is_that_of_its_pixels(room):
    """Tracks that jump by ten of its pixels are outliers, by two of a usual lens they are not."""
    found = {}
    for pixel in (0.0, PIXEL / 5):
        odometry = Odometry()
        odometry.process(replace(room.observation(0), pixel=pixel))
        seen = room.observation(1)
        seen.rays[::4] += 2 * PIXEL
        found[pixel] = odometry.process(replace(seen, pixel=pixel)).points
    assert found[PIXEL / 5] <= 0.8 * COUNT < found[0.0]


@pytest.mark.parametrize("text", ["", "1 2 3\n", "0 0 0 0 0 0 0 one\n"])
def test_a_ground_truth_of_another_form_is_named(tmp_path, text):
    read_truth = pytest.importorskip("aliked_ros.evaluation.poses").read_truth
    (tmp_path / "truth.txt").write_text(text)
    with pytest.raises(SourceError, match=r"truth\.txt"):
        read_truth(tmp_path / "truth.txt")


def view_of(room: Room, index: int, tracks: list[int], camera: Transform | None = None) -> View:
    """What keyframe ``index`` sees of tracks; its pose is wrong where ``camera`` says so."""
    seen = view(room.observation(index), camera or room.camera(index))
    seen.rows = {track: seen.rows[track] for track in tracks}
    return seen


def shifted(camera: Transform, by: float) -> Transform:
    return Transform(camera.rotation, camera.translation + np.array([by, 0.0, 0.0]))


def test_points_that_were_not_adjusted_go_along_with_their_view(room):
    """The third keyframe is located 10 cm beside its place and alone sees the last 100 tracks."""
    local_map = LocalMap(Noise(), metric=True)
    for index in (0, 6):
        local_map.add(view_of(room, index, list(range(1, 201))))
    wrong = shifted(room.camera(12), 0.1)
    local_map.add(view_of(room, 12, list(range(1, 301)), wrong))
    assert np.linalg.norm(wrong.translation - local_map.views[-1].camera.translation) > 0.08
    _, points = local_map.find(view_of(room, 12, list(range(201, 301))))
    assert len(points) == 100
    errors = np.linalg.norm(points - room.points[200:], axis=1)
    assert np.median(errors) < 0.05


def test_triangulated_points_that_were_not_adjusted_go_along_with_their_view(room, monkeypatch):
    monkeypatch.setattr("aliked_ros.odometry.local_map._ADJUSTED_POINTS", 150)
    monkeypatch.setattr("aliked_ros.odometry.local_map._WINDOW", 3)
    old, new = list(range(1, 201)), list(range(201, 301))
    local_map = LocalMap(Noise(), metric=False)
    for index in (0, 6, 12, 18):
        local_map.add(view_of(room, index, old))
    local_map.add(view_of(room, 24, old + new))
    wrong = shifted(room.camera(30), 0.004)  # within what a triangulation tolerates
    last = view_of(room, 30, old + new, wrong)
    local_map.add(last)
    tracks, points = local_map.find(view_of(room, 30, new))
    assert len(tracks) > 50
    assert np.median(last.errors(tracks, points)) < 0.4


def test_at_the_limit_the_points_that_are_out_of_sight_go(room, monkeypatch):
    monkeypatch.setattr("aliked_ros.odometry.local_map._MAX_POINTS", 350)
    odometry = Odometry()
    estimates = []
    for index in range(40):  # the first 120 tracks all the time, others for a few images
        seen = room.observation(index)
        ids = seen.ids + np.uint64(1000 * (index // 4))
        ids[:120] = seen.ids[:120]
        estimates.append(odometry.process(replace(seen, ids=ids)))
    assert all(estimate is not None and estimate.points >= 115 for estimate in estimates)


class Plane(Room):
    """Points on one plane, as of a chessboard filmed close."""

    def __init__(self, seed: int, tilt: float) -> None:
        super().__init__(seed)
        flat = self.rng.uniform([-1.0, -0.8, 0.0], [1.0, 0.8, 0.0], (COUNT, 3))
        self.points = flat @ cv2.Rodrigues(np.array([tilt, -tilt, 0.1]))[0].T + [0.0, 0.0, 2.0]

    def camera(self, index: int) -> Transform:
        phase = index / 20.0
        sway = [np.sin(phase), 0.4 * (1 - np.cos(phase)), 0.5 * np.sin(0.7 * phase)]
        turn = [0.1 * np.sin(phase), 0.15 * np.sin(0.8 * phase), 0.1 * np.sin(phase)]
        rotation = np.asarray(cv2.Rodrigues(np.array(turn))[0])
        return Transform(rotation, -rotation @ (0.5 * np.array(sway)))


@pytest.mark.parametrize(("seed", "tilt"), [(0, 0.0), (1, 0.6), (3, 0.3), (4, 0.3)])
def test_a_start_before_a_plane_is_the_right_one_of_two(seed, tilt):
    """Found one by one; the images before the start get their poses when it is found."""
    plane, odometry = Plane(seed, tilt), Odometry()
    found: dict[int, Estimate] = {}
    for index in range(60):
        estimate = odometry.process(without_depth(plane.observation(index)))
        for one in [*odometry.earlier, *([] if estimate is None else [estimate])]:
            assert one.stamp * 30 == pytest.approx(len(found))  # each once, in their order
            found[round(one.stamp * 30)] = one
    assert sorted(found) == list(range(60))
    truth = np.array([plane.camera(i).inverse().translation for i in found])
    places = np.array([estimate.camera.translation for estimate in found.values()])
    scale = (places * truth).sum() / (places**2).sum()
    assert np.linalg.norm(scale * places - truth, axis=1).max() < 0.03
    for index, estimate in found.items():
        turn = estimate.camera.rotation.T @ plane.camera(index).inverse().rotation
        assert np.linalg.norm(cv2.Rodrigues(turn)[0]) < np.radians(1.0)


@pytest.mark.parametrize("seed", range(4))
def test_two_images_of_a_plane_start_no_wrong_map(seed):
    """No third image tells which of two motions it was."""
    for tilt in (0.0, 0.3, 0.6):
        plane, odometry = Plane(seed, tilt), Odometry()
        odometry.process(without_depth(plane.observation(0)))
        estimate = odometry.process(without_depth(plane.observation(20)))
        if estimate is not None:  # the other motion would put the plane behind the camera
            turn = estimate.camera.rotation.T @ plane.camera(20).inverse().rotation
            assert np.linalg.norm(cv2.Rodrigues(turn)[0]) < np.radians(1.0)


class Turning(Room):
    """The camera turns by half a degree an image, then goes sideways, too."""

    def __init__(self) -> None:
        super().__init__()
        around = self.rng.uniform(-1.0, 1.0, COUNT * 6) * np.pi
        distance = self.rng.uniform(2.5, 6.0, COUNT * 6)
        height = self.rng.uniform(-1.5, 1.5, COUNT * 6)
        self.points = np.column_stack(
            [distance * np.sin(around), height, distance * np.cos(around)]
        )

    def camera(self, index: int) -> Transform:
        angle = np.radians(0.5 * index)
        cos, sin = np.cos(angle), np.sin(angle)
        rotation = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
        centre = np.array([0.0, 0.02 * max(index - 150, 0), 0.0])
        return Transform(rotation, -rotation @ centre)

    def observation(self, index: int, seen: int = COUNT, epoch: int = 0) -> Observation:
        local = self.camera(index)(self.points)
        rays = local[:, :2] / local[:, 2:]
        shown = (local[:, 2] > 0.5) & (np.abs(rays) < [0.6, 0.5]).all(1)
        rays = rays[shown] + self.rng.normal(0, 0.3 * PIXEL, (np.count_nonzero(shown), 2))
        ids = np.flatnonzero(shown).astype(np.uint64) + np.uint64(1)
        return Observation(index / 30.0, ids, rays.astype(np.float32))


def test_a_camera_that_only_turns_says_so_and_starts_when_it_moves(caplog):
    turning, odometry = Turning(), Odometry()
    with caplog.at_level(logging.WARNING):
        early = [odometry.process(turning.observation(index)) for index in range(150)]
    assert not any(early)
    assert "no map after 60 images: the camera stands or only turns" in caplog.text
    found = [odometry.process(turning.observation(index)) for index in range(150, 180)]
    assert found[-1] is not None
