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

"""The parameters of ``aliked_frontend``: the settings of the pipeline and the node's own."""

from __future__ import annotations

from dataclasses import fields

from aliked_ros.configuration import MAX_PLACES, SETTINGS, Setting
from aliked_ros.ros.declarations import Change, Declaration
from aliked_ros.ros.transports import DEPTH_SUFFIXES, VIDEO, VIDEO_MESSAGES

_LARGEST_OFFSET = 10.0  # seconds between the stamps of images and IMU


def _of_setting(setting: Setting) -> Declaration:
    facts = {row.name: getattr(setting, row.name) for row in fields(Setting)}
    return Declaration(**facts, change=Change.ANYTIME if setting.live else Change.UNCONFIGURED)


def _is_offset(text: str) -> bool:
    """Whether a text is a time offset."""
    try:
        return abs(float(text)) <= _LARGEST_OFFSET
    except ValueError:
        return False


def _thresholds(
    name: str, figure: str, warn: float, error: float, largest: float, unit: str = ""
) -> tuple[Declaration, Declaration]:
    """The two levels of one figure in ``/diagnostics``; see docs/operations.md."""
    first, second = (
        Declaration(
            f"diagnostics.{name}_{level}",
            default,
            f"/diagnostics: {level.upper()} {figure}; 0 = off.",
            limits=(0.0, largest),
            unit=unit,
            change=Change.ANYTIME,
        )
        for level, default in (("warn", warn), ("error", error))
    )
    return first, second


DECLARATIONS: tuple[Declaration, ...] = (
    *map(_of_setting, SETTINGS.values()),
    Declaration("autostart", True, "Configure and activate at start, without a lifecycle manager."),
    Declaration(
        "camera_source",
        "",
        "A camera that the node reads itself instead of subscribing to images: 'camera:N' (V4L2), "
        "'realsense', 'realsense:SERIAL', or 'virtual' to try it; empty = subscribe.",
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "camera_frame",
        "camera_optical_frame",
        "The frame_id of the images that the node reads itself.",
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "input",
        "mono",
        "'stereo' pairs image with right/image, both rectified; 'rgbd' with depth/image, "
        "registered to it.",
        choices=("mono", "stereo", "rgbd"),
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "sync",
        "exact",
        "Which stamps are one moment: 'exact' = equal ones (a rig that triggers both sensors), "
        "'approximate' = the nearest within sync_tolerance.",
        choices=("exact", "approximate"),
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "sync_tolerance",
        0.02,
        "Largest distance of two stamps that sync 'approximate' pairs; keep it below half the time "
        "between two images.",
        limits=(0.0, 10.0),
        unit="seconds",
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "sync_wait",
        0.1,
        "How long an image waits for its right or depth image before it is processed alone.",
        limits=(0.001, 10.0),
        unit="seconds",
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "image_transport",
        "raw",
        "'raw' subscribes to image, 'compressed' to image/compressed, 'h264' and 'h265' to a video "
        "(see video_messages); right/image likewise.",
        choices=("raw", "compressed", *VIDEO),
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "video_messages",
        "ffmpeg",
        "With image_transport h264 or h265: 'ffmpeg' subscribes to image/ffmpeg "
        "(ffmpeg_image_transport_msgs/FFMPEGPacket), 'foxglove' to image/foxglove "
        "(foxglove_msgs/CompressedVideo).",
        choices=tuple(VIDEO_MESSAGES),
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "depth_transport",
        "raw",
        "'raw' subscribes to depth/image, 'compressedDepth' to depth/image/compressedDepth.",
        choices=("raw", *DEPTH_SUFFIXES),
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "input_reliability",
        "best_effort",
        "QoS of the image subscriptions; 'reliable' receives nothing from best-effort cameras.",
        choices=("best_effort", "reliable"),
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "stamps",
        "header",
        "Stamps of images and results: 'header' = the camera's own; 'arrival' = when an image "
        "arrives, for drivers that leave the stamp 0 or repeat it. With it pairs need "
        "sync: approximate.",
        choices=("header", "arrival"),
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "input_depth",
        1,
        "QoS of the image subscriptions: images kept waiting; more than 1 makes results older.",
        limits=(1, 100),
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "rectified",
        False,
        "Images are rectified: use P of CameraInfo, without distortion, instead of K and D (stereo "
        "always does).",
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "mask_file",
        "",
        "Image file of the images' size: no features where it is 0 (parts of the robot, say).",
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "mask_sync",
        "latched",
        "Which images a message on mask is for: 'latched' = all that follow, 'stamped' = the one "
        "of its stamp (a segmentation of each image), which waits for it as for a partner: sync, "
        "sync_tolerance, sync_wait.",
        choices=("latched", "stamped"),
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "mask_missing",
        "latest",
        "With mask_sync stamped, an image whose mask does not come: 'latest' = uses the mask "
        "before, 'none' = is not masked.",
        choices=("latest", "none"),
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "mask_values",
        "0",
        "Values of the mask topic to ignore, with commas: classes of a segmentation, say.",
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "mask_border",
        False,
        "Rectified images: no features in the border that rectification left empty, from "
        "CameraInfo's K, D, R and P.",
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "imu_topic",
        "",
        "Topic of sensor_msgs/Imu: its gyroscope predicts where features go when the camera turns; "
        "empty = none.",
        change=Change.UNCONFIGURED,
        names="topic",
    ),
    Declaration(
        "imu_frame",
        "",
        "Frame of the IMU: its rotation to the images' frame comes from tf; empty = not from tf.",
        change=Change.UNCONFIGURED,
        needs="tf2_msgs",
    ),
    Declaration(
        "imu_rotation",
        "",
        "Rotation camera from IMU, a quaternion x,y,z,w; empty = from tf, with imu_frame, else "
        "estimated from the images.",
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "imu_time_offset",
        "auto",
        "An image's stamp plus this is the IMU's stamp of the same moment, in seconds; 'auto' = "
        "estimated from the images.",
        choices=("auto",),
        other=(_is_offset, f"seconds from -{_LARGEST_OFFSET:g} to {_LARGEST_OFFSET:g}"),
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "places",
        False,
        "Remember every keyframe, for ~/save_map and ~/localize; so do loops and map.",
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "loops",
        False,
        "Publish on ~/loops which keyframes show a place seen before.",
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "map",
        "",
        "Map to load at configure, where it exists, and to save to; ends in .mcap.",
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "map_frame",
        "",
        "Frame of the keyframes' poses, such as map or odom, looked up in tf; empty = poses come "
        "from the topic odometry.",
        change=Change.UNCONFIGURED,
        needs="tf2_msgs",
    ),
    Declaration(
        "max_places",
        MAX_PLACES,
        "Keyframes remembered, 160 KB each; beyond it the redundant ones are removed.",
        limits=(10, 1_000_000),
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "publish_descriptors", True, "Put the descriptors into ~/features.", change=Change.ANYTIME
    ),
    Declaration(
        "descriptor_encoding",
        "float32",
        "Type of the descriptors in ~/features: 'float16' takes half the bytes, 'binary256' 32 "
        "bytes each: bits for code that compares by Hamming distance, as ORB's.",
        choices=("float32", "float16", "binary256"),
        change=Change.ANYTIME,
    ),
    Declaration(
        "keyframe_descriptor_encoding",
        "same",
        "Type of the descriptors in ~/keyframes; 'same' = as in ~/features. LightGlue needs "
        "floats.",
        choices=("same", "float32", "float16", "binary256"),
        change=Change.ANYTIME,
    ),
    Declaration("publish_matches", True, "Publish ~/matches.", change=Change.ANYTIME),
    Declaration(
        "publish_vins",
        False,
        "Publish ~/vins_feature, for VINS-Fusion's estimator.",
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "publish_rtabmap",
        False,
        "Publish ~/rtabmap_features, for rtabmap's rgbd_image; needs rtabmap_msgs.",
        needs="rtabmap_msgs",
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "status_period",
        1.0,
        "Time between two messages on ~/status and /diagnostics.",
        limits=(0.05, 60.0),
        unit="seconds",
        change=Change.ANYTIME,
    ),
    *_thresholds("max_silence", "after this long without an image", 5.0, 15.0, 3600.0, "seconds"),
    Declaration(
        "silence_action",
        "report",
        "After diagnostics.max_silence_error without an image, and each time it passes again: "
        "'report' = log it once, 'resubscribe' = also replace the subscriptions, 'end' = end the "
        "process, which respawn in a launch file starts again.",
        choices=("report", "resubscribe", "end"),
        change=Change.ANYTIME,
    ),
    *_thresholds("max_refused", "above this share of images refused", 0.01, 0.5, 1.0),
    *_thresholds(
        "min_tracked", "below this share of keypoints that continue a track", 0.1, 0.0, 1.0
    ),
    *_thresholds("min_rate", "below this rate of images processed", 0.0, 0.0, 1000.0, "Hz"),
    *_thresholds(
        "max_latency", "above this mean time from received to published", 0.0, 0.0, 60.0, "seconds"
    ),
    *_thresholds("max_dropped", "above this share of images dropped", 0.0, 0.0, 1.0),
    *_thresholds("max_memory", "above this memory of the node's process", 0.0, 0.0, 1e6, "MB"),
    Declaration(
        "trail_length",
        15,
        "Length of the tails in ~/tracks/image and ~/annotations.",
        limits=(1, 1000),
        unit="frames",
        change=Change.UNCONFIGURED,
    ),
    Declaration(
        "picture_rate",
        10.0,
        "Highest rate of ~/tracks/image, ~/tracks/markers and ~/annotations, which people look at; "
        "0 = one for each image.",
        limits=(0.0, 1000.0),
        unit="Hz",
        change=Change.ANYTIME,
    ),
    Declaration(
        "draw_text",
        True,
        "Write a line of text into ~/tracks/image: rate, features, tracked, inliers, model, "
        "backend.",
        change=Change.ANYTIME,
    ),
    Declaration(
        "draw_legend",
        True,
        "Draw the colour scale of the track lengths into ~/tracks/image.",
        change=Change.ANYTIME,
    ),
)
