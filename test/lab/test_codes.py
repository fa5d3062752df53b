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

"""Binary descriptors on a drive: how far apart the views of a track and of two tracks are."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.codes import distances, encode
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.frontend.similarity import mutual_best, similarities
from aliked_ros.sources import open_source
from aliked_ros.types import FrameResult

GAPS = (1, 5, 10)  # images


@pytest.fixture(scope="module")
def drive(shared: Path) -> list[FrameResult]:
    pipeline = Pipeline(FrontendConfig())
    images = open_source(str(shared / "data" / "kitti_00_first40" / "image_0"))
    results = [pipeline.process(image) for _, image in zip(range(22), images, strict=False)]
    pipeline.close()
    return results


def pairs(drive: list[FrameResult], gap: int) -> list[tuple[FrameResult, FrameResult]]:
    return [(drive[i], drive[i + gap]) for i in range(0, len(drive) - gap, 3)]


@pytest.mark.long
def test_distances_of_one_track_and_of_two(drive):
    """Of one track nearly all are within 100 bits, and half within 50 at 5 images; of two, few."""
    medians = []
    for gap in GAPS:
        same, others = [], []
        for a, b in pairs(drive, gap):
            shared, rows, columns = np.intersect1d(a.tracks.ids, b.tracks.ids, return_indices=True)
            rows, columns = rows[shared > 0], columns[shared > 0]
            bits = distances(encode(a.features.descriptors), encode(b.features.descriptors))
            same.append(bits[rows, columns])
            of_others = np.ones(bits.shape, bool)
            of_others[rows, columns] = False
            others.append(bits[of_others])
        together, apart = np.concatenate(same), np.concatenate(others)
        medians.append(float(np.median(together)))
        assert np.percentile(apart, 1) >= 92
        assert (apart < 50).mean() < 1e-4
        assert (together < 100).mean() > 0.9
    assert medians == sorted(medians)
    assert medians[0] < 30
    assert medians[1] < 50
    assert medians[2] < 70


@pytest.mark.long
def test_codes_match_as_well_as_floats(drive):
    """Epipolar inliers of mutual nearest neighbours, ORB's 100 bits against a cosine of 0.5."""
    for gap in GAPS:
        found = {"codes": 0, "floats": 0}
        for a, b in pairs(drive, gap):
            one, two = a.features, b.features
            closeness = 256 - distances(encode(one.descriptors), encode(two.descriptors))
            matches = {
                "codes": mutual_best(closeness.astype(np.float32), 156),
                "floats": mutual_best(similarities(one.descriptors, two.descriptors), 0.5),
            }
            for name, (rows, columns) in matches.items():
                points = one.keypoints[rows], two.keypoints[columns]
                _, good = cv2.findFundamentalMat(*points, cv2.USAC_MAGSAC, 1.0)
                found[name] += int(good.sum())
        assert found["codes"] > 0.85 * found["floats"]
