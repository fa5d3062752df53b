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

"""Files as the field has them: names, order and contents of inputs, and targets of outputs."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import StoragePlugin

from aliked_ros.camera import CameraModel
from aliked_ros.errors import (
    AlikedError,
    ConfigurationError,
    ImageError,
    OutputError,
    SourceError,
    WeightsError,
)
from aliked_ros.io.results import VideoFile, output_path, write_json
from aliked_ros.networks.checkpoint import read_state_dict
from aliked_ros.sources import open_source, read_image
from aliked_ros.sources.calibration_files import read_calibration
from helpers import bags
from helpers.bags import ROS2, SECOND, Entry

START = 1_700_000_000 * SECOND
BAD_NAME = os.fsdecode(b"caf\xe9")  # Latin-1
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = b"\n<!DOCTYPE html>\n<html><body>404"


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = cv2.imencode(".png", np.full((48, 64), value, np.uint8))[1]
    path.write_bytes(data.tobytes())
    return path


def values(source: Any) -> list[int]:
    return [int(image.pixels[0, 0]) for image in source]


# Folders and tables


@pytest.mark.parametrize(
    "names",
    [
        ("0.05", "0.1", "0.1333", "0.2"),  # times without their last zeros
        ("1305031102.175304", "1305031102.2", "1305031102.21", "1305031103.0"),
        ("1.9", "1.10", "2.1", "10.1"),  # numbers of parts
        ("IMG_1", "img_2", "IMG_3", "img_10"),
        ("1", "02", "3", "010"),
        ("frame-1", "frame-2", "frame-10", "frame-11"),
    ],
)
def test_the_order_of_images_is_that_of_their_numbers(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    for value, name in enumerate(names):
        picture(tmp_path / f"{name}.png", value)
    assert values(open_source(str(tmp_path))) == [0, 1, 2, 3]


def test_what_is_not_read_of_a_folder_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture(tmp_path / "1.png", 7)
    for suffix in (".jfif", ".JPE", ".pnm"):
        picture(tmp_path / f"2{suffix}", 8)
    (tmp_path / "3.png").symlink_to("nowhere.png")
    (tmp_path / "4.HEIC").write_bytes(b"")
    assert values(open_source(str(tmp_path))) == [7, 8, 8, 8]
    assert "1 .heic files (convert them to PNG) and 1 links" in caplog.text
    assert "such as 3.png" in caplog.text
    for file in tmp_path.iterdir():
        if not file.is_symlink() and file.suffix != ".HEIC":
            file.unlink()
    with pytest.raises(SourceError, match=r"no images .* It has 1 \.heic files .* and 1 links"):
        open_source(str(tmp_path))


def test_the_folder_above_folders_of_images_names_them(tmp_path: Path) -> None:
    picture(tmp_path / "left" / "1.png")
    picture(tmp_path / "right" / "1.png")
    with pytest.raises(SourceError, match=r"contains some: .*left, .*right\. Name one"):
        open_source(str(tmp_path))


TIMES = ("0.0", "0.1", "0.2")


def sequence(folder: Path, kind: str, rows: list[int], header: str = "", slash: str = "/") -> Path:
    """Images 0, 1, 2 in the order of ``rows``, as a table of this kind lists them."""
    root = folder / "mav0" / "cam0" if kind == "euroc" else folder
    lines = [header] if header else []
    for row in rows:
        name = f"rgb{slash}{row}.png"
        picture(root / ("data" if kind == "euroc" else "") / f"rgb/{row}.png", row)
        lines.append(
            {
                "frames": f"{row},{TIMES[row]},{name}",
                "tum": f"{TIMES[row]} {name}",
                "euroc": f"{10**18 + row * 10**8},{name}",
            }[kind]
        )
    table = root / {"frames": "frames.csv", "tum": "rgb.txt", "euroc": "data.csv"}[kind]
    table.write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("kind", ["frames", "tum", "euroc"])
def test_tables_are_read_as_tools_write_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """Out of order, with a row twice, with a header that is no comment, and by Windows."""
    mixed = values(open_source(str(sequence(tmp_path / "a", kind, [0, 2, 1]))))
    assert mixed == ([0, 2, 1] if kind == "frames" else [0, 1, 2])  # it has an index
    assert ("time goes back 1 times" in caplog.text) == (kind != "frames")
    assert values(open_source(str(sequence(tmp_path / "b", kind, [0, 1, 1])))) == [0, 1, 1]
    assert ("1 images have the stamp of another one" in caplog.text) == (kind != "frames")
    header = {"frames": "index,time,file", "tum": "time file", "euroc": "timestamp [ns],filename"}
    caplog.clear()
    path = sequence(tmp_path / "c", kind, [0, 1, 2], header[kind], "\\")
    assert values(open_source(str(path))) == [0, 1, 2]
    assert "goes back" not in caplog.text
    table = next(path.rglob("frames.csv" if kind == "frames" else "*.txt" if kind == "tum"
                            else "data.csv"))  # fmt: skip
    table.write_bytes(table.read_text().encode("utf-16"))
    with pytest.raises(SourceError, match=f"{table.name}.* save it as UTF-8"):
        open_source(str(path))


@pytest.mark.parametrize("scale", [None, 0, "5000", -1, float("nan"), float("inf")])
def test_a_depth_scale_that_is_none_is_refused(tmp_path: Path, scale: Any) -> None:
    sequence(tmp_path, "tum", [0, 1, 2])
    (tmp_path / "depth.txt").write_text((tmp_path / "rgb.txt").read_text())
    (tmp_path / "calib.json").write_text(json.dumps({"depth_scale": scale}))
    with pytest.raises(SourceError, match=f"depth_scale in its calib.json is {scale!r}"):
        open_source(str(tmp_path), partner="depth")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rtsp://robot/stream", "'rtsp://robot/stream' is a URI; copy it"),
        ("file:///data/run.mcap", "is a URI"),
        ("s3://bucket/run.mcap#/image", "is a URI"),
        ("~nobody-of-this-name/run.mcap", "no such user's home"),
        ("x" * 5000, "File name too long"),
    ],
)
def test_what_can_be_no_path_is_refused(spec: str, message: str) -> None:
    with pytest.raises(SourceError, match=message) as refused:
        open_source(spec)
    assert len(str(refused.value)) < 500


# Contents


@pytest.mark.parametrize(("content", "said"), [(LFS, "git lfs pull"), (PAGE, "a web page")])
def test_pointers_and_web_pages_are_named_whatever_they_should_be(
    tmp_path: Path, content: bytes, said: str
) -> None:
    for name in ("run.mcap", "run.db3", "run.bag", "run.mp4"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceError, match=f"{name}.*{said}"):
            open_source(str(tmp_path / name))
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(ImageError, match=f"image.png.*{said}"):
        read_image(tmp_path / "image.png")
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=f"weights.pth.*{said}"):
        read_state_dict(tmp_path / "weights.pth")


def entries(count: int = 3) -> list[Entry]:
    return [
        ("/eye", START + i * SECOND, bags.image(np.full((48, 64), i, np.uint8),
                                                START + i * SECOND, "mono8"))
        for i in range(count)
    ]  # fmt: skip


def test_a_recording_is_known_by_its_content(tmp_path: Path) -> None:
    files = [
        bags.write(tmp_path / "m", entries(), StoragePlugin.MCAP) / "m.mcap",
        bags.write(tmp_path / "s", entries(), StoragePlugin.SQLITE3) / "s.db3",
        bags.write_ros1(tmp_path / "r.bag", entries()),
    ]
    for file in files:
        for suffix in (".mcap", ".db3", ".bag"):
            renamed = file.rename(file.with_name(f"other{suffix}"))
            assert values(open_source(str(renamed))) == [0, 1, 2]
            renamed.rename(file)
    noname = files[0].rename(tmp_path / "noname")
    with pytest.raises(SourceError, match=r"noname .* MCAP file; name it \.mcap"):
        open_source(str(noname))


def test_a_recordings_name_may_have_the_sign_before_topics(tmp_path: Path) -> None:
    file = bags.write(tmp_path / "run", entries(), StoragePlugin.MCAP) / "run.mcap"
    file = file.rename(tmp_path / "run #1.mcap")
    for spec in (str(file), f"{file}#/eye", f"{file}#eye"):
        assert values(open_source(spec)) == [0, 1, 2]


@pytest.mark.parametrize("other", ["std_msgs/msg/Header", "sensor_msgs/msg/CompressedImage"])
def test_of_a_topic_with_two_types_the_images_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, other: str
) -> None:
    path = tmp_path / "run.mcap"
    with path.open("wb") as file:
        writer = McapWriter(file)
        writer.start("ros2")
        channels = {}
        for kind in ("sensor_msgs/msg/Image", other):
            text = ROS2.generate_msgdef(kind, ros_version=2)[0].encode()
            schema = writer.register_schema(kind, "ros2msg", text)
            channels[kind] = writer.register_channel("/eye", "cdr", schema)
        for number, (_, time, message) in enumerate(entries()):
            header = message.header
            added = [message]
            if number:
                packed = bags.compressed(np.zeros((48, 64), np.uint8), time)
                added.append(header if "Header" in other else packed)
            for one in added:
                data = bytes(ROS2.serialize_cdr(one, one.__msgtype__))
                writer.add_message(channels[one.__msgtype__], time, data, time)
        writer.finish()
    source = open_source(str(path))
    assert source.length == 3
    assert values(source) == [0, 1, 2]
    assert "/eye has messages of 2 types" in caplog.text
    assert f"2 {other}" in caplog.text
    assert "only those of sensor_msgs/msg/Image are read" in caplog.text


@pytest.mark.parametrize("name", ["sensor_msgs::msg::Image", "sensor_msgs::msg::dds_::Image_"])
def test_types_may_be_named_as_dds_names_them(tmp_path: Path, name: str) -> None:
    file = bags.write(tmp_path / "run", entries(), StoragePlugin.SQLITE3) / "run.db3"
    database = sqlite3.connect(file)
    database.execute("UPDATE topics SET type = ?", (name,))
    database.execute("UPDATE messages SET timestamp = timestamp - ?", (2 * START,))
    database.commit()
    database.close()
    source = open_source(str(file))  # whose recorder's clock was before 1970, too
    assert values(source) == [0, 1, 2]


def test_a_video_that_begins_late_is_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for i in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), i, np.uint8), format="rgb24")
            frame.pts = 150 + i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    source = open_source(str(path))
    assert len(list(source)) == 10
    assert source.skipped == 0
    assert "damaged" not in caplog.text


def test_a_name_that_is_not_utf8_does_not_crash_opencv(tmp_path: Path, monkeypatch) -> None:
    """OpenCV 5 ends the process; what it opens itself is refused, all else is read."""
    # log lines with the name would end up in pytest's report, which pytest-xdist cannot send then
    monkeypatch.setattr(logging.getLogger("aliked_ros"), "propagate", False)
    folder = tmp_path / BAD_NAME
    picture(folder / "1.png", 3)
    (folder / "calibration.yml").write_text(OPENCV)
    source = open_source(str(folder))
    assert values(source) == [3]
    assert source.calibration is not None
    (folder / "a.mp4").write_bytes(b"x")
    with pytest.raises(SourceError, match="not valid UTF-8; rename it"):
        open_source(str(folder / "a.mp4"))
    video = VideoFile(folder / "out.mp4", 30.0)
    with pytest.raises(OutputError, match="not valid UTF-8; rename it"):
        video.add(np.zeros((48, 64, 3), np.uint8))
    program = (
        "import sys; from aliked_ros.cli.main import app;"
        "from typer.testing import CliRunner;"
        "from aliked_ros.cli.shared import show;"
        "app.command('print')(lambda: show({'path': sys.argv[1]}, False)); app(['print'])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, check=False, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert b"caf\\udce9" in run.stdout


# Calibrations

OPENCV = """%YAML:1.0
---
image_width: 640
image_height: 480
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 520., 0., 318., 0., 518., 250., 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 5
   cols: 1
   dt: d
   data: [ 0.2, -0.3, 0.001, -0.002, 0. ]
"""
ORB = """%YAML:1.0
Camera.type: "PinHole"
Camera.fx: 520.0
Camera.fy: 518.0
Camera.cx: 318.0
Camera.cy: 250.0
Camera.k1: 0.2
Camera.k2: -0.3
Camera.p1: 0.001
Camera.p2: -0.002
Camera.width: 640
Camera.height: 480
"""
VINS = """%YAML:1.0
---
model_type: PINHOLE
image_width: 640
image_height: 480
distortion_parameters: {k1: 0.2, k2: -0.3, p1: 0.001, p2: -0.002}
projection_parameters: {fx: 520.0, fy: 518.0, cx: 318.0, cy: 250.0}
"""
BESIDE = """extrinsicRotation: !!opencv-matrix
   rows: 1
   cols: 3
   dt: d
   data: [ 1., 0., 0. ]
"""
ECHO = """header:
  frame_id: eye
height: 480
width: 640
distortion_model: plumb_bob
d: [0.2, -0.3, 0.001, -0.002, 0.0]
k: [520.0, 0.0, 318.0, 0.0, 518.0, 250.0, 0.0, 0.0, 1.0]
---
"""
COLMAP = struct.pack(
    "<QiiQQ8d", 1, 7, 4, 640, 480, 520.0, 518.0, 318.5, 250.5, 0.2, -0.3, 0.001, -0.002
)
JSON = json.dumps(
    {
        "image_width": 640,
        "image_height": 480,
        "camera_matrix": {
            "type_id": "opencv-matrix", "rows": 3, "cols": 3, "dt": "d",
            "data": [520.0, 0.0, 318.0, 0.0, 518.0, 250.0, 0.0, 0.0, 1.0],
        },
        "distortion_coefficients": {
            "type_id": "opencv-matrix", "rows": 4, "cols": 1, "dt": "d",
            "data": [0.2, -0.3, 0.001, -0.002],
        },
    }
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("calibration.yml", "\ufeff" + OPENCV),
        ("calibration.yml", OPENCV.replace("\n", "\r\n")),
        ("calibration.yml", OPENCV.removeprefix("%YAML:1.0\n---\n")),
        ("calibration.yml", OPENCV.replace("camera_matrix", "Camera_Matrix")
         .replace("distortion_coefficients", "Distortion_Coefficients")),
        ("calibration.yml", OPENCV.replace("camera_matrix", "K")
         .replace("distortion_coefficients", "D")),
        ("calib.json", JSON),
        ("calibration.yaml", ORB),
        ("calibration.yaml", "\n".join(
            line.replace("Camera.", "Camera1.") if line[7:9] in ("fx", "fy", "cx", "cy", "k1",
                                                                "k2", "p1", "p2") else line
            for line in ORB.splitlines())),
        ("calibration.yaml", ORB + BESIDE),
        ("calibration.yaml", VINS),
        ("calibration.yaml", VINS + BESIDE),
        ("calib.json", json.dumps({
            "width": 640, "height": 480, "fx": 520, "fy": 518, "cx": 318, "cy": 250,
            "distortion_model": "plumb_bob", "distortion": [0.2, -0.3, 0.001, -0.002],
            "K": [[520, 0, 318], [0, 518, 250], [0, 0, 1]]})),
        ("camera_info.yaml", ECHO),
        ("camera_info.yaml", ECHO.replace("d: [", "D: [").replace("k: [", "K: [")),
        ("cameras.bin", COLMAP),
    ],
)  # fmt: skip
def test_calibrations_as_other_programs_write_them(
    tmp_path: Path, name: str, content: str | bytes
) -> None:
    picture(tmp_path / "1.png")
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(data)
    calibration = open_source(str(tmp_path)).calibration
    assert calibration is not None
    camera = CameraModel.from_calibration(calibration)
    assert camera.fits(640, 480)
    np.testing.assert_allclose(camera.matrix, [[520, 0, 318], [0, 518, 250], [0, 0, 1]])
    np.testing.assert_allclose(camera.distortion[:4], [0.2, -0.3, 0.001, -0.002])


@pytest.mark.parametrize(
    ("text", "model", "coefficients"),
    [
        (ORB.replace("PinHole", "KannalaBrandt8").replace("p1", "k3").replace("p2", "k4"),
         "equidistant", [0.2, -0.3, 0.001, -0.002]),
        ("model_type: MEI\nimage_width: 640\nimage_height: 480\nmirror_parameters: {xi: 1.5}\n"
         "distortion_parameters: {k1: 0.2, k2: -0.3, p1: 0.001, p2: -0.002}\n"
         "projection_parameters: {gamma1: 520, gamma2: 518, u0: 318, v0: 250}\n",
         "omnidirectional", [1.5, 0.2, -0.3, 0.001, -0.002]),
        ("model_type: KANNALA_BRANDT\nimage_width: 640\nimage_height: 480\n"
         "projection_parameters: {k2: 0.2, k3: -0.3, k4: 0.001, k5: -0.002, mu: 520, mv: 518,"
         " u0: 318, v0: 250}\n", "equidistant", [0.2, -0.3, 0.001, -0.002]),
    ],
)  # fmt: skip
def test_wide_lenses_of_orb_slam_and_vins(
    tmp_path: Path, text: str, model: str, coefficients: list[float]
) -> None:
    (tmp_path / "calibration.yaml").write_text(text)
    camera = CameraModel.from_calibration(read_calibration(tmp_path / "calibration.yaml"))
    assert camera.distortion_model == model
    np.testing.assert_allclose(camera.matrix, [[520, 0, 318], [0, 518, 250], [0, 0, 1]])
    np.testing.assert_allclose(camera.distortion, coefficients)


def test_a_camera_info_of_a_region_is_that_of_its_images(tmp_path: Path) -> None:
    path = tmp_path / "camera_info.yaml"
    path.write_text(
        ECHO.replace("---", "") + "binning_x: 2\nbinning_y: 2\n"
        "roi: {x_offset: 100, y_offset: 40, width: 400, height: 200, do_rectify: false}\n"
    )
    camera = CameraModel.from_calibration(read_calibration(path))
    assert camera.fits(200, 100)
    np.testing.assert_allclose(camera.matrix, [[260, 0, 108.75], [0, 259, 104.75], [0, 0, 1]])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cameras.txt", "1 PINHOLE 640 480 1 1 1 1\n2 PINHOLE 320 240 1 1 1 1", "2 cameras, which"),
        ("cameras.txt", "1 OPENCV 640 480 1 1 1 1", "OPENCV has 4 parameters, not 8"),
        ("cameras.txt", "1 OPENCV", "'1 OPENCV', not ID MODEL"),
        ("cameras.bin", COLMAP[:40], "no complete calibration"),
        ("cameras.bin", b"\1", "no complete calibration"),
        ("calibration.yaml", "a: " + "[" * 2000, "nested too deeply"),
        ("calibration.yaml", OPENCV.replace("640", '"640"'), "it needs camera_matrix, image_width"),
        ("calibration.yaml", ORB.replace("PinHole", "Fisheye"), "Camera.type is 'Fisheye'; known"),
        ("calibration.yaml", VINS.replace("PINHOLE", "SCARAMUZZA"), "model_type is 'SCARAMUZZA'"),
        (
            "calib.json",
            '{"width": 9, "height": 9, "fx": "9", "fy": 9, "cx": 4, "cy": 4}',
            "fx is '9'; give a number",
        ),
        (
            "calib.json",
            '{"width": 9, "height": 9, "fx": NaN, "fy": 9, "cx": 4, "cy": 4}',
            "it must be 3×3, finite",
        ),
        ("camera_info.yaml", ECHO.replace("0.2", ".nan"), r"coefficients are \[nan"),
    ],
)
def test_calibrations_that_are_refused_say_why(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(AlikedError, match=message) as refused:
        read_calibration(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fx": "520"}, "fx is '520'; give a number"),
        ({"width": None}, "width is None"),
        ({"height": float("nan")}, "size is 640×nan"),
        ({"distortion": "none"}, "distortion is 'none'; give a list"),
    ],
)
def test_a_calib_json_of_other_types_is_refused(change: dict[str, Any], message: str) -> None:
    calibration = {"width": 640, "height": 480, "fx": 520, "fy": 518, "cx": 318, "cy": 250}
    assert CameraModel.from_calibration(calibration | {"distortion": None}).fits(640, 480)
    with pytest.raises(ConfigurationError, match=message):
        CameraModel.from_calibration(calibration | change)
    del calibration["fx"]
    with pytest.raises(ConfigurationError, match="fx is None"):
        CameraModel.from_calibration(calibration)


# Outputs


def test_outputs_that_are_no_files_are_refused_and_stay(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("mine")
    refused = {
        tmp_path / "pipe": "a device or a pipe",
        Path("s3://bucket/x.json"): "a URI",
        tmp_path / "file" / "x.json": "is a file, not a folder",
        tmp_path / "file" / "deeper" / "x.json": "is a file, not a folder",
    }
    for target, message in refused.items():
        with pytest.raises(OutputError, match=message):
            write_json(target, {})
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "file").read_text() == "mine"
    assert not Path("s3:").exists()


def test_links_in_a_circle_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with output_path(tmp_path / "a") as path:
        path.write_text("mine")
    assert (tmp_path / "a").read_text() == "mine"


def test_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "result.json"
    link.symlink_to("disk/result.json")  # which does not exist yet
    for content in ("one", "two"):
        with output_path(link) as path:
            path.write_text(content)
        assert link.is_symlink()
        assert (tmp_path / "disk" / "result.json").read_text() == content


@pytest.mark.parametrize("form", ["--output={}", "{}"])
def test_the_home_folder_is_found_where_the_shell_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    from aliked_ros.cli import main

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["aliked_ros", form.format("~/a"), "a~/b", "~"])
    given: list[str] = []
    monkeypatch.setattr(main, "app", lambda arguments, prog_name: given.extend(arguments))
    main.main("report")
    assert given == ["report", form.format(f"{tmp_path}/a"), "a~/b", "~"]
