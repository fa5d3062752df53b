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


"""The node's memory of places: loops, maps, and where an image was taken.

Keyframes come from the session, after their messages are published, and are worked on in a thread
of their own.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo

from aliked_msgs.msg import Keyframe, LoopCandidate
from aliked_msgs.srv import Localize, Relocalize
from aliked_msgs.srv import MapFile as MapFileService
from aliked_ros.camera import CameraModel
from aliked_ros.errors import ConfigurationError
from aliked_ros.exporting.maps import CAMERA_INFO, KEYFRAME, ODOMETRY, Loaded, MapFile
from aliked_ros.frontend.loops import LoopFinder
from aliked_ros.frontend.places import Key, KeyframeDatabase, Place
from aliked_ros.frontend.quarter_turns import best_turn
from aliked_ros.io.messages import nanoseconds
from aliked_ros.ros.conversions import (
    feature_frame,
    image_from_message,
    loop_message,
    place_candidate_message,
)
from aliked_ros.ros.declarations import Settings
from aliked_ros.ros.frame import Frame
from aliked_ros.ros.managed_node import ManagedNode
from aliked_ros.ros.place_poses import OdometryPoses, Poses, TransformPoses
from aliked_ros.ros.recording import message_definition
from aliked_ros.ros.relocalization import answered, relocalized, turn, untracked
from aliked_ros.ros.session import Session
from aliked_ros.ros.warnings import reason
from aliked_ros.types import Candidate, Features
from aliked_ros.types import Keyframe as CoreKeyframe

DEFINED = {KEYFRAME: Keyframe, CAMERA_INFO: CameraInfo, ODOMETRY: Odometry}
"""The messages of a map."""

_QOS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
_CALLS_QOS = QoSProfile(depth=100)  # calls that may wait; more are lost silently
_TRIED = 5  # places that an image is matched with
_CANDIDATES = 3  # in an answer, unless asked for more
_LOG_PERIOD = 5.0  # seconds


class Places:
    """Every keyframe of the process, its services and ``~/loops``.

    It lives as long as the node; :meth:`open` and :meth:`close` are for the active state.
    """

    def __init__(self, node: ManagedNode, settings: Settings) -> None:
        """Offer the services."""
        self._node = node
        self._settings = settings
        self._database = KeyframeDatabase()
        self._files: dict[Path, MapFile] = {}
        self._filing = threading.Lock()
        self._model = ""
        self._loops: LifecyclePublisher | None = None
        self._session: Session | None = None
        self._active = ExitStack()
        self._create_service(Relocalize, "~/relocalize", self._on_relocalize)
        self._create_service(Localize, "~/localize", self._on_localize)
        self._create_service(MapFileService, "~/save_map", self._on_save)
        self._create_service(MapFileService, "~/load_map", self._on_load)

    def _create_service(self, kind: type, name: str, answer: Callable[..., Any]) -> None:
        group = MutuallyExclusiveCallbackGroup()  # its own: the others continue
        self._node.create_service(kind, name, answer, qos_profile=_CALLS_QOS, callback_group=group)

    def configure(self, model: str) -> None:
        """Take over the parameters, load the map; a problem with it is logged.

        model: the network whose features will come.
        """
        settings = self._settings
        if self._database.model not in ("", model):
            self._node.get_logger().warning(
                f"The {len(self._database)} places remembered have features of "
                f"{self._database.model}; with {model} they are forgotten."
            )
            self._database = KeyframeDatabase()
        self._model = model
        self._database.max_places = settings["max_places"]
        if settings["loops"]:
            self._loops = self._node.create_lifecycle_publisher(LoopCandidate, "~/loops", _QOS)
        if settings["map"]:
            self._load_first(settings["map"])

    def cleanup(self) -> None:
        """Take the topic away, let other processes save to our maps; places stay remembered."""
        for file in self._files.values():
            file.close()
        if self._loops is not None:
            self._node.destroy_lifecycle_publisher(self._loops)
            self._loops = None

    def open(self, session: Session) -> None:
        """Remember the keyframes of a session from now on, if the parameters say so."""
        self._session = session
        settings = self._settings
        if settings["places"] or settings["loops"] or settings["map"]:
            memory = _Memory(
                self._node, session, self._database, self._loops, settings["map_frame"]
            )
            self._active.callback(memory.close)
            session.listeners.append(memory.see)

    def close(self) -> None:
        """End the thread."""
        self._session = None
        self._active.close()

    def _load_first(self, name: str) -> None:
        path = Path(name).expanduser()
        log = self._node.get_logger()
        try:
            file = self._file(path)
            if not path.exists():
                log.info(f"The map {path} does not exist yet; ~/save_map writes it")
                return
            log.info(_sentence(path, file.load(self._database, self._model)))
        except Exception as error:  # mapping goes on
            log.warning(f"The map is not loaded: {reason(error)}")

    def _file(self, path: Path) -> MapFile:
        path = path.resolve()
        if path not in self._files:
            self._files[path] = MapFile(path)
        return self._files[path]

    def _path(self, request: MapFileService.Request) -> Path:
        name = request.path or self._settings["map"]
        if not name:
            raise ConfigurationError("path is empty; give the path of a map, or set parameter map.")
        return Path(name).expanduser().absolute()  # answers name the whole path

    # Services

    async def _on_save(
        self, request: MapFileService.Request, response: MapFileService.Response
    ) -> MapFileService.Response:
        def fill() -> None:
            with self._filing:
                path = self._path(request)
                if not len(self._database):
                    raise ConfigurationError(
                        "no keyframe is remembered yet; set parameter places, loops or map, and "
                        "show the camera something."
                    )
                definitions = {name: message_definition(kind) for name, kind in DEFINED.items()}
                response.places = self._file(path).save(self._database, definitions)
                response.success = True
                response.message = f"{response.places} keyframes are saved in {path}"

        return await answered(self._node, response, fill)

    async def _on_load(
        self, request: MapFileService.Request, response: MapFileService.Response
    ) -> MapFileService.Response:
        def fill() -> None:
            with self._filing:
                path = self._path(request)
                loaded = self._file(path).load(self._database, self._model)
                response.places = loaded.places
                response.success = True
                response.message = _sentence(path, loaded)

        return await answered(self._node, response, fill)

    async def _on_relocalize(
        self, request: Relocalize.Request, response: Relocalize.Response
    ) -> Relocalize.Response:
        session = self._session
        if session is None:
            response.message = f"no keyframes in state {self._node.state}"
            return response
        return await relocalized(self._node, session, request, response)

    async def _on_localize(
        self, request: Localize.Request, response: Localize.Response
    ) -> Localize.Response:
        session = self._session
        if session is None:
            response.message = f"nothing can be matched in state {self._node.state}"
            return response
        return await answered(
            self._node, response, partial(self._localize, session, request, response)
        )

    def _localize(
        self, session: Session, request: Localize.Request, response: Localize.Response
    ) -> None:
        if not len(self._database):
            response.message = "no keyframe is remembered; load a map, or set parameter places"
            return
        given: CameraModel | None = None
        if request.camera_info.width:
            given = CameraModel.from_info(request.camera_info, rectified=False)
        own: Key | None = None
        if request.image.width and request.image.height:
            image, header = image_from_message(request.image), request.image.header
            known = None
        elif session.latest:
            (latest,) = session.latest
            image, header, known = latest.image, latest.header, latest.result
            own = header.frame_id, known.tracks.epoch, known.index
        else:
            response.message = "no image has been processed yet, and none was given"
            return
        height, width = image.pixels.shape[:2]
        mask = session.inputs.mask(width, height)

        def attempt(turns: int) -> tuple[Features, list[tuple[Candidate, Place]]]:
            if known is not None and turns == 0:
                features = known.features
            else:
                with turn(session) as pipeline:
                    features = pipeline.extract(image.pixels, mask, turns)
            return features, self._look(session, features, given, own)

        with turn(session) as pipeline:
            quarters = pipeline.quarters
        features, found = best_turn(
            attempt, lambda seen: seen[0][0].inliers if seen else 0, quarters
        )
        if known is not None and features is known.features:
            result = known
        else:
            camera = given or session.inputs.calibration.camera
            result = untracked(features, image.stamp, camera)
        response.features = feature_frame(result, header)
        response.candidates = [
            place_candidate_message(*one) for one in found[: request.max_candidates or _CANDIDATES]
        ]
        response.success = bool(found)
        response.message = f"{len(found)} of {len(self._database)} places match the image"
        if given is not None and not given.fits(width, height):
            response.message += (
                f"; camera_info is of {given.width}x{given.height} pixels and the image of "
                f"{width}x{height}, so there is no pose: give the image's own camera_info"
            )

    def _look(
        self,
        session: Session,
        features: Features,
        camera: CameraModel | None,
        own: Key | None,
    ) -> list[tuple[Candidate, Place]]:
        """Verified candidates, most inliers first; the pipeline is held for one at a time.

        camera: of the image; None = the node's.
        """
        found = []
        for place in self._database.candidates(features, _TRIED, lambda one: one.key == own):
            with turn(session) as pipeline:
                candidate = pipeline.find_candidate(features, place.keyframe(), camera)
            if candidate is not None:
                found.append((candidate, place))
        return sorted(found, key=lambda one: -one[0].inliers)


def _sentence(path: Path, loaded: Loaded) -> str:
    known = loaded.places - loaded.added
    rest = f"; {known} were known" if known else ""
    return f"{loaded.added} keyframes of {path} are loaded{rest}. {loaded.note}".strip()


class _Memory:
    """Remembers the keyframes of one session, gives them poses, finds their loops."""

    def __init__(
        self,
        node: LifecycleNode,
        session: Session,
        database: KeyframeDatabase,
        loops: LifecyclePublisher | None,
        map_frame: str,
    ) -> None:
        """Start the thread, subscribe to tf, or to ``odometry`` without ``map_frame``."""
        self._node = node
        self._session = session
        self._database = database
        self._publisher = loops
        self._finder = LoopFinder(database, self._match)
        self._frames: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._poses: Poses = (
            TransformPoses(node, map_frame, database.set_pose, session.warnings)
            if map_frame
            else OdometryPoses(node, database.set_pose)
        )
        self._thread = threading.Thread(target=self._run, name="places", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Remember what still waits, end the thread, unsubscribe."""
        self._frames.put(None)
        self._thread.join()
        self._poses.close()

    def see(self, frame: Frame) -> None:
        """Take a processed image; returns at once."""
        if frame.result.is_keyframe:
            self._frames.put(frame)

    def _run(self) -> None:
        ended = False
        while not ended:
            waiting = self._wait()
            ended = None in waiting
            frames = [frame for frame in waiting if frame is not None]
            # all are remembered, and loops of the newest are looked for
            tasks = [partial(self._take, one, one is frames[-1] and not ended) for one in frames]
            for task in tasks or [partial(self._poses.look)]:
                try:
                    task()
                except Exception as error:
                    if not self._node.context.ok():
                        return
                    self._node.get_logger().warning(
                        f"A keyframe is not remembered: {reason(error)}",
                        throttle_duration_sec=_LOG_PERIOD,
                    )

    def _wait(self) -> list[Frame | None]:
        """The frames to remember, None = the end; empty when poses are to be looked for."""
        try:
            waiting = [self._frames.get(timeout=self._poses.period)]
        except queue.Empty:
            return []
        while not self._frames.empty():
            waiting.append(self._frames.get())
        return waiting

    def _take(self, frame: Frame, search: bool) -> None:
        place = Place.of(
            frame.result,
            nanoseconds(frame.header.stamp),
            frame.header.frame_id,
            frame.image.pixels,
            self._session.inputs.calibration.camera,
        )
        self._database.add(place)
        self._poses.add(place)
        if self._publisher is None:
            return
        if not search:
            self._finder.skip(place)
            return
        loop = self._finder.find(place)
        if loop is not None:
            self._publisher.publish(loop_message(loop))

    def _match(self, features: Features, keyframe: CoreKeyframe) -> Candidate | None:
        with turn(self._session) as pipeline:
            return pipeline.find_candidate(features, keyframe)
