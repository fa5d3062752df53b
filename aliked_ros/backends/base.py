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

"""What every inference backend offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aliked_ros.configuration import FrontendConfig
from aliked_ros.types import Features, Float32Array, Matches, UInt8Array


class FeatureNetwork(Protocol):
    """ALIKED on some device.

    users: how many cameras it serves, in turn; it keeps what each of them needs.
    """

    users: int

    def extract(
        self,
        pixels: UInt8Array,
        mask: UInt8Array | None,
        top_k: int,
        threshold: float,
        grid: int,
        reference: Features | None = None,
    ) -> tuple[Float32Array, Float32Array, Float32Array]:
        """Keypoints N×2 (pixels), scores N and descriptors N×D of an image H×W or H×W×3 (RGB).

        At most ``top_k`` maxima of the score map above ``threshold``, highest first; none where
        ``mask`` (H×W) is 0. grid: cells along the longer side over which they are spread; 0 = not.
        reference: features that LightGlue will match these with next; it may begin at once.
        """
        ...


class MatchNetwork(Protocol):
    """LightGlue on some device.

    users: see ``FeatureNetwork``.
    """

    users: int

    def match(
        self,
        reference: Features,
        current: Features,
        match_threshold: float,
        depth_confidence: float,
        width_confidence: float,
    ) -> Matches:
        """Mutual matches of probability above ``match_threshold``; see FrontendConfig.

        Both images have at least one keypoint.
        """
        ...


class Backend(Protocol):
    """Networks on one kind of device.

    description: for people: what runs, in which precision, on what.
    identity: name, runtime and precision, why it was chosen (``reason``), TensorRT's ``engine``,
        for status messages and recordings.
    """

    @property
    def description(self) -> str: ...

    @property
    def identity(self) -> dict[str, str]: ...

    def load_extractor(self, model: str) -> FeatureNetwork:
        """Load an ALIKED variant; raises WeightsError or ModelError."""
        ...

    def load_matcher(self) -> MatchNetwork:
        """Load LightGlue; raises WeightsError or ModelError."""
        ...

    def release(self) -> None:
        """Give a GPU's memory back for a while; the next call takes it again."""
        ...

    def close(self) -> None:
        """Release threads and memory."""
        ...


class ForwardingBackend:
    """What a backend that stands before another one leaves to it; see ``Backend``."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def description(self) -> str:
        """See ``Backend``."""
        return self._backend.description

    @property
    def identity(self) -> dict[str, str]:
        """See ``Backend``."""
        return self._backend.identity

    def release(self) -> None:
        """See ``Backend``."""
        self._backend.release()

    def close(self) -> None:
        """See ``Backend``."""
        self._backend.close()


Tell = Callable[[str], None]
"""Gets a line on each slow step; what it raises ends the step."""

OpenBackend = Callable[[FrontendConfig, Tell | None], Backend]
