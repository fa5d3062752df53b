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

"""Between ROS messages and the core's arrays.

Pixels, depth and masks come in through :mod:`aliked_ros.io.image_messages`; results leave through
:func:`feature_frame` and its neighbours, which fill message arrays from buffers (rclpy copies
lists element by element, a thousand times slower). What subscribers need is in
:mod:`aliked_ros.io.messages`.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Quaternion
from geometry_msgs.msg import Pose as PoseMessage
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, CompressedImage
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_msgs.msg import (
    FeatureFrame,
    FeatureMatches,
    Keyframe,
    LoopCandidate,
    RelocalizationCandidate,
    RigFrame,
)
from aliked_ros.camera import CameraModel
from aliked_ros.errors import ConfigurationError, ImageError
from aliked_ros.frontend import codes
from aliked_ros.frontend.loops import Loop
from aliked_ros.frontend.masks import rectified_border
from aliked_ros.frontend.places import Place
from aliked_ros.frontend.rig import RigResult
from aliked_ros.io.image_messages import ENCODINGS as ENCODINGS
from aliked_ros.io.image_messages import depth_from_message as depth_from_message
from aliked_ros.io.image_messages import image_from_message as image_from_message
from aliked_ros.io.image_messages import mask_from_message as mask_from_message
from aliked_ros.io.messages import DESCRIPTOR_TYPES, whole_nanoseconds
from aliked_ros.io.messages import seconds as seconds
from aliked_ros.types import (
    Candidate,
    Float64Array,
    FrameResult,
    UInt8Array,
)

DESCRIPTOR_ENCODINGS = {
    "float32": FeatureFrame.FLOAT32,
    "float16": FeatureFrame.FLOAT16,
    "binary256": FeatureFrame.BINARY256,
}


def baseline_from_message(message: CameraInfo) -> float | None:
    """Metres between the cameras of a rectified pair, from the right one's P; None = unknown."""
    focal, shift = float(message.p[0]), float(message.p[3])
    baseline = -shift / focal if focal > 0.0 else 0.0
    return baseline if 1e-6 < baseline < 1e4 else None  # from a micrometre to 10 km


def border_from_message(message: CameraInfo) -> UInt8Array:
    """The mask that leaves out what rectification by K, D, R and P left empty in the image.

    Raises ConfigurationError for a camera that is not calibrated.
    """
    rotation = np.reshape(message.r, (3, 3)).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # numbers without any sense
        orthogonal = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3)
    if not orthogonal:
        raise ConfigurationError(
            f"R of CameraInfo is {rotation.tolist()}, not a rotation; let the driver publish the "
            "rectification it applies."
        )
    rectified, raw = (CameraModel.from_info(message, rectified=flag) for flag in (True, False))
    return rectified_border(rectified, rotation, raw)


def image_message(pixels: UInt8Array, header: Header) -> ImageMessage:
    """A mono8 (H×W) or rgb8 (H×W×3) image message of uint8 pixels."""
    height, width = pixels.shape[:2]
    message = ImageMessage(header=header, height=height, width=width)
    message.encoding = "mono8" if pixels.ndim == 2 else "rgb8"
    message.step = width * (1 if pixels.ndim == 2 else 3)
    _fill(message.data, pixels)
    return message


def jpeg_message(message: ImageMessage) -> CompressedImage:
    """The image as a JPEG, header unchanged; ImageError for one that cannot be converted."""
    return jpeg(image_from_message(message).pixels, message.header)


def jpeg(pixels: UInt8Array, header: Header) -> CompressedImage:
    """A JPEG of uint8 pixels, H×W or H×W×3 RGB; ImageError where it cannot be made."""
    bgr = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    try:
        _, encoded = cv2.imencode(".jpg", bgr)
    except cv2.error as error:
        height, width = pixels.shape[:2]
        raise ImageError(
            f"image of {width}×{height} pixels cannot be encoded as JPEG ({error.err}); "
            "record raw images."
        ) from error
    compressed = CompressedImage(header=header, format="jpeg")
    _fill(compressed.data, encoded)
    return compressed


def feature_frame(
    result: FrameResult, header: Header, descriptor_encoding: str | None = "float32"
) -> FeatureFrame:
    """The message of one image's features.

    header: the source image's, republished unchanged.
    descriptor_encoding: ``float32``, ``float16`` or ``binary256``; None leaves descriptors out.
    """
    features, tracks = result.features, result.tracks
    message = FeatureFrame(header=header)
    message.frame_index = int(result.index)
    message.width = int(features.width)
    message.height = int(features.height)
    message.model = features.model
    _fill(message.keypoints, features.keypoints.astype(np.float32, copy=False))
    if result.normalized is not None:
        _fill(message.normalized, result.normalized.astype(np.float32, copy=False))
    _fill(message.scores, features.scores.astype(np.float32, copy=False))
    _fill(message.track_ids, tracks.ids.astype(np.uint64, copy=False))
    _fill(message.track_lengths, tracks.lengths.astype(np.uint32, copy=False))
    message.epoch = int(tracks.epoch)
    message.is_keyframe = result.is_keyframe
    recovered = np.zeros(len(features), bool) if tracks.recovered is None else tracks.recovered
    message.recovered = recovered.tolist()  # rclpy keeps bool[] in a list
    if tracks.objects is not None:
        _fill(message.object_ids, tracks.objects.astype(np.uint32, copy=False))
    for target, values in ((message.right_x, result.right_x), (message.depth, result.depth)):
        if values is not None:
            _fill(target, values.astype(np.float32, copy=False))
    if features.detection_age is not None:
        _fill(message.detection_age, features.detection_age.astype(np.uint32, copy=False))
    if features.covariances is not None:
        _fill(message.covariances, features.covariances.astype(np.float32, copy=False))
    if descriptor_encoding == "binary256":
        message.descriptor_encoding = FeatureFrame.BINARY256
        message.descriptor_dim = codes.BITS
        _fill(message.descriptors, codes.encode(features.descriptors))
    elif descriptor_encoding is not None:
        message.descriptor_encoding = DESCRIPTOR_ENCODINGS[descriptor_encoding]
        message.descriptor_dim = int(features.descriptors.shape[1])
        dtype = DESCRIPTOR_TYPES[message.descriptor_encoding]
        _fill(message.descriptors, features.descriptors.astype(dtype, copy=False))
    return message


def feature_matches(result: FrameResult, header: Header, reference_stamp: Time) -> FeatureMatches:
    """The message of one image's matches with its reference image.

    header: the current image's; reference_stamp: from the reference image's header. The first
    image of an epoch has no reference: no matches, and reference_index = frame_index.
    """
    matches = result.matches
    message = FeatureMatches(header=header, reference_stamp=reference_stamp)
    message.frame_index = int(result.index)
    message.reference_index = int(
        result.index if result.reference_index is None else result.reference_index
    )
    _fill(message.reference_indices, matches.reference_indices.astype(np.uint32, copy=False))
    _fill(message.current_indices, matches.current_indices.astype(np.uint32, copy=False))
    _fill(message.scores, matches.scores.astype(np.float32, copy=False))
    if matches.inliers is not None:
        message.inliers = matches.inliers.tolist()
    return message


def keyframe_message(features: FeatureFrame, reason: str, pixels: UInt8Array) -> Keyframe:
    """The message of a keyframe: its features as published, why it is one, and the image."""
    return Keyframe(
        header=features.header,
        reason=reason,
        features=features,
        image=jpeg(pixels, features.header),
    )


def rig_message(names: Sequence[str], frames: Sequence[FeatureFrame], rig: RigResult) -> RigFrame:
    """The message of one set, without its header, numbers and extrinsics.

    The frames get the depth that matches give, where they have none.
    """
    message = RigFrame(names=list(names), frames=list(frames))
    for frame, depth in zip(frames, rig.depths, strict=True):
        if len(frame.depth):
            own = np.frombuffer(frame.depth, np.float32)
            depth = np.where(np.isnan(own), depth, own)
            frame.depth = array("f")
        _fill(frame.depth, depth)
    for ids in rig.landmark_ids:
        _fill(message.landmark_ids, ids)
    _fill(message.merged_ids, rig.merged)
    matches = rig.matches
    for side, (cameras, rows) in enumerate(
        ((message.first_cameras, message.first_indices),
         (message.second_cameras, message.second_indices))
    ):  # fmt: skip
        _fill(cameras, matches.cameras[:, side])
        _fill(rows, matches.rows[:, side])
    _fill(message.scores, matches.scores)
    return message


def candidate_message(
    candidate: Candidate, keyframe_index: int, keyframe_epoch: int, stamp: Time, frame: str
) -> RelocalizationCandidate:
    """The message of one candidate; stamp, frame: of the keyframe's header.

    keyframe_index, keyframe_epoch: as on ``~/keyframes``.
    """
    matches = candidate.matches
    message = RelocalizationCandidate(keyframe_stamp=stamp, keyframe_frame_id=frame)
    message.keyframe_index = int(keyframe_index)
    message.keyframe_epoch = int(keyframe_epoch)
    _fill(message.keyframe_indices, matches.reference_indices.astype(np.uint32, copy=False))
    _fill(message.current_indices, matches.current_indices.astype(np.uint32, copy=False))
    _fill(message.scores, matches.scores.astype(np.float32, copy=False))
    if matches.inliers is not None:
        message.inliers = matches.inliers.tolist()
    message.inlier_count = int(candidate.inliers)
    if candidate.pose is not None:
        message.has_pose = True
        message.metric = bool(candidate.pose.metric)
        message.pose = pose_message(candidate.pose.rotation, candidate.pose.translation)
    return message


def place_candidate_message(candidate: Candidate, place: Place) -> RelocalizationCandidate:
    """The message of a candidate that is a remembered place, with its pose where it has one."""
    stamp = stamp_from_nanoseconds(place.nanoseconds)
    message = candidate_message(candidate, place.index, place.epoch, stamp, place.frame)
    if place.pose is not None:
        message.map_frame, message.body_frame = place.pose.frame, place.pose.body
        x, y, z = place.pose.position
        message.keyframe_pose.position = Point(x=x, y=y, z=z)
        x, y, z, w = place.pose.orientation
        message.keyframe_pose.orientation = Quaternion(x=x, y=y, z=z, w=w)
    return message


def loop_message(loop: Loop) -> LoopCandidate:
    """The message of a loop; its covariance is 0 where it is not known."""
    place, earlier, matches = loop.place, loop.earlier, loop.candidate.matches.verified()
    stamp = stamp_from_nanoseconds(place.nanoseconds)
    message = LoopCandidate(header=Header(stamp=stamp, frame_id=place.frame))
    message.frame_index, message.epoch = int(place.index), int(place.epoch)
    message.keyframe_stamp = stamp_from_nanoseconds(earlier.nanoseconds)
    message.keyframe_index, message.keyframe_epoch = int(earlier.index), int(earlier.epoch)
    message.keyframe_frame_id = earlier.frame
    _fill(message.keyframe_indices, matches.reference_indices.astype(np.uint32, copy=False))
    _fill(message.current_indices, matches.current_indices.astype(np.uint32, copy=False))
    _fill(message.scores, matches.scores.astype(np.float32, copy=False))
    message.inlier_count = len(matches)
    if loop.candidate.pose is not None:
        message.has_pose = True
        message.metric = bool(loop.candidate.pose.metric)
        pose = loop.candidate.pose
        message.pose.pose = pose_message(pose.rotation, pose.translation)
        if loop.covariance is not None:
            message.pose.covariance = loop.covariance.ravel()
    return message


def pose_message(rotation: Float64Array, translation: Float64Array) -> PoseMessage:
    """A rigid transform as position and unit quaternion. rotation: 3×3. translation: 3."""
    x, y, z, w = Rotation.from_matrix(rotation).as_quat().tolist()
    orientation = Quaternion(x=x, y=y, z=z, w=w)
    x, y, z = translation.tolist()
    return PoseMessage(position=Point(x=x, y=y, z=z), orientation=orientation)


def _fill(target: array[int] | array[float], values: NDArray[np.generic]) -> None:
    """Append a numpy array to a message's empty array of the same item size, by memory copy."""
    target.frombytes(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)


def stamp_from_seconds(time: float) -> Time:
    """A ROS time of seconds since the epoch."""
    return stamp_from_nanoseconds(whole_nanoseconds(time))


def stamp_from_nanoseconds(nanoseconds: int) -> Time:
    """A ROS time of nanoseconds since the epoch."""
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)
