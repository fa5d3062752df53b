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

"""A backend that knows what other tasks have computed, and computes the rest.

The parts of a long recording are extracted and matched side by side. Then one task runs the front
end over all images in their order with this backend, which answers from the parts. So tracks,
epochs and keyframes are those of one run by construction; only what depends on the past, such as
images with a static mask, is computed here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from aliked_ros.backends.base import Backend, ForwardingBackend
from aliked_ros.fleet.tables import Known
from aliked_ros.types import Features, Matches


class RememberingBackend(ForwardingBackend):
    """Answers from ``recall``'s image what another backend would compute; see ``Backend``.

    used: how many answers were known.
    """

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self._before: Known | None = None
        self._now: Known | None = None
        self._fresh = False
        self.used = 0

    def recall(self, known: Known | None) -> None:
        """Set what is known of the next image."""
        self._before, self._now, self._fresh = self._now, known, known is not None

    def load_extractor(self, model: str) -> Any:
        """See ``Backend``."""
        return _Extractor(self, self._backend.load_extractor(model))

    def load_matcher(self) -> Any:
        """See ``Backend``."""
        return _Matcher(self, self._backend.load_matcher())

    def features(self, mask: Any) -> tuple[Any, Any, Any] | None:
        """The image's features, once; None if they are not known or a mask changes them."""
        fresh, self._fresh = self._fresh, False  # later images are right ones, or turned
        if not fresh or mask is not None or self._now is None:
            return None
        self.used += 1
        return self._now.features

    def matches(self, reference: Features, current: Features) -> Matches | None:
        """The matches of just these features; None if they are not known."""
        before, now = self._before, self._now
        if before is None or now is None or now.reference != before.image:
            return None
        if not (_are(reference, before) and _are(current, now)):
            return None  # another image's: a keyframe's, or features under a mask
        self.used += 1
        return now.matches


class _Extractor:
    users = 1

    def __init__(self, memory: RememberingBackend, network: Any) -> None:
        self._memory, self._network = memory, network

    def extract(self, pixels: Any, mask: Any, *settings: Any, **more: Any) -> Any:
        known = self._memory.features(mask)
        return self._network.extract(pixels, mask, *settings, **more) if known is None else known


class _Matcher:
    users = 1

    def __init__(self, memory: RememberingBackend, network: Any) -> None:
        self._memory, self._network = memory, network

    def match(self, reference: Features, current: Features, *settings: Any) -> Matches:
        known = self._memory.matches(reference, current)
        if known is not None:
            return known
        found: Matches = self._network.match(reference, current, *settings)
        return found


def _are(features: Features, known: Known) -> bool:
    keypoints, _, descriptors = known.features
    return np.array_equal(features.keypoints, keypoints) and np.array_equal(
        features.descriptors, descriptors
    )
