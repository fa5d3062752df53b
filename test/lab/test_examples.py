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

"""The examples for back-ends run: the Python subscriber, and the C++ header and subscriber."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers import ROOT

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from builtin_interfaces.msg import Time
from catkin_pkg.package import parse_package
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header

import aliked_ros
from aliked_msgs.msg import FeatureFrame
from aliked_ros.frontend.codes import encode, projection
from aliked_ros.ros.conversions import feature_frame, image_message
from aliked_ros.types import Features, FrameResult, Matches, Tracks
from helpers.ros import PATIENCE, RELIABLE, Probe, environment

EXAMPLES = ROOT / "examples"
CPP = Path(__file__).parent / "cpp"
PREFIXES = [
    *map(Path, filter(None, os.getenv("AMENT_PREFIX_PATH", "").split(":"))),
    Path(sys.prefix),
]


def result(index: int, count: int = 400, dimension: int = 128) -> FrameResult:
    """Features that move by (3, 4) pixels an image and keep their ids."""
    rng = np.random.default_rng(1)
    keypoints = rng.uniform(0, 400, (count, 2)).astype(np.float32) + np.float32([3, 4]) * index
    descriptors = rng.normal(size=(count, dimension)).astype(np.float32)
    features = Features(
        keypoints.astype(np.float32), rng.random(count, np.float32), descriptors,
        640, 480, "aliked-n16",
    )  # fmt: skip
    ids = np.arange(1, count + 1, dtype=np.uint64) << np.uint64(20)
    lengths = np.full(count, index + 1, np.uint32)
    return FrameResult(index, float(index), features, Matches.empty(), Tracks(ids, lengths, 1))


def lines_of(script: str, **feeds: tuple[type, str, list[object]]) -> list[str]:
    """What an example prints of messages that are published; feeds: type, topic, messages."""
    probe = Probe()
    remap = ["--ros-args", "-r", "features:=aliked_frontend/features"]
    process = subprocess.Popen(
        [sys.executable, EXAMPLES / script, *remap],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    publishers = {
        name: probe.node.create_publisher(kind, topic, RELIABLE)
        for name, (kind, topic, _) in feeds.items()
    }
    try:
        for name, publisher in publishers.items():
            own = name == "features"  # the probe listens to them, too
            probe.wait(lambda p=publisher, n=1 + own: p.get_subscription_count() == n)
        probe.spin(0.3)
        for name, publisher in publishers.items():
            for message in feeds[name][2]:
                publisher.publish(message)
        probe.wait_arrived(*publishers.values())
        probe.spin(1.0)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        probe.close()
    assert process.returncode == 0, errors
    return said.splitlines()


FEATURES = (FeatureFrame, "aliked_frontend/features")


def header_of(index: int) -> Header:
    return Header(stamp=Time(sec=7, nanosec=index))


@pytest.mark.ros
def test_the_python_subscriber_reads_a_publisher():
    frames = []
    for index, encoding in enumerate(("float32", "float16", None, "binary256")):
        one = result(index)
        came_back = replace(one.tracks, recovered=np.arange(400) < index)
        frames.append(feature_frame(replace(one, tracks=came_back), header_of(index), encoding))
    assert lines_of("subscriber.py", features=(*FEATURES, frames)) == [
        "7.000000000: 400 features, 0 tracked, 0 came back, median motion 0.00 px, "
        "longest track 1 images, descriptors 400×128 float32",
        "7.000000001: 400 features, 400 tracked, 1 came back, median motion 5.00 px, "
        "longest track 2 images, descriptors 400×128 float16",
        "7.000000002: 400 features, 400 tracked, 2 came back, median motion 5.00 px, "
        "longest track 3 images, descriptors 400×0 float32",
        "7.000000003: 400 features, 400 tracked, 3 came back, median motion 5.00 px, "
        "longest track 4 images, descriptors 400×32 uint8",
    ]


@pytest.mark.ros
def test_message_filters_pair_each_image_with_its_features():
    pytest.importorskip("message_filters", reason="message_filters comes with ROS, not from wheels")
    images = [
        image_message(np.full((480, 640), 10 * index, np.uint8), header_of(index))
        for index in range(4)
    ]
    shown = (0, 1, 3)  # the front-end skipped one
    frames = [feature_frame(result(index), header_of(index), "float16") for index in shown]
    said = lines_of("synchronized.py", image=(Image, "image", images), features=(*FEATURES, frames))
    assert said == [
        f"7.{index:09d}: 400 features, mean brightness {10 * index:.1f}" for index in shown
    ]


def test_the_python_subscriber_needs_only_rclpy_numpy_and_the_messages():
    source = (EXAMPLES / "subscriber.py").read_text()
    imported = {line.split()[1].split(".")[0] for line in source.splitlines()
                if line.startswith(("import ", "from "))}  # fmt: skip
    assert imported == {"__future__", "numpy", "rclpy", "aliked_msgs"}


def test_the_cpp_package_is_described():
    package = parse_package(str(EXAMPLES / "cpp" / "package.xml"))
    warnings: list[str] = []
    package.validate(warnings)
    assert warnings == []
    assert (package.name, package.version) == ("aliked_examples", aliked_ros.__version__)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """Builds a program of test/lab/cpp with the headers of examples/cpp; gives its command.

    With the installed messages, and with OpenCV's headers, or a stand-in where it has none.
    """
    if (compiler := shutil.which("c++")) is None:
        pytest.skip("no C++ compiler (c++) on PATH")
    headers = "include/aliked_msgs/aliked_msgs/msg/feature_frame.hpp"
    if not any((prefix / headers).is_file() for prefix in PREFIXES):
        pytest.skip(f"C++ messages are not installed: no {headers} under {PREFIXES}")
    includes = [f"-I{folder}" for prefix in PREFIXES for folder in (prefix / "include").glob("*/")]
    libraries = [folder for prefix in PREFIXES if (folder := prefix / "lib").is_dir()]
    opencv = _opencv() or [f"-I{CPP / 'opencv_stand_in'}"]
    path = os.pathsep.join([*map(str, libraries), os.environ.get("LD_LIBRARY_PATH", "")])

    def command(name: str) -> list[str]:
        program = tmp_path_factory.mktemp("cpp") / name
        command = [
            compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-O1", "-pthread",
            CPP / f"{name}.cpp", "-o", program, f"-I{EXAMPLES / 'cpp' / 'include'}",
            *(flag.replace("-I", "-isystem") for flag in includes), *opencv,
            *(f"-L{folder}" for folder in libraries), *(f"-Wl,-rpath,{f}" for f in libraries),
            "-laliked_msgs__rosidl_typesupport_cpp", "-lrmw_fastrtps_cpp", "-lrmw", "-lrcutils",
            "-Wl,--allow-shlib-undefined",
        ]  # fmt: skip
        done = subprocess.run([*map(str, command)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return ["env", f"LD_LIBRARY_PATH={path}", str(program)]

    return command


@pytest.fixture(scope="module")
def convert(build: Callable[[str], list[str]]) -> list[str]:
    """Command that converts a serialized FeatureFrame by feature_frame.hpp."""
    return build("convert")


def _opencv() -> list[str]:
    """Compiler flags of an installed OpenCV; none without one."""
    command = ["pkg-config", "--cflags", "--libs", "opencv4"]
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True).split()
    except (OSError, subprocess.CalledProcessError):
        return []


def converted(convert: list[str], message: FeatureFrame, folder: Path) -> dict[str, np.ndarray]:
    """What the C++ header makes of a message; keypoints with their scores."""
    (folder / "frame.cdr").write_bytes(serialize_message(message))
    data = subprocess.check_output([*convert, str(folder / "frame.cdr")])
    read = 0

    def take(kind: type, *shape: int) -> np.ndarray:
        nonlocal read
        values = np.frombuffer(data, kind, int(np.prod(shape)), read).reshape(shape)
        read += values.nbytes
        return values

    count, columns, item = take(np.uint64, 3).tolist()
    arrays = {"keypoints": take(np.float32, count, 3), "ids": take(np.uint64, count)}
    arrays["descriptors"] = take(np.float32 if item == 4 else np.uint8, count, columns)
    rays, right, depth, ages, covariances, objects = take(np.uint64, 6).tolist()
    arrays |= {"normalized": take(np.float32, rays, 2), "right_x": take(np.float32, right)}
    arrays |= {"depth": take(np.float32, depth), "detection_age": take(np.uint32, ages)}
    arrays |= {"covariances": take(np.float32, covariances, 3)}
    arrays |= {"object_ids": take(np.uint32, objects)}
    arrays |= {"recovered": take(np.bool_, count)}
    assert read == len(data)
    return arrays


@pytest.mark.parametrize("encoding", ["float32", "float16", "binary256", None])
def test_cpp_keypoints_ids_and_descriptors_are_those_of_the_message(convert, tmp_path, encoding):
    one = result(3)
    message = feature_frame(one, Header(), encoding)
    arrays = converted(convert, message, tmp_path)
    np.testing.assert_array_equal(arrays["keypoints"][:, :2], one.features.keypoints)
    np.testing.assert_array_equal(arrays["keypoints"][:, 2], one.features.scores)
    np.testing.assert_array_equal(arrays["ids"], one.tracks.ids)
    for name in ("normalized", "right_x", "depth"):
        assert arrays[name].size == 0
    if encoding is None:
        assert arrays["descriptors"].size == 0
    elif encoding == "binary256":
        np.testing.assert_array_equal(arrays["descriptors"], encode(one.features.descriptors))
    else:
        expected = one.features.descriptors.astype(encoding).astype(np.float32)
        np.testing.assert_array_equal(arrays["descriptors"], expected)


def test_cpp_has_rays_stereo_depth_flow_objects_and_what_came_back(convert, tmp_path):
    one = result(3)
    rng = np.random.default_rng(5)
    depth = np.where(rng.random(400) < 0.5, np.nan, rng.random(400)).astype(np.float32)
    recovered = rng.random(400) < 0.1
    ages = rng.integers(0, 9, 400).astype(np.uint32)
    objects = rng.integers(0, 3, 400).astype(np.uint32)
    covariances = rng.random((400, 3)).astype(np.float32)
    one = replace(
        one, normalized=one.features.keypoints / 500, right_x=depth * 7, depth=depth,
        tracks=replace(one.tracks, recovered=recovered, objects=objects),
        features=replace(one.features, detection_age=ages, covariances=covariances),
    )  # fmt: skip
    arrays = converted(convert, feature_frame(one, Header()), tmp_path)
    for name, expected in (
        ("normalized", one.normalized), ("right_x", one.right_x), ("depth", depth),
        ("recovered", recovered), ("detection_age", ages), ("covariances", covariances),
        ("object_ids", objects),
    ):  # fmt: skip
        np.testing.assert_array_equal(arrays[name], expected)


def test_cpp_reads_every_half_precision_number(convert, tmp_path):
    """All 65536, with subnormals, infinities and NaN, as NumPy reads them."""
    bits = np.arange(65536, dtype=np.uint16)
    message = feature_frame(result(0, 512), Header(), "float16")
    message.descriptors = bits.tobytes()
    values = converted(convert, message, tmp_path)["descriptors"]
    expected = bits.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(values.ravel(), expected)
    assert (np.signbit(values.ravel()) == np.signbit(expected))[~np.isnan(expected)].all()


def test_cpp_takes_a_frame_without_features(convert, tmp_path):
    arrays = converted(convert, feature_frame(result(0, 0), Header()), tmp_path)
    assert not any(array.size for array in arrays.values())


@pytest.mark.parametrize(
    ("field", "words"),
    [("descriptors", f"{400 * 128 * 4 - 4} descriptor bytes"), ("depth", "396 depths")],
)
def test_cpp_refuses_a_frame_that_contradicts_itself(convert, tmp_path, field, words):
    message = feature_frame(replace(result(0), depth=np.ones(400, np.float32)), Header())
    setattr(message, field, getattr(message, field)[:-4])
    (tmp_path / "frame.cdr").write_bytes(serialize_message(message))
    done = subprocess.run([*convert, str(tmp_path / "frame.cdr")], capture_output=True, text=True)
    assert done.returncode == 1
    assert "400 scores" in done.stderr
    assert words in done.stderr


@pytest.mark.parametrize("dimension", [64, 128])
def test_cpp_codes_are_those_of_python(build, dimension):
    descriptors = result(0, 2000, dimension).features.descriptors
    data = subprocess.run(
        [*build("codes"), str(dimension)], input=descriptors.tobytes(), capture_output=True,
        check=True,
    ).stdout  # fmt: skip
    codes = np.frombuffer(data, np.uint8).reshape(2000, 32)
    differ = np.unpackbits(codes ^ encode(descriptors), axis=1, bitorder="little").astype(bool)
    projected = descriptors.astype(np.float64) @ projection(dimension).T
    assert (np.abs(projected[differ]) < 1e-4).all()  # of sums of `dimension` numbers around 1
    assert differ.mean() < 1e-5


@pytest.fixture(scope="module")
def extract(build: Callable[[str], list[str]]) -> list[str]:
    """Command that asks an OrbExtractor for the features of one image."""
    return build("extract")


@pytest.fixture
def stereo_file(tmp_path: Path) -> tuple[FrameResult, Path]:
    """A stereo image's result, and its message of 1.7e9 s and 123456789 ns in a file."""
    one = result(0)
    right = (one.features.keypoints[:, 0] - 5).astype(np.float32)
    one = replace(one, right_x=right, depth=np.ones(400, np.float32))
    objects = (np.arange(400) % 7 == 0).astype(np.uint32)
    one = replace(one, tracks=replace(one.tracks, objects=objects))
    header = Header(stamp=Time(sec=1_700_000_000, nanosec=123_456_789))
    file = tmp_path / "frame.cdr"
    file.write_bytes(serialize_message(feature_frame(one, header, "binary256")))
    return one, file


def test_cpp_extractor_answers_an_orb_extractors_call(extract, stereo_file):
    """In a double's precision of today's stamps, when the message comes after the image."""
    one, file = stereo_file
    image = ["640", "480", repr(1_700_000_000.123456789), "100", "200", "100", "50"]
    got = json.loads(subprocess.check_output([*extract, str(file), *image]))
    x = one.features.keypoints[:, 0]
    laps, allowed = (x >= 100) & (x <= 200), (np.round(x) >= 50) & one.tracks.at_rest
    order = np.concatenate([np.flatnonzero(allowed & ~laps), np.flatnonzero(allowed & laps)])
    assert (got["outside"], got["missed"]) == ((allowed & ~laps).sum(), 0)
    np.testing.assert_array_equal(np.float32(got["x"]), x[order])
    np.testing.assert_array_equal(np.float32(got["right_x"]), one.right_x[order])
    assert got["ids"] == one.tracks.ids[order].tolist()
    codes = encode(one.features.descriptors)[order]
    assert (got["columns"], bytes.fromhex(got["descriptors"])) == (32, codes.tobytes())
    assert {*got["angles"], *got["octaves"]} == {0}


def test_cpp_extractor_keeps_checks_by_scale_open(extract, stereo_file):
    """By the rules of ORB-SLAM's map points and matchers, for distances of 0.42 to 2.3 times."""
    _, file = stereo_file
    image = ["640", "480", "1700000000.1234567", "0", "0", "0", "0"]
    got = json.loads(subprocess.check_output([*extract, str(file), *image]))
    factors, levels = got["factors"], got["levels"]
    assert len(factors) == len(got["variances"]) == levels
    assert set(got["variances"]) == {1}
    longest = factors[0]  # times the first distance, of a keypoint in octave 0
    shortest = longest / factors[levels - 1]
    for distance in np.linspace(0.42, 2.3, 50):
        assert 0.8 * shortest < distance < 1.2 * longest
        predicted = int(np.ceil(np.log(longest / distance) / np.log(got["factor"])))
        predicted = min(max(predicted, 0), levels - 1)
        assert 0 in (predicted - 1, predicted)


@pytest.mark.parametrize("seconds", ["1700000000.2", "1699999999.9"])
def test_cpp_extractor_gives_up_on_an_image_without_a_message(extract, stereo_file, seconds):
    """After its patience, or at once when a later message shows that the image was left out."""
    _, file = stereo_file
    image = ["640", "480", seconds, "0", "0", "0", "0"]
    got = json.loads(subprocess.check_output([*extract, str(file), *image]))
    assert (got["outside"], got["missed"], got["x"]) == (0, 1, [])
    assert got["descriptors"] == ""


def test_cpp_extractor_refuses_a_scaled_image(extract, stereo_file):
    _, file = stereo_file
    image = ["320", "240", "1700000000.1234567", "0", "0", "0", "0"]
    done = subprocess.run([*extract, str(file), *image], capture_output=True, text=True)
    assert done.returncode == 1
    assert "the image has 320x240 pixels, the front-end's images 640x480" in done.stderr


@pytest.mark.long
@pytest.mark.ros
def test_the_cpp_package_builds_and_its_subscriber_reads_a_publisher(tmp_path):
    if not any((prefix / "share" / "rclcpp" / "cmake").is_dir() for prefix in PREFIXES):
        pytest.skip(f"no C++ ROS: rclcpp is in none of {[*map(str, PREFIXES)]} (it has no wheel)")
    if not _opencv():
        pytest.skip("no C++ OpenCV: pkg-config does not know opencv4")
    prefixes = ";".join(map(str, PREFIXES))
    build = tmp_path / "build"
    for command in (
        ["cmake", "-S", EXAMPLES / "cpp", "-B", build, f"-DCMAKE_PREFIX_PATH={prefixes}"],
        ["cmake", "--build", build],
    ):
        done = subprocess.run([*map(str, command)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    probe = Probe()
    publisher = probe.node.create_publisher(FeatureFrame, "aliked_frontend/features", RELIABLE)
    process = subprocess.Popen(
        [build / "subscriber", "--ros-args", "-r", "features:=aliked_frontend/features"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(),
    )  # fmt: skip
    try:
        probe.wait(lambda: publisher.get_subscription_count() == 2)
        probe.spin(0.3)
        publisher.publish(feature_frame(result(0), Header(), "float16"))
        probe.wait_arrived(publisher)
        probe.spin(1.0)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        probe.close()
    assert "400 keypoints, descriptors 400 x 128" in said
