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


"""Where features of one image are expected in the next, from how the camera turned between them.

The one place where motion is predicted from a gyroscope; flow, matching and recovery ask here.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import cv2
import numpy as np

from aliked_ros.camera import CameraModel
from aliked_ros.frontend.alignment import Alignment
from aliked_ros.frontend.gyroscope import Gyroscope
from aliked_ros.types import BoolArray, Float32Array, Float64Array, FrameResult, UInt8Array

_LEAST_DEPTH = 0.1  # of a unit plane: beyond 84° off the axis nothing is predicted
_REMEMBERED = 4096  # images
_BENT = 0.1  # change of a patch's shape or direction above which the image is turned for flow
_GRID = 8  # pixels between the points of which an image's turn is computed: 0.02 pixels are missed


@dataclass(frozen=True, slots=True)
class Turn:
    """How a camera turned from one image to another.

    camera: of both images. rotation: 3×3 float64; a fixed direction has the coordinates
    ``rotation @ d`` in the second image's optical frame if it had ``d`` in the first one's.
    """

    camera: CameraModel
    rotation: Float64Array

    def carried(self, points: Float32Array) -> Float32Array:
        """Where far points N×2 (pixels) of the first image are in the second.

        It is the homography at infinity, through the lens. NaN where a point turns out of what the
        camera can see.
        """
        rays = self.camera.normalize(points)
        directions = np.column_stack([rays, np.ones(len(rays), np.float32)]) @ self.rotation.T
        with np.errstate(all="ignore"):
            ahead = directions[:, 2:] > _LEAST_DEPTH
            rays = np.where(ahead, directions[:, :2] / directions[:, 2:], np.nan)
        known = np.isfinite(rays).all(1)
        found = np.full((len(points), 2), np.nan, np.float32)
        found[known] = self.camera.project(rays[known].astype(np.float32))
        return found

    def placed(self, points: Float32Array) -> Float32Array:
        """``carried``, but points that turn out of what the camera can see stay where they are."""
        there = self.carried(points)
        return np.where(np.isfinite(there), there, points)

    @property
    def back(self) -> Turn:
        """From the second image to the first."""
        return Turn(self.camera, self.rotation.T)

    def stays(self, points: Float32Array) -> BoolArray:
        """Which far points N×2 of the first image the second one shows, too."""
        there = self.carried(points)
        return np.asarray(((there >= 0) & (there < [self.camera.width, self.camera.height])).all(1))

    @property
    def bends(self) -> bool:
        """Whether patches look another way afterwards: the camera rolled, or turned far."""
        x, y = np.meshgrid(
            *(np.array([1, 2, 3]) / 4 * side for side in (self.camera.width, self.camera.height))
        )
        places = np.stack([x.ravel(), y.ravel()], axis=1)
        beside = [places + step for step in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.0])]
        corners = np.concatenate(beside).astype(np.float32)
        there, right, below = self.carried(corners).reshape(3, -1, 2)
        change = np.stack([right - there, below - there], axis=1) - np.eye(2)
        return bool(np.nanmax(np.abs(change), initial=0.0) > _BENT)

    def turned(self, image: UInt8Array) -> UInt8Array:
        """The first image, H×W, as the second would show it if everything were far away.

        What the first does not show continues its edge: a black frame would attract flow.
        """
        height, width = image.shape
        sides = (
            np.arange(-_GRID, side + 2 * _GRID, _GRID, dtype=np.float32) for side in (width, height)
        )
        grid = np.stack(np.meshgrid(*sides), axis=2)
        back = self.back.carried(grid.reshape(-1, 2)).reshape(grid.shape)
        back = np.nan_to_num(back, nan=-1e4)  # outside
        across = (np.arange(width, dtype=np.float32) + _GRID) / _GRID
        down = (np.arange(height, dtype=np.float32) + _GRID) / _GRID
        sought = np.meshgrid(across, down)
        x, y = np.moveaxis(np.asarray(cv2.remap(back, *sought, cv2.INTER_LINEAR)), 2, 0)
        return np.asarray(cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def expected(
    points: Float32Array, moved: Float32Array, own: Float32Array, turn: Turn | None
) -> Float32Array:
    """Where points N×2 (pixels) of an image are expected in the next.

    moved: N×2, their displacements since the image before; own: the part of them that no turn of
    the camera explains (see ``own_motion``). turn: to the next image. Without it points move on as
    they did; with it only their own motion goes on.
    """
    onward = points + moved
    if turn is None:
        return onward
    there = turn.carried(points + own)  # it was seen before the camera turned
    return np.where(np.isfinite(there), there, onward)


def own_motion(before: Float32Array, now: Float32Array, turn: Turn | None) -> Float32Array:
    """What a turn leaves unexplained of the way of points N×2 from image to image; 0 = unknown."""
    if turn is None:
        return np.zeros_like(now)
    return np.asarray(np.nan_to_num(now - turn.carried(before)))


class Prediction:
    """How the camera turned between images, by number.

    gyroscope: None = there is none, and nothing is predicted. alignment: with the camera.
    """

    def __init__(self) -> None:
        self.gyroscope: Gyroscope | None = None
        self.alignment = Alignment()
        self._images: OrderedDict[int, tuple[float, CameraModel | None]] = OrderedDict()
        self._still_since = 0.0

    def use(self, gyroscope: Gyroscope | None, alignment: Alignment | None = None) -> None:
        """Predict by this gyroscope, from the next image on.

        alignment: what is known of how it is mounted; None = it is estimated.
        """
        self.gyroscope, self.alignment = gyroscope, alignment or Alignment()

    def begin(self, index: int, stamp: float, camera: CameraModel | None) -> None:
        """An image has come; camera: None while its model is not known."""
        self._images[index] = (stamp, camera)
        if len(self._images) > _REMEMBERED:
            self._images.popitem(last=False)

    def turn(self, before: int, now: int) -> Turn | None:
        """From the image of one number to that of another; None = not known.

        Safe from several threads.
        """
        gyroscope, mounting = self.gyroscope, self.alignment.mounting
        first, second = self._images.get(before), self._images.get(now)
        if gyroscope is None or mounting is None or first is None or second is None:
            return None
        camera = second[1]
        if camera is None or first[1] is None:
            return None
        turned = gyroscope.rotation(first[0] + mounting.offset, second[0] + mounting.offset)
        if turned is None:
            return None
        return Turn(camera, mounting.rotation @ turned @ mounting.rotation.T)

    def compare(self, result: FrameResult) -> None:
        """Compare the gyroscope with what an image's tracks say, and learn from that."""
        if self.gyroscope is None:
            return
        if result.matches.geometry != "still" or result.reference_stamp is None:
            self._still_since = result.stamp
        else:
            offset = self.alignment.offset
            self.gyroscope.rest(self._still_since + offset, result.stamp + offset)
        _, camera = self._images[result.index]
        if camera is not None:
            self.alignment.compare(result, camera, self.gyroscope)
