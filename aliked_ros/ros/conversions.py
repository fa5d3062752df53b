"""Between ROS messages and the core's arrays.

Pixels, depth and masks come in through :func:`image_from_message`, :func:`depth_from_message` and
:func:`mask_from_message`; results leave through :func:`feature_frame` and its neighbours, which
fill message arrays from buffers (rclpy copies lists element by element, a thousand times slower).
What subscribers need is in :mod:`aliked_ros.messages`.
"""

from __future__ import annotations

import importlib
from array import array
from dataclasses import dataclass

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Quaternion
from geometry_msgs.msg import Pose as PoseMessage
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_msgs.msg import FeatureFrame, FeatureMatches, Keyframe, RelocalizationCandidate
from aliked_ros.camera import CameraModel
from aliked_ros.errors import ConfigurationError, ImageError
from aliked_ros.frontend.depth import depth_in_metres
from aliked_ros.frontend.masks import rectified_border
from aliked_ros.images import decode_image
from aliked_ros.messages import DESCRIPTOR_TYPES
from aliked_ros.types import (
    Candidate,
    Float32Array,
    FrameResult,
    Image,
    Pose,
    UInt8Array,
)

DESCRIPTOR_ENCODINGS = {"float32": FeatureFrame.FLOAT32, "float16": FeatureFrame.FLOAT16}


@dataclass(frozen=True, slots=True)
class _Encoding:
    """Memory layout of one pixel, and the OpenCV conversion of its 8-bit form (None: as it is).

    channels, bytes_per_sample: as stored; samples of two bytes are reduced to their high byte
        (value >> 8) before the conversion.
    even_width, even_height: the layout repeats every second column, or row.
    """

    channels: int
    conversion: int | None = None
    bytes_per_sample: int = 1
    even_width: bool = False
    even_height: bool = False


def _bayer(conversion: int, bytes_per_sample: int) -> _Encoding:
    return _Encoding(1, conversion, bytes_per_sample, even_width=True, even_height=True)


_UYVY = _Encoding(2, cv2.COLOR_YUV2RGB_UYVY, even_width=True)
_YUYV = _Encoding(2, cv2.COLOR_YUV2RGB_YUY2, even_width=True)
_BGR = _Encoding(3, cv2.COLOR_BGR2RGB)

# ROS names a Bayer pattern after the top-left pixels, as OpenCV's four-letter constants do.
ENCODINGS: dict[str, _Encoding] = {
    "mono8": _Encoding(1),
    "8UC1": _Encoding(1),
    "mono16": _Encoding(1, None, 2),
    "rgb8": _Encoding(3),
    "bgr8": _BGR,
    "8UC3": _BGR,  # no order is defined; OpenCV's, which drivers that publish it use
    "rgba8": _Encoding(4, cv2.COLOR_RGBA2RGB),
    "bgra8": _Encoding(4, cv2.COLOR_BGRA2RGB),
    "rgb16": _Encoding(3, None, 2),
    "bgr16": _Encoding(3, cv2.COLOR_BGR2RGB, 2),
    "rgba16": _Encoding(4, cv2.COLOR_RGBA2RGB, 2),
    "bgra16": _Encoding(4, cv2.COLOR_BGRA2RGB, 2),
    "bayer_rggb8": _bayer(cv2.COLOR_BayerRGGB2RGB, 1),
    "bayer_bggr8": _bayer(cv2.COLOR_BayerBGGR2RGB, 1),
    "bayer_gbrg8": _bayer(cv2.COLOR_BayerGBRG2RGB, 1),
    "bayer_grbg8": _bayer(cv2.COLOR_BayerGRBG2RGB, 1),
    "bayer_rggb16": _bayer(cv2.COLOR_BayerRGGB2RGB, 2),
    "bayer_bggr16": _bayer(cv2.COLOR_BayerBGGR2RGB, 2),
    "bayer_gbrg16": _bayer(cv2.COLOR_BayerGBRG2RGB, 2),
    "bayer_grbg16": _bayer(cv2.COLOR_BayerGRBG2RGB, 2),
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "32FC1": _Encoding(1, None, 4),
}


def image_from_message(message: ImageMessage | CompressedImage) -> Image:
    """The core's image of a raw or compressed image message.

    Grey encodings give H×W, colour ones H×W×3 RGB, uint8. mono8 and rgb8 without row padding are
    not copied: the pixels are a view of the message's data. 16-bit samples become 8-bit ones by
    dropping the low byte (value >> 8); 32FC1 is grey in 0..1.

    Raises ImageError for a malformed message or an encoding that is no camera image.
    """
    if isinstance(message, CompressedImage):
        pixels = _decode(message)
    elif message.encoding in ENCODINGS:
        pixels = _unpack(message, ENCODINGS[message.encoding])
    else:
        pixels = _unpack_by_cv_bridge(message)
    return Image(pixels, seconds(message.header.stamp))


def depth_from_message(message: ImageMessage) -> Float32Array:
    """H×W float32 metres of a depth image (REP-118: 16UC1 millimetres, 32FC1 metres), NaN = none.

    Drivers that call millimetres mono16 are understood.

    Raises ImageError for a malformed message or another encoding.
    """
    types = {"16UC1": np.uint16, "mono16": np.uint16, "32FC1": np.float32}
    if message.encoding not in types:
        raise ImageError(
            f"depth image has encoding {message.encoding!r}; publish 16UC1 (millimetres) or 32FC1 "
            "(metres), raw."
        )
    dtype = np.dtype(types[message.encoding])
    rows = np.ascontiguousarray(_rows(message, dtype.itemsize))
    stored = rows.view(dtype.newbyteorder(">" if message.is_bigendian else "<"))
    return depth_in_metres(stored.astype(dtype, copy=False))


def mask_from_message(message: ImageMessage) -> UInt8Array:
    """H×W uint8 mask of a mono8 image, 0 = ignore; ImageError for another encoding."""
    if message.encoding not in ("mono8", "8UC1"):
        raise ImageError(
            f"mask has encoding {message.encoding!r}; publish mono8, where 0 means ignore."
        )
    return image_from_message(message).pixels


def _unpack(message: ImageMessage, encoding: _Encoding) -> UInt8Array:
    rows = _rows(message, encoding.channels * encoding.bytes_per_sample)
    for needed, size, name in (
        (encoding.even_width, message.width, "width"),
        (encoding.even_height, message.height, "height"),
    ):
        if needed and size % 2:
            raise ImageError(
                f"{name} of a {message.encoding} image is {size}; this encoding has pairs of "
                "pixels, so it must be even. Check the driver's region of interest."
            )
    if encoding.bytes_per_sample == 4:
        return _grey_of_unit_floats(rows, bool(message.is_bigendian))
    if encoding.bytes_per_sample == 2:
        high_byte = 0 if message.is_bigendian else 1
        rows = rows[:, high_byte::2]
    pixels = rows.reshape(message.height, message.width, encoding.channels)
    if encoding.channels == 1:
        pixels = pixels[..., 0]
    pixels = np.ascontiguousarray(pixels)
    return pixels if encoding.conversion is None else _convert(pixels, encoding.conversion)


def _rows(message: ImageMessage, bytes_per_pixel: int) -> UInt8Array:
    """The H×(W·bytes_per_pixel) bytes of the image, padding cut off, as a view where possible."""
    width, height, step = message.width, message.height, message.step
    if not width or not height:
        raise ImageError(
            f"image is {width}×{height} pixels: nothing to process. Check the camera driver."
        )
    row_bytes = width * bytes_per_pixel
    if step < row_bytes:
        raise ImageError(
            f"step is {step} bytes, but a row of {width} {message.encoding} pixels takes "
            f"{row_bytes}. Correct step or encoding in the driver."
        )
    if len(message.data) < step * height:
        raise ImageError(
            f"image data has {len(message.data)} bytes, but step × height = {step} × {height} = "
            f"{step * height}. The message is truncated or its header is wrong; check the driver."
        )
    data = np.frombuffer(message.data, np.uint8, step * height)
    return data.reshape(height, step)[:, :row_bytes]


def _grey_of_unit_floats(rows: UInt8Array, bigendian: bool) -> UInt8Array:
    values = np.ascontiguousarray(rows).view(">f4" if bigendian else "<f4")
    low, high = float(values.min()), float(values.max())  # NaN comes out as NaN
    if not np.isfinite(low + high):
        raise ImageError(
            "32FC1 image holds NaN or infinite values; a grey image lies in 0..1. "
            "Replace them in the driver (a depth image does not belong on this topic)."
        )
    if low < 0.0 or high > 1.0:
        raise ImageError(
            f"32FC1 image has values from {low:g} to {high:g}; a grey image lies in 0..1. "
            "Scale it, or publish mono8 (a depth image does not belong on this topic)."
        )
    return np.rint(values * np.float32(255)).astype(np.uint8)


def _convert(pixels: UInt8Array, conversion: int) -> UInt8Array:
    return np.asarray(cv2.cvtColor(pixels, conversion), np.uint8)


def _unpack_by_cv_bridge(message: ImageMessage) -> UInt8Array:
    """The rarer encodings, where ROS provides cv_bridge."""
    if message.encoding == "16UC1":
        raise ImageError(
            "encoding 16UC1 is a depth image; publish camera images here "
            "(mono16 if these are 16-bit grey values)."
        )
    try:
        bridge = importlib.import_module("cv_bridge").CvBridge()
    except Exception as error:  # built for another NumPy or OpenCV, it fails in many ways
        raise ImageError(
            f"encoding {message.encoding!r} is not one of {', '.join(ENCODINGS)}, and cv_bridge, "
            f"which may know it, cannot be imported ({error}). Publish one of these encodings, "
            "or install ROS's cv_bridge."
        ) from error
    _rows(message, 1)
    try:
        return np.ascontiguousarray(bridge.imgmsg_to_cv2(message, "rgb8"), np.uint8)
    except Exception as error:  # CvBridgeError, cv2.error, ValueError: by version
        raise ImageError(
            f"cv_bridge cannot convert encoding {message.encoding!r} to rgb8: {error} "
            f"Publish one of {', '.join(ENCODINGS)}."
        ) from error


def _decode(message: CompressedImage) -> UInt8Array:
    if "compressedDepth" in message.format:
        raise ImageError(
            f"compressed image has format {message.format!r}, a depth image; "
            "subscribe to the camera's colour or grey topic."
        )
    try:
        # As stored: CameraInfo and other subscribers know nothing of EXIF.
        return decode_image(message.data, upright=False)
    except ImageError as error:
        raise ImageError(
            f"compressed image of format {message.format!r}: {error} "
            "Check the publisher (JPEG or PNG), and the network for losses."
        ) from error


def baseline_from_message(message: CameraInfo) -> float | None:
    """Metres between the cameras of a rectified pair, from the right one's P; None = unknown."""
    focal, shift = float(message.p[0]), float(message.p[3])
    baseline = -shift / focal if focal > 0.0 else 0.0
    return baseline if np.isfinite(baseline) and baseline > 0.0 else None


def border_from_message(message: CameraInfo) -> UInt8Array:
    """The mask that leaves out what rectification by K, D, R and P left empty in the image.

    Raises ConfigurationError for a camera that is not calibrated.
    """
    rotation = np.reshape(message.r, (3, 3)).astype(np.float64)
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3):
        raise ConfigurationError(
            f"R of CameraInfo is {rotation.tolist()}, no rotation; let the driver publish the "
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
    descriptor_encoding: ``float32`` or ``float16``; None leaves the descriptors out.
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
    for target, values in ((message.right_x, result.right_x), (message.depth, result.depth)):
        if values is not None:
            _fill(target, values.astype(np.float32, copy=False))
    if descriptor_encoding is not None:
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
        message.inliers = matches.inliers.tolist()  # rclpy keeps bool[] in a list
    return message


def keyframe_message(features: FeatureFrame, reason: str, pixels: UInt8Array) -> Keyframe:
    """The message of a keyframe: its features as published, why it is one, and the image."""
    return Keyframe(
        header=features.header,
        reason=reason,
        features=features,
        image=jpeg(pixels, features.header),
    )


def candidate_message(
    candidate: Candidate, keyframe_index: int, keyframe_stamp: Time
) -> RelocalizationCandidate:
    """The message of one candidate; index and stamp of the keyframe as on ``~/keyframes``."""
    matches = candidate.matches
    message = RelocalizationCandidate(keyframe_stamp=keyframe_stamp)
    message.keyframe_index = int(keyframe_index)
    _fill(message.keyframe_indices, matches.reference_indices.astype(np.uint32, copy=False))
    _fill(message.current_indices, matches.current_indices.astype(np.uint32, copy=False))
    _fill(message.scores, matches.scores.astype(np.float32, copy=False))
    if matches.inliers is not None:
        message.inliers = matches.inliers.tolist()
    message.inlier_count = int(candidate.inliers)
    if candidate.pose is not None:
        message.has_pose = True
        message.metric = bool(candidate.pose.metric)
        message.pose = pose_message(candidate.pose)
    return message


def pose_message(pose: Pose) -> PoseMessage:
    """A rigid transform as position and unit quaternion."""
    turn = cv2.Rodrigues(pose.rotation)[0].ravel()
    half = np.linalg.norm(turn) / 2
    x, y, z = (turn / 2 * np.sinc(half / np.pi)).tolist()
    orientation = Quaternion(x=x, y=y, z=z, w=float(np.cos(half)))
    x, y, z = pose.translation.tolist()
    return PoseMessage(position=Point(x=x, y=y, z=z), orientation=orientation)


def _fill(target: array[int] | array[float], values: NDArray[np.generic]) -> None:
    """Append a numpy array to a message's empty array of the same item size, by memory copy."""
    target.frombytes(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)


def seconds(stamp: Time) -> float:
    """A ROS time in seconds (to 0.2 µs for today's dates)."""
    return float(stamp.sec) + float(stamp.nanosec) * 1e-9


def stamp_from_seconds(time: float) -> Time:
    """A ROS time of seconds since the epoch."""
    nanoseconds = round(time * 1e9)
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)
