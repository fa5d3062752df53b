"""The TensorRT backend on a GPU: parity with the published networks, faults (`make test-gpu`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from aliked_ros.configuration import FrontendConfig
from aliked_ros.errors import BackendError
from aliked_ros.frontend.extractor import Extractor
from aliked_ros.frontend.matcher import LightGlueMatcher
from aliked_ros.frontend.pipeline import Pipeline
from aliked_ros.inference.backend import create_backend
from aliked_ros.inference.cpu import CpuBackend
from aliked_ros.inference.device_backend import DeviceBackend
from aliked_ros.types import Features, Image, UInt8Array

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", params=["float32", "float16"])
def backend(request: pytest.FixtureRequest) -> Iterator[DeviceBackend]:
    config = FrontendConfig(backend="tensorrt", precision=request.param)
    try:
        backend = create_backend(config, print)
    except BackendError as error:
        pytest.skip(f"TensorRT cannot run here: {error}")
    assert isinstance(backend, DeviceBackend)
    yield backend
    backend.close()


def nearest(found: Features, expected: Features) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each expected keypoint to the nearest found one, cosine of the two."""
    distance = np.linalg.norm(expected.keypoints[:, None] - found.keypoints[None], axis=2)
    index = distance.argmin(1)
    return distance.min(1), (expected.descriptors * found.descriptors[index]).sum(1)


def test_features_are_the_published_ones(backend: DeviceBackend, reference) -> None:
    extractor = Extractor(FrontendConfig(), backend)
    for model, image in reference.cases():
        if model != "aliked-n16":
            continue
        expected = reference.features(model, image)
        found = extractor.extract(reference.pixels(image))
        distance, cosine = nearest(found, expected)
        if backend.identity["precision"] == "float32":
            assert (distance < 0.01).mean() >= 0.999
            assert cosine[distance < 0.01].min() >= 0.99999
            assert np.abs(np.sort(found.scores) - np.sort(expected.scores)).max() <= 1e-4
        else:
            assert (distance < 0.5).mean() >= 0.99
            assert np.median(cosine[distance < 0.5]) >= 0.9999


def test_matches_are_those_of_the_cpu(
    backend: DeviceBackend, tum_images: Callable[[int], UInt8Array]
) -> None:
    config = FrontendConfig(depth_confidence=-1.0)
    extractor = Extractor(config, backend)
    features = [extractor.extract(tum_images(i)) for i in (0, 10)]
    matches = LightGlueMatcher(config, backend).match(*features)
    cpu = CpuBackend(FrontendConfig(precision="float32"))
    expected = LightGlueMatcher(config, cpu).match(*features)
    cpu.close()
    pairs, others = (
        set(zip(m.reference_indices.tolist(), m.current_indices.tolist(), strict=True))
        for m in (matches, expected)
    )
    agreement = 0.995 if backend.identity["precision"] == "float32" else 0.97
    assert len(pairs & others) >= agreement * len(others)


def test_tracks_are_those_of_the_cpu(
    backend: DeviceBackend, tum_images: Callable[[int], UInt8Array]
) -> None:
    tracked = {}
    for name in ("tensorrt", "cpu"):
        precision = backend.identity["precision"] if name == "tensorrt" else "float32"
        pipeline = Pipeline(FrontendConfig(backend=name, precision=precision))
        results = [pipeline.process(Image(tum_images(i), float(i))) for i in range(8)]
        tracked[name] = [int((r.tracks.lengths > 1).sum()) for r in results[1:]]
        pipeline.close()
    assert min(tracked["tensorrt"]) >= 0.97 * min(tracked["cpu"])


def test_memory_is_given_back(
    backend: DeviceBackend, tum_images: Callable[[int], UInt8Array]
) -> None:
    cuda = pytest.importorskip("pycuda.driver")
    extractor = Extractor(FrontendConfig(), backend)

    def free() -> int:
        extractor.extract(tum_images(0))
        backend.release()
        with backend.device.current("asking for free memory"):  # type: ignore[attr-defined]
            return int(cuda.mem_get_info()[0])

    first = free()  # the libraries' own memory is taken once
    assert all(free() >= first - (8 << 20) for _ in range(3))


def test_more_memory_than_there_is(backend: DeviceBackend) -> None:
    with pytest.raises(BackendError, match="the GPU's memory is full"):
        backend.device.empty((1 << 50,), np.dtype(np.uint8))
