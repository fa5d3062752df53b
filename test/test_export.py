"""Exported networks: remade when their weights or the code change, and clear without PyTorch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from aliked_ros.cache import cache_dir
from aliked_ros.errors import ModelError
from aliked_ros.models import export
from aliked_ros.models.registry import MODELS


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own that starts with the fetched weights and one exported model."""
    shutil.copytree(cache_dir() / "weights", tmp_path / "weights")
    shutil.copytree(export.ensure_exported("aliked-t16"), tmp_path / "models" / "aliked-t16")
    monkeypatch.setenv("ALIKED_ROS_CACHE", str(tmp_path))
    return tmp_path


def test_onnx_files_carry_their_identity() -> None:
    folder = export.ensure_exported("aliked-n16")
    for file in folder.glob("*.onnx"):
        properties = {p.key: json.loads(p.value) for p in onnx.load(file).metadata_props}
        assert properties["aliked_ros.weights_sha256"] == MODELS["aliked-n16"].sha256
        assert properties["aliked_ros.samples"] == 16
        assert str(Path(export.__file__).parents[1]).encode() not in file.read_bytes()


@pytest.mark.parametrize("change", ["weights_sha256", "format", "damaged"])
def test_stale_export_is_made_anew(own_cache: Path, change: str) -> None:
    manifest = own_cache / "models" / "aliked-t16" / export.MANIFEST
    original = json.loads(manifest.read_text())
    kept = manifest.stat().st_mtime_ns
    export.ensure_exported("aliked-t16")
    assert manifest.stat().st_mtime_ns == kept, "a fresh export was made again"
    if change == "damaged":
        manifest.write_text("{")
    else:
        manifest.write_text(json.dumps({**original, change: "other"}))
        assert not next(m for m in export.exported() if m.name == "aliked-t16").fresh
    export.ensure_exported("aliked-t16")
    assert json.loads(manifest.read_text()) == original


@pytest.mark.long
def test_incomplete_export_is_made_anew(own_cache: Path) -> None:
    def fresh() -> bool:
        return next(m for m in export.exported() if m.name == "aliked-t16").fresh

    folder = own_cache / "models" / "aliked-t16"
    for name in export.read_manifest(folder)["files"]:
        file = folder / name
        content = file.read_bytes()
        os.truncate(file, len(content) // 2)
        assert not fresh(), file
        file.write_bytes(content)
        assert fresh()
    (folder / "offsets.onnx").unlink()
    assert not fresh()
    assert export.ensure_exported("aliked-t16") == folder
    assert (folder / "offsets.onnx").is_file()
    assert fresh()


def test_damaged_arrays_and_manifests_are_named_with_the_remedy(own_cache: Path) -> None:
    folder = own_cache / "models" / "aliked-t16"
    arrays = folder / "score_tail.npz"
    assert len(export.load_arrays(arrays, "arr_0")) > 1
    with pytest.raises(ModelError, match=r"score_tail\.npz"):
        export.load_arrays(arrays, "angles")
    content = bytearray(arrays.read_bytes())
    content[len(content) // 2] ^= 0xFF
    for damaged in (b"", b"no archive", arrays.read_bytes()[:1000], bytes(content)):
        arrays.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"score_tail\.npz .*models export aliked-t16 --force"):
            export.load_arrays(arrays)
    assert export.read_manifest(folder, "dim", "kernel")["dim"] == 64
    with pytest.raises(ModelError, match=r"manifest\.json .*models export aliked-t16 --force"):
        export.read_manifest(folder, "layers")


@pytest.mark.long
def test_two_processes_export_once(own_cache: Path) -> None:
    shutil.rmtree(own_cache / "models" / "aliked-t16")
    command = [sys.executable, "-m", "aliked_ros.models.export", "aliked-t16"]
    environment = {**os.environ, "ALIKED_ROS_CACHE": str(own_cache)}
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum("descriptor head" in text for text in said) == 1, said
    assert sorted(f.name for f in (own_cache / "models").iterdir()) == [".lock", "aliked-t16"]


def test_an_exporter_that_fails_is_told_in_one_line(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = export.read_manifest(own_cache / "models" / "aliked-t16")
    monkeypatch.setattr(export, "_LARGEST_SIDE", 64)  # less than the example image
    with pytest.raises(ModelError, match=r"exporter failed on aliked-t16: .*export\.txt") as raised:
        export.export("aliked-t16")
    assert raised.value.__cause__ is not None
    assert export.read_manifest(own_cache / "models" / "aliked-t16") == kept


def test_run_time_needs_no_torch(own_cache: Path) -> None:
    """With exported networks nothing imports PyTorch; without them the error says what to do."""
    program = """
import sys
sys.modules["torch"] = None  # an import of it now fails
import numpy as np
from aliked_ros.configuration import FrontendConfig
from aliked_ros.frontend.extractor import create_extractor
extractor = create_extractor(FrontendConfig(model=sys.argv[1], matcher="nearest"))
print(len(extractor.extract(np.random.default_rng(0).integers(0, 255, (96, 96), np.uint8))))
"""
    run = [sys.executable, "-c", program]
    environment = {**os.environ, "ALIKED_ROS_CACHE": str(own_cache)}
    good = subprocess.run([*run, "aliked-t16"], env=environment, capture_output=True, text=True)
    assert good.returncode == 0, good.stderr
    assert int(good.stdout) > 10
    bad = subprocess.run([*run, "aliked-n16"], env=environment, capture_output=True, text=True)
    assert bad.returncode != 0
    assert "ModelError" in bad.stderr
    assert "requirements/export.txt" in bad.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders")
def test_read_only_cache(own_cache: Path) -> None:
    models = own_cache / "models"
    models.chmod(0o500)
    try:
        with pytest.raises(ModelError, match="ALIKED_ROS_CACHE"):
            export.export("aliked-t16")
    finally:
        models.chmod(0o700)


def test_cache_that_is_a_file(own_cache: Path) -> None:
    shutil.rmtree(own_cache / "models")
    (own_cache / "models").write_text("")
    with pytest.raises(ModelError, match="ALIKED_ROS_CACHE"):
        export.export("aliked-t16")
