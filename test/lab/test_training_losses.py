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

"""ALIKED's losses: against each other, against their definitions, and their gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="make setup GROUP=test")

import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from aliked_ros.models.registry import weights_path
from aliked_ros.networks import aliked
from aliked_ros.networks.constants import SOFT_ARGMAX_TEMPERATURE
from aliked_ros.training.extraction import Detections, detect
from aliked_ros.training.losses import (
    LossSettings,
    correspond,
    peakiness_loss,
    reliability_loss,
    reprojection_loss,
    sparse_nre_loss,
    total_loss,
)
from aliked_ros.training.warps import DepthWarp, HomographyWarp

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def _units(rows: int, columns: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, columns, dtype=DOUBLE), dim=1)


def _detections(keypoints, descriptors=None, width=40, height=30) -> Detections:
    count = len(keypoints)
    descriptors = _units(count, 8) if descriptors is None else descriptors
    scores = torch.rand(count, dtype=DOUBLE)
    return Detections(
        keypoints, scores, torch.rand(count, dtype=DOUBLE), descriptors, width, height, count
    )


@pytest.mark.parametrize("no_match", [None, 0.2])
def test_sparse_nre_is_the_dense_one_where_every_pixel_is_a_keypoint(no_match):
    height, width = 6, 8
    features = F.normalize(torch.randn(5, height, width, dtype=DOUBLE), dim=0)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([x, y], dim=-1).reshape(-1, 2).to(DOUBLE)
    queries = _units(7, 5)
    warped = torch.stack([torch.randint(0, width, (7,)), torch.randint(0, height, (7,))], dim=1)
    visible = torch.tensor([True, True, False, True, True, False, True])
    sparse = sparse_nre_loss(
        queries, features.reshape(5, -1).T, warped.to(DOUBLE), visible, pixels, 0.5, 0.1, no_match
    )
    logits = queries @ features.reshape(5, -1)  # of every pixel: the dense form, arXiv 2103.07153
    place = warped[:, 1] * width + warped[:, 0]
    if no_match is None:
        logits, place = logits[visible], place[visible]
    else:
        logits = torch.cat([logits, torch.full((7, 1), no_match, dtype=DOUBLE)], dim=1)
        place = torch.where(visible, place, height * width)
    dense = F.cross_entropy(logits / 0.1, place)
    assert sparse.item() == pytest.approx(dense.item(), rel=1e-9)


def test_sparse_nre_is_the_cross_entropy_of_the_right_keypoint():
    descriptors = _units(4, 8)
    queries = descriptors[[2, 0]]
    keypoints = torch.tensor([[0.0, 0.0], [10.0, 0.0], [20.0, 0.0], [30.0, 0.0]], dtype=DOUBLE)
    warped = torch.tensor([[21.0, 1.0], [4.0, 4.0]], dtype=DOUBLE)  # the second is 5.7 px away
    seen = torch.tensor([True, True])
    expected = -torch.log_softmax((queries @ descriptors.T) / 0.1, dim=1)
    loss = sparse_nre_loss(queries, descriptors, warped, seen, keypoints, 5.0, 0.1)
    assert loss.item() == pytest.approx(expected[0, 2].item(), rel=1e-9)
    with_none = sparse_nre_loss(queries, descriptors, warped, seen, keypoints, 5.0, 0.1, -1.0)
    logits = torch.cat([queries @ descriptors.T, torch.full((2, 1), -1.0, dtype=DOUBLE)], dim=1)
    expected = -torch.log_softmax(logits / 0.1, dim=1)
    assert with_none.item() == pytest.approx(
        0.5 * (expected[0, 2] + expected[1, 4]).item(), rel=1e-9
    )
    nobody = sparse_nre_loss(queries, descriptors, warped, ~seen, keypoints, 5.0, 0.1)
    assert nobody.item() == 0.0


def test_gradients_of_every_loss_are_right():
    keypoints_a = (torch.rand(9, 2, dtype=DOUBLE) * 20 + 5).requires_grad_()
    keypoints_b = (keypoints_a.detach() + 0.3 * torch.randn(9, 2, dtype=DOUBLE)).requires_grad_()
    raw_a = torch.randn(9, 8, dtype=DOUBLE, requires_grad=True)
    raw_b = torch.randn(9, 8, dtype=DOUBLE, requires_grad=True)
    scores = torch.rand(9, dtype=DOUBLE, requires_grad=True)
    matrix = torch.tensor([[1.0, 0.01, 0.2], [-0.02, 1.0, 0.1], [1e-4, 0.0, 1.0]], dtype=DOUBLE)
    forth = HomographyWarp(matrix, 40, 30)
    back = HomographyWarp(torch.linalg.inv(matrix), 40, 30)

    def losses(ka, kb, da, db, s):
        a = Detections(ka, s, s * 2, F.normalize(da, dim=1), 40, 30, len(ka))
        b = Detections(kb, s.flip(0), s * 3, F.normalize(db, dim=1), 40, 30, len(kb))
        settings = LossSettings(t_des=0.5, no_match=0.1, reliability=reliability)
        found = total_loss(a, b, forth, back, settings)
        return tuple(found[name] for name in sorted(found) if reliability or name != "reliability")

    inputs = (keypoints_a, keypoints_b, raw_a, raw_b, scores)
    reliability = 1.0
    assert all(loss.item() > 0.0 for loss in losses(*inputs))
    for found in torch.autograd.grad(losses(*inputs)[3], inputs[2:4], allow_unused=True):
        assert found is None  # the reliability takes descriptors as they are
    given = tuple(d.detach() for d in (raw_a, raw_b))
    assert gradcheck(lambda ka, kb, s: losses(ka, kb, *given, s), (*inputs[:2], scores),
                     eps=1e-6, atol=1e-6)  # fmt: skip
    reliability = 0.0
    assert gradcheck(losses, inputs, eps=1e-6, atol=1e-6)


def test_soft_argmax_has_the_analytic_gradient():
    """dp/ds_i = w_i (c_i − p) / t, with w the softmax of the patch."""
    scores = torch.rand(11, 13, dtype=DOUBLE, requires_grad=True)
    x, y = torch.tensor([6]), torch.tensor([5])
    keypoints, _, dispersities = aliked.refine(scores, x, y)
    patch = scores.detach()[3:8, 4:9]
    weight = torch.softmax(patch.flatten() / SOFT_ARGMAX_TEMPERATURE, dim=0)
    rows, columns = torch.meshgrid(torch.arange(3, 8), torch.arange(4, 9), indexing="ij")
    grid = torch.stack([columns.flatten(), rows.flatten()], dim=1).to(DOUBLE)
    position = weight @ grid
    torch.testing.assert_close(keypoints[0].detach(), position)
    spread = weight @ (grid - position).norm(dim=1)
    torch.testing.assert_close(dispersities[0].detach(), spread)
    for axis in (0, 1):
        (gradient,) = torch.autograd.grad(keypoints[0, axis], scores, retain_graph=True)
        expected = weight * (grid[:, axis] - position[axis]) / SOFT_ARGMAX_TEMPERATURE
        # the patch's largest value is subtracted before: it makes no difference
        torch.testing.assert_close(gradient[3:8, 4:9].flatten(), expected)
        assert (gradient[:3] == 0).all()
    assert gradcheck(lambda s: aliked.refine(s, x, y)[::2], (scores,), atol=1e-6)


def test_the_reprojection_loss_pulls_keypoints_together():
    keypoints = torch.rand(6, 2, dtype=DOUBLE) * 10 + torch.arange(6)[:, None] * 3
    moved = (keypoints + torch.tensor([1.0, 0.0])).requires_grad_()
    still = HomographyWarp(torch.eye(3, dtype=DOUBLE), 40, 30)
    a, b = _detections(keypoints), _detections(moved)
    pairs = correspond(a, b, still, still, 2.0)
    assert len(pairs.a) == 6
    loss = reprojection_loss(a, b, pairs)
    assert loss.item() == pytest.approx(1.0, abs=1e-6)
    loss.backward()
    assert (moved.grad[:, 0] > 0.0).all()  # going down it moves them back to the left
    far = correspond(a, b, still, still, 0.5)
    assert len(far.a) == 0
    assert reprojection_loss(a, b, far).item() == 0.0
    assert reliability_loss(a, b, far, 1.0).item() == 0.0


def test_scores_go_where_descriptors_are_alike():
    descriptors = _units(2, 8)
    other = torch.stack(
        [descriptors[0], -descriptors[1]]
    )  # the second pair's have nothing in common
    keypoints = torch.tensor([[5.0, 5.0], [20.0, 20.0]], dtype=DOUBLE)
    scores = torch.tensor([0.5, 0.5], dtype=DOUBLE, requires_grad=True)
    a = Detections(keypoints, scores, scores, descriptors, 40, 30, len(keypoints))
    b = Detections(keypoints, scores.detach(), scores, other, 40, 30, len(keypoints))
    still = HomographyWarp(torch.eye(3, dtype=DOUBLE), 40, 30)
    reliability_loss(a, b, correspond(a, b, still, still, 1.0), 1.0).backward()
    assert scores.grad[0] < 0.0 < scores.grad[1]


def test_sharp_peaks_cost_nothing():
    flat, sharp = torch.zeros(9, 9, dtype=DOUBLE), torch.zeros(9, 9, dtype=DOUBLE)
    flat[2:7, 2:7] = 0.5
    sharp[4, 4] = 5.0
    costs = []
    for score_map in (flat, sharp):
        keypoints, scores, dispersities = aliked.refine(score_map, *torch.tensor([[4], [4]]))
        costs.append(
            peakiness_loss(
                Detections(keypoints, scores, dispersities, _units(1, 8), 9, 9, 1)
            ).item()
        )
    assert costs[1] < 1e-3 < 1.5 < costs[0]


def test_random_points_are_no_peaks_and_an_empty_image_no_error():
    """Random points count for the descriptors alone; B without keypoints has no answers."""
    keypoints = torch.rand(9, 2, dtype=DOUBLE) * 10 + torch.arange(9)[:, None] * 2
    a, b = _detections(keypoints), _detections(keypoints + 0.4)
    still = HomographyWarp(torch.eye(3, dtype=DOUBLE), 40, 30)
    few = [replace(one, detected=5) for one in (a, b)]
    first = [Detections(*(part[:5] for part in (one.keypoints, one.scores, one.dispersities,
                                                one.descriptors)), 40, 30, 5)
             for one in (a, b)]  # fmt: skip
    some, alone, everything = (
        total_loss(*pair, still, still, LossSettings()) for pair in (few, first, (a, b))
    )
    for name in ("reprojection", "peakiness"):
        torch.testing.assert_close(some[name], alone[name])
    assert some["descriptors"] == everything["descriptors"] != alone["descriptors"]
    none = Detections(*(part[:0] for part in (a.keypoints, a.scores, a.dispersities,
                                              a.descriptors)), 40, 30, 0)  # fmt: skip
    for pair in ((a, none), (none, a), (none, none)):
        assert total_loss(*pair, still, still, LossSettings())["total"].isfinite()


def test_in_mixed_precision_deformable_reads_stay_where_they_are(tum_images):
    """With offsets in half precision the deeper levels were off by 7 %."""
    network = aliked.ALIKED.from_checkpoint(weights_path("aliked-n16"))
    image = torch.from_numpy(tum_images(0).copy()).permute(2, 0, 1).float()[None] / 255
    with torch.no_grad():
        exact = network.levels(image)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = network.levels(image)
    for one, other in zip(exact[2:], mixed[2:], strict=True):
        assert (one - other).norm() < 0.02 * one.norm()


def test_the_network_detects_with_gradients_what_it_detects_without(tum_images):
    network = aliked.ALIKED.from_checkpoint(weights_path("aliked-n16"))
    pixels = tum_images(0)[100:356, 100:420]
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 255
    (found,) = detect(network, image[None], 200, random=50, seeds=[3])
    assert len(found) == 250
    with torch.inference_mode():
        padded, window = aliked.pad(image[None])
        levels = network.levels(padded)
        score_map = network.score_map(levels)[0, 0]
        score_map = score_map[window.top : window.top + 256, window.left : window.left + 320]
        keypoints, scores = aliked.detect(score_map, 200, 0.0)
        descriptors = network.describe(levels, keypoints, window)
    torch.testing.assert_close(found.keypoints[:200].detach(), keypoints)
    torch.testing.assert_close(found.scores[:200].detach(), scores)
    torch.testing.assert_close(found.descriptors[:200].detach(), descriptors)
    (again,) = detect(network, image[None], 200, random=50, seeds=[3])
    torch.testing.assert_close(again.keypoints, found.keypoints)
    still = HomographyWarp(torch.eye(3), 320, 256)
    total_loss(found, again, still, still, LossSettings())["total"].backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_a_homography_warp_knows_what_lies_behind_and_outside():
    matrix = torch.tensor([[1.0, 0.0, 5.0], [0.0, 1.0, 0.0], [0.0, -0.05, 1.0]], dtype=DOUBLE)
    points = torch.tensor([[0.0, 0.0], [38.0, 0.0], [0.0, 25.0]], dtype=DOUBLE)
    there, visible = HomographyWarp(matrix, 40, 30)(points)
    torch.testing.assert_close(there[0], torch.tensor([5.0, 0.0], dtype=DOUBLE))
    assert visible.tolist() == [True, False, False]  # outside; behind the camera


def test_a_depth_warp_knows_what_is_hidden():
    """A wall 4 m away and a board 2 m away before its left half; the camera moves sideways."""
    depth = torch.full((30, 40), 4.0, dtype=DOUBLE)
    depth[:, :20] = 2.0
    matrix = torch.tensor([[20.0, 0.0, 20.0], [0.0, 20.0, 15.0], [0.0, 0.0, 1.0]], dtype=DOUBLE)
    shift = torch.tensor([0.4, 0.0, 0.0], dtype=DOUBLE)  # the scene moves right: 4 px, wall 2 px
    moved = torch.full((30, 40), 4.0, dtype=DOUBLE)
    moved[:, :24] = 2.0
    warp = DepthWarp(depth, moved, matrix, matrix, torch.eye(3, dtype=DOUBLE), shift)
    points = torch.tensor([[5.0, 10.0], [20.0, 10.0], [30.0, 10.0], [39.0, 10.0]], dtype=DOUBLE)
    there, visible = warp(points)
    expected = torch.tensor([[9.0, 10.0], [22.0, 10.0], [32.0, 10.0], [41.0, 10.0]], dtype=DOUBLE)
    torch.testing.assert_close(there, expected)
    assert visible.tolist() == [True, False, True, False]  # behind the board; outside
    depth[10, 5] = torch.nan
    assert not warp(points)[1][0]
