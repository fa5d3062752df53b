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

"""Sources of images: every kind, the order, the times, the colours, and what is broken."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin

from aliked_ros.errors import ImageError, SourceError
from aliked_ros.sources import Partner, default_source, open_source, read_image
from helpers import bags

RED = (0, 0, 255)  # as OpenCV writes it


def write(path: Path, value: int = 0, size: tuple[int, int] = (64, 80)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.full((*size, 3), RED, np.uint8)
    picture[:, :, 0] = value
    assert cv2.imwrite(str(path), picture)
    return path


def truncate(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def values(spec: Path | str, limit: int | None = None) -> list[int]:
    return [int(image.pixels[0, 0, 2]) for image in open_source(str(spec), limit)]


def test_a_folder_is_sorted_as_people_count(tmp_path: Path) -> None:
    for number in (10, 9, 1, 100):
        write(tmp_path / f"frame{number}.png", number)
    (tmp_path / "notes.txt").write_text("no image")
    assert values(tmp_path) == [1, 9, 10, 100]
    assert values(tmp_path, limit=2) == [1, 9]
    source = open_source(str(tmp_path))
    assert source.length == 4
    assert source.name == tmp_path.name
    assert [image.stamp for image in source] == pytest.approx([i / source.rate for i in range(4)])


def test_colour_stays_colour_grey_stays_grey(tmp_path: Path) -> None:
    write(tmp_path / "1.png")
    cv2.imwrite(str(tmp_path / "2.png"), np.full((64, 80), 77, np.uint8))
    cv2.imwrite(str(tmp_path / "3.png"), np.full((64, 80), 77 * 256, np.uint16))
    cv2.imwrite(str(tmp_path / "4.png"), np.full((64, 80, 4), (3, 2, 1, 9), np.uint8))
    colour, grey, deep, alpha = (image.pixels for image in open_source(str(tmp_path)))
    assert colour.shape == (64, 80, 3)
    assert tuple(colour[0, 0]) == (255, 0, 0)
    assert grey.shape == deep.shape == (64, 80)
    assert int(grey[0, 0]) == int(deep[0, 0]) == 77
    assert tuple(alpha[0, 0]) == (1, 2, 3)


def test_broken_images_are_skipped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "1.png", 1)
    truncate(write(tmp_path / "2.png", 2))
    (tmp_path / "3.jpg").write_bytes(b"")
    (tmp_path / "4.jpg").write_bytes(b"this is no picture")
    write(tmp_path / "5.png", 5)
    source = open_source(str(tmp_path))
    assert [int(image.pixels[0, 0, 2]) for image in source] == [1, 5]
    assert source.skipped == 3
    assert "2.png" in caplog.text
    assert "3.jpg" in caplog.text


def test_no_readable_image_is_an_error(tmp_path: Path) -> None:
    truncate(write(tmp_path / "1.png"))
    truncate(write(tmp_path / "2.png"))
    with pytest.raises(SourceError, match=r"none of the 2 images.*2\.png"):
        list(open_source(str(tmp_path)))


def test_sequence_with_times_and_calibration(tmp_path: Path) -> None:
    for name, value in (("b", 1), ("a", 2), ("c", 3)):
        write(tmp_path / "images" / f"{name}.png", value)
    (tmp_path / "frames.csv").write_text(
        "# index,timestamp_s,image,tx\n0,100.0,images/b.png,nan\n\n"
        "1,100.05,images/a.png,nan\n2,100.1,images/missing.png,nan\n3,100.15,images/c.png,nan\n"
    )
    (tmp_path / "calib.json").write_text('{"width": 80, "fx": 50.0}')
    for spec in (tmp_path, tmp_path / "frames.csv"):
        source = open_source(str(spec))
        frames = list(source)
        assert [int(f.pixels[0, 0, 2]) for f in frames] == [1, 2, 3]
        assert [f.stamp for f in frames] == [100.0, 100.05, 100.15]
        assert source.rate == pytest.approx(20.0)
        assert source.calibration == {"width": 80, "fx": 50.0}
        assert source.skipped == 1
    (tmp_path / "calib.json").write_text('{"rate_hz": 12}')
    assert open_source(str(tmp_path)).rate == 12.0


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ("0,0.0\n", "line 1"),
        ("0,0.0,a.png\n1,soon,b.png\n", "line 2"),
        ("0,nan,a.png\n", "line 1"),
        ("0,1403636579763555584,a.png\n", "line 1"),  # nanoseconds
        ("# nothing\n", "no images"),
        ("\xff\xfe\x00", "cannot read"),
    ],
)
def test_bad_tables(tmp_path: Path, table: str, complaint: str) -> None:
    (tmp_path / "frames.csv").write_bytes(table.encode("latin-1"))
    with pytest.raises(SourceError, match=complaint):
        open_source(str(tmp_path))


def test_bad_calibration(tmp_path: Path) -> None:
    write(tmp_path / "1.png")
    for content in ("{", "[1]", '{"rate_hz": "fast"}', '{"rate_hz": -1}', '{"rate_hz": NaN}'):
        (tmp_path / "calib.json").write_text(content)
        with pytest.raises(SourceError, match=r"calib\.json"):
            open_source(str(tmp_path))


def test_video(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (80, 64))
    for value in range(0, 100, 10):
        writer.write(np.full((64, 80, 3), (value, 0, 200), np.uint8))
    writer.release()
    source = open_source(str(path))
    frames = list(source)
    assert source.length == len(frames) == 10
    assert source.rate == pytest.approx(25.0)
    assert [f.stamp for f in frames] == pytest.approx([i / 25 for i in range(10)], abs=1e-6)
    assert frames[5].pixels[32, 40, 0] == pytest.approx(200, abs=6)  # red first
    assert frames[5].pixels[32, 40, 2] == pytest.approx(50, abs=6)
    assert len(list(open_source(str(path), limit=3))) == 3


@pytest.mark.parametrize("kind", ["folder", "video", "recording", "virtual"])
def test_a_source_may_begin_later(tmp_path: Path, kind: str) -> None:
    pictures = [np.full((64, 80, 3), 20 * value, np.uint8) for value in range(8)]
    spec = kind
    if kind == "folder":
        spec = str(tmp_path)
        for number, picture in enumerate(pictures):
            assert cv2.imwrite(str(tmp_path / f"{number}.png"), picture)
        truncate(tmp_path / "5.png")
    elif kind == "video":
        spec = str(tmp_path / "clip.mp4")
        writer = cv2.VideoWriter(spec, cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (80, 64))
        for picture in pictures:
            writer.write(picture)
        writer.release()
    elif kind == "recording":
        stamps = [1_000_000_000 * (number + 1) for number in range(8)]
        stamps[2:4] = stamps[3], stamps[3] - 500_000_000  # one arrived late
        messages = [
            ("/image", 1_000_000_000 * (number + 1), bags.image(picture, stamp, "rgb8"))
            for number, (picture, stamp) in enumerate(zip(pictures, stamps, strict=True))
        ]
        spec = str(bags.write(tmp_path / "run", messages, StoragePlugin.MCAP))
    whole = list(open_source(spec, 8))
    source = open_source(spec, 7)
    source.first = 3
    later = list(source)
    assert len(later) == 4 - (kind == "folder")
    for one, other in zip(later, whole[3:], strict=False):
        assert (one.stamp, one.nanoseconds) == (other.stamp, other.nanoseconds)
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_a_video_that_breaks_off_is_told_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (160, 128))
    noise = np.random.default_rng(0)
    for _ in range(20):
        writer.write(noise.integers(0, 255, (128, 160, 3), np.uint8))
    writer.release()
    whole = open_source(str(path))
    assert len(list(whole)) == 20
    assert whole.skipped == 0
    assert not caplog.text
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle:-2000] = bytes(len(data) - middle - 2000)  # the table of frames is at the end
    path.write_bytes(data)
    broken = open_source(str(path))
    assert len(list(open_source(str(path), limit=5))) == 5
    frames = len(list(broken))
    assert 5 <= frames < 15
    assert broken.skipped == 20 - frames
    assert f"stopped after {frames} of 20 frames" in caplog.text


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("nowhere", "does not exist"),
        ("camera:x", "number"),
        ("camera:99", "cannot be opened"),
        ("{folder}", r"contains some: .*picture\. Name one"),
        ("{folder}/text.mp4", "not a video"),
        ("{folder}/picture/1.png", "single image"),
    ],
)
def test_bad_sources(tmp_path: Path, spec: str, complaint: str) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    write(tmp_path / "picture" / "1.png")
    with pytest.raises(SourceError, match=complaint):
        open_source(spec.format(folder=tmp_path))


def test_the_limit_must_be_positive() -> None:
    with pytest.raises(SourceError, match="limit"):
        open_source("virtual", limit=0)


def test_read_image_errors(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nowhere\.png"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="directory"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match=r"1\.jpg: .*its end is missing"):
        read_image(truncate(write(tmp_path / "1.jpg")))


def test_default_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOURCE", raising=False)
    monkeypatch.setenv("ALIKED_ROS_DATA", str(tmp_path))
    assert default_source() == "virtual"
    for name in ("another", "tum_fr1_xyz"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "frames.csv").touch()
    assert default_source() == str(tmp_path / "data" / "tum_fr1_xyz")
    monkeypatch.setenv("SOURCE", "camera:0")
    assert default_source() == "camera:0"


def test_real_sequence(shared: Path) -> None:
    source = open_source(str(shared / "data" / "kitti_00_first40"), limit=2)
    frames = list(source)
    assert [f.pixels.shape for f in frames] == [(376, 1241)] * 2
    assert source.calibration is not None
    assert source.rate == 10


def stereo_sequence(folder: Path) -> Path:
    """Three left images, of which the last has no right one and the one before a broken one."""
    for index in range(3):
        write(folder / "image_0" / f"{index}.png", index)
        write(folder / "image_1" / f"{index}.png", 100 + index)
    truncate(folder / "image_1" / "1.png")
    (folder / "image_1" / "2.png").unlink()
    rows = [f"{index},{index / 10},image_0/{index}.png" for index in range(3)]
    (folder / "frames.csv").write_text("\n".join(rows))
    return folder


def test_right_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = stereo_sequence(tmp_path)
    assert all(image.right is None for image in open_source(str(folder)))
    for spec in (folder, folder / "frames.csv", folder / "image_0"):
        frames = list(open_source(str(spec), partner="right"))
        assert [int(frame.pixels[0, 0, 2]) for frame in frames] == [0, 1, 2]
        assert frames[0].right is not None
        assert int(frames[0].right[0, 0, 2]) == 100
        assert [frame.right is None for frame in frames] == [False, True, True]
    assert "2.png comes alone" in caplog.text
    assert len(list(open_source(str(folder), limit=1, partner="right"))) == 1


def depth_sequence(folder: Path) -> Path:
    """Three images, of which the last is not associated and the one before badly."""
    for index in range(3):
        write(folder / "rgb" / f"{index}.png", index)
    depth = np.full((64, 80), 2500, np.uint16)
    depth[0, 0] = 0
    cv2.imwrite(str(write(folder / "depth" / "a.png")), depth)
    write(folder / "depth" / "b.png")  # a colour image
    rows = [f"{index},{index / 10},rgb/{index}.png" for index in range(3)]
    (folder / "frames.csv").write_text("\n".join(rows))
    (folder / "associations.txt").write_text(
        "# stamp image stamp depth\n0.0 rgb/0.png 0.01 depth/a.png\n0.1 rgb/1.png 0.1 depth/b.png\n"
    )
    (folder / "calib.json").write_text('{"depth_scale": 5000}')
    return folder


def test_depth_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = depth_sequence(tmp_path)
    frames = list(open_source(str(folder), partner="depth"))
    assert [int(frame.pixels[0, 0, 2]) for frame in frames] == [0, 1, 2]
    depth = frames[0].depth
    assert depth is not None
    assert depth.dtype == np.float32
    assert np.isnan(depth[0, 0])
    assert (depth.ravel()[1:] == 0.5).all()
    assert [frame.depth is None for frame in frames] == [False, True, True]
    assert "b.png: The depth image is uint8" in caplog.text
    assert "names no depth image" in caplog.text
    assert all(frame.depth is None for frame in open_source(str(folder)))


@pytest.mark.parametrize(
    ("spec", "partner", "complaint"),
    [
        ("virtual", "right", "single images"),
        ("{stereo}/clip.mp4", "depth", "single images"),
        ("{stereo}", "depth", "depth_scale in its calib.json is None"),
        ("{stereo}/image_1", "right", r"0\.png has no counterpart"),
        ("{depth}", "right", r"0\.png has no counterpart in image_1/"),
        ("{unassociated}", "depth", r"associations\.txt"),
        ("{garbled}", "depth", "stamp image stamp depth"),
        ("nowhere", "right", "does not exist"),
    ],
)
def test_sequences_without_the_partner(
    tmp_path: Path, spec: str, partner: Partner, complaint: str
) -> None:
    folders = {"stereo": stereo_sequence(tmp_path / "stereo")}
    folders |= {n: depth_sequence(tmp_path / n) for n in ("depth", "unassociated", "garbled")}
    (folders["stereo"] / "clip.mp4").write_bytes(b"")
    (folders["unassociated"] / "associations.txt").unlink()
    (folders["garbled"] / "associations.txt").write_text("0.0 rgb/0.png depth/a.png")
    with pytest.raises(SourceError, match=complaint):
        open_source(spec.format(**folders), partner=partner)


def test_real_partners(shared: Path) -> None:
    for name, partner in (("kitti_00_first40", "right"), ("tum_fr1_xyz", "depth")):
        frames = list(open_source(str(shared / "data" / name), 3, partner))
        assert len(frames) == 3
        for frame in frames:
            other = frame.right if partner == "right" else frame.depth
            assert other is not None
            assert other.shape == frame.pixels.shape[:2]
