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

"""Training pairs: their correspondences are true, and the same each time."""

from __future__ import annotations

import pickle
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="make setup GROUP=test")
pytest.importorskip("h5py", reason="make setup GROUP=test")

import h5py
import torch
from rosbags.rosbag2 import StoragePlugin
from scipy.spatial.transform import Rotation

from aliked_ros.camera import CameraModel
from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import SourceError
from aliked_ros.evaluation.methods import open_methods
from aliked_ros.evaluation.poses import true_poses
from aliked_ros.sources import open_source
from aliked_ros.training.distortions import Distortions, draw_homography
from aliked_ros.training.frames import read_frames, scene_overlaps
from aliked_ros.training.pairs import HomographyPairs, Pair, open_pairs
from aliked_ros.training.settings import Data
from aliked_ros.training.warps import DepthWarp
from helpers import bags

pytestmark = pytest.mark.usefixtures("training_cache")
SAME_LIGHT = Distortions(brightness=0.0, contrast=1.0, gamma=1.0, noise=0.0, blur=0.0)


def _pixels(image: torch.Tensor) -> np.ndarray:
    return np.asarray(image.permute(1, 2, 0).numpy() * 255 + 0.5, np.uint8)


def _tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def _matched(pair, count: int) -> tuple[float, float]:
    """Median error in pixels of ORB's matches by the pair's own warp, share of the visible."""
    with open_methods(["sift"], FrontendConfig(max_keypoints=600, matcher="nearest")) as (sift,):
        first, second = (sift.view(_pixels(image)) for image in (pair.first, pair.second))
        found = sift.match(first, second)
    assert len(found) > count
    there, visible = pair.first_to_second(torch.from_numpy(found.first).double())
    errors = np.linalg.norm(there.numpy() - found.second, axis=1)[visible.numpy()]
    return float(np.median(errors)), float(visible.float().mean())


def test_homographies_map_what_the_images_show(tum_images):
    pairs = HomographyPairs([tum_images(0)], (400, 300), Distortions(), seed=1, length=6)
    for index in range(6):
        error, visible = _matched(pairs[index], 40)
        assert error < 1.0
        assert visible > 0.9
    there, visible = pairs[0].first_to_second(torch.tensor([[200.0, 150.0]], dtype=torch.float64))
    back, _ = pairs[0].second_to_first(there)
    assert visible.all()
    torch.testing.assert_close(back, torch.tensor([[200.0, 150.0]], dtype=torch.float64))


def test_a_pair_is_the_same_each_time_and_others_are_others(tum_images):
    images = [tum_images(0), tum_images(10)]
    one, two = (HomographyPairs(images, (160, 120), Distortions(), seed=5) for _ in range(2))
    for index in (1, 0):
        assert torch.equal(one[index].first, two[index].first)
        assert torch.equal(one[index].second, two[index].second)
    assert one[1].second.shape == (3, 120, 160)
    other = HomographyPairs(images, (160, 120), Distortions(), seed=6)
    assert not torch.equal(one[0].second, other[0].second)


def test_full_rotation_turns_all_the_way_and_keeps_enough_in_sight():
    rng = np.random.default_rng(0)
    angles = []
    for _ in range(300):
        homography = draw_homography(rng, 320, 240, Distortions(rotation=180.0))
        x, y = cv2.perspectiveTransform(np.array([[[159.5, 119.5], [160.5, 119.5]]]), homography)[
            0
        ].T
        angles.append(np.degrees(np.arctan2(y[1] - y[0], x[1] - x[0])))
    counts, _ = np.histogram(angles, bins=8, range=(-180, 180))
    assert counts.min() > 10


def test_distortions_grow_with_the_pairs(tum_images):
    """The first pairs are hardly turned, later ones all the way."""
    pairs = HomographyPairs(
        [tum_images(0)], (160, 120), Distortions(rotation=180.0), 3, 40, growing=40
    )
    centre = torch.tensor([[79.5, 59.5], [89.5, 59.5]], dtype=torch.float64)
    turns = []
    for index in range(40):
        (x0, y0), (x1, y1) = pairs[index].first_to_second(centre)[0]
        turns.append(abs(float(torch.rad2deg(torch.atan2(y1 - y0, x1 - x0)))))
    assert max(turns[:4]) < 20.0
    assert max(turns[30:]) > 90.0
    small = Distortions(rotation=180.0).grown(0.01)
    assert (small.rotation, small.noise) == pytest.approx((1.8, 0.0003))
    assert small.scale == pytest.approx(1.5**0.01)


def test_depth_maps_what_the_images_show(shared):
    """By matches that know nothing of depth, and both ways."""
    data = Data(
        str(shared / "data/tum_fr1_xyz"), "depth", count=12, largest_gap=5, distortions=SAME_LIGHT
    )
    pairs = open_pairs(data, (320, 240), 8, 0)
    errors = []
    for index in range(4):
        error, visible = _matched(pairs[index], 60)
        errors.append(error)
        assert visible > 0.4  # the sensor gives no depth at edges and far away
    # the motion capture's own error is 3 px over 10 images of 640×480 (docs/evaluation.md)
    assert np.median(errors) < 2.5
    pair = pairs[0]
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.uniform((20, 20), (300, 220), (500, 2)))
    there, visible = pair.first_to_second(points)
    back, again = pair.second_to_first(there)
    returned = (back - points).norm(dim=1)[visible & again]
    assert len(returned) > 150
    assert returned.median() < 0.5


def test_a_depth_warp_is_as_exact_as_the_depth(shared):
    """Middlebury's teddy: laser-exact disparities, left to right is a shift along the row."""
    folder = shared / "data/middlebury/teddy"
    views = [cv2.imread(str(folder / name))[..., ::-1] for name in ("im2.png", "im6.png")]
    disparities = [
        cv2.imread(str(folder / name), cv2.IMREAD_GRAYSCALE).astype(np.float64) / 4.0
        for name in ("disp2.png", "disp6.png")
    ]
    focal, baseline = 500.0, 0.1
    with np.errstate(divide="ignore"):
        depths = [torch.from_numpy(focal * baseline / d) for d in disparities]
    matrix = torch.tensor([[focal, 0.0, 225.0], [0.0, focal, 187.0], [0.0, 0.0, 1.0]])
    warp = DepthWarp(
        depths[0], depths[1], matrix, matrix, torch.eye(3), torch.tensor([-baseline, 0.0, 0.0])
    )
    pair = Pair("teddy", *map(_tensor, map(np.ascontiguousarray, views)), warp, warp)
    error, visible = _matched(pair, 150)
    assert error < 0.5
    assert visible > 0.8


def _megadepth(root: Path, shared: Path, frames: int, objects: bool = True) -> Path:
    """A scene as D2-Net and LoFTR publish them, of frames of fr1_xyz; every other one is small."""
    source = str(shared / "data/tum_fr1_xyz")
    read = read_frames(Data(source, "depth", count=frames), (640, 480))
    images, depths = root / "Undistorted_SfM/0000/images", root / "phoenix/0000/dense0/depths"
    images.mkdir(parents=True)
    depths.mkdir(parents=True)
    scene: dict[str, list] = {"image_paths": [], "depth_paths": [], "intrinsics": [], "poses": []}
    for number in range(len(read)):
        frame = read[number]
        pixels, depth, matrix = frame.pixels, np.nan_to_num(frame.depth), frame.matrix.copy()
        matrix[:2, 2] += 0.5
        if number % 2:
            pixels = cv2.resize(pixels, (480, 360))
            depth = cv2.resize(depth, (480, 360), interpolation=cv2.INTER_NEAREST_EXACT)
            matrix[:2] *= 0.75
        cv2.imwrite(str(images / f"{number}.jpg"), pixels[..., ::-1])
        with h5py.File(depths / f"{number}.h5", "w") as file:
            file["depth"] = depth.astype(np.float32)
        scene["image_paths"].append(f"Undistorted_SfM/0000/images/{number}.jpg")
        scene["depth_paths"].append(f"phoenix/0000/dense0/depths/{number}.h5")
        scene["intrinsics"].append(matrix)
        pose, world = np.eye(4), frame.pose.inverse()
        pose[:3, :3], pose[:3, 3] = world.rotation, world.translation
        scene["poses"].append(pose)
    scene["image_paths"].append(None)  # as theirs, for images that are not in the model
    scene["depth_paths"].append(None)
    path = root / "scene_info/0000.npz"
    path.parent.mkdir()
    gaps = [(i, j) for i in range(frames) for j in range(i + 1, frames)]
    arrays = {
        "image_paths": np.array(scene["image_paths"], object),
        "depth_paths": np.array(scene["depth_paths"], object),
        "intrinsics": np.array(scene["intrinsics"]),
        "poses": np.array(scene["poses"]),
    }
    if objects:
        infos = np.empty(len(gaps), object)
        for row, (i, j) in enumerate(gaps):
            infos[row] = ((i, j), np.float64(1.0 / (j - i + 1)), np.zeros((2, 4)))
        arrays["pair_infos"] = infos
    else:
        table = np.full((frames + 1, frames + 1), -1.0)
        for i, j in gaps:
            table[i, j] = table[j, i] = 1.0 / (j - i + 1)
        arrays["overlap_matrix"] = table
    np.savez(path, **arrays)
    return path


def test_megadepth_maps_what_the_images_show(shared, tmp_path, caplog):
    """In LoFTR's form and D2-Net's; images of two sizes, a broken image, a file without metres."""
    path = _megadepth(tmp_path / "a", shared, 8)
    (tmp_path / "a/Undistorted_SfM/0000/images/6.jpg").write_bytes(b"no picture")
    with h5py.File(tmp_path / "a/phoenix/0000/dense0/depths/7.h5", "a") as file:
        file["depth"][...] = -1.0
    data = Data(str(path), "megadepth", overlap=(0.2, 0.4), distortions=SAME_LIGHT)
    pairs = open_pairs(data, (320, 240), 6, 0)
    assert "6.jpg" in caplog.text
    assert "2 images of" in caplog.text
    seen, errors = set(), []
    for index in range(6):
        error, visible = _matched(pairs[index], 60)
        errors.append(error)
        assert visible > 0.4
        seen |= set(pairs[index].name.replace(".jpg", "").split()) & set("01234567")
    assert np.median(errors) < 1.5
    assert {int(n) % 2 for n in seen} == {0, 1}
    assert not seen & {"6", "7"}
    other = _megadepth(tmp_path / "b", shared, 4, objects=False)
    assert len(open_pairs(Data(str(other), "megadepth"), (320, 240), None, 0)) == 6
    with pytest.raises(SourceError, match="near enough"):
        open_pairs(Data(str(other), "megadepth", overlap=(0.6, 0.9)), (320, 240), None, 0)


def test_lists_of_older_numpy_are_read(tmp_path):
    """As of 2019: pickles of protocol 2, modules named numpy.core, numpy's own numbers in them."""
    infos = np.empty(1, object)
    infos[0] = ((np.int64(0), np.int64(1)), np.float64(0.3), np.zeros((2, 4)))
    data = pickle.dumps(infos, protocol=2).replace(b"numpy._core", b"numpy.core")
    assert b"numpy.core" in data
    assert b"_codecs" in data
    path = tmp_path / "0000.npz"
    np.savez(path, image_paths=np.array(["a"]), depth_paths=np.array(["a"]),
             intrinsics=np.zeros((1, 3, 3)), poses=np.zeros((1, 4, 4)))  # fmt: skip
    with zipfile.ZipFile(path, "a") as archive, archive.open("pair_infos.npy", "w") as file:
        head = {"descr": "|O", "fortran_order": False, "shape": (1,)}
        np.lib.format.write_array_header_1_0(file, head)
        file.write(data)
    np.testing.assert_allclose(scene_overlaps(str(path)), [[0, 1, 0.3]])


class _Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/aliked_ros_was_here"),))


def test_a_megadepth_list_cannot_run_code(tmp_path):
    path = tmp_path / "0000.npz"
    np.savez(path, image_paths=np.array([_Harmful()], object))
    with pytest.raises(SourceError, match="which is no array"):
        read_frames(Data(str(path), "megadepth"), (64, 64))
    np.savez(path, image_paths=np.zeros(1))
    with pytest.raises(SourceError, match=r"has no depth_paths, intrinsics, poses.*scene_info"):
        read_frames(Data(str(path), "megadepth"), (64, 64))
    path.write_bytes(b"x")
    with pytest.raises(SourceError, match=r"cannot read the MegaDepth scene .*0000\.npz"):
        read_frames(Data(str(path), "megadepth"), (64, 64))


def test_images_are_read_once(shared, tmp_path, tum_images, caplog):
    """From the cache the second time, anew when a file changes; large ones are scaled down."""
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), tum_images(number)[..., number % 2])
    told = []
    data = Data(str(tmp_path), distortions=Distortions(scale=1.5))
    frames = read_frames(data, (160, 120), lambda *what: told.append(what))
    assert told == [(tmp_path.name, done, 3) for done in (1, 2, 3)]
    assert [frames[place].pixels.shape for place in range(3)] == [(180, 240, 3)] * 3  # 1.5 × 160
    again = read_frames(data, (160, 120), lambda *what: told.append(what))
    assert len(told) == 3
    np.testing.assert_array_equal(again[2].pixels, frames[2].pixels)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:5000])
    rest = read_frames(data, (160, 120), lambda *what: told.append(what))
    assert (len(rest), rest.skipped, list(rest.numbers)) == (2, 1, [0, 1])
    (tmp_path / "runs").mkdir()
    for name in ("state.ckpt", "best.pth"):  # results of a training among the images
        (tmp_path / "runs" / name).write_bytes(b"")
    caplog.clear()
    again = read_frames(data, (160, 120), lambda *what: told.append(what))
    assert again.skipped == 1  # said again, though nothing is read
    assert "1 images of" in caplog.text
    assert len(told) == 5  # three images, then two
    with pytest.raises(SourceError, match="record it first"):
        read_frames(Data("camera:0"), (160, 120))


def test_poses_may_be_those_of_an_odometry(shared, tmp_path):
    """Every fifth image has one, as keyframes do; the others are left out."""
    folder = shared / "data/tum_fr1_xyz"
    stamps = [image.stamp for image in open_source(str(folder), 21)]
    lines = (folder / "groundtruth_tum.txt").read_text().splitlines()
    rows = np.array([line.split() for line in lines if line[:1] not in "#"], np.float64)
    chosen = [np.argmin(np.abs(rows[:, 0] - stamp)) for stamp in stamps[::5]]
    rows[chosen, 0] = stamps[::5]
    np.savetxt(tmp_path / "keyframes.txt", rows[chosen], fmt="%.7f")
    data = Data(str(folder), "depth", count=21, poses=str(tmp_path / "keyframes.txt"))
    frames = read_frames(data, (160, 120))
    assert list(frames.numbers) == [0, 5, 10, 15, 20]
    pairs = open_pairs(data, (160, 120), None, 0)
    assert len(pairs) == 7  # at most 10 images apart
    np.savetxt(tmp_path / "keyframes.txt", rows[chosen[:3]], fmt="%.7f")  # corrected, say
    assert list(read_frames(data, (160, 120)).numbers) == [0, 5, 10]
    with pytest.raises(SourceError, match=r"gone\.txt"):
        read_frames(replace(data, poses=str(tmp_path / "gone.txt")), (160, 120))


def test_a_recording_with_odometry_is_training_data(shared, tmp_path):
    """Images, depth, CameraInfo and Odometry of one bag, and the trajectory exported from it."""
    folder = str(shared / "data/tum_fr1_xyz")
    camera = CameraModel.from_calibration(open_source(folder).calibration)
    images = list(open_source(folder, 6, "depth"))
    entries: list[bags.Entry] = []
    for image, pose in zip(images, true_poses(folder, [i.stamp for i in images]), strict=True):
        depth = np.asarray(np.nan_to_num(image.depth) * 1000, np.uint16)
        for topic, message in (
            ("/eye/image", bags.image(image.pixels, image.nanoseconds, "rgb8")),
            ("/eye/depth", bags.image(depth, image.nanoseconds, "16UC1")),
            ("/eye/camera_info", bags.camera_info(
                image.nanoseconds, (640, 480), camera.matrix, camera.distortion)),
            ("/odometry", bags.odometry(
                image.nanoseconds, pose.translation, Rotation.from_matrix(pose.rotation))),
        ):  # fmt: skip
            entries.append((topic, image.nanoseconds, message))
    recording = bags.write(tmp_path / "run", entries, StoragePlugin.MCAP)
    command = [sys.executable, "-m", "aliked_ros.cli", "export", str(recording), "--format", "tum",
               "--output", str(tmp_path / "odometry.txt")]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    ours = read_frames(
        Data(str(recording), "depth", poses=str(tmp_path / "odometry.txt")), (320, 240)
    )
    theirs = read_frames(Data(folder, "depth", count=6), (320, 240))
    assert len(ours) == len(theirs) == 6
    for place in range(6):
        one, other = ours[place], theirs[place]
        np.testing.assert_array_equal(one.pixels, other.pixels)
        np.testing.assert_allclose(one.depth, other.depth, atol=1.1e-3)
        np.testing.assert_allclose(one.matrix, other.matrix)
        np.testing.assert_allclose(one.pose.translation, other.pose.translation, atol=1e-6)
        np.testing.assert_allclose(one.pose.rotation, other.pose.rotation, atol=1e-6)


def test_what_cannot_be_trained_on_is_said(shared):
    with pytest.raises(SourceError, match="no images"):
        HomographyPairs([], (64, 64), Distortions(), 0)
    fr1 = str(shared / "data/tum_fr1_xyz")
    for data, said in (
        (Data(str(shared / "data/realsense_desk/rgb"), "depth"), "realsense_desk.*depth"),
        (Data(fr1, "depth", count=1), "1 images of .* from number 0 on .* at least two"),
        (Data(fr1, first=500), "no image from number 500"),
        (Data(f"{fr1}/rgb/gone"), "does not exist"),
    ):
        with pytest.raises(SourceError, match=said):
            read_frames(data, (64, 48))
    one = Data(fr1, count=1)  # one image is enough for homographies
    assert len(open_pairs(one, (64, 48), 10, 0)) == 10
