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

"""The adaptive matcher over a sequence."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from aliked_ros.backends.base import create_backend
from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.extractor import Extractor
from aliked_ros.frontend.matcher import AdaptiveMatcher, LightGlueMatcher
from aliked_ros.frontend.verification import Verifier
from aliked_ros.types import Features, Matches, UInt8Array

CONFIG = FrontendConfig(max_keypoints=512, matcher="adaptive")


Images = Callable[[int], UInt8Array]


@pytest.fixture(scope="module")
def parts() -> tuple[Extractor, LightGlueMatcher]:
    backend = create_backend(CONFIG)
    return Extractor(CONFIG, backend), LightGlueMatcher(CONFIG, backend)


def _verified(reference: Features, current: Features, matches: Matches) -> int:
    inliers = Verifier(CONFIG).verify(reference, current, matches).inliers
    return 0 if inliers is None else int(inliers.sum())


@pytest.mark.long
def test_as_many_verified_matches_from_few_lightglue_images(
    parts: tuple[Extractor, LightGlueMatcher], tum_images: Images
) -> None:
    extractor, lightglue = parts
    adaptive = AdaptiveMatcher(CONFIG, lightglue)
    images = [extractor.extract(tum_images(i)) for i in range(60, 100)]  # the fastest part
    found = {"adaptive": 0, "lightglue": 0}
    used = []
    for before, now in pairwise(images):
        matches = adaptive.match(before, now)
        used.append(matches.matcher)
        found["adaptive"] += _verified(before, now, matches)
        found["lightglue"] += _verified(before, now, lightglue.match(before, now))
    assert used[0] == "lightglue", "nothing is known of the motion yet"
    assert used.count("lightglue") <= 0.2 * len(used)
    assert found["adaptive"] >= 0.97 * found["lightglue"]
