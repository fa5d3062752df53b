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

"""The vocabulary: data classes of numpy arrays that travel along the pipeline.

Pixel coordinates have their origin at the centre of the top-left pixel, x to the right, y down
(OpenCV's convention). Times are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
UInt8Array = NDArray[np.uint8]
UInt32Array = NDArray[np.uint32]
UInt64Array = NDArray[np.uint64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Image:
    """One camera image.

    pixels: H×W (grey) or H×W×3 (RGB) uint8.
    stamp: acquisition time in seconds.
    mask: None, or H×W uint8, 0 = no score-map maximum is taken here (refinement may still move a
        keypoint by up to 2 pixels).
    right: None, or the right image of a rectified stereo pair (of the same size, grey or RGB):
        a point lies in the same row of both.
    depth: None, or H×W float32, metres along the optical axis at each of these pixels, NaN = none.
    nanoseconds: the stamp, where its source tells it more exactly than a float (0.2 µs for today's
        dates); None = ``stamp`` says it all.
    """

    pixels: UInt8Array
    stamp: float = 0.0
    mask: UInt8Array | None = None
    right: UInt8Array | None = None
    depth: Float32Array | None = None
    nanoseconds: int | None = None


@dataclass(frozen=True, slots=True)
class Features:
    """Keypoints of one image, by falling score-map maximum. Not to be changed in place.

    keypoints: N×2 float32, pixels.
    scores: N float32, the score map read bilinearly at the keypoints.
    descriptors: N×D float32, rows of unit length.
    width, height: size in pixels of the image they were found in.
    model: name of the network, e.g. ``aliked-n16``.
    turns: quarter turns counterclockwise that the image was given before the network saw it. All
        else here is of the image as it is.
    detection_age: N uint32, images since ALIKED saw the point last, 0 = in this one; scores and
        descriptors are from there. None = all were detected in this image.
    covariances: N×3 float32, xx, xy, yy in pixels², of each keypoint about the point of the scene
        that its track is of; None = not known.
    """

    keypoints: Float32Array
    scores: Float32Array
    descriptors: Float32Array
    width: int
    height: int
    model: str
    turns: int = 0
    detection_age: UInt32Array | None = None
    covariances: Float32Array | None = None

    def __len__(self) -> int:
        return len(self.keypoints)


@dataclass(frozen=True, slots=True)
class Matches:
    """Correspondences between a reference image's features and the current image's.

    reference_indices, current_indices: K uint32, rows of the two Features; each row at most once.
    scores: K float32 in (0, 1].
    inliers: K bool after geometric verification, None = not verified, or too few to be.
    layers: LightGlue layers run before the early stop (0 for other matchers).
    geometry: what the inliers agree with: ``epipolar``, ``homography`` (a plane, or a camera that
        only turned), ``still``; ``unverified`` where that could not be told; empty = not asked.
    matcher: which one found them, ``lightglue`` or ``nearest``; empty = none was asked.
    """

    reference_indices: UInt32Array
    current_indices: UInt32Array
    scores: Float32Array
    inliers: BoolArray | None = None
    layers: int = 0
    geometry: str = ""
    matcher: str = ""

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def inlier_count(self) -> int:
        """Number of verified matches; 0 where they are not verified."""
        return 0 if self.inliers is None else int(np.count_nonzero(self.inliers))

    def verified(self) -> Matches:
        """The inliers alone; empty where the matches are not verified."""
        kept = np.zeros(len(self), bool) if self.inliers is None else self.inliers
        return replace(
            self,
            reference_indices=self.reference_indices[kept],
            current_indices=self.current_indices[kept],
            scores=self.scores[kept],
            inliers=np.ones(np.count_nonzero(kept), bool),
        )

    @classmethod
    def empty(cls) -> Matches:
        """No correspondences."""
        none = np.zeros(0, np.uint32)
        return cls(none, none, np.zeros(0, np.float32))


@dataclass(frozen=True, slots=True)
class Tracks:
    """Identity of each keypoint of one image.

    ids: N uint64, at least 1, never reused within an epoch.
    lengths: N uint32, frames in which the track was seen, this one included.
    epoch: grows at every reset of the tracker.
    recovered: N bool, tracks that were lost and came back in this image; None = none did.
    objects: N uint32, number of the moving object that the point is on, never reused within an
        epoch; 0 = it is at rest, or not known to move. None = there is no such object.
    """

    ids: UInt64Array
    lengths: UInt32Array
    epoch: int
    recovered: BoolArray | None = None
    objects: UInt32Array | None = None

    @property
    def object_ids(self) -> UInt32Array:
        """``objects``, all 0 where there are none."""
        return np.zeros(len(self.ids), np.uint32) if self.objects is None else self.objects

    @property
    def at_rest(self) -> BoolArray:
        """N, whether the point is on no moving object."""
        return np.asarray(self.object_ids == 0)

    @property
    def static_ids(self) -> UInt64Array:
        """N uint64, the ids of the points at rest, 0 for those of moving objects."""
        return np.where(self.at_rest, self.ids, np.uint64(0))


@dataclass(frozen=True, slots=True)
class FrameResult:
    """Everything the pipeline knows about one image.

    index: number of the image since the pipeline's start, from 0.
    reference_index, reference_stamp: the image that ``matches`` refers to; None for the first
        image of an epoch, whose ``matches`` are empty.
    normalized: N×2 undistorted keypoints on the plane z = 1, None without a camera model.
    right_x: N, x in pixels of the rectified right image, NaN = none; None without a right image.
    depth: N, metres along the optical axis, NaN = none; None without a depth image, or a right
        image and the baseline.
    keyframe_reason: why it is a keyframe (``first``, ``tracks``, ``parallax``, ``time``,
        ``lost``); empty = it is none.
    static_share: share of the image that is fixed to the camera (a watermark, the robot itself).
    roll: degrees by which what is seen has turned in the image within about the last hundred images
        of the epoch; positive = clockwise.
    stage_times: seconds spent in ``extract``, ``stereo``, ``match``, ``verify``, ``track`` and
        ``total``; where flow follows the tracks also in ``flow``, ``fuse`` and ``detect``, the
        time that the image waited for a detection, whose own parts are ``extract`` and ``match``.
    detection_index: where flow follows the tracks, number of the image whose detection ended with
        this one; None = none did.
    detection_failure: of ``detection: behind``, why the detection that ended with this image
        failed; the tracks are flow's then. None = none failed.
    """

    index: int
    stamp: float
    features: Features
    matches: Matches
    tracks: Tracks
    reference_index: int | None = None
    reference_stamp: float | None = None
    normalized: Float32Array | None = None
    right_x: Float32Array | None = None
    depth: Float32Array | None = None
    keyframe_reason: str = ""
    static_share: float = 0.0
    roll: float = 0.0
    stage_times: dict[str, float] = field(default_factory=dict)
    detection_index: int | None = None
    detection_failure: Exception | None = None

    @property
    def is_keyframe(self) -> bool:
        """Whether the image was taken as a keyframe."""
        return bool(self.keyframe_reason)


@dataclass(frozen=True, slots=True)
class Keyframe:
    """An image worth coming back to. The arrays are those of its FrameResult.

    tracks: their ids are 0 on moving objects, which nothing is recovered from. index, stamp: of the
        image, as in its FrameResult. picture: the image, H×W uint8, grey and smoothed
        (``frontend.recovery.smooth``); None where it is not kept.
    """

    index: int
    stamp: float
    features: Features
    tracks: Tracks
    normalized: Float32Array | None = None
    depth: Float32Array | None = None
    picture: UInt8Array | None = None


@dataclass(frozen=True, slots=True)
class Pose:
    """A rigid transform: p_target = rotation · p_source + translation.

    rotation: 3×3 float64. translation: 3 float64, metres if ``metric``, else of unit length.
    """

    rotation: Float64Array
    translation: Float64Array
    metric: bool


@dataclass(frozen=True, slots=True)
class Candidate:
    """A keyframe that an image may have been taken near.

    matches: of the image (current) against the keyframe (reference), verified.
    pose: of the image's camera in the keyframe's optical frame (p_keyframe = R·p_image + t), None
        where it cannot be told (no camera model, too few inliers, no parallax and no depth).
    """

    keyframe: Keyframe
    matches: Matches
    pose: Pose | None

    @property
    def inliers(self) -> int:
        """Number of verified matches."""
        return self.matches.inlier_count
