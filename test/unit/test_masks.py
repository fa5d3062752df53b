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

"""Masks: files, the border of rectification, and what is found to be fixed to the image."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from aliked_ros.camera import CameraModel, create_camera
from aliked_ros.errors import ImageError
from aliked_ros.frontend.extractor import Extractor, create_extractor
from aliked_ros.frontend.flow import structure_at
from aliked_ros.frontend.masks import StaticParts, combine, corners, rectified_border
from aliked_ros.frontend.matcher import NearestMatcher
from aliked_ros.io.images import grey
from aliked_ros.sources import open_source, read_mask
from aliked_ros.types import UInt8Array
from helpers.static import CONFIG, learn


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return create_extractor(CONFIG)


def test_mask_files(tmp_path: Path) -> None:
    grey = np.zeros((48, 64), np.uint8)
    grey[10:] = 7
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    np.testing.assert_array_equal(read_mask(tmp_path / "grey.png"), grey)
    colour = np.zeros((48, 64, 3), np.uint8)
    colour[:, 30:, 0] = 200  # blue is not black
    cv2.imwrite(str(tmp_path / "colour.png"), colour)
    np.testing.assert_array_equal(read_mask(tmp_path / "colour.png") > 0, colour.any(axis=2))
    (tmp_path / "text.png").write_text("no image")
    for name in ("text.png", "missing.png"):
        with pytest.raises(ImageError, match=name):
            read_mask(tmp_path / name)


def test_a_source_with_a_mask() -> None:
    mask = np.zeros((480, 640), np.uint8)
    source = open_source("virtual", limit=2, mask=mask)
    assert [image.mask is mask for image in source] == [True, True]
    assert (source.length, source.skipped) == (2, 0)
    with pytest.raises(ImageError, match="mask is 64×48 pixels, the image 640×480"):
        next(iter(open_source("virtual", limit=2, mask=mask[:48, :64])))


def test_combined_masks() -> None:
    left, top = np.full((2, 4, 6), 255, np.uint8)
    left[:, :2] = 0
    top[:1] = 0
    both = combine(left, None, top)
    assert both is not None
    np.testing.assert_array_equal(both > 0, (left > 0) & (top > 0))
    assert combine(None, None) is None
    assert combine(None, top) is top
    with pytest.raises(ImageError, match="6×4 pixels, another 6×3"):
        combine(left, top[:3])


@pytest.mark.parametrize("model", ["plumb_bob", "equidistant"])
def test_border_of_rectification(
    extractor: Extractor, tum_images: Callable[[int], UInt8Array], model: str
) -> None:
    """A real image, rectified to a wider view: nothing is found on the edge of the black."""
    matrix = np.array([[517.3, 0, 318.6], [0, 516.5, 255.3], [0, 0, 1]])
    lens = {"plumb_bob": [0.26, -0.95, -0.005, 0.003, 1.16], "equidistant": [0.1, -0.2, 0.1, 0.0]}
    raw = create_camera(640, 480, matrix, model, np.array(lens[model]))
    wider = matrix * np.array([[0.8], [0.8], [1.0]])
    rectified = create_camera(640, 480, wider, "plumb_bob", np.zeros(5))
    rotation = np.asarray(cv2.Rodrigues(np.radians([2.0, 3.0, 1.0]))[0], np.float64)
    undistort = cv2.fisheye if model == "equidistant" else cv2
    maps = undistort.initUndistortRectifyMap(
        raw.matrix, raw.distortion, rotation, wider, (640, 480), cv2.CV_32FC1
    )
    pixels, seen = (
        np.asarray(cv2.remap(p, *maps, cv2.INTER_LINEAR), np.uint8)
        for p in (tum_images(3), np.full((480, 640), 255, np.uint8))
    )
    mask = rectified_border(rectified, rotation, raw)
    assert mask.dtype == np.uint8
    assert 0.1 < (mask == 0).mean() < 0.6
    assert (seen[mask > 0] == 255).all(), "all that is left is image"
    lost = (mask == 0) & (seen == 255)
    assert lost.mean() < 0.05, "little more than the black goes"
    from_the_black = cv2.distanceTransform((seen > 0).astype(np.uint8), cv2.DIST_L2, 5)

    def on_the_edge(mask: UInt8Array | None) -> int:
        column, row = np.rint(extractor.extract(pixels, mask).keypoints).astype(int).T
        return int((from_the_black[row, column] < 3).sum())

    assert on_the_edge(None) > 30
    assert on_the_edge(mask) == 0


def test_no_border_without_distortion(shared: Path) -> None:
    calibration = json.loads((shared / "data" / "kitti_00_first40" / "calib.json").read_text())
    camera = CameraModel.from_calibration(calibration)
    assert (rectified_border(camera, np.eye(3), camera) == 255).all()


def square() -> UInt8Array:
    """A bright square on dark ground: corners at (200, 120) and (440, 360), edges between."""
    pixels = np.full((480, 640), 60, np.uint8)
    pixels[120:360, 200:440] = 200
    return pixels


def test_edges_are_left_out_where_there_is_room_at_corners() -> None:
    mask = corners(square(), None, 5)
    assert (mask[[120, 120, 360, 360], [200, 440, 200, 440]] == 255).all()
    assert (mask[[120, 240, 360, 240, 30], [320, 200, 320, 440, 30]] == 0).all()


@pytest.mark.parametrize("count", [200, 1000, 4000])
def test_edges_make_up_for_corners_that_are_few(count: int) -> None:
    noisy = square() + np.random.default_rng(0).integers(0, 3, (480, 640), np.uint8)
    assert (corners(noisy, None, count) != 0).mean() == pytest.approx(
        count * 64 / noisy.size, rel=0.05
    )


def test_nothing_is_left_out_where_all_is_alike_or_wanted() -> None:
    assert (corners(np.zeros((480, 640), np.uint8), None, 500) == 255).all()
    ramp = np.add.outer(np.arange(480), np.arange(640)) // 5
    assert (corners(ramp.astype(np.uint8), None, 8192) == 255).all()


def test_corners_that_are_masked_give_no_room() -> None:
    given = np.full((480, 640), 255, np.uint8)
    given[:, :320] = 0
    mask = corners(square(), given, 5)
    assert not mask[:, :320].any()
    assert mask[120, 440] == mask[360, 440] == 255
    given[:] = 0
    assert not corners(square(), given, 5).any()


def test_keypoints_stay_away_from_edges(shared: Path, extractor: Extractor) -> None:
    pixels = next(iter(open_source(str(shared / "data/tum_fr1_xyz"), 1))).pixels
    lowest, counts = [], []
    for edge_points in ("keep", "thin"):
        extractor.reconfigure(replace(CONFIG, edge_points=edge_points))
        features = extractor.extract(pixels)
        counts.append(len(features))
        weakest = np.linalg.eigvalsh(structure_at(grey(pixels), features.keypoints))[:, 0]
        lowest.append(np.quantile(weakest, 0.05))
    extractor.reconfigure(CONFIG)
    assert counts == [CONFIG.max_keypoints] * 2  # others take the places
    assert lowest[1] > 1.5 * lowest[0]


def watermarked(pixels: UInt8Array) -> UInt8Array:
    marked = pixels.copy()
    cv2.putText(marked, "SAMPLE 0042", (380, 455), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (255,) * 3, 3,
                cv2.LINE_AA)  # fmt: skip
    return marked


@pytest.mark.long
def test_a_watermark_is_found(
    extractor: Extractor, tum_images: Callable[[int], UInt8Array]
) -> None:
    """Within 30 images; fixed features are rare after it, nothing else is masked."""
    *_, static = learn(extractor, (watermarked(tum_images(i)) for i in range(30)))
    mask = static.mask(640, 480)
    assert mask is not None
    print(f"masked after 30 images: {static.share:.2%}")
    assert 0.005 < static.share < 0.03
    assert static.share == pytest.approx((mask == 0).mean())
    around = np.zeros((480, 640), bool)
    around[400:480, 352:640] = True
    assert not (mask[~around] == 0).any()

    def on_the_text(mask: UInt8Array | None) -> int:
        first, second = (extractor.extract(watermarked(tum_images(i)), mask) for i in (30, 31))
        rows = NearestMatcher(CONFIG).match(first, second)
        before = first.keypoints[rows.reference_indices]
        still = np.linalg.norm(second.keypoints[rows.current_indices] - before, axis=1) < 0.5
        column, row = before.astype(int).T
        return int((still & around[row, column]).sum())

    unmasked, masked = on_the_text(None), on_the_text(mask)
    print(f"fixed matches on the text: {unmasked} without the mask, {masked} with it")
    assert masked < 0.5 * unmasked
    assert static.mask(320, 240) is None


def moved(static: StaticParts, shift: float, images: int, fixed: bool = True) -> None:
    """Feed points that all move, and (unless ``fixed`` is false) ten in one cell that do not."""
    rng = np.random.default_rng(0)
    for _ in range(images):
        before = rng.uniform(50, 400, (100, 2)).astype(np.float32)
        after = before + np.float32(shift)
        watermark = rng.uniform(450, 460, (10, 2)).astype(np.float32)
        jitter = rng.normal(0, 0.1, (10, 2)).astype(np.float32)
        if fixed:
            before, after = np.vstack([before, watermark]), np.vstack([after, watermark + jitter])
        static.update(before, after, 640, 480)


def test_standing_still_teaches_nothing() -> None:
    static = StaticParts()
    moved(static, 0.1, 200)
    assert static.share == 0.0
    assert static.mask(640, 480) is None


def test_what_passes_a_standing_camera_does_not_mask_the_background() -> None:
    """A lorry has most of the matches, the background behind it the rest."""
    static, rng = StaticParts(), np.random.default_rng(0)
    for _ in range(50):
        before = rng.uniform(20, 460, (100, 2)).astype(np.float32)
        after = before + rng.normal(0, 0.1, (100, 2)).astype(np.float32)
        after[:60] += np.float32([6.0, 0.0])
        static.update(before, after, 640, 480)
    assert static.share == 0.0


def test_what_moves_again_or_is_gone_is_let_through() -> None:
    static = StaticParts()
    moved(static, 5.0, 10)
    mask = static.mask(640, 480)
    assert mask is not None
    assert mask.shape == (480, 640)
    assert mask[455, 455] == 0
    known = static.share
    moved(static, 0.1, 1000)  # waiting
    assert static.share == known
    moved(static, 5.0, 300, fixed=False)  # masked, so that nothing is seen there
    assert static.share == 0.0

    moved(static, 5.0, 10)
    for _ in range(20):
        points = np.full((40, 2), 455.0, np.float32)
        static.update(points, points + np.float32(4.0), 640, 480)
    assert static.share == 0.0


def test_another_size_begins_anew() -> None:
    static = StaticParts()
    moved(static, 5.0, 10)
    static.update(np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32), 752, 480)
    assert static.mask(752, 480) is None
    assert static.share == 0.0
