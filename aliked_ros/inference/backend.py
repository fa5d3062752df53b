"""The interface of every inference backend, and the choice among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from aliked_ros.types import Features, Float32Array, Matches, UInt8Array

if TYPE_CHECKING:
    from collections.abc import Callable

    from aliked_ros.configuration import FrontendConfig


class FeatureNetwork(Protocol):
    """ALIKED on some device."""

    def extract(
        self, pixels: UInt8Array, mask: UInt8Array | None, top_k: int, threshold: float, grid: int
    ) -> tuple[Float32Array, Float32Array, Float32Array]:
        """Keypoints N×2 (pixels), scores N and descriptors N×D of an image H×W or H×W×3 (RGB).

        At most ``top_k`` maxima of the score map above ``threshold``, highest first; none where
        ``mask`` (H×W) is 0. grid: cells along the longer side over which they are spread; 0 = not.
        """
        ...


class MatchNetwork(Protocol):
    """LightGlue on some device."""

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
    identity: name, runtime and precision, for status messages and recordings.
    """

    description: str
    identity: dict[str, str]

    def load_extractor(self, model: str) -> FeatureNetwork:
        """Load an ALIKED variant; raises WeightsError or ModelError."""
        ...

    def load_matcher(self) -> MatchNetwork:
        """Load LightGlue; raises WeightsError or ModelError."""
        ...

    def close(self) -> None:
        """Release threads and memory."""
        ...


def create_backend(
    config: FrontendConfig, progress: Callable[[str], None] | None = None
) -> Backend:
    """The backend that ``config.backend`` asks for; BackendError if it cannot run here."""
    if config.backend == "torch":
        from aliked_ros.inference.torch_backend import TorchBackend

        return TorchBackend(config)
    from aliked_ros.inference.cpu import CpuBackend

    return CpuBackend(config, progress)
