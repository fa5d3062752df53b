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

"""Draws the pictures of docs/how_it_works.md: python docs/draw_how_it_works.py.

All are of the virtual camera's images, whose geometry is known. Prints the figures of the page.
Needs PyTorch, for the positions inside the descriptor head.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice

import cv2
import numpy as np
import torch
from draw_images import CAMERA, CONFIG, save
from numpy.typing import NDArray

from aliked_ros.backends.create import create_backend
from aliked_ros.frontend.extractor import Extractor
from aliked_ros.frontend.matcher import LightGlueMatcher, NearestMatcher
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.io.drawing import LENGTH_COLOURS, LONG_TRACK, length_bins
from aliked_ros.models.registry import weights_path
from aliked_ros.networks.aliked import ALIKED, pad
from aliked_ros.types import Features, Float32Array, Matches, UInt8Array

PANEL = (480, 360)  # width and height of one of two panels
CLOSE = 150  # pixels of the image along the wider side of the close-up
RIGHT, WRONG = (80, 220, 90), (255, 70, 60)  # of matches
TOLERANCE = 3.0  # pixels from the true place
DARK = range(45, 50)  # images that show nothing


@dataclass(frozen=True, slots=True)
class Inside:
    """What ALIKED computes on its way: score map H×W, keypoints N×2, samples N×M×2 (pixels)."""

    scores: Float32Array
    keypoints: Float32Array
    samples: Float32Array


@torch.inference_mode()
def look_inside(pixels: UInt8Array, count: int) -> Inside:
    """Run the network in PyTorch and keep what the descriptor head's offsets were."""
    network = ALIKED.from_checkpoint(weights_path(CONFIG.model))
    offsets: list[torch.Tensor] = []
    compute = network.desc_head.offsets

    def remember(patches: torch.Tensor) -> torch.Tensor:
        offsets.append(compute(patches))
        return offsets[-1]

    network.desc_head.offsets = remember
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    padded, window = pad(image)
    levels = network.levels(padded)
    scores = window.of(network.score_map(network.score_parts(levels)))[0, 0]
    given = (scores, torch.ones_like(scores), torch.zeros(1), count)
    keypoints, _, _ = network.detect(*given)
    network.describe(levels, keypoints, window)
    (raw,) = offsets
    samples = keypoints[:, None] + raw.reshape(count, 2, -1).transpose(1, 2)
    return Inside(scores.numpy(), keypoints.numpy(), samples.numpy())


def backdrop(pixels: UInt8Array, brightness: float = 0.7) -> UInt8Array:
    """The image grey and darker, so that colours mean something."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) * brightness
    return np.asarray(cv2.cvtColor(grey.astype(np.uint8), cv2.COLOR_GRAY2RGB))


def enlarge(
    pixels: UInt8Array, corner: NDArray[np.float64], size: tuple[int, int], factor: float
) -> UInt8Array:
    """A window of ``size``, its corner at these pixels of the image, enlarged."""
    shift = np.array([[factor, 0, 0], [0, factor, 0]], float)
    shift[:, 2] = (factor - 1) / 2 - factor * corner
    return np.asarray(cv2.warpAffine(pixels, shift, size, flags=cv2.INTER_LINEAR))


def dot(picture: UInt8Array, at: Float32Array, radius: float, colour: tuple[int, int, int]) -> None:
    """A disc at a fraction of a pixel."""
    x, y = np.round(np.asarray(at) * 16).astype(int).tolist()
    cv2.circle(picture, (x, y), round(radius * 16), colour, -1, cv2.LINE_AA, 4)


def caption(picture: UInt8Array, text: str) -> None:
    """A line of text at the lower left, on a dark ground."""
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1)
    top = len(picture) - height - 12
    picture[top:, : width + 14] //= 4
    cv2.putText(picture, text, (7, len(picture) - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.42,
                (255, 255, 255), 1, cv2.LINE_AA)  # fmt: skip


def score_map(pixels: UInt8Array, inside: Inside) -> None:
    """The score map, and the keypoints found in it."""
    levels = np.sqrt(inside.scores / inside.scores.max()) * 255
    coloured = cv2.applyColorMap(levels.astype(np.uint8), cv2.COLORMAP_INFERNO)
    left = cv2.resize(
        cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB), PANEL, interpolation=cv2.INTER_AREA
    )
    right = cv2.resize(backdrop(pixels), PANEL, interpolation=cv2.INTER_AREA)
    scale = PANEL[0] / pixels.shape[1]
    for point in inside.keypoints:
        dot(right, (point + 0.5) * scale - 0.5, 1.7, (255, 200, 60))
    caption(left, "score map (square root)")
    caption(right, f"its {len(inside.keypoints)} highest maxima")
    save("how_scores.png", np.hstack([left, right]))


def samples(pixels: UInt8Array, inside: Inside) -> None:
    """Where the descriptor head reads: of all keypoints, and of a few from near."""
    scale = PANEL[0] / pixels.shape[1]
    left = cv2.resize(backdrop(pixels), PANEL, interpolation=cv2.INTER_AREA)
    for place in inside.samples.reshape(-1, 2):
        dot(left, (place + 0.5) * scale - 0.5, 0.8, (60, 190, 255))
    for point in inside.keypoints:
        dot(left, (point + 0.5) * scale - 0.5, 1.7, (255, 200, 60))
    close = np.array([CLOSE, CLOSE * PANEL[1] / PANEL[0]])
    corner, chosen = best_window(inside, close)
    factor = PANEL[0] / CLOSE
    right = enlarge(backdrop(pixels, 1.0), corner, PANEL, factor)
    for number, row in enumerate(chosen):
        colour = LENGTH_COLOURS[(4 + 7 * number) % len(LENGTH_COLOURS)]
        at = (inside.keypoints[row] - corner + 0.5) * factor - 0.5
        places = (inside.samples[row] - corner + 0.5) * factor - 0.5
        for place in places:
            ends = np.round(np.stack([at, place]) * 16).astype(int).tolist()
            cv2.line(right, ends[0], ends[1], colour, 1, cv2.LINE_AA, 4)
        for place in places:
            dot(right, place, 3.5, colour)
        patch = (np.floor(inside.keypoints[row]) - corner + np.array([[-1, -1], [2, 2]])) * factor
        first, second = np.round(patch).astype(int).tolist()
        cv2.rectangle(right, first, second, (255, 255, 255), 1)
        dot(right, at, 5.0, (255, 255, 255))
        dot(right, at, 3.0, (0, 0, 0))
    corners = (np.stack([corner, corner + close]) * scale).round().astype(int).tolist()
    cv2.rectangle(left, corners[0], corners[1], (255, 255, 255), 1)
    caption(left, f"{len(inside.keypoints)} keypoints, {inside.samples.shape[1]} samples each")
    caption(right, f"{len(chosen)} of them: 3x3 patch, samples")
    save("how_samples.png", np.hstack([left, right]))


def best_window(inside: Inside, size: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[int]]:
    """Corner of the window with the most keypoints that are well apart, and their rows."""
    best: tuple[NDArray[np.float64], list[int]] = (np.zeros(2), [])
    height, width = inside.scores.shape
    for point in inside.keypoints[:60]:
        corner = np.clip(np.round(point - size / 2), 0, np.array([width, height]) - size)
        chosen: list[int] = []
        for row, at in enumerate(inside.keypoints):
            whole = inside.samples[row]
            if (whole < corner).any() or (whole > corner + size - 1).any():
                continue
            others = inside.keypoints[chosen]
            if len(chosen) < 5 and (np.linalg.norm(others - at, axis=1) > 24).all():
                chosen.append(row)
        if len(chosen) > len(best[1]):
            best = corner, chosen
    return best


def matches() -> None:
    """The same features matched in two ways; what is right is known exactly."""
    config = replace(CONFIG, max_keypoints=300, min_similarity=0.0)
    backend = create_backend(config)
    extractor = Extractor(config, backend)
    first, second = 0, 120
    images = [CAMERA.render(number).pixels for number in (first, second)]
    features = [extractor.extract(pixels) for pixels in images]
    panels = []
    for name, matcher in (
        ("mutual nearest neighbours", NearestMatcher(config)),
        ("LightGlue", LightGlueMatcher(config, backend)),
    ):
        found = matcher.match(*features)
        good = are_right(features, found, CAMERA.homography_between(first, second))
        text = f"{name}: {len(found)} matches, {100 * good.mean():.0f} % right"
        print(text)
        panels.append(pair_of(images, features, found, good, text))
    backend.close()
    save("how_matches.png", np.hstack(panels))


def are_right(
    features: list[Features], found: Matches, homography: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which matches lie within TOLERANCE of the truth."""
    before = features[0].keypoints[found.reference_indices].astype(np.float64)
    now = features[1].keypoints[found.current_indices]
    true = cv2.perspectiveTransform(before[:, None], homography)[:, 0]
    return np.asarray(np.linalg.norm(now - true, axis=1) < TOLERANCE)


def pair_of(
    images: list[UInt8Array],
    features: list[Features],
    found: Matches,
    good: NDArray[np.bool_],
    text: str,
) -> UInt8Array:
    """Two images, one above the other, matches as lines, the wrong ones on top."""
    size = (PANEL[0], PANEL[1] * 3 // 4)
    picture = np.vstack([cv2.resize(backdrop(p, 0.55), size, interpolation=cv2.INTER_AREA)
                         for p in images])  # fmt: skip
    scale = np.array(size) / (features[0].width, features[0].height)
    starts = (features[0].keypoints[found.reference_indices] + 0.5) * scale - 0.5
    ends = (features[1].keypoints[found.current_indices] + 0.5) * scale - 0.5 + [0, size[1]]
    for rows, colour in ((np.flatnonzero(good), RIGHT), (np.flatnonzero(~good), WRONG)):
        for start, end in zip(starts[rows], ends[rows], strict=True):
            (x0, y0), (x1, y1) = np.round(np.stack([start, end]) * 16).astype(int).tolist()
            cv2.line(picture, (x0, y0), (x1, y1), colour, 1, cv2.LINE_AA, 4)
    caption(picture, text)
    return np.asarray(picture)


def tracks() -> None:
    """The life of each track; five images are black, and tracks come back after them."""
    pipeline = Pipeline(replace(CONFIG, max_keypoints=250))
    seen: dict[int, dict[int, int]] = {}
    alive: list[set[int]] = []
    for index, image in enumerate(islice(CAMERA, 90)):
        pixels = np.zeros_like(image.pixels) if index in DARK else image.pixels
        result = pipeline.process(replace(image, pixels=pixels))
        alive.append(set(result.tracks.ids[result.tracks.lengths > 1].tolist()))
        for track, length in zip(
            result.tracks.ids.tolist(), result.tracks.lengths.tolist(), strict=True
        ):
            seen.setdefault(track, {})[index] = length
    pipeline.close()
    before, after = alive[DARK.start - 1], alive[DARK.stop]
    print(f"alive before the dark: {len(before)}; of them back: {len(before & after)}")
    lasting = [life for life in seen.values() if len(life) >= 5]  # in order of their ids
    table = np.full((len(lasting), len(alive), 3), 30, np.uint8)
    for row, life in enumerate(lasting):
        columns = np.array(list(life))
        bins = length_bins(np.array(list(life.values()), np.uint32))
        table[row, columns] = np.array(LENGTH_COLOURS, np.uint8)[bins]
    picture = cv2.resize(table, (960, len(lasting)), interpolation=cv2.INTER_NEAREST)
    caption(picture, f"{len(lasting)} tracks; images from left to right, 5 of them black; "
                     f"blue = new, red = {LONG_TRACK} images and more")  # fmt: skip
    save("how_tracks.png", picture)


if __name__ == "__main__":
    shown = CAMERA.render(0).pixels
    found_inside = look_inside(shown, 300)
    reach = np.linalg.norm(found_inside.samples - found_inside.keypoints[:, None], axis=-1)
    median, most = np.quantile(reach, [0.5, 0.99])
    print(f"distance of the samples: median {median:.1f} pixels, 99 % within {most:.1f}")
    score_map(shown, found_inside)
    samples(shown, found_inside)
    matches()
    tracks()
