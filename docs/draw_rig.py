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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from draw_images import CONFIG, save
from evo.core.trajectory import PoseTrajectory3D

from aliked_ros.camera import CameraModel
from aliked_ros.evaluation.odometry import as_observation, follow
from aliked_ros.evaluation.sequences import required_calibration
from aliked_ros.evaluation.trajectories import align, read_tum, trajectory
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.frontend.rig import Rig, RigResult
from aliked_ros.frontend.rig_geometry import View
from aliked_ros.io.images import grey
from aliked_ros.odometry import Estimate, Observation, Odometry
from aliked_ros.odometry.geometry import Transform
from aliked_ros.sources import open_source
from aliked_ros.sources.virtual import VirtualCamera
from aliked_ros.types import FrameResult, Image

COUNT = 90  # sets of the virtual rig
BLIND = range(30, 60)  # sets in which its front camera sees nothing
GAP = 12  # pixels between the images of the picture
NAME_HEIGHT = 32  # pixels above them
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


def observations(
    names: Sequence[str], poses: Sequence[np.ndarray], results: list[FrameResult], joint: RigResult
) -> list[Observation]:
    """The back-end's observations of one set."""
    return [
        replace(
            as_observation(result),
            ids=ids,
            depth=None,
            camera=name,
            mount=Transform(pose[:3, :3], pose[:3, 3]),
        )
        for name, pose, result, ids in zip(names, poses, results, joint.landmark_ids, strict=True)
    ]


def follow_rig(
    names: Sequence[str],
    poses: Sequence[np.ndarray],
    sets: Iterable[tuple[list[FrameResult], RigResult]],
) -> list[Estimate]:
    """The back-end's estimates from all cameras."""
    odometry = Odometry()
    return [
        estimate
        for results, joint in sets
        if (
            estimate := odometry.process(
                *observations(names, poses, results, joint), merged=joint.merged.tolist()
            )
        )
    ]


def figures(name: str, truth: PoseTrajectory3D, estimates: list[Estimate], count: int) -> None:
    """Print how far the estimates are from the truth."""
    found = trajectory([e.stamp for e in estimates], [e.camera for e in estimates])
    metric, maps = all(e.metric for e in estimates), len({e.map_index for e in estimates})
    scale = align(truth, found, metric=False).scale
    aligned = align(truth, found, metric=metric)
    print(
        f"{name}: {len(estimates)} of {count} images with a pose, maps: {maps}, "
        f"{f'scale {scale:.3f}' if metric else 'no scale'}, ATE {100 * aligned.ate:.2f} cm"
        f"{'' if metric else ' after alignment in scale'}"
    )


def virtual() -> None:
    """Three cameras: the picture, and depth and poses against the truth."""
    rig = [MountedCamera(*place) for place in PLACES.values()]
    models = [CameraModel.from_calibration(camera.calibration) for camera in rig]
    poses = [camera.body_from_camera for camera in rig]
    middle = list(PLACES).index("front")
    truth = trajectory(
        [index / rig[middle].rate for index in range(COUNT)],
        [Transform(p[:3, :3], p[:3, 3]) for p in map(rig[middle].pose, range(COUNT))],
    )
    for blind in (range(0), BLIND):
        sets = [[camera.render(index) for camera in rig] for index in range(COUNT)]
        for index in blind:
            black = np.zeros_like(sets[index][middle].pixels)
            sets[index][middle] = replace(sets[index][middle], pixels=black)
        seen = list(processed(models, poses, iter(sets)))
        if not blind:
            depth_figures(rig, seen)
            draw([image.pixels for image in sets[-1]], *seen[-1])
        title = "front camera blind for a third" if blind else "nothing blind"
        figures(f"{title}, all cameras", truth, follow_rig(list(PLACES), poses, seen), COUNT)
        front = [replace(r[middle], depth=joint.depths[middle]) for r, joint in seen]
        alone = follow(map(as_observation, front), True)
        figures(f"{title}, the front camera with the rig's depth", truth, alone, COUNT)


def depth_figures(
    rig: Sequence[MountedCamera], sets: Sequence[tuple[list[FrameResult], RigResult]]
) -> None:
    """Depth against the truth."""
    errors, known, rows, landmarks = [], [], [], []
    for index, (results, joint) in enumerate(sets):
        for camera, result, depth in zip(rig, results, joint.depths, strict=True):
            has = np.isfinite(depth)
            truth = camera.depth(index, result.features.keypoints[has])
            errors.append(np.abs(depth[has] / truth - 1.0))
            known.append(has.mean())
            rows.append(len(depth))
        landmarks.append(len(np.unique(np.concatenate(joint.landmark_ids))))
    error = np.concatenate(errors)
    print(
        f"virtual rig of 3, {len(sets)} sets: depth for {np.mean(known):.0%} of the keypoints, "
        f"error {np.median(error):.2%} median, {(error > 0.1).mean():.1%} above 10 %; "
        f"{np.sum(rows) / len(sets):.0f} keypoints a set are {np.mean(landmarks):.0f} landmarks"
    )


def draw(pictures: Sequence[np.ndarray], results: list[FrameResult], joint: RigResult) -> None:
    """The images side by side, with the landmarks that two or all cameras see."""
    ids, seen_by = np.unique(np.concatenate(joint.landmark_ids), return_counts=True)
    count = dict(zip(ids.tolist(), seen_by.tolist(), strict=True))
    joined = [one for one, cameras in count.items() if cameras == len(pictures)][::30]
    height, width = pictures[0].shape[:2]
    canvas = np.full((NAME_HEIGHT + height, len(pictures) * (width + GAP) - GAP, 3), 255, np.uint8)
    ends: dict[int, list[tuple[int, int]]] = {one: [] for one in joined}
    for number, (name, picture, result, landmarks) in enumerate(
        zip(PLACES, pictures, results, joint.landmark_ids, strict=True)
    ):
        corner = np.array([number * (width + GAP), NAME_HEIGHT])
        x, y = corner.tolist()
        canvas[y:, x : x + width] = grey(picture)[:, :, None] // 3 * 2 + 60
        cv2.putText(
            canvas, name, (x, y - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (60, 60, 60), 2, cv2.LINE_AA
        )
        places = np.rint(result.features.keypoints + corner).astype(int).tolist()
        for place, landmark in zip(places, landmarks.tolist(), strict=True):
            if count[landmark] > 1:
                colour = (0, 110, 120) if count[landmark] == len(pictures) else (230, 120, 20)
                cv2.circle(canvas, place, 3, colour, -1, cv2.LINE_AA)
            if landmark in ends:
                ends[landmark].append(place)
    for line in ends.values():
        cv2.polylines(canvas, [np.array(line, np.int32)], False, (0, 140, 150), 2, cv2.LINE_AA)
    save("rig.png", cv2.resize(canvas, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA))


def pair(folder: str) -> None:
    """KITTI's pair as a rig of two, as a stereo pair, and the left camera alone."""
    source = open_source(folder, None, "right")
    calibration = required_calibration(source, folder)
    camera = CameraModel.from_calibration(calibration)
    beside = np.eye(4)
    beside[0, 3] = calibration["stereo_baseline_m"]
    source.first = FIRST
    images = list(source)
    truth = read_tum(Path(folder) / "groundtruth_tum.txt")
    sets = ([replace(i, right=None), Image(i.right, i.stamp)] for i in images)
    seen = list(processed([camera] * 2, [np.eye(4), beside], sets))
    pipeline = Pipeline(SETTINGS)
    pipeline.camera, pipeline.baseline = camera, calibration["stereo_baseline_m"]
    stereo = [pipeline.process(image) for image in images]
    pipeline.close()
    by_rig = [replace(results[0], depth=joint.depths[0]) for results, joint in seen]
    both = follow_rig(["left", "right"], [np.eye(4), beside], seen)
    figures("rig of two, both cameras", truth, both, len(images))
    for name, results in {
        "left camera with the rig's depth": by_rig,
        "stereo": stereo,
        "left camera alone": [results[0] for results, _ in seen],
    }.items():
        depth = [0 if r.depth is None else int(np.isfinite(r.depth).sum()) for r in results]
        of = f"{np.mean(depth):.0f} of {np.mean([len(r.features) for r in results]):.0f}"
        estimates = follow(map(as_observation, results), True)
        figures(f"{name}, {of} keypoints with depth", truth, estimates, len(images))


if __name__ == "__main__":
    virtual()
    for folder in sys.argv[1:]:
        pair(folder)
