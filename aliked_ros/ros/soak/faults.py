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

"""What can go wrong around a front-end, made on purpose: messages and parameters for the soak test.

Everything is drawn from a random generator, so that a seed says it all.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import cv2
import numpy as np
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from aliked_ros.ros.conversions import image_message
from aliked_ros.ros.declarations import Change, Declaration
from aliked_ros.ros.frontend_parameters import DECLARATIONS
from aliked_ros.types import UInt8Array

Corruption = Callable[[random.Random, ImageMessage], None]


def _truncated(rng: random.Random, message: ImageMessage) -> None:
    message.data = message.data[: rng.randrange(len(message.data))]


def _wrong_step(rng: random.Random, message: ImageMessage) -> None:
    message.step = rng.choice((0, 1, message.step - 1, 2 * message.step, 2**32 - 1))


def _nan_floats(rng: random.Random, message: ImageMessage) -> None:
    values = np.full((message.height, message.width), 0.5, np.float32)
    values[rng.randrange(message.height)] = rng.choice((np.nan, np.inf, -np.inf, 7.0))
    _fill(message, values, "32FC1")


def _unknown_encoding(rng: random.Random, message: ImageMessage) -> None:
    message.encoding = rng.choice(("", "nonsense", "64FC4", "RGB8", "16UC1", "bayer_rggb12"))


def _absurd_size(rng: random.Random, message: ImageMessage) -> None:
    name = rng.choice(("width", "height"))
    setattr(message, name, rng.choice((0, 2**16, 2**31, 2**32 - 1)))


def _tiny(rng: random.Random, message: ImageMessage) -> None:
    _fill(message, np.zeros((rng.randrange(1, 63), rng.randrange(1, 63)), np.uint8), "mono8")


def _empty(rng: random.Random, message: ImageMessage) -> None:
    message.width = message.height = message.step = 0
    message.encoding = ""
    message.data = message.data[:0]


CORRUPTIONS: dict[str, Corruption] = {
    "truncated": _truncated,
    "wrong step": _wrong_step,
    "NaN floats": _nan_floats,
    "unknown encoding": _unknown_encoding,
    "absurd size": _absurd_size,
    "tiny": _tiny,
    "empty": _empty,
}


def corrupt(rng: random.Random, good: ImageMessage) -> tuple[str, ImageMessage]:
    """A copy of a good image message that no front-end can use, and what is wrong with it."""
    name = rng.choice(list(CORRUPTIONS))
    message = deepcopy(good)
    CORRUPTIONS[name](rng, message)
    return name, message


def cut(rng: random.Random, message: Any) -> bytes:
    """Bytes that are no message of this type: the middleware has to refuse them."""
    whole = serialize_message(message)
    return bytes(whole[: rng.randrange(4, max(len(whole) // 2, 5))])


def varied(rng: random.Random, pixels: UInt8Array, header: Header) -> ImageMessage:
    """A good image message of RGB pixels, in one of a few sizes and many encodings."""
    scale = rng.choice((0.5, 0.75))
    smaller = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    pixels = np.asarray(smaller, np.uint8)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    encodings: dict[str, Callable[[], Any]] = {
        "mono8": lambda: grey,
        "8UC1": lambda: grey,
        "mono16": lambda: grey.astype(np.uint16) << 8,
        "32FC1": lambda: grey.astype(np.float32) / 255,
        "rgb8": lambda: pixels,
        "bgr8": lambda: pixels[..., ::-1],
        "rgba8": lambda: cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA),
        "bgra8": lambda: cv2.cvtColor(pixels, cv2.COLOR_RGB2BGRA),
        "rgb16": lambda: pixels.astype(np.uint16) << 8,
    }
    encoding = rng.choice(list(encodings))
    message = ImageMessage(header=header)
    _fill(message, np.ascontiguousarray(encodings[encoding]()), encoding, rng.choice((0, 0, 12)))
    return message


def camera_info(width: int, height: int) -> CameraInfo:
    """A plausible calibration."""
    focal = 0.8 * width
    matrix = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
    return CameraInfo(
        width=width, height=height, distortion_model="plumb_bob", d=[-0.1, 0.01, 0.0, 0.0, 0.0],
        k=matrix, r=np.eye(3).ravel(),
        p=[*matrix[:3], 0.0, *matrix[3:6], 0.0, *matrix[6:], 0.0],
    )  # fmt: skip


def corrupt_info(rng: random.Random, width: int, height: int) -> CameraInfo:
    """A CameraInfo that is not to be believed."""
    info = camera_info(width, height)
    which = rng.randrange(6)
    if which == 0:
        info = CameraInfo(width=width, height=height)  # not calibrated
    elif which == 1:
        info.k = np.full(9, rng.choice((np.nan, np.inf, -1.0, 1e300)))
    elif which == 2:
        info.d = [0.1] * rng.choice((1, 2, 3, 7, 9))
    elif which == 3:
        info.distortion_model = rng.choice(("nonsense", "thin_prism", "equidistant"))
    elif which == 4:
        info.width, info.height = rng.choice(((0, 0), (1, 1), (2**32 - 1, 2**32 - 1)))
    else:
        info.roi.width, info.binning_x = rng.choice(((7, 3), (2**32 - 1, 2**32 - 1)))
    return info


def corrupt_mask(rng: random.Random, width: int, height: int) -> ImageMessage:
    """A mask of another size or encoding, or a broken message."""
    mask = image_message(np.full((height, width), 255, np.uint8), Header())
    if rng.random() < 0.3:
        return image_message(np.full((height // 2, width // 2), 255, np.uint8), Header())
    return corrupt(rng, mask)[1]


def good_parameter(rng: random.Random) -> ParameterMessage:
    """A parameter that may change at any time, and a value that it may have."""
    item = rng.choice([d for d in DECLARATIONS if d.change is Change.ANYTIME])
    return Parameter(item.name, value=_some_value(rng, item)).to_parameter_msg()


def bad_parameter(rng: random.Random) -> ParameterMessage:
    """A parameter that cannot be set so while the node is active."""
    item = rng.choice(DECLARATIONS)
    which = rng.randrange(4)
    if which == 0:
        return Parameter("no_such_parameter", value=1).to_parameter_msg()
    if which == 1 or item.limits is None:  # of another type
        wrong: Any = [1.0, 2.0] if which else "x" if isinstance(item.default, bool) else True
        return Parameter(item.name, value=wrong).to_parameter_msg()
    if which == 2:
        value = item.limits[1] + 1
        return Parameter(item.name, value=type(item.default)(value)).to_parameter_msg()
    return ParameterMessage(  # as `ros2 param delete`
        name=item.name, value=ParameterValue(type=ParameterType.PARAMETER_NOT_SET)
    )


def unreadable_parameter() -> ParameterMessage:
    """One that rclpy raises about: no answer can come."""
    return ParameterMessage(name="score_threshold", value=ParameterValue(type=99))


def usual_parameters() -> list[ParameterMessage]:
    """The defaults of all that may change at any time."""
    return [
        Parameter(d.name, value=d.default).to_parameter_msg()
        for d in DECLARATIONS
        if d.change is Change.ANYTIME
    ]


def _some_value(rng: random.Random, item: Declaration) -> Any:
    if isinstance(item.default, bool):
        return rng.random() < 0.5
    if item.choices:
        return rng.choice(item.choices)
    if item.name == "status_period":
        return rng.uniform(0.05, 0.5)  # the soak test waits for it
    if item.limits is None:
        return item.default
    low, high = item.limits
    if isinstance(item.default, int):
        return rng.randint(int(low), int(high))
    return rng.uniform(low, high)


def _fill(message: ImageMessage, pixels: Any, encoding: str, padding: int = 0) -> None:
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)))
    message.height, message.width, message.encoding = height, width, encoding
    message.step, message.is_bigendian = rows.shape[1], 0
    message.data = message.data[:0]
    message.data.frombytes(rows.tobytes())
