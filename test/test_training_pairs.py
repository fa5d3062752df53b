"""Training pairs: their correspondences are true, and the same each time."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs requirements/export.txt")

import torch

from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import SourceError
from aliked_ros.evaluation.methods import open_methods
from aliked_ros.training.pairs import (
    FULL_ROTATION,
    Distortions,
    HomographyPairs,
    Pair,
    draw_homography,
    read_depth_pairs,
    read_images,
)
from aliked_ros.training.warps import DepthWarp

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
    images = [tum_images(0), tum_images(10)[..., 0]]  # a grey one among them
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
        homography = draw_homography(rng, 320, 240, FULL_ROTATION)
        x, y = cv2.perspectiveTransform(np.array([[[159.5, 119.5], [160.5, 119.5]]]), homography)[
            0
        ].T
        angles.append(np.degrees(np.arctan2(y[1] - y[0], x[1] - x[0])))
    counts, _ = np.histogram(angles, bins=8, range=(-180, 180))
    assert counts.min() > 10


def test_depth_maps_what_the_images_show(shared):
    """By matches that know nothing of depth, and both ways."""
    source = str(shared / "data/tum_fr1_xyz")
    pairs = read_depth_pairs(
        source, (320, 240), SAME_LIGHT, seed=0, length=8, largest_gap=5, first=0, count=12
    )
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
        depths[0], depths[1], matrix, torch.eye(3), torch.tensor([-baseline, 0.0, 0.0])
    )
    pair = Pair("teddy", *map(_tensor, map(np.ascontiguousarray, views)), warp, warp)
    error, visible = _matched(pair, 150)
    assert error < 0.5
    assert visible > 0.8


def test_what_cannot_be_trained_on_is_said(shared, tmp_path, tum_images):
    with pytest.raises(SourceError, match="no images"):
        HomographyPairs([], (64, 64), Distortions(), 0)
    with pytest.raises(SourceError, match=r"realsense_desk.*depth"):
        read_depth_pairs(str(shared / "data/realsense_desk/rgb"), (64, 48), SAME_LIGHT, 0)
    with pytest.raises(SourceError, match="at least two"):
        read_depth_pairs(str(shared / "data/tum_fr1_xyz"), (64, 48), SAME_LIGHT, 0, count=1)
    with pytest.raises(SourceError, match="no image from number 500"):
        read_images(str(shared / "data/tum_fr1_xyz"), first=500)
    rgb = sorted((shared / "data/tum_fr1_xyz/rgb").iterdir())
    shutil.copyfile(rgb[0], tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(rgb[1].read_bytes()[:5000])
    images = read_images(str(tmp_path))
    assert len(images) == 1  # one is enough for homographies; the broken one is left out
    assert len(HomographyPairs(images, (64, 48), Distortions(), 0, length=10)) == 10
