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

"""Settings of the front-end: one data class, checked once, shared by node, CLI and benchmark."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from aliked_ros.errors import ConfigurationError

MODELS = ("aliked-t16", "aliked-n16", "aliked-n16rot", "aliked-n32")
BACKENDS = ("auto", "tensorrt", "cpu", "torch")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
MATCHERS = ("lightglue", "nearest", "adaptive")
VERIFICATIONS = ("fundamental", "essential", "homography", "none")

_CHOICES = {
    "model": MODELS,
    "backend": BACKENDS,
    "precision": PRECISIONS,
    "matcher": MATCHERS,
    "verification": VERIFICATIONS,
}
_RANGES = {
    "workspace": (16, 65536),
    "max_keypoints": (1, 8192),
    "score_threshold": (0.0, 1.0),
    "match_threshold": (0.0, 1.0),
    "depth_confidence": (-1.0, 1.0),
    "width_confidence": (-1.0, 1.0),
    "min_similarity": (0.0, 1.0),
    "inlier_threshold": (0.1, 20.0),
    "grid": (0, 64),
    "keyframe_tracked": (0.0, 1.0),
    "keyframe_parallax": (0.0, 1000.0),
    "keyframe_interval": (0.0, 3600.0),
    "keyframe_count": (1, 100),
    "epipolar_band": (0.5, 20.0),
    "max_disparity": (1.0, 2048.0),
    "threads": (0, 256),
}


@dataclass(frozen=True, slots=True)
class FrontendConfig:
    """Settings of extractor, matcher and backend.

    model: name of the ALIKED network, or path of a checkpoint (``.pth``) in the published format.
    backend: where the networks run; ``auto``: ``tensorrt`` where a GPU and TensorRT are there and
        work, else ``cpu``. The reason is in the log and in ``~/status``. ``torch``: PyTorch, on the
        GPU where it can use one.
    allow_fallback: with ``tensorrt`` or ``torch`` on a GPU, go on on the CPU when it cannot run or
        fails (``auto`` always does).
    precision: ``bfloat16`` runs the convolutions and LightGlue in bfloat16 where the CPU has it;
        ``float16`` is the GPU's; ``auto`` is the one of the two that is supported, else
        ``float32``.
    image_size: TensorRT, images to build the engine for at configure, e.g. ``640x480`` or
        ``640x480 grey``; for others, and without it, it is built at the first image.
    workspace: TensorRT, MiB of GPU memory that a layer of an engine may take while it works: less
        for small GPUs, more may be faster. Another value builds the engines again.
    max_keypoints: the K best-scored keypoints are kept.
    score_threshold: only keypoints whose score-map maximum is above this are kept (0 = all).
    grid: cells along the longer side of the image, of which each keeps its share of
        ``max_keypoints`` before the rest is filled by score; 0 = the best-scored ones wherever.
    matcher: ``lightglue``; ``nearest`` for mutual nearest neighbours; ``adaptive`` for nearest
        neighbours near where the motion so far lets expect them, and LightGlue for the images
        where that is not enough, and to find lost tracks again.
    match_threshold: LightGlue, least probability of a match (published: 0.1).
    depth_confidence: LightGlue, share of confident points that ends the layers early
        (published: 0.95; -1 = never).
    width_confidence: LightGlue, confidence at which unmatchable points are pruned
        (published: 0.99; -1 = never, the default: it saves no time on a CPU).
    min_similarity: ``nearest`` matcher, least cosine of two matched descriptors.
    verification: geometry that matches have to agree with to extend a track: ``fundamental``
        (any camera motion in any scene), ``essential`` (the same for a calibrated camera;
        fundamental while there is no CameraInfo), ``homography`` (planes and turning cameras),
        ``none``.
    inlier_threshold: largest distance of a match from that geometry, in pixels.
    recover_tracks: give features that were lost for a while their ids back, from keyframes.
    keyframe_tracked: an image becomes a keyframe when less than this share is still tracked of
        what could be followed since the last one. A dark image, that shows nothing, never does.
    keyframe_parallax: an image becomes a keyframe, too, when its tracks have moved by this many
        pixels since the last one (median; 0 = never for this).
    keyframe_interval: an image becomes a keyframe, too, this many seconds after the last one
        (0 = never for this).
    keyframe_count: so many recent keyframes are kept, for recovery and ``~/relocalize``.
    epipolar_band: stereo, largest distance in rows between the two sides of a match, pixels.
    max_disparity: stereo, largest disparity, pixels.
    mask_static: keep features away from what is fixed to the image while the camera moves.
    threads: CPU threads of the inference, 0 = all cores.
    """

    model: str = "aliked-n16"
    backend: str = "auto"
    allow_fallback: bool = False
    precision: str = "auto"
    image_size: str = ""
    workspace: int = 1024
    max_keypoints: int = 1000
    score_threshold: float = 0.0
    grid: int = 0
    matcher: str = "lightglue"
    match_threshold: float = 0.1
    depth_confidence: float = 0.95
    width_confidence: float = -1.0
    min_similarity: float = 0.7
    verification: str = "fundamental"
    inlier_threshold: float = 2.0
    recover_tracks: bool = True
    keyframe_tracked: float = 0.6
    keyframe_parallax: float = 40.0
    keyframe_interval: float = 0.0
    keyframe_count: int = 10
    epipolar_band: float = 1.5
    max_disparity: float = 192.0
    mask_static: bool = False
    threads: int = 0

    def __post_init__(self) -> None:
        """Raise ConfigurationError for a value outside its range or an impossible combination."""
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices and not (name == "model" and is_checkpoint(value)):
                raise ConfigurationError(
                    f"{name} is {value!r}; choose one of {', '.join(choices)}."
                )
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # also refuses NaN
                raise ConfigurationError(f"{name} is {value}; it must lie in [{low}, {high}].")
        if self.image_size:
            parse_image_size(self.image_size)
        if self.model == "aliked-t16" and self.matcher != "nearest":
            raise ConfigurationError(
                "aliked-t16 has 64-dimensional descriptors, for which no LightGlue weights exist; "
                "set matcher to 'nearest', or model to aliked-n16."
            )


def is_checkpoint(model: str) -> bool:
    """Whether a model is named by the path of its checkpoint."""
    return model.endswith(".pth")


def parse_image_size(text: str) -> tuple[int, int, int]:
    """Width, height and channels of e.g. ``640x480`` (3: RGB) or ``640x480 grey`` (1).

    Raises ConfigurationError for any other text.
    """
    found = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})( grey)?", text.strip())
    if found is None:
        raise ConfigurationError(
            f"The image size is {text!r}; write it as 640x480, or as '640x480 grey'."
        )
    return int(found[1]), int(found[2]), 1 if found[3] else 3


def ranges() -> dict[str, tuple[float, float]]:
    """Inclusive limits of the numeric settings, by name."""
    return dict(_RANGES)


def choices() -> dict[str, tuple[str, ...]]:
    """Permitted values of the textual settings, by name."""
    return dict(_CHOICES)


def names() -> tuple[str, ...]:
    """Names of all settings, in order of declaration."""
    return tuple(f.name for f in fields(FrontendConfig))
