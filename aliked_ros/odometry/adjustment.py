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

COLMAP has rigs, but no depth. A depth z at ray x therefore becomes a stereo observation: the x
coordinate x − B/z in another camera of the rig, B to the right. Its noise is constant in 1/z, as
for stereo and structured light. B is so large that the noise of x itself does not matter. Focal
lengths are chosen so that one pixel is one standard deviation.

Each view is a rig of its own, because cameras may move on the robot: its cameras, and for each of
them the one that stands for its depths. The first camera is COLMAP's reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aliked_ros.odometry.geometry import Transform
from aliked_ros.odometry.views import Noise, Sight, View, counted
from aliked_ros.types import Float64Array

try:
    import pycolmap
except ImportError as error:
    raise ImportError("The reference odometry needs pycolmap: pip install pycolmap.") from error

_BASELINE = 100.0  # metres
_BESIDE = Transform(np.eye(3), np.array([-_BASELINE, 0.0, 0.0]))
_MOST = 1000  # cameras of a view
_LOSS_SCALE = 2.0  # standard deviations; Huber's
_ITERATIONS = 6
_FUNCTION_TOLERANCE = 1e-4  # relative


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
    cameras = [Transform(pose.rotation.matrix(), np.array(pose.translation)) for pose in poses]
    return (
        [_reference(view).inverse() @ camera for view, camera in zip(views, cameras, strict=True)],
        {track: np.array(model.point3D(track).xyz) for track in points},
    )


def _model(
    views: Sequence[View], points: Mapping[int, Float64Array], noise: Noise, metric: bool
) -> Any:
    """The views and points as a COLMAP reconstruction."""
    model = pycolmap.Reconstruction()
    seen: dict[int, list[Any]] = {track: [] for track in points}
    for index, (sights, depth) in enumerate(counted(views, points, metric)):
        _add_view(model, index, views[index], sights, depth, noise, seen)
    for track, elements in seen.items():
        point = pycolmap.Point3D(xyz=points[track], track=pycolmap.Track(elements))
        model.add_point3D_with_id(track, point)
    return model


def _add_view(
    model: Any,
    index: int,
    view: View,
    sights: list[Sight],
    depth: Float64Array,
    noise: Noise,
    seen: dict[int, list[Any]],
) -> None:
    """Add a view as a frame of its own rig; seen: the elements of each track so far."""
    rig = pycolmap.Rig(rig_id=_frame(index))
    frame = pycolmap.Frame(frame_id=_frame(index), rig_id=_frame(index))
    from_reference = _reference(view).inverse()
    numbers = np.array([number for _, number in sights], int)
    rows = view.at(sights)
    images: dict[int, Float64Array] = {}
    for number, (mount, ray) in _cameras(view).items():
        its = np.flatnonzero(numbers == number)
        rays = view.rays[rows[its]]
        far = rays - np.outer(_BASELINE / depth[its], [1.0, 0.0])
        for sensor, place, sigma, xy in (
            (2 * number, mount, ray, rays),
            (2 * number + 1, _BESIDE @ mount, _BASELINE * noise.inverse_depth, far),
        ):
            name = index * _MOST + sensor + 1
            model.add_camera(
                pycolmap.Camera(
                    camera_id=name, model="SIMPLE_PINHOLE", width=1, height=1,
                    params=[1.0 / sigma, 0, 0],
                )
            )  # fmt: skip
            if images:
                rig.add_sensor(_sensor(name), _rigid(place @ from_reference))
            else:
                rig.add_ref_sensor(_sensor(name))
            frame.add_data_id(pycolmap.data_t(_sensor(name), name))
            images[name] = xy / sigma
            for row in np.flatnonzero(np.isfinite(xy).all(1)).tolist():
                seen[sights[its[row]][0]].append(pycolmap.TrackElement(name, row))
    frame.rig_from_world = _rigid(_reference(view) @ view.camera)
    model.add_rig(rig)
    model.add_frame(frame)
    for name, pixels in images.items():
        image = pycolmap.Image(name=str(name), keypoints=pixels, camera_id=name, image_id=name)
        image.frame_id = _frame(index)
        model.add_image(image)
    model.register_frame(_frame(index))


def _cameras(view: View) -> dict[int, tuple[Transform, float]]:
    """Of each camera, by number: camera_from_frame, and the standard deviation of its rays."""
    rows: dict[int, int] = {}
    for its in view.rows.values():
        rows = its | rows
    found = {number: (view.mounts[row], float(view.noise[row])) for number, row in rows.items()}
    return found or {0: (Transform.identity(), 1.0)}


def _reference(view: View) -> Transform:
    """camera_from_frame of the view's first camera."""
    return next(iter(_cameras(view).values()))[0]


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


def _sensor(camera: int) -> Any:
    return pycolmap.sensor_t(type=pycolmap.SensorType.CAMERA, id=camera)
