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

"""Draws three cameras of a rig and what they share, and prints figures: python docs/draw_rig.py.

The rig is virtual, its geometry is known exactly. The figures of a real pair are of KITTI 00, where
the left and right camera are taken as a rig of two; for these name the folder: python
docs/draw_rig.py ../shared/data/kitti_00_first40
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from draw_images import CONFIG, save

from aliked_ros.camera import CameraModel
from aliked_ros.evaluation.odometry import as_observation, calibration_of, follow
from aliked_ros.evaluation.trajectories import align, read_tum, trajectory
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.frontend.rig import Rig, RigResult
from aliked_ros.frontend.rig_geometry import View
from aliked_ros.io.images import grey
from aliked_ros.sources import open_source
from aliked_ros.sources.virtual import VirtualCamera
from aliked_ros.types import FrameResult, Image

COUNT = 20  # images of the virtual rig
SETTINGS = replace(CONFIG, max_keypoints=800, matcher="nearest")
FIRST = 12  # image of KITTI 00, whose true poses before are up to a fifth too far apart
PLACES = {"left": (-0.15, 6.0), "front": (0.0, 0.0), "right": (0.15, -6.0)}  # metres, degrees


class MountedCamera(VirtualCamera):
    """A virtual camera on a body that moves."""

    def __init__(self, x: float, yaw: float) -> None:
        turn, _ = cv2.Rodrigues(np.radians([0.0, yaw, 0.0]))
        self.body_from_camera = np.eye(4)
        self.body_from_camera[:3, :3], self.body_from_camera[0, 3] = turn, x
        super().__init__(shutter=0.0, stops=0.0)

    def _pose(self, time: float) -> np.ndarray:
        return super()._pose(time) @ self.body_from_camera

    def depth(self, index: int, keypoints: np.ndarray) -> np.ndarray:
        """Metres along the optical axis to the photograph."""
        world = self.pose(index)
        rays = np.column_stack([keypoints, np.ones(len(keypoints))])
        rays = rays @ np.linalg.inv(self.camera_matrix).T
        return -world[2, 3] / (rays @ world[:3, :3].T)[:, 2]


def processed(
    cameras: Sequence[CameraModel], poses: Sequence[np.ndarray], sets: Iterator[list[Image]]
) -> Iterator[tuple[list[FrameResult], RigResult]]:
    """What each set of images gives."""
    pipelines, rig = [Pipeline(SETTINGS) for _ in cameras], Rig(SETTINGS)
    for pipeline, camera in zip(pipelines, cameras, strict=True):
        pipeline.camera = camera
    for images in sets:
        results = [p.process(image) for p, image in zip(pipelines, images, strict=True)]
        views = [
            View(r.features, camera, pose, r.normalized)
            for r, camera, pose in zip(results, cameras, poses, strict=True)
        ]
        names = [str(number) for number in range(len(views))]
        yield results, rig.process(names, [r.tracks for r in results], views)
    for pipeline in pipelines:
        pipeline.close()


def virtual() -> None:
    """Three cameras: the picture, and depth against the truth."""
    rig = [MountedCamera(*place) for place in PLACES.values()]
    models = [CameraModel.from_calibration(camera.calibration) for camera in rig]
    poses = [camera.body_from_camera for camera in rig]
    errors, known, rows, landmarks = [], [], [], []
    sets = ([camera.render(index) for camera in rig] for index in range(COUNT))
    for index, (results, joint) in enumerate(processed(models, poses, sets)):
        for camera, result, depth in zip(rig, results, joint.depths, strict=True):
            has = np.isfinite(depth)
            truth = camera.depth(index, result.features.keypoints[has])
            errors.append(np.abs(depth[has] / truth - 1.0))
            known.append(has.mean())
            rows.append(len(depth))
        landmarks.append(len(np.unique(np.concatenate(joint.landmark_ids))))
    error = np.concatenate(errors)
    print(
        f"virtual rig of 3, {COUNT} sets: depth for {np.mean(known):.0%} of the keypoints, error "
        f"{np.median(error):.2%} median, {(error > 0.1).mean():.1%} above 10 %; "
        f"{np.sum(rows) / COUNT:.0f} keypoints a set are {np.mean(landmarks):.0f} landmarks"
    )
    draw([camera.render(COUNT - 1).pixels for camera in rig], results, joint)


def draw(pictures: Sequence[np.ndarray], results: list[FrameResult], joint: RigResult) -> None:
    """The images side by side, with the landmarks that two or all cameras see."""
    ids, seen_by = np.unique(np.concatenate(joint.landmark_ids), return_counts=True)
    count = dict(zip(ids.tolist(), seen_by.tolist(), strict=True))
    joined = [one for one, cameras in count.items() if cameras == len(pictures)][::30]
    canvas = np.hstack([np.repeat(grey(p)[:, :, None], 3, 2) // 3 * 2 + 60 for p in pictures])
    ends: dict[int, list[tuple[int, int]]] = {one: [] for one in joined}
    start = 0
    for picture, result, landmarks in zip(pictures, results, joint.landmark_ids, strict=True):
        places = np.rint(result.features.keypoints + np.array([start, 0])).astype(int).tolist()
        for (x, y), landmark in zip(places, landmarks.tolist(), strict=True):
            if count[landmark] > 1:
                colour = (0, 110, 120) if count[landmark] == len(pictures) else (230, 120, 20)
                cv2.circle(canvas, (x, y), 3, colour, -1, cv2.LINE_AA)
            if landmark in ends:
                ends[landmark].append((x, y))
        start += picture.shape[1]
    for line in ends.values():
        cv2.polylines(canvas, [np.array(line, np.int32)], False, (0, 140, 150), 2, cv2.LINE_AA)
    save("rig.png", cv2.resize(canvas, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA))


def pair(folder: str) -> None:
    """KITTI's pair as a rig of two, as a stereo pair, and the left camera alone."""
    source = open_source(folder, None, "right")
    calibration = calibration_of(source, folder)
    camera = CameraModel.from_calibration(calibration)
    beside = np.eye(4)
    beside[0, 3] = calibration["stereo_baseline_m"]
    source.first = FIRST
    images = list(source)
    truth = read_tum(Path(folder) / "groundtruth_tum.txt")
    sets = ([replace(i, right=None), Image(i.right, i.stamp)] for i in images)
    found = {"rig of two": [], "stereo": [], "left camera alone": []}
    for results, joint in processed([camera] * 2, [np.eye(4), beside], sets):
        found["rig of two"].append(replace(results[0], depth=joint.depths[0]))
        found["left camera alone"].append(results[0])
    pipeline = Pipeline(SETTINGS)
    pipeline.camera, pipeline.baseline = camera, calibration["stereo_baseline_m"]
    found["stereo"] = [pipeline.process(image) for image in images]
    pipeline.close()
    for name, results in found.items():
        depth = [0 if r.depth is None else int(np.isfinite(r.depth).sum()) for r in results]
        estimates = follow(map(as_observation, results), True)
        stamps, cameras = [e.stamp for e in estimates], [e.camera for e in estimates]
        metric = all(e.metric for e in estimates)
        free = align(truth, trajectory(stamps, cameras), metric=False)
        ate = align(truth, trajectory(stamps, cameras), metric=metric).ate
        scale = f"scale {free.scale:.3f}" if metric else "no scale"
        print(
            f"{name}: {np.mean(depth):.0f} of {np.mean([len(r.features) for r in results]):.0f} "
            f"keypoints with depth; {len(estimates)} of {len(images)} images with a pose, {scale}, "
            f"ATE {100 * ate:.1f} cm{'' if metric else ' after alignment in scale'}"
        )


if __name__ == "__main__":
    virtual()
    for folder in sys.argv[1:]:
        pair(folder)
