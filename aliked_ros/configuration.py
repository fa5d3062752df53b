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

"""Settings of the front-end, one row each: parameters, options, docs and checks derive from it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias, TypeVar

from aliked_ros.errors import ConfigurationError

Value: TypeAlias = bool | int | float | str
T = TypeVar("T", bound=Value)

MAX_PLACES = 10_000
"""Keyframes that are remembered, unless a parameter says otherwise."""

MODELS = ("aliked-t16", "aliked-n16", "aliked-n16rot", "aliked-n32")


@dataclass(frozen=True, slots=True)
class Setting:
    """What one setting is and what it may be; the default fixes its type.

    limits: inclusive. choices, other: permitted texts, and what else is, by a test and in words.
    unit: of a number. live: may change between two images. backend: a loaded backend depends on it.
    """

    name: str
    default: Value
    help: str
    limits: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()
    other: tuple[Callable[[str], bool], str] | None = None
    unit: str = ""
    live: bool = False
    backend: bool = False

    @property
    def constraint(self) -> str:
        """The permitted values in words; empty when the type says it all."""
        if self.choices:
            other = "" if self.other is None else f", or {self.other[1]}"
            return f"one of {', '.join(self.choices)}{other}"
        if self.limits:
            return f"{self.limits[0]:.9g} to {self.limits[1]:.9g} {self.unit}".rstrip()
        return ""

    @property
    def full_help(self) -> str:
        """What it is, and what it may be."""
        constraint = self.constraint
        return f"{self.help} {constraint[:1].upper()}{constraint[1:]}." if constraint else self.help

    def check(self, value: Any, name: str) -> None:
        """Raise ConfigurationError, which calls the setting ``name``, for a value not permitted."""
        other = self.other is not None and self.other[0](value)
        if self.choices and value not in self.choices and not other:
            raise ConfigurationError(f"{name} is {value!r}; choose {self.constraint}.")
        if self.limits and not self.limits[0] <= value <= self.limits[1]:  # also refuses NaN
            raise ConfigurationError(f"{name} is {value}; it must lie in {self.constraint}.")


def is_checkpoint(model: str) -> bool:
    """Whether a model is named by the path of its checkpoint."""
    return model.endswith(".pth")


def is_interval(detection: str) -> bool:
    """Whether a text is the number of images from one detection to the next."""
    return re.fullmatch(r"[1-9][0-9]{0,2}", detection) is not None


def _setting(default: T, help: str, **facts: Any) -> T:
    """A field of ``FrontendConfig``; facts: fields of ``Setting``."""
    return field(default=default, metadata={"default": default, "help": help} | facts)


@dataclass(frozen=True, slots=True)
class FrontendConfig:
    """Settings of extractor, matcher and backend; ``SETTINGS`` describes each.

    Raises ConfigurationError for a value outside its range or an impossible combination.
    """

    model: str = _setting(
        "aliked-n16",
        "Name of the ALIKED network, or path of a checkpoint (.pth) in the published format.",
        choices=MODELS,
        other=(is_checkpoint, "a checkpoint's path (.pth)"),
    )
    backend: str = _setting(
        "auto",
        "Where the networks run; 'auto': 'tensorrt' if a GPU and TensorRT are available and work, "
        "else 'cpu'; the log and ~/status say why. 'torch': PyTorch, on the GPU if it can use one.",
        choices=("auto", "tensorrt", "cpu", "torch"),
        backend=True,
    )
    allow_fallback: bool = _setting(
        False,
        "With 'tensorrt' or 'torch' on a GPU, continue on the CPU when it cannot run or fails "
        "('auto' always does).",
        backend=True,
    )
    precision: str = _setting(
        "auto",
        "'bfloat16': convolutions and LightGlue in bfloat16, if the CPU supports it; 'float16': "
        "the same on a GPU; 'auto': the one of the two that is supported, else 'float32'.",
        choices=("auto", "float32", "bfloat16", "float16"),
        backend=True,
    )
    image_size: str = _setting(
        "",
        "TensorRT, images to build the engine for at configure, e.g. '640x480' or '640x480 grey'; "
        "for other images, and without it, the engine is built at the first image.",
        backend=True,
    )
    workspace: int = _setting(
        1024,
        "TensorRT, GPU memory that a layer of an engine may use while it runs: less for small "
        "GPUs, more may be faster. Another value rebuilds the engines.",
        limits=(16, 65536),
        unit="MiB",
        backend=True,
    )
    max_keypoints: int = _setting(
        1000,
        "The K best-scored keypoints are kept.",
        limits=(1, 8192),
        backend=True,
    )
    score_threshold: float = _setting(
        0.0,
        "Only keypoints whose score-map maximum is above this are kept; 0 = all.",
        limits=(0.0, 1.0),
        live=True,
    )
    grid: int = _setting(
        0,
        "Cells along the longer side of the image, of which each keeps its share of "
        "max_keypoints before the rest is filled by score; 0 = the best-scored ones anywhere.",
        limits=(0, 64),
        live=True,
    )
    edge_points: str = _setting(
        "keep",
        "Keypoints on straight edges, along which they slide, or where there is little contrast: "
        "'thin' leaves them out as long as there is room for max_keypoints elsewhere; 'keep'.",
        choices=("keep", "thin"),
        live=True,
    )
    matcher: str = _setting(
        "lightglue",
        "'lightglue'; 'nearest': mutual nearest neighbours; 'adaptive': nearest neighbours within "
        "a gate around the predicted position, LightGlue for images where that is not enough and "
        "to recover lost tracks.",
        choices=("lightglue", "nearest", "adaptive"),
    )
    match_threshold: float = _setting(
        0.1,
        "LightGlue, lowest probability of a match (published: 0.1).",
        limits=(0.0, 1.0),
        live=True,
    )
    depth_confidence: float = _setting(
        0.95,
        "LightGlue, share of confident points that ends the layers early (published: 0.95); "
        "-1 = never.",
        limits=(-1.0, 1.0),
        live=True,
    )
    width_confidence: float = _setting(
        -1.0,
        "LightGlue, confidence at which unmatchable points are pruned (published: 0.99); "
        "-1 = never, as it saves no time on a CPU.",
        limits=(-1.0, 1.0),
        live=True,
    )
    min_similarity: float = _setting(
        0.7,
        "Nearest neighbours, lowest cosine of two matched descriptors.",
        limits=(0.0, 1.0),
        live=True,
    )
    detection: str = _setting(
        "every",
        "Images in which ALIKED detects: 'every' one, without optical flow; a number 'N': each "
        "Nth, while flow follows the tracks; 'behind': in a separate thread, always the newest "
        "image, while flow follows the tracks and only the first image of an epoch waits.",
        choices=("every", "behind"),
        other=(is_interval, "a number of images from 1 to 999"),
    )
    verification: str = _setting(
        "fundamental",
        "Geometry that matches must agree with to extend a track: 'fundamental' (any camera "
        "motion in any scene), 'essential' (the same for a calibrated camera; fundamental while "
        "there is no CameraInfo), 'homography' (planes and turning cameras), 'none'.",
        choices=("fundamental", "essential", "homography", "none"),
        live=True,
    )
    inlier_threshold: float = _setting(
        2.0,
        "Largest distance of a match from that geometry.",
        limits=(0.1, 20.0),
        unit="pixels",
        live=True,
    )
    recover_tracks: bool = _setting(
        True,
        "Give features that were lost for a while their ids back, from keyframes.",
        live=True,
    )
    moving_objects: str = _setting(
        "ignore",
        "Groups of features that move alike, but not with the camera: 'flag' numbers them in "
        "object_ids; 'drop' leaves them out; 'ignore' does not look for them. Needs verification.",
        choices=("ignore", "flag", "drop"),
        live=True,
    )
    keyframe_tracked: float = _setting(
        0.6,
        "An image becomes a keyframe when less than this share of the last keyframe's tracks that "
        "could be followed remains. A dark image without features never does.",
        limits=(0.0, 1.0),
        live=True,
    )
    keyframe_parallax: float = _setting(
        40.0,
        "An image also becomes a keyframe when its tracks have moved this far since the last one "
        "(median); 0 = off.",
        limits=(0.0, 1000.0),
        unit="pixels",
        live=True,
    )
    keyframe_interval: float = _setting(
        0.0,
        "An image also becomes a keyframe this long after the last one; 0 = off.",
        limits=(0.0, 3600.0),
        unit="seconds",
        live=True,
    )
    keyframe_count: int = _setting(
        10,
        "Number of recent keyframes kept, for recovery and ~/relocalize.",
        limits=(1, 100),
        live=True,
    )
    epipolar_band: float = _setting(
        1.5,
        "Stereo, largest vertical distance between the two sides of a match.",
        limits=(0.5, 20.0),
        unit="pixels",
        live=True,
    )
    max_disparity: float = _setting(
        192.0,
        "Stereo, largest disparity.",
        limits=(1.0, 2048.0),
        unit="pixels",
        live=True,
    )
    mask_static: bool = _setting(
        True,
        "Ignore features on what is fixed to the image while the camera moves.",
        live=True,
    )
    threads: int = _setting(
        0,
        "CPU threads of the inference; 0 = all cores.",
        limits=(0, 256),
        backend=True,
    )

    def __post_init__(self) -> None:
        for name, setting in SETTINGS.items():
            setting.check(getattr(self, name), name)
        if self.image_size:
            parse_image_size(self.image_size)
        if self.model == "aliked-t16" and self.matcher != "nearest":
            raise ConfigurationError(
                "aliked-t16 has 64-dimensional descriptors, for which no LightGlue weights exist; "
                "set matcher to 'nearest', or model to aliked-n16."
            )

    @property
    def detection_interval(self) -> int:
        """N where ALIKED looks at each Nth image; 0 with ``every`` and ``behind``."""
        return int(self.detection) if is_interval(self.detection) else 0


SETTINGS = {row.name: Setting(row.name, **row.metadata) for row in fields(FrontendConfig)}
"""By name, in order of declaration."""


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
