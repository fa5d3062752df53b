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

"""Pixels of ``sensor_msgs`` images, from rclpy or rosbags. Needs no ROS."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from aliked_ros.errors import ImageError
from aliked_ros.io.compressed_depth import decode_compressed_depth
from aliked_ros.io.images import decode_image, depth_in_metres, is_jpeg_or_png
from aliked_ros.io.messages import seconds
from aliked_ros.types import Float32Array, Image, UInt8Array


@dataclass(frozen=True, slots=True)
class _Encoding:
    """Memory layout of one pixel, and the OpenCV conversion of its 8-bit form (None: as it is).

    channels, bytes_per_sample: as stored; samples of two bytes are reduced to their high byte
        (value >> 8) before the conversion.
    even_width, even_height: the layout repeats every two columns, or rows.
    chroma: bytes of colour for each byte of brightness, after all of the brightness (planar YUV).
    """

    channels: int
    conversion: int | None = None
    bytes_per_sample: int = 1
    even_width: bool = False
    even_height: bool = False
    chroma: float = 0.0


def _bayer(conversion: int, bytes_per_sample: int) -> _Encoding:
    return _Encoding(1, conversion, bytes_per_sample, even_width=True, even_height=True)


def _planar(conversion: int) -> _Encoding:
    return _Encoding(1, conversion, even_width=True, even_height=True, chroma=0.5)


_UYVY = _Encoding(2, cv2.COLOR_YUV2RGB_UYVY, even_width=True)
_YUYV = _Encoding(2, cv2.COLOR_YUV2RGB_YUY2, even_width=True)
_BGR = _Encoding(3, cv2.COLOR_BGR2RGB)
_BGRA = _Encoding(4, cv2.COLOR_BGRA2RGB)

_FULL_CHROMA = 2.0  # two bytes of colour a pixel

# ROS names a Bayer pattern after the top-left pixels, as OpenCV's four-letter constants do.
ENCODINGS: dict[str, _Encoding] = {
    "mono8": _Encoding(1),
    "8UC1": _Encoding(1),
    "mono16": _Encoding(1, None, 2),
    "rgb8": _Encoding(3),
    "bgr8": _BGR,
    "8UC3": _BGR,  # no order is defined; drivers that publish it use OpenCV's
    "rgba8": _Encoding(4, cv2.COLOR_RGBA2RGB),
    "bgra8": _BGRA,
    "8UC4": _BGRA,
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
    "nv12": _planar(cv2.COLOR_YUV2RGB_NV12),
    "nv21": _planar(cv2.COLOR_YUV2RGB_NV21),
    "yu12": _planar(cv2.COLOR_YUV2RGB_I420),
    "yv12": _planar(cv2.COLOR_YUV2RGB_YV12),
    "nv24": _Encoding(1, cv2.COLOR_YUV2RGB_YUY2, chroma=_FULL_CHROMA),
    "32FC1": _Encoding(1, None, 4),
}
_SEMI_PLANAR = (cv2.COLOR_YUV2RGB_NV12, cv2.COLOR_YUV2RGB_NV21)
_NO_CAMERA = ("16uc1", "16sc1", "32fc1", "32sc1", "64fc1")  # of a compressed image: depth
_SPELT = {name.lower(): encoding for name, encoding in ENCODINGS.items()}
_SPELT |= {"i420": _SPELT["yu12"], "yuv420": _SPELT["yu12"]}


def _spelt(encoding: str) -> str:
    """Without what drivers add to the name: capitals, spaces, the end of a C string."""
    return encoding.strip("\0 ").lower()


def says_rectified(topic: str) -> bool:
    """Whether the topic's name says that its images are rectified: ``image_rect``, ``rect/image``.

    RealSense's ``image_rect_raw`` is.
    """
    return bool({"rect", "rectified"} & _words(topic))


def says_raw(topic: str) -> bool:
    """Whether the topic's name says that its images are not rectified: ``image_raw``."""
    return "raw" in _words(topic) and not says_rectified(topic)


def says_registered(name: str) -> bool:
    """Whether the name of a depth topic or frame says so: ``aligned_depth_to_color``."""
    return bool({"aligned", "registered"} & _words(name))


def _words(topic: str) -> set[str]:
    return set(re.split("[/_]", topic))


def image_from_message(message: Any) -> Image:
    """An ``Image`` from a raw or compressed image message.

    Grey encodings give H×W, colour ones H×W×3 RGB, uint8. mono8 and rgb8 without row padding are
    not copied: the pixels are a view of the message's data. 16-bit samples become 8-bit ones by
    dropping the low byte (value >> 8); 32FC1 is grey in 0..1.

    Raises ImageError for a malformed message or an encoding that is no camera image.
    """
    if not hasattr(message, "encoding"):
        pixels = _decode(message)
    elif (encoding := _spelt(message.encoding)) in _SPELT:
        pixels = _unpack(message, _SPELT[encoding])
    else:
        pixels = _unpack_by_cv_bridge(message)
    return Image(pixels, seconds(message.header.stamp))


def depth_from_message(message: Any) -> Float32Array:
    """H×W float32 metres of a depth image (REP-118: 16UC1 millimetres, 32FC1 metres), NaN = none.

    message: raw, or of the transport compressedDepth. mono16 is read as millimetres, since some
    drivers use it.

    Raises ImageError for a malformed message or another encoding.
    """
    if not hasattr(message, "encoding"):
        return decode_compressed_depth(message)
    types = {"16uc1": np.uint16, "mono16": np.uint16, "32fc1": np.float32}
    encoding = _spelt(message.encoding)
    if encoding not in types:
        raise ImageError(
            f"depth image has encoding {message.encoding!r}; publish 16UC1 (millimetres) or 32FC1 "
            "(metres)."
        )
    dtype = np.dtype(types[encoding])
    rows = np.ascontiguousarray(_rows(message, dtype.itemsize))
    stored = rows.view(dtype.newbyteorder(">" if message.is_bigendian else "<"))
    return depth_in_metres(stored.astype(dtype, copy=False))


def mask_from_message(message: Any, ignored: Sequence[int] = (0,)) -> UInt8Array:
    """H×W uint8 mask, 0 = ignore, of a mask or of an image of class labels.

    message: mono8 or 8UC1; labels may also be mono16, or 8 to 32 bits with or without sign.
    ignored: values that mean ignore. Raises ImageError for another encoding.
    """
    types = {"mono8": "u1", "mono16": "u2"} | {
        f"{8 * size}{'s' if kind == 'i' else 'u'}c1": f"{kind}{size}"
        for kind in "iu" for size in (1, 2, 4)
    }  # fmt: skip
    encoding = _spelt(message.encoding)
    if encoding not in types:
        raise ImageError(
            f"mask has encoding {message.encoding!r}; publish mono8, mono16 or 32SC1, where "
            f"{' or '.join(map(str, ignored))} means ignore."
        )
    dtype = np.dtype(types[encoding])
    rows = np.ascontiguousarray(_rows(message, dtype.itemsize))
    labels = rows.view(dtype.newbyteorder(">" if message.is_bigendian else "<"))
    return np.where(np.isin(labels, ignored), np.uint8(0), np.uint8(255))


def _unpack(message: Any, encoding: _Encoding) -> UInt8Array:
    for needed, size, name in (
        (encoding.even_width, message.width, "width"),
        (encoding.even_height, message.height, "height"),
    ):
        if needed and size % 2:
            raise _odd_side(name, size, message.encoding)
    rows = _rows(message, encoding.channels * encoding.bytes_per_sample, encoding.chroma)
    if encoding.chroma:
        assert encoding.conversion is not None
        pixels = _convert(_with_chroma(message, rows, encoding), encoding.conversion)
        return np.ascontiguousarray(pixels[:, :: pixels.shape[1] // message.width])
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


def _odd_side(name: str, size: int, encoding: str) -> ImageError:
    return ImageError(
        f"{name} of a {encoding} image is {size}; this encoding has pairs of pixels, so it must be "
        "even. Check the driver's region of interest."
    )


def _with_chroma(message: Any, luma: UInt8Array, encoding: _Encoding) -> UInt8Array:
    """Brightness and colour in OpenCV's layout, without row padding.

    OpenCV has no NV24, so each pixel's colour is written as that of two equal pixels.
    """
    width, height, step = message.width, message.height, message.step
    rest = np.frombuffer(message.data, np.uint8)[step * height :]
    if encoding.chroma == _FULL_CHROMA:
        colour = rest.reshape(height, 2 * step)[:, : 2 * width]
        pairs = np.empty((height, 2 * width, 2), np.uint8)
        pairs[:, ::2, 0] = pairs[:, 1::2, 0] = luma
        pairs[..., 1] = colour
        return pairs
    if encoding.conversion in _SEMI_PLANAR:
        return np.concatenate([luma, rest.reshape(height // 2, step)[:, :width]])
    colour = rest.reshape(height, step // 2)[:, : width // 2]
    return np.concatenate([luma, colour.reshape(height // 2, width)])


def _rows(message: Any, bytes_per_pixel: int, chroma: float = 0.0) -> UInt8Array:
    """The H×(W·bytes_per_pixel) bytes of the image without padding, as a view if possible.

    chroma: bytes of colour that follow, for each byte of the rows.
    """
    width, height, step = message.width, message.height, message.step
    if not width or not height:
        raise ImageError(
            f"image is {width}×{height} pixels: nothing to process. Check the camera driver."
        )
    row_bytes = width * bytes_per_pixel
    halved = 0.0 < chroma < 1.0 and step % 2
    if step < row_bytes or halved:
        colours = ", and its colours half of step" if halved else ""
        raise ImageError(
            f"step is {step} bytes, but a row of {width} {message.encoding} pixels takes "
            f"{row_bytes}{colours}. Correct step or encoding in the driver."
        )
    size = round(step * height * (1.0 + chroma))
    factor = f" × {1.0 + chroma:g}" if chroma else ""
    if len(message.data) != size:
        reason = (
            "The message is truncated or its header is wrong; check the driver."
            if len(message.data) < size
            else "Its rows are longer than step says, or its height is wrong; correct the driver."
        )
        raise ImageError(
            f"image data has {len(message.data)} bytes, but step × height{factor} = {step} × "
            f"{height}{factor} = {size}. {reason}"
        )
    data = np.frombuffer(message.data, np.uint8, step * height)
    return data.reshape(height, step)[:, :row_bytes]


def _grey_of_unit_floats(rows: UInt8Array, bigendian: bool) -> UInt8Array:
    values = np.ascontiguousarray(rows).view(">f4" if bigendian else "<f4")
    low, high = float(values.min()), float(values.max())  # NaN stays NaN
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


def _unpack_by_cv_bridge(message: Any) -> UInt8Array:
    """Rare encodings, by ROS's cv_bridge if available."""
    if _spelt(message.encoding) == "16uc1":
        raise ImageError(
            "encoding 16UC1 is a depth image; publish camera images here "
            "(mono16 if these are 16-bit grey values)."
        )
    try:
        bridge = importlib.import_module("cv_bridge").CvBridge()
    except Exception as error:  # fails in many ways if built for another NumPy or OpenCV
        raise ImageError(
            f"encoding {message.encoding!r} is not one of {', '.join(ENCODINGS)}, and cv_bridge, "
            f"which may know it, cannot be imported ({error}). Publish one of these encodings, "
            "or install ROS's cv_bridge."
        ) from error
    _rows(message, 1)
    try:
        return np.ascontiguousarray(bridge.imgmsg_to_cv2(message, "rgb8"), np.uint8)
    except Exception as error:  # CvBridgeError, cv2.error or ValueError, depending on the version
        raise ImageError(
            f"cv_bridge cannot convert encoding {message.encoding!r} to rgb8: {error} "
            f"Publish one of {', '.join(ENCODINGS)}."
        ) from error


def _decode(message: Any) -> UInt8Array:
    """A compressed image: by image_transport, ``SOURCE; jpeg compressed TARGET`` is its format."""
    source, _, target = map(_spelt, message.format.partition(";"))
    if "compresseddepth" in message.format.lower() or source in _NO_CAMERA:
        raise ImageError(
            f"compressed image has format {message.format!r}, a depth image; "
            "subscribe to the camera's colour or grey topic."
        )
    if not is_jpeg_or_png(message.data):
        raise ImageError(
            f"compressed image of format {message.format!r}: encoded image of "
            f"{len(message.data)} bytes cannot be decoded: neither JPEG nor PNG. Set the "
            "publisher's format to one of them."
        )
    try:
        # As stored: CameraInfo and other subscribers know nothing of EXIF.
        pixels = decode_image(message.data, upright=False)
    except ImageError as error:
        raise ImageError(
            f"compressed image of format {message.format!r}: {error} "
            "Check the publisher (JPEG or PNG), and the network for losses."
        ) from error
    mosaic = _SPELT.get(source) if source.startswith("bayer_") else None
    if mosaic is not None and mosaic.conversion is not None and pixels.ndim == 2:
        for size, name in zip(pixels.shape, ("height", "width"), strict=True):
            if size % 2:
                raise _odd_side(name, size, source)
        return _convert(pixels, mosaic.conversion)
    if source.startswith("yuv") and pixels.ndim == 2 and "mono8" not in target:
        raise ImageError(
            f"compressed image of format {message.format!r} has one channel, which cannot hold "
            f"{source}; let the publisher compress rgb8, bgr8 or mono8."
        )
    if "compressed rgb" in target and pixels.ndim == 3:
        return np.ascontiguousarray(pixels[..., ::-1])  # was packed as BGR
    return pixels
