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

"""Recordings become COLMAP databases and TUM trajectories that those programs can use."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: nothing makes recordings")
pytest.importorskip("pycolmap", reason="make setup GROUP=test")

import cv2
import pycolmap
from evo.core import metrics, sync
from evo.core.trajectory import PoseTrajectory3D
from evo.tools import file_interface
from nav_msgs.msg import Odometry
from rclpy.serialization import serialize_message
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from sensor_msgs.msg import CameraInfo, CompressedImage
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_msgs.msg import FeatureFrame, FeatureMatches
from aliked_ros.camera import CameraModel, create_camera
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import ImageError, OutputError, SourceError
from aliked_ros.exporting.colmap import (
    DatabaseWriter,
    colmap_camera,
    export_colmap,
    mapping_options,
)
from aliked_ros.exporting.recording import RecordedFrame, RecordedMatches, RecordingReader
from aliked_ros.exporting.tum import export_tum
from aliked_ros.frontend.codes import encode
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.ros.conversions import (
    feature_frame,
    feature_matches,
    image_message,
    jpeg_message,
    stamp_from_seconds,
)
from aliked_ros.ros.recording import Recording
from aliked_ros.sources import open_source
from aliked_ros.types import Features, FrameResult, Matches, Tracks
from aliked_ros.viewing.recorded import RecordedRun

TOPICS = {
    "/aliked_frontend/features": FeatureFrame,
    "/aliked_frontend/matches": FeatureMatches,
    "/camera_info": CameraInfo,
    "/image": ImageMessage,
    "/image/compressed": CompressedImage,
    "/odometry_node/odometry": Odometry,
}
WIDTH, HEIGHT = 640, 480
MATRIX = np.array([[500.0, 0, 321.5], [0, 502.0, 238.25], [0, 0, 1]])
RECTIFIED = np.diag([0.9, 0.9, 1.0]) @ MATRIX
CAMERAS = {
    "PINHOLE": ("plumb_bob", [0.0] * 5),
    "OPENCV": ("plumb_bob", [0.1, -0.05, 0.002, -0.001]),
    "FULL_OPENCV": ("plumb_bob", [0.26, -0.95, -0.005, 0.003, 1.16]),
    "FULL_OPENCV rational": ("rational_polynomial", [0.2, 0.1, 0.001, 0.002, 0.03, 0.1, 0.05, 0]),
    "OPENCV_FISHEYE": ("equidistant", [0.05, 0.01, -0.004, 0.001]),
}  # fmt: skip
BEGIN = 1000.25  # seconds


def model_of(name: str) -> CameraModel:
    kind, coefficients = CAMERAS[name]
    return create_camera(WIDTH, HEIGHT, MATRIX, kind, np.array(coefficients))


def camera_info(camera: CameraModel) -> CameraInfo:
    info = CameraInfo(width=WIDTH, height=HEIGHT, distortion_model=camera.distortion_model)
    info.k, info.d = camera.matrix.ravel(), camera.distortion.tolist()
    info.p = np.column_stack([RECTIFIED, np.zeros(3)]).ravel()
    return info


@dataclass
class Scene:
    """Points before a camera that moves sideways: what a front-end would publish, and the truth.

    tracked: how the track ids follow from the numbers of points and frame; 0 = untracked.
    """

    camera: CameraModel
    frames: int = 12
    noise: float = 0.2
    tracked: Callable[[np.ndarray, int], np.ndarray] = lambda points, frame: points + 1
    epoch: Callable[[int], int] = lambda frame: 1
    centres: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(4)
        low, high = (-2.2, -1.6, 3.0), (2.2, 1.6, 6.0)
        self._points = rng.uniform(low, high, (300, 3))
        self._descriptors = rng.normal(size=(300, 128)).astype(np.float32)
        steps = np.arange(self.frames)[:, None]
        self.centres = steps * [0.12, 0.01, 0.03] + 0.03 * np.sin(steps * [1.0, 1.7, 2.3])
        self._rng = rng

    def results(self) -> list[FrameResult]:
        results: list[FrameResult] = []
        previous: np.ndarray | None = None
        for index, centre in enumerate(self.centres):
            rays = self._points - centre
            normalized = (rays[:, :2] / rays[:, 2:]).astype(np.float32)
            pixels = self.camera.project(normalized)
            pixels += self._rng.normal(0, self.noise, pixels.shape).astype(np.float32)
            seen = np.flatnonzero(((pixels >= 0) & (pixels < [WIDTH, HEIGHT])).all(axis=1))
            self._rng.shuffle(seen)
            features = Features(
                pixels[seen], np.ones(len(seen), np.float32), self._descriptors[seen],
                WIDTH, HEIGHT, "aliked-n16",
            )  # fmt: skip
            matches = Matches.empty()
            if previous is not None:
                _, first, second = np.intersect1d(previous, seen, return_indices=True)
                matches = Matches(
                    first.astype(np.uint32), second.astype(np.uint32),
                    np.ones(len(first), np.float32),
                )  # fmt: skip
            results.append(
                FrameResult(
                    index, BEGIN + index / 30, features, matches,
                    Tracks(
                        self.tracked(seen, index).astype(np.uint64),
                        np.ones(len(seen), np.uint32), self.epoch(index),
                    ),
                    None if previous is None else index - 1,
                    normalized=self.camera.normalize(pixels[seen]),
                )
            )  # fmt: skip
            previous = seen
        return results


def record(
    path: Path,
    results: list[FrameResult],
    *others: tuple[str, Any],
    matches: bool = True,
    encoding: str = "float32",
) -> Path:
    """Features and matches, and with each image the other messages under its header."""
    recording = Recording(path)
    topics = {**TOPICS, **{topic: type(message) for topic, message in others}}
    for topic, kind in topics.items():
        recording.add_topic(topic, kind)
    stamps = [stamp_from_seconds(result.stamp) for result in results]
    for result, stamp in zip(results, stamps, strict=True):
        header = Header(stamp=stamp, frame_id="camera")
        reference = stamps[result.index if result.reference_index is None else result.index - 1]
        messages = [("/aliked_frontend/features", feature_frame(result, header, encoding))]
        if matches:
            messages.append(
                ("/aliked_frontend/matches", feature_matches(result, header, reference))
            )
        for topic, message in others:
            message.header = header
            messages.append((topic, message))
        time = stamp.sec * 10**9 + stamp.nanosec
        for topic, message in messages:
            recording.add(topic, serialize_message(message), time, time)
    recording.finish()
    return path


def export(recording: Path, folder: Path, every: int = 1, **options: Any) -> dict[str, Any]:
    with RecordingReader(recording, **options) as reader:
        return export_colmap(reader, folder, every)


def centres_of(reconstruction: Any) -> tuple[list[str], np.ndarray]:
    images = sorted(reconstruction.images.values(), key=lambda image: image.name)
    return [one.name for one in images], np.array([one.projection_center() for one in images])


def reconstruct(folder: Path) -> Any:
    """The largest model of pycolmap's incremental mapper."""
    options = mapping_options(folder / "database.db")
    options.random_seed = 0
    models = pycolmap.incremental_mapping(
        folder / "database.db", folder / "images", folder / "sparse", options
    )
    return max(models.values(), key=lambda model: model.num_reg_images())


def trajectory(stamps: list[float], positions: np.ndarray) -> PoseTrajectory3D:
    turns = np.tile([1.0, 0, 0, 0], (len(positions), 1))
    return PoseTrajectory3D(positions, turns, np.array(stamps))


def aligned_error(truth: PoseTrajectory3D, estimate: PoseTrajectory3D) -> float:
    """RMSE of the positions after a similarity alignment, in units of the truth."""
    truth, estimate = sync.associate_trajectories(truth, estimate, max_diff=1e-4)
    estimate.align(truth, correct_scale=True)
    error = metrics.APE(metrics.PoseRelation.translation_part)
    error.process_data((truth, estimate))
    return float(error.get_statistic(metrics.StatisticsType.rmse))


@pytest.mark.parametrize("name", CAMERAS)
def test_colmaps_camera_projects_as_ours(name: str) -> None:
    camera = model_of(name)
    theirs = colmap_camera(camera)
    assert theirs.model.name == name.split()[0]
    assert theirs.has_prior_focal_length
    rays = np.random.default_rng(0).uniform(-0.5, 0.5, (200, 2)).astype(np.float32)
    solid = np.column_stack([rays, np.ones(len(rays))])
    pixels = np.array([theirs.img_from_cam(ray) for ray in solid])
    np.testing.assert_allclose(pixels - 0.5, camera.project(rays), atol=1e-3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scene, list[FrameResult], Path]:
    """A scene before a distorted camera, its results, and their recording with JPEG images."""
    scene = Scene(model_of("FULL_OPENCV"))
    results = scene.results()
    picture = image_message(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), Header())
    odometry = Odometry()
    odometry.pose.pose.position.x, odometry.pose.pose.orientation.w = 1.5, 1.0
    path = record(
        tmp_path_factory.mktemp("run") / "run.mcap", results,
        ("/camera_info", camera_info(scene.camera)), ("/image/compressed", jpeg_message(picture)),
        ("/odometry_node/odometry", odometry),
    )  # fmt: skip
    return scene, results, path


def test_the_database_holds_what_was_recorded(run, tmp_path):
    _, results, path = run
    figures = export(path, tmp_path / "sfm")
    assert figures["images"] == figures["saved_images"] == len(results)
    assert figures["pairs"] == figures["verified_pairs"]
    assert figures["inliers"] > 0.99 * figures["matches"]
    assert sorted(p.name for p in (tmp_path / "sfm").iterdir()) == ["database.db", "images"]
    with pycolmap.Database.open(tmp_path / "sfm" / "database.db") as database:
        (camera,) = database.read_all_cameras()
        assert camera.params[:4] == pytest.approx([500, 502, 322, 238.75])
        images = {image.name: image.image_id for image in database.read_all_images()}
        assert sorted(images) == sorted(p.name for p in (tmp_path / "sfm" / "images").iterdir())
        names = sorted(images)
        assert names[0] == "1000.250000000.jpg"
        for name, result in zip(names, results, strict=True):
            keypoints = database.read_keypoints(images[name])
            np.testing.assert_array_equal(keypoints, result.features.keypoints + np.float32(0.5))
            descriptors = database.read_descriptors(images[name]).to_float()
            np.testing.assert_array_equal(descriptors.data, result.features.descriptors)
        for first, second in ((0, 1), (2, 9)):
            matches = database.read_matches(images[names[first]], images[names[second]])
            ids = [results[i].tracks.ids for i in (first, second)]
            assert len(matches) == len(np.intersect1d(*ids)) > 50
            np.testing.assert_array_equal(ids[0][matches[:, 0]], ids[1][matches[:, 1]])


def test_binary_descriptors_are_left_out_with_a_warning(tmp_path, caplog):
    results = Scene(model_of("PINHOLE"), 3).results()
    path = record(tmp_path / "run.mcap", results, encoding="binary256")
    with RecordingReader(path) as reader:
        for frame, result in zip(reader.frames(), results, strict=True):
            assert frame.features.descriptors.shape == (len(result.features), 0)
            np.testing.assert_array_equal(frame.codes, encode(result.features.descriptors))
    facts = export(path, tmp_path / "sfm")
    assert facts["descriptors"] == 0 < facts["keypoints"]
    assert "binary256 descriptors, which COLMAP does not know" in caplog.text


def test_the_mapper_reconstructs_the_scene_to_scale(run, tmp_path):
    scene, results, path = run
    export(path, tmp_path / "sfm")
    model = reconstruct(tmp_path / "sfm")
    assert model.num_reg_images() == len(results)
    assert model.compute_mean_reprojection_error() < 0.4  # noise of 0.2 px in x and y
    names, centres = centres_of(model)
    stamps = [float(name.removesuffix(".jpg")) for name in names]
    truth = trajectory([result.stamp for result in results], scene.centres)
    assert aligned_error(truth, trajectory(stamps, centres)) < 0.005  # metres, of 1.3


def test_every_takes_one_of_so_many(run, tmp_path):
    _, results, path = run
    assert export(path, tmp_path / "sfm", every=5)["images"] == 3
    names = sorted(p.name for p in (tmp_path / "sfm" / "images").iterdir())
    stamps = [float(name.removesuffix(".jpg")) for name in names]
    assert stamps == pytest.approx([results[i].stamp for i in (0, 5, 10)], abs=1e-6)


def test_tracks_are_compared_within_an_epoch_and_only_if_tracked(tmp_path):
    """Without ~/matches, ids of two epochs, which have 32 bits, and the id 0 match nothing."""
    scene = Scene(
        model_of("PINHOLE"), frames=6, epoch=lambda frame: 1 + (frame // 3 << 16),
        tracked=lambda points, frame: np.where(points < 150, points + 1, 0),
    )  # fmt: skip
    path = record(tmp_path / "run.mcap", scene.results(), matches=False)
    assert export(path, tmp_path / "sfm")["pairs"] == 6  # 3 in each epoch, of 15 in all
    with pycolmap.Database.open(tmp_path / "sfm" / "database.db") as database:
        assert all(len(one) <= 150 for one in database.read_all_matches()[1])


def test_a_dataset_played_in_a_loop_counts_once(tmp_path):
    first = Scene(model_of("PINHOLE"), frames=4).results()
    again = [replace(one, tracks=replace(one.tracks, epoch=2)) for one in first]
    for matches in (False, True):
        path = record(tmp_path / f"{matches}.mcap", first + again, matches=matches)
        figures = export(path, tmp_path / f"{matches}")
        assert (figures["images"], figures["pairs"]) == (4, 6)


def test_matches_belong_to_the_features_of_their_own_pass(tmp_path):
    """An image that comes again under its stamp may have other keypoints in other rows."""
    again = Scene(model_of("PINHOLE"), 3, tracked=lambda points, _: 0 * points).results()
    first = [replace(one, matches=Matches.empty()) for one in again]
    again = [
        replace(
            one, index=one.index + 3,
            reference_index=None if one.index == 0 else one.index + 2,
        )
        for one in again
    ]  # fmt: skip
    path = record(tmp_path / "run.mcap", first + again)
    assert export(path, tmp_path / "sfm")["pairs"] == 0


def test_an_image_without_features_is_an_image(tmp_path):
    results = Scene(model_of("PINHOLE"), frames=3).results()
    none = np.zeros(0, np.float32)
    results[1] = replace(
        results[1], matches=Matches.empty(), normalized=None,
        features=Features(
            none.reshape(0, 2), none, none.reshape(0, 128), WIDTH, HEIGHT, "aliked-n16"
        ),
        tracks=Tracks(np.zeros(0, np.uint64), np.zeros(0, np.uint32), 1),
    )  # fmt: skip
    path = record(tmp_path / "run.mcap", results, matches=False)
    figures = export(path, tmp_path / "sfm")
    assert (figures["images"], figures["pairs"]) == (3, 1)


def test_matches_serve_neighbours_that_share_no_tracks(tmp_path):
    scene = Scene(model_of("PINHOLE"), frames=4, tracked=lambda points, _: np.zeros(len(points)))
    path = record(tmp_path / "run.mcap", scene.results())
    assert export(path, tmp_path / "every")["pairs"] == 3
    assert export(path, tmp_path / "second", every=2)["pairs"] == 0


def test_results_are_written_without_a_recording_and_tracks_join_the_matches(tmp_path):
    """What ``evaluate reconstruction`` does: a matcher's pairs, completed by shared tracks."""
    first, second = Scene(
        model_of("PINHOLE"), frames=2, tracked=lambda points, _: np.where(points % 2, points, 0)
    ).results()  # every other point has a track
    _, *rows = np.intersect1d(
        first.features.descriptors[:, 0], second.features.descriptors[:, 0], return_indices=True
    )
    same = dict(zip(rows[0].tolist(), rows[1].tolist(), strict=True))
    some = np.array(sorted(same))[:40]  # a matcher finds so many of the pairs
    wrong = np.roll([same[row] for row in some], 1)  # which disagree with the tracks
    frames = [
        RecordedFrame(round(one.stamp * 1e9), one.index, one.features, one.tracks, None)
        for one in (first, second)
    ]
    found = RecordedMatches(
        (frames[1].stamp, 1), (frames[0].stamp, 0),
        Matches(some.astype(np.uint32), wrong.astype(np.uint32), np.ones(40, np.float32)),
    )  # fmt: skip
    with pycolmap.Database.open(tmp_path / "database.db") as database:
        writer = DatabaseWriter(database, model_of("PINHOLE"))
        for frame in frames:
            writer.add(frame)
        writer.add_matches(found, tracks=True)
        writer.add_matches(found)  # the first ones of a pair count
        assert writer.pairs == [("1000.250000000.png", "1000.283333333.png")]
        assert writer.add_shared_tracks() == writer.pairs
        (matches,) = database.read_all_matches()[1]
    assert all(len(np.unique(column)) == len(column) for column in matches.T)
    ids, others = (r.tracks.ids[matches[:, i]] for i, r in enumerate((first, second)))
    tracked = ids > 0
    assert np.count_nonzero(tracked) > 50
    np.testing.assert_array_equal(ids, others)
    pairs = np.column_stack([some, wrong])
    free = (first.tracks.ids[some] == 0) & (second.tracks.ids[wrong] == 0)
    assert free.any()
    np.testing.assert_array_equal(matches[~tracked], pairs[free])  # the rest is left to the tracks


def test_matches_do_not_join_two_tracks_that_an_image_has_side_by_side(tmp_path):
    """A matcher that takes one of two neighbours for the other would make one point of them."""
    scene = Scene(model_of("PINHOLE"), frames=3, tracked=lambda points, _: points)
    frames = []
    for number, one in enumerate(scene.results()):
        ids = one.tracks.ids.copy()
        ids[ids % 2 == (0, 9, 1)[number]] = 0  # image 1 has all tracks, 0 and 2 half of them
        frames.append(
            RecordedFrame(
                round(one.stamp * 1e9), number, one.features, replace(one.tracks, ids=ids), None
            )
        )
    before, after = (np.flatnonzero(frames[i].tracks.ids) for i in (0, 2))
    rows = np.stack([before[:60], after[:60]]).astype(np.uint32)
    fresh = [np.flatnonzero(frames[i].tracks.ids == 0)[:60] for i in (0, 2)]
    matches = Matches(
        np.concatenate([rows[0], fresh[0]]).astype(np.uint32),
        np.concatenate([rows[1], fresh[1]]).astype(np.uint32),
        np.ones(120, np.float32),
    )
    with pycolmap.Database.open(tmp_path / "database.db") as database:
        writer = DatabaseWriter(database, model_of("PINHOLE"))
        for frame in frames:
            writer.add(frame)
        ends = ((frames[2].stamp, 2), (frames[0].stamp, 0))
        writer.add_matches(RecordedMatches(*ends, matches), tracks=True)
        written = database.read_matches(1, 3)
    np.testing.assert_array_equal(written, np.stack(fresh, axis=1))


def test_without_camera_info_the_camera_is_a_guess_and_said(tmp_path, caplog):
    scene = Scene(model_of("PINHOLE"), frames=3)
    results = scene.results()
    for name, others in {
        "none": (),
        "zeros": (("/camera_info", CameraInfo(width=WIDTH, height=HEIGHT)),),
        "another size": (
            ("/camera_info", camera_info(create_camera(320, 240, MATRIX, "", np.zeros(0)))),
        ),
    }.items():
        if name == "another size":
            others[0][1].width = 320
        path = record(tmp_path / f"{name}.mcap", results, *others)
        caplog.clear()
        assert export(path, tmp_path / name)["cameras"] == "SIMPLE_RADIAL"
        assert "camera_info" in caplog.text
        with pycolmap.Database.open(tmp_path / name / "database.db") as database:
            (camera,) = database.read_all_cameras()
        assert not camera.has_prior_focal_length
        assert mapping_options(tmp_path / name / "database.db").ba_refine_focal_length


def test_rectified_images_have_the_camera_of_the_projection_matrix(tmp_path):
    rectified = create_camera(WIDTH, HEIGHT, RECTIFIED, "plumb_bob", np.zeros(5))
    results = Scene(rectified, frames=3).results()
    path = record(
        tmp_path / "run.mcap", results, ("/camera_info", camera_info(model_of("FULL_OPENCV")))
    )
    assert export(path, tmp_path / "sfm")["cameras"] == "PINHOLE"


def test_of_a_stereo_pair_the_left_camera_is_exported(tmp_path):
    """Whatever the topics are called: P of the right one holds the baseline."""
    camera = model_of("PINHOLE")
    left, right = camera_info(camera), camera_info(camera)
    left.p = np.column_stack([MATRIX, np.zeros(3)]).ravel()
    right.p = np.column_stack([MATRIX, [-50.0, 0, 0]]).ravel()
    path = record(tmp_path / "run.mcap", Scene(camera, 3).results(), ("/a", right), ("/b", left))
    assert export(path, tmp_path / "sfm")["cameras"] == "PINHOLE"
    topics = (("/right/camera_info", right), ("/zed/camera_info", left))
    with RecordedRun(record(tmp_path / "run.mcap", Scene(camera, 3).results(), *topics)) as run:
        assert run.topics["camera_info"] == "/zed/camera_info"
    both = record(tmp_path / "two.mcap", Scene(camera, 3).results(), ("/a", left), ("/b", left))
    with pytest.raises(SourceError, match=r"/a, /b; select"):
        export(both, tmp_path / "two")


@pytest.mark.parametrize("encoding", ["mono8", "rgb8", "bgra8"])
def test_raw_images_become_png(tmp_path, encoding):
    colour = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colour[..., 0] = 200  # red
    message = image_message(colour if encoding == "rgb8" else colour[..., 0], Header())
    if encoding == "bgra8":
        padded = np.zeros((HEIGHT, WIDTH + 8, 4), np.uint8)
        padded[..., 2] = 200
        message = ImageMessage(height=HEIGHT, width=WIDTH, step=4 * (WIDTH + 8), encoding=encoding)
        message.data.frombytes(padded.tobytes())
    path = record(
        tmp_path / "run.mcap", Scene(model_of("PINHOLE"), 2).results(), ("/image", message)
    )
    export(path, tmp_path / "sfm")
    first = min((tmp_path / "sfm" / "images").iterdir())
    assert first.suffix == ".png"
    expected = [200, 200, 200] if encoding == "mono8" else [0, 0, 200]
    assert cv2.imread(str(first))[100, 600].tolist() == expected


def test_an_encoding_that_cannot_be_exported_is_named(tmp_path):
    message = ImageMessage(height=1, width=2, step=4, encoding="16UC1", data=bytes(4))
    path = record(
        tmp_path / "run.mcap", Scene(model_of("PINHOLE"), 2).results(), ("/image", message)
    )
    with pytest.raises(ImageError, match=r"16UC1 is a depth image"):
        export(path, tmp_path / "sfm")
    assert not (tmp_path / "sfm").exists()


def test_rosbag2_folders_are_read_as_well(run, tmp_path):
    """The same messages in SQLite, as ``ros2 bag record -s sqlite3`` writes them."""
    _, results, path = run
    with AnyReader([path]) as reader, Writer(
        tmp_path / "bag", version=9, storage_plugin=StoragePlugin.SQLITE3
    ) as writer:  # fmt: skip
        connections = {
            c.id: writer.add_connection(c.topic, c.msgtype, typestore=reader.typestore)
            for c in reader.connections
        }
        for connection, time, raw in reader.messages():
            writer.write(connections[connection.id], time, raw)
    figures = export(tmp_path / "bag", tmp_path / "sfm", every=4)
    assert figures == export(path, tmp_path / "same", every=4)
    assert figures["images"] == 3
    assert export_count(tmp_path / "bag", tmp_path / "odometry.txt") == len(results)


def export_count(recording: Path, target: Path) -> int:
    with RecordingReader(recording) as reader:
        return export_tum(reader, target)


def test_odometry_is_read_by_evo(run, tmp_path):
    _, results, path = run
    command = [sys.executable, "-m", "aliked_ros.cli", "export", str(path), "--format", "tum"]
    facts = subprocess.check_output(
        [*command, "--output", str(tmp_path / "odometry.txt"), "--json"], text=True
    )
    assert json.loads(facts)["poses"] == len(results)
    read = file_interface.read_tum_trajectory_file(tmp_path / "odometry.txt")
    assert read.timestamps == pytest.approx([result.stamp for result in results], abs=1e-6)
    np.testing.assert_array_equal(read.positions_xyz, np.tile([1.5, 0, 0], (len(results), 1)))
    np.testing.assert_array_equal(read.orientations_quat_wxyz[:, 0], 1.0)


def test_what_is_missing_is_named_with_its_remedy(run, tmp_path):
    path = record(tmp_path / "run.mcap", Scene(model_of("PINHOLE"), 2).results())
    with pytest.raises(SourceError, match=r"run\.mcap.*nav_msgs/msg/Odometry.*features.*odometry"):
        export_count(path, tmp_path / "t.txt")
    assert not (tmp_path / "t.txt").exists()
    with pytest.raises(SourceError, match=r"no topic /nowhere; it holds /aliked_frontend/features"):
        RecordingReader(path, ["/nowhere"])
    with pytest.raises(SourceError, match="does not exist"):
        RecordingReader(tmp_path / "nowhere.mcap")
    (tmp_path / "broken.mcap").write_bytes(path.read_bytes()[:2000])
    with pytest.raises(SourceError, match=r"broken\.mcap: it has no complete chunk"):
        RecordingReader(tmp_path / "broken.mcap")


def test_of_several_topics_one_is_named(tmp_path):
    image = image_message(np.zeros((HEIGHT, WIDTH), np.uint8), Header())
    right = image_message(np.ones((HEIGHT, WIDTH), np.uint8), Header())
    results = Scene(model_of("PINHOLE"), 2).results()
    path = record(tmp_path / "run.mcap", results, ("/image", image), ("/right/image", right))
    with pytest.raises(SourceError, match=r"/image, /right/image; select one with --topic"):
        export(path, tmp_path / "sfm")
    assert export(path, tmp_path / "sfm", topics=["/image"])["saved_images"] == 2


def test_damage_is_said(run, tmp_path):
    _, _, path = run
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 50] = b"\xff" * 50
    (tmp_path / "damaged.mcap").write_bytes(data)
    with pytest.raises(SourceError, match=r"damaged\.mcap is damaged"):
        export(tmp_path / "damaged.mcap", tmp_path / "sfm")
    assert not (tmp_path / "sfm").exists()


def test_a_folder_in_use_is_left_alone(run, tmp_path):
    (tmp_path / "precious").touch()
    with pytest.raises(OutputError, match="not empty"):
        export(run[2], tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]


def test_a_full_disk_leaves_nothing_behind(run, tmp_path):
    def small_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as on a full disk, writing fails
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    command = [
        sys.executable,
        "-m",
        "aliked_ros.cli",
        "export",
        str(run[2]),
        "--format",
        "colmap",
    ]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "sfm")],
        preexec_fn=small_disk, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"cannot write {tmp_path / 'sfm'}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_neither_ros_nor_aliked_msgs_is_needed(run, tmp_path):
    hide = "import sys; sys.modules.update(rclpy=None, aliked_msgs=None, sensor_msgs=None); "
    command = [sys.executable, "-c", f"{hide}import aliked_ros.cli.main as c; c.main()", "export"]
    options = [str(run[2]), "--format", "colmap", "--output", str(tmp_path / "sfm"), "--json"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verified_pairs"] == 66


@pytest.mark.long
def test_every_fifth_frame_of_fr1_xyz_registers(shared, tmp_path):
    """The whole way on real images: pipeline, recording, export, pycolmap's mapper."""
    folder = shared / "data" / "tum_fr1_xyz"
    calibration = json.loads((folder / "calib.json").read_text())
    camera = CameraModel.from_calibration(calibration)
    pipeline = Pipeline(FrontendConfig(max_keypoints=512))
    pipeline.camera = camera
    results = [pipeline.process(image) for image in open_source(str(folder))]
    pipeline.close()
    path = record(tmp_path / "run.mcap", results, ("/camera_info", camera_info(camera)))
    figures = export(path, tmp_path / "sfm", every=5)
    model = reconstruct(tmp_path / "sfm")
    names, centres = centres_of(model)
    truth = file_interface.read_tum_trajectory_file(folder / "groundtruth_tum.txt")
    estimate = trajectory([float(name.removesuffix(".png")) for name in names], centres)
    figures |= {
        "registered": model.num_reg_images(),
        "points": model.num_points3D(),
        "track_length": model.compute_mean_track_length(),
        "reprojection_error": model.compute_mean_reprojection_error(),
        "centre_error": aligned_error(truth, estimate),
    }
    print(figures)
    assert figures["images"] == 24
    assert figures["registered"] >= 0.95 * figures["images"]
    assert figures["reprojection_error"] < 1.0  # pixels
    assert figures["centre_error"] < 0.03  # metres, of a path of 1.3
