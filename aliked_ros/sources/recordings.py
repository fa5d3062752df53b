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

"""Recordings as sources: images of an MCAP file, a rosbag2 folder or a ROS 1 bag.

Messages are streamed, so memory does not grow with the recording.
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from aliked_ros.camera import CameraModel
from aliked_ros.errors import ConfigurationError, ImageError, SourceError
from aliked_ros.io.bags import Bag
from aliked_ros.io.image_messages import depth_from_message, image_from_message, says_rectified
from aliked_ros.io.messages import nanoseconds
from aliked_ros.io.video import (
    COMPRESSED_VIDEO,
    FFMPEG_PACKET,
    Picture,
    VideoDecoder,
    packet_from_message,
)
from aliked_ros.sources.base import (
    SECOND,
    Partner,
    calibration_of_camera,
    image_at,
    rate_of,
    shorter,
    warn_of_another_size,
)
from aliked_ros.sources.rectification import Rectification, View
from aliked_ros.types import Image, UInt8Array

logger = logging.getLogger("aliked_ros.sources")

_RAW, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
_CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
_VIDEO = (FFMPEG_PACKET, COMPRESSED_VIDEO)
_SUFFIX = re.compile(r"/(compressed|ffmpeg|foxglove|compressedDepth)$")  # transports
_SUFFIXES = ("", "/compressed", "/ffmpeg", "/foxglove", "/compressedDepth")
_TOPICS = re.compile(r"[\w/, ~-]*")  # after '#'; a file's own name may have that sign too
_DEPTH = re.compile(r"depth", re.IGNORECASE)
_RIGHT = re.compile(r"right", re.IGNORECASE)
_DERIVED = re.compile(r"disparity|mask|/tracks/|theora|confidence", re.IGNORECASE)
_TOLERANCE = {"right": 0.002, "depth": 0.02}  # seconds between an image and its partner
_LATER = 10 * SECOND  # a partner later than this has an unrelated stamp
_WAITING = 30  # images that wait for their partner
_SAMPLE = 20  # images that determine the rate
_SETTLING = 2 * SECOND  # of arrival, after which the order of images does not depend on the start


_Item = tuple[int, Any, Any]
"""Stamp, image and partner."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """The topics to read. base: the image's topic without its transport."""

    image: str
    partner: str | None
    base: str


class _Lost(NamedTuple):
    """Stands for a packet that gave no picture. header: of another one near it."""

    header: Any


class Recording:
    """The images of one topic, with the right or depth images of another one."""

    def __init__(
        self, path: Path, topics: tuple[str, ...], limit: int | None, partner: Partner
    ) -> None:
        """Choose the topics; SourceError if they are missing or ambiguous.

        topics: of the images, and of the right or depth images; others are chosen automatically.
        """
        self.name = path.resolve().stem
        self.skipped = self.first = 0
        self._path = path
        self._limit = limit
        self._kind = partner
        self._bag = Bag(path)
        kinds = (_RAW, _COMPRESSED, *_VIDEO)
        self._images = [t for t in self._bag.topics if t.msgtype in kinds]
        if not self._images:
            raise SourceError(
                f"{path} has no images; {self._bag.contents} Supported are sensor_msgs/Image and "
                "CompressedImage, foxglove_msgs/CompressedVideo and "
                "ffmpeg_image_transport_msgs/FFMPEGPacket."
            )
        self._topics = self._choose(topics)
        self._videos = {t.name for t in self._images if t.msgtype in _VIDEO}
        if self._videos & {self._topics.image, self._topics.partner}:
            VideoDecoder()  # refuses now where it cannot be had
        count = next(t.count for t in self._images if t.name == self._topics.image)
        self.length: int | None = shorter(count, limit)
        arrivals, stamps = self._sample()
        self._unstamped = len(stamps) > 1 and len(set(stamps)) == 1
        good = [(own, own - at) for own, at in zip(stamps, arrivals, strict=True) if own > 0]
        # Offset from arrival times to header stamps, e.g. for simulated time.
        self._offset = round(float(np.median([offset for _, offset in good]))) if good else 0
        self._replaced = self._late = 0  # stamps, images
        self._stamped = len(good) == len(stamps)
        if self._unstamped:
            logger.warning(
                "%s: the images on %s have no stamps (all are %g s): their times of arrival are "
                "used.", path, self._topics.image, stamps[0] / SECOND,
            )  # fmt: skip
        self.rate = rate_of(arrivals if self._unstamped else [own for own, _ in good])
        self._rectification: Rectification | None = None
        self.calibration: dict[str, Any] | None = self._calibration()

    def __iter__(self) -> Iterator[Image]:
        """Decode the images in order of time; SourceError for damage, or if none can be read.

        An image that arrived after its successor is reordered; if stamps go back further, the
        order of arrival is kept.
        """
        self.skipped = self._replaced = self._late = read = alone = lost = 0
        warned = False
        start, before = (0, 0) if self._topics.partner else self._begin()
        pairs = self._pairs() if self._topics.partner else (
            (self._stamp(message, time), message, None)
            for time, _, message in self._decoded([self._topics.image], start, before)
        )  # fmt: skip
        stop = None if self._limit is None else max(self._limit - before, 0)
        for stamp, message, partner in islice(self._in_order(pairs), self.first - before, stop):
            if isinstance(message, _Lost):
                self.skipped, lost = self.skipped + 1, lost + 1
                continue
            read += 1
            try:
                image = image_at(_pixels(message), stamp)
            except ImageError as error:
                self.skipped += 1
                logger.warning("skipped an image of %s: %s", self._topics.image, error)
                if self.skipped == self.length:
                    raise SourceError(
                        f"none of the {self.skipped} images on {self._topics.image} of "
                        f"{self._path} can be read; the last one: {error}"
                    ) from error
                continue
            if not warned:
                warned = True
                warn_of_another_size(self.name, self.calibration, image.pixels)
            if partner is not None:
                image = self._completed(image, partner)
            alone += image.right is None and image.depth is None
            yield image if self._rectification is None else self._rectification(image)
        if lost and not read and not self.first:
            raise SourceError(
                f"none of the {lost} packets on {self._topics.image} of {self._path} "
                "gave a picture: the recording has no key frame that can be decoded."
            )
        if self._topics.partner and alone:
            logger.warning(
                "%d of %d images of %s came alone: no readable message on %s had its stamp within "
                "%g s of theirs.", alone, read, self._topics.image, self._topics.partner,
                _TOLERANCE[self._kind],
            )  # fmt: skip
        if self._replaced:
            logger.warning(
                "%s: %d messages have no stamp (0 or before 1970): times of arrival were used.",
                self._path, self._replaced,
            )  # fmt: skip
        if self._late:
            logger.warning(
                "%s: %d images arrived after their successor; they were reordered.",
                self._path, self._late,
            )  # fmt: skip
        if self._bag.cut_off:
            logger.warning(
                "%s: read up to its last complete chunk, %d images; its end is missing.",
                self._path,
                read,
            )

    def _completed(self, image: Image, partner: Any) -> Image:
        try:
            if self._kind == "depth":
                return replace(image, depth=depth_from_message(partner))
            return replace(image, right=_pixels(partner))
        except ImageError as error:
            logger.warning("an image of %s comes alone: %s", self._topics.image, error)
            return image

    def _sample(self) -> tuple[list[int], list[int]]:
        """Arrival times and header stamps of the first images, nanoseconds."""
        arrivals, stamps = [], []
        with suppress(SourceError):  # damage is reported when reached
            for time, _, message in islice(self._received([self._topics.image]), _SAMPLE):
                arrivals.append(time)
                stamps.append(nanoseconds(message.header.stamp))
        if self._topics.image in self._videos:
            stamps.sort()  # packets with B-frames are not in the order of their pictures
        return arrivals, stamps

    def _stamp(self, message: Any, arrival: int) -> int:
        """The header's stamp in nanoseconds, or the arrival time if the driver left it empty."""
        if self._unstamped:
            return arrival
        own, expected = nanoseconds(message.header.stamp), arrival + self._offset
        if own > 0:
            self._offset = own - arrival
        elif abs(own - expected) > SECOND:  # simulated time can start at 0
            self._replaced += 1
            return expected
        return own

    def _messages(self, topic: str) -> Iterator[tuple[int, Any]]:
        """Stamp and message of one topic."""
        for time, _, message in self._decoded([topic]):
            yield self._stamp(message, time), message

    def _begin(self) -> tuple[int, int]:
        """Time of arrival from which ``first`` can be read, and the number of images before it.

        Of a video: of the last key frame; the packets before it are looked at, not decoded.
        """
        topic = self._topics.image
        times = self._bag.times(topic) if self.first and self._stamped else None
        if not times:
            return 0, 0
        if topic not in self._videos:
            start = times[min(self.first, len(times) - 1)] - _SETTLING
            return max(start, 0), bisect_left(times, start)
        found, entry = (0, 0), None
        head, since, latest, number = b"", 0, -1, 0
        for time, _, packet in self._received([topic]):
            if not head:
                since = time if time > latest else 0  # 0: it cannot be told from the one before
            latest = time
            if not packet.holds_picture():
                head += packet.data
                continue
            if entry is not None and not packet.is_leading():
                found = entry
            if number > self.first:
                break
            whole = replace(packet, data=head + packet.data) if head else packet
            entry = (since, number) if since and packet.is_key() and whole.is_entry() else None
            head, number = b"", number + 1
        return found

    def _received(self, topics: list[str], start: int = 0) -> Iterator[tuple[int, str, Any]]:
        """Time of arrival, topic and message; all messages have a header."""
        for time, topic, message in self._bag.messages(topics, start):
            yield time, topic, packet_from_message(message) if topic in self._videos else message

    def _decoded(
        self, topics: list[str], start: int = 0, first: int = 0
    ) -> Iterator[tuple[int, str, Any]]:
        """The same, with pictures in place of the packets of a video.

        start, first: as ``_begin`` returns them. Packets of the images that give no picture are
        made up for by _Lost before the next key frame, so that an image's number is its packet's.
        """
        decoders = {topic: VideoDecoder() for topic in topics if topic in self._videos}
        said = ""
        time, counted, given = 0, first, first  # packets that hold an image, and images
        message: Any = None
        for time, topic, message in self._received(topics, start):
            if topic not in decoders:
                yield time, topic, message
                continue
            mine = topic == self._topics.image
            if mine and message.holds_picture():
                message.number = counted
                counted += 1
            try:
                pictures = decoders[topic].decode(message)
            except ImageError as error:
                if str(error) != said:  # once for all that wait for a key frame
                    said = str(error)
                    logger.warning("skipped images of %s: %s", topic, error)
                continue
            for picture in pictures:
                if mine:
                    for _ in range(picture.packet.number - given if picture.packet.is_key() else 0):
                        yield time, topic, _Lost(picture.header)
                        given += 1
                    given += 1
                yield time, topic, picture
        for topic, decoder in decoders.items():
            for picture in decoder.flush():
                given += topic == self._topics.image
                yield time, topic, picture
        for _ in range(counted - given):
            yield time, self._topics.image, _Lost(message.header)

    def _pairs(self) -> Iterator[_Item]:
        """Stamp, image, and the nearest partner within the tolerance (None = none)."""
        assert self._topics.partner is not None
        tolerance = round(_TOLERANCE[self._kind] * SECOND)
        images: deque[tuple[int, Any]] = deque()
        partners: deque[tuple[int, Any]] = deque(maxlen=_WAITING)

        def paired() -> _Item:
            stamp, image = images.popleft()
            near = [p for p in partners if abs(p[0] - stamp) <= tolerance]
            best = min(near, key=lambda p: abs(p[0] - stamp), default=(0, None))
            return stamp, image, best[1]

        for time, topic, message in self._decoded([self._topics.image, self._topics.partner]):
            (images if topic == self._topics.image else partners).append(
                (self._stamp(message, time), message)
            )
            # Certain once a partner with this stamp, or a slightly later one, has arrived.
            while images and (
                len(images) > _WAITING
                or any(
                    p == images[0][0] or tolerance < p - images[0][0] < _LATER for p, _ in partners
                )
            ):
                yield paired()
        while images:
            yield paired()

    def _in_order(self, items: Iterator[_Item]) -> Iterator[_Item]:
        held: _Item | None = None
        try:
            for item in items:
                if held is None:
                    held = item
                elif held[0] - SECOND < item[0] < held[0]:
                    self._late += 1
                    yield item
                else:
                    yield held
                    held = item
        except SourceError:  # images before the damage come first
            if held is not None:
                yield held
            raise
        if held is not None:
            yield held

    # Choice of topics

    def _choose(self, named: tuple[str, ...]) -> _Choice:
        image = self._existing(named[0]) if named else self._only(self._cameras(), "image topics")
        base = _SUFFIX.sub("", image)
        if self._kind == "none":
            return _Choice(image, None, base)
        if len(named) > 1:
            partner = self._existing(named[1])
        elif self._kind == "depth":
            depths = [t.name for t in self._images if _DEPTH.search(t.name) and t.msgtype == _RAW]
            packed = [t.name for t in self._images if t.name.endswith("/compressedDepth")]
            depths += [n for n in packed if _SUFFIX.sub("", n) not in depths]
            depths = [n for n in depths if "aligned" in n] or depths
            partner = self._only([n for n in depths if n != image], "depth topics")
        else:
            bases = self._bases()
            rights = [n for n in bases if _left_of(n, bases) == base]
            rights = rights or [n for n in bases if _RIGHT.search(n)]
            partner = self._existing(self._only(rights, "topics of a right camera"))
        return _Choice(image, partner, base)

    def _bases(self) -> list[str]:
        """The image topics without their transports."""
        return sorted({_SUFFIX.sub("", t.name) for t in self._images})

    def _cameras(self) -> list[str]:
        """Topics that look like the (left) camera's, raw before compressed."""
        bases = self._bases()
        no_depth = [n for n in bases if not _DEPTH.search(n) and not _DERIVED.search(n)] or bases
        firsts = [n for n in no_depth if not _RIGHT.search(n) and not _left_of(n, bases)]
        firsts = firsts or no_depth
        return [self._existing(name) for name in firsts]

    def _existing(self, name: str) -> str:
        """The image topic of this name, or of one of its transports."""
        held = {t.name for t in self._images}
        for suffix in _SUFFIXES:
            if name + suffix in held:
                return name + suffix
        raise SourceError(f"{self._path} has no images on {name}. {self._listing()}")

    def _only(self, names: list[str], what: str) -> str:
        if len(names) == 1:
            return names[0]
        found = f"{len(names)} {what} ({', '.join(names)})" if names else f"no {what}"
        form = f"{self._path.name}#/image/topic"
        form += {"none": "", "right": ",/right/topic", "depth": ",/depth/topic"}[self._kind]
        raise SourceError(f"{self._path} has {found}; name what is meant, as {form}. "
                          + self._listing())  # fmt: skip

    def _listing(self) -> str:
        held = ", ".join(f"{t.name} ({t.count})" for t in self._images)
        return f"Its image topics: {held}."

    # Calibration

    def _calibration(self) -> dict[str, Any] | None:
        """Calibration of the images as delivered: rectified if they come in pairs."""
        try:
            info = self._info(self._topics.base)
            if info is None:
                logger.warning("%s has no camera_info: the camera is not calibrated.", self._path)
                return None
            if self._kind == "right" and self._topics.partner is not None:
                right = self._info(_SUFFIX.sub("", self._topics.partner))
                return self._pair_calibration(info, right)
            return calibration_of_camera(
                CameraModel.from_info(info, says_rectified(self._topics.base))
            )
        except (ConfigurationError, SourceError, AttributeError, TypeError, ValueError) as error:
            logger.warning("camera_info of %s is not used: %s", self._path, error)
            return None

    def _pair_calibration(self, info: Any, right: Any) -> dict[str, Any]:
        calibration = calibration_of_camera(CameraModel.from_info(info, rectified=True))
        if right is None:
            logger.warning(
                "%s has no camera_info of %s: the images are taken as rectified, their baseline "
                "is not known.", self._path, self._topics.partner,
            )  # fmt: skip
            return calibration
        if not says_rectified(self._topics.base) and (_is_raw(info) or _is_raw(right)):
            self._rectification = Rectification(_view(info), _view(right))
            return self._rectification.calibration
        focal, shift = float(right.p[0]), float(right.p[3])
        if focal > 0.0 and shift < 0.0 and np.isfinite(shift / focal):
            calibration["stereo_baseline_m"] = -shift / focal
        else:
            logger.warning(
                "%s: there is no baseline, so stereo gives no depth: P[3] of the right camera_info "
                "is %g where it must be -fx · baseline, below 0. %s", self._path, shift,
                "The cameras are swapped, or its sign is wrong." if shift > 0.0
                else "Its driver left it out.",
            )  # fmt: skip
        return calibration

    def _info(self, base: str) -> Any:
        """The first CameraInfo of an image topic, or the only one there is, or None."""
        topics = [t.name for t in self._bag.topics if t.msgtype == _CAMERA_INFO]
        beside = str(PurePosixPath(base).with_name("camera_info"))
        if beside not in topics:
            # RealSense's SDK records STREAM/image/data and STREAM/info/camera_info.
            near = [t for t in topics if _common(t, base) > 0]
            near = [
                t for t in near if all(_common(t, base) >= _common(t, o) for o in self._bases())
            ]
            closest = max((_common(t, base) for t in near), default=0)
            near = [t for t in near if _common(t, base) == closest]
            alone = len(topics) == 1 and len(self._bases()) == 1
            if len(near) != 1 and not alone:
                return None
            beside = near[0] if len(near) == 1 else topics[0]
        _, info = next(self._messages(beside), (0, None))
        if info is None:  # the index was wrong
            return None
        if hasattr(info, "K"):  # ROS 1
            names = {"d": "D", "k": "K", "r": "R", "p": "P"}
            fields = {field: getattr(info, old) for field, old in names.items()}
            others = ("width", "height", "distortion_model", "binning_x", "binning_y", "roi")
            return SimpleNamespace(**fields, **{name: getattr(info, name) for name in others})
        return info


def split_topics(spec: str) -> tuple[str, tuple[str, ...]]:
    """Split ``PATH#/image,/partner`` into path and topics."""
    path, mark, names = spec.rpartition("#")
    if not mark or not _TOPICS.fullmatch(names):
        return spec, ()
    return path, tuple(f"/{n.strip().lstrip('/')}" for n in names.split(",") if n.strip())


def _pixels(message: Any) -> UInt8Array:
    """H×W or H×W×3 RGB; ImageError for what is no camera image."""
    return message.pixels() if isinstance(message, Picture) else image_from_message(message).pixels


def _left_of(name: str, names: list[str]) -> str | None:
    """The preceding camera's topic: left for right, cam0 for cam1, infra1 for infra2."""
    for word in re.finditer(r"right|\d+", name, re.IGNORECASE):
        for other in (str(int(word[0]) - 1),) if word[0].isdecimal() else ("left", ""):
            left = (name[: word.start()] + other + name[word.end() :]).replace("//", "/")
            if left in names:
                return left
    return None


def _common(topic: str, other: str) -> int:
    """Number of leading name parts that two topics share."""
    pairs = zip(topic.strip("/").split("/"), other.strip("/").split("/"), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _is_raw(info: Any) -> bool:
    """Whether the images of this CameraInfo need rectification."""
    return bool(np.any(info.d)) or not np.allclose(np.reshape(info.r, (3, 3)), np.eye(3))


def _view(info: Any) -> View:
    camera = CameraModel.from_info(info, rectified=False)
    rotation = np.reshape(info.r, (3, 3)).astype(np.float64)
    return View(camera, rotation, np.reshape(info.p, (3, 4)).astype(np.float64))
