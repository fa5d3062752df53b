"""The ORB front-end speaks the pipeline's language."""

from __future__ import annotations

import cv2
import numpy as np

from aliked_ros.configuration import FrontendConfig
from aliked_ros.evaluation.baselines import OrbFrontend
from aliked_ros.types import Image


def test_descriptors_are_unit_vectors_whose_cosine_is_the_hamming_distance(tum_images):
    pixels = tum_images(0)
    features = OrbFrontend(FrontendConfig(max_keypoints=300)).process(Image(pixels)).features
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    found, bits = cv2.ORB.create(nfeatures=300).detectAndCompute(grey, None)
    rows = np.argsort([-point.response for point in found], kind="stable")
    np.testing.assert_allclose(features.keypoints, [found[row].pt for row in rows])
    assert (np.diff(features.scores) <= 0).all()
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1.0, rtol=1e-6)
    distance = cv2.norm(bits[rows[0]], bits[rows[1]], cv2.NORM_HAMMING)
    cosine = features.descriptors[0] @ features.descriptors[1]
    np.testing.assert_allclose(cosine, 1 - distance / 128, atol=1e-6)


def test_tracks_depth_and_disparity(tum_images):
    orb = OrbFrontend(FrontendConfig(max_keypoints=500))
    pixels = tum_images(0)
    depth = np.full(pixels.shape[:2], 2.0, np.float32)
    right = np.roll(pixels, -10, axis=1)
    first = orb.process(Image(pixels, 0.0, right=right, depth=depth))
    second = orb.process(Image(tum_images(1), 0.1))
    assert np.isin(second.tracks.ids, first.tracks.ids).mean() > 0.4
    assert (first.depth == 2.0).all()
    disparity = first.features.keypoints[:, 0] - first.right_x
    assert abs(np.nanmedian(disparity) - 10.0) < 0.1
    assert (second.right_x, second.depth, second.normalized) == (None, None, None)


def test_an_image_that_shows_nothing_has_no_features(tum_images):
    orb = OrbFrontend(FrontendConfig())
    dark = np.zeros((480, 640), np.uint8)
    for pixels in (dark, dark, tum_images(0), dark):
        result = orb.process(Image(pixels, right=pixels))
    assert len(result.features) == len(result.tracks.ids) == len(result.right_x) == 0
    assert result.features.descriptors.shape == (0, 256)
