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

"""Data sets in their published layouts, rebuilt from the real images of the shared data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from aliked_ros.camera import CameraModel, create_camera
from aliked_ros.errors import SourceError
from aliked_ros.sources import open_source
from aliked_ros.sources.rectification import rectify
from aliked_ros.types import Image
from helpers.euroc import BASELINE, START, Rig, row_differences, write_euroc


@pytest.fixture(scope="module")
def kitti(shared: Path) -> Path:
    return shared / "data" / "kitti_00_first40"


@pytest.fixture
def kitti_tree(kitti: Path, tmp_path: Path) -> Path:
    """sequences/00 of the benchmark, six images."""
    folder = tmp_path / "dataset" / "sequences" / "00"
    for name in ("image_0", "image_1"):
        (folder / name).mkdir(parents=True)
        for index in range(6):
            file = f"{index:06d}.png"
            shutil.copy(kitti / name / file, folder / name / file)
    for name in ("times.txt", "calib.txt"):
        shutil.copy(kitti / name, folder / name)
    return folder


def same(ours: Image, theirs: Image) -> bool:
    return np.array_equal(ours.pixels, theirs.pixels) and ours.stamp == theirs.stamp


def test_kitti_odometry(kitti: Path, kitti_tree: Path) -> None:
    source = open_source(str(kitti_tree), partner="right")
    known = json.loads((kitti / "calib.json").read_text())
    assert (source.name, source.length) == ("kitti_00", 6)
    assert source.rate == pytest.approx(9.65, abs=0.05)
    calibration = source.calibration
    assert calibration is not None
    for name in ("width", "height", "fx", "fy", "cx", "cy", "stereo_baseline_m"):
        assert calibration[name] == pytest.approx(known[name])
    assert CameraModel.from_calibration(calibration).fits(1241, 376)
    times = [float(line) for line in (kitti / "times.txt").read_text().split()[:6]]
    frames = list(source)
    assert [frame.stamp for frame in frames] == times
    for index, frame in enumerate(frames):
        right = cv2.imread(str(kitti / "image_1" / f"{index:06d}.png"), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(frame.right, right)


def test_kitti_in_colour_and_with_holes(kitti_tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    for grey, colour in (("image_0", "image_2"), ("image_1", "image_3")):
        (kitti_tree / grey).rename(kitti_tree / colour)
    (kitti_tree / "image_2" / "000002.png").unlink()
    (kitti_tree / "image_3" / "000003.png").unlink()
    calibration = (kitti_tree / "calib.txt").read_text().replace("P0", "P2").replace("P1", "P3")
    (kitti_tree / "calib.txt").write_text(calibration)
    source = open_source(str(kitti_tree), partner="right")
    frames = list(source)
    assert [frame.right is None for frame in frames] == [False, False, True, False, False]
    assert [round(frame.stamp, 3) for frame in frames] == [0.0, 0.104, 0.311, 0.415, 0.518]
    assert source.skipped == 1
    assert "000002.png" in caplog.text
    assert source.calibration is not None
    assert source.calibration["stereo_baseline_m"] == pytest.approx(BASELINE)
    (kitti_tree / "times.txt").write_text("0.0\n0.1\n0.2\n")
    assert len(list(open_source(str(kitti_tree)))) == 2
    assert "lists 3 times for 6 images" in caplog.text
    (kitti_tree / "times.txt").unlink()
    assert open_source(str(kitti_tree)).rate == pytest.approx(10.0)


@pytest.fixture
def tum_tree(shared: Path, tmp_path: Path) -> Path:
    """rgbd_dataset_freiburg1_xyz as it is published: rgb.txt and depth.txt of eight images."""
    original = shared / "data" / "tum_fr1_xyz"
    folder = tmp_path / "rgbd_dataset_freiburg1_xyz"
    rows = [row.split() for row in (original / "associations.txt").read_text().splitlines()][:8]
    for name, time, file in (("rgb", 0, 1), ("depth", 2, 3)):
        (folder / name).mkdir(parents=True)
        entries = sorted({(row[time], row[file]) for row in rows})
        header = f"# color images\n# file: 'fr1_xyz.bag'\n# timestamp filename ({name})\n"
        (folder / f"{name}.txt").write_text(header + "".join(f"{a} {b}\n" for a, b in entries))
        for _, path in entries:
            shutil.copy(original / path, folder / path)
    return folder


def test_tum_rgbd(shared: Path, tum_tree: Path) -> None:
    source = open_source(str(tum_tree), partner="depth")
    known = open_source(str(shared / "data" / "tum_fr1_xyz"), 8, partner="depth")
    for ours, theirs in zip(source, known, strict=True):
        assert same(ours, theirs)
        np.testing.assert_array_equal(ours.depth, theirs.depth)
    assert known.calibration is not None
    assert source.calibration is not None
    ours, theirs = map(CameraModel.from_calibration, (source.calibration, known.calibration))
    np.testing.assert_allclose(ours.matrix, theirs.matrix, atol=0.05)
    np.testing.assert_allclose(ours.distortion, theirs.distortion, atol=1e-3)
    assert source.rate == pytest.approx(30, abs=2)
    assert all(frame.depth is None for frame in open_source(str(tum_tree)))


def test_tum_rgbd_with_holes(tum_tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    depth = [line for line in (tum_tree / "depth.txt").read_text().splitlines() if "#" not in line]
    (tum_tree / depth[-1].split()[1]).unlink()
    (tum_tree / "depth.txt").write_text("\n".join(depth[3:]))
    frames = list(open_source(str(tum_tree), partner="depth"))
    alone = [frame.depth is None for frame in frames]
    assert len(frames) == 8
    assert alone[0]  # no depth within 20 ms
    assert alone[-1]  # its file is missing
    assert not all(alone)
    assert "comes alone" in caplog.text
    other = tum_tree.rename(tum_tree.with_name("my_sequence"))
    assert open_source(str(other)).calibration is None
    (other / "calib.json").write_text('{"fx": 1.0}')
    assert open_source(str(other)).calibration == {"fx": 1.0}
    (other / "rgb.txt").write_text("1305031102.175304 rgb/a.png\n1305031102.2\n")
    with pytest.raises(SourceError, match=r"rgb\.txt, line 2: expected 'stamp file'"):
        open_source(str(other))


@pytest.fixture(scope="module")
def euroc_tree(kitti: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_euroc(kitti, tmp_path_factory.mktemp("MH_01_easy"))


def test_euroc_is_raw_and_exact(euroc_tree: Path) -> None:
    for spec in (euroc_tree, euroc_tree / "mav0", euroc_tree / "mav0" / "cam0"):
        source = open_source(str(spec))
        assert source.length == 3
        assert source.calibration is not None
        camera = CameraModel.from_calibration(source.calibration)
        np.testing.assert_array_equal(camera.matrix, Rig.raw)
        np.testing.assert_array_equal(camera.distortion, Rig.distortion)
        frames = list(source)
        assert [f.nanoseconds for f in frames] == [START + i * 50_000_000 for i in range(3)]
    stored = cv2.imread(str(euroc_tree / "mav0" / "cam0" / "data" / f"{START}.png"), 0)
    np.testing.assert_array_equal(frames[0].pixels, stored)
    assert source.rate == pytest.approx(20.0)


def test_euroc_pairs_are_rectified(kitti: Path, euroc_tree: Path) -> None:
    rectified = [cv2.imread(str(kitti / f"image_{camera}" / "000000.png"), 0) for camera in (0, 1)]
    within_a_row = np.mean(np.abs(row_differences(*rectified)) < 1.0)  # the others are mismatched
    source = open_source(str(euroc_tree), partner="right")
    frames = list(source)
    assert [frame.right is None for frame in frames] == [False, False, True]
    raw = [
        cv2.imread(str(euroc_tree / "mav0" / camera / "data" / f"{START}.png"), 0)
        for camera in ("cam0", "cam1")
    ]
    assert np.median(np.abs(row_differences(*raw))) > 5.0
    for frame in frames[:2]:
        assert frame.right is not None
        differences = row_differences(frame.pixels, frame.right)
        assert abs(np.median(differences)) < 0.4  # KITTI's own pairs: 0.2
        assert np.median(np.abs(differences)) < 0.5  # both were resampled twice
        assert np.mean(np.abs(differences) < 1.0) > within_a_row - 0.1
    assert source.calibration is not None
    assert source.calibration["stereo_baseline_m"] == pytest.approx(BASELINE, abs=1e-6)
    assert CameraModel.from_calibration(source.calibration).fits(1241, 376)


def test_wide_lenses_are_rectified() -> None:
    """TUM-VI has EuRoC's layout and equidistant lenses: projected points land in one row."""
    matrix = np.array([[190.0, 0.0, 254.0], [0.0, 190.0, 256.0], [0.0, 0.0, 1.0]])
    lens = create_camera(512, 512, matrix, "equidistant", np.array([0.0034, 0.0007, -0.002, 0.0]))
    right_from_left = np.eye(4)
    right_from_left[:3, :3] = cv2.Rodrigues(np.array([0.01, 0.03, -0.02]))[0]
    right_from_left[:3, 3] = (-0.1, 0.002, 0.001)
    rectification = rectify(lens, lens, right_from_left)
    assert rectification.calibration["fx"] == pytest.approx(190.0)
    point = np.array([0.2, -0.15, 1.0])  # metres, in the left camera
    images = []
    for where in (point, right_from_left[:3, :3] @ point + right_from_left[:3, 3]):
        x, y = lens.project(np.array([where[:2] / where[2]], np.float32))[0]
        grid = np.moveaxis(np.mgrid[:512, :512], 0, -1) - (y, x)
        blob = 255 * np.exp(-(grid**2).sum(-1) / 18)
        images.append(blob.astype(np.uint8))
    pair = rectification(Image(images[0], right=images[1]))
    assert pair.right is not None
    (x0, y0), (x1, y1) = (
        (m["m10"] / m["m00"], m["m01"] / m["m00"])
        for m in (cv2.moments(one) for one in (pair.pixels, pair.right))
    )
    assert y0 == pytest.approx(y1, abs=0.1)
    # at this depth, in the left camera before and after it was turned: fx · baseline / z
    assert x0 - x1 == pytest.approx(190 * np.linalg.norm(right_from_left[:3, 3]) / 1.0, rel=0.05)


def test_euroc_pairs_need_both_calibrations(euroc_tree: Path, tmp_path: Path) -> None:
    tree = Path(shutil.copytree(euroc_tree, tmp_path / "euroc"))
    sensor = tree / "mav0" / "cam1" / "sensor.yaml"
    text = sensor.read_text()
    sensor.write_text(text.replace("T_BS", "T_SB"))
    with pytest.raises(SourceError, match=r"cam1/sensor\.yaml is not.*T_BS"):
        open_source(str(tree), partner="right")
    sensor.write_text(text.replace("[1241, 376]", "[752, 480]"))
    with pytest.raises(SourceError, match="cannot be rectified: the left images have 1241×376"):
        open_source(str(tree), partner="right")
    (tree / "mav0" / "cam0" / "sensor.yaml").rename(sensor)  # both look the same way
    sensor.unlink()
    with pytest.raises(SourceError, match=r"not rectified; rectification needs the sensor\.yaml"):
        open_source(str(tree), partner="right")
    assert open_source(str(tree)).calibration is None
    table = tree / "mav0" / "cam0" / "data.csv"
    table.write_text(table.read_text() + "soon,soon.png\n")
    with pytest.raises(SourceError, match="'soon' is no time in whole nanoseconds"):
        open_source(str(tree))


@pytest.mark.parametrize(
    ("tree", "partner"), [("kitti_tree", "depth"), ("tum_tree", "right"), ("euroc_tree", "depth")]
)
def test_what_a_data_set_does_not_have(
    request: pytest.FixtureRequest, tree: str, partner: str
) -> None:
    with pytest.raises(SourceError, match=f"has no {partner} images"):
        open_source(str(request.getfixturevalue(tree)), partner=partner)


def test_the_folder_above_names_what_is_in_it(kitti_tree: Path) -> None:
    with pytest.raises(SourceError, match=r"not a source .*sequences/00\. Name one"):
        open_source(str(kitti_tree.parents[1]))


def test_images_named_after_their_times_are_not_counted_up_to(kitti_tree: Path) -> None:
    folder = kitti_tree.with_name("times") / "image_0"
    folder.mkdir(parents=True)
    first = next((kitti_tree / "image_0").iterdir())
    (folder / f"1403636579763555584{first.suffix}").write_bytes(first.read_bytes())
    with pytest.raises(SourceError, match="give that folder itself"):
        open_source(str(folder.parent))
    assert open_source(str(folder)).length == 1


def test_an_unknown_layout_is_told_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(SourceError, match=r"no images.*TUM RGB-D.*KITTI.*EuRoC.*\.mcap.*video"):
        open_source(str(tmp_path))
