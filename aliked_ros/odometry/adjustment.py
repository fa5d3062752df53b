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

"""Bundle adjustment of a window of views with COLMAP (Ceres).

COLMAP has images and rigs, but no depth. A depth z at ray x therefore becomes a stereo observation:
the x coordinate x − B/z in a second camera of the rig, B to the right. Its noise is constant in
1/z, as for stereo and structured light. B is so large that the noise of x itself does not matter.
Both focal lengths are chosen so that one pixel is one standard deviation.

A point's depth counts once, in the first view that has it: what is wrong with it (an edge, the
calibration, the patch that was correlated) is wrong in every view. On fr1_xyz the depths of a track
vary by 0.007 1/m, those of different tracks are off by 0.05; taken for independent, they outweigh
the rays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import numpy as np

from aliked_ros.odometry.geometry import Transform
from aliked_ros.types import Float64Array

try:
    import pycolmap
except ImportError as error:
    raise ImportError("The reference odometry needs pycolmap: pip install pycolmap.") from error

_BASELINE = 100.0  # metres
_RAYS, _DEPTH = 1, 2  # ids of the rig's cameras
_LOSS_SCALE = 2.0  # standard deviations; Huber's
_ITERATIONS = 6
_FUNCTION_TOLERANCE = 1e-4  # relative


@dataclass(frozen=True, slots=True)
class Noise:
    """Standard deviations of the observations.

    ray: of a coordinate on the plane z = 1 (one pixel is 1 / focal length).
    inverse_depth: of 1/depth, in 1/metre; stereo: disparity's in pixels / (fx · baseline).
    """

    ray: float = 0.002
    inverse_depth: float = 0.005


@dataclass(slots=True)
class View:
    """The observations of one image.

    camera: its pose, camera_from_world. rays: N×2. depth: N metres, NaN = none.
    rows: row of each valid track; other rows are outliers. covariance: of the pose, see
    ``uncertainty``.
    """

    camera: Transform
    rays: Float64Array
    depth: Float64Array
    rows: dict[int, int]
    covariance: Float64Array = field(default_factory=lambda: np.zeros((6, 6)))

    def rays_of(self, tracks: Iterable[int]) -> Float64Array:
        """Rays K×2 of observed tracks."""
        return self.rays[[self.rows[track] for track in tracks]].reshape(-1, 2)


def adjust(
    views: Sequence[View],
    points: Mapping[int, Float64Array],
    noise: Noise,
    fixed: int,
    metric: bool,
) -> tuple[list[Transform], dict[int, Float64Array]]:
    """Poses and points with the least reprojection error.

    points: xyz by track id, each seen by at least two views. fixed: number of first views that keep
    their pose; if 0, the first view and one coordinate of the second (the scale) are fixed.
    metric: use depth.
    """
    model = _model(views, points, noise, metric)
    config = pycolmap.BundleAdjustmentConfig()
    for image in model.reg_image_ids():
        config.add_image(image)
    for index in range(fixed):
        config.set_constant_rig_from_world_pose(_frame(index))
    if not fixed:
        config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    pycolmap.create_default_ceres_bundle_adjuster(_options(), config, model).solve()
    poses = [model.frame(_frame(index)).rig_from_world for index in range(len(views))]
    return (
        [Transform(pose.rotation.matrix(), np.array(pose.translation)) for pose in poses],
        {track: np.array(model.point3D(track).xyz) for track in points},
    )


def _model(
    views: Sequence[View], points: Mapping[int, Float64Array], noise: Noise, metric: bool
) -> Any:
    """The views and points as a COLMAP reconstruction."""
    focal = {_RAYS: 1.0 / noise.ray, _DEPTH: 1.0 / (_BASELINE * noise.inverse_depth)}
    model = pycolmap.Reconstruction()
    for camera, value in focal.items():
        model.add_camera(
            pycolmap.Camera(
                camera_id=camera, model="SIMPLE_PINHOLE", width=1, height=1, params=[value, 0, 0]
            )
        )
    rig = pycolmap.Rig(rig_id=1)
    rig.add_ref_sensor(_sensor(_RAYS))
    rig.add_sensor(_sensor(_DEPTH), _rigid(Transform(np.eye(3), np.array([-_BASELINE, 0.0, 0.0]))))
    model.add_rig(rig)
    seen: dict[int, list[Any]] = {track: [] for track in points}
    measured: set[int] = set()  # tracks whose depth counts already
    for index, view in enumerate(views):
        tracks = [track for track in view.rows if track in points]
        images = {_RAYS: view.rays_of(tracks)}
        if metric:
            depth = view.depth[[view.rows[track] for track in tracks]]
            depth[[track in measured for track in tracks]] = np.nan
            measured.update(compress(tracks, np.isfinite(depth)))
            images[_DEPTH] = images[_RAYS] - np.outer(_BASELINE / depth, [1.0, 0.0])
        _add_frame(model, index, view.camera, {c: focal[c] * images[c] for c in images})
        for camera, rays in images.items():
            for row in np.flatnonzero(np.isfinite(rays).all(1)).tolist():
                seen[tracks[row]].append(pycolmap.TrackElement(_image(index, camera), row))
    for track, elements in seen.items():
        point = pycolmap.Point3D(xyz=points[track], track=pycolmap.Track(elements))
        model.add_point3D_with_id(track, point)
    return model


def _add_frame(
    model: Any, index: int, pose: Transform, keypoints: Mapping[int, Float64Array]
) -> None:
    """Add one frame of the rig; keypoints: by camera, K×2 pixels."""
    frame = pycolmap.Frame(frame_id=_frame(index), rig_id=1)
    for camera in keypoints:
        frame.add_data_id(pycolmap.data_t(_sensor(camera), _image(index, camera)))
    frame.rig_from_world = _rigid(pose)
    model.add_frame(frame)
    for camera, pixels in keypoints.items():
        number = _image(index, camera)
        image = pycolmap.Image(
            name=str(number), keypoints=pixels, camera_id=camera, image_id=number
        )
        image.frame_id = _frame(index)
        model.add_image(image)
    model.register_frame(_frame(index))


def _options() -> Any:
    options = pycolmap.BundleAdjustmentOptions(
        refine_focal_length=False,
        refine_extra_params=False,
        refine_sensor_from_rig=False,
        print_summary=False,
    )
    options.ceres.loss_function_type = pycolmap.LossFunctionType.HUBER
    options.ceres.loss_function_scale = _LOSS_SCALE
    solver = options.ceres.solver_options
    solver.max_num_iterations = _ITERATIONS
    solver.function_tolerance = _FUNCTION_TOLERANCE
    solver.num_threads = 1  # leaves the other cores to the front-end
    return options


def _rigid(transform: Transform) -> Any:
    return pycolmap.Rigid3d(pycolmap.Rotation3d(transform.rotation), transform.translation)


def _frame(index: int) -> int:
    return index + 1


def _image(index: int, camera: int) -> int:
    return 2 * index + camera


def _sensor(camera: int) -> Any:
    return pycolmap.sensor_t(type=pycolmap.SensorType.CAMERA, id=camera)
